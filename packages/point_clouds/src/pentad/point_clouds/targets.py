"""What the head is to say of a batch's boxes: a heatmap of centres, and one row of numbers per object.

Paper: Yin et al., CenterPoint, arXiv 2006.11275; numbers as in mit-han-lab/flatformer. Deviations: a size along any
axis that is not above 0 leaves an object out (published: along two), and so does a centre less than a cell before the
range, which the published code rounds into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pentad.core.errors import ModelError, UsageError
from pentad.point_clouds.boxes import from_clockwise, to_clockwise
from pentad.point_clouds.grid import MapGrid

ROW = 10
"""Numbers per object: offset x, y; z of the centre; log width, length, height; sine and cosine of yaw; vx, vy."""


@dataclass(frozen=True)
class TargetConfig:
    """How boxes become targets."""

    overlap: float = 0.1
    """Overlap that a box moved by a Gaussian's radius still has with itself."""
    min_radius: int = 1
    """Smallest radius of a Gaussian in cells."""
    max_objects: int = 500
    """Objects per sample that count, classes in turn."""

    def __post_init__(self) -> None:
        if not 0 < self.overlap < 1 or self.min_radius < 0 or self.max_objects < 1:
            raise ModelError("PTD-881", f"no targets have the settings {self}", "give an overlap in (0, 1)")


@dataclass(frozen=True)
class Targets:
    """What the head is to say.

    Attributes:
        heatmap: 1 at the centres' cells and Gaussians around them, (b, classes, h, w).
        index: Cell of each object, y * w + x, int64 (b, m); 0 where there is none.
        mask: Whether there is an object and it counts, bool (b, m).
        rows: Numbers of each object as in `ROW`, (b, m, 10); 0 where there is none.
        radius: Of the Gaussians in cells, int64 (b, m); 0 where there is none.
    """

    heatmap: Tensor
    index: Tensor
    mask: Tensor
    rows: Tensor
    radius: Tensor


def make_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    maps: MapGrid,
    classes: int,
    config: TargetConfig | None = None,
) -> Targets:
    """Return the targets of a batch.

    Args:
        boxes: Of each sample, (n, 7 or 9) in the package's convention.
        labels: Class of each box, whole numbers (n,).
        maps: The cells.
        classes: Number of classes.
        config: How; the published way by default.

    Raises:
        UsageError: A label is no class, or boxes and labels differ in number (PTD-884).
    """
    config = config or TargetConfig()
    prepared = [_sample(box, label, classes, config) for box, label in zip(boxes, labels, strict=True)]
    most = max([1, *(len(label) for _, label in prepared)])
    device, dtype = boxes[0].device, boxes[0].dtype
    count = len(prepared)
    index = torch.zeros(count, most, dtype=torch.long, device=device)
    radius, mask = torch.zeros_like(index), torch.zeros(count, most, dtype=torch.bool, device=device)
    rows = torch.zeros(count, most, ROW, dtype=dtype, device=device)
    heatmap = torch.zeros(count, classes, *maps.shape, dtype=dtype, device=device)
    for number, (box, label) in enumerate(prepared):
        here = slice(0, len(box))
        cell, mask[number, here], rows[number, here] = _rows(box, maps)
        found = mask[number, here]
        index[number, here] = (cell[:, 1] * maps.shape[1] + cell[:, 0]) * found
        radius[number, here] = _radius(box, maps, config) * found
        _draw(heatmap[number], label[found], cell[found], radius[number, here][found])
    return Targets(heatmap, index, mask, rows, radius)


