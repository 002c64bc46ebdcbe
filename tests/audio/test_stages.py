"""Prepare, train, evaluate, predict and report on twelve tiny clips, as their commands run them."""

from __future__ import annotations

import csv
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio.conftest import RATE, tone
from command import call

from pentad.audio.hear import get_scene_embeddings, get_timestamp_embeddings, load_model
from pentad.audio.overview import Overview
from pentad.audio.predict import load_tagger
from pentad.audio.waveform import read
from pentad.core.cases import read_cases


@pytest.fixture(scope="module")
def evaluated(prepared, bundle, params, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    done = call("audio", "evaluate", prepared, "--model", bundle, "-o", out / "cnn", "--params", params)
    assert done.code == 0, done.err
    runs = shutil.copytree(bundle.parent / "runs", out / "runs")
    done = call("audio", "report", prepared, out / "cnn", "-o", out, "--runs", runs)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def predicted(sounds, bundle, tmp_path_factory):
    """A run over the clips and a longer stereo recording of another rate."""
    out, recordings = tmp_path_factory.mktemp("predicted"), tmp_path_factory.mktemp("recordings")
    shutil.copytree(sounds, recordings / "clips")
    long = np.concatenate([tone(400, 3.3, 22_050), tone(2500, 2.0, 22_050)])
    soundfile.write(recordings / "long.flac", np.stack([long, long], axis=1), 22_050)
    shutil.copy(recordings / "long.flac", out)
    (recordings / "notes.txt").write_text("no sound")
    options = ("--outputs", "csv,json,audacity,page,embeddings", "--run", "first", "--quiet")
    done = call("audio", "predict", recordings, "-o", out, "--model", bundle, *options)
    assert done.code == 0, done.err
    return out / "first"


def test_preparing_takes_folders_as_classes_and_splits_them(prepared):
    cases = read_cases(prepared)
    assert {case.target["labels"][0] for case in cases} == {"high", "low"}
    assert [case.split for case in cases].count("train") == 6
    assert json.loads((prepared.parent / "dataset.json").read_text())["exclusive"] is True


def test_two_classes_of_tones_are_told_apart(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())["models"]["cnn"]
    assert metrics["accuracy"]["value"] == 1.0
    assert metrics["mean_average_precision"]["value"] == 1.0
    assert metrics["accuracy"]["n"] == 6
    assert "Training loss" in (evaluated / "report" / "index.html").read_text()


def test_training_again_gives_the_same_bits(prepared, params, bundle, tmp_path):
    options = ("--model", "cnn", "-o", tmp_path / "cnn", "--run", tmp_path / "run", "--params", params)
    assert call("audio", "train", prepared, *options, "--set", "steps=40").code == 0
    assert (tmp_path / "cnn" / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["ast", "hts_at", "passt"])
def test_each_published_architecture_trains_and_tags(name, prepared, params, sounds, tmp_path):
    options = ("--model", name, "-o", tmp_path / name, "--run", tmp_path / "run", "--params", params)
    done = call("audio", "train", prepared, *options)
    assert done.code == 0, done.err
    tagging = load_tagger(str(tmp_path / name)).run(sounds / "high" / "high0.wav")
    assert tagging.mean.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_recording_of_any_length_gets_scores_a_timeline_events_and_a_page(predicted):
    folder = predicted / "cases" / "long.flac"
    names = {"embeddings.npy", "events.csv", "labels.txt", "page.html", "result.json", "scores.csv", "timeline.csv"}
    assert {path.name for path in folder.iterdir()} == names
    result = json.loads((folder / "result.json").read_text())
    assert result["seconds"] == pytest.approx(5.3, abs=0.01)
    assert result["flags"] == ["resampled_from_22050_hz", "mean_of_2_channels"]
    rows = list(csv.DictReader((folder / "timeline.csv").open()))
    assert float(rows[-1]["end_s"]) == pytest.approx(5.3, abs=0.01)
    best = ["low" if float(row["low"]) > float(row["high"]) else "high" for row in rows]
    assert best[0] == "low"
    assert best[-1] == "high"
    assert np.load(folder / "embeddings.npy").shape == (len(rows), 16)


def test_the_worklist_has_a_row_a_recording_and_other_files_are_named(predicted):
    rows = list(csv.DictReader((predicted / "worklist.csv").open()))
    assert len(rows) == 13
    assert {row["top_class"] for row in rows if row["id"].startswith("clips_high")} == {"high"}
    assert "notes.txt" in (predicted / "left_aside.jsonl").read_text()


def test_what_ships_is_what_was_scored(prepared, bundle, evaluated, tmp_path):
    options = ("--split", "test", "--run", "again", "--quiet")
    assert call("audio", "predict", prepared, "-o", tmp_path, "--model", bundle, *options).code == 0
    scored = {row["id"]: row for row in csv.DictReader((evaluated / "cnn" / "scores.csv").open())}
    for case, row in scored.items():
        result = json.loads((tmp_path / "again" / "cases" / case / "result.json").read_text())
        assert result["scores"]["high"] == pytest.approx(float(row["high"]), abs=2e-6)


def test_a_window_is_scored_alike_alone_and_within_a_batch(bundle, sounds):
    tagger = load_tagger(str(bundle))
    _, wave = read(sounds / "low" / "low1.wav", RATE)
    alone = tagger.run_blocks(None, iter([wave])).mean
    together = []
    tagger.run_blocks(None, iter([np.tile(wave, 4)]), lambda scores: together.append(scores.clip))
    assert alone == pytest.approx(together[0], abs=1e-5)


def test_embeddings_have_hears_shape(bundle):
    model = load_model(str(bundle))
    audio = torch.randn(2, 3 * RATE)
    stamped, stamps = get_timestamp_embeddings(audio[:, :RATE], model)
    assert get_scene_embeddings(audio, model).shape == (2, model.scene_embedding_size)
    assert stamped.shape == (2, 20, model.timestamp_embedding_size)
    assert stamps[0, :3].tolist() == [0.0, 50.0, 100.0]


def test_a_scenes_embedding_is_the_mean_over_the_windows_that_predict_delivers(bundle, predicted):
    delivered = np.load(predicted / "cases" / "long.flac" / "embeddings.npy")
    model = load_model(str(bundle))
    _, wave = read(predicted.parent / "long.flac", RATE)
    scene = get_scene_embeddings(torch.from_numpy(wave)[None], model)[0].numpy()
    assert scene == pytest.approx(delivered.mean(0), abs=1e-5)


def test_stamped_embeddings_change_where_the_sound_does(bundle):
    wave = np.concatenate([tone(400, 2.0), tone(2500, 2.0)]).astype(np.float32)
    stamped, _ = get_timestamp_embeddings(torch.from_numpy(wave)[None], load_model(str(bundle)))
    at = {second: stamped[0, round(20 * second)] for second in (1.0, 1.4, 2.6, 3.0)}
    assert max((at[1.0] - at[1.4]).norm(), (at[2.6] - at[3.0]).norm()) < 0.3 * (at[1.4] - at[2.6]).norm()


def test_a_recording_six_times_as_long_takes_no_more_memory(bundle, tmp_path):
    """A scaled-down night: 48 kHz stereo FLAC; what NumPy holds at its peak, scores and page included."""
    tagger, peaks = load_tagger(str(bundle)), []
    second = np.stack([tone(400, 1.0, 48_000), tone(900, 1.0, 48_000)], axis=1)
    for seconds in (20, 120):
        with soundfile.SoundFile(tmp_path / f"{seconds}.flac", "w", 48_000, 2) as file:
            for _ in range(seconds):
                file.write(second)
        overview = Overview(seconds, RATE)
        tracemalloc.start()
        tagging = tagger.run(tmp_path / f"{seconds}.flac", overview.add)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert tagging.seconds == pytest.approx(seconds)
    assert peaks[1] < 1.2 * peaks[0]


def test_an_official_checkpoint_becomes_a_bundle_by_its_command(tmp_path):
    from pentad.audio.models.passt import PaSST, PaSSTConfig

    torch.manual_seed(0)
    model = PaSST(PaSSTConfig(classes=3, dim=64, depth=1, heads=1, frames=200))
    torch.save(_official(model), tmp_path / "passt.pt")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    options = ("--model", "passt", "-o", tmp_path / "bundle", "--classes", tmp_path / "classes.txt")
    done = call("audio", "models", "import", tmp_path / "passt.pt", *options, "--set", "frames=200")
    assert done.code == 0, done.err
    tagger = load_tagger(str(tmp_path / "bundle"))
    x = torch.randn(1, 150, 128)
    with torch.no_grad():
        assert torch.equal(tagger.model(x).clip, model.eval()(x).clip)


@pytest.mark.parametrize("names", ["a\nb\n", "a\nb\nb\n", None])
def test_a_list_of_classes_that_does_not_fit_a_checkpoint_is_refused(names, tmp_path):
    from pentad.audio.models.passt import PaSST, PaSSTConfig

    torch.save(_official(PaSST(PaSSTConfig(classes=3, dim=64, depth=1, heads=1, frames=200))), tmp_path / "passt.pt")
    if names:
        (tmp_path / "classes.txt").write_text(names)
    options = ("--model", "passt", "-o", tmp_path / "bundle", "--classes", tmp_path / "classes.txt")
    done = call("audio", "models", "import", tmp_path / "passt.pt", *options, "--set", "frames=200")
    assert done.code == 2
    assert "PTD-747" in done.sentence()
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_without_names_of_classes_numbers_them(tmp_path):
    from pentad.audio.models.passt import PaSST, PaSSTConfig

    torch.save(_official(PaSST(PaSSTConfig(classes=3, dim=64, depth=1, heads=1, frames=200))), tmp_path / "passt.pt")
    options = ("--model", "passt", "-o", tmp_path / "bundle", "--set", "frames=200")
    done = call("audio", "models", "import", tmp_path / "passt.pt", *options)
    assert done.code == 0, done.err
    assert load_tagger(str(tmp_path / "bundle")).settings.classes == ("class_0", "class_1", "class_2")


def test_a_kaldi_front_end_is_normalised_by_the_training_recordings_unless_told(prepared):
    from pentad.audio.frontends import FrontEnd, kaldi_fbank
    from pentad.audio.train import front_end_for

    cases = read_cases(prepared, "train")
    published = kaldi_fbank()
    assert front_end_for(published, cases) == published
    asked = kaldi_fbank(0.0, 0.5)
    found = front_end_for(asked, cases)
    plain = FrontEnd(asked)
    mels = [plain.log_mel(torch.from_numpy(read(Path(case.files["audio"]), 16_000)[1])[None]) for case in cases]
    values = torch.cat([mel.flatten() for mel in mels]).double()
    assert found.mean == pytest.approx(float(values.mean()), abs=1e-5)
    assert found.std == pytest.approx(float(values.std(correction=0)), abs=1e-5)


def _official(model):
    """The model's tensors under the names of the published checkpoints."""
    names = {
        "embeddings.projection.": "patch_embed.proj.",
        "embeddings.": "",
        "network.audio_spectrogram_transformer.layernorm.": "norm.",
        "network.audio_spectrogram_transformer.layers.": "blocks.",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "network.classifier.layernorm": "head.0",
        "network.classifier.dense": "head.1",
    }
    state = {}
    for name, tensor in model.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    for kind in ("weight", "bias"):
        parts = [state.pop(f"blocks.0.attention.{letter}_proj.{kind}") for letter in "qkv"]
        state[f"blocks.0.attn.qkv.{kind}"] = torch.cat(parts)
    return {**state, "head_dist.weight": torch.zeros(3, 64), "head_dist.bias": torch.zeros(3)}
