from __future__ import annotations

import math

import numpy as np
import pytest

from pentad.core.errors import UsageError
from pentad.core.metrics import Interval, bootstrap_interval, paired_difference, pooled_interval, statistic_interval


def normal_sample(n, seed=0):
    return np.random.default_rng(seed).normal(0.9, 0.05, n)


def test_a_mean_has_the_interval_of_the_normal_theory_when_cases_are_many():
    values = normal_sample(2000)
    found = bootstrap_interval(values, seed=1)
    error = 1.96 * values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.low == pytest.approx(values.mean() - error, abs=0.05 * error)
    assert found.high == pytest.approx(values.mean() + error, abs=0.05 * error)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    hits = [
        interval.low <= 0.9 <= interval.high
        for interval in (bootstrap_interval(normal_sample(40, seed), seed=0, resamples=1000) for seed in range(400))
    ]
    assert 0.90 <= np.mean(hits) <= 0.97


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = normal_sample(12)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_missing_values_are_left_out_and_not_counted():
    values = [0.5, math.nan, 0.7, math.nan, 0.9]
    assert bootstrap_interval(values, seed=0) == bootstrap_interval([0.5, 0.7, 0.9], seed=0)
    assert bootstrap_interval(values, seed=0).n == 3


def test_one_case_has_a_value_but_no_interval():
    found = bootstrap_interval([0.8], seed=0)
    assert (found.value, found.n) == (0.8, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_case_has_no_value():
    found = bootstrap_interval([math.nan], seed=0)
    assert found.n == 0
    assert math.isnan(found.value)


def test_cases_of_one_group_widen_the_interval():
    values = np.repeat(normal_sample(10), 20)
    groups = [f"patient{index // 20}" for index in range(200)]
    alone, together = bootstrap_interval(values, seed=0), bootstrap_interval(values, seed=0, groups=groups)
    by_patient = bootstrap_interval(values[::20], seed=0)
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert (together.low, together.high) == pytest.approx((by_patient.low, by_patient.high), abs=1e-12)
    assert together.n == 200


def test_a_pooled_ratio_weighs_cases_by_their_size():
    counts = np.array([[90.0, 100.0], [1.0, 10.0], [30.0, 40.0]])
    found = pooled_interval(counts, lambda sums: sums[..., 0] / sums[..., 1], seed=0)
    assert found.value == pytest.approx(121 / 150)
    assert 0.1 <= found.low < found.value < found.high <= 0.9


def test_a_draw_without_anything_to_divide_by_is_left_out():
    counts = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    found = pooled_interval(counts, lambda sums: sums[..., 0] / sums[..., 1], seed=0)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_constant_gain_over_varied_cases_has_a_narrow_paired_interval():
    easy_and_hard = np.linspace(0.2, 0.95, 15)
    found = paired_difference(easy_and_hard + 0.01, easy_and_hard, seed=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01), abs=1e-12)


def test_a_pair_with_one_missing_value_is_left_out():
    found = paired_difference([0.9, 0.8, math.nan], [0.8, math.nan, 0.7], seed=0)
    assert (found.value, found.n) == (pytest.approx(0.1), 1)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.95, 0.93, 0.97, 9), "0.950 [0.930, 0.970]"),
        (Interval(-12.34, -20.0, 3.456, 9), "-12.3 [-20.0, 3.5]"),
        (Interval(1502.7, 1400.2, 1600.0, 9), "1503 [1400, 1600]"),
        (Interval(0.8, math.nan, math.nan, 1), "0.800"),
        (Interval(math.nan, math.nan, math.nan, 0), "—"),
        (Interval(0.0, 0.0, 0.0, 2), "0.000 [0.000, 0.000]"),
    ],
)
def test_an_interval_reads_as_value_and_brackets(interval, text):
    assert str(interval) == text


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: bootstrap_interval([1.0, 2.0], seed=0, level=95), "PTD-264"),
        (lambda: bootstrap_interval([1.0, 2.0], seed=0, resamples=0), "PTD-264"),
        (lambda: bootstrap_interval([1.0, 2.0], seed=0, groups=["a"]), "PTD-265"),
        (lambda: paired_difference([1.0, 2.0], [1.0], seed=0), "PTD-266"),
    ],
)
def test_arguments_out_of_range_are_refused(call, code):
    with pytest.raises(UsageError, match=code):
        call()


