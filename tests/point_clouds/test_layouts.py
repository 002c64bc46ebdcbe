"""Layouts of known data sets, made by hand here: frames, splits, poses, velocities."""

import json
import math

import numpy as np
import pytest
from command import call
from point_clouds.conftest import copy_sweep

from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.point_clouds.frames import Frame, PointConfig, SweepFile, load_points, to_objects, write_frame
from pentad.point_clouds.labels import moved, yaw_quaternion
from pentad.point_clouds.layouts import find_frames


def write_tables(root, **changes):
    """Two key frames of one scene, a second apart, and a sweep between: a car drives past a parked vehicle."""
    turned = [math.cos(-math.pi / 4), 0, 0, math.sin(-math.pi / 4)]  # the LiDAR looks to the vehicle's right
    tables = {
        "sample": [{"token": f"s{k}", "timestamp": k * 10**6, "scene_token": "scene"} for k in (0, 1)],
        "sample_data": [
            {
                "token": f"d{k}",
                "sample_token": f"s{k // 2}",
                "ego_pose_token": f"p{k}",
                "calibrated_sensor_token": "c",
                "timestamp": k * 500000,
                "filename": f"samples/LIDAR_TOP/{k}.pcd.bin",
                "is_key_frame": k != 1,
                "prev": f"d{k - 1}" if k else "",
            }
            for k in (0, 1, 2)
        ],
        "calibrated_sensor": [{"token": "c", "translation": [1, 0, 1.8], "rotation": turned}],
        "ego_pose": [
            {"token": f"p{k}", "translation": [100 + 2 * k, 50, 0], "rotation": yaw_quaternion(0)} for k in (0, 1, 2)
        ],
        "sample_annotation": [
            {
                "token": f"a{k}",
                "sample_token": f"s{k}",
                "instance_token": "i",
                "translation": [110 + 6 * k, 53, 1],
                "size": [1.9, 4.5, 1.6],
                "rotation": yaw_quaternion(0.1),
                "prev": "a0" if k else "",
                "next": "" if k else "a1",
                "num_lidar_pts": 12,
                "attribute_tokens": ["m"],
            }
            for k in (0, 1)
        ],
        "instance": [{"token": "i", "category_token": "k"}],
        "category": [{"token": "k", "name": "vehicle.car"}],
        "attribute": [{"token": "m", "name": "vehicle.moving"}],
    }
    (root / "v1.0-mini").mkdir(parents=True)
    for name, rows in (tables | changes).items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))


def test_tables_of_nuscenes_become_frames_with_poses_and_velocities(tmp_path):
    write_tables(tmp_path)
    first, second = (found.read() for found in find_frames(tmp_path))
    assert (first.id, first.group, len(first.sweeps), len(second.sweeps)) == ("s0", "scene", 1, 3)
    objects = to_objects(second)
    assert objects.classes == ("car",)
    assert objects.attributes == ("vehicle.moving",)
    assert objects.boxes[0] == pytest.approx([12, 3, 1, 4.5, 1.9, 1.6, 0.1, 6, 0])
    assert [sweep.time for sweep in second.sweeps] == [0, -0.5, -1]
    # What lay ahead of the sensor (its y) two sweeps ago lay ahead of the vehicle, four metres further back.
    place = moved(np.array([[0.0, 5, 0]]), np.array(second.sweeps[2].pose))[0]
    assert place == pytest.approx([1 + 5 - 4, 0, 1.8])


def test_broken_tables_of_nuscenes_are_named(tmp_path):
    write_tables(tmp_path / "a", ego_pose=[])
    with pytest.raises(CaseError, match=r"PTD-934 s0: the tables have no record 'p0'"):
        find_frames(tmp_path / "a")[0].read()
    write_tables(tmp_path / "b")
    (tmp_path / "b" / "v1.0-mini" / "sample.json").write_text("[")
    with pytest.raises(UsageError, match=r"PTD-919 .*sample\.json: no readable table"):
        find_frames(tmp_path / "b")


def test_a_log_of_argoverse_without_poses_is_refused(tmp_path):
    (tmp_path / "log" / "sensors" / "lidar").mkdir(parents=True)
    (tmp_path / "log" / "sensors" / "lidar" / "17.feather").write_bytes(b"")
    with pytest.raises(CaseError, match=r"PTD-918 city_SE3_egovehicle\.feather"):
        find_frames(tmp_path)[0].read()


def test_kittis_lists_give_the_split_and_testing_frames_have_no_labels(tmp_path, streets):
    for part, name in (("training", "000000"), ("training", "000001"), ("testing", "000000")):
        copy_sweep(streets, tmp_path / part / "velodyne", f"{name}.bin")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("000001\n")
    (tmp_path / "ImageSets" / "val.txt").write_text("000000\n")
    frames = [found.read() for found in find_frames(tmp_path)]
    assert [(frame.id, frame.split, frame.boxes) for frame in frames] == [
        ("000000", "val", None),
        ("000001", "train", None),
    ]
    assert [found.id for found in find_frames(tmp_path, labelled=False)] == ["000000", "000001", "testing_000000"]


