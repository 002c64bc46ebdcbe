"""Slices of one series put in order along their normal, or the reason why they make no volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import CaseError
from pentad.medical.dicom_header import Plane
from pentad.medical.volumes import SPACING_MM

_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3
_DUPLICATE_MM = 0.01
_UNEVEN_MM, _UNEVEN_SHARE = 0.06, 0.02  # positions rounded to 0.1 mm are off a regular grid by 0.05


@dataclass(frozen=True)
class Stack:
    """Slices as a regular grid.

    Attributes:
        order: Positions in the given sequence, along the normal (the cross product of the two directions).
        affine: Voxel index (x, y, z, 1) to LPS mm.
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]


def stack(planes: Sequence[Plane], where: str) -> Stack:
    """Return the slices' order and grid, from positions alone: numbers and thicknesses are not believed.

    Args:
        planes: Slices of one series, in any order.
        where: How errors call the series.

    Raises:
        CaseError: One slice (PTD-334), mixed directions (PTD-339) or sizes (PTD-340), duplicate positions (PTD-335),
            positions off a straight line (PTD-341), a gantry tilt (PTD-338), a missing slice (PTD-336), an uneven
            distance (PTD-337).
    """
    if len(planes) < 2:
        raise CaseError("PTD-334", "a single slice is no volume", "give the whole series", where)
    _check_alike(planes, where)
    first = planes[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    places = np.array([plane.position for plane in planes])
    depths = places @ normal
    order = np.argsort(depths, kind="stable")
    ordered = [planes[index] for index in order]
    _check_positions(places[order], depths[order], normal, ordered, where)
    # Slices ascend along the normal, so the axes are right-handed whatever the directions' signs.
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = normal * (depths[order[-1]] - depths[order[0]]) / (len(planes) - 1)
    affine[:3, 3] = places[order[0]]
    return Stack(tuple(int(index) for index in order), affine)


def _check_alike(planes: Sequence[Plane], where: str) -> None:
    first = planes[0]
    for plane in planes:
        if np.abs(np.subtract(plane.orientation, first.orientation)).max() > _SAME_DIRECTION:
            problem = f"its slices have different directions ({first.name} and {plane.name})"
            raise CaseError("PTD-339", problem, "split it into one series a direction", where)
        if plane.shape != first.shape or np.abs(np.divide(plane.spacing, first.spacing) - 1).max() > _SAME_SPACING:
            problem = f"its slices differ in size or pixel spacing ({first.name} and {plane.name})"
            raise CaseError("PTD-340", problem, "split it into one series a format", where)


def _check_positions(
    places: NDArray[np.float64],
    depths: NDArray[np.float64],
    normal: NDArray[np.float64],
    planes: Sequence[Plane],
    where: str,
) -> None:
    steps = np.diff(depths)
    closest = int(np.argmin(steps))
    if steps[closest] < _DUPLICATE_MM:
        one, other = planes[closest], planes[closest + 1]
        count = int((steps < _DUPLICATE_MM).sum())
        problem = f"{count} of its slices share their position with another ({_name(one)} and {_name(other)})"
        raise CaseError("PTD-335", problem, "give one acquisition, phase or reconstruction a series", where)
    _check_straight(places, depths, normal, min(planes[0].spacing), where)
    _check_even(steps, planes, where)


def _name(plane: Plane) -> str:
    return f"{plane.name} frame {plane.frame + 1}" if plane.frame else plane.name


def _check_straight(
    places: NDArray[np.float64], depths: NDArray[np.float64], normal: NDArray[np.float64], pixel: float, where: str
) -> None:
    """Slices must lie behind one another along the normal, to a pixel over the whole length."""
    along = (depths - depths[0])[:, None]
    aside = places - places[0] - along * normal
    drift = aside[-1] / along[-1]
    if np.abs(aside - along * drift).max() > max(0.1, 0.2 * pixel):
        raise CaseError("PTD-341", "its slices do not lie on a straight line", "split it into straight parts", where)
    if np.linalg.norm(aside[-1]) > pixel:
        angle = math.degrees(math.atan(float(np.linalg.norm(drift))))
        problem = f"its slices are tilted against their stacking by {angle:.1f} degrees (gantry tilt)"
        raise CaseError("PTD-338", problem, "resample it to a straight stack first", where)


def _check_even(steps: NDArray[np.float64], planes: Sequence[Plane], where: str) -> None:
    usual = float(np.median(steps)) if len(steps) > 2 else float(steps.min())
    numbers, depths = np.arange(len(steps) + 1), np.concatenate([[0.0], np.cumsum(steps)])
    off = np.abs(depths - np.polynomial.Polynomial.fit(numbers, depths, 1)(numbers))
    tolerance = max(_UNEVEN_MM, _UNEVEN_SHARE * usual)
    if off.max() > tolerance or np.abs(steps - steps.mean()).max() > 2 * tolerance:
        # Gaps of whole slices mean that some were lost; anything else is another acquisition.
        counts = steps / usual
        whole = np.rint(counts)
        widest = int(np.argmax(steps))
        if whole.min() == 1 and np.abs(counts - whole).max() < 0.1 and whole[widest] > 1:
            missing = int(whole.sum() - len(whole))
            ends = f"{_name(planes[widest])} and {_name(planes[widest + 1])}"
            gap = f"{steps[widest]:.2f} mm between {ends} where {usual:.2f} mm is usual"
            problem = f"{missing} slice{'s are' if missing > 1 else ' is'} missing: {gap}"
            raise CaseError("PTD-336", problem, "fetch the complete series", where)
        problem = f"its slices lie {steps.min():.2f} to {steps.max():.2f} mm apart"
        raise CaseError("PTD-337", problem, "give a series with one distance between slices", where)
    low, high = SPACING_MM
    if not low <= steps.mean() <= high:
        problem = f"its slices lie {steps.mean():.3g} mm apart, which is not between {low} and {high}"
        raise CaseError("PTD-337", problem, "fetch the original series", where)
