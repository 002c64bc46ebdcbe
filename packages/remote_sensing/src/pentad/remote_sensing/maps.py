"""Maps that open in a GIS: Cloud-Optimised GeoTIFF of what was found and how likely it is, written strip by strip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from pentad.core.errors import CaseError
from pentad.remote_sensing.legend import Legend
from pentad.remote_sensing.metrics import pair_code
from pentad.remote_sensing.raster import Pair, require_valid
from pentad.remote_sensing.strips import Strip
from pentad.remote_sensing.tasks import Task

NODATA = 255
PROBABILITY = "probability"
PROBABILITY_STEPS = 200
"""Probability 1 in the uint8 band of probability: a step is half a percent."""


@dataclass(frozen=True)
class Drawn:
    """Some rows of every map.

    Attributes:
        start: First row.
        maps: Map to values (rows, width), 255 where a date is not known.
    """

    start: int
    maps: Mapping[str, NDArray[np.uint8]]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.maps[PROBABILITY])


def draw(task: Task, threshold: float, strip: Strip) -> Drawn:
    """Return a strip's part of the maps.

    Args:
        task: What was looked for.
        threshold: Probability from which a pixel counts as found.
        strip: What was found.
    """
    mask = strip.probability >= threshold
    values = {task.mask: mask, PROBABILITY: np.rint(strip.probability * PROBABILITY_STEPS)}
    values |= {layer: np.where(mask, strip.classes[number], 0) for number, layer in enumerate(task.layers)}
    if "transition" in task.maps:
        values["transition"] = pair_code(mask, strip.classes[0], strip.classes[1])
    return Drawn(
        strip.start, {name: np.where(strip.valid, value, NODATA).astype(np.uint8) for name, value in values.items()}
    )


def write_maps(
    folder: Path, strips: Iterable[Drawn], pair: Pair, legends: Mapping[str, Legend], tags: Mapping[str, str]
) -> dict[str, int]:
    """Write a Cloud-Optimised GeoTIFF for each map on the first date's grid and return counts of pixels.

    All are uint8, deflated, with overviews where they are large, 255 for nodata, and a colour table;
    ``probability.tif`` holds the probability of the mask times 200, rounded, and no colours.

    Args:
        folder: Where to write.
        strips: From top to bottom.
        pair: The pair they are of.
        legends: Of every map, that of the mask first.
        tags: What the files state of their making.

    Raises:
        CaseError: No pixel is valid at both dates, or the maps cannot be written.
    """
    mask = next(iter(legends))
    valid = found = 0
    drafts = {name: folder / f".draft-{name}.tif" for name in (*legends, PROBABILITY)}
    try:
        with contextlib.ExitStack() as stack:
            outs = {name: stack.enter_context(_draft(path, pair)) for name, path in drafts.items()}
            for name, out in outs.items():
                _describe(out, name, mask, legends.get(name, {}))
                out.update_tags(**tags)
            for drawn in strips:
                for name, values in drawn.maps.items():
                    outs[name].write(values, 1, window=Window(0, drawn.start, values.shape[1], len(values)))
                valid += int((drawn.maps[mask] != NODATA).sum())
                found += int((drawn.maps[mask] == 1).sum())
        require_valid(valid, Path(pair.before.name).name)
        for name, path in drafts.items():
            _to_cog(path, folder / f"{name}.tif")
    finally:
        for path in drafts.values():
            path.unlink(missing_ok=True)
    return {"valid_px": valid, f"{'changed' if mask == 'change' else mask}_px": found}


def _describe(out: Any, name: str, mask: str, legend: Legend) -> None:
    out.set_band_description(1, name if legend else f"{name} of {mask} times {PROBABILITY_STEPS}")
    if legend:
        out.write_colormap(1, {number: colour for number, (_, colour) in legend.items()})
        names = {f"CLASS_{number}": label for number, (label, _) in legend.items()}
        out.update_tags(**names)


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
