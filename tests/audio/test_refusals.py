"""What settings, paths and shapes are refused, each with a sentence and its code, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from audio.conftest import PARAMS, SIZES, untrained
from command import call

from pentad.audio.dataset import AugmentConfig
from pentad.audio.hear import get_scene_embeddings, load_model
from pentad.audio.infer import PredictRequest
from pentad.audio.models import build, load_class
from pentad.audio.models.ast import adapt
from pentad.audio.predict import WindowConfig
from pentad.core.errors import PentadError

SETTINGS = ("--params", "{params}")


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("PTD-731", lambda: WindowConfig(window_s=1.0, hop_s=2.0)),
        ("PTD-731", lambda: WindowConfig(batch_size=0)),
        ("PTD-733", lambda: AugmentConfig(mixup=1.5)),
        ("PTD-733", lambda: AugmentConfig(frequency_mask=-1)),
        ("PTD-739", lambda: PredictRequest((Path(),), "bundle", outputs="csv,pdf").wanted()),
        ("PTD-710", lambda: build("hts_at", SIZES["hts_at"], classes=2, mel_bins=16, frames=10_000)),
        ("PTD-704", lambda: adapt({}, load_class("ast")[0](), source="speech")),
        (
            "PTD-704",
            lambda: adapt({"pos_embed": torch.zeros(1, 9, 4)}, load_class("ast")[0](), source="imagenet"),
        ),
    ],
)
def test_impossible_settings_have_a_code(code, make):
    with pytest.raises(PentadError) as raised:
        make()
    assert raised.value.code == code


@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_network_takes_its_own_mel_bins_only(name):
    model = build(name, SIZES[name], classes=2, mel_bins=16, frames=100)
    with pytest.raises(PentadError, match="16 mel bins") as raised:
        model(torch.zeros(1, 100, 8))
    assert raised.value.code == "PTD-703"


@pytest.mark.parametrize("shape", [(100,), (2, 0), (1, 2, 3)])
def test_embeddings_are_of_a_batch_of_sounds(bundle, shape):
    with pytest.raises(PentadError) as raised:
        get_scene_embeddings(torch.zeros(shape), load_model(str(bundle), "cpu"))
    assert raised.value.code == "PTD-743"


def test_a_sound_shorter_than_a_window_is_padded_where_the_bundle_says_so(tmp_path):
    untrained("ast", tmp_path / "ast")
    manifest = json.loads((tmp_path / "ast" / "bundle.json").read_text())
    manifest["settings"]["windows"]["short"] = "pad"
    (tmp_path / "ast" / "bundle.json").write_text(json.dumps(manifest))
    embedder = load_model(str(tmp_path / "ast"), "cpu")
    assert embedder.tagger.settings.windows.short == "pad"
    short = torch.randn(1, 2000)
    frames = embedder.tagger.settings.frontend.frames(embedder.tagger.settings.window)
    features = embedder.tagger.front_end.pad(embedder.tagger.front_end(short), frames)
    assert features.shape[1] == frames
    with torch.no_grad():
        assert torch.equal(embedder.embed(short), embedder.tagger.model(features).embedding)
    # Batch prediction pads alike.
    tagging = embedder.tagger.run_blocks(None, iter([short[0].numpy()]))
    with torch.no_grad():
        wanted = torch.sigmoid(embedder.tagger.model(features).clip)[0]
    assert tagging.mean == pytest.approx(wanted.numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("PTD-744", ("--model", "cnn")),
        ("PTD-746", ("--model", "passt", "--set", "frames")),
        ("PTD-745", ("--model", "passt")),
    ],
)
def test_a_checkpoint_that_cannot_be_imported_leaves_nothing(code, options, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "some.pt")
    done = call("audio", "models", "import", tmp_path / "some.pt", "-o", tmp_path / "out", *options)
    assert done.code in (2, 5)
    assert code in done.sentence()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("PTD-737", 4, ("evaluate", "{table}", "--model", "{bundle}", "--split", "none", "-o", "{out}", *SETTINGS)),
        ("PTD-740", 5, ("predict", "{sounds}", "--model", "no such bundle", "-o", "{out}")),
        ("PTD-741", 2, ("predict", "{out}/nothing", "--model", "{bundle}", "-o", "{out}")),
        ("PTD-721", 2, ("prepare", "{out}/nothing", "-o", "{out}", *SETTINGS)),
        ("PTD-724", 2, ("prepare", "{sounds}", "-o", "{sounds}", *SETTINGS)),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    code, exit_code, words, sounds, prepared, bundle, params, tmp_path
):
    places = {"table": prepared, "bundle": bundle, "sounds": sounds, "params": params, "out": tmp_path / "out"}
    done = call("audio", *(word.format(**places) for word in words))
    assert done.code == exit_code
    assert code in done.sentence()
    assert not (tmp_path / "out").exists()


def test_a_section_of_networks_that_is_no_mapping_is_refused(prepared, tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "networks": {"cnn": [8, 16]}}))
    places = ("-o", tmp_path / "out", "--run", tmp_path / "run", "--params", tmp_path / "params.yaml")
    done = call("audio", "train", prepared, "--model", "cnn", *places)
    assert done.code == 2
    assert "PTD-736" in done.sentence()


def test_a_class_that_the_model_does_not_know_fails_its_case_alone(prepared, bundle, params, tmp_path):
    lines = [json.loads(line) for line in prepared.read_text().splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    test[0]["target"] = json.loads(json.dumps(test[0]["target"]).replace("high", "hum").replace("low", "hum"))
    table = tmp_path / "cases.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in test))
    done = call("audio", "evaluate", table, "--model", bundle, "-o", tmp_path / "out", "--params", params)
    assert done.code == 3
    rows = (tmp_path / "out" / "per_case.csv").read_text().splitlines()
    assert sum("PTD-738" in row for row in rows) == 1
    assert len(rows) == 1 + len(test)


def test_a_run_names_an_unknown_output_before_it_begins(bundle, sounds, tmp_path):
    done = call("audio", "predict", sounds, "--model", bundle, "-o", tmp_path / "out", "--outputs", "cvs")
    assert done.code == 2
    assert "csv" in done.sentence()
    assert not (tmp_path / "out").exists()


def test_only_the_outputs_that_are_asked_for_are_written(bundle, sounds, tmp_path):
    done = call("audio", "predict", sounds, "--model", bundle, "-o", tmp_path, "--run", "r", "--outputs", "audacity")
    assert done.code == 0, done.err
    (case, *_) = sorted((tmp_path / "r" / "cases").iterdir())
    assert sorted(path.name for path in case.iterdir()) == ["labels.txt"]
