"""Slices in, a volume out: the 2-D models through plan, train and predict, as their commands run them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from command import call
from medical.tiny_cases import GRID, SHAPE, tiny_ct

from pentad.core.bundle import read_manifest
from pentad.medical.plan import Normalisation
from pentad.medical.predictors import load_predictor
from pentad.medical.preprocess import Preprocessing, preprocess, restore_labels
from pentad.medical.volumes import Volume

PARAMS = """
plan: {configuration: 2d, base_features: 4, max_features: 8, patch_size: [24, 24], batch_size: 2}
train: {steps: 1, optimizer: adamw, learning_rate: 0.001, seed: 3, device: cpu}
augment: {}
sampling: {}
predict: {step: 0.5}
"""


@pytest.fixture(scope="module")
def planned(trained, tmp_path_factory):
    """A 2-D plan for the tiny cases, and its params."""
    work = tmp_path_factory.mktemp("planned")
    (work / "params.yaml").write_text(PARAMS)
    table = trained / "prepared" / "cases.jsonl"
    done = call("medical", "plan", table, "-o", work / "plan.json", "--params", work / "params.yaml")
    assert done.code == 0, done.err
    return work


def train(trained, planned, out, model, *options):
    table, params = trained / "prepared" / "cases.jsonl", planned / "params.yaml"
    fixed = ("--model", model, "--plan", planned / "plan.json", "--params", params)
    return call("medical", "train", table, *fixed, "-o", out / "bundle", "--run", out / "run", *options)


@pytest.mark.parametrize(("model", "patch"), [("swin_unet", [32, 32]), ("hiformer_s", [32, 32])])
def test_a_2d_model_is_trained_on_slices_and_labels_a_volume(model, patch, trained, planned, tmp_path):
    done = train(trained, planned, tmp_path, model)
    assert done.code == 0, done.err
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest["settings"]["patch_size"] == patch
    assert json.loads((tmp_path / "bundle" / "config.json").read_text())["input_channels"] == 3
    predictor = load_predictor(str(tmp_path / "bundle"), "cpu")
    assert predictor.run(Volume(tiny_ct(1), GRID)).label.shape == SHAPE


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--set", "pretrained={work}/none.pth"), 5, "PTD-510"),
        (("--set", "pretrained=[{work}/other.pth]"), 5, "PTD-534 .*no ImageNet weights for a SwinUNet"),
        (("--set", "pretrained={{swin_unet: {work}/other.pth}}"), 5, "PTD-534"),
        (("--set", "pretrained={{swinunet: {work}/other.pth}}"), 5, "PTD-296 .*'swin_unet'"),
        (("--plan", "{trained}/plan.json"), 5, "PTD-533"),
    ],
)
def test_a_start_or_plan_that_does_not_fit_is_one_sentence(options, code, sentence, trained, planned, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    changed = [option.format(work=tmp_path, trained=trained) for option in options]
    done = train(trained, planned, tmp_path, "swin_unet", *changed)
    assert done.code == code
    assert re.search(sentence, done.sentence())
    assert not (tmp_path / "bundle").exists()


def test_whole_slices_are_resized_uncropped_and_go_back_to_the_scans_grid():
    array = np.zeros((3, 20, 30), np.float32)
    array[:, 5:15, 12:24] = 100
    settings = Preprocessing((1.0, 1.0), (0, 1, 2), Normalisation("none"), slice_size=(40, 60))
    image, grid, _ = preprocess(array, (4.0, 0.7, 0.7), settings)
    assert image.shape == (3, 40, 60)
    assert grid.box == ((0, 3), (0, 20), (0, 30))
    assert grid.network_spacing == pytest.approx((4.0, 0.35, 0.35))
    logits = torch.stack([50 - torch.from_numpy(image), torch.from_numpy(image) - 50])
    assert np.array_equal(restore_labels([logits], grid), array > 50)


def test_a_slice_size_for_a_3d_network_is_refused():
    with pytest.raises(ValueError, match="slice_size must be 2 lengths"):
        Preprocessing((1.0, 1.0, 1.0), (0, 1, 2), Normalisation("none"), slice_size=(40, 60))
