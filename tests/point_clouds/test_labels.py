"""Boxes between frames and formats: there and back again is where they were."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pentad.core.errors import CaseError
from pentad.point_clouds.frames import Frame, SweepFile, make_objects, read_frame, to_boxes, to_objects, write_frame
from pentad.point_clouds.labels import (
    NOMINAL,
    Calibration,
    box_corners,
    format_kitti,
    kitti_to_objects,
    nuscenes_to_objects,
    objects_to_kitti,
    objects_to_nuscenes,
    pose_of,
    read_argoverse,
    read_calibration,
    read_kitti,
    rotation_of,
    transformed,
    yaw_of,
    yaw_quaternion,
)

METRES = st.floats(-60, 60)
SIDES = st.floats(0.2, 12)
BOXES = st.lists(
    st.tuples(METRES, METRES, st.floats(-3, 3), SIDES, SIDES, SIDES, st.floats(-3.14, 3.14), METRES, METRES), max_size=4
)
ANGLES = st.floats(-3.1, 3.1)


def argoverse_table(objects, timestamp):
    """Return objects as columns of Argoverse 2's annotations."""
    quaternions = [yaw_quaternion(float(yaw)) for yaw in objects.boxes[:, 6]]
    columns = {"timestamp_ns": [timestamp] * len(objects)}
    columns["category"] = [kind.upper() for kind in objects.classes]
    for place, side in enumerate(("length", "width", "height")):
        columns[f"{side}_m"] = objects.boxes[:, 3 + place].tolist()
    for place, axis in enumerate("wxyz"):
        columns[f"q{axis}"] = [quaternion[place] for quaternion in quaternions]
    for place, axis in enumerate("xyz"):
        columns[f"t{axis}_m"] = objects.boxes[:, place].tolist()
    columns["num_interior_pts"] = objects.points.tolist()
    columns["score"] = objects.scores.tolist()
    return columns


def objects(rows):
    return make_objects(np.array(rows, dtype=float).reshape(-1, 9), ("car",) * len(rows))


def same(first, second, columns=9):
    a, b = first.boxes[:, :columns].copy(), second.boxes[:, :columns].copy()
    gap = (a[:, 6] - b[:, 6] + math.pi) % (2 * math.pi) - math.pi
    a[:, 6], b[:, 6] = gap, 0
    return np.allclose(a, b, atol=1e-6) and first.classes == second.classes


@settings(deadline=None, max_examples=40)
@given(BOXES, ANGLES)
def test_kitti_and_back(rows, tilt):
    tilted = pose_of((0.3, -0.1, 0.2), (math.cos(tilt / 60), math.sin(tilt / 60), 0, 0))
    calibration = Calibration(NOMINAL.to_camera @ tilted)
    again = kitti_to_objects(objects_to_kitti(objects(rows), calibration), calibration)
    assert same(objects(rows), again, 7) or len(rows) == 0


@settings(deadline=None, max_examples=40)
@given(BOXES, ANGLES, METRES)
def test_nuscenes_and_back_through_the_global_frame(rows, yaw, x):
    pose = pose_of((x, 3.0, 0.5), yaw_quaternion(yaw))
    results = objects_to_nuscenes(objects(rows), "token", pose)
    assert same(objects(rows), nuscenes_to_objects(results, pose))


@settings(deadline=None, max_examples=40)
@given(BOXES, ANGLES, METRES)
def test_a_pose_and_its_inverse_leave_boxes_where_they_were(rows, yaw, x):
    pose = pose_of((x, -7.0, 1.0), yaw_quaternion(yaw))
    assert same(objects(rows), transformed(transformed(objects(rows), pose), np.linalg.inv(pose)))


@settings(deadline=None, max_examples=40)
@given(ANGLES)
def test_a_quaternion_of_a_yaw_turns_by_it(yaw):
    assert yaw_of(rotation_of(yaw_quaternion(yaw))) == pytest.approx(yaw)


def test_argoverse_and_back(tmp_path):
    import pyarrow
    from pyarrow import feather

    rows = [(1, 2, 0.5, 4, 2, 1.5, 0.3, 0, 0), (-9, 4, 0, 1, 0.6, 1.7, -3, 0, 0)]
    table = argoverse_table(objects(rows), 17) | {"num_interior_pts": [5, 6]}
    feather.write_feather(pyarrow.table(table), tmp_path / "annotations.feather")
    again = read_argoverse(tmp_path / "annotations.feather", 17)
    assert same(objects(rows), again, 7)
    assert again.points.tolist() == [5, 6]
    assert len(read_argoverse(tmp_path / "annotations.feather", 18)) == 0


