"""Label maps cleaned by what is known of an organ and its lesions; every rule has a switch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pentad.core.errors import UsageError, nearest
from pentad.medical.parts import of_parts, part_sizes
from pentad.medical.preprocess import bounding_box

log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PostProcessing:
    """Rules for one organ and the lesions in it. Region means organ and lesions together.

    Attributes:
        organ: Name of the organ's class; empty for no rule at all.
        lesion: Name of the lesions' class; empty where there is none.
        largest_component: Only the largest connected part of the region stays (connected through faces).
        fill_holes: Background that the region encloses on all sides becomes organ.
        lesions_inside: A lesion connected with no organ voxel is removed.
        smallest_lesion_ml: Lesions of a smaller volume become organ; 0 keeps all.
    """

    organ: str = ""
    lesion: str = ""
    largest_component: bool = True
    fill_holes: bool = True
    lesions_inside: bool = True
    smallest_lesion_ml: float = 0.0

    def check(self, classes: Mapping[str, int]) -> None:
        """Compare the names with a model's classes.

        Raises:
            UsageError: A name is none of them.
        """
        for name in (self.organ, self.lesion):
            if name and name not in classes:
                problem = f"post-processing names the class '{name}'{nearest(name, classes)}"
                raise UsageError("PTD-378", problem, f"name one of: {', '.join(classes)}")


def postprocess(
    label: NDArray[np.uint8], classes: Mapping[str, int], spacing: Sequence[float], rules: PostProcessing
) -> NDArray[np.uint8]:
    """Apply the rules to ``label``, which is changed, and return it.

    Args:
        label: Classes (z, y, x).
        classes: Name to index.
        spacing: Millimetres per voxel (z, y, x).
        rules: What to do.

    Raises:
        UsageError: The rules name an unknown class.
    """
    rules.check(classes)
    if not rules.organ:
        return label
    organ, lesion = classes[rules.organ], classes.get(rules.lesion, -1)
    region = (label == organ) | (label == lesion)
    if not region.any():
        return label
    # All that follows is confined to the findings' box: connected parts cost four bytes a voxel.
    box = tuple(slice(start, stop) for start, stop in bounding_box(region))
    inside, region = label[box], region[box]
    if rules.largest_component or rules.lesions_inside:
        wrong = region & ~_wanted(region, inside == organ, rules)
        inside[wrong] = 0
        region &= ~wrong
    if rules.fill_holes:
        inside[holes(region) & (inside == 0)] = organ
    if rules.smallest_lesion_ml > 0 and lesion > 0:
        voxel_ml = float(np.prod(spacing)) / 1000
        inside[_smaller(inside == lesion, rules.smallest_lesion_ml / voxel_ml)] = organ
    return label


def holes(mask: Mask) -> Mask:
    """Return the background that no path through faces connects with the edge of the volume."""
    # SciPy's binary_fill_holes grows the background step by step from the edge; parts are found in one pass.
    parts, count = ndimage.label(~mask)
    enclosed = np.ones(count + 1, dtype=bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            enclosed[np.unique(parts.take(end, axis))] = False
    enclosed[0] = False
    return of_parts(enclosed, parts)


def _wanted(region: Mask, organ: Mask, rules: PostProcessing) -> Mask:
    parts, count = ndimage.label(region)
    keep = np.ones(count + 1, dtype=bool)
    if rules.lesions_inside:
        keep &= part_sizes(parts, count, organ) > 0
    if rules.largest_component:
        sizes = np.where(keep, part_sizes(parts, count, region), 0)
        keep &= np.arange(count + 1) == sizes.argmax()
    keep[0] = False
    log.debug("%d of %d connected parts stay", keep.sum(), count)
    return of_parts(keep, parts)


def _smaller(mask: Mask, voxels: float) -> Mask:
    """Voxels of the connected parts with fewer than ``voxels``; a hair's breadth of rounding does not count."""
    parts, count = ndimage.label(mask)
    small = part_sizes(parts, count, mask) < voxels - 1e-6
    small[0] = False
    return of_parts(small, parts)
