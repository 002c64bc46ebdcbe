"""CT series found in any tree of files, and read as volumes in Hounsfield units.

Every file ends up in a usable series or in one rejection, with a reason.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pentad.core.cases import Rejection
from pentad.core.errors import CaseError
from pentad.core.files import digest_file, is_results
from pentad.medical.dicom_geometry import stack
from pentad.medical.dicom_header import Header, Plane, Unusable, read_header
from pentad.medical.dicom_pixels import read_pixels, to_hounsfield
from pentad.medical.volumes import Volume

log = logging.getLogger(__name__)

_LOST = {"PTD-330", "PTD-332", "PTD-333", "PTD-344"}  # a slice refused so leaves a hole, also at the end of a stack


class FileRejection(Rejection):
    """A rejection of files of one study.

    Attributes:
        study: Study instance UID where known, in memory only: never written.
    """

    study: str = Field(default="", exclude=True, repr=False)

    @classmethod
    def of(cls, names: Sequence[str], code: str, reason: str, study: str = "") -> FileRejection:
        """Return the rejection of some files, named by the first."""
        ordered = sorted(names)
        where = ordered[0] if len(ordered) == 1 else f"{ordered[0]} and {len(ordered) - 1} more"
        return cls(where=where, code=code, reason=reason, files=tuple(ordered), study=study)


@dataclass(frozen=True)
class Series:
    """A CT series whose slices make one regular volume. Identifiers do not appear in its printed form.

    Attributes:
        study_uid: Study instance UID.
        series_uid: Series instance UID.
        patient: Patient ID.
        frame_of_reference: Frame of reference UID.
        name: How errors call it: the first file, relative to the input.
        number: Series number.
        description: Series description.
        kernel: Convolution kernel.
        image_type: Values of ImageType.
        planes: Slices along the normal.
        affine: Voxel index (x, y, z, 1) to LPS mm.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    patient: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    name: str
    number: int
    description: str
    kernel: str
    image_type: tuple[str, ...]
    planes: tuple[Plane, ...] = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, each once, in slice order."""
        return tuple(dict.fromkeys(plane.path for plane in self.planes))

    @property
    def names(self) -> tuple[str, ...]:
        """The files relative to the input, in slice order."""
        return tuple(dict.fromkeys(plane.name for plane in self.planes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return (len(self.planes), *self.planes[0].shape)

    @property
    def grid(self) -> Volume:
        """The series' grid, with an array of zeros that takes no memory."""
        return Volume(np.broadcast_to(np.uint8(0), self.shape), self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of slices, rows and columns in mm."""
        return self.grid.spacing

    @property
    def orientation(self) -> str:
        """``axial``, ``coronal`` or ``sagittal`` within 25 degrees, else ``oblique``."""
        normal = np.abs(self.affine[:3, 2]) / np.linalg.norm(self.affine[:3, 2])
        nearest = int(np.argmax(normal))
        return ("sagittal", "coronal", "axial")[nearest] if normal[nearest] > np.cos(np.radians(25)) else "oblique"


def walk(root: Path) -> tuple[dict[Path, str], list[Rejection]]:
    """Return all files below ``root`` with their names relative to it, and folders that cannot be read."""
    if not root.is_dir():
        return {root: root.name}, []
    files: dict[Path, str] = {}
    rejections: list[Rejection] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        where = os.path.relpath(error.filename, root)
        reason = f"the folder cannot be read ({error.strerror}); check its permissions."
        rejections.append(FileRejection(where=where, code="PTD-330", reason=reason, files=(where,)))

    # Links to folders are followed, as data sets are often farms of links; a loop of links is entered once.
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        subfolders.sort()
        place = os.path.realpath(folder)
        if place in seen:
            subfolders.clear()
            continue
        seen.add(place)
        if Path(folder) != root and is_results(Path(folder)):
            subfolders.clear()
            where = Path(folder).relative_to(root).as_posix()
            reason = "a folder with the results of a run; nothing to do."
            rejections.append(FileRejection(where=where, code="PTD-320", reason=reason, files=(where,)))
            continue
        for name in sorted(names):
            path = Path(folder, name)
            files[path] = path.relative_to(root).as_posix()
    return files, rejections


def index_files(files: Mapping[Path, str], identifiers: set[str] | None = None) -> tuple[list[Series], list[Rejection]]:
    """Return the usable CT series among the given files, and a rejection for all else.

    Args:
        files: Path to the name that errors call it.
        identifiers: Takes up every patient's names and numbers, where a caller must keep them from what it writes.
    """
    headers: dict[tuple[str, str], list[Header]] = {}
    patients: dict[str, set[str]] = {}
    refused: dict[tuple[str, str, str, str], list[str]] = {}
    lost: dict[tuple[str, str], list[str]] = {}
    known = set() if identifiers is None else identifiers
    for path, name in files.items():
        try:
            if not path.is_file():
                raise Unusable("PTD-330", "no file can be read here", "check the link or remove it", name)
            header = read_header(path, name)
        except Unusable as error:
            place = error.series or str(Path(name).parent)
            key = (error.study, place, error.code, f"{error.problem}; {error.remedy}.")
            refused.setdefault(key, []).append(name)
            known.update(error.identifiers)
            if error.code in _LOST:
                lost.setdefault((error.study, error.series), []).append(name)
            continue
        # Both UIDs: careless anonymisers give the series of two studies one UID.
        headers.setdefault((header.study, header.series), []).append(header)
        patients.setdefault(header.study, set()).add(header.patient)
        known.update(header.identifiers)
    rejections: list[Rejection] = [
        FileRejection.of(names, key[2], key[3], study=key[0]) for key, names in refused.items()
    ]
    usable = []
    for (study, uid), members in headers.items():
        members, copies = _without_copies(members)
        rejections += copies
        names = [header.planes[0].name for header in members]
        try:
            if len(patients[study]) > 1:
                problem = f"its study carries {len(patients[study])} patient IDs under one study UID"
                raise CaseError("PTD-342", problem, "separate the patients", names[0])
            if missing := lost.get((study, uid)):
                problem = f"{len(missing)} of its slices cannot be used, each for its own reason"
                raise CaseError("PTD-336", problem, "fetch the complete series", names[0])
            usable.append(_series(members))
        except CaseError as error:
            reason = f"{error.problem}; {error.remedy}."
            rejections.append(FileRejection.of(names, error.code, reason, study=study))
    usable.sort(key=lambda series: series.name)
    return usable, sorted(rejections, key=lambda item: item.where)


def _without_copies(members: Sequence[Header]) -> tuple[list[Header], list[Rejection]]:
    """Drop files that are the same, byte for byte, as one already there; other files of one instance UID stay."""
    kept: list[Header] = []
    copies: list[str] = []
    known: dict[str, list[Header]] = {}
    for header in members:
        # Contents are only read where an instance UID comes twice, which is rare.
        same = known.setdefault(header.planes[0].instance, [])
        if any(_same_content(header.planes[0].path, other.planes[0].path) for other in same):
            copies.append(header.planes[0].name)
        else:
            kept.append(header)
            same.append(header)
    reason = "the same file is here twice; nothing to do."
    return kept, [FileRejection.of(copies, "PTD-324", reason)] if copies else []


def _same_content(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and digest_file(one) == digest_file(other)


def _series(members: Sequence[Header]) -> Series:
    planes = [plane for header in members for plane in header.planes]
    name = min(plane.name for plane in planes)
    ordered = stack(planes, name)
    first = members[0]
    return Series(
        study_uid=first.study,
        series_uid=first.series,
        patient=first.patient,
        frame_of_reference=first.frame_of_reference,
        name=name,
        number=first.number,
        description=first.description,
        kernel=first.kernel,
        image_type=first.image_type,
        planes=tuple(planes[index] for index in ordered.order),
        affine=ordered.affine,
    )


def read_series(series: Series) -> Volume:
    """Return a series as a volume in HU, float32, slices along the normal.

    Raises:
        CaseError: A file cannot be read or decoded (PTD-343).
    """
    # Filled slice by slice: at no time is there a second copy of the whole series.
    array = np.empty(series.shape, dtype=np.float32)
    for path, places in _by_file(series.planes):
        name = series.planes[places[0]].name
        stored, padding = read_pixels(path, name)
        for place in places:
            plane = series.planes[place]
            if plane.frame >= len(stored) or stored.shape[1:] != plane.shape:
                raise CaseError("PTD-343", "its pixels changed since it was indexed", "run again", name)
            outside = None if padding is None else padding[plane.frame]
            array[place] = to_hounsfield(stored[plane.frame], outside, plane.slope, plane.intercept)
    return Volume(array, series.affine)


def _by_file(planes: Sequence[Plane]) -> Iterable[tuple[Path, list[int]]]:
    """Every file with the places of its planes, so that a multi-frame file is decoded once."""
    places: dict[Path, list[int]] = {}
    for place, plane in enumerate(planes):
        places.setdefault(plane.path, []).append(place)
    return places.items()
