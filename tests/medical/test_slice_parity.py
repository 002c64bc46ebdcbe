from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from pentad.core import parity as core_parity
from pentad.core import recipe
from pentad.core.errors import ModelError
from pentad.medical import slice_parity
from pentad.medical.models.hiformer import HiFormer
from pentad.medical.models.hiformer import config_from_official as hiformer_config
from pentad.medical.models.swin_unet import SwinUNet, config_from_official

REFERENCE = Path(__file__).parents[1] / "reference"
SWIN_UNET, HIFORMER = REFERENCE / "swin_unet.tiny224.json", REFERENCE / "hiformer.b.json"


@pytest.mark.parametrize(
    ("path", "dtype"),
    [
        pytest.param(SWIN_UNET, "float64", marks=pytest.mark.slow),
        (SWIN_UNET, "float32"),
        pytest.param(HIFORMER, "float64", marks=pytest.mark.slow),
        (HIFORMER, "float32"),
    ],
    ids=["swin_unet-float64", "swin_unet-float32", "hiformer-float64", "hiformer-float32"],
)
def test_every_stage_and_variant_has_the_published_values(path, dtype, capsys):
    assert core_parity.check([path], dtype) == 0
    spec, printed = json.loads(path.read_text()), capsys.readouterr().out
    checked = {line.split()[1] for line in printed.splitlines()[1:-1]}
    wanted = {"output", "parameters", *spec["expected"]["stages"], *spec["expected"]["variants"]}
    assert checked == wanted
    tolerance = "1e-06" if dtype == "float64" else "2e-05"
    assert printed.count(tolerance) == len(wanted) - 1


def probe(out):
    """Figures of an output, every value of it."""
    flat = out.flatten()
    shape = list(out.shape)
    return {"shape": shape, "std": float(flat.std()), "index": list(range(len(flat))), "value": flat.tolist()}


@pytest.fixture
def swin_unet():
    """Figures of another Swin-UNet: three stages, a window of 4 at 64 pixels, four channels, five classes."""
    spec = json.loads(SWIN_UNET.read_text())
    changed = {"img_size": 64, "window_size": 4, "in_chans": 4, "num_classes": 5, "embed_dim": 24}
    hyper = spec["hyperparameters"] | changed | {"depths": [1, 2, 1], "num_heads": [2, 4, 8], "mlp_ratio": 2.0}
    with torch.device("meta"):
        state = SwinUNet(config_from_official(hyper)).state_dict()
    tensors = {f"swin_unet.{name}": list(value.shape) for name, value in state.items()}
    made = {"key": "input:other", "shape": [1, 4, 64, 64]}
    return spec | {"hyperparameters": hyper, "tensors": tensors, "aliases": {}, "input": made, "parameters": None}


@pytest.fixture
def hiformer():
    """Figures of the large HiFormer at 112 pixels with four classes: the open file's names, and those it adds."""
    spec = json.loads(HIFORMER.read_text())
    hyper = copy.deepcopy(spec["hyperparameters"]) | {"img_size": 112, "num_classes": 4}
    hyper |= {"cnn_backbone": "resnet34", "cnn_channels": [64, 128, 256]}
    hyper["dlf"] |= {"depth": [[1, 4, 0]], "num_heads": [6, 6], "mlp_ratio": [4.0, 4.0, 1.0]}
    with torch.device("meta"):
        state = HiFormer(hiformer_config(hyper)).state_dict()
    tensors = {published(name): list(value.shape) for name, value in state.items()}
    made = {"key": "input:other", "shape": [1, 3, 112, 112]}
    return spec | {"hyperparameters": hyper, "tensors": tensors, "aliases": {}, "input": made, "parameters": None}


def published(name):
    """Our name of a HiFormer's tensor as the published code has it."""
    for ours, theirs in (
        ("pyramid.cnn.conv1", "pyramid.resnet_layers.0"),
        ("pyramid.cnn.bn1", "pyramid.resnet_layers.1"),
        ("pyramid.cnn.layer1", "pyramid.resnet_layers.4"),
        ("pyramid.cnn.layer2", "pyramid.resnet_layers.5"),
        ("pyramid.cnn.layer3", "pyramid.resnet_layers.6"),
        ("up_fine", "ConvUp_l.conv_tower"),
        ("up_coarse", "ConvUp_s.conv_tower"),
        ("segmentation_head", "segmentation_head.0"),
    ):
        name = name.replace(ours, theirs)
    if name.startswith("pyramid.swin."):
        _, _, stage, rest = name.split(".", 3)
        name = f"pyramid.swin_transformer.layers.{stage}.blocks.{rest}"
    return name if name.startswith(("ConvUp", "conv_pred", "segmentation")) else f"All2Cross.{name}"


def test_names_go_back_and_forth():
    spec = json.loads(HIFORMER.read_text())
    with torch.device("meta"):
        state = HiFormer(hiformer_config(spec["hyperparameters"])).state_dict()
    assert {published(name): list(value.shape) for name, value in state.items()} == spec["tensors"]


@pytest.mark.parametrize("kind", ["swin_unet", "hiformer"])
def test_another_variant_is_built_from_its_file_and_agrees_with_itself(kind, request):
    spec = request.getfixturevalue(kind)
    x = torch.from_numpy(recipe.array(spec["input"]["key"], spec["input"]["shape"])).double()
    model = model_of(kind, spec).double().eval()
    with torch.no_grad():
        spec["expected"] = {"output": probe(model(x))}
    spec.pop("parameters")
    rows = {stage: error for stage, error, _ in getattr(slice_parity, kind)(spec, torch.float64)}
    assert rows["output"] < 1e-9
    assert spec["expected"]["output"]["shape"] == [1, spec["hyperparameters"]["num_classes"], *x.shape[2:]]


def model_of(kind, spec):
    from pentad.core.checkpoint import load_strict
    from pentad.medical.models import hiformer, swin_unet

    module, cls = {"swin_unet": (swin_unet, SwinUNet), "hiformer": (hiformer, HiFormer)}[kind]
    model = cls(module.config_from_official(spec["hyperparameters"]))
    load_strict(model, module.official_state(slice_parity.official_tensors(spec)))
    return model


def test_a_file_whose_tensors_are_another_networks_names_them(swin_unet):
    swin_unet["tensors"]["swin_unet.output.weight"] = [6, 24, 1, 1]
    with pytest.raises(ModelError, match=r"PTD-516 .*output\.weight \(6, 24, 1, 1\) instead of \(5, 24, 1, 1\)"):
        slice_parity.swin_unet(swin_unet, torch.float64)


@pytest.mark.parametrize("kind", ["swin_unet", "hiformer"])
def test_an_unknown_variant_is_no_pass(kind, request):
    spec = request.getfixturevalue(kind)
    shape = [1, spec["hyperparameters"]["num_classes"], *spec["input"]["shape"][2:]]
    figures = {"shape": shape, "std": 1.0, "index": [0], "value": [0.0]}
    spec["expected"] = {"output": figures, "variants": {"mirrored": figures}}
    spec.pop("parameters")
    with pytest.raises(ValueError, match="the variant 'mirrored' is not known"):
        getattr(slice_parity, kind)(spec, torch.float32)
