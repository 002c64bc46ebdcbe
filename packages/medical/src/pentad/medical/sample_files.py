"""Store synthetic CT as DICOM and its labels as NIfTI, byte for byte the same with every run and machine."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from pentad.medical.shapes import Point

IMPLEMENTATION_CLASS = UID("2.25.236203512861907318404221734285412209718")
IMPLEMENTATION_NAME = "PENTAD_1"
_UIDS = uuid.UUID("9c0f3d3e-6f0a-5b0e-8a57-6c6b5a1d2e11")
_Voxel = TypeVar("_Voxel", bound=np.generic)
_COMMON: dict[str, object] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "SOPClassUID": CTImageStorage,
    "AccessionNumber": "",
    "Modality": "CT",
    "Manufacturer": "pentad",
    "ManufacturerModelName": "procedural phantom",
    "DeviceSerialNumber": "1",
    "SoftwareVersions": "1",
    "ReferringPhysicianName": "",
    "StudyDescription": "Synthetic abdomen",
    "PatientBirthDate": "",
    "PatientComments": "Generated, not a person",
    "BodyPartExamined": "ABDOMEN",
    "ContrastBolusAgent": "Synthetic, portal venous",
    "KVP": "120",
    "XRayTubeCurrent": "200",
    "ExposureTime": "500",
    "PositionReferenceIndicator": "",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 1,
    "BurnedInAnnotation": "NO",
    "RescaleType": "HU",
}


@dataclass(frozen=True)
class Study:
    """What all images of a study say about it.

    Args:
        case: Study id, from which the UIDs follow.
        number: Ordinal number of the study and its imaginary patient.
        position: PatientPosition.
    """

    case: str
    number: int
    position: str


@dataclass(frozen=True)
class Series:
    """Pixels of one series with their place in space.

    Args:
        name: Distinguishes the series within the study.
        number: SeriesNumber; 1 for localizers.
        attributes: Further attributes, the same in every image.
        stored: Stored values (slice, row, column).
        positions: ImagePositionPatient of every slice.
        orientation: ImageOrientationPatient.
        spacing: Distance of rows and of columns, mm.
        rescale: RescaleSlope and RescaleIntercept.
        image_type: ImageType.
    """

    name: str
    number: int
    attributes: Mapping[str, object]
    stored: NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int16))
    positions: tuple[Point, ...] = ()
    orientation: tuple[int, ...] = (1, 0, 0, 0, 1, 0)
    spacing: tuple[float, float] = (1.0, 1.0)
    rescale: tuple[float, float] = (1.0, 0.0)
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")


@dataclass(frozen=True)
class Grid:
    """How an array that ascends towards head, back and left becomes the stored one.

    Args:
        flips: 1, or -1 where the stored axis runs the other way (slices, rows, columns).
        steps: Distance of slices, rows, columns, mm.
    """

    flips: tuple[int, int, int]
    steps: tuple[float, float, float]

    def turn(self, volume: NDArray[_Voxel]) -> NDArray[_Voxel]:
        """Return the array in stored order; slices ascend along the slice normal."""
        return np.ascontiguousarray(volume[:: self.flips[0], :: self.flips[1], :: self.flips[2]])

    def first(self, shape: tuple[int, ...], origin: Point) -> Point:
        """Return the place (x, y, z) of the first stored voxel, mm."""
        ends = [
            (count - 1) * step if flip < 0 else 0.0
            for count, step, flip in zip(shape, self.steps, self.flips, strict=True)
        ]
        return (origin[0] + ends[2], origin[1] + ends[1], origin[2] + ends[0])


def write_images(folder: Path, study: Study, series: Sequence[Series]) -> None:
    """Write all series of a study into ``folder``, files numbered through in the order of series and instances."""
    folder.mkdir(parents=True)
    file = 0
    for item in series:
        image = _header(study, item)
        for instance, place in enumerate(item.positions):
            file += 1
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = _uid(
                study.case, item.name, str(instance)
            )
            image.InstanceNumber = instance + 1 if len(item.positions) > 1 else file
            image.ImagePositionPatient = [f"{value:.10g}" for value in place]
            image.SliceLocation = f"{place[2]:.10g}"
            image.PixelData = item.stored[instance].astype("<i2").tobytes()
            image.save_as(folder / f"IM{file:04d}.dcm", enforce_file_format=True)


def _header(study: Study, series: Series) -> Dataset:
    """Return the attributes that all images of a series share."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.FileMetaInformationVersion = b"\0\1"
    image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS
    image.file_meta.ImplementationVersionName = IMPLEMENTATION_NAME
    for event in ("Study", "Series", "Acquisition", "Content"):
        setattr(image, f"{event}Date", "20200101")  # no clock: the same bytes on every day
        setattr(image, f"{event}Time", "120000")
    values: dict[str, object] = _COMMON | {
        "StudyInstanceUID": _uid(study.case),
        "SeriesInstanceUID": _uid(study.case, "localizer" if series.number == 1 else series.name),
        "FrameOfReferenceUID": _uid(study.case, "frame"),
        "PatientName": f"Synthetic^{study.number:03d}",
        "PatientID": f"SYNTHETIC-{study.number:03d}",
        "PatientSex": "FM"[study.number % 2],
        "PatientPosition": study.position,
        "StudyID": f"{study.number:03d}",
        "SeriesNumber": series.number,
        "AcquisitionNumber": 1,
        "ImageType": list(series.image_type),
        "ImageOrientationPatient": [str(value) for value in series.orientation],
        "PixelSpacing": [f"{value:.10g}" for value in series.spacing],
        "Rows": series.stored.shape[1],
        "Columns": series.stored.shape[2],
        "RescaleSlope": f"{series.rescale[0]:g}",
        "RescaleIntercept": f"{series.rescale[1]:g}",
        "WindowCenter": "60" if series.number > 1 else "-200",
        "WindowWidth": "400" if series.number > 1 else "1200",
    }
    for keyword, value in values.items():
        setattr(image, keyword, value)
    for keyword, given in series.attributes.items():
        setattr(image, keyword, f"{given:.10g}" if isinstance(given, float) else given)
    return image


