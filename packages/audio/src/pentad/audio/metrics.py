"""Scores of tagging and of event detection: the definitions of AudioSet's papers and of sed_eval.

Tagging: average precision (area under precision by recall without interpolation), AUC, d' = √2 Φ⁻¹(AUC).
Events: an event is found where one of its class has its onset within a collar and its offset within a collar or a share
of its length, whichever is longer, each matched once (Mesaros, Heittola, Virtanen, Applied Sciences 2016). Segments:
activity of each class in every second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.stats import norm, rankdata

Spans = Sequence[tuple[float, float, str]]
Counts = NDArray[np.float64]

COLLAR_S = 0.2
OFFSET_SHARE = 0.5
SEGMENT_S = 1.0


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the average precision; equal scores count as one threshold; NaN without a positive.

    Args:
        truth: Whether the class is there (cases,).
        scores: The higher, the surer (cases,).
    """
    positives = int(truth.sum())
    if positives == 0:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    hits = np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    found = hits[last]
    precision = found / (last + 1)
    return float((precision * np.diff(found, prepend=0)).sum() / positives)


def area_under_roc(truth: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Return the chance that a positive scores above a negative, ties counted half; NaN without either."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def d_prime(auc: float) -> float:
    """Return the distance of two normal distributions of width 1 with this AUC; infinite at 1."""
    return float(math.sqrt(2) * norm.ppf(auc))


def mean_over_classes(values: Sequence[float]) -> float:
    """Return the mean over the classes that have a value; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def event_counts(
    reference: Spans,
    found: Spans,
    classes: Sequence[str],
    collar: float = COLLAR_S,
    share: float = OFFSET_SHARE,
) -> Counts:
    """Return matched, reference and found events of each class (classes, 3) of one recording.

    Args:
        reference: Onset and offset in seconds and label.
        found: The same, as detected.
        classes: Which labels count, in this order.
        collar: Seconds that an onset or offset may be off.
        share: Of the reference event's length, that its offset may be off where that is more.
    """
    counts = np.zeros((len(classes), 3))
    for row, label in enumerate(classes):
        truth = np.array([(onset, offset) for onset, offset, name in reference if name == label]).reshape(-1, 2)
        guess = np.array([(onset, offset) for onset, offset, name in found if name == label]).reshape(-1, 2)
        counts[row, 1:] = len(truth), len(guess)
        if not len(truth) or not len(guess):
            continue
        offset_collar = np.maximum(collar, share * (truth[:, 1] - truth[:, 0]))[:, None]
        near = np.abs(truth[:, :1] - guess[:, 0]) <= collar
        near &= np.abs(truth[:, 1:] - guess[:, 1]) <= offset_collar
        counts[row, 0] = (maximum_bipartite_matching(csr_matrix(near), perm_type="column") >= 0).sum()
    return counts


def segment_counts(reference: Spans, found: Spans, classes: Sequence[str], length: float = SEGMENT_S) -> Counts:
    """Return active segments in both, in the reference and as found (classes, 3) of one recording.

    A segment is active for a class where any event of it touches the segment.
    """
    ends = [offset for _, offset, _ in [*reference, *found]]
    count = max(1, math.ceil(max(ends, default=0.0) / length))
    roll = np.zeros((2, len(classes), count), bool)
    for place, spans in enumerate((reference, found)):
        for onset, offset, label in spans:
            if label in classes:
                roll[place, classes.index(label), math.floor(onset / length) : math.ceil(offset / length)] = True
    both = roll[0] & roll[1]
    return np.stack([both.sum(1), roll[0].sum(1), roll[1].sum(1)], axis=1).astype(np.float64)


def f1(sums: Counts) -> Counts:
    """Return 2 · matched / (reference + found) of counts (…, 3 or more); NaN where there is neither."""
    return np.asarray(2 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))


def macro_f1(sums: Counts) -> Counts:
    """Return the mean over classes of F1 of flat counts (…, 3 · classes + …), classes with neither left out."""
    classes = sums.shape[-1] // 3
    table = sums[..., : 3 * classes].reshape(*sums.shape[:-1], classes, 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nanmean(f1(table), axis=-1))
