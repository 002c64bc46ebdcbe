"""The page of one case: three planes with the outlines, a table in millilitres, and what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from pentad.core.report import Block, Cell, Figure, Link, Notice, Table, write_page
from pentad.medical.findings import Finding
from pentad.medical.qc import Quality
from pentad.medical.training_range import TrainingRange
from pentad.medical.volumes import Volume

OUTLINES = {1: "#2a9d8f", 2: "#e63946"}
WINDOW_HU = (-150.0, 250.0)
USE = "Research use only"
VOLUME_COLUMNS = ("structure", "volume, ml", "training scans, ml")
FINDING_COLUMNS = ("finding", "volume, ml", "longest axial diameter, mm", "mean, HU", "SD, HU")
_DRAWN = "Not a medical device; not for diagnosis. Labels were drawn by a model and checked by nobody."
_CONTAINED = "The liver includes its lesions. "
_VOLUMES = "A volume behind \u2265 is a lower bound: the scan ends within the structure."
_LEFT_OUT = "Here the liver leaves out its lesions. "
_MEASURES = "Diameters run within one axial slice, from edge to edge of the outline."
_OUTLINED = "Liver outlined in green, lesions in red; window -150 to 250 HU."
_OUTLINED_ALL = "All structures together outlined in green; window -150 to 250 HU."


def largest_section(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return, for each axis, the index of the section with most voxels of ``mask``; the middle where it is empty."""
    if not mask.any():
        z, y, x = (size // 2 for size in mask.shape)
        return z, y, x
    counts = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    z, y, x = (int(np.argmax(count)) for count in counts)
    return z, y, x


def _draw(axes: Axes, image: NDArray[Any], label: NDArray[np.uint8], aspect: float, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], aspect=aspect, interpolation="bilinear")
    for value, colour in OUTLINES.items():
        part = label >= value  # a lesion is part of the liver
        if part.any() and not part.all():
            axes.contour(part, levels=[0.5], colors=[colour], linewidths=0.9)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def three_planes(image: NDArray[Any], label: NDArray[np.uint8], spacing: Sequence[float]) -> Drawing:
    """Draw axial, coronal and sagittal sections through the largest cross-section of the finding.

    Args:
        image: HU, axes (z, y, x), canonical: towards head, back and the patient's left.
        label: Same axes; 0 background, 1 liver, 2 lesion.
        spacing: Millimetres along z, y, x.

    Returns:
        A figure in the radiological convention: the patient's right on the picture's left, head up.
    """
    z, y, x = largest_section(label == 2 if (label == 2).any() else label > 0)
    dz, dy, dx = spacing
    figure = Drawing(figsize=(9, 3.2), layout="constrained", dpi=100)
    axial, coronal, sagittal = figure.subplots(1, 3)
    _draw(axial, image[z], label[z], dy / dx, f"axial, slice {z + 1} of {image.shape[0]}")
    _draw(coronal, image[::-1, y], label[::-1, y], dz / dx, "coronal")
    _draw(sagittal, image[::-1, :, x], label[::-1, :, x], dz / dy, "sagittal")
    return figure


def montage(image: NDArray[Any], label: NDArray[np.uint8], spacing: Sequence[float], count: int = 8) -> Drawing:
    """Draw ``count`` axial slices evenly through the extent of the finding, or of the scan where nothing was found."""
    found = np.flatnonzero(label.any(axis=(1, 2))) if label.any() else np.arange(image.shape[0])
    slices = np.unique(np.linspace(found[0], found[-1], count).round().astype(int))
    figure = Drawing(figsize=(9, 4.6), layout="constrained", dpi=100)
    for place, z in enumerate(slices):
        _draw(
            figure.add_subplot(2, (count + 1) // 2, place + 1), image[z], label[z], spacing[1] / spacing[2], f"{z + 1}"
        )
    return figure


@dataclass(frozen=True)
class ShownCase:
    """What the page of a case shows.

    Attributes:
        case: The case's id, a pseudonym for DICOM.
        scan: Canonical scan, HU.
        label: Label values (z, y, x) on the scan's grid.
        volumes: Column of a structure, ``liver_ml``, to its volume; an organ's includes its lesions.
        findings: What was measured one by one.
        quality: Flags and lower bounds.
        provenance: What made the labels.
        training: Ranges of the training scans, where they are known.
        card: Relative address of the model card.
    """

    case: str
    scan: Volume
    label: NDArray[np.uint8]
    volumes: Mapping[str, float]
    findings: Sequence[Finding]
    quality: Quality
    provenance: Mapping[str, Any]
    training: TrainingRange | None = None
    card: str = ""


def write_case_page(path: Path, shown: ShownCase) -> None:
    """Write the page of one case as HTML that needs no other file."""
    blocks: list[Block] = [Notice(USE, _DRAWN)]
    if shown.quality.flags:
        blocks.append(Notice("To be looked at", " ".join(shown.quality.flags.values())))
    volumes, measures = (_CONTAINED + _VOLUMES, _LEFT_OUT + _MEASURES) if _of_liver(shown) else (_VOLUMES, _MEASURES)
    blocks += [
        Table(VOLUME_COLUMNS, volume_rows(shown), note=volumes),
        Table(FINDING_COLUMNS, finding_rows(shown), caption="Findings one by one", note=measures),
    ]
    for drawing, alt, caption in drawings(shown):
        blocks.append(Figure(drawing, alt, caption))
    if shown.card:
        blocks.append(Table(["model"], [[Link("model card", shown.card)]]))
    write_page(path, f"Case {shown.case}", blocks, shown.provenance)


def _of_liver(shown: ShownCase) -> bool:
    return list(shown.volumes) == ["liver_ml", "lesion_ml"]


def drawings(shown: ShownCase) -> list[tuple[Drawing, str, str]]:
    """Return the figures of a case with what they show and their captions."""
    scan, label, outlined = shown.scan, shown.label, _OUTLINED
    if not _of_liver(shown):
        # Of other structures than a liver and its lesions the page shows where they end, not which is which.
        label, outlined = (label > 0).astype(np.uint8), _OUTLINED_ALL
    return [
        (three_planes(scan.array, label, scan.spacing), "Three planes through the largest cross-section", outlined),
        (montage(scan.array, label, scan.spacing), "Axial slices through what was found", "Axial slices"),
    ]


def volume_rows(shown: ShownCase) -> list[list[Cell]]:
    """Return a row a structure: name, volume with a sign where it is a lower bound, and the training range."""
    rows: list[list[Cell]] = []
    for column, volume in shown.volumes.items():
        name = column.removesuffix("_ml")
        known = shown.training.volumes_ml.get(name) if shown.training else None
        cut = "\u2265 " if column in shown.quality.lower_bounds else ""
        rows.append([name, f"{cut}{volume:.1f}", f"{known[0]:.1f} to {known[1]:.1f}" if known else "not known"])
    return rows


def finding_rows(shown: ShownCase) -> list[list[Cell]]:
    """Return a row a finding."""
    return [
        [item.name, f"{item.volume_ml:.2f}", f"{item.diameter_mm:.1f}", f"{item.hu_mean:.0f}", f"{item.hu_sd:.0f}"]
        for item in shown.findings
    ]
