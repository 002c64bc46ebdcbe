"""``dvc repro pipelines/building_change`` as typed, on the samples with tiny models: twice, and for another task."""

import json

import pytest
import yaml
from imported import imported
from pipelines.checkout import ROOT, change, copy_with_samples, dvc

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
def commands(tmp_path_factory):
    with imported("remote_sensing", tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_with_samples(tmp_path_factory.mktemp("checkout"), TARGET, TINY)


@pytest.mark.slow
def test_the_literal_target_runs_the_whole_pipeline_and_a_second_time_nothing(checkout, commands):
    dvc(checkout, "repro", TARGET, commands=commands)
    metrics = json.loads((checkout / TARGET / "metrics.json").read_text())
    assert list(metrics["models"]) == ["mamba_bcd", "fc_siam_diff", "differencing"]
    assert (metrics["data"], metrics["task"]) == ("synthetic", "bcd")
    assert metrics["models"]["mamba_bcd"]["f1_pooled"]["n"] == 12
    assert metrics["shipped"] == {"cases": 12, "differing_cases": 0}
    assert "Synthetic data" in (checkout / TARGET / "report" / "index.html").read_text()
    assert "| building_change |" in (checkout / TARGET / "results.md").read_text()
    assert "Running stage" not in dvc(checkout, "repro", TARGET)


@pytest.mark.slow
def test_a_parameter_makes_it_a_pipeline_of_building_damage(checkout, commands):
    change(checkout, TARGET, {"prepare": {"task": "bda"}, "models": ["mamba_bda", "fc_siam_conc"]})
    dvc(checkout, "repro", TARGET, commands=commands)
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
