from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pentad.audio.metrics import area_under_roc, average_precision, d_prime, event_counts, f1, macro_f1, segment_counts

ORACLE = json.loads((Path(__file__).parents[1] / "reference" / "sed_eval.json").read_text())
CLASSES = ["a", "b", "c"]
COUNTS = {"event": event_counts, "segment": segment_counts}


@pytest.mark.parametrize("kind", COUNTS)
def test_f1_of_events_and_segments_is_sed_evals(kind):
    counts = np.stack([COUNTS[kind](reference, found, CLASSES) for reference, found in ORACLE["cases"]])
    assert f1(counts.sum((0, 1))) == pytest.approx(ORACLE[kind]["f1"], abs=1e-12)
    assert f1(counts.sum(0)) == pytest.approx(list(ORACLE[kind]["classes"].values()), abs=1e-12)
    assert macro_f1(counts.sum(0).reshape(-1)) == pytest.approx(ORACLE[kind]["macro"], abs=1e-12)


def test_each_event_is_matched_once():
    counts = event_counts([(1.0, 2.0, "a"), (1.1, 2.1, "a")], [(1.05, 2.0, "a")], ["a"])
    assert counts.tolist() == [[1, 2, 1]]


def test_the_largest_matching_is_found_where_the_nearest_first_would_lose_one():
    counts = event_counts([(1.0, 2.0, "a"), (1.3, 2.0, "a")], [(1.15, 2.0, "a"), (0.9, 2.0, "a")], ["a"])
    assert counts[0, 0] == 2


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_and_auc_are_sklearns(ties):
    rng = np.random.default_rng(3)
    truth, scores = rng.random(200) < 0.2, rng.random(200)
    scores = np.round(scores, 1) if ties else scores
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert area_under_roc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_a_class_without_a_positive_has_no_value():
    nothing = np.zeros(4, bool)
    assert math.isnan(average_precision(nothing, np.arange(4.0)))
    assert math.isnan(area_under_roc(nothing, np.arange(4.0)))


def test_d_prime_of_the_published_auc():
    assert d_prime(0.9786) == pytest.approx(2.865, abs=2e-3)  # AST's log: AUC 0.9786
