"""Image differencing: what a threshold on the difference of two dates finds, without weights or training.

Each date is brought to mean 0 and deviation 1 band by band; the length of the difference is cut by Otsu's threshold
(Otsu, IEEE Trans. SMC 9, 1979), which parts its histogram into the two groups that differ most.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pentad.remote_sensing.raster import Pair
from pentad.remote_sensing.strips import Strip

NAME = "differencing"
_BINS, _REACH = 512, 16.0


def difference_strips(pair: Pair, first: int = 0, *, layers: int = 0) -> Iterator[Strip]:
    """Yield strips with probability 1 where the dates differ and else 0; three passes over the files.

    Args:
        pair: An open pair.
        first: Row to begin with; a strip must have ended there.
        layers: Layers of classes to fill with class 1: a difference tells no classes.
    """
    bands = len(pair.bands)
    sums, squares, count = np.zeros((2, bands)), np.zeros((2, bands)), 0
    for _, before, after, valid in pair.strips():
        values = np.stack([before[:, valid], after[:, valid]]).astype(np.float64)
        sums += values.sum(2)
        squares += (values**2).sum(2)
        count += values.shape[2]
    mean = sums / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 1e-12))

    def length(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = [
            (image - mean[date][:, None, None]) / std[date][:, None, None] for date, image in enumerate((before, after))
        ]
        found: NDArray[np.float64] = np.sqrt(((scaled[0] - scaled[1]) ** 2).sum(0) / bands)
        return found

    histogram = np.zeros(_BINS)
    for _, before, after, valid in pair.strips():
        histogram += np.histogram(length(before, after)[valid], bins=_BINS, range=(0, _REACH))[0]
    threshold = otsu(histogram) * _REACH / _BINS
    for start, before, after, valid in pair.strips(first=first):
        changed = (length(before, after) > threshold).astype(np.float32)
        yield Strip(start, changed, np.ones((layers, *changed.shape), dtype=np.uint8), valid)


def otsu(histogram: NDArray[np.float64]) -> int:
    """Return the number of bins in the lower group that maximise the variance between the two groups."""
    places = np.arange(len(histogram)) + 0.5
    weight, moment = histogram.cumsum(), (histogram * places).cumsum()
    rest = weight[-1] - weight
    with np.errstate(divide="ignore", invalid="ignore"):
        between = weight * rest * (moment / weight - (moment[-1] - moment) / rest) ** 2
    return int(np.nanargmax(np.where(np.isfinite(between), between, 0))) + 1
