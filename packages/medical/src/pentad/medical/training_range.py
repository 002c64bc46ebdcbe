"""What the training scans were like, so that a scan unlike any of them can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
_LESIONS = ("lesion", "tumor", "tumour", "cancer")


@dataclass(frozen=True)
class CaseMeasures:
    """One training case: its spacing (z, y, x) in mm, volume in ml and mean HU by class; absent classes have no HU."""

    spacing: tuple[float, float, float]
    volumes_ml: dict[str, float]
    hu: dict[str, float]


@dataclass(frozen=True)
class TrainingRange:
    """Smallest and largest values over the training cases.

    Attributes:
        cases: How many there were.
        spacing: Of the distances of slices, rows and columns, mm.
        volumes_ml: Of each class's volume; 0 where a case lacks it. An organ's includes its lesions.
        hu: Of each class's mean HU in the cases that have it.
    """

    cases: int
    spacing: tuple[Range, Range, Range]
    volumes_ml: dict[str, Range]
    hu: dict[str, Range]


def volumes_ml(label: NDArray[np.uint8], spacing: Sequence[float], classes: Mapping[str, int]) -> dict[str, float]:
    """Return the volume of each class in millilitres, rounded to a microlitre; the liver includes its lesions."""
    voxel = float(np.prod(spacing)) / 1000
    lesions = [value for name, value in classes.items() if name in _LESIONS]
    parts = {name: [value, *lesions] if name == "liver" else [value] for name, value in classes.items()}
    return {f"{name}_ml": round(int(np.isin(label, values).sum()) * voxel, 3) for name, values in parts.items()}


def measure(
    image: NDArray[np.float32], label: NDArray[np.uint8], spacing: tuple[float, float, float], labels: Sequence[str]
) -> CaseMeasures:
    """Return the measures of one case.

    Args:
        image: Intensities of the first channel (z, y, x).
        label: Class values on the same grid.
        spacing: Millimetres along z, y, x.
        labels: Name of every value from 0 (background) upwards.
    """
    classes = {name: value for value, name in enumerate(labels) if value}
    volumes = {name.removesuffix("_ml"): volume for name, volume in volumes_ml(label, spacing, classes).items()}
    masks = {name: label == value for name, value in classes.items()}
    hu = {name: float(image[mask].mean(dtype=np.float64)) for name, mask in masks.items() if mask.any()}
    return CaseMeasures(spacing, volumes, hu)


def summarise(cases: Sequence[CaseMeasures]) -> TrainingRange:
    """Return the ranges over at least one case."""
    z, y, x = (_range([case.spacing[axis] for case in cases]) for axis in range(3))
    names = cases[0].volumes_ml
    found = {name: [case.hu[name] for case in cases if name in case.hu] for name in names}
    return TrainingRange(
        cases=len(cases),
        spacing=(z, y, x),
        volumes_ml={name: _range([case.volumes_ml[name] for case in cases]) for name in names},
        hu={name: _range(values) for name, values in found.items() if values},
    )


def _range(values: Sequence[float]) -> Range:
    return round(min(values), 4), round(max(values), 4)
