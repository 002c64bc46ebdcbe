"""Batch prediction: maps and polygons that open elsewhere, on the first date's grid, and what fails alone."""

import csv

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
from command import call
from remote_sensing.rasters import picture, write_raster
from rio_cogeo.cogeo import cog_validate

from pentad.remote_sensing.legend import legends
from pentad.remote_sensing.maps import PROBABILITY_STEPS, draw, write_maps
from pentad.remote_sensing.polygons import PolygonConfig, Source, write_polygons
from pentad.remote_sensing.raster import open_pair
from pentad.remote_sensing.strips import Strip
from pentad.remote_sensing.tasks import TASKS

BCD = TASKS["bcd"]
LEGENDS = legends(BCD, ())
SOURCE = Source("change", "change", LEGENDS["change"])


def strips(probability, valid, rows=100):
    for start in range(0, len(probability), rows):
        some = slice(start, start + rows)
        none = np.zeros((0, *probability[some].shape), "uint8")
        yield draw(BCD, 0.5, Strip(start, probability[some], none, valid[some]))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Maps of a scene of 700 x 650 pixels with three changed squares, and a corner that is not valid."""
    folder = tmp_path_factory.mktemp("mapped")
    path = write_raster(folder / "first.tif", picture(1, 700, 650))
    probability, valid = np.full((700, 650), 0.1, "float32"), np.ones((700, 650), bool)
    probability[100:140, 200:260] = 0.9
    probability[300:302, 300:302] = 0.7
    probability[690:700, 600:650] = 0.8
    valid[:50, :50] = False
    with open_pair(path, path) as pair:
        counts = write_maps(folder, strips(probability, valid), pair, LEGENDS, {"PENTAD_MODEL": "abc"})
    return folder, probability, valid, counts


@pytest.mark.parametrize("name", ["change", "probability"])
def test_a_map_is_a_sound_cog_on_the_first_dates_grid_with_overviews(mapped, name):
    path = mapped[0] / f"{name}.tif"
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as made, rasterio.open(mapped[0] / "first.tif") as first:
        assert (made.crs, made.transform, made.shape) == (first.crs, first.transform, first.shape)
        assert (made.nodata, made.overviews(1), made.tags()["PENTAD_MODEL"]) == (255, [2], "abc")
        assert made.descriptions == ({"change": "change", "probability": "probability of change times 200"}[name],)


def test_the_maps_hold_what_was_predicted_and_nodata_where_it_was_not(mapped):
    folder, probability, valid, counts = mapped
    with rasterio.open(folder / "change.tif") as made, rasterio.open(folder / "probability.tif") as share:
        change, steps = made.read(1), share.read(1)
        assert made.colormap(1)[1] == (213, 94, 0, 255)
    assert np.array_equal(change, np.where(valid, probability >= 0.5, 255))
    assert np.abs(steps[valid] / PROBABILITY_STEPS - probability[valid]).max() <= 0.5 / PROBABILITY_STEPS + 1e-6
    assert counts == {"valid_px": int(valid.sum()), "changed_px": 40 * 60 + 4 + 500}


def test_areas_agree_with_the_ellipsoid_within_a_thousandth(mapped):
    write_polygons(mapped[0], PolygonConfig(0.0), SOURCE, ("2019-01-01", "2020-01-01"))
    table = geopandas.read_file(mapped[0] / "changes.gpkg")
    geod = pyproj.Geod(ellps="WGS84")
    truth = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in table.to_crs(4326).geometry]
    assert len(table) == 3
    assert np.abs(table["area_m2"] / truth - 1).max() < 1e-3
    assert sorted(table["mean_probability"].round(2)) == [0.7, 0.8, 0.9]
    assert set(table["date_after"]) == {"2020-01-01"}


def test_small_areas_are_left_out_and_the_total_is_of_the_rest(mapped):
    found = write_polygons(mapped[0], PolygonConfig(100.0), SOURCE)
    assert found["polygons"] == 2
    assert found["total_area_m2"] == pytest.approx((2400 + 500) * 4, rel=2e-3)


def test_an_outline_is_simplified_by_at_most_what_was_asked(mapped):
    folder, probability, valid, _ = mapped
    steps = probability.copy()
    for row in range(100, 140):  # a slope of one pixel a row
        steps[row, 200 : 200 + row - 100] = 0.1
    slope = folder / "slope"
    slope.mkdir()
    with open_pair(folder / "first.tif", folder / "first.tif") as pair:
        write_maps(slope, strips(steps, valid), pair, LEGENDS, {})
    outlines = []
    for pixels in (0.0, 1.0):
        write_polygons(slope, PolygonConfig(1000.0, pixels), SOURCE)
        table = geopandas.read_file(slope / "changes.gpkg")
        outlines.append(table.geometry[table["area_m2"].argmax()])
    whole, simple = outlines
    assert len(simple.exterior.coords) < len(whole.exterior.coords) / 5
    assert simple.hausdorff_distance(whole) <= 2.0 + 1e-6  # metres of a pixel


def test_the_qgis_style_has_a_symbol_in_the_legends_colour_for_every_class(tmp_path):
    from xml.etree import ElementTree

    task = TASKS["bda"]
    named = legends(task, task_classes := (("undamaged", "minor <5 %", "major", "destroyed"),))["damage"]
    path = write_raster(tmp_path / "first.tif", picture(1))
    none = np.ones((1, 40, 50), "uint8")
    drawn = draw(task, 0.5, Strip(0, np.ones((40, 50), "float32"), none, np.ones((40, 50), bool)))
    with open_pair(path, path) as pair:
        write_maps(tmp_path, [drawn], pair, legends(task, task_classes), {})
    write_polygons(tmp_path, PolygonConfig(), Source("building", "damage", named))
    style = ElementTree.parse(tmp_path / "changes.qml")
    assert style.find("renderer-v2").get("attr") == "class"
    symbols = {one.get("name"): one for one in style.iter("symbol")}
    categories = {one.get("value"): symbols[one.get("symbol")] for one in style.iter("category")}
    assert set(geopandas.read_file(tmp_path / "changes.gpkg")["class"]) == {"undamaged"} <= set(categories)
    for name, colour in list(named.values())[1:]:
        fill = categories[name].find(".//Option[@name='outline_color']").get("value")
        assert fill == ",".join(map(str, colour))


def test_a_map_without_change_gives_an_empty_layer(tmp_path):
    path = write_raster(tmp_path / "first.tif", picture(1))
    with open_pair(path, path) as pair:
        write_maps(tmp_path, strips(np.zeros((40, 50)), np.ones((40, 50), bool)), pair, LEGENDS, {})
    assert write_polygons(tmp_path, PolygonConfig(), SOURCE)["polygons"] == 0
    assert len(geopandas.read_file(tmp_path / "changes.gpkg")) == 0


def write_two(root):
    """A pair in which a bright square appears, and one whose second date lies elsewhere."""
    for name, west in (("good", 500000.0), ("far", 900000.0)):
        before = picture(3) // 2 + 1
        after = before.copy()
        after[:, 10:30, 10:30] = 250
        write_raster(root / "A" / f"{name}.tif", before)
        write_raster(root / "B" / f"{name}.tif", after, west=west)


def worklist(folder):
    return {row["id"]: row for row in csv.DictReader((folder / "worklist.csv").open())}


@pytest.mark.slow
def test_one_bad_pair_never_stops_the_rest_and_a_repetition_has_nothing_to_do(tmp_path):
    write_two(tmp_path / "pairs")
    order = ("remote-sensing", "predict", tmp_path / "pairs", "-o", tmp_path / "out", "--model", "differencing")
    done = call(*order, "--run", "one", "--quiet")
    rows = worklist(tmp_path / "out" / "one")
    assert done.code == 3
    assert (rows["good"]["status"], rows["far"]["status"], rows["far"]["code"]) == ("ok", "failed", "PTD-849")
    first = (tmp_path / "out/one/cases/good/change.tif").stat().st_mtime_ns
    assert call(*order, "--resume", "one", "--quiet").code == 3
    assert (tmp_path / "out/one/cases/good/change.tif").stat().st_mtime_ns == first


@pytest.mark.slow
def test_two_rasters_become_maps_polygons_style_and_page(tmp_path):
    write_two(tmp_path)
    order = ["remote-sensing", "predict", tmp_path / "A/good.tif", tmp_path / "B/good.tif", "-o", tmp_path / "out"]
    assert call(*order, "--model", "differencing", "--run", "one", "--quiet").code == 0
    made = {path.name for path in (tmp_path / "out/one/cases/pair").iterdir()}
    assert made == {"change.tif", "probability.tif", "changes.gpkg", "changes.qml", "page.html", "summary.json"}
    assert worklist(tmp_path / "out/one")["pair"]["polygons"] == "1"


def test_what_is_neither_pair_nor_folder_nor_table_is_refused(tmp_path):
    path = write_raster(tmp_path / "one.tif", picture())
    order = ("remote-sensing", "predict", path, "-o", tmp_path / "out", "--model", "differencing")
    assert "PTD-874" in call(*order).sentence()


def test_a_bundle_that_is_not_there_is_refused(tmp_path):
    order = ("remote-sensing", "predict", tmp_path, "-o", tmp_path / "out", "--model", tmp_path / "none")
    assert "PTD-873" in call(*order).sentence()
