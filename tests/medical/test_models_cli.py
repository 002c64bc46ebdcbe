from __future__ import annotations

import json

from command import call

from pentad.core.bundle import read_manifest
from pentad.core.checkpoint import read_checkpoint
from pentad.medical.models import MODELS


def test_the_list_names_every_model_with_its_size():
    lines = [json.loads(line) for line in call("medical", "models", "list", "--json").out.splitlines()]
    assert [line["name"] for line in lines] == list(MODELS)
    assert {line["name"]: line["parameters"] for line in lines}["hiformer_b"] == 25_512_115
    assert {"code", "weights", "data"} == lines[0]["licences"].keys()
    text = call("medical", "models", "list").out
    assert "27.17 M" in text
    assert len(text.splitlines()) == len(MODELS)


def test_a_bundle_shows_task_classes_input_licences_parameters_and_digest(trained):
    told = json.loads(call("medical", "models", "show", trained / "bundle", "--json").out)
    manifest = read_manifest(trained / "bundle")
    weights = read_checkpoint(trained / "bundle" / "model.safetensors")
    assert told["task"] == "segmentation"
    assert told["classes"] == {"liver": 1, "lesion": 2}
    assert told["input"]["patch_size"] == [8, 16, 16]
    assert told["licences"] == manifest["licences"]
    assert told["digest"] == manifest["digest"]
    assert told["parameters"] == sum(tensor.numel() for tensor in weights.values())


def test_the_same_is_told_in_lines(trained):
    shown = call("medical", "models", "show", trained / "bundle")
    assert shown.code == 0
    assert "1 liver, 2 lesion" in shown.out
    assert "licence of weights" in shown.out


def test_a_bundle_whose_settings_are_unknown_is_one_sentence(trained, tmp_path):
    manifest = read_manifest(trained / "bundle")
    (tmp_path / "bundle.json").write_text(json.dumps(manifest | {"settings": {}}))
    (tmp_path / "config.json").write_bytes((trained / "bundle" / "config.json").read_bytes())
    done = call("medical", "models", "show", tmp_path)
    assert done.code == 5
    assert "PTD-389" in done.sentence()
