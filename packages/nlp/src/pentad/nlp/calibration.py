"""Calibration: one temperature fitted on validation, and how far confidence lies from the share that is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pentad.core.metrics import Interval, pooled_interval

BINS = 15

Array = NDArray[np.float64]


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Return probabilities over the last axis, of logits divided by the temperature."""
    return np.asarray(np.exp(log_softmax(logits / temperature)))


def fit_temperature(logits: Array, labels: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest mean negative log-likelihood (Guo et al., 2017, section 4.2).

    Args:
        logits: ``(n, classes)`` on documents that were not trained on.
        labels: ``(n)``.

    Returns:
        From 0.05 to 20; 1 where there is nothing to fit on.
    """
    if not len(labels):
        return 1.0
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature))[rows, labels].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return round(float(np.exp(found.x)), 4)


def reliability(confidence: Array, right: NDArray[np.bool_], bins: int = BINS) -> list[dict[str, float]]:
    """Return for each bin of equal width its borders, count, mean confidence and share that is right."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    table = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        mean, share = (float(confidence[inside].mean()), float(right[inside].mean())) if count else (np.nan, np.nan)
        table.append(
            {"low": number / bins, "high": (number + 1) / bins, "n": count, "confidence": mean, "right": share}
        )
    return table


def calibration_error(confidence: Array, right: NDArray[np.bool_], seed: int, bins: int = BINS) -> Interval:
    """Return the expected calibration error: the mean over bins of |share right - mean confidence|, by their counts.

    With few documents it is biased upwards: bins of two or three cannot come out even.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.zeros((len(confidence), bins))
    gaps[np.arange(len(confidence)), place] = right - confidence
    return pooled_interval(
        gaps, lambda sums: np.abs(sums[..., :-1]).sum(-1) / np.maximum(sums[..., -1], 1), seed=seed, resamples=2000
    )
