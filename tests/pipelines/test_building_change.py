"""``dvc repro pipelines/building_change`` as typed, on the samples with tiny models: twice, and for another task."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TARGET = "pipelines/building_change"
NETWORK = {"encoder": {"widths": [4, 8], "depths": [1, 1]}, "hidden": 4}
TINY = {
    "networks": {
        **{name: NETWORK for name in ("mamba_bcd", "mamba_bda")},
        **{name: {"widths": [4]} for name in ("fc_siam_diff", "fc_siam_conc")},
    },
    "train": {"steps": 2, "batch_size": 2, "optimizer": "adamw", "learning_rate": 0.002},
    "tiles": {"side": 160},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the tiny settings, its packages and its data."""
    if not (ROOT / "data" / "remote_sensing" / "building_change").is_dir():
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


def set_up(checkout, **changes):
    params = checkout / TARGET / "params.yaml"
    params.write_text(yaml.safe_dump({**yaml.safe_load(params.read_text()), **changes}))


@pytest.mark.slow
def test_the_literal_target_runs_the_whole_pipeline_and_a_second_time_nothing(checkout):
    dvc(checkout, "repro", TARGET)
    metrics = json.loads((checkout / TARGET / "metrics.json").read_text())
    assert list(metrics["models"]) == ["mamba_bcd", "fc_siam_diff", "differencing"]
    assert (metrics["data"], metrics["task"]) == ("synthetic", "bcd")
    assert metrics["models"]["mamba_bcd"]["f1_pooled"]["n"] == 12
    assert metrics["shipped"] == {"cases": 12, "differing_cases": 0}
    assert "Synthetic data" in (checkout / TARGET / "report" / "index.html").read_text()
    assert "| building_change |" in (checkout / TARGET / "results.md").read_text()
    assert "Running stage" not in dvc(checkout, "repro", TARGET)


@pytest.mark.slow
def test_a_parameter_makes_it_a_pipeline_of_building_damage(checkout):
    set_up(checkout, prepare={"task": "bda"}, models=["mamba_bda", "fc_siam_conc"])
    dvc(checkout, "repro", TARGET)
    metrics = json.loads((checkout / TARGET / "metrics.json").read_text())
    assert (metrics["task"], list(metrics["models"])) == ("bda", ["mamba_bda", "fc_siam_conc", "differencing"])
    assert metrics["shipped"]["differing_cases"] == 0
    assert "f1 clf pooled" in (checkout / TARGET / "results.md").read_text()
    (case, *_) = (checkout / TARGET / "predictions" / "held_out" / "cases").iterdir()
    assert {path.stem for path in case.glob("*.tif")} == {"building", "damage", "probability"}


def test_every_network_of_the_params_can_be_built():
    from pentad.remote_sensing.tasks import TASKS
    from pentad.remote_sensing.train import build

    sizes = yaml.safe_load((ROOT / TARGET / "params.yaml").read_text())["networks"]
    for task in TASKS.values():
        for name in set(task.models) & set(sizes):
            network = build(name, task, 3, sizes[name], "params.yaml")
            assert 10_000 < sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
    assert {name for task in TASKS.values() for name in task.models} == set(sizes)
