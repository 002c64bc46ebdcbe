"""What users feed it, through the real commands: each bad pair ends in one sentence with its code, the rest goes on."""

import csv
import json
import re

import numpy as np
import pytest
from affine import Affine
from command import call
from remote_sensing.rasters import picture, write_raster

SENTENCE = re.compile(r"[^;]+; .+\.")
PLACE = Affine.translation(500000, 5000000)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3000])


BAD = {  # name: what is wrong with the second date, code
    "other-crs": ({"epsg": 32634}, "PTD-848"),
    "elsewhere": ({"west": 900000.0}, "PTD-849"),
    "other-bands": ({"image": picture(6)}, "PTD-850"),
    "other-type": ({"image": picture(dtype="uint16")}, "PTD-850"),
    "no-crs": ({"epsg": 0}, "PTD-846"),
    "rotated": ({"transform": PLACE @ Affine.rotation(20) @ Affine.scale(2, -2)}, "PTD-847"),
    "other-grid": ({"pixel": 3.0}, "PTD-851"),
    "all-nodata": ({"image": np.zeros((3, 40, 50), "uint8"), "nodata": 0}, "PTD-852"),
    "truncated": ({}, "PTD-853"),
    "no-raster": ({}, "PTD-845"),
}


@pytest.fixture(scope="module")
def worklist(tmp_path_factory):
    """The rows of one batch run over a good pair and every bad one, and the exit code."""
    root = tmp_path_factory.mktemp("bad")
    for name, (wrong, _) in {"good": ({}, ""), **BAD}.items():
        write_raster(root / "pairs" / "A" / f"{name}.tif", picture())
        settings = {"image": picture(seed=1), **wrong}
        after = write_raster(root / "pairs" / "B" / f"{name}.tif", settings.pop("image"), **settings)
        if name == "truncated":
            cut(after)
        if name == "no-raster":
            after.write_text("this is no raster")
    order = ("remote-sensing", "predict", root / "pairs", "-o", root / "out", "--model", "differencing")
    code = call(*order, "--run", "one", "--quiet").code
    rows = {row["id"]: row for row in csv.DictReader((root / "out" / "one" / "worklist.csv").open())}
    return rows, code, root / "out" / "one"


@pytest.mark.slow
def test_the_good_pair_is_done_and_the_command_says_that_others_failed(worklist):
    rows, code, run = worklist
    assert (code, rows["good"]["status"], len(rows)) == (3, "ok", 1 + len(BAD))
    assert [path.name for path in (run / "cases").iterdir()] == ["good"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_bad_pair_is_one_sentence_with_its_code(worklist, name):
    row = worklist[0][name]
    assert (row["status"], row["code"]) == ("failed", BAD[name][1])
    assert SENTENCE.fullmatch(row["reason"]), row["reason"]
    assert f"{name}.tif" in row["reason"]


def test_prepare_refuses_labels_and_lists_in_one_sentence_each_and_takes_the_rest(tmp_path):
    raw = tmp_path / "raw"
    for name, classes in (("good", (0, 1)), ("strange", (0, 7)), ("swapped", (0, 1)), ("large", (0, 1))):
        for role in "AB":
            write_raster(raw / role / f"{name}.tif", picture())
        label = np.resize(np.array(classes, "uint8"), (1, 44 if name == "large" else 40, 50))
        write_raster(raw / "label" / f"{name}.tif", label)
    lines = ["good.tif", "strange.tif", "large.tif", "B/swapped.tif A/swapped.tif", "absent.tif"]
    (raw / "train.txt").write_text("\n".join(lines))
    (tmp_path / "params.yaml").write_text("prepare: {}\n")
    order = ("remote-sensing", "prepare", raw, "-o", tmp_path / "out", "--params", tmp_path / "params.yaml")
    done = call(*order)
    refused = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert (done.code, done.out.split(";")[0]) == (3, "1 pairs, 4 refused")
    assert sorted(one["code"] for one in refused) == ["PTD-856", "PTD-857", "PTD-860", "PTD-862"]
    assert all(SENTENCE.fullmatch(one["reason"]) for one in refused)


@pytest.mark.slow
@pytest.mark.real_data
def test_every_odd_geotiff_becomes_maps_or_one_sentence(tmp_path, real_data):
    examples = sorted((real_data / "remote_sensing" / "geotiff_examples").glob("*.tif"))
    for side in "AB":
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for path in examples:
            (tmp_path / "pairs" / side / path.name).symlink_to(path)
    order = ("remote-sensing", "predict", tmp_path / "pairs", "-o", tmp_path / "out", "--model", "differencing")
    assert call(*order, "--run", "one", "--quiet").code == 3
    rows = {row["id"]: row for row in csv.DictReader((tmp_path / "out" / "one" / "worklist.csv").open())}
    assert len(rows) == len(examples)
    done = {name for name, row in rows.items() if row["status"] == "ok"}
    assert done == {"RGB.byte", "RGBA.uint16", "alpha", "float_raster_with_nodata", "goes", "rgb1", "rgb2"}
    assert {row["code"] for row in rows.values() if row["status"] == "failed"} == {"PTD-846", "PTD-852"}
    for name in done:
        assert rows[name]["changed_px"] == "0"
        assert (tmp_path / "out" / "one" / "cases" / name / "change.tif").is_file()
