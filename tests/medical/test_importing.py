"""Published checkpoints to bundles, and bundles to labels, by their commands."""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import call
from medical.tiny_cases import tiny_ct

from pentad.core.bundle import load_bundle, read_manifest
from pentad.core.files import digest_file
from pentad.medical.importing import SYNAPSE, ImportRequest, import_checkpoint
from pentad.medical.models import MODELS
from pentad.medical.models.hiformer import HiFormer, hiformer_s
from pentad.medical.models.swin_unet import SwinUNet, SwinUNetConfig
from pentad.medical.models.u_mamba import UMambaBot, config_from_official
from pentad.medical.predictors import load_predictor
from pentad.medical.volumes import Volume, read_label, write_nifti

SWIN = SwinUNetConfig(classes=9, embed_dim=12, depths=(2, 2), heads=(2, 2), windows=(4, 4))
PLAN = {
    "patch_size": [16, 16],
    "spacing": [2.0, 2.0],
    "UNet_base_num_features": 4,
    "unet_max_num_features": 8,
    "conv_kernel_sizes": [[3, 3], [3, 3]],
    "pool_op_kernel_sizes": [[1, 1], [2, 2]],
    "n_conv_per_stage_encoder": [2, 2],
    "n_conv_per_stage_decoder": [2],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
}
INTENSITY = {"mean": 90.0, "std": 30.0, "median": 95.0, "min": -50.0, "max": 200.0}
INTENSITY |= {"percentile_00_5": -20.0, "percentile_99_5": 180.0}


def swin_state(model, image=32):
    """The tensors as the published code saves them on several GPUs."""
    windows = (image // 4 // 4) ** 2
    state = {f"module.swin_unet.{name}": value for name, value in model.state_dict().items()}
    state["module.swin_unet.layers.0.blocks.1.attn_mask"] = torch.zeros(windows, 16, 16)
    return state


@pytest.fixture
def swin(tmp_path):
    """A Swin-UNet and its checkpoint for slices of 32 pixels."""
    torch.manual_seed(0)
    model = SwinUNet(SWIN).eval()
    torch.save(swin_state(model), tmp_path / "best_model.pth")
    return model, tmp_path / "best_model.pth"


@pytest.fixture
def u_mamba(tmp_path):
    """A U-Mamba Bot and the folder that nnU-Net's trainer leaves."""
    torch.manual_seed(0)
    model = UMambaBot(config_from_official({**PLAN, "num_input_channels": 1, "num_classes": 3})).eval()
    folder = tmp_path / "nnUNetTrainerUMambaBot__nnUNetPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    plans = {
        "configurations": {"2d": PLAN, "2d_other": {"inherits_from": "2d", "patch_size": [32, 32]}},
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": INTENSITY},
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 2, "liver": 1}}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    weights = OrderedDict(model.state_dict())
    weights |= {f"decoder.{name}": value for name, value in weights.items() if name.startswith("encoder.")}
    content = {
        "network_weights": weights,
        "logging": {"train_losses": [np.float64(0.5), np.float32(0.25)]},
        "_best_ema": np.float64(0.7),
        "current_epoch": 1000,
        "init_args": {"configuration": "2d", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainerUMambaBot",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(content, path)
    return model, path


def imported(path, out, architecture="swin_unet", **settings):
    return import_checkpoint(ImportRequest(path, architecture, out, **settings))


def loaded(bundle):
    return load_bundle(bundle, "medical", {name: cls for name, (_, cls) in MODELS.items()}).model


def segmented(bundle, tmp_path):
    """Labels that the batch command writes for a tiny scan."""
    scan = tmp_path / "scans" / "scan.nii.gz"
    write_nifti(scan, Volume(tiny_ct(0), np.diag([2.0, 2.0, 4.0, 1.0])))
    out = tmp_path / "out"
    options = ("--model", bundle, "--run", "r", "--device", "cpu")
    done = call("medical", "predict", scan.parent, "-o", out, *options)
    assert done.code == 0, done.err
    return read_label(next(out.glob("r/cases/*/label.nii.gz"))).array


def test_an_imported_swin_unet_has_the_checkpoints_numbers_and_says_what_it_is(swin, tmp_path):
    model, path = swin
    imported(path, tmp_path / "bundle", licence="research only")
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / "bundle")(x), model(x))
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest["settings"]["classes"] == {name: value for value, name in enumerate(SYNAPSE, 1)}
    assert manifest["settings"]["preprocessing"]["slice_size"] == [32, 32]
    assert manifest["licences"] == {"code": "Apache-2.0", "weights": "research only", "data": "not stated"}
    assert manifest["provenance"]["checkpoint"] == digest_file(path)


