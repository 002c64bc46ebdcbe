"""Architectures listed, bundles shown, and bundles in other projects' formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from audio.conftest import FRONT, RATE, tone, untrained
from command import call, run

from pentad.audio.frontends import FrontEnd, kaldi_fbank
from pentad.audio.predict import load_tagger


def export(bundle, out, kind, *more):
    return call("audio", "models", "export", bundle, "-o", out, "--format", kind, *more)


def test_the_list_states_the_published_sizes():
    done = run("audio", "models", "list", "--json")
    entries = {entry["name"]: entry for entry in map(json.loads, done.out.splitlines())}
    assert {name: entry["parameters"] for name, entry in entries.items() if entry["imports_checkpoints"]} == {
        "ast": 86_594_063,
        "hts_at": 29_963_431,
        "passt": 85_748_495,
    }


def test_a_bundle_is_shown_in_words_and_as_json(bundle):
    words = call("audio", "models", "show", bundle).out
    assert "2, one class a recording: high, low" in words
    assert "mono at 8000 Hz, log_mel with 16 mel bins" in words
    told = json.loads(call("audio", "models", "show", bundle, "--json").out)
    assert told["parameters"] == sum(p.numel() for p in load_tagger(str(bundle)).model.parameters())


def test_a_bundle_of_another_version_is_refused_with_a_sentence(bundle, tmp_path):
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["settings"]["hearing"] = 1
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    (tmp_path / "config.json").write_bytes((bundle / "config.json").read_bytes())
    done = call("audio", "models", "show", tmp_path)
    assert done.code == 5
    assert "PTD-749" in done.sentence()


def test_transformers_hears_with_an_exported_ast_what_we_hear(tmp_path):
    from transformers import pipeline

    bundle = untrained("ast", tmp_path / "ast", kaldi_fbank(-5.0, 4.0))
    done = export(bundle, tmp_path / "out", "transformers")
    assert done.code == 0, done.err
    wave = tone(700, 1.0, 16_000).astype(np.float32)
    theirs = pipeline("audio-classification", str(tmp_path / "out"), device="cpu")(wave, top_k=3)
    ours = load_tagger(str(bundle)).run_blocks(None, iter([wave])).mean
    assert {row["label"]: row["score"] for row in theirs} == pytest.approx(
        dict(zip("abc", map(float, ours), strict=True)), abs=1e-5
    )


@pytest.mark.parametrize("name", ["ast", "hts_at", "passt", "cnn"])
def test_onnxruntime_gives_the_models_numbers_for_any_number_of_windows(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    bundle = untrained(name, tmp_path / name)
    done = export(bundle, tmp_path / "out", "onnx")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["largest_error"] <= 1e-5 * report["largest_logit"]
    features = FrontEnd(FRONT)(torch.randn(3, RATE))
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    logits, *_, embedding = session.run(None, {"features": features.numpy()})
    with torch.no_grad():
        wanted = load_tagger(str(bundle)).model(features)
    assert logits == pytest.approx(wanted.clip.numpy(), abs=1e-5)
    assert embedding == pytest.approx(wanted.embedding.numpy(), abs=1e-5)


@pytest.mark.parametrize("name", ["hts_at", "passt"])
def test_what_another_format_does_not_know_is_refused_and_nothing_written(name, tmp_path):
    done = export(untrained(name, tmp_path / name), tmp_path / "out", "transformers")
    assert done.code == 5
    assert "PTD-594" in done.sentence()
    assert not (tmp_path / "out").exists()


def test_an_ast_on_another_front_end_is_no_transformers_model(tmp_path):
    done = export(untrained("ast", tmp_path / "ast"), tmp_path / "out", "transformers")
    assert "PTD-594" in done.sentence()
    assert "trained on another" in done.sentence()
