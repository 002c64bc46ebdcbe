"""The metrics: equal to the published ones, and to plain arithmetic on cases small enough for it."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from pentad.core.errors import UsageError
from pentad.point_clouds import metrics_kitti, metrics_nuscenes, metrics_waymo
from pentad.point_clouds.frames import make_objects
from pentad.point_clouds.labels import NOMINAL, KittiRow, objects_to_kitti
from pentad.point_clouds.parity_metrics import pointcloud

REFERENCE = Path(__file__).parents[1] / "reference" / "pointcloud.metrics_ops.json"


@pytest.fixture(scope="module")
def spec():
    return json.loads(REFERENCE.read_text())


def test_the_published_figures_of_both_metrics_are_reproduced(spec):
    rows = pointcloud(spec, None)
    assert [name for name, *_ in rows] == [
        "nuscenes.ap",
        "nuscenes.tp_error",
        "nuscenes.tp_errors",
        "nuscenes.mean_ap and nd_score",
        "kitti.bbox",
        "kitti.aos",
        "kitti.bev",
        "kitti.3d",
    ]
    assert [row for row in rows if not row[1] <= row[2]] == []


def test_a_changed_figure_is_told(spec):
    wrong = copy.deepcopy(spec)
    wrong["kitti"]["expected"]["bev"]["Car"]["hard"]["R40"] += 0.01
    wrong["nuscenes"]["prediction"][0][2] += 3
    missed = [name for name, error, tolerance in pointcloud(wrong, None) if error > tolerance]
    assert "kitti.bev" in missed
    assert "nuscenes.ap" in missed
    assert "kitti.3d" not in missed
    wrong["nuscenes"]["config"]["dist_ths"] = [1, 2]
    with pytest.raises(UsageError, match="PTD-933"):
        pointcloud(wrong, None)


def objects(places, kind="car", scores=None, points=None):
    table = np.array([[x, y, 0, 4, 2, 1.5, yaw, 1, 0] for x, y, yaw in places], dtype=float).reshape(-1, 9)
    return make_objects(table, (kind,) * len(places), scores=scores, points=points)


def test_truth_against_itself_scores_one_everywhere():
    truth = objects([(10, 0, 0.3), (-5, 8, 2), (20, -7, -1)], points=np.array([9, 3, 40]))
    found = metrics_nuscenes.class_scores([metrics_nuscenes.match(truth, truth, "car")])
    assert found.mean_ap == pytest.approx(1)
    assert found.errors["trans_err"] == found.errors["orient_err"] == pytest.approx(0, abs=1e-12)
    for level in (1, 2):
        matches = [metrics_waymo.match(truth, truth, "car")[level]]
        assert metrics_waymo.average_precision(matches) == pytest.approx(1)
        assert metrics_waymo.average_precision(matches, heading=True) == pytest.approx(1)


def test_a_missed_and_a_false_object_cost_what_arithmetic_says():
    truth = objects([(10, 0, 0), (0, 10, 0)])
    found = objects([(10, 0.2, 0), (30, 0, 0)], scores=np.array([0.9, 0.8]))
    scores = metrics_nuscenes.class_scores([metrics_nuscenes.match(truth, found, "car")])
    # Precision 1 up to recall 0.5: 39 of the 90 recalls above 0.1 and the one at 0.5 give 0.9 / 0.9.
    assert scores.ap[0.5] == pytest.approx(40 / 90, abs=0.01)
    waymo = metrics_waymo.match(truth, found, "car")[1]
    assert metrics_waymo.average_precision([waymo]) == pytest.approx(0.5)


@pytest.mark.parametrize(("turned", "weight"), [(0, 1), (math.pi / 2, 0.5), (math.pi, 0)])
def test_aph_weights_a_hit_by_its_heading(turned, weight):
    truth = make_objects(np.array([[5.0, 0, 0, 2, 2, 2, 0]]), ("cyclist",))
    found = make_objects(np.array([[5.0, 0, 0, 2, 2, 2, turned]]), ("cyclist",))
    matches = [metrics_waymo.match(truth, found, "cyclist")[1]]
    assert metrics_waymo.average_precision(matches) == 1
    # Both recall and precision are weighted.
    assert metrics_waymo.average_precision(matches, heading=True) == pytest.approx(weight**2)


def test_level_one_leaves_objects_of_few_points_aside():
    truth = objects([(10, 0, 0), (0, 10, 0), (0, -10, 0)], points=np.array([100, 4, 0]))
    assert metrics_waymo.levels(truth).tolist() == [1, 2, 0]
    found = objects([(10, 0, 0), (0, 10, 0)], scores=np.array([0.5, 0.9]))
    matches = metrics_waymo.match(truth, found, "car")
    assert (matches[1].truth, matches[1].scores.tolist()) == (1, [0.5])
    assert (matches[2].truth, metrics_waymo.average_precision([matches[2]])) == (2, 1)


def test_what_lies_out_of_range_or_holds_no_point_does_not_count():
    truth = objects([(10, 0, 0), (60, 0, 0), (0, 10, 0)], points=np.array([5, 5, 0]))
    real, made = metrics_nuscenes.counted(truth, objects([(10, 0, 0), (0, 55, 0)]))
    assert (len(real), len(made)) == (1, 1)
    assert len(metrics_nuscenes.counted(truth, truth, {"car": 5})[0]) == 0


def test_nothing_to_find_and_nothing_found_is_no_error():
    none = objects([])
    assert metrics_nuscenes.class_scores([metrics_nuscenes.match(none, none, "car")]).mean_ap == 0
    assert math.isnan(metrics_waymo.average_precision([metrics_waymo.match(none, none, "car")[1]]))
    assert metrics_kitti.score([metrics_kitti.Frame([], [])], "Car", "hard", "3d").r40 == 0


def test_kitti_truth_against_itself_is_all_but_the_last_recall_step():
    row = objects_to_kitti(objects([(15, 0, 0)]), NOMINAL)[0]
    rows = [
        KittiRow("Car", 0, 0, row.alpha, (0, 0, 60, 60), row.size, (place, 1.0, 20.0), row.rotation_y)
        for place in range(0, 400, 10)
    ]
    for metric in ("bev", "3d"):
        found = metrics_kitti.score([metrics_kitti.Frame(rows, rows)], "Car", "easy", metric)
        assert found.r40 == pytest.approx(100, abs=2.6)  # 40 objects give 40 steps of recall
        assert found.r11 == pytest.approx(100, abs=9.1)
