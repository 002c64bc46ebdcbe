"""Real sweeps of KITTI, nuScenes, Argoverse 2 and others: read, placed, checked and scored."""

import json

import numpy as np
import pytest
import torch
from command import call

from pentad.point_clouds import metrics_kitti
from pentad.point_clouds.boxes import iou_3d, points_in_boxes
from pentad.point_clouds.check import look
from pentad.point_clouds.evaluate import EvaluateConfig, score_frame, summarise
from pentad.point_clouds.labels import KittiRow, kitti_to_objects, objects_to_kitti, read_calibration, read_kitti
from pentad.point_clouds.layouts import find_frames
from pentad.point_clouds.points import NUSCENES, read

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def clouds(real_data):
    folder = real_data / "point_clouds"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def inside(points, boxes):
    places, table = (torch.from_numpy(np.ascontiguousarray(x)).double() for x in (points[:, :3], boxes[:, :7]))
    return np.array([int(points_in_boxes(places, box[None]).sum()) for box in table])


def kitti(clouds):
    folder = clouds / "kitti_object" / "training"
    for label in sorted((folder / "label_2").iterdir()):
        calibration = read_calibration(folder / "calib" / label.name)
        yield read_kitti(label), calibration, read(folder / "velodyne" / f"{label.stem}.bin")


def test_boxes_of_kitti_hold_points_and_project_onto_their_2d_boxes(clouds):
    for rows, calibration, sweep in kitti(clouds):
        objects = kitti_to_objects(rows, calibration)
        assert inside(sweep.points, objects.boxes).min() >= 9
        wider = objects.boxes.copy()
        wider[:, 6] += np.pi / 2
        assert inside(sweep.points, wider).sum() < inside(sweep.points, objects.boxes).sum()
        kept = [row for row in rows if row.kind != "DontCare"]
        for row, again in zip(kept, objects_to_kitti(objects, calibration, (1242, 375)), strict=True):
            if row.truncated == row.occluded == 0:
                assert np.abs(np.subtract(row.image, again.image)).max() < 12
            assert abs(again.alpha - row.alpha) < 0.03
            assert again.bottom == pytest.approx(row.bottom, abs=1e-6)


def test_truth_against_itself_scores_one(clouds):
    truths = [kitti_to_objects(rows, calibration) for rows, calibration, _ in kitti(clouds)]
    config = EvaluateConfig(resamples=5, bins=(0, 99), ranges={"cyclist": 99})
    classes = ("car", "pedestrian", "cyclist")
    near = [truth.take(np.hypot(*truth.boxes[:, :2].T) < 50) for truth in truths]
    summary = summarise([score_frame(truth, truth, classes, config) for truth in near], [*"abcde"], config)
    assert {summary[f"{kind}_ap"]["value"] for kind in classes} == {1.0}
    assert {summary[f"{kind}_l1_aph"]["value"] for kind in classes} == {1.0}


def test_kitti_truth_against_itself_is_right_at_every_step_of_recall_there_is(clouds):
    frames = [metrics_kitti.Frame(rows, [row for row in rows if row.kind != "DontCare"]) for rows, *_ in kitti(clouds)]
    counted = [
        row
        for frame in frames
        for row in frame.objects
        if row.kind == "Car" and row.image[3] - row.image[1] > 25 and row.occluded <= 1 and row.truncated <= 0.3
    ]
    assert len(counted) >= 3
    for metric in metrics_kitti.METRICS:
        # So few objects have fewer steps of recall than 40; the rules leave the others at 0.
        found = metrics_kitti.score(frames, "Car", "moderate", metric)
        assert found.r40 == pytest.approx(100 * (len(counted) - 1) / 40)