def _uid(*names: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_UIDS, '/'.join(names)).int}")


def nifti_label(label: NDArray[np.uint8], first: Point, grid: Grid) -> bytes:
    """Return a NIfTI-1 file of ``label`` (slice, row, column) whose voxels lie where the DICOM pixels do.

    DICOM counts towards left and back, NIfTI towards right and front: the first two world axes change sign.
    """
    slices, rows, columns = label.shape
    depth, height, width = grid.steps
    signs = (-grid.flips[2], -grid.flips[1], grid.flips[0])
    place = (-first[0], -first[1], first[2])
    turned = {(1, 1, 1): (0, 0, 0), (1, -1, -1): (1, 0, 0), (-1, 1, -1): (0, 1, 0), (-1, -1, 1): (0, 0, 1)}[signs]
    rows_of_affine = (
        signs[0] * width,
        0,
        0,
        place[0],
        0,
        signs[1] * height,
        0,
        place[1],
        0,
        0,
        signs[2] * depth,
        place[2],
    )
    header = struct.pack("<i35xB", 348, 0)
    header += struct.pack("<8h3f4h", 3, columns, rows, slices, 1, 1, 1, 1, 0, 0, 0, 0, 2, 8, 0)
    header += struct.pack("<8f3f", 1, width, height, depth, 0, 0, 0, 0, 352, 1, 0)
    header += struct.pack("<hBB4f2i", 0, 0, 2, 2, 0, 0, 0, 0, 0)  # millimetres, shown from 0 to 2
    header += struct.pack("<80s24s2h", b"pentad synthetic labels", b"", 1, 1)
    header += struct.pack("<3f3f12f16s4s", *turned, *place, *rows_of_affine, b"", b"n+1")
    return header + bytes(4) + label.tobytes()
