"""Which series of a study is segmented: declarative rules, and a reason for every series that is not taken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pentad.core.cases import Rejection
from pentad.medical.dicom import FileRejection, Series

_RULE, _BESIDE = "PTD-346", "PTD-325"


class SelectionRules(BaseModel):
    """Rules a series must meet, and which one wins where several do.

    Patterns are regular expressions, found anywhere, in capitals or not.

    Attributes:
        modality: Only CT is read so far.
        orientation: Plane of the slices within 25 degrees, or ``any``.
        min_slices: Fewest slices.
        slice_spacing_mm: Smallest and largest distance between slices.
        pixel_spacing_mm: Smallest and largest distance between pixels.
        kernel_include: The convolution kernel must match one of these; empty for all.
        kernel_exclude: The convolution kernel must match none of these.
        description_include: The series description must match one of these; empty for all.
        description_exclude: The series description must match none of these.
        prefer_kernel: Kernels in order of preference; a series that matches an earlier one wins.
        prefer_description: Descriptions in order of preference, after the kernel.
        prefer: What decides among the rest: the thinnest slices, the most slices, or the lowest series number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["CT"] = "CT"
    orientation: Literal["axial", "coronal", "sagittal", "any"] = "axial"
    min_slices: int = Field(default=10, ge=2)
    slice_spacing_mm: tuple[float, float] = (0.2, 10.0)
    pixel_spacing_mm: tuple[float, float] = (0.2, 3.0)
    kernel_include: tuple[str, ...] = ()
    kernel_exclude: tuple[str, ...] = ()
    description_include: tuple[str, ...] = ()
    description_exclude: tuple[str, ...] = ()
    prefer_kernel: tuple[str, ...] = ()
    prefer_description: tuple[str, ...] = ()
    prefer: Literal["thinnest", "most_slices", "first"] = "thinnest"

    @field_validator(
        "kernel_include",
        "kernel_exclude",
        "description_include",
        "description_exclude",
        "prefer_kernel",
        "prefer_description",
    )
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return patterns

    @model_validator(mode="after")
    def _ranges_ascend(self) -> SelectionRules:
        for name in ("slice_spacing_mm", "pixel_spacing_mm"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two lengths above 0, the smaller first, not {low}, {high}")
        return self


def choose(series: Sequence[Series], rules: SelectionRules) -> tuple[Series | None, list[Rejection]]:
    """Return the series of one study to segment, if any, and why each of the others is not it.

    The choice does not depend on the order of ``series``.
    """
    rejections: list[Rejection] = []
    fit: list[Series] = []
    for candidate in sorted(series, key=lambda item: item.name):
        broken = broken_rule(candidate, rules)
        if broken:
            rejections.append(FileRejection.of(candidate.names, _RULE, broken))
        else:
            fit.append(candidate)
    chosen = min(fit, key=lambda item: _rank(item, rules), default=None)
    for candidate in fit:
        if chosen and candidate is not chosen:
            reason = (
                f"another reconstruction of the study is preferred ({chosen.name}); change the rules to have this one."
            )
            rejections.append(FileRejection.of(candidate.names, _BESIDE, reason))
    return chosen, rejections


def broken_rule(series: Series, rules: SelectionRules) -> str:
    """Return a sentence on the first rule the series breaks, or an empty string."""
    slices, (between, *pixels) = series.shape[0], series.spacing
    if rules.orientation not in ("any", series.orientation):
        return _sentence(f"its slices are {series.orientation}", f"orientation {rules.orientation}")
    if slices < rules.min_slices:
        return _sentence(f"it has {slices} slices", f"min_slices {rules.min_slices}")
    for name, sizes in (("slice_spacing_mm", [between]), ("pixel_spacing_mm", pixels)):
        low, high = getattr(rules, name)
        if not all(low <= size <= high for size in sizes):
            return _sentence(
                f"its spacing is {' x '.join(f'{size:.3g}' for size in sizes)} mm", f"{name} {low} to {high}"
            )
    for name, text in (("kernel", series.kernel), ("description", series.description)):
        include, exclude = getattr(rules, f"{name}_include"), getattr(rules, f"{name}_exclude")
        if include and _first_match(include, text) == len(include):
            return _sentence(f"its {name} matches none of those wanted", f"{name}_include")
        if _first_match(exclude, text) < len(exclude):
            return _sentence(f"its {name} matches one that is not wanted", f"{name}_exclude")
    return ""


def _sentence(problem: str, rule: str) -> str:
    return f"{problem}, against the rule {rule}; give another series or change the rule."


def _first_match(patterns: Sequence[str], text: str) -> int:
    """Position of the first pattern found in the text; the number of patterns if none is."""
    found = (place for place, pattern in enumerate(patterns) if re.search(pattern, text, re.IGNORECASE))
    return next(found, len(patterns))


def _rank(series: Series, rules: SelectionRules) -> tuple[int, int, float, int, str]:
    measure = {"thinnest": round(series.spacing[0], 3), "most_slices": -series.shape[0], "first": 0}[rules.prefer]
    return (
        _first_match(rules.prefer_kernel, series.kernel),
        _first_match(rules.prefer_description, series.description),
        measure,
        # Ties are broken by what stands in the files, never by the order of a directory.
        series.number,
        series.name,
    )
