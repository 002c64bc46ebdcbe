"""The comparison beside liver_seg, as its one command runs it, on four tiny cases: two models, two folds, two seeds."""

import csv
import json

import numpy as np
import pytest
import yaml
from imported import imported
from medical.tiny_cases import PARAMS, write_pair
from pipelines.checkout import copy_project, dvc

TARGET = "pipelines/liver_seg"
COMPARISON = f"{TARGET}/comparison"


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with imported("medical", tmp_path_factory.mktemp("commands")) as folder:
        yield folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory, commands):
    leftovers = ("dvc.lock", "comparison/dvc.lock", "comparison/metrics.json")
    place = copy_project(tmp_path_factory.mktemp("compared"), TARGET, leftovers=leftovers)
    for seed in range(4):
        write_pair(place / "data" / "tiny", f"case{seed}", seed)
    settings = {"data": "../../data/tiny", "models": ["u_mamba_bot", "dynunet"], **yaml.safe_load(PARAMS)}
    (place / TARGET / "params.yaml").write_text(yaml.safe_dump(settings))
    who = {"models": ["dynunet", "u_mamba_bot"], "baseline": "dynunet", "fold_count": 2, "folds": [0, 1]}
    (place / COMPARISON / "params.yaml").write_text(yaml.safe_dump({**who, "seeds": [1, 2], "split_seed": 1}))
    dvc(place, "repro", f"{COMPARISON}/dvc.yaml", commands=commands)
    return place


@pytest.fixture(scope="module")
def rows(compared):
    with (compared / COMPARISON / "report" / "per_case.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_every_case_is_tested_once_a_model_and_seed(rows):
    tested = sorted((row["model"], row["seed"], row["id"]) for row in rows)
    assert len(tested) == len(set(tested)) == 2 * 2 * 4


@pytest.mark.slow
def test_the_difference_is_that_of_the_seeds_means_by_case(compared, rows):
    values = {(row["model"], row["seed"], row["id"]): float(row["liver_dice"]) for row in rows}
    cases = sorted({row["id"] for row in rows})
    means = {
        model: np.array([np.mean([values[model, seed, case] for seed in "12"]) for case in cases])
        for model in ("u_mamba_bot", "dynunet")
    }
    metrics = json.loads((compared / COMPARISON / "metrics.json").read_text())
    entry = metrics["paired_difference"]["u_mamba_bot - dynunet"]["liver_dice"]
    differences = means["u_mamba_bot"] - means["dynunet"]
    assert entry["value"] == pytest.approx(differences.mean(), abs=2e-6)
    assert differences.min() - 1e-6 <= entry["low"] <= entry["value"] <= entry["high"] <= differences.max() + 1e-6


@pytest.mark.slow
def test_seeds_differ_and_the_budget_does_not(compared, rows):
    by_seed = {seed: [row["liver_nsd"] for row in rows if row["seed"] == seed] for seed in "12"}
    assert by_seed["1"] != by_seed["2"]
    costs = json.loads((compared / COMPARISON / "metrics.json").read_text())["cost"]
    assert costs["dynunet"]["steps"] == costs["u_mamba_bot"]["steps"] == 2
    assert costs["u_mamba_bot"]["gflop"] > costs["dynunet"]["gflop"] > 0


@pytest.mark.slow
def test_the_page_shows_pairs_and_costs(compared):
    page = (compared / COMPARISON / "report" / "index.html").read_text()
    for shown in ("u_mamba_bot - dynunet", "What each model costs", "GFLOP a patch", "not a medical device"):
        assert shown in page


@pytest.mark.slow
def test_the_comparison_a_second_time_does_nothing(compared):
    assert "Running stage" not in dvc(compared, "repro", f"{COMPARISON}/dvc.yaml")
