"""Bundles as ONNX: the same maps, a sentence where there is no such form."""

import json

import numpy as np
import pytest
import torch
from command import call
from point_clouds.conftest import write_bundle

from pentad.core.bundle import load_bundle
from pentad.point_clouds.models import MODELS

onnxruntime = pytest.importorskip("onnxruntime")


def test_a_network_as_onnx_gives_the_same_maps_for_any_number_of_points(tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    result = call("point-clouds", "models", "export", bundle, "-o", tmp_path / "onnx")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "onnx" / "parity.json").read_text())
    assert report["largest_error"] < 1e-5
    assert report["outputs"] == ["reg", "height", "dim", "rot", "heatmap"]
    model = load_bundle(bundle, "point_clouds", {name: cls for name, (_, cls) in MODELS.items()}).model
    points = 30 * torch.randn(777, 5, generator=torch.Generator().manual_seed(3)) * torch.tensor([1, 1, 0.1, 0.01, 0])
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    found = dict(zip(report["outputs"], session.run(None, {"points": points.numpy()}), strict=True))
    with torch.no_grad():
        wanted = model(points, torch.tensor([777]))
    assert all(np.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)


def test_flatformer_is_refused_as_onnx_in_a_sentence_and_nothing_is_written(tmp_path):
    bundle = write_bundle(tmp_path / "bundle", "flatformer")
    result = call("point-clouds", "models", "export", bundle, "-o", tmp_path / "onnx")
    assert (result.code, result.sentence()[:7]) == (5, "PTD-594")
    assert "sorts and groups" in result.sentence()
    assert not (tmp_path / "onnx").exists()