def test_an_imported_swin_unet_labels_whole_slices_resized_as_published(swin, tmp_path):
    model, path = swin
    imported(path, tmp_path / "bundle")
    scan = tiny_ct(0).astype(np.float32)
    grid = np.diag([2.0, 2.0, 4.0, 1.0])
    label = load_predictor(str(tmp_path / "bundle"), "cpu").run(Volume(scan, grid)).label
    window = torch.from_numpy((np.clip(scan, -125, 275) + 125) / 400)[:, None]
    cubic = torch.nn.functional.interpolate(window, (32, 32), mode="bicubic", align_corners=False)
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(model(cubic.clamp(0, 1)), (24, 24), mode="bilinear")
    assert len(np.unique(label)) > 2
    # torch's cubic kernel is no spline: the labels agree but for voxels whose two best classes are close.
    assert (logits.argmax(1).numpy() == label).mean() > 0.8


@pytest.fixture(scope="module")
def hiformer(tmp_path_factory):
    """A small HiFormer at 32 pixels, and its untrained checkpoint."""
    torch.manual_seed(0)
    model = HiFormer(replace(hiformer_s(3), image_size=(32, 32))).eval()
    path = tmp_path_factory.mktemp("hiformer") / "epoch.pth"
    torch.save(published_hiformer(model), path)
    return model, path


def published_hiformer(model):
    from medical.test_slice_parity import published

    return {published(name): value.clone() for name, value in model.state_dict().items()}


def test_a_hiformer_whose_fusion_never_learnt_is_imported_as_todays_code(hiformer, tmp_path):
    _, path = hiformer
    imported(path, tmp_path / "bundle", "hiformer_s", classes=("liver", "lesion"))
    config = loaded(tmp_path / "bundle").config
    assert (config.fusion, config.image_size, config.classes) == ("dropped", (32, 32), 3)


def test_a_hiformer_whose_fusion_was_trained_asks_which_code_did_it(hiformer, tmp_path):
    model, _ = hiformer
    state = published_hiformer(model)
    state["All2Cross.blocks.0.blocks.0.0.norm1.weight"] += 0.1
    torch.save(state, tmp_path / "epoch.pth")
    arguments = ("medical", "models", "import", tmp_path / "epoch.pth", "--architecture", "hiformer_s", "-o")
    options = (tmp_path / "bundle", "--classes", "liver,lesion")
    refused = call(*arguments, *options)
    assert refused.code == 2
    assert "PTD-540" in refused.sentence()
    assert call(*arguments, *options, "--fusion", "release_2022_07").code == 0
    assert loaded(tmp_path / "bundle").config.fusion == "release_2022_07"


def test_an_nnunet_folder_becomes_a_bundle_that_predicts(u_mamba, tmp_path):
    model, path = u_mamba
    done = call("medical", "models", "import", path, "--architecture", "u_mamba_bot", "-o", tmp_path / "bundle")
    assert done.code == 0, done.err
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / "bundle")(x), model(x))
    settings = read_manifest(tmp_path / "bundle")["settings"]
    assert settings["classes"] == {"liver": 1, "lesion": 2}
    assert settings["preprocessing"]["normalisation"]["intensity"]["high"] == 180.0
    assert segmented(tmp_path / "bundle", tmp_path).shape == (12, 24, 24)


def test_a_configuration_of_the_plan_is_chosen_by_name_and_inherits(u_mamba, tmp_path):
    _, path = u_mamba
    imported(path, tmp_path / "bundle", "u_mamba_bot", configuration="2d_other")
    assert read_manifest(tmp_path / "bundle")["settings"]["patch_size"] == [32, 32]


class Harmful:
    def __reduce__(self):
        return os.getenv, ("HOME",)  # not print, for which ray puts its own


