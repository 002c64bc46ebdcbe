"""``dvc repro pipelines/liver_seg`` as typed, on the samples with a tiny model: twice, and once more by force."""

import json
import subprocess
import sys

import pytest
from imported import imported
from pipelines.checkout import ROOT, copy_with_samples, dvc

TARGET = "pipelines/liver_seg"
TINY = {
    "prepare": {"split": {"train": 0.86, "val": 0.07, "test": 0.07}},
    "plan": {"configuration": "2d", "base_features": 4, "max_features": 16, "patch_size": [64, 64], "batch_size": 2},
    "train": {"steps": 3, "optimizer": "adamw", "learning_rate": 0.002},
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with imported("medical", tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_with_samples(tmp_path_factory.mktemp("checkout"), TARGET, TINY)


@pytest.fixture(scope="module")
def first(checkout, commands):
    output = dvc(checkout, "repro", TARGET, commands=commands)
    return output, (checkout / TARGET / "metrics.json").read_bytes()


@pytest.mark.slow
def test_the_literal_target_runs_the_whole_pipeline(checkout, first):
    metrics = json.loads(first[1])
    assert list(metrics["models"]) == ["u_mamba_bot", "dynunet", "threshold"]
    assert metrics["data"] == "synthetic"
    assert metrics["shipped"]["cases"] == metrics["models"]["dynunet"]["cases"]["scored"] == 2
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
def test_a_forced_run_gives_the_same_metrics_and_leaves_the_data_pin_alone(checkout, first, tmp_path):
    pin = (checkout / "data.dvc").read_bytes()
    with imported("medical", tmp_path, seed=1) as others:
        dvc(checkout, "repro", "-f", TARGET, commands=others)
    assert (checkout / TARGET / "metrics.json").read_bytes() == first[1]
    assert (checkout / "data.dvc").read_bytes() == pin == (ROOT / "data.dvc").read_bytes()
