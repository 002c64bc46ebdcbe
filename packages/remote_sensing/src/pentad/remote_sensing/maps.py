"""Maps that open in a GIS: Cloud-Optimised GeoTIFF of change and of its probability, written strip by strip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from pentad.core.errors import CaseError
from pentad.remote_sensing.predict import Strip
from pentad.remote_sensing.raster import Pair, require_valid

NODATA = 255
CLASSES = {0: ("unchanged", (0, 0, 0, 0)), 1: ("changed", (213, 94, 0, 255))}
PROBABILITY_STEPS = 200
"""Probability 1 in the uint8 band of probability: a step is half a percent."""


def write_maps(
    folder: Path, strips: Iterable[Strip], pair: Pair, threshold: float, tags: Mapping[str, str]
) -> dict[str, int]:
    """Write ``change.tif`` and ``probability.tif`` on the first date's grid and return counts of pixels.

    Both are Cloud-Optimised, deflated, with overviews where they are large, 255 for nodata. ``change.tif`` is 0 or 1
    with a colour table; ``probability.tif`` holds the probability of change times 200, rounded.

    Args:
        folder: Where to write.
        strips: First row, probability and validity of strips, from top to bottom.
        pair: The pair they are of.
        threshold: Probability from which a pixel counts as changed.
        tags: What the files state of their making.

    Raises:
        CaseError: No pixel is valid at both dates, or the maps cannot be written.
    """
    counts = {"valid_px": 0, "changed_px": 0}
    drafts = {name: folder / f".draft-{name}.tif" for name in ("change", "probability")}
    try:
        with contextlib.ExitStack() as stack:
            outs = {name: stack.enter_context(_draft(path, pair)) for name, path in drafts.items()}
            outs["change"].write_colormap(1, {number: colour for number, (_, colour) in CLASSES.items()})
            scale = f"probability of change times {PROBABILITY_STEPS}"
            for name, description in (("change", "change"), ("probability", scale)):
                outs[name].set_band_description(1, description)
                outs[name].update_tags(**tags)
            for start, probability, valid in strips:
                changed = probability >= threshold
                window = Window(0, start, valid.shape[1], valid.shape[0])
                steps = np.rint(probability * PROBABILITY_STEPS)
                for name, values in (("change", changed), ("probability", steps)):
                    outs[name].write(np.where(valid, values, NODATA).astype(np.uint8), 1, window=window)
                counts["valid_px"] += int(valid.sum())
                counts["changed_px"] += int((valid & changed).sum())
        require_valid(counts["valid_px"], Path(pair.before.name).name)
        for name, path in drafts.items():
            _to_cog(path, folder / f"{name}.tif")
    finally:
        for path in drafts.values():
            path.unlink(missing_ok=True)
    return counts


@contextlib.contextmanager
def _draft(path: Path, pair: Pair) -> Iterator[Any]:
    height, width = pair.shape
    place = {"crs": pair.before.crs, "transform": pair.before.transform} if pair.placed else {}
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8", nodata=NODATA, tiled=True,
        compress="deflate", BIGTIFF="IF_SAFER", **place,
    ) as out:  # fmt: skip
        yield out


def _to_cog(draft: Path, target: Path) -> None:
    from rio_cogeo.cogeo import cog_validate

    rasterio.shutil.copy(draft, target, driver="COG", compress="deflate", overview_resampling="nearest")
    sound, errors, _ = cog_validate(target)
    if not sound:
        problem = f"the map is no sound Cloud-Optimised GeoTIFF ({'; '.join(errors)})"
        raise CaseError("PTD-872", problem, "report this as a defect", target.name)
