"""Changed areas as polygons in a GeoPackage, with a QGIS style beside it.

Areas are taken in a Lambert azimuthal equal-area projection about the middle of the scene (Snyder, USGS Professional
Paper 1395, 1987), of the polygon as it is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import geopandas
import numpy as np
import rasterio
from rasterio.features import geometry_mask, geometry_window, shapes
from rasterio.warp import transform_bounds
from shapely.geometry import shape

from pentad.core.files import write_text
from pentad.remote_sensing.legend import Legend
from pentad.remote_sensing.maps import NODATA, PROBABILITY, PROBABILITY_STEPS

LAYER = "changes"


@dataclass(frozen=True)
class PolygonConfig:
    """Section ``predict`` of params.yaml.

    Attributes:
        smallest_m2: Leave out smaller areas, m²; for pairs without a place, pixels.
        simplify_pixels: Largest shift of an outline by its simplification, in pixels of the first date; 0 keeps it.
    """

    smallest_m2: float = 10.0
    simplify_pixels: float = 0.0


@dataclass(frozen=True)
class Source:
    """Which map becomes polygons.

    Attributes:
        outlined: Map whose areas of one value, other than 0 and nodata, are the polygons.
        named: Map that tells their class: the commonest value inside.
        legend: Of that map.
    """

    outlined: str
    named: str
    legend: Legend


def write_polygons(
    folder: Path, config: PolygonConfig, source: Source, dates: tuple[str, str] = ("", "")
) -> dict[str, float | int]:
    """Write ``changes.gpkg`` and ``changes.qml`` from the maps in ``folder``; return their number and total area.

    Args:
        folder: With the maps and ``probability.tif``.
        config: What to leave out.
        source: Which map to take.
        dates: Of the two images, or empty.
    """
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        maps = {
            name: stack.enter_context(rasterio.open(folder / f"{name}.tif"))
            for name in {source.outlined, source.named, PROBABILITY}
        }
        change = maps[source.outlined]
        crs, placed = change.crs, change.crs is not None
        tolerance = config.simplify_pixels * abs(change.transform.a)
        for outline, number, mean in _outlines(change, maps[source.named], maps[PROBABILITY]):
            simple = outline.simplify(tolerance) if tolerance else outline
            name = source.legend.get(number, (f"class {number}",))[0]
            rows.append({"class": name, "mean_probability": mean, "geometry": simple})
        projection = _equal_area(change) if placed else None
    table = geopandas.GeoDataFrame(rows, columns=["class", "mean_probability", "geometry"], crs=crs)
    area = table.to_crs(projection).area if placed and len(table) else table.area
    name = "area_m2" if placed else "area_px"
    table[name] = area.astype(float)
    table["date_before"], table["date_after"] = dates
    table = table[table[name] >= config.smallest_m2].reset_index(drop=True)
    table.to_file(folder / "changes.gpkg", layer=LAYER, driver="GPKG", engine="pyogrio", geometry_type="Polygon")
    write_text(folder / "changes.qml", _style(source.legend))
    return {"polygons": len(table), f"total_{name}": round(float(table[name].sum()), 3)}


def _outlines(outlined: Any, named: Any, probability: Any) -> Iterator[tuple[Any, int, float]]:
    """Yield each area's outline, class and mean probability, reading only the window about it."""
    band = rasterio.band(outlined, 1)
    # The band as its own mask: what is 0 has no outline, else that of all unchanged land would be held in memory.
    for geometry, value in shapes(band, mask=band, connectivity=4, transform=outlined.transform):
        if value in (0, NODATA):
            continue
        window = geometry_window(probability, [geometry])
        steps, classes = probability.read(1, window=window), named.read(1, window=window)
        place = probability.window_transform(window)
        inside = geometry_mask([geometry], steps.shape, place, invert=True) & (steps != NODATA)
        commonest = int(np.bincount(classes[inside]).argmax())
        yield shape(geometry), commonest, round(float(np.mean(steps[inside])) / PROBABILITY_STEPS, 4)


def _equal_area(source: Any) -> str:
    west, south, east, north = transform_bounds(source.crs, "EPSG:4326", *source.bounds)
    return f"+proj=laea +lat_0={(south + north) / 2:.6f} +lon_0={(west + east) / 2:.6f} +datum=WGS84 +units=m"


def _style(legend: Legend) -> str:
    """A QGIS style with one category for each class."""
    shown = {number: entry for number, entry in legend.items() if number}
    categories = "\n".join(
        f'      <category render="true" symbol="{number}" value={quoteattr(name)} label={quoteattr(name)}/>'
        for number, (name, _) in shown.items()
    )
    symbols = "\n".join(_SYMBOL.format(number, *colour[:3]) for number, (_, colour) in shown.items())
    return _STYLE.format(categories=categories, symbols=symbols)


_SYMBOL = """\
      <symbol type="fill" name="{0}" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleFill" enabled="1" locked="0" pass="0">
          <Option type="Map">
            <Option type="QString" name="color" value="{1},{2},{3},70"/>
            <Option type="QString" name="outline_color" value="{1},{2},{3},255"/>
            <Option type="QString" name="outline_style" value="solid"/>
            <Option type="QString" name="outline_width" value="0.5"/>
            <Option type="QString" name="style" value="solid"/>
          </Option>
        </layer>
      </symbol>"""
_STYLE = """\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <renderer-v2 type="categorizedSymbol" attr="class" enableorderby="0" forceraster="0" symbollevels="0">
    <categories>
{categories}
    </categories>
    <symbols>
{symbols}
    </symbols>
  </renderer-v2>
</qgis>
"""
