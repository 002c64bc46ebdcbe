from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from monai.losses import DiceCELoss

from pentad.core import recipe
from pentad.medical.losses import (
    deep_supervision_weights,
    dice_ce_loss,
    segmentation_loss,
    soft_dice_loss,
    target_pyramid,
)
from pentad.medical.parity import loss_inputs

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "u_mamba.loss.json").read_text())


@pytest.fixture(params=range(4), ids=lambda number: f"case{number}")
def golden(request):
    case = GOLDEN["cases"][request.param]
    heads, targets = loss_inputs(GOLDEN["shapes"], case["ignore_label"], torch.float64)
    settings = {"batch_dice": case["batch_dice"], "ignore_label": case["ignore_label"]}
    return case, heads, targets, settings


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 6, 8, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 3, (2, 1, 6, 8), generator=generator)


def test_each_head_and_the_total_have_the_published_value(golden):
    case, heads, targets, settings = golden
    singles = [dice_ce_loss(head, target, **settings).item() for head, target in zip(heads, targets, strict=True)]
    assert singles == pytest.approx(case["per_head"], abs=1e-10)
    assert segmentation_loss(heads, targets, **settings).item() == pytest.approx(case["total"], abs=1e-10)


def test_the_gradients_are_the_published_ones(golden):
    case, heads, targets, settings = golden
    segmentation_loss(heads, targets, **settings).backward()
    errors = [recipe.compare(head.grad.numpy(), figures) for head, figures in zip(heads, case["grads"], strict=False)]
    assert len(errors) == 2
    assert max(errors) < 1e-7
    assert heads[2].grad.abs().max() == 0  # the coarsest head weighs nothing


def test_dice_and_cross_entropy_agree_with_monai(drawn):
    logits, target = drawn
    theirs = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )(logits, target)
    assert dice_ce_loss(logits, target).item() == pytest.approx(theirs.item() - 1, abs=1e-9)


def test_dice_has_the_value_worked_out_by_hand():
    probability = torch.tensor([[[[0.5, 0.25]], [[0.5, 0.75]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    target = torch.tensor([[[[0, 1]]]])
    expected = -(2 * 0.75 + 1e-5) / (1.25 + 1 + 1e-5)
    assert soft_dice_loss(probability.log(), target).item() == pytest.approx(expected, abs=1e-12)


def test_a_perfect_prediction_scores_minus_one():
    target = torch.arange(3).reshape(1, 1, 3, 1).expand(1, 1, 3, 4)
    logits = 100.0 * torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1)
    assert dice_ce_loss(logits, target).item() == pytest.approx(-1, abs=1e-5)


def test_what_stands_on_ignored_voxels_changes_nothing(drawn):
    logits, target = drawn
    target[:, :, :3] = 255
    changed = logits.clone()
    changed[:, :, :3] += 5
    first, second = (dice_ce_loss(x, target, ignore_label=255).item() for x in (logits, changed))
    assert first == second


def test_a_batch_without_a_known_voxel_has_a_finite_loss_and_no_gradient(drawn):
    logits = drawn[0].requires_grad_()
    loss = dice_ce_loss(logits, torch.full((2, 1, 6, 8), 255), ignore_label=255)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad.abs().max() == 0


def test_half_precision_logits_are_scored_in_float32(drawn):
    logits, target = drawn
    loss = dice_ce_loss(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dice_ce_loss(logits, target).item(), abs=5e-3)


def test_weights_halve_with_every_head_and_leave_the_coarsest_out():
    assert deep_supervision_weights(5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])
    assert deep_supervision_weights(1) == (1.0,)


def test_a_single_output_is_scored_as_one_head(drawn):
    logits, target = drawn
    assert segmentation_loss(logits, target).item() == pytest.approx(dice_ce_loss(logits, target).item(), abs=1e-12)


def test_the_pyramid_keeps_labels_and_an_odd_size_whole():
    target = torch.arange(5).reshape(1, 1, 5, 1)
    halved = target_pyramid(target, [(5, 1), (3, 1)])
    assert halved[0] is target
    assert halved[1].flatten().tolist() == [0, 2, 4]
