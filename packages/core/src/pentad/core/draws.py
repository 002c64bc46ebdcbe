"""Random numbers for generated data: the same on every machine and with every version of NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Draws:
    """A stream of random numbers fixed by ``key``: only the integers of PCG64, which NumPy keeps stable."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Return so many integers of 64 random bits."""
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def uniform(self, low: float, high: float) -> float:
        """Return one number from ``low`` (included) to ``high`` (excluded)."""
        return low + (high - low) * float(self.grid(1)[0])

    def integer(self, count: int) -> int:
        """Return one integer from 0 to ``count - 1``."""
        return int(self.raw(1)[0]) % count

    def grid(self, *shape: int) -> Array:
        """Return numbers uniform over 0 … 1 in an array of ``shape``."""
        return (self.raw(math.prod(shape)) >> np.uint64(11)).astype(np.float64).reshape(shape) * (1.0 / (1 << 53))
