"""Patches, training, prediction and scores on tiny pairs."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from remote_sensing.rasters import picture, write_raster

from pentad.core.bundle import load_bundle
from pentad.core.cases import Case, read_cases
from pentad.core.config import from_mapping
from pentad.core.errors import CaseError, ModelError, UsageError
from pentad.core.evaluation import Row
from pentad.remote_sensing.dataset import PatchConfig, Patches, Scaling, measure
from pentad.remote_sensing.differencing import otsu
from pentad.remote_sensing.evaluate import count, evaluate, scores
from pentad.remote_sensing.ingest import PrepareConfig, prepare
from pentad.remote_sensing.models.change_mamba import MambaBCD
from pentad.remote_sensing.models.fc_siam import FCSiamConfig, FCSiamDiff
from pentad.remote_sensing.predict import Predictor, Settings, TileConfig, change_strips, load_predictor
from pentad.remote_sensing.raster import Pair, PairConfig, open_pair
from pentad.remote_sensing.report import report
from pentad.remote_sensing.shipped import compare_shipped
from pentad.remote_sensing.strips import Strip
from pentad.remote_sensing.tasks import TASKS
from pentad.remote_sensing.train import TrainRequest, build, train

PARAMS = {
    "prepare": {"split": {"train": 0.5, "test": 0.5}},
    "networks": {
        "mamba_bcd": {"encoder": {"widths": [8, 16], "depths": [1, 1]}, "hidden": 8},
        "fc_siam_diff": {"widths": [8, 16]},
    },
    "patches": {"side": 32, "changed": 1.0},
    "train": {"steps": 30, "optimizer": "adamw", "learning_rate": 0.01, "device": "cpu"},
    "tiles": {"side": 32},
    "evaluate": {},
}
PLAIN = Scaling((100.0, 100.0, 100.0), (50.0, 50.0, 50.0))


@pytest.fixture
def prepared(tmp_path):
    """Four pairs in which a bright square appears; the upper left corner is nodata at the second date."""
    for number in range(4):
        before = picture(rows=48, columns=56, seed=number) // 2 + 1
        after, changed = before.copy(), np.zeros((1, 48, 56), "uint8")
        after[:, 12 + number : 30, 20:40] = 240
        changed[:, 12 + number : 30, 20:40] = 1
        after[:, :5, :5] = 0
        for role, image in {"A": before, "B": after, "label": changed}.items():
            settings = {"nodata": 255 if role == "label" else 0}
            write_raster(tmp_path / "raw" / role / f"p{number}.tif", image, **settings)
    prepare(tmp_path / "raw", tmp_path / "prepared", PrepareConfig({"train": 0.5, "test": 0.5}))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return tmp_path


def patches(prepared, **settings):
    cases = read_cases(prepared / "prepared" / "cases.jsonl")
    return Patches(cases, ("label",), PLAIN, PatchConfig(side=32, **settings), PairConfig(), seed=3)


def request(prepared, model, **settings):
    table = prepared / "prepared" / "cases.jsonl"
    return TrainRequest(table, model, prepared / model, prepared / "runs" / model, prepared / "params.yaml", **settings)


def test_a_patch_is_a_function_of_its_number_alone(prepared):
    one, two = patches(prepared), patches(prepared)
    _ = one[0]
    assert all(torch.equal(one[5][name], two[5][name]) for name in ("before", "after", "labels"))


def test_both_dates_and_the_label_turn_together(prepared):
    samples = patches(prepared, light=0.0)
    for ordinal in range(8):
        patch = samples[ordinal]
        bright = (patch["after"] > 2.5).all(0)
        assert torch.equal(bright, patch["labels"][0] == 1)


def test_nodata_is_not_counted_and_0_in_the_input(prepared):
    samples = patches(prepared, changed=0.0)
    found = [patch for patch in (samples[ordinal] for ordinal in range(30)) if (patch["labels"] == 255).any()]
    assert found
    assert all((patch["after"][:, patch["labels"][0] == 255] == 0).all() for patch in found)


def test_the_scaling_leaves_mean_0_and_deviation_1(prepared):
    cases = read_cases(prepared / "prepared" / "cases.jsonl")
    scaling = measure(cases, PairConfig())
    values = []
    for case in cases:
        with open_pair(Path(case.files["before"]), Path(case.files["after"])) as pair:
            before, after, valid = pair.read(slice(0, 48), slice(0, 56))
        values += [scaling.apply(image, valid)[:, valid] for image in (before, after)]
    joined = np.concatenate(values, axis=1)
    assert np.abs(joined.mean(1)).max() < 1e-4
    assert np.abs(joined.std(1) - 1).max() < 1e-4


@pytest.mark.parametrize("side", [7, 33])
def test_fc_siam_diff_keeps_any_size_and_finds_no_difference_between_equal_images(side):
    model = FCSiamDiff(FCSiamConfig((4, 8, 8))).eval()
    image = torch.randn(1, 3, side, side + 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same, other = model(image, image), model(image + 1, image + 1)
    assert same.shape == (1, 2, side, side + 3)
    assert torch.allclose(same, other, atol=1e-5)


def test_an_impossible_fc_siam_diff_is_refused():
    with pytest.raises(ModelError, match="PTD-863"):
        FCSiamConfig(())
    with pytest.raises(UsageError, match="PTD-864"):
        FCSiamDiff(FCSiamConfig((4,)))(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8))


def test_a_network_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'mamba_bcd'"):
        build("mamba_bdc", TASKS["bcd"], 3, {}, "params")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba_bcd", "fc_siam_diff"])
def test_a_network_learns_what_appears_and_its_bundle_scores_above_0_9(prepared, name):
    train(request(prepared, name))
    out, table = prepared / "evaluated", prepared / "prepared" / "cases.jsonl"
    text, failed = evaluate(table, "test", str(prepared / name), out, prepared / "params.yaml", device="cpu")
    assert failed == 0
    assert float(text.rpartition(" ")[2]) > 0.9
    if name == "mamba_bcd":
        the_windows_size_hardly_matters(prepared / name, read_cases(table, "test")[0])


def the_windows_size_hardly_matters(folder, case):
    """The tolerance that the package's README states, on a mosaic of one pair."""
    bundle = load_bundle(folder, "remote_sensing", {"mamba_bcd": MambaBCD})
    settings = from_mapping(Settings, bundle.settings, "bundle")
    maps, dates = [], []
    for role in ("before", "after"):
        with rasterio.open(case.files[role]) as source:
            dates.append(write_raster(folder / f"{role}.tif", np.tile(source.read(), (1, 12, 10)), nodata=0))
    with open_pair(*dates) as pair:
        for side in (256, 384, 512):
            own = replace(settings, tiles=TileConfig(side))
            strips = change_strips(bundle.model, own, torch.device("cpu"), pair)
            maps.append(np.concatenate([strip.probability for strip in strips]))
    for other in maps[1:]:
        assert np.mean((other >= 0.5) == (maps[0] >= 0.5)) >= 0.97
        assert np.abs(other - maps[0]).mean() <= 0.03


