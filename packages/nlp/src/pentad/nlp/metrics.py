"""Scores with intervals: entities strict and partial, macro-F1, areas under curves.

Every interval is a 95 % percentile bootstrap over documents (or their groups), as core's are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pentad.core.metrics import Interval, pooled_interval

Array = NDArray[np.float64]
COUNTS = ("correct", "incorrect", "partial", "missed", "spurious")

_RESAMPLES = 1000
_CELLS_AT_A_TIME = 2**22  # bounds one round of draws to about 100 MB


def entity_counts(wanted: Sequence[str], given: Sequence[str], kinds: Sequence[str]) -> dict[str, dict[str, Array]]:
    """Return nervaluate's counts of one sentence: scheme to type (or 'all') to the five numbers of `COUNTS`.

    Schemes: ``strict`` wants borders and type right; ``partial`` gives half for an overlap, whatever the type;
    ``exact`` wants the borders alone; ``ent_type`` the type and an overlap (Batista, 2018, after MUC-5).

    Args:
        wanted: IOB2 tags of the reference.
        given: IOB2 tags to score, of the same words.
        kinds: Entity types.
    """
    from nervaluate import Evaluator

    if all(tag == "O" for tag in (*wanted, *given)):
        nothing = np.zeros(len(COUNTS))
        return {
            scheme: dict.fromkeys(("all", *kinds), nothing) for scheme in ("strict", "partial", "exact", "ent_type")
        }
    found = Evaluator([list(wanted)], [list(given)], tags=list(kinds), loader="list").evaluate()
    nothing, by_kind = np.zeros(len(COUNTS)), found["entities"]
    return {
        scheme: {
            "all": _numbers(result),
            # A type that the sentence does not hold is not in the answer.
            **{kind: _numbers(by_kind[kind][scheme]) if kind in by_kind else nothing for kind in kinds},
        }
        for scheme, result in found["overall"].items()
    }


def _numbers(result: object) -> Array:
    return np.array([getattr(result, name) for name in COUNTS], dtype=np.float64)


def entity_f1(sums: Array) -> Array:
    """Return F1 from sums ``(…, 5 or more)`` of `COUNTS`; half a point for each partial hit; 0 without any hit."""
    correct, incorrect, partial, missed, spurious = (sums[..., column] for column in range(len(COUNTS)))
    hits = correct + 0.5 * partial
    possible, actual = correct + incorrect + partial + missed, correct + incorrect + partial + spurious
    return np.asarray(np.where(possible + actual > 0, 2 * hits / np.maximum(possible + actual, 1), np.nan))


def precision(sums: Array) -> Array:
    """Return the precision from sums as for `entity_f1`; NaN where nothing was given."""
    actual = sums[..., 0] + sums[..., 1] + sums[..., 2] + sums[..., 4]
    return np.asarray(np.where(actual > 0, (sums[..., 0] + 0.5 * sums[..., 2]) / np.maximum(actual, 1), np.nan))


def recall(sums: Array) -> Array:
    """Return the recall from sums as for `entity_f1`; NaN where nothing was wanted."""
    possible = sums[..., :4].sum(-1)
    return np.asarray(np.where(possible > 0, (sums[..., 0] + 0.5 * sums[..., 2]) / np.maximum(possible, 1), np.nan))


def class_counts(wanted: NDArray[np.int64], given: NDArray[np.int64], classes: int) -> Array:
    """Return hits, false alarms and misses of every class for each document: ``(n, 3 · classes)``."""
    right = wanted == given
    rows = np.arange(len(wanted))
    table = np.zeros((len(wanted), 3, classes))
    table[rows[right], 0, wanted[right]] = 1
    table[rows[~right], 1, given[~right]] = 1
    table[rows[~right], 2, wanted[~right]] = 1
    return table.reshape(len(wanted), -1)


def f1_by_class(sums: Array, classes: int) -> Array:
    """Return F1 of each class from sums of `class_counts`; 0 where a class has no hit."""
    parts = sums[..., : 3 * classes].reshape(*sums.shape[:-1], 3, classes)
    hits, alarms, misses = parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]
    return np.asarray(2 * hits / np.maximum(2 * hits + alarms + misses, 1))


def macro_f1(sums: Array, classes: int) -> Array:
    """Return the mean of F1 over the classes, each counting alike."""
    return np.asarray(f1_by_class(sums, classes).mean(-1))


def weighted_auroc(score: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Return the area under the ROC curve of each row of weights ``(draws, n)``; ties count half; NaN without both.

    It is the probability that a positive document scores higher than a negative one (Hanley and McNeil, 1982).
    """
    order = np.argsort(score, kind="stable")
    ranked, sides = score[order], positive[order]
    drawn = weights[:, order]
    plus, minus = drawn * sides, drawn * ~sides
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    # Sums over ties: a positive beats all negatives of lower score and half of those of its own.
    plus_at, minus_at = np.add.reduceat(plus, starts, 1), np.add.reduceat(minus, starts, 1)
    below = np.cumsum(minus_at, 1) - minus_at
    total = plus.sum(1) * minus.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((plus_at * (below + minus_at / 2)).sum(1) / np.where(total > 0, total, np.nan))


