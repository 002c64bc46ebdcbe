"""One page a pair: before, after and what was found, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pentad.core.report import Figure, Table, Text, write_page
from pentad.remote_sensing.maps import NODATA
from pentad.remote_sensing.polygons import Source
from pentad.remote_sensing.raster import Pair


def write_case_page(
    folder: Path,
    name: str,
    pair: Pair,
    source: Source,
    found: Mapping[str, float | int | str],
    statement: Mapping[str, Any],
) -> None:
    """Write ``page.html`` beside the maps in ``folder``.

    Args:
        folder: With the maps.
        name: What the pair is called.
        pair: The open pair.
        source: The map to outline, and the one that tells classes.
        found: What to show in the table.
        statement: The provenance.
    """
    before, after = pair.preview()
    with rasterio.open(folder / f"{source.named}.tif") as stored:
        values = stored.read(1, out_shape=before.shape[1:])
    drawing = _side_by_side(before, after, values, source)
    words = f"Before, after, and after with every {source.named} outlined; grey: not valid at one of the dates."
    figure = Figure(drawing, alt=words, caption=words)
    note = "Colours are stretched to the image's own range. A model's finding; not checked by a person."
    table = Table(["what", "value"], [[key, value] for key, value in found.items()])
    write_page(folder / "page.html", name, [figure, table, Text("", [note])], statement)


def _side_by_side(before: NDArray[Any], after: NDArray[Any], values: NDArray[Any], source: Source) -> Drawing:
    drawing = Drawing(figsize=(9, 3.6), layout="constrained")
    panels = drawing.subplots(1, 3)
    pictures = [_shown(image, values != NODATA) for image in (before, after, after)]
    for axes, picture, title in zip(panels, pictures, ("before", "after", source.named), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    named = [number for number in source.legend if number and (values == number).any()]
    handles = []
    for number in named:
        label, (red, green, blue, _) = source.legend[number]
        colour = (red / 255, green / 255, blue / 255)
        panels[2].contour(values == number, levels=[0.5], colors=[colour], linewidths=1.2)
        handles.append(Line2D([], [], color=colour, label=label))
    if len(source.legend) > 2 and handles:
        drawing.legend(handles=handles, loc="outside lower center", ncols=4, fontsize="small")
    return drawing


def _shown(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The first three bands, or the first as grey, stretched between the 2nd and 98th percentile of what is valid."""
    bands = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    finite = np.where(np.isfinite(bands), bands, 0)
    low, high = np.percentile(finite[:, valid], (2, 98)) if valid.any() else (0, 1)
    stretched = np.clip((finite - low) / max(high - low, 1e-9), 0, 1)
    return np.moveaxis(np.where(valid, stretched, 0.5), 0, -1)
