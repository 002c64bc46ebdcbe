"""``dvc repro pipelines/lidar_detection`` as typed, on the samples with tiny models: twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TARGET = "pipelines/lidar_detection"
SMALL = {"widths": [4, 8], "depths": [0, 0], "strides": [2, 2], "neck_widths": [4, 4]}
HEAD = {"width": 8, "branch_width": 4, "velocity": False}
TINY = {
    "grid": {"range_m": [-32, -32, -4, 32, 32, 2.4], "cell_m": [2, 2]},
    "networks": {
        "flatformer": {
            "pillar_widths": [4, 8],
            "encoder": {"blocks": 1, "heads": 2, "hidden": 8, "window": [4, 4], "group": 16},
            "backbone": SMALL,
            "head": HEAD,
        },
        "point_pillars": {"pillar_widths": [8], "backbone": SMALL, "head": HEAD},
    },
    "train": {"steps": 2, "batch_size": 2, "optimizer": "adamw", "learning_rate": 0.002},
    "evaluate": {"seed": 1, "resamples": 10},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the tiny settings, its packages and its data."""
    if not (ROOT / "data" / "point_clouds" / "streets").is_dir():
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
    assert list(metrics["models"]) == ["flatformer", "point_pillars"]
    assert metrics["data"] == "synthetic"
    assert metrics["models"]["flatformer"]["cases"] == {"scored": 22, "failed": 0}
    assert metrics["shipped"] == {"cases": 22, "differing_cases": 0}
    assert len(list((checkout / TARGET / "predictions").glob("held_out/cases/*/kitti.txt"))) == 22
    assert "Synthetic data" in (checkout / TARGET / "report" / "index.html").read_text()
    assert "| lidar_detection |" in (checkout / TARGET / "results.md").read_text()
    assert "Running stage" not in dvc(checkout, "repro", TARGET)


@pytest.mark.parametrize("name", ["params.yaml", "params.kitti.yaml"])
def test_every_network_of_the_params_can_be_built(name):
    from pentad.core.config import load_params, read_params
    from pentad.point_clouds.grid import GridConfig
    from pentad.point_clouds.train import build, read_settings

    params = ROOT / TARGET / name
    grid, classes = load_params(params, "grid", GridConfig), read_settings(params).classes
    for model in ("flatformer", "point_pillars"):
        network = build(model, read_params(params)["networks"][model], grid, len(classes), name)
        assert 100_000 < sum(parameter.numel() for parameter in network.parameters()) < 1_000_000
