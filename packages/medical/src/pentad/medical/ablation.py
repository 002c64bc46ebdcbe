"""Each rule of post-processing measured on and off, all from one label map as the network left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.evaluation import Row, Summary, compare, summarise
from pentad.medical.metrics import score_labels
from pentad.medical.postprocess import PostProcessing, postprocess

METRICS = ("liver_dice", "lesion_dice", "lesion_f1")
SHIPPED = "as shipped"
_OFF: dict[str, Any] = {
    "largest_component": False,
    "fill_holes": False,
    "lesions_inside": False,
    "smallest_lesion_ml": 0.0,
}


def variants(rules: PostProcessing) -> dict[str, PostProcessing]:
    """Return the rules as shipped, none of them, each alone and each left out, by a name for each.

    A rule that is off as shipped has no variant: what it would be set to is not known.
    """
    active = [name for name, off in _OFF.items() if getattr(rules, name) != off]
    none = replace(rules, **_OFF)
    found = {SHIPPED: rules, "no rule": none}
    found |= {f"only {name}": replace(none, **{name: getattr(rules, name)}) for name in active}
    found |= {f"without {name}": replace(rules, **{name: _OFF[name]}) for name in active}
    return found


def ablate(
    raw: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    spacing: Sequence[float],
    classes: Mapping[str, int],
    rules: PostProcessing,
) -> dict[str, dict[str, float]]:
    """Return Dice and the lesions' F1 of one case under every variant.

    Args:
        raw: Label map before post-processing, (z, y, x).
        reference: Labels on the same grid.
        spacing: Millimetres per voxel (z, y, x).
        classes: Name to label value.
        rules: As shipped.

    Raises:
        CaseError: As for `pentad.medical.metrics.score_labels`.
    """
    return {
        name: score_labels(postprocess(raw.copy(), classes, spacing, variant), reference, spacing)
        for name, variant in variants(rules).items()
    }


def table_of(cases: Mapping[str, Sequence[Row]], seed: int) -> dict[str, dict[str, Summary]]:
    """Return, for each variant, the means over cases and the paired differences to the rules as shipped.

    Args:
        cases: Variant to its rows, the same cases in each.
        seed: Seed of the intervals.
    """
    return {
        name: {"mean": summarise(rows, seed, METRICS), "minus_shipped": compare(rows, cases[SHIPPED], seed)}
        for name, rows in cases.items()
        if rows
    }