@pytest.mark.slow
def test_two_trainings_give_the_same_bits(prepared):
    digests = []
    for folder in ("one", "two"):
        asked = request(prepared, "fc_siam_diff", overrides=("steps=4",))
        train(replace(asked, out=prepared / folder, run=prepared / "runs" / folder))
        digests.append((prepared / folder / "model.safetensors").read_bytes())
    assert digests[0] == digests[1]


def linear(pair, side):
    """The strips of a network whose logit of change is the first band's difference."""

    class Difference(torch.nn.Module):
        def forward(self, pre, post):
            change = (post - pre)[:, :1]
            return torch.cat([-change, change], 1)

    settings = Settings(PLAIN, TileConfig(side, 0.5), PairConfig())
    return list(change_strips(Difference(), settings, torch.device("cpu"), pair))


@pytest.mark.parametrize("side", [16, 24, 32, 512])
def test_strips_join_to_the_whole_whatever_the_window(tmp_path, side):
    paths = [write_raster(tmp_path / f"{n}.tif", picture(rows=70, columns=50, seed=n)) for n in (0, 1)]
    with open_pair(*paths) as pair:
        strips = linear(pair, side)
        before, after, _ = pair.read(slice(0, 70), slice(0, 50))
    expected = 1 / (1 + np.exp(-2 * (after[0] - before[0]) / 50))
    rows = [len(strip.probability) for strip in strips]
    assert [strip.start for strip in strips] == [0, *itertools.accumulate(rows[:-1])]
    assert np.abs(np.concatenate([strip.probability for strip in strips]) - expected).max() < 1e-5


