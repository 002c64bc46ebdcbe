"""Bundles written for other projects, and read by them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call
from medical.tiny_cases import GRID, tiny_ct

from pentad.core.bundle import load_bundle, save_bundle
from pentad.core.errors import ModelError, UsageError
from pentad.medical.export import export
from pentad.medical.fingerprint import Intensity
from pentad.medical.models import MODELS
from pentad.medical.models.baseline import DynUNetConfig
from pentad.medical.models.u_mamba import UMambaConfig
from pentad.medical.plan import Normalisation
from pentad.medical.predict import Settings, predict_volume
from pentad.medical.preprocess import Preprocessing
from pentad.medical.volumes import Volume, grid_distance, read_label, write_nifti

PATCH = (8, 16, 16)
SHAPE = {"kernel_sizes": ((3, 3, 3),) * 3, "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)), "features": (4, 8, 8)}
CONFIGS = {
    "dynunet": DynUNetConfig(1, 3, **SHAPE),
    "u_mamba_bot": UMambaConfig(1, 3, PATCH, **SHAPE, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1)),
    "u_mamba_enc": UMambaConfig(1, 3, PATCH, **SHAPE, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1)),
}
WINDOW = Normalisation("ct", intensity=Intensity(90.0, 40.0, 95.0, -100.0, 300.0, low=-50.0, high=200.0))


def make_bundle(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    model = MODELS[name][1](CONFIGS[name])
    used = Settings({"liver": 1, "lesion": 2}, Preprocessing((4.0, 2.0, 2.0), (0, 1, 2), WINDOW), PATCH)
    options = {"domain": "medical", "settings": used.to_mapping(), "card": "# tiny", "provenance": {"seed": 0}}
    save_bundle(folder, model, name=name, **options)
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("bundles")
    return {name: make_bundle(work / name, name) for name in CONFIGS}


def model_of(bundle: Path) -> torch.nn.Module:
    return load_bundle(bundle, "medical", {name: cls for name, (_, cls) in MODELS.items()}).model


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_an_onnx_file_gives_the_models_numbers_in_onnxruntime(name, bundles, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = call("medical", "models", "export", bundles[name], "-o", tmp_path / "out", "--format", "onnx")
    assert done.code == 0, done.err
    patch = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(7))
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    found = session.run(None, {"image": patch.numpy()})[0]
    with torch.inference_mode():
        wanted = model_of(bundles[name])(patch).numpy()
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.999
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["largest_error"] <= report["tolerance"] * report["largest_logit"]
    assert report["shape"] == "fixed: give patches of exactly [1, 1, 8, 16, 16]"
    assert session.get_modelmeta().custom_metadata_map["pentad.classes"] == "1 liver, 2 lesion"


@pytest.mark.parametrize("name", CONFIGS)
def test_monais_own_loader_gives_the_models_numbers(name, bundles, tmp_path):
    from monai.bundle import load

    export(str(bundles[name]), "monai", tmp_path / "out")
    model = load("out", bundle_dir=tmp_path, workflow_type="inference", device="cpu").eval()
    patch = torch.randn(2, 1, *PATCH, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        found, wanted = model(patch), model_of(bundles[name])(patch)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_baseline_in_monais_layout_needs_nothing_of_ours(bundles, tmp_path):
    export(str(bundles["dynunet"]), "monai", tmp_path / "out")
    assert "pentad.medical" not in (tmp_path / "out" / "configs" / "inference.json").read_text()
    assert json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["required_packages_version"] == {}


def test_monais_workflow_finds_all_it_asks_of_an_inference_bundle(bundles, tmp_path):
    from monai.bundle import ConfigWorkflow
    from monai.bundle.properties import InferProperties, MetaProperties

    export(str(bundles["dynunet"]), "monai", tmp_path / "out")
    workflow = ConfigWorkflow(
        config_file=str(tmp_path / "out" / "configs" / "inference.json"),
        meta_file=str(tmp_path / "out" / "configs" / "metadata.json"),
        workflow_type="inference",
    )
    workflow.initialize()
    # Its own check builds the evaluator, which needs pytorch-ignite; whether everything is there needs nothing.
    wanted = {**InferProperties, **MetaProperties}
    assert [entry["id"] for entry in wanted.values() if entry["required"] and entry["id"] not in workflow.parser] == []
    assert workflow.network_def is not None


def test_a_scan_segmented_by_monais_transforms_alone_agrees_with_ours(bundles, tmp_path):
    from monai.bundle import ConfigParser

    export(str(bundles["dynunet"]), "monai", tmp_path / "out")
    # At the model's spacing and of one patch: nothing is resampled and nothing blended, so nothing may differ.
    scan = Volume(np.ascontiguousarray(tiny_ct(0)[2:10, 3:19, 3:19]), GRID)
    write_nifti(tmp_path / "images" / "scan.nii.gz", scan)
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "out" / "configs" / "inference.json"))
    parser["bundle_root"], parser["dataset_dir"] = str(tmp_path / "out"), str(tmp_path / "images")
    parser["output_dir"], parser["device"] = str(tmp_path / "labels"), "cpu"
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(parser.get_parsed_content("weights"))
    (item,) = parser.get_parsed_content("dataset")
    with torch.inference_mode():
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], network)[0]
    parser.get_parsed_content("postprocessing")(item)
    (written,) = (tmp_path / "labels").rglob("*.nii.gz")
    label = read_label(written)
    bundle = load_bundle(bundles["dynunet"], "medical", {"dynunet": MODELS["dynunet"][1]})
    ours = predict_volume(bundle.model, Settings.from_mapping(bundle.settings), scan).label
    assert grid_distance(label, scan) < 1e-3
    assert len(np.unique(ours)) > 1
    assert (label.array == ours).mean() > 0.999


@pytest.mark.parametrize("kind", ["monai", pytest.param("onnx", marks=pytest.mark.slow)])
def test_other_numbers_are_refused_and_leave_nothing(kind, bundles, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    # No float is as small as this: what is compared always differs too much.
    with pytest.raises(ModelError, match="PTD-593"):
        export(str(bundles["dynunet"]), kind, tmp_path / "out", tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_scan_too_long_to_write_out_is_refused(bundles, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("pentad.medical.export._LARGEST_SCAN", 100)
    with pytest.raises(ModelError, match=r"PTD-594 .*MONAI"):
        export(str(bundles["u_mamba_bot"]), "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten_unless_it_is_an_export_and_asked_for(bundles, tmp_path):
    export(str(bundles["dynunet"]), "monai", tmp_path / "out")
    with pytest.raises(UsageError, match="PTD-592"):
        export(str(bundles["dynunet"]), "monai", tmp_path / "out")
    export(str(bundles["dynunet"]), "monai", tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UsageError, match="PTD-592"):
        export(str(bundles["dynunet"]), "monai", tmp_path / "mine", overwrite=True)


def test_an_unknown_format_and_a_missing_library_are_named(bundles, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"PTD-590 .*did you mean 'onnx'"):
        export(str(bundles["dynunet"]), "onx", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"PTD-591 .*pentad-medical\[onnx\]"):
        export(str(bundles["dynunet"]), "onnx", tmp_path / "out")
