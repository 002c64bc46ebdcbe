"""What a person should look at before trusting a segmentation: flags, each with one sentence.

The limits are plain rules, stated beside each; none was fitted to data, and a case without a flag is not thereby right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pentad.medical.findings import LESIONS
from pentad.medical.parts import part_sizes
from pentad.medical.training_range import Range, TrainingRange
from pentad.medical.volumes import Volume

if TYPE_CHECKING:
    from pentad.medical.fingerprint import Intensity

Mask = NDArray[np.bool_]

SPACING_SHARE = 0.1
"""A spacing may leave the training range by this share of it."""
VOLUME_FACTOR = 1.5
"""A volume may leave the training range by this factor."""
PHASE_HU = 15.0
"""An organ's mean may leave the training range by so many HU; without contrast a liver loses about 50."""
INTENSITY_SHARE = 0.1
"""Share of the found voxels outside the training foreground's percentiles 0.5 to 99.5; 0.01 is usual."""
BODY_HU = (-150.0, 150.0)
"""In CT, the median of all that is denser than lung lies between fat and contrast medium."""
FRAGMENT_SHARE = 0.01
"""Share of an organ outside its largest connected part."""
LEAST_AGREEMENT = 0.7
"""Jaccard agreement of single answers (mirrored passes, models) with the final one."""

_BODY_ABOVE_HU = -300.0
_PADDING_HU = -1024.0
_SIDES = (("feet", "head"), ("front", "back"), ("right", "left"))  # canonical axes run towards the second

TEXTS = {
    "empty": "nothing was found",
    "fov_cut": "cut by the field of view; volumes are lower bounds",
    "fragments": "organ in several parts",
    "spacing_range": "spacing outside the training range",
    "intensity_range": "intensities outside the training range",
    "phase": "another contrast phase suspected",
    "modality": "another modality than CT suspected",
    "disagreement": "single answers disagree",
    "volume_outlier": "volume outside the training range",
}
"""Every flag and its short text, of at most 64 characters for DICOM."""


@dataclass(frozen=True)
class Reference:
    """What a case is compared with.

    Attributes:
        classes: Name to label value.
        training: Ranges of the training scans; None where the bundle does not say them.
        intensity: Statistics of the training scans' foreground; None likewise.
    """

    classes: Mapping[str, int]
    training: TrainingRange | None = None
    intensity: Intensity | None = None

    @property
    def organs(self) -> dict[str, int]:
        """The classes that are no lesions."""
        return {name: value for name, value in self.classes.items() if name.lower() not in LESIONS}


