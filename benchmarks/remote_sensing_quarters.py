"""Cuts a pair of scenes with a partly known reference into a folder of labelled pairs, to cross-validate on.

    python benchmarks/remote_sensing_quarters.py BEFORE AFTER --changed CHANGED --unchanged UNCHANGED -o PAIRS

CHANGED and UNCHANGED are pictures of the scene's size that are not 0 where change, or its absence, is known; what
neither marks is nodata in the label, so that it is neither learnt from nor scored. PAIRS takes the layout of LEVIR-CD,
as GeoTIFF with the scene's place and bands: four pairs (--parts 2), which ``remote_sensing_folds.py`` reads.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from pentad.core.files import atomic

UNKNOWN = 255


def write(path: Path, values: Any, like: Any, window: Window, nodata: int | None) -> None:
    """Write bands (bands, rows, columns) of a window of ``like`` as GeoTIFF."""
    count, height, width = values.shape
    settings = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    place = {"crs": like.crs, "transform": like.window_transform(window)}
    with atomic(path) as temporary, rasterio.open(temporary, "w", nodata=nodata, **settings, **place) as out:
        out.write(values)


def reference(changed: Path, unchanged: Path) -> Any:
    """Return 1 where the scene changed, 0 where it did not and 255 where that is not known, (1, rows, columns)."""
    with rasterio.open(changed) as one, rasterio.open(unchanged) as other:
        marked = [source.read(1) > 0 for source in (one, other)]
    return np.where(marked[0], 1, np.where(marked[1], 0, UNKNOWN)).astype(np.uint8)[None]


def main() -> None:
    """Cut both dates and the reference alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--changed", type=Path, required=True)
    parser.add_argument("--unchanged", type=Path, required=True)
    parser.add_argument("--parts", type=int, default=2, help="Parts of each side.")
    parser.add_argument("--out", "-o", type=Path, required=True)
    asked = parser.parse_args()
    label = reference(asked.changed, asked.unchanged)
    with rasterio.open(asked.before) as before, rasterio.open(asked.after) as after:
        height, width = before.height // asked.parts, before.width // asked.parts
        for row, column in itertools.product(range(asked.parts), repeat=2):
            window = Window(column * width, row * height, width, height)
            name = f"part-{row}-{column}.tif"
            for role, source in (("A", before), ("B", after)):
                write(asked.out / role / name, source.read(window=window), source, window, source.nodata)
            rows, columns = window.toslices()
            write(asked.out / "label" / name, label[:, rows, columns], before, window, UNKNOWN)


if __name__ == "__main__":
    main()
