"""Two rasters of one place as one object: checked against each other, read window by window, with one mask of validity.

A pair shares one grid, that of the first date. Plain pictures (PNG, JPEG, BMP) have no place on Earth and need only
the same size; anything else must say where it lies.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from pentad.core.errors import CaseError

PICTURES = ("PNG", "JPEG", "BMP")
_STRIP = 1 << 20  # pixels of a strip, so that what is computed on it stays within some hundred megabytes
_SAME_PLACE = 0.01  # of a pixel, by which two grids may differ and still be one

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
_GDAL = {
    # Megabytes; GDAL's own default is a twentieth of the machine's memory, whatever a scene needs.
    "GDAL_CACHEMAX": "256",
    # Whatever it is called, a file may be a list of addresses, as VRT and WMS are: what it names is not fetched.
    "GDAL_SKIP": "HTTP WMS WMTS WCS EEDA EEDAI PLMOSAIC STACIT STACTA DAAS",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_HTTP_PROXY": "127.0.0.1:9",  # for what the other two leave: a port that refuses
}
for _name, _value in _GDAL.items():
    os.environ.setdefault(_name, _value)


@dataclass(frozen=True)
class PairConfig:
    """How two dates are brought together.

    Attributes:
        warp: Warp the second date onto the first one's grid (bilinear), whatever its own grid.
        unplaced: Accept rasters that do not say where they lie, if they are of one size.
    """

    warp: bool = False
    unplaced: bool = False


@dataclass(frozen=True)
class Pair:
    """Two open rasters on one grid; `open_pair` makes and closes it.

    Attributes:
        before: The first date.
        after: The second, or a view of it warped onto the first one's grid.
        bands: Numbers of the image's bands, without alpha.
        after_bands: The same of the second date.
    """

    before: Any
    after: Any
    bands: tuple[int, ...]
    after_bands: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.before.height), int(self.before.width)

    @property
    def placed(self) -> bool:
        """Whether it is known where on Earth the pair lies."""
        return self.before.crs is not None

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Return both dates (bands, rows, columns) and where both are valid (rows, columns); 0 where not.

        Raises:
            CaseError: A file cannot be read to its end (PTD-853).
        """
        window = Window.from_slices(rows, columns)
        first, valid = _read(self.before, self.bands, window)
        second, also = _read(self.after, self.after_bands, window)
        valid &= also
        return np.where(valid, first, np.float32(0)), np.where(valid, second, np.float32(0)), valid

    def strips(
        self, rows: int = 0, first: int = 0
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32], Any]]:
        """Yield first row, both dates and validity of strips over the whole width, from the row ``first`` on.

        Args:
            rows: Of a strip; 0 takes at most 512, and fewer where the pair is wide.
            first: Row to begin with.
        """
        height, width = self.shape
        rows = rows or max(16, min(512, _STRIP // width))
        for start in range(first, height, rows):
            yield start, *self.read(slice(start, min(start + rows, height)), slice(0, width))

    def preview(self, side: int = 512) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both dates, (bands, rows, columns), reduced so that the longer side is at most ``side``."""
        height, width = self.shape
        factor = max(1.0, max(height, width) / side)
        size = (max(1, round(height / factor)), max(1, round(width / factor)))
        before = self.before.read(list(self.bands), out_shape=(len(self.bands), *size))
        after = self.after.read(list(self.after_bands), out_shape=(len(self.bands), *size))
        return before.astype(np.float32), after.astype(np.float32)


@contextlib.contextmanager
def open_pair(before: Path, after: Path, config: PairConfig = PairConfig()) -> Iterator[Pair]:
    """Open two rasters of one place for the block.

    Raises:
        CaseError: One of them is no raster, has no or another coordinate reference system, lies on a rotated grid
            or elsewhere; or the two have different bands or sizes.
    """
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(_open(path)) for path in (before, after))
        bands = _check_bands(first, second, before.name)
        if _is_placed(first, second, config):
            second = stack.enter_context(_onto(first, second, config, before.name, after.name))
        elif first.shape != second.shape:
            problem = f"{_size(first)} pixels, the other date {_size(second)}"
            raise CaseError("PTD-851", problem, "cut both dates to one size", before.name)
        yield Pair(first, second, *bands)


def _open(path: Path) -> Any:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CaseError("PTD-845", "it is a pipe or a device", "give a file", path.name)
    try:
        return rasterio.open(path)
    except (RasterioError, UnicodeEncodeError) as error:
        if not path.exists():
            raise CaseError("PTD-845", "there is no such file", "correct the path", path.name) from None
        problem = f"it cannot be opened as a raster ({type(error).__name__})"
        raise CaseError("PTD-845", problem, "give a GeoTIFF, VRT or another raster GDAL reads", path.name) from None


def _bands(source: Any) -> tuple[int, ...]:
    return tuple(
        number
        for number, meaning in zip(source.indexes, source.colorinterp, strict=True)
        if meaning != ColorInterp.alpha
    )


def _check_bands(first: Any, second: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    bands = _bands(first), _bands(second)
    kinds = [f"{len(own)} bands of {source.dtypes[0]}" for own, source in zip(bands, (first, second), strict=True)]
    if kinds[0] != kinds[1]:
        problem = f"{kinds[0]}, the other date {kinds[1]}"
        raise CaseError("PTD-850", problem, "give both dates with the same bands and data type", name)
    names = [
        tuple(str(source.descriptions[number - 1] or "").lower() for number in own)
        for own, source in zip(bands, (first, second), strict=True)
    ]
    if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
        problem = f"the bands are {', '.join(names[0])}, of the other date {', '.join(names[1])}"
        raise CaseError("PTD-850", problem, "bring the bands of both dates into one order", name)
    return bands


def _is_placed(first: Any, second: Any, config: PairConfig) -> bool:
    """Whether both rasters say where they lie; pictures and what is ``unplaced`` on purpose need not."""
    if config.unplaced or (first.driver in PICTURES and second.driver in PICTURES):
        return first.crs is not None and second.crs is not None and not config.unplaced
    for source in (first, second):
        place = Path(source.name).name
        if source.crs is None:
            remedy = "assign one (gdal_edit.py -a_srs EPSG:…), or say that the pair is unplaced"
            raise CaseError("PTD-846", "no coordinate reference system", remedy, place)
        grid = source.transform
        if abs(grid.b) > 1e-9 * abs(grid.a) or abs(grid.d) > 1e-9 * abs(grid.e) or grid.a <= 0 or grid.e >= 0:
            problem = f"its grid is rotated or not north-up ({grid.a:g}, {grid.b:g}, {grid.d:g}, {grid.e:g})"
            raise CaseError("PTD-847", problem, "warp it to a north-up grid (gdalwarp) first", place)
    return True


def _onto(first: Any, second: Any, config: PairConfig, name: str, other: str) -> Any:
    """The second raster on the first one's grid: itself where it lies there, a warped view where asked for."""
    if first.crs != second.crs and not config.warp:
        problem = f"{_system(first)}, the other date ({other}) {_system(second)}"
        raise CaseError("PTD-848", problem, "reproject one of them, or ask for the second to be warped (--warp)", name)
    if not _overlap(first, second):
        problem = f"it and the other date ({other}) do not overlap"
        raise CaseError("PTD-849", problem, "give two images of one place", name)
    if config.warp:
        # Beyond the second date's own pixels nothing is known: without nodata of its own an alpha band says so.
        return WarpedVRT(
            second,
            crs=first.crs,
            transform=first.transform,
            width=first.width,
            height=first.height,
            resampling=Resampling.bilinear,
            add_alpha=second.nodata is None and ColorInterp.alpha not in second.colorinterp,
        )
    grids = first.transform, second.transform
    away = max(abs(one - two) for one, two in zip(grids[0], grids[1], strict=True)) / abs(grids[0].a)
    if first.shape != second.shape or away > _SAME_PLACE:
        problem = f"{_grid(first)}; the other date ({other}) {_grid(second)}"
        remedy = "cut both dates to one grid, or ask for the second to be warped (--warp)"
        raise CaseError("PTD-851", problem, remedy, name)
    return contextlib.nullcontext(second)


def _overlap(first: Any, second: Any) -> bool:
    here = first.bounds
    try:
        there = second.bounds if first.crs == second.crs else transform_bounds(second.crs, first.crs, *second.bounds)
    except RasterioError:
        return False
    across = max(here[0], there[0]) < min(here[2], there[2])
    return bool(across and max(here[1], there[1]) < min(here[3], there[3]))


def _size(source: Any) -> str:
    return f"{source.width} x {source.height}"


def _grid(source: Any) -> str:
    grid = source.transform
    return f"{_size(source)} pixels of {grid.a:.6g} x {-grid.e:.6g} from ({grid.c:.10g}, {grid.f:.10g})"


def _system(source: Any) -> str:
    return str(source.crs.to_string())[:40]


def _read(source: Any, bands: tuple[int, ...], window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    try:
        values = source.read(list(bands), window=window)
        mask = source.dataset_mask(window=window) > 0
    except RasterioError as error:
        cause = " ".join(str(error.__cause__ or error).split())[:120].rstrip(".")
        name = Path(getattr(source, "src_dataset", source).name).name
        problem = f"it ends early or is damaged ({cause})"
        raise CaseError("PTD-853", problem, "fetch or export the file again", name) from None
    single = values.astype(np.float32)
    valid: NDArray[np.bool_] = mask & np.isfinite(single).all(axis=0)
    return single, valid


def require_valid(count: int, name: str) -> None:
    """See that anything of a pair can be used.

    Args:
        count: Pixels valid at both dates.
        name: What the pair is called.

    Raises:
        CaseError: There are none (PTD-852).
    """
    if count == 0:
        problem = "no pixel is valid at both dates: all is nodata, transparent or not finite"
        raise CaseError("PTD-852", problem, "check the files' nodata values", name)
