"""What was found in a scan, one by one and measured: the organ, and each lesion on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pentad.medical.parts import of_parts, part_sizes
from pentad.medical.volumes import Volume

Mask = NDArray[np.bool_]

LESIONS = frozenset({"lesion", "tumor", "tumour"})
"""Classes whose connected parts are findings of their own; parts touch through faces, as in the metrics."""

MOST_PARTS = 99
"""Lesions measured one by one; the smaller ones beyond are measured together, so that none is left out."""


@dataclass(frozen=True)
class Finding:
    """One measured structure.

    Attributes:
        number: Its number from 1, that of its segment in the DICOM SEG.
        name: Such as ``liver`` or ``lesion 2``; lesions are counted from the largest.
        kind: Name of its class.
        value: Value of its class in the label map.
        volume_ml: Volume; an organ's leaves out the lesions in it.
        diameter_mm: Longest distance within one axial slice, between points of its outline.
        hu_mean: Mean HU of its voxels.
        hu_sd: Their standard deviation.
    """

    number: int
    name: str
    kind: str
    value: int
    volume_ml: float
    diameter_mm: float
    hu_mean: float
    hu_sd: float

    def to_mapping(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def find(scan: Volume, label: NDArray[np.uint8], classes: Mapping[str, int]) -> tuple[list[Finding], NDArray[np.uint8]]:
    """Return the findings of a label map, and the map of their numbers.

    Args:
        scan: HU, canonical: axes towards head, back and left.
        label: Class values on the scan's grid.
        classes: Name to value.

    Returns:
        Findings in the order of their numbers, and an array like ``label`` with each voxel's finding, 0 for none.
    """
    numbers = np.zeros(label.shape, dtype=np.uint8)
    named: list[tuple[str, str, int]] = []
    for kind, value in sorted(classes.items(), key=lambda item: item[1]):
        mask = label == value
        if not mask.any():
            continue
        if kind.lower() not in LESIONS:
            named.append((kind, kind, value))
            numbers[mask] = len(named)
            continue
        box = ndimage.find_objects(mask.view(np.uint8))[0]
        parts, count = _by_size(mask[box])
        numbers[box][mask[box]] = parts[mask[box]] + len(named)
        named += [(_lesion_name(kind, place, count), kind, value) for place in range(1, min(count, MOST_PARTS + 1) + 1)]
    boxes = ndimage.find_objects(numbers)
    return [
        _measured(number, *name, scan, box, numbers[box] == number)
        for number, (name, box) in enumerate(zip(named, boxes, strict=True), 1)
    ], numbers


def count_lesions(findings: Sequence[Finding]) -> int:
    """Return how many findings are lesions."""
    return sum(item.kind.lower() in LESIONS for item in findings)


def _lesion_name(kind: str, place: int, count: int) -> str:
    return f"{kind} {place}" if place <= MOST_PARTS else f"{kind}s {place} to {count} together"


def _by_size(mask: Mask) -> tuple[NDArray[np.uint8], int]:
    """Connected parts numbered from the largest, those beyond `MOST_PARTS` with one number; and how many there are."""
    parts, count = ndimage.label(mask)
    sizes = part_sizes(parts, count)[1:]
    rank = np.zeros(count + 1, dtype=np.uint8)
    # Equal sizes are told apart by place, so the order never hangs on a sort's whim.
    rank[1 + np.argsort(-sizes, kind="stable")] = np.minimum(np.arange(1, count + 1), MOST_PARTS + 1)
    return of_parts(rank, parts), count


def _measured(
    number: int, name: str, kind: str, value: int, scan: Volume, box: tuple[slice, ...], mask: Mask
) -> Finding:
    mean, deviation = _mean_and_deviation(scan.array[box], mask)
    return Finding(
        number=number,
        name=name,
        kind=kind,
        value=value,
        volume_ml=round(int(mask.sum()) * scan.voxel_ml, 3),
        diameter_mm=round(longest_axial_diameter(mask, scan.spacing), 2),
        hu_mean=round(mean, 2),
        hu_sd=round(deviation, 2),
    )


def _mean_and_deviation(array: NDArray[Any], mask: Mask) -> tuple[float, float]:
    """Of the values under the mask, in float64; plane by plane, as the largest findings fill most of a scan."""
    count = np.count_nonzero(mask)
    mean = sum(plane[inside].sum(dtype=np.float64) for plane, inside in zip(array, mask, strict=True)) / count
    squares = sum(np.square(plane[inside] - mean).sum() for plane, inside in zip(array, mask, strict=True))
    return float(mean), float(np.sqrt(squares / count))


def longest_axial_diameter(mask: Mask, spacing: Sequence[float]) -> float:
    """Return the longest distance in mm between two points of the outline within one axial slice.

    The outline is the one that the page draws: it runs half a voxel outside the outermost voxels' centres. A ball's
    diameter comes out within a voxel, a single voxel's as its longer edge.

    Args:
        mask: Axes (z, y, x), canonical.
        spacing: Millimetres along z, y, x.
    """
    _, dy, dx = spacing
    bounds = []
    for place in map(int, np.flatnonzero(mask.any(axis=(1, 2)))):
        rows, columns = (np.flatnonzero(mask[place].any(axis=axis)) for axis in (1, 0))
        bounds.append((float(np.hypot(np.ptp(rows) * dy + dy, np.ptp(columns) * dx + dx)), place))
    longest = 0.0
    # No diameter exceeds its box's diagonal: most slices are never measured.
    for bound, place in sorted(bounds, reverse=True):
        if bound <= longest:
            break
        longest = max(longest, _diameter(mask[place], dy, dx))
    return longest


def _diameter(mask: Mask, dy: float, dx: float) -> float:
    from scipy.spatial.distance import pdist  # 12 MB, which a scan without findings is spared

    points = np.concatenate([_ends(mask) * (dy, dx), _ends(mask.T)[:, ::-1] * (dy, dx)])
    return float(pdist(points).max())


def _ends(mask: Mask) -> NDArray[np.float64]:
    """Both ends (row, column) of every row, half a column outside its outermost voxels."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1) - 0.5
    last = mask.shape[1] - 0.5 - mask[rows][:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
