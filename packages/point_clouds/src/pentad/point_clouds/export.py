"""A bundle as ONNX, compared with the model it was made from before it is handed over.

It holds a network from the points of one sweep, any number of them, to the head's raw maps; reading, decoding and
suppression are the reader's. FlatFormer has no such form: how its pillars are sorted and grouped depends on the sweep.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.bundle import CARD, Bundle, load_bundle
from pentad.core.config import to_mapping
from pentad.core.export import TOLERANCE, compare, exporter, new_export, not_exportable, write_onnx, write_report
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models import MODELS
from pentad.point_clouds.models.detector import Detector
from pentad.point_clouds.models.flatformer import FlatFormer
from pentad.point_clouds.models.pillars import Pillars

FORMATS = ("onnx",)
_COUNTS = (4000, 1500)  # points of the generated sweeps
Outputs = list[NDArray[np.float32]]


def export(source: str, kind: str, out: Path, *, tolerance: float = TOLERANCE, overwrite: bool = False) -> str:
    """Write a bundle in another format, whole and proven or not at all, and return a one-line summary.

    Args:
        source: Folder or hub id of the bundle.
        kind: One of `FORMATS`.
        out: Folder to make; ``parity.json`` in it says how near the result is.
        tolerance: Largest error allowed, as a share of the largest output.
        overwrite: Replace an earlier export.

    Raises:
        UsageError: Unknown format, a missing library, or a target that is taken.
        ModelError: There is no such bundle, its model cannot be written so, or gives other numbers there.
    """
    with new_export(out, kind, FORMATS, "point_clouds", overwrite=overwrite) as folder:
        bundle = load_bundle(source, "point_clouds", {name: cls for name, (_, cls) in MODELS.items()})
        model = bundle.model
        assert isinstance(model, Detector)
        if isinstance(model, FlatFormer):
            problem = "FlatFormer sorts and groups pillars anew for every sweep, which has no fixed form in ONNX"
            raise not_exportable(problem, "export a point_pillars, or use the bundle itself", bundle.folder)
        sweeps = [_sweep(model, count, seed) for seed, count in enumerate(_COUNTS)]
        with exporter(bundle.name, kind, bundle.folder):
            again = _write(bundle, model, sweeps[0], folder)
            found = [output for sweep in sweeps for output in again(sweep)]
        wanted = [output for sweep in sweeps for output in _run(model, sweep)]
        near = compare(found, wanted, where=bundle.folder, tolerance=tolerance)
        shutil.copyfile(bundle.folder / CARD, folder / CARD)
        about = {
            "input": f"points (any number, {model.config.columns}): x, y, z in m, then columns of the size of 1",
            "outputs": list(model.bbox_head.branches),
            **near,
            "compared_on": f"generated sweeps of {_COUNTS[0]} and {_COUNTS[1]} points, float32, CPU",
            "grid": to_mapping(model.grid),
            "settings": bundle.settings,
        }
        write_report(folder, bundle, kind, "point_clouds", about)
    return f"{out}: largest error {near['largest_error']:.1e} of {near['largest_logit']:.1e}"


def _sweep(model: Detector, count: int, seed: int) -> Tensor:
    """Points in and around the grid's range, (count, columns)."""
    draw = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in _span(model.grid))
    xyz = low + (high - low) * (1.1 * torch.rand(count, 3, generator=draw) - 0.05)
    return torch.cat([xyz, torch.rand(count, model.config.columns - 3, generator=draw)], dim=1)


def _span(grid: GridConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return grid.range_m[:3], grid.range_m[3:]


def _run(model: Detector, points: Tensor) -> Outputs:
    with torch.inference_mode():
        return [part.numpy() for part in model(points, torch.tensor([len(points)])).values()]


class EveryCell(nn.Module):
    """A detector of one sweep with a pillar in every cell of the grid, so that no shape depends on where points lie.

    Points out of range share a pillar more, which no map shows. Gives what the detector gives.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        low, high = _span(model.grid)
        self.low, self.high = nn.Buffer(torch.tensor(low)), nn.Buffer(torch.tensor(high))
        self.sides = nn.Buffer(torch.tensor(model.grid.cell_m))
        ny, nx = model.grid.shape
        y, x = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
        cells = torch.stack([torch.zeros_like(x), y, x], dim=-1).reshape(-1, 3)
        self.cells = nn.Buffer(torch.cat([cells, torch.zeros(1, 3, dtype=torch.long)]))

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        """Return the head's raw maps in the order of its branches, each (1, channels, h, w).

        Args:
            points: (p, columns).
        """
        ny, nx = self.model.grid.shape
        inside = ((points[:, :3] >= self.low) & (points[:, :3] < self.high)).all(dim=1)
        cell = torch.floor((points[:, :2] - self.low[:2]) / self.sides).long()
        place = cell[:, 1].clamp(0, ny - 1) * nx + cell[:, 0].clamp(0, nx - 1)
        owner = torch.where(inside, place, torch.full_like(place, ny * nx))
        pillars = Pillars(self.cells, torch.tensor([ny * nx + 1]), owner, points)
        features = self.model.voxel_encoder(pillars)[: ny * nx]
        bev = features.view(1, ny, nx, -1).permute(0, 3, 1, 2)
        maps: dict[str, Tensor] = self.model.bbox_head(self.model.neck(self.model.backbone(bev)))
        return tuple(maps.values())


def _write(bundle: Bundle, model: Detector, points: Tensor, folder: Path) -> Callable[[Tensor], Outputs]:
    """Write ``model.onnx`` and return what runs it."""
    return write_onnx(
        EveryCell(model).eval(),
        {"points": points},
        list(model.bbox_head.branches),
        folder,
        told={"model": bundle.name, "digest": bundle.digest},
        dynamic_shapes=({0: torch.export.Dim("points", min=2)},),
    )
