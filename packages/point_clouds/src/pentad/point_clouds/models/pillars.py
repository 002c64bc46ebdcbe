"""Points to pillars: which cell each point falls into, and a learned feature of every cell that holds points.

Paper: Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, arXiv 1812.05784,
in the form that FlatFormer publishes (mit-han-lab/flatformer, no licence file): two layers, of which the second sees
the maximum of the first. Deviations: points outside the range, or with a coordinate that is no number, are left out,
where the published voxeliser moves them into border cells; every pillar is kept, where the published scatter loses the
first of each sample (`Pillars.without_first` reproduces that).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.errors import ModelError, UsageError
from pentad.point_clouds.grid import GridConfig

_EPS = 1e-3  # of the norms on pillars, as published


@dataclass(frozen=True)
class Pillars:
    """The cells of a batch that hold points, sorted by sample, then y, then x.

    Attributes:
        cells: Sample, y and x of each pillar, int64 (n, 3).
        counts: Pillars of each sample, int64 (b,); 0 for an empty one.
        owner: Pillar of each point that was kept, int64 (p,).
        points: The points that were kept, (p, columns).
    """

    cells: Tensor
    counts: Tensor
    owner: Tensor
    points: Tensor

    def without_first(self) -> Pillars:
        """Return the pillars that the published scatter keeps: all but the first of each sample."""
        starts = self.counts.cumsum(0) - self.counts
        kept = torch.ones(len(self.cells), dtype=torch.bool, device=self.cells.device)
        kept[starts[self.counts > 0]] = False
        number = kept.cumsum(0) - 1
        of_kept = kept[self.owner]
        return replace(
            self,
            cells=self.cells[kept],
            counts=(self.counts - 1).clamp(min=0),
            owner=number[self.owner[of_kept]],
            points=self.points[of_kept],
        )


def find_pillars(points: Tensor, counts: Tensor, grid: GridConfig) -> Pillars:
    """Return the pillars of a batch of sweeps.

    Args:
        points: The samples' points one after another, x, y, z first, (p, columns).
        counts: Points of each sample, whole numbers (b,).
        grid: The cells.
    """
    counts = counts.to(points.device)
    sample = torch.repeat_interleave(torch.arange(len(counts), device=points.device), counts)
    low, high = (points.new_tensor(bound, dtype=torch.float32) for bound in (grid.range_m[:3], grid.range_m[3:]))
    xyz = points[:, :3].float()
    inside = ((xyz >= low) & (xyz < high)).all(dim=1)
    points, sample, xyz = points[inside], sample[inside], xyz[inside]
    ny, nx = grid.shape
    # float32, as published, decides on which side of a border a point falls; rounding may reach the border itself.
    cell = torch.floor((xyz[:, :2] - low[:2]) / xyz.new_tensor(grid.cell_m)).long()
    x, y = cell[:, 0].clamp(0, nx - 1), cell[:, 1].clamp(0, ny - 1)
    found, owner = torch.unique((sample * ny + y) * nx + x, return_inverse=True)
    cells = torch.stack([found // (ny * nx), found // nx % ny, found % nx], dim=1)
    return Pillars(cells, torch.bincount(cells[:, 0], minlength=len(counts)), owner, points)


def point_features(pillars: Pillars, grid: GridConfig) -> Tensor:
    """Return what the encoder sees of each point: its columns, its offset from its pillar's mean and from its centre.

    Returns:
        (p, columns + 6).
    """
    points, xyz = pillars.points, pillars.points[:, :3]
    sums = points.new_zeros(len(pillars.cells), 3).index_add_(0, pillars.owner, xyz)
    number = torch.bincount(pillars.owner, minlength=len(pillars.cells)).to(points.dtype)
    low, high = grid.range_m[:3], grid.range_m[3:]
    cell = points.new_tensor(grid.cell_m)
    flat = (pillars.cells[:, [2, 1]].to(points.dtype) + 0.5) * cell + points.new_tensor(low[:2])
    height = flat.new_full((len(flat), 1), (low[2] + high[2]) / 2)
    centres = torch.cat([flat, height], dim=1)
    mean = sums / number.clamp(min=1).unsqueeze(1)
    return torch.cat([points, xyz - mean[pillars.owner], xyz - centres[pillars.owner]], dim=1)


def pillar_maximum(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Return each pillar's maximum of its points' values: (p, c) to (count, c); equal maxima share the gradient."""
    index, nothing = owner.unsqueeze(1).expand_as(values), values.new_zeros(count, values.shape[1])
    with torch.no_grad():
        peak = nothing.scatter_reduce(0, index, values, "amax", include_self=False)
        if not values.requires_grad:
            return peak
        # As a weighted sum over the points: its gradient takes a third of the time of the maximum's own.
        share = (values == peak.index_select(0, owner)).to(values.dtype)
        share = share / nothing.index_add(0, owner, share).index_select(0, owner)
    return nothing.index_add(0, owner, values * share)


class PillarLayer(nn.Module):
    """A linear layer without bias, a norm over the points and a ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=_EPS)
        self.linear = nn.Linear(channels, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (p, width) for ``x`` (p, channels)."""
        return functional.relu(self.norm(self.linear(x)))


class PillarEncoder(nn.Module):
    """Points of pillars to one feature a pillar.

    Args:
        columns: Numbers per point: x, y, z and further ones, each of the size of 1.
        widths: Channels of each layer; every layer but the first sees its input beside its pillar's maximum of it.
        grid: The cells.
    """

    def __init__(self, columns: int, widths: tuple[int, ...], grid: GridConfig) -> None:
        super().__init__()
        if columns < 3 or not widths or min(widths) < 1:
            problem = f"no pillar encoder has {columns} columns and widths {widths}"
            raise ModelError("PTD-881", problem, "give at least 3 columns and one width above 0")
        self.columns, self.grid = columns, grid
        entries = (columns + 6, *(2 * width for width in widths))
        self.vfe_layers = nn.ModuleList(
            PillarLayer(entry, width) for entry, width in zip(entries, widths, strict=False)
        )

    def find(self, points: Tensor, counts: Tensor) -> Pillars:
        """Return the pillars of a batch; arguments as in `find_pillars`.

        Raises:
            UsageError: Points or counts are of another shape than the model takes (PTD-882).
        """
        if points.dim() != 2 or points.shape[1] != self.columns or int(counts.sum()) != len(points):
            problem = f"points of shape {tuple(points.shape)} in samples of {counts.tolist()} points"
            remedy = f"give (points, {self.columns}) numbers, and counts that add up to the points"
            raise UsageError("PTD-882", problem, remedy)
        return find_pillars(points, counts, self.grid)

    def forward(self, pillars: Pillars) -> Tensor:
        """Return the pillars' features, (n, last width)."""
        count = len(pillars.cells)
        x = point_features(pillars, self.grid)
        for number, layer in enumerate(self.vfe_layers):
            if number:
                x = torch.cat([x, pillar_maximum(x, pillars.owner, count).index_select(0, pillars.owner)], dim=1)
            x = layer(x)
        return pillar_maximum(x, pillars.owner, count)