def spoilt(state, change):
    """One thing wrong with a checkpoint, and what the sentence must say."""
    names = {name.rpartition("swin_unet.")[2]: name for name in state}
    if change == "missing":
        del state[names["layers.0.blocks.1.mlp.fc1.bias"]], state[names["norm_up.weight"]]
        return r"PTD-516 .*missing: layers\.0\.blocks\.1\.mlp\.fc1\.bias, norm_up\.weight"
    if change == "unexpected":
        state["swin_unet.layers.0.blocks.1.mlp.fc3.bias"] = torch.zeros(2)
        return r"PTD-516 .*unexpected: layers\.0\.blocks\.1\.mlp\.fc3\.bias"
    if change == "misshapen":
        state[names["norm.weight"]] = torch.ones(23)
        return r"PTD-516 .*misshapen: norm\.weight \(23,\) instead of \(24,\)"
    if change == "not finite":
        state[names["norm.weight"]][3] = torch.nan
        return r"PTD-537 .*not finite: norm\.weight"
    state["code"] = Harmful()
    return r"PTD-512 .*wants to run 'os\.getenv'"


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen", "not finite", "code"])
def test_a_checkpoint_that_does_not_fit_is_one_sentence_with_every_tensor(change, swin, tmp_path):
    model, _ = swin
    state = {name: value.clone() for name, value in swin_state(model).items()}
    sentence = spoilt(state, change)
    torch.save(state, tmp_path / "spoilt.pth")
    out = tmp_path / "bundle"
    done = call("medical", "models", "import", tmp_path / "spoilt.pth", "--architecture", "swin_unet", "-o", out)
    assert done.code == 5
    assert re.search(sentence, done.sentence())
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--architecture", "swin_unett"), 5, "PTD-296 .*swin_unet"),
        (("--architecture", "dynunet"), 5, "PTD-536"),
        (("--architecture", "u_mamba_bot"), 5, r"PTD-538 .*no plans\.json"),
        (("--architecture", "hiformer_s"), 5, "PTD-516"),
        (("--architecture", "swin_unet", "--classes", "a,b"), 2, "PTD-541 .*8 classes beside background, and 2 names"),
        (("--architecture", "swin_unet", "--classes", "a,b,c,d,e,f,g,a"), 2, "PTD-541"),
        (("--architecture", "swin_unet", "--settings", "{work}/none.json"), 2, "PTD-541"),
        (("--architecture", "swin_unet", "-o", "{work}"), 2, "PTD-508"),
    ],
)
def test_an_import_that_cannot_be_is_one_sentence(options, code, sentence, swin, tmp_path):
    changed = [option.format(work=tmp_path) for option in options]
    done = call("medical", "models", "import", swin[1], "-o", tmp_path / "bundle", *changed)
    assert done.code == code
    assert re.search(sentence, done.sentence())
    assert not (tmp_path / "bundle").exists()


def test_settings_of_another_preparation_are_taken_from_a_file(swin, tmp_path):
    _, path = swin
    imported(path, tmp_path / "first")
    settings = read_manifest(tmp_path / "first")["settings"]
    settings["preprocessing"] |= {"slice_size": None, "spacing": [1.5, 1.5]}
    settings["step"] = 0.7
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    imported(path, tmp_path / "second", settings=tmp_path / "settings.json")
    assert read_manifest(tmp_path / "second")["settings"] == settings


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("plans.json", {"transpose_forward": None}, "PTD-538"),
        ("plans.json", {"configurations": {"3d_fullres": PLAN}}, "PTD-539 .*no configuration '2d'"),
        ("dataset.json", {"labels": {"background": 0, "liver": [1, 2]}}, "PTD-538 .*regions"),
        ("dataset.json", {"channel_names": {"0": "CT", "1": "PET"}}, "PTD-377"),
        ("dataset.json", {"labels": {"background": 0, "liver": 2}}, "PTD-538"),
    ],
)
def test_an_nnunet_folder_that_cannot_be_used_is_one_sentence(name, change, sentence, u_mamba, tmp_path):
    _, path = u_mamba
    file = path.parent.parent / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    done = call("medical", "models", "import", path, "--architecture", "u_mamba_bot", "-o", tmp_path / "bundle")
    assert re.search(sentence, done.sentence())
