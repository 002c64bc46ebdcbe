"""From the head's maps to boxes: the best cells, their boxes, and suppression of what overlaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pentad.core.errors import ModelError
from pentad.point_clouds.boxes import nms_rotated
from pentad.point_clouds.grid import MapGrid
from pentad.point_clouds.targets import decode_rows


@dataclass(frozen=True)
class DecodeConfig:
    """How boxes are chosen; a list of one value holds for every class."""

    min_score: float = 0.1
    """A box's score must be greater."""
    iou_power: float = 2.0
    """Power of the overlap that the head expects, by which it corrects a score."""
    candidates: int = 4096
    """Best cells that are looked at: of each class, then of all."""
    overlap: tuple[float, ...] = (0.8, 0.55, 0.55)
    """Per class, the overlap seen from above with a better box beyond which a box is dropped."""
    before: tuple[int, ...] = (2048, 1024, 1024)
    """Per class, boxes that go into suppression."""
    after: tuple[int, ...] = (300, 100, 100)
    """Per class, boxes that leave it."""
    centre_range_m: tuple[float, float, float, float, float, float] | None = None
    """x, y, z between which centres must lie; by default the grid's x and y, and -10 to 10 m."""

    def __post_init__(self) -> None:
        counts = {len(values) for values in (self.overlap, self.before, self.after)} - {1}
        if len(counts) > 1 or 0 in counts or self.candidates < 1:
            problem = f"suppression with {self.overlap}, {self.before} and {self.after}"
            raise ModelError("PTD-881", problem, "give one value, or one per class, to each")

    def for_class(self, number: int, classes: int) -> tuple[float, int, int]:
        """Return overlap, before and after of a class.

        Raises:
            ModelError: There are neither one nor as many values as classes (PTD-881).
        """
        lists = (self.overlap, self.before, self.after)
        if any(len(values) not in (1, classes) for values in lists):
            problem = f"suppression with {', '.join(map(str, lists))} for {classes} classes"
            raise ModelError("PTD-881", problem, "give one value, or one per class, to each")
        overlap, before, after = (values[number if len(values) > 1 else 0] for values in lists)
        return float(overlap), int(before), int(after)


@dataclass(frozen=True)
class Detections:
    """The boxes found in one sample.

    Attributes:
        boxes: (n, 7), or (n, 9) where the head has velocities, in the package's convention.
        scores: (n,), falling inside each class after suppression.
        labels: Classes, int64 (n,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@torch.no_grad()
def decode(maps: Mapping[str, Tensor], grid: MapGrid, config: DecodeConfig | None = None) -> list[Detections]:
    """Return the boxes of each sample of a batch, class by class and by falling score.

    Args:
        maps: The head's raw maps.
        grid: The maps' cells.
        config: How; the published way by default.
    """
    config = config or DecodeConfig()
    classes = maps["heatmap"].shape[1]
    limits = [config.for_class(number, classes) for number in range(classes)]
    return [suppress(found, limits) for found in candidates(maps, grid, config)]


def candidates(maps: Mapping[str, Tensor], grid: MapGrid, config: DecodeConfig) -> list[Detections]:
    """Return the best cells' boxes of each sample, by falling score and before any suppression."""
    scores = torch.sigmoid(maps["heatmap"])
    if "iou" in maps:
        scores = scores * maps["iou"].clamp(0, 1) ** config.iou_power
    names = [name for name in ("reg", "height", "dim", "rot", "vel") if name in maps]
    rows = torch.cat([maps[name] for name in names], dim=1)
    return [_of_sample(score, row, grid, config) for score, row in zip(scores.flatten(2), rows.flatten(2), strict=True)]


def suppress(found: Detections, limits: list[tuple[float, int, int]]) -> Detections:
    """Return what is left, class by class, where ``limits`` gives overlap, before and after of each class."""
    kept = []
    for number, (overlap, before, after) in enumerate(limits):
        own = torch.nonzero(found.labels == number).squeeze(1)
        best = nms_rotated(found.boxes[own], found.scores[own], overlap, before=before, after=after)
        kept.append(own[best])
    index = torch.cat(kept)
    return Detections(found.boxes[index], found.scores[index], found.labels[index])


def _of_sample(scores: Tensor, rows: Tensor, grid: MapGrid, config: DecodeConfig) -> Detections:
    """Candidates of one sample from scores (classes, cells) and rows (8 or 10, cells)."""
    labels, index = torch.nonzero(scores > config.min_score, as_tuple=True)
    value = scores[labels, index]
    order = torch.argsort(value, descending=True, stable=True)
    labels, index, value = labels[order], index[order], value[order]
    rank = torch.zeros_like(labels)
    for number in range(len(scores)):
        own = labels == number
        rank[own] = torch.arange(int(own.sum()), device=labels.device)
    best = torch.nonzero(rank < config.candidates).squeeze(1)[: config.candidates]
    labels, index, value = labels[best], index[best], value[best]
    boxes = decode_rows(rows[:, index].T, index, grid)
    low, high = _centre_range(grid, config, boxes)
    inside = ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(dim=1)
    return Detections(boxes[inside], value[inside], labels[inside])


def _centre_range(grid: MapGrid, config: DecodeConfig, boxes: Tensor) -> tuple[Tensor, Tensor]:
    r = grid.grid.range_m
    wanted = config.centre_range_m or (r[0], r[1], -10.0, r[3], r[4], 10.0)
    return boxes.new_tensor(wanted[:3]), boxes.new_tensor(wanted[3:])
