"""``dvc repro pipelines/liver_seg`` as typed, on the samples with a tiny model: twice, and once more by force."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TARGET = "pipelines/liver_seg"
TINY = {
    "prepare": {"split": {"train": 0.8, "val": 0.1, "test": 0.1}},
    "plan": {"configuration": "2d", "base_features": 4, "max_features": 16, "patch_size": [64, 64], "batch_size": 2},
    "train": {"steps": 3, "optimizer": "adamw", "learning_rate": 0.002},
}


def tracked_files():
    call = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in listed if (ROOT / name).is_file() and not name.startswith(("tests/", "packages/"))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the tiny settings, its packages and its data."""
    place = tmp_path_factory.mktemp("checkout")
    for name in tracked_files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    for leftover in ("metrics.json", "dvc.lock", "plan.json", "report"):
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


@pytest.fixture(scope="module")
def first(checkout):
    output = dvc(checkout, "repro", TARGET)
    return output, (checkout / TARGET / "metrics.json").read_bytes()


@pytest.mark.slow
def test_the_literal_target_runs_the_whole_pipeline(checkout, first):
    metrics = json.loads(first[1])
    assert list(metrics["models"]) == ["u_mamba_bot", "dynunet", "threshold"]
    assert metrics["data"] == "synthetic"
    assert metrics["shipped"]["cases"] == metrics["models"]["dynunet"]["cases"]["scored"] == 3
    assert "Synthetic data" in (checkout / TARGET / "report" / "index.html").read_text()
    assert "| liver_seg |" in (checkout / TARGET / "results.md").read_text()


@pytest.mark.slow
def test_what_ships_is_what_was_scored(first):
    assert json.loads(first[1])["shipped"]["differing_voxels"] == 0


@pytest.mark.slow
def test_a_second_run_does_nothing(checkout, first):
    output = dvc(checkout, "repro", TARGET)
    assert "Running stage" not in output
    assert "up to date" in output


@pytest.mark.slow
def test_the_plan_says_that_nothing_would_run(checkout, first):
    call = [sys.executable, "-m", "pentad.core", "plan", str(checkout / TARGET)]
    output = subprocess.run(call, capture_output=True, text=True, check=True, cwd=checkout).stdout
    assert output.count("up to date") == len(output.splitlines()) == 9


@pytest.mark.slow
def test_metrics_and_plots_are_shown(checkout, first):
    assert "liver_dice" in dvc(checkout, "metrics", "show", f"{TARGET}/metrics.json")
    assert "training.csv" in dvc(checkout, "plots", "show", "--json", f"{TARGET}/report/training.csv")


@pytest.mark.slow
def test_a_forced_run_gives_the_same_metrics_and_leaves_the_data_pin_alone(checkout, first):
    pin = (checkout / "data.dvc").read_bytes()
    dvc(checkout, "repro", "-f", TARGET)
    assert (checkout / TARGET / "metrics.json").read_bytes() == first[1]
    assert (checkout / "data.dvc").read_bytes() == pin == (ROOT / "data.dvc").read_bytes()
