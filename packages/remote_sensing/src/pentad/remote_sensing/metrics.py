"""Change-detection metrics from confusion matrices over a whole set, rows the prediction, columns the truth.

Definitions as in ChangeMamba (arXiv 2404.03425, section IV); separated kappa (SeK) and Fscd: Yang et al., "Asymmetric
Siamese networks for semantic change detection", arXiv 2010.05687. A ratio of 0 to 0 is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]


def confusion(prediction: NDArray[np.integer], truth: NDArray[np.integer], classes: int) -> Matrix:
    """Return how often each class (row) was predicted for each (column).

    Args:
        prediction: Classes below ``classes``, any shape.
        truth: Same shape.
        classes: Number of classes.
    """
    pairs = prediction.astype(np.int64).ravel() * classes + truth.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _harmonic(values: Sequence[float]) -> float:
    return len(values) / sum(1 / value for value in values) if all(values) else 0.0


def kappa(matrix: Matrix) -> float:
    """Return Cohen's kappa."""
    total = float(matrix.sum())
    agreed = _ratio(float(np.trace(matrix)), total)
    chance = _ratio(float(matrix.sum(0).astype(float) @ matrix.sum(1).astype(float)), total**2)
    return _ratio(agreed - chance, 1 - chance)


def binary(matrix: Matrix) -> dict[str, float]:
    """Return precision, recall, f1 and iou of class 1, overall accuracy (oa) and kappa of a 2x2 matrix."""
    hit, predicted, true = float(matrix[1, 1]), float(matrix[1].sum()), float(matrix[:, 1].sum())
    return {
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, true),
        "f1": _ratio(2 * hit, predicted + true),
        "iou": _ratio(hit, predicted + true - hit),
        "oa": _ratio(float(np.trace(matrix)), float(matrix.sum())),
        "kappa": kappa(matrix),
    }


def pair_code(change: NDArray[np.bool_], before: NDArray[np.integer], after: NDArray[np.integer]) -> Matrix:
    """Return one number for a pair of land covers 1 to 6, from 1 on, and 0 where nothing changed."""
    return np.where(change, 6 * (before.astype(np.int64) - 1) + after, 0)


def semantic(matrix: Matrix) -> dict[str, float]:
    """Return kappa without what both call unchanged, fscd, miou and sek of a matrix of `pair_code`."""
    unchanged = float(matrix[0, 0])
    changed = float(matrix[1:, 1:].sum())
    iou_0 = _ratio(unchanged, float(matrix[0].sum() + matrix[:, 0].sum()) - unchanged)
    iou_1 = _ratio(changed, float(matrix.sum()) - unchanged)
    rest = matrix.copy()
    rest[0, 0] = 0
    agreed = float(np.trace(rest))
    shares = [_ratio(agreed, float(matrix[1:].sum())), _ratio(agreed, float(matrix[:, 1:].sum()))]
    separated = kappa(rest)
    return {
        "kappa": separated,
        "fscd": _harmonic(shares),
        "miou": (iou_0 + iou_1) / 2,
        "sek": separated * math.exp(iou_1 - 1),
    }


def damage(location: Matrix, grades: Matrix) -> dict[str, float | list[float]]:
    """Return f1_loc, f1_per_class, their harmonic mean f1_clf, and f1_overall = 0.3 f1_loc + 0.7 f1_clf.

    Args:
        location: 2x2, building or not, over all pixels.
        grades: Damage classes with 0 for none, over the pixels of true buildings alone.
    """
    found = binary(location)["f1"]
    hits, sums = np.diag(grades).astype(float), (grades.sum(0) + grades.sum(1)).astype(float)
    single = [_ratio(2 * hits[k], sums[k]) for k in range(1, len(grades))]
    together = _harmonic(single)
    return {
        "f1_loc": found,
        "f1_per_class": single,
        "f1_clf": together,
        "f1_overall": 0.3 * found + 0.7 * together,
    }