def test_any_folder_of_clouds_is_taken_for_prediction_alone(tmp_path, streets):
    copy_sweep(streets, tmp_path / "a b", "ö.bin")
    copy_sweep(streets, tmp_path, "x.pcd.bin")
    found = find_frames(tmp_path, labelled=False)
    assert sorted(frame.id for frame in found) == ["a_b_", "x"]
    assert isinstance(found[0].read(), Frame)
    with pytest.raises(NoInputError, match=r"PTD-917 .*no labelled frames"):
        find_frames(tmp_path)


def test_names_in_data_sets_lead_nowhere_and_stand_once(tmp_path, streets):
    """Names of files, tokens of tables and ids in frames, in each layout that has them."""
    copy_sweep(streets, tmp_path / "kitti" / "training" / "velodyne", "a b.bin")
    copy_sweep(streets, tmp_path / "kitti" / "training" / "velodyne", "a_b.bin")
    outside = "../../outside"
    write_tables(tmp_path / "nuscenes")
    for table in (tmp_path / "nuscenes").glob("*/*.json"):
        table.write_text(table.read_text().replace('"s0"', f'"{outside}"'))
    (tmp_path / "argoverse" / "a <b>" / "sensors" / "lidar").mkdir(parents=True)
    (tmp_path / "argoverse" / "a <b>" / "sensors" / "lidar" / "17.feather").write_bytes(b"")
    (tmp_path / "alone").mkdir()
    own = Frame(id=outside, sweeps=(SweepFile(file="x.bin"),))
    write_frame(tmp_path / "alone" / "my frame.json", own)
    names = {
        place: [frame.id for frame in find_frames(tmp_path / place)]
        for place in ("kitti", "nuscenes", "argoverse", "alone/my frame.json")
    }
    assert names == {
        "kitti": ["a_b", "a_b-2"],
        "nuscenes": ["outside", "s1"],
        "argoverse": ["a_b__17"],
        "alone/my frame.json": ["my_frame"],
    }


def write_poses(folder, poses):
    lines = [" ".join(f"{value:.9g}" for value in pose[:3].ravel()) for pose in poses]
    (folder / "poses.txt").write_text("\n".join(lines) + "\n")


def test_a_pose_file_merges_earlier_clouds_of_a_plain_folder_where_they_stood(tmp_path):
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 10, 12, 15  # along x
    poses[1, :2, :2] = [[0, -1], [1, 0]]  # and turned to the left in between
    post = np.array([20.0, 3, 1, 1])  # one thing that stays where it is
    for number, pose in enumerate(poses):
        seen = np.linalg.inv(pose) @ post
        np.array([[*seen[:3], 0.5]], dtype="<f4").tofile(tmp_path / f"{number}.bin")
    write_poses(tmp_path, poses)
    last = find_frames(tmp_path, labelled=False)[2].read()
    assert [sweep.file[-5:] for sweep in last.sweeps] == ["2.bin", "1.bin", "0.bin"]
    assert np.allclose(last.global_pose, poses[2])
    points, _ = load_points(last, PointConfig(sweeps=3), (-50, -50, -5, 50, 50, 5))
    assert np.allclose(points[:, :3], [5, 3, 1], atol=1e-5)
    assert points[:, 4].tolist() == [0, -1, -2]


@pytest.mark.parametrize(
    ("text", "code"),
    [("1 0 0 0 0 1 0 0 0 0 1 0", "PTD-936"), ("a pose\n" * 2, "PTD-936"), ("2 0 0 0 0 1 0 0 0 0 1 0\n" * 2, "PTD-913")],
)
def test_poses_that_do_not_fit_the_clouds_are_named(tmp_path, streets, text, code):
    for name in ("a.bin", "b.bin"):
        copy_sweep(streets, tmp_path, name)
    (tmp_path / "poses.txt").write_text(text)
    with pytest.raises(CaseError, match=rf"{code} .*poses.txt"):
        find_frames(tmp_path, labelled=False)[0].read()


def test_classes_are_taken_by_their_names_and_others_left_out(tmp_path, streets, params):
    result = call(
        "point-clouds", "prepare", streets, "-o", tmp_path / "p", "--params", params, "--set",
        "classes={walker: [pedestrian]}",
    )  # fmt: skip
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (tmp_path / "p" / "cases.jsonl").read_text().splitlines()]
    assert all(set(line["target"]["objects"]) == {"walker"} for line in lines)
    frame = json.loads((tmp_path / "p" / "frames" / "street-001.json").read_text())
    assert {box["class"] for box in frame["boxes"]} == {"walker"}
