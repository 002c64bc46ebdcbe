import copy
import json
from pathlib import Path

import pytest
import torch

from pentad.core.errors import UsageError
from pentad.point_clouds import parity

REFERENCE = Path(__file__).parents[1] / "reference"


def spec(name):
    return json.loads((REFERENCE / f"flatformer.{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "count", "dtype"),
    [
        ("mapping", 30, torch.float64),
        ("head_ops", 35, torch.float64),
        ("head_ops", 35, torch.float32),
        ("encoder_waymo", 16, torch.float64),
        ("encoder_waymo", 16, torch.float32),
        ("waymo_backbone", 38, torch.float64),
    ],
)
def test_published_figures_are_reproduced(name, count, dtype):
    rows = parity.flatformer(spec(name), dtype)
    assert len(rows) == count
    assert [row for row in rows if not row[1] <= row[2]] == []


@pytest.fixture(scope="module")
def encoder():
    return spec("encoder_waymo")


def missed(content):
    return [stage for stage, error, tolerance in parity.flatformer(content, torch.float32) if error > tolerance]


@pytest.mark.parametrize(
    ("setting", "value", "stage"),
    [
        ("group_size", 143, "mapping.flat2win"),
        ("window_shape", [12, 13, 1], "mapping.x"),
        ("pos_temperature", 9999, "position"),
        ("layer_order", ["x", "y", "x_shift", "y_shift"], "block0.layer1_sorted"),
    ],
)
def test_a_wrong_setting_is_told_by_the_stage_it_changes(encoder, setting, value, stage):
    content = copy.deepcopy(encoder)
    content["hyperparameters"][setting] = value
    assert stage in missed(content)


@pytest.mark.parametrize(("setting", "value"), [("normalize_pos", True), ("activation", "relu"), ("norm", "pre")])
def test_a_setting_that_is_not_built_here_is_refused(encoder, setting, value):
    content = copy.deepcopy(encoder)
    content["hyperparameters"][setting] = value
    with pytest.raises(UsageError, match=rf"PTD-883.*{setting}"):
        parity.flatformer(content, torch.float64)


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(UsageError, match="PTD-883"):
        parity.flatformer({"model": "flatformer"}, torch.float64)


def test_the_published_borrowing_between_samples_is_reproduced():
    """By the published rule: two samples of 3 and 2 pillars in groups of 4, sorted positions 0 to 4."""
    cells = [[0, 0, 0, x] for x in range(3)] + [[1, 0, 0, x] for x in range(2)]
    expected = {"x": [0, 1, 2, 3, 4], "flat2win": [0, 1, 2, -1, 3, 4, 1, 2], "win2flat": [0, 1, 2, 4, 5]}
    case = {"name": "few", "window_xy": [3, 3], "grid_xy": [16, 16], "group_size": 4, "counts": [3, 2]}
    case |= {"coords": cells, "expected": expected, "groups_mix_samples": True}
    assert missed({"cases": [case]}) == []
