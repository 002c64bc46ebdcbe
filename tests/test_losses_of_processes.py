"""Losses that are means over what counts: of two training processes as of one with both their shares of the batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from core.two_processes import join, start_two
from torch import Tensor, distributed, nn

from pentad.audio.dataset import AugmentConfig
from pentad.audio.losses import sound_loss
from pentad.audio.models.scores import Scores
from pentad.medical.losses import dice_ce_loss
from pentad.nlp.losses import classification_loss
from pentad.point_clouds.grid import GridConfig, MapGrid
from pentad.point_clouds.losses import detection_losses
from pentad.point_clouds.targets import make_targets
from pentad.remote_sensing.losses import cross_entropy, lovasz_softmax

SAMPLES = 4
# What counts, of 24 places in each sample: the second process's share holds far less than the first's.
COUNTED = (24, 20, 1, 3)


def counted(ignored: int) -> Tensor:
    labels = torch.arange(SAMPLES * 24).reshape(SAMPLES, 24) % 3
    known = torch.arange(24) < torch.tensor(COUNTED)[:, None]
    return torch.where(known, labels, ignored)


def draw(*shape: int) -> Tensor:
    return torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sounds(scale: Tensor, part: slice) -> Tensor:
    batch = {
        "wave": draw(8, 2)[part],
        "labels": (draw(2) > 0).double()[part],
        "active": (draw(8, 2) > 0).double()[part],
        "marked": torch.tensor([1.0, 1, 0, 1], dtype=torch.float64)[part],
    }
    network = Played(scale)
    still = AugmentConfig(frequency_mask=0, time_mask=0)
    return sound_loss(network, nn.Identity(), batch, still, exclusive=False, over_time=0.7)


class Played(nn.Module):
    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: Tensor) -> Scores:
        return Scores(self.scale * features.mean(1), self.scale * features, features.mean(1))


def tokens(scale: Tensor, part: slice, focal: float) -> Tensor:
    weights = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    return classification_loss(scale * draw(24, 3)[part], counted(-100)[part], weights, focal)


def voxels(scale: Tensor, part: slice) -> Tensor:
    labels = counted(9).reshape(SAMPLES, 1, 2, 3, 4)[part]
    return dice_ce_loss(scale * draw(3, 2, 3, 4)[part], labels, batch_dice=False, ignore_label=9)


def pixels(scale: Tensor, part: slice) -> Tensor:
    return cross_entropy(scale * draw(3, 4, 6)[part], counted(255).reshape(SAMPLES, 4, 6)[part])


def objects(scale: Tensor, part: slice) -> Tensor:
    maps = MapGrid(GridConfig((-8.0, -4.0, -2.0, 8.0, 4.0, 2.0), (0.5, 0.5)), 2)
    box = torch.tensor([[0.0, 1.2, 0.1, 4.2, 1.8, 1.5, 0.4, 3, -1]], dtype=torch.float64)
    shift = torch.eye(9, dtype=torch.float64)[0]
    boxes = [box + shift * 2 * torch.arange(-number, number)[:, None] for number in (3, 2, 0, 1)]
    labels = [torch.zeros(len(each), dtype=torch.int64) for each in boxes]
    targets = make_targets(boxes[part], labels[part], maps, 2)
    widths = {"heatmap": 2, "reg": 2, "height": 1, "dim": 3, "rot": 2, "iou": 1}
    answers = {name: scale * draw(width, *maps.shape)[part] for name, width in widths.items()}
    return sum(detection_losses(answers, targets, maps).values())


LOSSES = {
    "sounds": sounds,
    "tokens": lambda scale, part: tokens(scale, part, 0.0),
    "tokens, focal": lambda scale, part: tokens(scale, part, 2.0),
    "voxels": voxels,
    "pixels": pixels,
    "objects": objects,
}


def values_and_slopes(part: slice) -> dict[str, list[float]]:
    found = {}
    for name, loss in LOSSES.items():
        scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        value = loss(scale, part)
        value.backward()
        found[name] = [value.item(), scale.grad.item()]
    return found


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("losses")
    join(start_two(__file__, folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in "01"]


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_two_processes_is_the_loss_of_the_whole_batch(name, shares):
    whole = values_and_slopes(slice(SAMPLES))[name]
    mean = [sum(pair) / 2 for pair in zip(*(share[name] for share in shares), strict=True)]
    assert mean == pytest.approx(whole, rel=1e-6)
    # Without an exchange of counts it would not be.
    halves = [values_and_slopes(part)[name] for part in (slice(0, 2), slice(2, SAMPLES))]
    alone = [sum(pair) / 2 for pair in zip(*halves, strict=True)]
    assert alone != pytest.approx(whole, rel=1e-3)


def test_the_lovasz_surface_is_each_process_s_own():
    logits, label = draw(2, 4, 6), (counted(0) > 0).long().reshape(SAMPLES, 4, 6)
    parts = [lovasz_softmax(logits[part], label[part]) for part in (slice(0, 2), slice(2, SAMPLES))]
    assert float(sum(parts)) / 2 != pytest.approx(float(lovasz_softmax(logits, label)), rel=1e-3)


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = values_and_slopes(slice(2 * rank, 2 * rank + 2))
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