@dataclass
class Quality:
    """The outcome of all checks.

    Attributes:
        flags: Flag to its sentence.
        lower_bounds: Columns of volumes that are lower bounds because the scan ends within the structure.
        unchecked: Checks that could not be made, and why.
    """

    flags: dict[str, str] = field(default_factory=dict)
    lower_bounds: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Return it as JSON values."""
        flags = [{"flag": name, "sentence": sentence} for name, sentence in self.flags.items()]
        return {"flags": flags, "lower_bounds": self.lower_bounds, "unchecked": self.unchecked}


def check(
    scan: Volume,
    label: NDArray[np.uint8],
    volumes: Mapping[str, float],
    agreement: Mapping[str, float],
    reference: Reference,
) -> Quality:
    """Return the flags of a segmented scan.

    Args:
        scan: HU, canonical: axes towards head, back and left.
        label: Class values on the same grid.
        volumes: Name of a column, ``liver_ml``, to its volume.
        agreement: As of `pentad.medical.predict.Prediction`.
        reference: What to compare with.
    """
    quality = Quality()
    _check_scan(quality, scan, reference)
    if not label.any():
        quality.flags["empty"] = "Nothing was found: look whether the scan shows the organ at all."
        return quality
    _check_field_of_view(quality, scan, label, reference)
    _check_fragments(quality, label, reference)
    _check_intensities(quality, scan, label, reference)
    _check_volumes(quality, volumes, reference)
    if not agreement:
        quality.unchecked["disagreement"] = "one answer only: neither mirroring nor an ensemble was asked for"
    low = {name: value for name, value in agreement.items() if value < LEAST_AGREEMENT}
    if low:
        said = ", ".join(f"{name} {value:.2f}" for name, value in low.items())
        quality.flags["disagreement"] = (
            f"Mirrored passes or models agree poorly with their mean ({said}, where 1 is full agreement)."
        )
    return quality


def _check_scan(quality: Quality, scan: Volume, reference: Reference) -> None:
    # Every eighth voxel of each axis tells a median well enough and spares a copy of the scan.
    sample = scan.array[:: _step(scan, 0), :: _step(scan, 1), :: _step(scan, 2)]
    body = sample[sample > _BODY_ABOVE_HU]
    middle = float(np.median(body)) if body.size else _PADDING_HU
    if not BODY_HU[0] <= middle <= BODY_HU[1]:
        quality.flags["modality"] = (
            f"The scan's median above lung is {middle:.0f} HU, which CT of a body never shows: another modality?"
        )
    if reference.training is None:
        quality.unchecked["spacing_range"] = "the model does not say what its training scans were like"
        return
    for name, size, (low, high) in zip(
        ("slices", "rows", "columns"), scan.spacing, reference.training.spacing, strict=True
    ):
        if not low * (1 - SPACING_SHARE) <= size <= high * (1 + SPACING_SHARE):
            quality.flags["spacing_range"] = (
                f"The {name} lie {size:.3g} mm apart, in the training scans {low:.3g} to {high:.3g} mm."
            )


def _step(scan: Volume, axis: int) -> int:
    return min(8, max(1, int(scan.array.shape[axis]) // 16))


def _region(label: NDArray[np.uint8], name: str, value: int, reference: Reference) -> Mask:
    """A class; the only organ of a model holds its lesions."""
    if name in reference.organs and len(reference.organs) == 1:
        return label > 0
    return np.asarray(label == value)


def _check_field_of_view(quality: Quality, scan: Volume, label: NDArray[np.uint8], reference: Reference) -> None:
    sides: dict[str, None] = {}
    names = []
    for name, value in reference.classes.items():
        region = _region(label, name, value, reference)
        touched = _sides(region)
        if _touches_padding(region, scan):
            touched.append("reconstructed circle")
        if touched:
            names.append(name)
            sides |= dict.fromkeys(touched)
    if names:
        quality.lower_bounds += [f"{name}_ml" for name in names]
        quality.flags["fov_cut"] = (
            f"The scan ends within {' and '.join(names)} (edge: {', '.join(sides)}): volumes are lower bounds."
        )


def _sides(region: Mask) -> list[str]:
    ends = [(axis, end) for axis in range(3) for end in (0, 1)]
    return [_SIDES[axis][end] for axis, end in ends if region.take(-end, axis).any()]


def _touches_padding(region: Mask, scan: Volume) -> bool:
    """Whether ten or more voxels beside the region are what scanners write outside the reconstructed circle."""
    found = ndimage.find_objects(region.view(np.uint8))
    if not found:
        return False
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in found[0])
    outside = scan.array[box] <= _PADDING_HU
    if not outside.any():
        return False
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[0] = in_plane[2] = False
    beside = ndimage.binary_dilation(region[box], in_plane) & outside
    return int(beside.sum()) >= 10


def _check_fragments(quality: Quality, label: NDArray[np.uint8], reference: Reference) -> None:
    for name, value in reference.organs.items():
        region = _region(label, name, value, reference)
        found = ndimage.find_objects(region.view(np.uint8))
        if not found:
            continue
        parts, count = ndimage.label(region[found[0]])
        sizes = part_sizes(parts, count)[1:]
        share = 1 - sizes.max() / sizes.sum()
        if share >= FRAGMENT_SHARE:
            quality.flags["fragments"] = f"The {name} lies in {count} parts, {share:.0%} of it outside the largest."


def _check_intensities(quality: Quality, scan: Volume, label: NDArray[np.uint8], reference: Reference) -> None:
    if reference.intensity is None:
        quality.unchecked["intensity_range"] = "the model does not normalise by intensities of training scans"
    else:
        low, high = reference.intensity.low, reference.intensity.high
        values = scan.array[label > 0]
        share = float(((values < low) | (values > high)).mean())
        if share > INTENSITY_SHARE:
            quality.flags["intensity_range"] = (
                f"Of what was found {share:.0%} lies outside {low:.0f} to {high:.0f} HU, in the training scans 1%."
            )
    if reference.training is None:
        quality.unchecked["phase"] = "the model does not say what its training scans were like"
        return
    for name, value in reference.organs.items():
        mask = label == value
        if name in reference.training.hu and mask.any():
            low, high = reference.training.hu[name]
            mean = float(scan.array[mask].mean(dtype=np.float64))
            if not low - PHASE_HU <= mean <= high + PHASE_HU:
                quality.flags["phase"] = (
                    f"The {name} has {mean:.0f} HU, in the training scans {low:.0f} to {high:.0f} HU: "
                    "another contrast phase or modality?"
                )


def _check_volumes(quality: Quality, volumes: Mapping[str, float], reference: Reference) -> None:
    if reference.training is None:
        quality.unchecked["volume_outlier"] = "the model does not say what its training scans were like"
        return
    for name, known in reference.training.volumes_ml.items():
        column = f"{name}_ml"
        sentence = _volume_sentence(name, volumes.get(column), known, cut=column in quality.lower_bounds)
        if sentence:
            quality.flags["volume_outlier"] = sentence


def _volume_sentence(name: str, volume: float | None, known: Range, *, cut: bool) -> str:
    low, high = known
    # A volume that the scan's edge cuts is small for that reason.
    small = volume is not None and volume < low / VOLUME_FACTOR and not cut
    if volume is None or not (small or volume > high * VOLUME_FACTOR):
        return ""
    return f"The {name} measures {volume:.3g} ml, in the training scans {low:.3g} to {high:.3g} ml."


def short_texts(flags: Sequence[str]) -> dict[str, str]:
    """Return the short text of each flag."""
    return {flag: TEXTS[flag] for flag in flags}
