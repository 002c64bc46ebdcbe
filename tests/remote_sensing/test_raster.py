"""Pairs of rasters: what is read, what is masked, and the sentence for each way in which a pair cannot be used."""

import http.server
import os
import threading

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import Affine
from remote_sensing.rasters import picture, write_raster

from pentad.core.errors import CaseError
from pentad.remote_sensing.geotiff import Place, geotiff
from pentad.remote_sensing.raster import PairConfig, open_pair, require_valid


def whole(before, after, **settings):
    with open_pair(before, after, PairConfig(**settings)) as pair:
        return pair.read(slice(0, pair.shape[0]), slice(0, pair.shape[1]))


def refusal(before, after, **settings):
    with pytest.raises(CaseError) as caught:
        whole(before, after, **settings)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def first(tmp_path):
    return write_raster(tmp_path / "first.tif", picture())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 3, 6])
def test_a_pair_is_read_band_by_band_as_it_was_written(tmp_path, dtype, bands):
    images = [picture(bands, dtype=dtype, seed=seed) for seed in (1, 2)]
    paths = [write_raster(tmp_path / f"{number}.tif", image) for number, image in enumerate(images)]
    before, after, valid = whole(*paths)
    assert valid.all()
    assert np.array_equal(before, images[0])
    assert np.array_equal(after, images[1])


def test_a_window_is_that_part_of_the_whole(tmp_path, first):
    other = write_raster(tmp_path / "other.tif", picture(seed=3))
    with open_pair(first, other) as pair:
        part = pair.read(slice(5, 20), slice(30, 50))
    assert np.array_equal(part[1], whole(first, other)[1][:, 5:20, 30:50])


def test_strips_of_a_wide_pair_have_fewer_rows_and_cover_it(tmp_path):
    wide = write_raster(tmp_path / "wide.tif", picture(1, rows=40, columns=70_000))
    with open_pair(wide, wide) as pair:
        strips = [(start, before.shape) for start, before, _, _ in pair.strips()]
    assert strips == [(0, (1, 16, 70_000)), (16, (1, 16, 70_000)), (32, (1, 8, 70_000))]


def test_nodata_of_either_date_is_invalid_in_the_pair(tmp_path):
    one, two = picture(seed=1), picture(seed=2)
    one[:, 3, 4] = 0
    two[:, 7, 8] = 0
    paths = [write_raster(tmp_path / f"{number}.tif", image, nodata=0) for number, image in enumerate((one, two))]
    assert sorted(map(tuple, np.argwhere(~whole(*paths)[2]))) == [(3, 4), (7, 8)]


def test_a_transparent_pixel_is_invalid_and_alpha_is_no_band(tmp_path, first):
    image = np.concatenate([picture(), np.full((1, 40, 50), 255, "uint8")])
    image[3, 10:12] = 0
    path = write_raster(tmp_path / "alpha.tif", image, photometric="RGB", alpha="YES")
    _, after, valid = whole(first, path)
    assert after.shape[0] == 3
    assert (~valid).sum() == 100


def test_nan_and_infinity_are_invalid(tmp_path):
    image = picture(dtype="float32")
    image[1, 2, 3], image[2, 4, 5] = np.nan, np.inf
    path = write_raster(tmp_path / "nan.tif", image)
    before, _, valid = whole(path, path)
    assert (~valid).sum() == 2
    assert np.isfinite(before).all()


def test_a_shifted_second_date_is_warped_back_onto_the_first_when_asked(tmp_path):
    image = picture(rows=60, columns=60)
    first = write_raster(tmp_path / "first.tif", image)
    moved = write_raster(tmp_path / "moved.tif", image[:, 4:, 6:], west=500012.0, north=4999992.0)
    _, after, valid = whole(first, moved, warp=True)
    assert np.array_equal(after[:, 6:, 8:], image[:, 6:, 8:])
    assert not valid[:4].any()
    assert not valid[:, :6].any()


