"""The baseline without weights: a window of HU, the largest component, dark parts of it as lesions.

Every table of `liver_seg` shows it, so that a reader sees how much of a score the data give away.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pentad.medical.predict import Prediction
from pentad.medical.volumes import Volume

LIVER_HU = (80.0, 150.0)
LESION_BELOW_HU = 25.0
CLOSING = 3
"""Voxels by which the liver is closed."""


def threshold_labels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return labels (0 background, 1 liver, 2 lesion) from intensities alone.

    The largest component of the smoothed window, closed and filled, is the liver; smoothed voxels in it more
    than `LESION_BELOW_HU` below the component's median are lesions.

    Args:
        image: HU, axes (z, y, x).
    """
    smooth = ndimage.median_filter(image, size=3)
    window = (smooth > LIVER_HU[0]) & (smooth < LIVER_HU[1])
    parts, count = ndimage.label(ndimage.binary_opening(window))
    if count == 0:
        return np.zeros(image.shape, np.uint8)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    # Closing takes what lies beyond the scan for empty and would eat a liver that reaches its border.
    closed = ndimage.binary_closing(np.pad(largest, CLOSING), iterations=CLOSING)
    liver = ndimage.binary_fill_holes(closed[(slice(CLOSING, -CLOSING),) * 3])
    lesion = liver & (smooth < np.median(smooth[largest]) - LESION_BELOW_HU)
    return np.where(ndimage.binary_opening(lesion), 2, liver).astype(np.uint8)


def predict_threshold(volume: Volume) -> Prediction:
    """Return `threshold_labels` of a scan, on the scan's own grid."""
    began = time.perf_counter()
    return Prediction(threshold_labels(volume.array), time.perf_counter() - began)
