"""The page of one case: three planes with the outlines, a table in millilitres, and what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from pentad.core.report import Block, Cell, Figure, Notice, Table, write_page
from pentad.medical.volumes import Volume

OUTLINES = {1: "#2a9d8f", 2: "#e63946"}
WINDOW_HU = (-150.0, 250.0)
_OUTLINED = "Liver outlined in green, lesions in red; window -150 to 250 HU."
_LESIONS = ("lesion", "tumor", "tumour", "cancer")


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


def volumes_ml(label: NDArray[np.uint8], spacing: Sequence[float], classes: Mapping[str, int]) -> dict[str, float]:
    """Return the volume of each class in millilitres, rounded to a microlitre; the liver includes its lesions."""
    voxel = float(np.prod(spacing)) / 1000
    lesions = [value for name, value in classes.items() if name in _LESIONS]
    parts = {name: [value, *lesions] if name == "liver" else [value] for name, value in classes.items()}
    return {f"{name}_ml": round(int(np.isin(label, values).sum()) * voxel, 3) for name, values in parts.items()}


def write_case_page(
    path: Path,
    case: str,
    scan: Volume,
    label: NDArray[np.uint8],
    volumes: Mapping[str, float],
    provenance: Mapping[str, Any],
) -> None:
    """Write the page of one case.

    Args:
        path: The HTML file.
        case: The case's id, a pseudonym for DICOM.
        scan: Canonical scan, HU.
        label: Label values (z, y, x) on the scan's grid.
        volumes: As from `volumes_ml`.
        provenance: What made the labels.
    """
    rows: list[list[Cell]] = [[name.removesuffix("_ml"), value] for name, value in volumes.items()]
    outlined, note = _OUTLINED, "The liver includes its lesions."
    if [row[0] for row in rows] != ["liver", "lesion"]:
        # Of other structures than a liver and its lesions the page shows where they end, not which is which.
        label = (label > 0).astype(np.uint8)
        outlined, note = "All structures together outlined in green; window -150 to 250 HU.", ""
    blocks: list[Block] = [
        Notice("Research use only", "Not a medical device; not for diagnosis. Labels were drawn by a model."),
        Table(["structure", "volume, ml"], rows, note=note),
        Figure(
            three_planes(scan.array, label, scan.spacing), "Three planes through the largest cross-section", outlined
        ),
        Figure(montage(scan.array, label, scan.spacing), "Axial slices through what was found", "Axial slices"),
    ]
    write_page(path, f"Case {case}", blocks, provenance)