def test_a_jittered_copy_of_kitti_scores_what_overlaps_say(clouds):
    """Found or not is decided by the overlap alone, which Shapely computes here on its own."""
    from shapely.geometry import Polygon

    from pentad.point_clouds.labels import box_corners

    rng = np.random.default_rng(0)
    for rows, calibration, _ in kitti(clouds):
        truth = kitti_to_objects(rows, calibration)
        moved = truth.boxes.copy()
        moved[:, :3] += rng.normal(0, 0.15, (len(moved), 3))
        moved[:, 6] += rng.normal(0, 0.1, len(moved))
        pair = (torch.from_numpy(np.ascontiguousarray(boxes[:, :7])) for boxes in (truth.boxes, moved))
        for k, ours in enumerate(iou_3d(*pair).diagonal().tolist()):
            flat = [Polygon(box_corners(boxes[k])[:4, :2]) for boxes in (truth.boxes, moved)]
            low, high = ([b[k, 2] + s * b[k, 5] / 2 for b in (truth.boxes, moved)] for s in (-1, 1))
            shared = flat[0].intersection(flat[1]).area * max(0, min(high) - max(low))
            volumes = [b[k, 3:6].prod() for b in (truth.boxes, moved)]
            assert ours == pytest.approx(shared / (sum(volumes) - shared), abs=1e-9)


def test_boxes_of_argoverse_hold_exactly_the_stated_points(clouds):
    [found] = find_frames(clouds / "argoverse2")
    frame = found.read()
    sweep = read(clouds / "argoverse2" / "adcf7d18" / "sensors" / "lidar" / "315973157959879000.feather")
    boxes = np.array([[*box.center, *box.size, box.yaw] for box in frame.boxes])
    assert len(boxes) == 47
    assert inside(sweep.points, boxes).tolist() == [box.points for box in frame.boxes]


def test_boxes_of_nuscenes_hold_the_stated_points_within_a_few(clouds):
    stated = json.loads((clouds / "nuscenes_demo" / "annotation.json").read_text())["instances"]
    [path] = (clouds / "nuscenes_demo").glob("*.bin")
    sweep = read(path)
    assert sweep.columns == NUSCENES
    assert len(sweep.points) == 34688
    counts = inside(sweep.points, np.array([entry["bbox_3d"] for entry in stated]))
    expected = np.array([entry["num_lidar_pts"] for entry in stated])
    assert (np.abs(counts - expected) <= np.maximum(2, 0.1 * expected)).all()


@pytest.mark.parametrize(
    ("folder", "ground", "intensity"), [("kitti_object", -1.8, 1), ("argoverse2", -0.3, 255), ("pcd_street", -1.8, 1)]
)
def test_check_finds_nothing_wrong_with_real_sweeps(clouds, folder, ground, intensity):
    facts = look(clouds / folder, 3)
    assert (facts.warnings, facts.refused) == ([], [])
    assert facts.up == "z"
    assert facts.ground == pytest.approx(ground, abs=0.25)
    assert facts.intensity == intensity


@pytest.mark.parametrize(
    ("name", "points", "columns"),
    [
        ("autzen_trim.laz", 110000, 5),
        ("simple.copc.laz", 1065, 5),
        ("vegetation_1_3.las", 10683, 5),
        ("autzen-utm.pcd", 1065, 4),
        ("epsg_4326.las", 5380, 4),
    ],
)
def test_surveys_are_read_with_their_coordinates(clouds, name, points, columns):
    sweep = read(clouds / "las_examples" / name)
    assert sweep.points.shape == (points, columns)
    assert np.abs(sweep.xyz).max() < 2e4


def test_predict_takes_every_real_sweep(tmp_path, clouds, bundle):
    inputs = [clouds / name for name in ("kitti_object", "argoverse2", "nuscenes_demo", "pcd_street")]
    result = call(
        "point-clouds", "predict", *inputs, "-o", tmp_path, "--run", "r", "--model", bundle, "--quiet",
        "--outputs", "kitti,nuscenes", "--workers", "1",
    )  # fmt: skip
    assert result.code == 0, result.err
    lines = (tmp_path / "r" / "worklist.csv").read_text().splitlines()
    assert sum(",ok," in line for line in lines) == 9
    cases = tmp_path / "r" / "cases"
    rows = read_kitti(cases / "000001" / "kitti.txt")
    assert all(isinstance(row, KittiRow) and row.bottom[2] > 0 for row in rows)  # the camera sees ahead only
    result = json.loads(next(cases.glob("adcf7d18*/nuscenes.json")).read_text())
    assert result["meta"]["frame_of_reference"] == "global"
