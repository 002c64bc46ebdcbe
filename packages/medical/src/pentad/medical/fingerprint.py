"""The data set's fingerprint: what the planner needs to know of the cases, measured once.

Rules of nnU-Net (Isensee et al., Nature Methods 2021), version 2.1.1, as U-Mamba uses them.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.cases import Case
from pentad.core.errors import CaseError, UsageError
from pentad.medical.training_range import TrainingRange, measure, summarise
from pentad.medical.volumes import check_same_grid, read_label, read_nifti

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intensity:
    """Statistics of one channel over the foreground voxels of all cases, in the image's own unit (HU for CT).

    Attributes:
        mean: Mean.
        std: Standard deviation.
        median: Median.
        minimum: Smallest value.
        maximum: Largest value.
        low: Percentile 0.5.
        high: Percentile 99.5.
    """

    mean: float
    std: float
    median: float
    minimum: float
    maximum: float
    low: float
    high: float


@dataclass(frozen=True)
class Fingerprint:
    """Geometry of every case after cropping to the non-zero box, and foreground intensities.

    Attributes:
        spacings: One (z, y, x) spacing a case, mm.
        shapes: One (z, y, x) shape a case, voxels after cropping.
        relative_sizes: Cropped voxels over original voxels, one a case.
        channels: Name of every channel, such as ``CT`` or ``MR``; the name decides the normalisation.
        labels: Name of every label value from 0 (background) upwards.
        intensities: One statistic a channel; empty where nothing was measured.
        training: What later scans are compared with; no rule of the planner reads it.
    """

    spacings: tuple[tuple[float, float, float], ...]
    shapes: tuple[tuple[int, int, int], ...]
    relative_sizes: tuple[float, ...]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    intensities: tuple[Intensity, ...] = ()
    training: TrainingRange | None = None

    def __post_init__(self) -> None:
        counts = {len(self.spacings), len(self.shapes), len(self.relative_sizes)}
        if len(counts) != 1 or 0 in counts:
            raise UsageError(
                "PTD-280",
                f"a fingerprint of {len(self.spacings)} spacings, {len(self.shapes)} shapes and "
                f"{len(self.relative_sizes)} relative sizes",
                "give one of each for at least one case",
            )
        if not self.channels or len(self.labels) < 2:
            raise UsageError(
                "PTD-281",
                f"{len(self.channels)} channels and {len(self.labels)} labels",
                "name at least one channel, the background and one structure",
            )
        sizes = [*itertools.chain(*self.spacings), *itertools.chain(*self.shapes)]
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            raise UsageError("PTD-280", "a spacing or a shape is not above 0", "measure the cases again")


def nonzero_box(image: NDArray[Any]) -> tuple[slice, ...]:
    """Return the smallest box that holds every voxel where any channel is non-zero.

    Args:
        image: (c, z, y, x).

    Returns:
        One slice for each of z, y and x; the whole image where all of it is zero.
    """
    # nnU-Net fills holes before it takes the box; holes never reach the box's faces, so they are left as they are.
    mask = (image != 0).any(axis=0)
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, mask.shape[axis]))
    return tuple(box)


def fingerprint(
    cases: Sequence[Case],
    *,
    channels: Sequence[str] = ("CT",),
    labels: Sequence[str] = ("background", "liver", "lesion"),
    roles: Sequence[str] = ("image",),
    draws: int = 10_000_000,
    seed: int = 1234,
) -> Fingerprint:
    """Return the fingerprint of the cases.

    Args:
        cases: Cases with a NIfTI file for every role and one for ``label``; training cases only, or the plan
            would know the test set.
        channels: Names of the channels.
        labels: Names of the label values from 0 upwards.
        roles: File role of each channel.
        draws: Foreground voxels drawn over all cases, with replacement and equally many from each case (nnU-Net
            draws 1e8; at 1e7 the mean is known to a three-thousandth of the standard deviation).
        seed: Seed of the draws.

    Raises:
        UsageError: There is no case, or the names do not fit.
        CaseError: A case lacks a file, its channels and label are on different grids, or no case has foreground.
    """
    if not cases or len(roles) != len(channels):
        raise UsageError(
            "PTD-282",
            f"{len(cases)} cases, {len(channels)} channels, {len(roles)} file roles",
            "give at least one case and one file role a channel",
        )
    spacings, shapes, sizes, foreground, measures = [], [], [], [], []
    for number, case in enumerate(cases):
        image, label, spacing = _read(case, roles)
        box = nonzero_box(image)
        cropped = label[box]
        spacings.append(spacing)
        shapes.append((cropped.shape[0], cropped.shape[1], cropped.shape[2]))
        sizes.append(cropped.size / label.size)
        # A generator a case, so that one more case does not change what is drawn from the others.
        random = np.random.default_rng([seed, number])
        measures.append(measure(image[0], label, spacing, labels))
        foreground.append(_draw(image, label > 0, draws // len(cases), random))
        log.debug("fingerprint of case %s: spacing %s mm, shape %s", case.id, spacing, cropped.shape)
    values = np.concatenate(foreground, axis=1)
    if not values.shape[1]:
        raise CaseError("PTD-284", "no case has a labelled voxel", "check the labels and the selection rules")
    return Fingerprint(
        spacings=tuple(spacings),
        shapes=tuple(shapes),
        relative_sizes=tuple(sizes),
        channels=tuple(channels),
        labels=tuple(labels),
        intensities=tuple(_statistics(channel) for channel in values),
        training=summarise(measures),
    )


def _read(case: Case, roles: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[Any], tuple[float, float, float]]:
    """Channels (c, z, y, x), label (z, y, x) and spacing (z, y, x) in mm of one case."""
    missing = [role for role in (*roles, "label") if role not in case.files]
    if missing:
        raise CaseError("PTD-283", f"the case has no file '{missing[0]}'", "prepare the data again", case.id)
    volumes = [read_nifti(Path(case.files[role])) for role in roles]
    label = read_label(Path(case.files["label"]))
    for volume in volumes:
        check_same_grid(volume, label, case.id)
    channels = np.stack([np.asarray(volume.array, dtype=np.float32) for volume in volumes])
    return channels, label.array, volumes[0].spacing


def _draw(
    image: NDArray[np.float32], mask: NDArray[np.bool_], count: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """``count`` values (c, count) of each channel drawn with replacement inside the mask; (c, 0) if it is empty."""
    inside = image[:, mask]
    if not inside.shape[1]:
        return inside
    return inside[:, random.integers(inside.shape[1], size=count)]


def _statistics(values: NDArray[np.float32]) -> Intensity:
    low, median, high = (float(value) for value in np.percentile(values, (0.5, 50, 99.5)))
    return Intensity(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        median=median,
        minimum=float(values.min()),
        maximum=float(values.max()),
        low=low,
        high=high,
    )
