"""``dvc repro pipelines/sound_events`` as typed, on the samples with tiny models: twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TARGET = "pipelines/sound_events"
TINY = {
    "networks": {
        "hts_at": {"image": 128, "dim": 8, "depths": [1, 1], "heads": [1, 2]},
        "cnn": {"channels": [4, 8], "time_pooling": 4},
    },
    "train": {"steps": 2, "batch_size": 2, "optimizer": "adamw", "learning_rate": 0.002},
    "evaluate": {"seed": 1, "resamples": 20},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the tiny settings, its packages and its data."""
    if not (ROOT / "data" / "audio" / "sounds").is_dir():
        pytest.skip("no sample data here; write it with pentad samples")
    place = tmp_path_factory.mktemp("checkout")
    call = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "packages/")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    for leftover in ("metrics.json", "dvc.lock", "report"):
        path = place / TARGET / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(ROOT / "packages", place / "packages", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(ROOT / "data", place / "data", copy_function=shutil.copy)
    subprocess.run(["git", "init", "-q"], cwd=place, check=True)
    params = place / TARGET / "params.yaml"
    params.write_text(yaml.safe_dump({**yaml.safe_load(params.read_text()), **TINY}))
    return place


def dvc(checkout, *words):
    # The stages' `pentad` is the one beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    call = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(call, cwd=checkout, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_literal_target_runs_the_whole_pipeline_and_a_second_time_nothing(checkout):
    dvc(checkout, "repro", TARGET)
    metrics = json.loads((checkout / TARGET / "metrics.json").read_text())
    assert list(metrics["models"]) == ["hts_at", "cnn"]
    assert metrics["data"] == "synthetic"
    assert metrics["shipped"] == {"cases": 48, "differing_cases": 0}
    assert "Synthetic data" in (checkout / TARGET / "report" / "index.html").read_text()
    assert "| sound_events |" in (checkout / TARGET / "results.md").read_text()
    assert "Running stage" not in dvc(checkout, "repro", TARGET)


def test_every_network_of_the_params_can_be_built():
    from pentad.audio.frontends import FrontEndConfig
    from pentad.audio.predict import Settings, WindowConfig
    from pentad.audio.train import network_for
    from pentad.core.config import load_params

    for name in ("params.yaml", "params.esc10.yaml", "params.digits.yaml"):
        params = ROOT / TARGET / name
        front, windows = load_params(params, "frontend", FrontEndConfig), load_params(params, "predict", WindowConfig)
        for model in ("hts_at", "cnn"):
            network, _ = network_for(model, params, Settings(front, ("a", "b"), windows))
            assert 10_000 < sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
