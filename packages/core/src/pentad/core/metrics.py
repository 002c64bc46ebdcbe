"""Means, pooled ratios and paired differences over cases, each with a bootstrap interval.

All intervals are percentile bootstrap intervals (Efron, 1979): cases are drawn again with replacement, the value
is computed on each draw, and the interval spans the middle share of those values. Where cases belong to groups
(a patient, a recording session) whole groups are drawn, since cases of one group resemble each other.

With few cases such an interval is too narrow: below about ten, read it as a lower bound of the uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pentad.core.errors import UsageError

Formula = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_DRAWS_AT_A_TIME = 2**22  # bounds the memory of one round of draws to about 64 MB


@dataclass(frozen=True)
class Interval:
    """A value with its interval and the number of cases behind it.

    Attributes:
        value: The value over all cases; NaN without any.
        low: Lower end; NaN where fewer than two units (cases or groups) could be drawn from.
        high: Upper end; NaN likewise.
        n: Cases that entered; those without a value (NaN) are not counted.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return the value and interval in three significant digits, as in ``0.953 [0.931, 0.972]``."""
        return self.format()

    def format(self, digits: int = 3) -> str:
        """Return ``value [low, high]`` with as many digits after the point as give ``digits`` significant ones.

        All three numbers share the digits of the largest; a missing interval leaves the value alone.
        """
        if math.isnan(self.value):
            return "—"
        known = [number for number in (self.value, self.low, self.high) if math.isfinite(number)]
        largest = max(map(abs, known), default=0.0)
        before = math.floor(math.log10(largest)) + 1 if largest > 0 else 0
        places = max(0, digits - max(before, 0))
        value = f"{self.value:.{places}f}"
        return value if math.isnan(self.low) else f"{value} [{self.low:.{places}f}, {self.high:.{places}f}]"


def bootstrap_interval(
    values: ArrayLike,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return the mean over cases with its interval.

    NaN means that a case has no value of this kind: it is left out, and ``n`` says how many remain.

    Args:
        values: One number a case.
        seed: Seed of the draws; the same values and seed give the same interval.
        groups: The group of each case; cases of one group are drawn together. By default each stands alone.
        level: Share of the draws that the interval spans, between 0 and 1.
        resamples: Number of draws.

    Raises:
        UsageError: ``groups`` has another length, or ``level`` or ``resamples`` is out of range.
    """
    column = np.asarray(values, dtype=np.float64)[:, None]
    return pooled_interval(column, _mean, seed=seed, groups=groups, level=level, resamples=resamples)


def pooled_interval(
    counts: ArrayLike,
    formula: Formula,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return a value computed from sums over all cases (micro F1, global Dice, accuracy), with its interval.

    A case with NaN in any column is left out. A draw whose value is NaN (nothing to divide by) is left out of
    the interval.

    Args:
        counts: ``(cases, columns)``, what is summed: for instance true positives, false positives, misses.
        formula: Maps sums ``(…, columns + 1)`` to values ``(…)``; the last column holds the number of cases.
        seed: Seed of the draws.
        groups: The group of each case; cases of one group are drawn together.
        level: Share of the draws that the interval spans.
        resamples: Number of draws.

    Raises:
        UsageError: ``groups`` has another length, or ``level`` or ``resamples`` is out of range.
    """
    table = np.asarray(counts, dtype=np.float64)
    _check_draws(level, resamples, groups, len(table))
    # A mean or a ratio over groups is again one of sums, so drawing groups needs their sums only.
    known = ~np.isnan(table).any(axis=1)
    table = np.column_stack([table[known], np.ones(int(known.sum()))])
    n = len(table)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if groups is not None:
        table = _sum_by_group(table, np.asarray(groups)[known])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(formula(table.sum(axis=0)))
        draws = formula(_resampled_sums(table, resamples, seed))
    draws = draws[~np.isnan(draws)]
    # Drawing one unit again and again would claim certainty where there is none.
    if len(table) < 2 or not len(draws):
        return Interval(value, math.nan, math.nan, n)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)


def statistic_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    count: int,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """Return a value that is no ratio of sums (mean average precision, macro F1, AUC), with its interval.

    A draw whose value is NaN is left out of the interval.

    Args:
        statistic: Maps positions of cases, some of them several times, to the value over them.
        count: Number of cases.
        seed: Seed of the draws.
        groups: The group of each case; cases of one group are drawn together.
        level: Share of the draws that the interval spans.
        resamples: Number of draws, each of which computes the statistic anew.

    Raises:
        UsageError: ``groups`` has another length, or ``level`` or ``resamples`` is out of range.
    """
    _check_draws(level, resamples, groups, count)
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    _, index = np.unique(np.arange(count) if groups is None else np.asarray(groups), return_inverse=True)
    units = [np.flatnonzero(index == unit) for unit in range(int(index.max()) + 1)]
    value = float(statistic(np.arange(count)))
    rng = np.random.default_rng(seed)
    drawn = (
        np.concatenate([units[unit] for unit in rng.integers(len(units), size=len(units))]) for _ in range(resamples)
    )
    draws = np.array([statistic(positions) for positions in drawn]) if len(units) > 1 else np.zeros(0)
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Interval(value, math.nan, math.nan, count)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Interval(value, float(low), float(high), count)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return the mean of ``a - b`` over the cases that have both values, with its interval.

    Drawing the differences keeps what is common to both methods, an easy or a hard case, out of the interval;
    one that does not hold 0 speaks for a difference.

    Args:
        a: One number a case, of the method looked at.
        b: The same cases in the same order, of the method it is compared with.
        seed: Seed of the draws.
        groups: The group of each case; cases of one group are drawn together.
        level: Share of the draws that the interval spans.
        resamples: Number of draws.

    Raises:
        UsageError: ``a`` and ``b`` differ in length, or as for `bootstrap_interval`.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise UsageError(
            "PTD-266", f"{len(first)} values paired with {len(second)}", "compare the same cases in the same order"
        )
    return bootstrap_interval(first - second, seed=seed, groups=groups, level=level, resamples=resamples)


def _check_draws(level: float, resamples: int, groups: Sequence[str] | None, count: int) -> None:
    if not 0 < level < 1 or resamples < 1:
        raise UsageError(
            "PTD-264", f"an interval at level {level} from {resamples} draws", "give a level between 0 and 1 and draws"
        )
    if groups is not None and len(groups) != count:
        raise UsageError("PTD-265", f"{len(groups)} groups for {count} cases", "give one group for each case")


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _sum_by_group(table: NDArray[np.float64], groups: NDArray[np.str_]) -> NDArray[np.float64]:
    names, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), table.shape[1]))
    np.add.at(sums, index, table)
    return sums


def _resampled_sums(table: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Column sums ``(resamples, columns)`` of rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    rows = len(table)
    sums = np.empty((resamples, table.shape[1]))
    block = max(1, _DRAWS_AT_A_TIME // rows)
    for start in range(0, resamples, block):
        drawn = rng.integers(rows, size=(min(block, resamples - start), rows))
        for column in range(table.shape[1]):
            sums[start : start + len(drawn), column] = table[:, column][drawn].sum(axis=1)
    return sums
