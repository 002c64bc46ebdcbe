"""What is found in a pair, strip by strip from top to bottom: the form in which predictors and writers exchange it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Strip(NamedTuple):
    """Some rows over the whole width of a pair."""

    start: int
    """First row."""
    probability: NDArray[np.float32]
    """Of the mask, change or building, (rows, width), 0 to 1."""
    classes: NDArray[np.uint8]
    """Most likely class from 1 on of each layer, (layers, rows, width), whatever the mask says."""
    valid: NDArray[np.bool_]
    """Where both dates are known, (rows, width)."""
