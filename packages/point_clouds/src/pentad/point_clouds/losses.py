"""The losses of the head: where objects are, what their boxes are, and how well the boxes fit.

Paper: Yin et al., CenterPoint, arXiv 2006.11275; numbers as in mit-han-lab/flatformer. Deviation: the overlap with the
truth is taken between boxes at their own heights; the published code takes the centre for the bottom face, which
`LossConfig.published_heights` reproduces for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pentad.core.processes import processes, together
from pentad.point_clouds.boxes import paired_iou_3d
from pentad.point_clouds.grid import MapGrid
from pentad.point_clouds.targets import ROW, Targets, decode_rows

_CLAMP = 1e-4
_PLACEHOLDER = 1e-4  # beside the number of objects, which may be 0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses."""

    box_weight: float = 2.0
    """Of the boxes' numbers."""
    iou_weight: float = 1.0
    """Of the overlap branch."""
    row_weights: tuple[float, ...] = (1, 1, 1, 1, 1, 1, 1, 1, 0, 0)
    """Of each number of a row; as published, velocity is not learned."""
    published_heights: bool = False
    """Take the overlap branch's truth as the published code does."""


def detection_losses(
    maps: Mapping[str, Tensor], targets: Targets, grid: MapGrid, config: LossConfig | None = None
) -> dict[str, Tensor]:
    """Return the weighted losses ``heatmap``, ``box`` and, where there is such a branch, ``iou``; train on their sum.

    Each is per object, or per centre, of all training processes.

    Args:
        maps: The head's raw maps.
        targets: What it is to say.
        grid: The maps' cells.
        config: Weights; the published ones by default.
    """
    config = config or LossConfig()
    sample, _ = torch.nonzero(targets.mask, as_tuple=True)
    index, rows = targets.index[targets.mask], targets.rows[targets.mask]
    said = _said(maps, sample, index)
    objects = together(targets.mask.sum()) + _PLACEHOLDER
    weights = rows.new_tensor(config.row_weights)[: said.shape[1]]
    # Nothing that has no weight may turn the sum into no number.
    counted = weights > 0
    difference = (said[:, counted] - rows[:, : said.shape[1]][:, counted]).abs() * weights[counted]
    losses = {
        "heatmap": heatmap_loss(maps["heatmap"], targets.heatmap),
        "box": config.box_weight * difference.sum() * processes() / objects,
    }
    if "iou" in maps:
        overlap = _overlap(said.detach(), rows, index, grid, config)
        answer = maps["iou"].flatten(2)[sample, 0, index]
        losses["iou"] = config.iou_weight * (answer - overlap).abs().sum() * processes() / objects
    return losses


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the focal loss with fewer penalties near centres, per centre; both (b, classes, h, w)."""
    share = torch.sigmoid(logits).clamp(_CLAMP, 1 - _CLAMP)
    centre = target == 1
    hit = -share.log() * (1 - share) ** 2 * centre
    miss = -(1 - share).log() * share**2 * (1 - target) ** 4 * ~centre
    return (hit + miss).sum() * processes() / together(centre.sum()).clamp(min=1)


def _said(maps: Mapping[str, Tensor], sample: Tensor, index: Tensor) -> Tensor:
    """The rows that the head gives at the objects' cells, (n, 8 or 10)."""
    names = [name for name in ("reg", "height", "dim", "rot", "vel") if name in maps]
    return torch.cat([maps[name].flatten(2)[sample, :, index] for name in names], dim=1)


def _overlap(said: Tensor, rows: Tensor, index: Tensor, grid: MapGrid, config: LossConfig) -> Tensor:
    """Intersection over union of the boxes said and true, (n,)."""
    assert rows.shape[1] == ROW
    boxes, truth = decode_rows(said, index, grid)[:, :7], decode_rows(rows, index, grid)[:, :7]
    if config.published_heights:
        raised = [torch.cat([b[:, :2], b[:, 2:3] + b[:, 5:6] / 2, b[:, 3:]], dim=1) for b in (boxes, truth)]
        boxes, truth = raised
    return paired_iou_3d(boxes, truth)
