"""Architectures listed, bundles shown, published checkpoints in, ONNX out."""

import json

import numpy as np
import pytest
import torch
from command import call

from pentad.core.bundle import load_bundle, save_bundle
from pentad.remote_sensing.dataset import Scaling
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.models.change_mamba import ChangeMambaConfig, MambaBCD, MambaBDA, MambaSCD
from pentad.remote_sensing.models.fc_siam import FCSiamConc, FCSiamConfig
from pentad.remote_sensing.models.vmamba import VMambaConfig
from pentad.remote_sensing.predict import Settings, TileConfig
from pentad.remote_sensing.raster import PairConfig
from pentad.remote_sensing.tasks import GRADES, TASKS

ENCODER = VMambaConfig(widths=(8, 16, 16), depths=(1, 2, 1), input_channels=4, mlp_ratio=2.0, drop_path=0.0)
KINDS = {
    "mamba_bcd": (MambaBCD, ChangeMambaConfig(ENCODER, hidden=8)),
    "mamba_scd": (MambaSCD, ChangeMambaConfig(ENCODER, hidden=8)),
    "mamba_bda": (MambaBDA, ChangeMambaConfig(ENCODER, hidden=8, classes=5, semantic_classes=2)),
}


def models(*words):
    return call("remote-sensing", "models", *words)


@pytest.fixture
def bundle(tmp_path):
    torch.manual_seed(0)
    settings = Settings(Scaling((1.0,) * 3, (2.0,) * 3), TileConfig(32), PairConfig(), "bda", (GRADES,))
    save_bundle(
        tmp_path / "bundle",
        FCSiamConc(FCSiamConfig((4, 8), heads=TASKS["bda"].heads)),
        domain="remote_sensing",
        name="fc_siam_conc",
        settings=settings.to_mapping(),
        card="# Little",
        provenance={},
    )
    return tmp_path / "bundle"


def test_every_architecture_is_listed_with_its_tasks_and_size():
    listed = [json.loads(line) for line in models("list", "--json").out.splitlines()]
    assert [entry["name"] for entry in listed] == list(MODELS)
    assert {entry["name"]: entry["tasks"] for entry in listed}["fc_siam_conc"] == ["bcd", "scd", "bda"]
    assert round(listed[0]["parameters"] / 1e6, 2) == 32.61
    assert "mamba_scd" in models("list").out


def test_a_bundle_is_shown_with_its_task_and_classes(bundle):
    told = json.loads(models("show", bundle, "--json").out)
    assert (told["task"], told["maps"], told["classes"]) == ("bda", ["building", "damage"], {"damage": list(GRADES)})
    assert "undamaged, minor, major, destroyed" in models("show", bundle).out


def test_a_bundle_of_unknown_settings_is_one_sentence(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["settings"]["task"] = "xyz"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert "PTD-877" in models("show", bundle).sentence()


def old_name(name):
    """The name before 30 March 2026 of a tensor of the change decoder's blocks and fusions."""
    for part, number in (("cat", 1), ("interleave", 2), ("split", 3)):
        for stage in range(3):
            name = name.replace(f"stage_blocks.{stage}.{part}.", f"st_block_{4 - stage}{number}.")
    for stage in range(3):
        name = name.replace(f"fuse_layers.{stage}.", f"fuse_layer_{4 - stage}.")
    return name


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scheme", ["old", "new"])
def test_a_published_checkpoint_becomes_a_bundle_of_its_task_with_its_tensors(tmp_path, name, scheme):
    torch.manual_seed(0)
    cls, config = KINDS[name]
    state = cls(config).state_dict()
    if scheme == "old":
        saved = {old_name(key): tensor for key, tensor in state.items()}
    else:
        saved = {"model": {f"module.{key}": tensor for key, tensor in state.items()}, "iteration": 7}
    torch.save(saved, tmp_path / "published.pth")
    assert models("import", tmp_path / "published.pth", "-o", tmp_path / "made").code == 0
    made = load_bundle(tmp_path / "made", "remote_sensing", {key: kind for key, (_, kind) in MODELS.items()})
    assert (made.name, made.settings["task"]) == (name, name.removeprefix("mamba_"))
    assert made.model.config == config
    assert all(torch.equal(tensor, state[key]) for key, tensor in made.model.state_dict().items())


def test_an_encoders_and_another_networks_checkpoint_are_one_sentence_and_leave_nothing(tmp_path):
    state = MambaBCD(KINDS["mamba_bcd"][1]).state_dict()
    torch.save({"model": {k: v for k, v in state.items() if k.startswith("encoder.")}}, tmp_path / "encoder.pth")
    torch.save({f"decoder.x{k}": v for k, v in state.items()}, tmp_path / "other.pth")
    for name in ("encoder", "other"):
        assert "PTD-843" in models("import", tmp_path / f"{name}.pth", "-o", tmp_path / "made").sentence()
    assert not (tmp_path / "made").exists()


def test_another_format_than_onnx_is_refused(bundle, tmp_path):
    assert "PTD-590" in models("export", bundle, "-o", tmp_path / "out", "--format", "tflite").sentence()


@pytest.mark.slow
def test_a_bundle_goes_to_onnx_with_all_its_heads_and_the_same_numbers(bundle, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = models("export", bundle, "-o", tmp_path / "onnx")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "onnx" / "parity.json").read_text())
    assert (report["agreement"], report["input_shape"]) == (1, [1, 3, 32, 32])
    before, after = torch.randn(2, 1, 3, 32, 32)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    found = session.run(None, {"before": before.numpy(), "after": after.numpy()})
    model = load_bundle(bundle, "remote_sensing", {"fc_siam_conc": FCSiamConc}).model
    with torch.no_grad():
        expected = model(before, after)
    assert [np.abs(a - b.numpy()).max() < 1e-4 for a, b in zip(found, expected, strict=True)] == [True, True]