def decode_rows(rows: Tensor, index: Tensor, maps: MapGrid) -> Tensor:
    """Return the boxes that rows of numbers describe, in the package's convention.

    Args:
        rows: As in `ROW`, velocities or not, (n, 8 or 10).
        index: Cell of each, y * w + x, (n,).
        maps: The cells.

    Returns:
        (n, 7), or (n, 9) where there are velocities.
    """
    width = maps.shape[1]
    cell = torch.stack([index % width, index // width], dim=1).to(rows.dtype)
    xy = (cell + rows[:, :2]) * rows.new_tensor(maps.cell_m) + rows.new_tensor(maps.grid.range_m[:2])
    sizes = rows[:, 3:6].exp()
    bottom = rows[:, 2:3] - sizes[:, 2:3] / 2
    yaw = torch.atan2(rows[:, 6], rows[:, 7]).unsqueeze(1)
    return from_clockwise(torch.cat([xy, bottom, sizes, yaw, rows[:, 8:]], dim=1))


def _sample(boxes: Tensor, labels: Tensor, classes: int, config: TargetConfig) -> tuple[Tensor, Tensor]:
    """Boxes in the published convention and labels, the classes in turn, at most as many as count."""
    if len(boxes) != len(labels) or (len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes)):
        problem = f"{len(boxes)} boxes with the labels {sorted(set(labels.tolist()))} for {classes} classes"
        raise UsageError("PTD-884", problem, "give one label from 0 on for each box")
    order = torch.argsort(labels, stable=True)[: config.max_objects]
    return to_clockwise(boxes[order]), labels[order]


def _rows(boxes: Tensor, maps: MapGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Cell x, y of each box, whether it counts, and its row, 0 where it does not."""
    place = (boxes[:, :2] - boxes.new_tensor(maps.grid.range_m[:2])) / boxes.new_tensor(maps.cell_m)
    cell = torch.floor(place)
    shape = boxes.new_tensor(maps.shape[::-1])
    counts = ((cell >= 0) & (cell < shape)).all(dim=1) & (boxes[:, 3:6] > 0).all(dim=1) & boxes.isfinite().all(dim=1)
    sizes = torch.where(counts[:, None], boxes[:, 3:6], torch.ones_like(boxes[:, 3:6]))
    centre = boxes[:, 2:3] + boxes[:, 5:6] / 2
    turn = [torch.sin(boxes[:, 6:7]), torch.cos(boxes[:, 6:7])]
    velocity = boxes[:, 7:9] if boxes.shape[1] == 9 else boxes.new_zeros(len(boxes), 2)
    rows = torch.cat([place - cell, centre, sizes.log(), *turn, velocity], dim=1)
    cell = torch.where(counts[:, None], cell, torch.zeros_like(cell))
    return cell.long(), counts, torch.where(counts[:, None], rows, torch.zeros_like(rows))


def _radius(boxes: Tensor, maps: MapGrid, config: TargetConfig) -> Tensor:
    """Radius of each box's Gaussian in whole cells, int64 (n,)."""
    w, h = (boxes[:, 3:5] / boxes.new_tensor(maps.cell_m)).unbind(1)
    o = config.overlap
    found = [
        _larger_root(torch.ones_like(h), h + w, w * h * (1 - o) / (1 + o)),
        _larger_root(torch.full_like(h, 4), 2 * (h + w), (1 - o) * w * h),
        _larger_root(torch.full_like(h, 4 * o), -2 * o * (h + w), (o - 1) * w * h),
    ]
    smallest = torch.stack(found).amin(dim=0)
    # int() before the lower bound; what is no number is left out by the mask
    return torch.nan_to_num(smallest, nan=0.0, posinf=0.0).long().clamp(config.min_radius, max(maps.shape))


def _larger_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """As published, never divided by a."""
    return (b + torch.sqrt((b * b - 4 * a * c).clamp(min=0))) / 2


def _draw(heatmap: Tensor, labels: Tensor, cells: Tensor, radii: Tensor) -> None:
    """Raise the heatmap (classes, h, w) to the Gaussians around the cells (n, 2: x, y)."""
    if not len(labels):
        return
    reach = int(radii.max())
    step = torch.arange(-reach, reach + 1, device=heatmap.device)
    dy, dx = (part.flatten() for part in torch.meshgrid(step, step, indexing="ij"))
    x, y = cells[:, :1] + dx, cells[:, 1:] + dy
    inside = (torch.maximum(dx.abs(), dy.abs())[None] <= radii[:, None]) & (x >= 0) & (y >= 0)
    inside &= (x < heatmap.shape[2]) & (y < heatmap.shape[1])
    sigma = ((2 * radii + 1) / 6).to(heatmap.dtype)[:, None]
    value = torch.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
    place = (labels[:, None] * heatmap.shape[1] + y) * heatmap.shape[2] + x
    flat = heatmap.view(-1)
    flat.scatter_reduce_(0, place[inside], value[inside].to(heatmap.dtype), "amax")
