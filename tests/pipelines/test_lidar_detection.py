"""``dvc repro pipelines/lidar_detection`` as typed, on the samples with tiny models: twice."""

import json

import pytest
from imported import imported
from pipelines.checkout import ROOT, copy_with_samples, dvc

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
def commands(tmp_path_factory):
    with imported("point_clouds", tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_with_samples(tmp_path_factory.mktemp("checkout"), TARGET, TINY)


@pytest.mark.slow
def test_the_literal_target_runs_the_whole_pipeline_and_a_second_time_nothing(checkout, commands):
    dvc(checkout, "repro", TARGET, commands=commands)
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