def test_a_scene_is_read_by_windows_and_strips_whatever_its_height(tmp_path, monkeypatch):
    read, areas = Pair.read, []

    def noted(pair, rows, columns):
        areas.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return read(pair, rows, columns)

    monkeypatch.setattr(Pair, "read", noted)
    largest = []
    for height in (200, 1600):
        paths = [write_raster(tmp_path / f"{height}_{n}.tif", picture(rows=height, columns=60)) for n in (0, 1)]
        with open_pair(*paths) as pair:
            assert sum(len(strip.probability) for strip in linear(pair, 32)) == height
        largest.append(max(areas))
        areas.clear()
    assert largest[0] == largest[1] <= 32 * 60


def test_other_bands_than_the_models_are_refused(tmp_path):
    path = write_raster(tmp_path / "six.tif", picture(6))
    with open_pair(path, path) as pair, pytest.raises(CaseError, match="PTD-868"):
        linear(pair, 32)


def test_scores_count_valid_and_known_pixels_alone(prepared):
    case = read_cases(prepared / "prepared" / "cases.jsonl")[0]

    def everything(pair, first=0):
        valid = pair.read(slice(0, 48), slice(0, 56))[2]
        yield Strip(0, np.ones((48, 56), np.float32), np.zeros((0, 48, 56), np.uint8), valid)

    counts = count(Predictor("all", "", PairConfig(), TASKS["bcd"], (), everything), case, 0.5)
    assert counts.sum() == counts[2:].sum() == 48 * 56 - 25
    assert scores(TASKS["bcd"], counts)["recall"] == 1


def test_differencing_finds_a_bright_square(prepared):
    case = read_cases(prepared / "prepared" / "cases.jsonl")[0]
    assert scores(TASKS["bcd"], count(load_predictor("differencing"), case, 0.5))["f1"] > 0.9


def test_otsu_cuts_between_two_humps():
    histogram = np.zeros(100)
    histogram[[10, 11, 12, 60, 61]] = 5, 9, 5, 3, 3
    assert 13 <= otsu(histogram) <= 60


def test_a_case_without_change_has_no_f1(tmp_path):
    for role in ("before", "after"):
        write_raster(tmp_path / f"{role}.tif", picture())
    write_raster(tmp_path / "label.tif", np.zeros((1, 40, 50), "uint8"))
    case = Case(id="none", files={role: str(tmp_path / f"{role}.tif") for role in ("before", "after", "label")})
    assert np.isnan(scores(TASKS["bcd"], count(load_predictor("differencing"), case, 0.5))["f1"])


def test_the_report_puts_models_side_by_side_with_paired_differences(prepared):
    table, params = prepared / "prepared" / "cases.jsonl", prepared / "params.yaml"
    for folder in ("one", "two"):
        evaluate(table, "test", "differencing", prepared / folder, params)
    report(table, [prepared / "one", prepared / "two"], prepared / "out")
    metrics = json.loads((prepared / "out" / "metrics.json").read_text())
    assert metrics["data"] == "real"
    assert metrics["paired_difference"]["one - two"]["f1"]["value"] == 0
    assert metrics["models"]["one"]["f1_pooled"]["value"] > 0.9


def test_delivered_maps_that_score_otherwise_are_told(prepared):
    table = prepared / "prepared" / "cases.jsonl"
    case, other = read_cases(table, "test")
    label = rasterio.open(case.files["label"]).read(1)
    write_raster(prepared / "run" / "cases" / case.id / "change.tif", label[None], nodata=255)
    for f1, differing in ((1.0, 0), (0.9, 1)):
        rows = [Row(case.id, metrics={"f1": f1}), Row(other.id, metrics={"f1": 0.5})]
        found = compare_shipped(table, rows, TASKS["bcd"], prepared / "run")
        assert found == {"cases": 1, "differing_cases": differing}


def test_a_report_without_an_evaluation_is_refused(prepared):
    with pytest.raises(UsageError, match="PTD-2"):
        report(prepared / "prepared" / "cases.jsonl", [prepared / "none"], prepared / "out")