def weighted_auprc(score: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Return the average precision of each row of weights ``(draws, n)``: precision at each hit, summed over recall."""
    order = np.argsort(-score, kind="stable")
    ranked, sides = score[order], positive[order]
    drawn = weights[:, order]
    ends = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    hits = np.cumsum(drawn * sides, 1)[:, ends]
    all_of_them = np.cumsum(drawn, 1)[:, ends]
    gained = np.diff(hits, axis=1, prepend=0)
    total = hits[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (gained * hits / np.maximum(all_of_them, 1)).sum(1) / np.where(total > 0, total, np.nan)
    return np.asarray(value)


def area(
    score: Array,
    positive: NDArray[np.bool_],
    *,
    seed: int,
    kind: str = "roc",
    resamples: int = _RESAMPLES,
) -> Interval:
    """Return the area under the ROC ('roc') or precision-recall curve ('pr') with its interval.

    Args:
        score: Of each document, larger for more likely positive.
        positive: Which documents are.
        seed: Of the draws.
        kind: Which curve.
        resamples: Number of draws.
    """
    n = len(score)
    if not n or positive.all() or not positive.any():
        return Interval(math.nan, math.nan, math.nan, n)
    measure = weighted_auroc if kind == "roc" else weighted_auprc
    value = float(measure(score, positive, np.ones((1, n)))[0])
    draw, found = np.random.default_rng(seed), []
    block = max(1, _CELLS_AT_A_TIME // n)
    for start in range(0, resamples, block):
        weights = draw.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start))
        found.append(measure(score, positive, weights.astype(np.float64)))
    draws = np.concatenate(found)
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (math.nan, math.nan)
    return Interval(value, float(low), float(high), n)


def pooled_f1(counts: Array, seed: int, formula: object = entity_f1) -> Interval:
    """Return a value computed from counts summed over documents, with its interval."""
    return pooled_interval(counts, formula, seed=seed, resamples=2000)  # type: ignore[arg-type]


def pooled_difference(first: Array, second: Array, formula: object, seed: int) -> Interval:
    """Return ``formula`` of the first counts minus that of the second, documents drawn in pairs.

    Args:
        first: ``(n, columns)`` of one model.
        second: Of the other, for the same documents.
        formula: Maps sums to a value.
        seed: Of the draws.
    """
    columns = first.shape[1]

    def difference(sums: Array) -> Array:
        return np.asarray(formula(sums[..., :columns]) - formula(sums[..., columns : 2 * columns]))  # type: ignore[operator]

    return pooled_interval(np.column_stack([first, second]), difference, seed=seed, resamples=2000)
