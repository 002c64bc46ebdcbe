"""Scores against independent implementations."""

import numpy as np
import pytest
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from pentad.nlp import metrics
from pentad.nlp.bias import BiasConfig, bias_report, members, power_mean, swap_test
from pentad.nlp.calibration import calibration_error, fit_temperature, reliability, softmax
from pentad.nlp.predict import best_tags
from pentad.nlp.tags import to_tags

RNG = np.random.default_rng(0)


def random_tags(length):
    found, place = [], 0
    while place < length - 2:
        if RNG.random() < 0.4:
            width = int(RNG.integers(1, 3))
            found.append((place, place + width, str(RNG.choice(["A", "B"]))))
            place += width
        place += 1
    return to_tags(found, length)


def test_strict_f1_over_all_sentences_is_seqevals():
    wanted = [random_tags(12) for _ in range(60)]
    given = [tags if RNG.random() < 0.5 else random_tags(12) for tags in wanted]
    counts = [metrics.entity_counts(a, b, ["A", "B"])["strict"] for a, b in zip(wanted, given, strict=True)]
    total = np.sum([count["all"] for count in counts], axis=0)
    assert float(metrics.entity_f1(total)) == pytest.approx(seqeval_f1(wanted, given, mode="strict"), abs=1e-12)


def test_partial_f1_gives_half_for_an_overlap():
    counts = metrics.entity_counts(["B-A", "I-A", "O"], ["B-A", "O", "O"], ["A"])
    assert float(metrics.entity_f1(counts["partial"]["all"])) == 0.5
    assert float(metrics.entity_f1(counts["strict"]["all"])) == 0.0


def test_macro_f1_is_scikit_learns():
    wanted, given = RNG.integers(0, 4, 200), RNG.integers(0, 4, 200)
    sums = metrics.class_counts(wanted, given, 4).sum(0)
    assert float(metrics.macro_f1(sums, 4)) == pytest.approx(f1_score(wanted, given, average="macro"), abs=1e-12)


@pytest.mark.parametrize(("kind", "oracle"), [("roc", roc_auc_score), ("pr", average_precision_score)])
def test_areas_are_scikit_learns_also_with_ties(kind, oracle):
    positive = RNG.random(300) < 0.3
    score = np.round(RNG.random(300) + 0.4 * positive, 1)
    found = metrics.area(score, positive, seed=0, kind=kind, resamples=50)
    assert found.value == pytest.approx(oracle(positive, score), abs=1e-12)
    assert found.low < found.value < found.high


def test_a_weight_counts_as_so_many_copies():
    score, positive, weights = RNG.random(20), RNG.random(20) < 0.5, RNG.integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), weights)
    expected = roc_auc_score(positive[repeated], score[repeated])
    assert metrics.weighted_auroc(score, positive, weights[None].astype(float))[0] == pytest.approx(expected)


def test_the_paired_difference_of_a_model_with_itself_is_nothing():
    counts = RNG.integers(0, 5, (30, 5)).astype(float)
    found = metrics.pooled_difference(counts, counts, metrics.entity_f1, seed=0)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_fitted_temperature_undoes_one():
    logits = RNG.normal(size=(4000, 3)) * 2
    labels = np.array([RNG.choice(3, p=row) for row in softmax(logits)])
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.08)


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_its_gap():
    confidence = RNG.random(5000)
    right = RNG.random(5000) < confidence
    assert calibration_error(confidence, right, seed=0).value < 0.03
    assert calibration_error(np.full(1000, 0.95), np.arange(1000) % 2 == 0, seed=0).value == pytest.approx(0.45)
    assert sum(one["n"] for one in reliability(confidence, right)) == 5000


def test_the_power_mean_leans_towards_the_worst():
    assert power_mean([0.5, 0.9]) == pytest.approx(((0.5**-5 + 0.9**-5) / 2) ** (-1 / 5))
    assert power_mean([0.5, float("nan")]) == pytest.approx(0.5)


def test_the_three_areas_of_a_group_are_those_of_their_definition():
    texts = [["the red one", "no group"][n % 2] for n in range(200)]
    harmful = RNG.random(200) < 0.5
    score = np.clip(RNG.normal(0.5 + 0.3 * harmful + 0.2 * (np.arange(200) % 2 == 0), 0.2), 0, 1)
    found = bias_report(texts, score, harmful, BiasConfig({"red": ["red"]}), seed=0)["groups"]["red"]
    inside = np.arange(200) % 2 == 0
    for kind, mask in {
        "subgroup": inside,
        "bpsn": (inside & ~harmful) | (~inside & harmful),
        "bnsp": (inside & harmful) | (~inside & ~harmful),
    }.items():
        assert found[kind]["value"] == pytest.approx(roc_auc_score(harmful[mask], score[mask]), abs=1e-6)
        assert found[kind]["n"] == mask.sum()
    assert found["bpsn"]["value"] < found["bnsp"]["value"]
    assert found["positives"] + found["negatives"] == 100


def test_a_tiny_group_is_shown_and_not_ranked():
    report = bias_report(
        ["red"] * 4, np.array([0.1, 0.9, 0.2, 0.8]), np.array([False, True] * 2), BiasConfig({"red": ["red"]}), 0
    )
    assert not report["groups"]["red"]["ranked"]
    assert report["power_mean"]["bpsn"] is None


def test_a_term_is_found_with_its_case_ending_and_not_inside_another_word():
    texts = ["मराठ्यांना", "Reds are", "bored", "मुलीमराठ"]  # the last begins with a vowel sign before the term
    assert members(texts, ["मराठ", "red"]).tolist() == [True, True, False, False]


def test_the_swap_test_finds_a_model_that_looks_at_the_group():
    config = BiasConfig({"red": ["red"], "blue": ["blue"]})

    def run(texts):
        return np.array([0.9 if "red" in text else 0.1 for text in texts])

    found = swap_test(["a red bird", "a blue bird", "no bird"], run, config, seed=0)
    assert found["texts"] == 2
    assert found["moved"]["value"] == pytest.approx(0.8)
    assert found["flipped"]["value"] == 1.0


def test_the_best_tags_never_continue_what_nothing_began():
    labels = ["O", "B-A", "I-A", "B-B", "I-B"]
    table = np.log(np.array([[0.2, 0.1, 0.6, 0.05, 0.05], [0.1, 0.1, 0.3, 0.1, 0.4]]))
    assert best_tags(table, labels) == ["B-A", "I-A"]
