"""Comparisons from written evaluations: what is averaged, what is refused."""

import json
import math

import pytest
from command import call

from pentad.core.evaluation import Row, format_rows
from pentad.core.files import write_text
from pentad.medical.comparison import METRICS, mean_over_seeds


def row(case, value, group=""):
    return Row(case, group, metrics=dict.fromkeys(METRICS, value))


@pytest.fixture
def evaluated(tmp_path):
    """Two models, two folds of two cases, two seeds; the second model is better by 0.1 and in seed 2 by 0.3."""
    for model, gain in (("base", 0.0), ("more", 0.1)):
        for fold in range(2):
            for seed in (1, 2):
                values = [0.2 + 0.2 * fold + 0.1 * place + gain * (1 if seed == 1 else 3) for place in range(2)]
                rows = [row(f"c{fold}{place}", value) for place, value in enumerate(values)]
                write_text(tmp_path / "evaluations" / model / str(fold) / str(seed) / "per_case.csv", format_rows(rows))
        cost = {"parameters": 1e6, "gflop": 4.0, "seconds": 0.5, "peak_mb": 9.0, "steps": 60, "batch_size": 2}
        cost |= {"patch_size": [8, 8], "device": "cpu", "threads": 1}
        write_text(tmp_path / "costs" / f"{model}.json", json.dumps(cost))
    write_text(tmp_path / "cases.jsonl", "")
    write_text(tmp_path / "dataset.json", '{"name": "made up", "synthetic": true, "licence": "CC0-1.0"}')
    return tmp_path


def compare(folder, baseline="base"):
    options = ("--costs", folder / "costs", "--baseline", baseline, "-o", folder / "out")
    return call("medical", "compare", folder / "cases.jsonl", folder / "evaluations", *options)


def test_the_difference_is_paired_over_cases_and_averaged_over_seeds(evaluated):
    assert compare(evaluated).code == 0
    metrics = json.loads((evaluated / "out" / "metrics.json").read_text())
    entry = metrics["paired_difference"]["more - base"]["lesion_dice"]
    # 0.1 in one seed and 0.3 in the other for every case: no spread over the cases at all.
    assert entry == pytest.approx({"value": 0.2, "low": 0.2, "high": 0.2, "n": 4})
    assert metrics["difference_of_each_seed"]["more"]["2"]["lesion_dice"] == pytest.approx(0.3)


def test_the_page_is_marked_synthetic_and_states_the_budget(evaluated):
    compare(evaluated)
    page = (evaluated / "out" / "report" / "index.html").read_text()
    assert "Synthetic data" in page
    assert "60 of 2 patches of 8 x 8" in page


def test_a_missing_value_of_one_seed_leaves_the_other():
    joined = mean_over_seeds([[row("a", 0.4)], [row("a", math.nan)]])
    assert joined[0].metrics["liver_dice"] == 0.4


def test_a_case_that_failed_in_one_seed_is_failed():
    joined = mean_over_seeds([[row("a", 0.4)], [Row("a", "", "failed", "PTD-350", "cut")]])
    assert (joined[0].status, joined[0].code) == ("failed", "PTD-350")


def test_models_tested_on_other_cases_are_refused(evaluated):
    (evaluated / "evaluations" / "more" / "1" / "2" / "per_case.csv").unlink()
    done = compare(evaluated)
    assert done.code == 2
    assert "PTD-601" in done.sentence()


def test_a_folder_without_evaluations_is_refused(evaluated):
    (evaluated / "evaluations").rename(evaluated / "elsewhere")
    assert "PTD-601" in compare(evaluated).sentence()


def test_an_unknown_baseline_names_the_nearest(evaluated):
    assert "did you mean 'base'" in compare(evaluated, "bass").sentence()


def test_a_model_whose_cost_was_not_measured_is_refused(evaluated):
    (evaluated / "costs" / "more.json").unlink()
    assert "PTD-603" in compare(evaluated).sentence()