def test_a_statistic_that_is_a_mean_gets_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0, 1, 200)
    own = statistic_interval(lambda places: float(values[places].mean()), 200, seed=1, resamples=2000)
    known = bootstrap_interval(values, seed=1)
    assert own.value == pytest.approx(known.value)
    assert (own.low, own.high) == pytest.approx((known.low, known.high), abs=0.02)


def test_a_statistic_draws_whole_groups():
    drawn = []
    statistic_interval(lambda places: float(drawn.append(sorted(places)) or 0.0), 4, seed=0, groups=list("aabb"))
    assert {tuple(places) for places in drawn} == {(0, 1, 2, 3), (0, 0, 1, 1), (2, 2, 3, 3)}


def test_one_group_gives_a_value_without_an_interval():
    interval = statistic_interval(lambda places: float(len(places)), 3, seed=0, groups=list("aaa"))
    assert interval.value == 3
    assert np.isnan(interval.low)


def test_intervals_span_95_percent_of_ten_thousand_draws_unless_told():
    values = normal_sample(12)
    counts = np.column_stack([values, normal_sample(12, seed=1)])
    told = {"seed": 3, "level": 0.95, "resamples": 10_000}
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, **told)
    assert paired_difference(values, values**2, seed=3) == paired_difference(values, values**2, **told)
    ratio = lambda sums: sums[..., 0] / sums[..., 1]  # noqa: E731
    assert pooled_interval(counts, ratio, seed=3) == pooled_interval(counts, ratio, **told)
    more = {"seed": 3, "resamples": 10_001}
    assert bootstrap_interval(values, **more) != bootstrap_interval(values, seed=3)
    assert paired_difference(values, values**2, **more) != paired_difference(values, values**2, seed=3)
    assert pooled_interval(counts, ratio, **more) != pooled_interval(counts, ratio, seed=3)
    drawn = []
    mean = lambda places: float(drawn.append(places) or values[places].mean())  # noqa: E731
    assert statistic_interval(mean, 12, seed=3) == statistic_interval(mean, 12, seed=3, level=0.95)
    assert len(drawn) == 2 * (1 + 1000)


def test_a_narrower_level_lies_within_a_wider_one_on_both_sides():
    values = normal_sample(30)
    wide, narrow = (bootstrap_interval(values, seed=0, level=level) for level in (0.9, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    mean = lambda places: float(values[places].mean())  # noqa: E731
    wide, narrow = (statistic_interval(mean, 30, seed=0, level=level) for level in (0.9, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_rounds_of_draws_give_what_one_round_gives(monkeypatch):
    values = normal_sample(10)
    whole = bootstrap_interval(values, seed=0, resamples=100)
    monkeypatch.setattr("pentad.core.metrics._DRAWS_AT_A_TIME", 330)
    assert bootstrap_interval(values, seed=0, resamples=100) == whole
    monkeypatch.setattr("pentad.core.metrics._DRAWS_AT_A_TIME", 3)
    assert bootstrap_interval(values, seed=0, resamples=100) == whole


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.0, 3, "1.00"),
        (9.999, 2, "10.0"),
        (10.0, 3, "10.0"),
        (0.1, 3, "0.100"),
        (0.01234, 3, "0.012"),
        (-5.0, 1, "-5"),
    ],
)
def test_a_value_alone_has_the_digits_asked_for(value, digits, text):
    assert Interval(value, math.nan, math.nan, 1).format(digits) == text


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_lies_between_0_and_1(level):
    for call in (bootstrap_interval, lambda values, **more: statistic_interval(len, 2, **more)):
        with pytest.raises(UsageError, match="PTD-264"):
            call([1.0, 2.0], seed=0, level=level)
    assert bootstrap_interval([1.0, 2.0], seed=0, resamples=1).n == 2


def test_a_statistic_of_nothing_or_of_draws_without_a_value_has_no_interval():
    assert statistic_interval(len, 0, seed=0).n == 0
    assert math.isnan(statistic_interval(len, 0, seed=0).value)
    found = statistic_interval(lambda places: 1.0 if len(set(places)) == 3 else math.nan, 3, seed=0)
    assert (found.value, found.low, found.high, found.n) == (1.0, 1.0, 1.0, 3)