def test_a_second_date_in_another_projection_is_warped_when_asked(tmp_path):
    ramp = np.broadcast_to(np.arange(1, 61, dtype="float32"), (1, 60, 60))
    first = write_raster(tmp_path / "first.tif", ramp, west=500000.0)
    with rasterio.open(first) as source:
        bounds = rasterio.warp.transform_bounds(source.crs, "EPSG:3857", *source.bounds)
    scale = (bounds[2] - bounds[0]) / 60
    other = write_raster(tmp_path / "other.tif", ramp, 3857, bounds[0], bounds[3], scale)
    before, after, valid = whole(first, other, warp=True)
    assert valid[5:55, 5:55].all()
    assert np.abs(before - after)[:, 5:55, 5:55].max() < 1.5


def test_a_vrt_and_a_cog_are_read_as_their_source(tmp_path, first):
    cog, vrt = tmp_path / "cog.tif", tmp_path / "view.vrt"
    rasterio.shutil.copy(first, cog, driver="COG")
    rasterio.shutil.copy(first, vrt, driver="VRT")
    before, after, _ = whole(cog, vrt)
    assert np.array_equal(before, after)


def test_another_projection_is_refused(tmp_path, first):
    error = refusal(first, write_raster(tmp_path / "other.tif", picture(), epsg=32634))
    assert (error.code, "EPSG:32634" in error.problem) == ("PTD-848", True)


def test_two_places_are_refused(tmp_path, first):
    far = write_raster(tmp_path / "far.tif", picture(), west=600000.0)
    assert [refusal(first, far, warp=warp).code for warp in (False, True)] == ["PTD-849", "PTD-849"]


def test_other_bands_are_refused(tmp_path, first):
    assert refusal(first, write_raster(tmp_path / "six.tif", picture(6))).code == "PTD-850"


def test_another_data_type_is_refused(tmp_path, first):
    assert refusal(first, write_raster(tmp_path / "deep.tif", picture(dtype="uint16"))).code == "PTD-850"


def test_bands_in_another_order_are_refused(tmp_path):
    paths = [write_raster(tmp_path / f"{name}.tif", picture(2)) for name in ("ab", "ba")]
    for path in paths:
        with rasterio.open(path, "r+") as raster:
            raster.descriptions = ("red", "nir") if path.stem == "ab" else ("nir", "red")
    assert "nir, red" in refusal(*paths).problem


def test_a_missing_projection_is_refused_but_may_be_waived(tmp_path, first):
    nowhere = write_raster(tmp_path / "nowhere.tif", picture(), epsg=0)
    assert refusal(first, nowhere).code == "PTD-846"
    assert whole(nowhere, nowhere, unplaced=True)[2].all()


def test_a_rotated_grid_is_refused(tmp_path, first):
    turned = Affine.translation(500000, 5000000) * Affine.rotation(20) * Affine.scale(2, -2)
    assert refusal(first, write_raster(tmp_path / "turned.tif", picture(), transform=turned)).code == "PTD-847"


@pytest.mark.parametrize("change", [{"pixel": 3.0}, {"west": 500001.0}])
def test_another_grid_is_refused_and_the_remedy_names_the_option(tmp_path, first, change):
    error = refusal(first, write_raster(tmp_path / "other.tif", picture(), **change))
    assert (error.code, "--warp" in error.remedy) == ("PTD-851", True)


def test_a_truncated_file_is_refused(tmp_path, first):
    cut = tmp_path / "cut.tif"
    cut.write_bytes(first.read_bytes()[:3000])
    assert refusal(first, cut).code in ("PTD-853", "PTD-845")


def test_something_else_and_nothing_are_refused(tmp_path, first):
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    assert [refusal(first, path).code for path in (text, tmp_path / "none.tif")] == ["PTD-845", "PTD-845"]


def test_nothing_that_a_file_names_is_fetched(tmp_path):
    asked = []
    vrt = '<VRTDataset rasterXSize="5" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    vrt += '<SourceFilename relativeToVRT="0">/vsicurl/{0}/a.tif</SourceFilename><SourceBand>1</SourceBand>'
    vrt += "</SimpleSource></VRTRasterBand></VRTDataset>"
    wms = '<GDAL_WMS><Service name="TMS"><ServerUrl>{0}/${{z}}.png</ServerUrl></Service><DataWindow><SizeX>5</SizeX>'
    wms += "<SizeY>4</SizeY></DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"

    class Server(http.server.BaseHTTPRequestHandler):
        def handle(self):
            asked.append(self.client_address)

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name, text in (("a.tif", vrt), ("b.png", wms)):
            (tmp_path / name).write_text(text.format(address))
            with (
                pytest.raises(CaseError, match=r"PTD-8(45|53)"),
                open_pair(tmp_path / name, tmp_path / name, PairConfig(unplaced=True)) as pair,
            ):
                list(pair.strips())
        server.shutdown()
    assert asked == []