def test_our_own_schema_and_back(tmp_path):
    made = objects([(1, 2, 0.5, 4, 2, 1.5, 0.3, 1, math.nan), (-9, 4, 0, 1, 0.6, 1.7, -3, 2, 3)])
    frame = Frame(id="a", sweeps=(SweepFile(file="a.bin"),), boxes=to_boxes(made))
    write_frame(tmp_path / "a.json", frame)
    again = read_frame(tmp_path / "a.json")
    assert to_objects(again).boxes[1].tolist() == made.boxes[1].tolist()
    assert np.isnan(to_objects(again).boxes[0, 7:]).all()
    assert again.path(0) == tmp_path / "a.bin"


def test_a_car_ahead_that_drives_away_looks_so_in_the_camera():
    row = objects_to_kitti(objects([(20, 5, -1, 4, 2, 1.5, 0, 0, 0)]), NOMINAL)[0]
    assert row.bottom == pytest.approx((-5, 1.75, 20))  # left of the axis, below it, ahead
    assert row.rotation_y == pytest.approx(-math.pi / 2)
    assert row.size == (1.5, 2, 4)
    assert row.alpha == pytest.approx(-math.pi / 2 + math.atan2(5, 20))


def test_corners_lie_half_a_side_from_the_centre():
    corners = box_corners(np.array([1.0, 2, 3, 4, 2, 1, math.pi / 2]))
    assert corners.max(axis=0) == pytest.approx([2, 4, 3.5])
    assert corners.min(axis=0) == pytest.approx([0, 0, 2.5])


def test_a_result_is_cut_at_the_image_and_left_out_behind_the_camera(tmp_path):
    projection = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
    seen = objects_to_kitti(
        objects([(10, 0, -1, 4, 2, 1.5, 0, 0, 0), (10, 9, -1, 4, 2, 1.5, 0, 0, 0), (-10, 0, -1, 4, 2, 1.5, 0, 0, 0)]),
        Calibration(NOMINAL.to_camera, projection),
        (1242, 375),
    )
    assert len(seen) == 2
    assert seen[1].image[0] == 0
    (tmp_path / "a.txt").write_text(format_kitti(seen, scores=True))
    again = read_kitti(tmp_path / "a.txt")
    assert [row.kind for row in again] == ["Car", "Car"]
    assert again[0].bottom == pytest.approx(seen[0].bottom, abs=1e-4)


LINE = "Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 {}\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (LINE.format("-90"), "PTD-912 a.txt, line 1: .*degrees"),
        ("Car 1 2\n", "PTD-915"),
        ("Car " + "x " * 14, "PTD-915"),
    ],
)
def test_a_wrong_label_is_refused_by_name(tmp_path, text, code):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(CaseError, match=code):
        read_kitti(tmp_path / "a.txt")


def test_labels_without_calibration_are_refused(tmp_path):
    with pytest.raises(CaseError, match=r"PTD-914 000000\.txt: there are labels but no calibration"):
        read_calibration(tmp_path / "000000.txt")
    (tmp_path / "000000.txt").write_text("P2: 1 2 3\n")
    with pytest.raises(CaseError, match="PTD-914"):
        read_calibration(tmp_path / "000000.txt")


FRAME = '{{"format": "{}", "id": "a", "sweeps": [{{"file": "a.bin", "pose": {}}}], "boxes": [{{"class": "car", \
"center": [1, 2, 3], "size": [{}, 2, 1.5], "yaw": {}}}]}}'
IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (("pentad.frame/1", IDENTITY, 4, 90), "PTD-912 a.json: a yaw of 90 .* looks like degrees"),
        (("pentad.frame/1", IDENTITY, 0, 1), "PTD-911 a.json: box 0"),
        (("pentad.frame/9", IDENTITY, 4, 1), "PTD-910"),
        (("pentad.frame/1", [[1, 2], [3, 4]], 4, 1), "PTD-913 a.json, sweep 0"),
        (("pentad.frame/1", [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], 4, 1), "PTD-913"),
        (("pentad.frame/1", IDENTITY, '"wide"', 1), "PTD-910 a.json: no frame: boxes.0.size"),
    ],
)
def test_a_frame_that_makes_no_sense_is_refused(tmp_path, fields, code):
    (tmp_path / "a.json").write_text(FRAME.format(*fields))
    with pytest.raises(CaseError, match=code):
        read_frame(tmp_path / "a.json")
