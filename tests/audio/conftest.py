from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from command import call

from pentad.audio.frontends import FrontEndConfig
from pentad.audio.models import load_class
from pentad.audio.predict import Settings, WindowConfig
from pentad.core.bundle import save_bundle

RATE = 8000
FRONT = FrontEndConfig("log_mel", RATE, 32, 256, 256, 64, 50, 4000)
SIZES = {
    "ast": {"dim": 32, "depth": 1, "heads": 2},
    "passt": {"dim": 32, "depth": 1, "heads": 2},
    "cnn": {"channels": (8, 16), "time_pooling": 4},
    "hts_at": {"image": 64, "dim": 8, "depths": (1, 1), "heads": (1, 2), "window": 4},
}
PARAMS = {
    "prepare": {"layout": "folders", "split": {"train": 0.5, "test": 0.5}},
    "frontend": {
        **{"kind": "log_mel", "sample_rate": RATE, "mel_bins": 16, "n_fft": 256, "window": 256, "hop": 80},
        **{"fmin": 50, "fmax": 4000},
    },
    "networks": {
        "cnn": {"channels": [8, 16], "time_pooling": 4},
        "hts_at": {"image": 64, "dim": 8, "depths": [1, 1], "heads": [1, 2], "window": 4, "drop_path": 0.0},
        "ast": {"dim": 16, "depth": 1, "heads": 2},
        "passt": {"dim": 16, "depth": 1, "heads": 2},
    },
    "train": {"steps": 2, "batch_size": 8, "optimizer": "adamw", "learning_rate": 0.01, "schedule": "constant"},
    "loss": {},
    "augment": {"frequency_mask": 2},
    "predict": {"window_s": 1.0, "hop_s": 0.5},
    "evaluate": {"resamples": 50},
}


def tone(hertz: float, seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone in faint noise."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * np.random.default_rng(seed).standard_normal(len(time))


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> Path:
    """Twelve clips of two classes, a folder each."""
    root = tmp_path_factory.mktemp("sounds")
    for name, hertz in (("high", 2500), ("low", 400)):
        (root / name).mkdir()
        for number in range(6):
            soundfile.write(root / name / f"{name}{number}.wav", tone(hertz + 20 * number, 1.0, seed=number), RATE)
    return root


@pytest.fixture(scope="session")
def params(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS))
    return path


@pytest.fixture(scope="session")
def prepared(sounds, params, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    done = call("audio", "prepare", sounds, "-o", out, "--params", params)
    assert done.code == 0, done.err
    return out / "cases.jsonl"


@pytest.fixture(scope="session")
def bundle(prepared, params, tmp_path_factory) -> Path:
    """A CNN trained for a moment on the two classes."""
    out = tmp_path_factory.mktemp("trained")
    options = ("--model", "cnn", "-o", out / "cnn", "--run", out / "runs" / "cnn", "--params", params)
    done = call("audio", "train", prepared, *options, "--set", "steps=40")
    assert done.code == 0, done.err
    return out / "cnn"


def untrained(name, folder, front=FRONT):
    """An untrained bundle of windows of a second and three classes."""
    config, cls = load_class(name)
    frames = {"frames": front.frames(front.sample_rate)} if name in ("ast", "passt") else {}
    torch.manual_seed(0)
    model = cls(config(classes=3, mel_bins=front.mel_bins, **SIZES[name], **frames))
    settings = Settings(front, ("a", "b", "c"), WindowConfig(1.0, 0.5))
    save_bundle(folder, model, domain="audio", name=name, settings=settings.to_mapping(), card="x", provenance={})
    return folder
