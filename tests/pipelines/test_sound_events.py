"""``dvc repro pipelines/sound_events`` as typed, on the samples with tiny models: twice.

Here every stage starts the installed command; the other pipelines' tests start it with its modules imported.
"""

import json

import pytest
from pipelines.checkout import ROOT, copy_with_samples, dvc

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
    return copy_with_samples(tmp_path_factory.mktemp("checkout"), TARGET, TINY)


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
