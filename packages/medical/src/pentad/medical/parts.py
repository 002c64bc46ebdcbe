"""Connected parts of a label map, counted and looked up plane by plane.

NumPy copies what it counts (``bincount``) or looks up (``values[parts]``) to int64, which for a whole scan is twice the
scan's own memory.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def part_sizes(parts: NDArray[np.int32], count: int, mask: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return the voxels of each part, (count + 1,), those of the background first.

    Args:
        parts: Number of every voxel's part (z, y, x), 0 for none.
        count: How many parts there are.
        mask: Where voxels count; everywhere by default.
    """
    sizes = np.zeros(count + 1, dtype=np.int64)
    for place, plane in enumerate(parts):
        counted = plane.ravel() if mask is None else plane[mask[place]]
        sizes += np.bincount(counted, minlength=count + 1)
    return sizes


def of_parts(values: NDArray[T], parts: NDArray[np.int32]) -> NDArray[T]:
    """Return ``values[parts]``: for every voxel the value of its part."""
    found = np.empty(parts.shape, dtype=values.dtype)
    for place, plane in enumerate(parts):
        found[place] = values[plane]
    return found