def test_a_pipe_is_no_raster_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    with (
        pytest.raises(CaseError, match=r"PTD-845 a.tif: it is a pipe"),
        open_pair(tmp_path / "a.tif", tmp_path / "a.tif"),
    ):
        pass


def test_all_nodata_is_refused(tmp_path):
    path = write_raster(tmp_path / "empty.tif", np.zeros((3, 8, 8), "uint8"), nodata=0)
    with pytest.raises(CaseError, match="PTD-852"):
        require_valid(int(whole(path, path)[2].sum()), path.name)


@pytest.mark.parametrize(("shape", "dtype"), [((5, 7), "uint8"), ((5, 7, 3), "uint16"), ((5, 7, 4), "float32")])
def test_rasterio_reads_what_our_own_writer_wrote(tmp_path, shape, dtype):
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    (tmp_path / "own.tif").write_bytes(geotiff(image, Place(32633, 500000, 5000000, 0.5), 9))
    with rasterio.open(tmp_path / "own.tif") as source:
        assert np.array_equal(source.read(), np.moveaxis(image.reshape(5, 7, -1), -1, 0))
        assert (source.crs.to_epsg(), source.nodata) == (32633, 9)
        assert tuple(source.bounds) == (500000.0, 4999997.5, 500003.5, 5000000.0)


# Each file of the examples as both dates: the code of its refusal, or the share of valid pixels (rasterio's own).
EXAMPLES = {
    "RGB.byte.tif": 0.675,
    "RGBA.uint16.tif": 0.489,
    "all-nodata.tif": "PTD-852",
    "alpha.tif": 0.0155,
    "float32.tif": "PTD-846",
    "float_nan.tif": "PTD-846",
    "float_raster_with_nodata.tif": 0.628,
    "goes.tif": 0.783,
    "rgb1.tif": 0.683,
    "rgb2.tif": 0.695,
    "rotated.tif": "PTD-846",
}


def share_of_valid(path):
    with open_pair(path, path) as pair:
        counts = [(valid.sum(), valid.size) for _, _, _, valid in pair.strips(1024)]
    valid, pixels = np.sum(counts, axis=0)
    return valid / pixels


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_odd_geotiff_is_read_or_refused_in_one_sentence(name, real_data):
    path = real_data / "remote_sensing" / "geotiff_examples" / name
    expected = EXAMPLES[name]
    if isinstance(expected, str):
        with pytest.raises(CaseError, match=expected):
            require_valid(share_of_valid(path), name)
    else:
        assert share_of_valid(path) == pytest.approx(expected, abs=0.001)


@pytest.mark.real_data
def test_adjacent_tiles_are_no_pair(real_data):
    tiles = [real_data / "remote_sensing" / "geotiff_examples" / f"rgb{number}.tif" for number in (1, 2)]
    assert refusal(*tiles).code in ("PTD-849", "PTD-851")


@pytest.mark.real_data
def test_the_pair_that_lacks_a_row_is_refused_with_both_sizes(real_data):
    error = refusal(*(real_data / "remote_sensing" / "awkward_pair" / side / "test_113_0256.png" for side in "AB"))
    assert (error.code, "768 x 384" in error.problem, "768 x 383" in error.problem) == ("PTD-851", True, True)


@pytest.mark.real_data
def test_the_landsat_pair_has_six_bands_and_a_place(real_data):
    scenes = sorted(path for path in (real_data / "remote_sensing" / "landsat_nanjing").glob("LT5*") if not path.suffix)
    with open_pair(*scenes) as pair:
        assert (len(pair.bands), pair.shape, pair.placed) == (6, (800, 800), True)
        assert pair.read(slice(0, 64), slice(0, 64))[2].mean() > 0.9
