import math

import pytest
import torch

from pentad.core.errors import ModelError, UsageError
from pentad.point_clouds.boxes import iou_3d, wrap
from pentad.point_clouds.decoding import DecodeConfig, decode
from pentad.point_clouds.grid import GridConfig, MapGrid
from pentad.point_clouds.losses import LossConfig, detection_losses, heatmap_loss
from pentad.point_clouds.targets import TargetConfig, decode_rows, make_targets

GRID = MapGrid(GridConfig((-8.0, -4.0, -2.0, 8.0, 4.0, 2.0), (0.25, 0.5)), 2)  # 8 x 32 cells of 0.5 x 1 m
BOXES = torch.tensor(
    [
        [-3.1, 1.2, 0.1, 4.2, 1.8, 1.5, 0.4, 3, -1],
        [5.3, -2.2, -0.3, 0.8, 0.7, 1.7, -3.0, 0, 1],
        [0, 0, 0, 1.8, 0.8, 1.7, 2, 0, 0],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([1, 0, 1])


def perfect_maps(targets, iou=1.0):
    """Maps that say just what the targets say."""
    h, w = GRID.shape
    rows = torch.zeros(len(targets.index), 10, h * w, dtype=torch.float64)
    for sample, (index, mask) in enumerate(zip(targets.index, targets.mask, strict=True)):
        rows[sample][:, index[mask]] = targets.rows[sample][mask].T
    reg, height, dim, rot, vel = rows.view(-1, 10, h, w).split([2, 1, 3, 2, 2], dim=1)
    heatmap = torch.where(targets.heatmap == 1, 6.0, -9.0).double()
    return {
        "reg": reg, "height": height, "dim": dim, "rot": rot, "vel": vel,
        "iou": torch.full_like(height, iou), "heatmap": heatmap,
    }  # fmt: skip


def test_boxes_become_targets_and_boxes_again():
    targets = make_targets([BOXES, BOXES[:0]], [LABELS, LABELS[:0]], GRID, 2)
    found, empty = decode(perfect_maps(targets), GRID, DecodeConfig(overlap=(0.5,), before=(9,), after=(9,)))
    assert found.labels.tolist() == [0, 1, 1]
    assert empty.boxes.shape == (0, 9)
    match = iou_3d(BOXES, found.boxes[:, :7]).argmax(dim=1)
    assert found.labels[match].tolist() == LABELS.tolist()
    again = found.boxes[match]
    torch.testing.assert_close(again[:, :6], BOXES[:, :6])
    torch.testing.assert_close(wrap(again[:, 6] - BOXES[:, 6]), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(again[:, 7:], BOXES[:, 7:])


def test_perfect_maps_have_no_box_loss_and_an_overlap_of_1():
    targets = make_targets([BOXES], [LABELS], GRID, 2)
    losses = detection_losses(perfect_maps(targets), targets, GRID)
    assert float(losses["box"]) == 0
    assert float(losses["iou"]) == pytest.approx(0, abs=1e-9)
    assert float(losses["heatmap"]) < 1e-2
    # An answer of 0.6 where the truth is 1, three times over three objects.
    assert float(detection_losses(perfect_maps(targets, 0.6), targets, GRID)["iou"]) == pytest.approx(0.4, abs=1e-4)


def test_losses_of_a_sweep_without_objects_are_finite_and_learn_the_background():
    targets = make_targets([BOXES[:0]], [LABELS[:0]], GRID, 2)
    maps = {name: value.clone().requires_grad_() for name, value in perfect_maps(targets).items()}
    losses = detection_losses(maps, targets, GRID)
    assert (losses["box"].item(), losses["iou"].item()) == (0, 0)
    sum(losses.values()).backward()
    assert all(value.grad.isfinite().all() for value in maps.values() if value.grad is not None)


def test_velocity_is_learned_only_where_it_has_a_weight_and_may_be_unknown_elsewhere():
    unknown = BOXES.clone()
    unknown[:, 7:] = 5
    targets = make_targets([unknown], [LABELS], GRID, 2)
    maps = perfect_maps(make_targets([BOXES], [LABELS], GRID, 2))
    assert float(detection_losses(maps, targets, GRID)["box"]) == pytest.approx(0, abs=1e-9)
    weighted = LossConfig(row_weights=(1,) * 10)
    assert float(detection_losses(maps, targets, GRID, weighted)["box"]) > 1


def test_the_focal_loss_is_its_formula():
    target = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    share = torch.tensor([[[[0.7, 0.6], [0.2, 0.01]]]])
    expected = -math.log(0.7) * 0.3**2 - math.log(0.4) * 0.6**2 * 0.5**4
    expected += -math.log(0.8) * 0.2**2 - math.log(0.99) * 0.01**2
    assert float(heatmap_loss(torch.logit(share), target)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "row",
    [[8.0, 0, 0, 4, 2, 1, 0], [0, -4.1, 0, 4, 2, 1, 0], [0, 0, 0, 4, 0.0, 1, 0], [float("nan"), 0, 0, 4, 2, 1, 0]],
)
def test_boxes_out_of_range_without_a_size_or_without_a_number_are_left_out(row):
    targets = make_targets([torch.tensor([row])], [torch.tensor([0])], GRID, 1)
    assert not targets.mask.any()
    assert not targets.heatmap.any()
    assert targets.rows.isfinite().all()


def test_objects_of_one_cell_keep_the_larger_gaussian_and_a_row_each():
    boxes = BOXES[[0, 0]].clone()
    boxes[1, 3:5] *= 0.3
    targets = make_targets([boxes], [torch.tensor([0, 0])], GRID, 1)
    alone = make_targets([boxes[:1]], [torch.tensor([0])], GRID, 1)
    assert torch.equal(targets.heatmap, alone.heatmap)
    assert targets.mask.tolist() == [[True, True]]


def test_objects_beyond_the_most_that_count_are_left_out_classes_in_turn():
    targets = make_targets([BOXES], [LABELS], GRID, 2, TargetConfig(max_objects=2))
    assert targets.mask.sum() == 2
    assert targets.heatmap[0, 0].amax() == 1
    assert (targets.heatmap[0, 1] == 1).sum() == 1


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1, 0], [0, 1]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(UsageError, match="PTD-884"):
        make_targets([BOXES], [torch.tensor(labels)], GRID, 2)


def test_scores_are_corrected_by_the_overlap_that_the_head_expects():
    maps = perfect_maps(make_targets([BOXES], [LABELS], GRID, 2), 0.5)
    found = decode(maps, GRID, DecodeConfig(overlap=(0.5,), before=(9,), after=(9,), iou_power=2.0))[0]
    torch.testing.assert_close(found.scores, torch.sigmoid(torch.tensor([6.0] * 3).double()) / 4)


def test_limits_hold_class_by_class():
    maps = perfect_maps(make_targets([BOXES], [LABELS], GRID, 2))
    found = decode(maps, GRID, DecodeConfig(overlap=(0.5, 0.5), before=(9, 9), after=(0, 1)))[0]
    assert found.labels.tolist() == [1]
    few = decode(maps, GRID, DecodeConfig(overlap=(0.5,), before=(9,), after=(9,), candidates=1))[0]
    assert len(few.labels) == 1
    near = DecodeConfig(overlap=(0.5,), before=(9,), after=(9,), centre_range_m=(-1, -1, -5, 1, 1, 5))
    torch.testing.assert_close(decode(maps, GRID, near)[0].boxes[:, :2], BOXES[2:, :2])


def test_limits_for_another_number_of_classes_are_refused():
    with pytest.raises(ModelError, match="PTD-881"):
        DecodeConfig(overlap=(0.5, 0.5))
    maps = perfect_maps(make_targets([BOXES], [LABELS], GRID, 2))
    with pytest.raises(ModelError, match=r"PTD-881.*2 classes"):
        decode(maps, GRID)


def test_rows_without_velocities_give_boxes_without():
    targets = make_targets([BOXES[:, :7]], [LABELS], GRID, 2)
    boxes = decode_rows(targets.rows[0, :, :8], targets.index[0], GRID)
    torch.testing.assert_close(boxes[:, :6], BOXES[[1, 0, 2], :6])
