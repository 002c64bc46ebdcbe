"""The ground plane's cells: those of the pillars, and those of the head's maps."""

from __future__ import annotations

from dataclasses import dataclass

from pentad.core.errors import ModelError


@dataclass(frozen=True)
class GridConfig:
    """The ground plane's cells."""

    range_m: tuple[float, float, float, float, float, float] = (-74.88, -74.88, -2.0, 74.88, 74.88, 4.0)
    """x, y, z from which and up to which points count, in metres."""
    cell_m: tuple[float, float] = (0.32, 0.32)
    """Sides of a cell along x and y in metres; it is as high as the range."""

    def __post_init__(self) -> None:
        low, high = self.range_m[:3], self.range_m[3:]
        if min(self.cell_m) <= 0 or any(one >= two for one, two in zip(low, high, strict=True)):
            problem = f"no grid has the range {self.range_m} and cells of {self.cell_m} m"
            raise ModelError("PTD-881", problem, "give minima below maxima, and sides above 0")
        for start, end, cell in zip(low, high, self.cell_m, strict=False):
            if abs((end - start) / cell - round((end - start) / cell)) > 1e-3 or round((end - start) / cell) < 1:
                problem = f"{end - start:g} m are no whole number of cells of {cell:g} m"
                raise ModelError("PTD-881", problem, "make each side of the range a multiple of the cell's")

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along y and along x."""
        x, y = (round((self.range_m[axis + 3] - self.range_m[axis]) / self.cell_m[axis]) for axis in (0, 1))
        return y, x


@dataclass(frozen=True)
class MapGrid:
    """The cells of the head's maps."""

    grid: GridConfig
    """The pillars' cells."""
    stride: int = 1
    """Pillars' cells along a side of a map's cell."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells along y and along x; the last may hang over the range."""
        y, x = self.grid.shape
        return -(-y // self.stride), -(-x // self.stride)

    @property
    def cell_m(self) -> tuple[float, float]:
        """Sides of a map's cell along x and y in metres."""
        return self.grid.cell_m[0] * self.stride, self.grid.cell_m[1] * self.stride
