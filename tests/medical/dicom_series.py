"""Small CT series written slice by slice, with every field that tests want to break."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from pentad.core.cases import Rejection
from pentad.medical.dicom import Series, index_files, walk


def index_folder(root: Path) -> tuple[list[Series], list[Rejection]]:
    """Return the usable CT series below a folder or in a file, and a rejection for all else, by place."""
    files, rejections = walk(root)
    series, more = index_files(files)
    return series, sorted([*rejections, *more], key=lambda item: item.where)


def uid(*parts: object) -> str:
    """Return the same UID for the same parts."""
    return generate_uid(entropy_srcs=["tests", *map(str, parts)])


@dataclass(frozen=True)
class Scan:
    """A CT whose value at LPS place (x, y, z) mm is known: x + 3 y + 7 z, rounded, plus the offset.

    Attributes:
        shape: Slices, rows, columns.
        row: Direction in which columns run.
        column: Direction in which rows run.
        spacing: Distance of slices, rows and columns, mm.
        origin: Place of the first pixel of the first slice.
        study: Names the study.
        series: Names the series.
        patient: Patient ID.
        slope: Rescale slope.
        intercept: Rescale intercept.
        attributes: Further attributes, or others; None leaves one out.
    """

    shape: tuple[int, int, int] = (12, 10, 8)
    row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    spacing: tuple[float, float, float] = (3.0, 2.0, 1.0)
    origin: tuple[float, float, float] = (-20.0, 10.0, -100.0)
    study: str = "study"
    series: str = "series"
    patient: str = "patient-1"
    slope: float = 1.0
    intercept: float = -1024.0
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.column)

    def position(self, index: int) -> np.ndarray:
        return np.array(self.origin) + index * self.spacing[0] * self.normal

    def hu(self, index: int) -> np.ndarray:
        """Values of one slice (rows, columns)."""
        rows, columns = np.meshgrid(*(np.arange(size) for size in self.shape[1:]), indexing="ij")
        place = (
            self.position(index)
            + columns[..., None] * self.spacing[2] * np.array(self.row)
            + rows[..., None] * self.spacing[1] * np.array(self.column)
        )
        return np.rint(value_at(place))

    def but(self, **attributes: Any) -> Scan:
        """Return the scan with other attributes."""
        return replace(self, attributes={**self.attributes, **attributes})


def value_at(place: np.ndarray) -> np.ndarray:
    """HU at places (…, 3) in LPS mm."""
    return place @ np.array([1.0, 3.0, 7.0])


def dataset(scan: Scan, index: int, number: int) -> Dataset:
    """Return one slice as a data set that can be saved."""
    image = Dataset()
    instance = uid(scan.study, scan.series, index)
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = instance
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": instance,
        "StudyInstanceUID": uid(scan.study),
        "SeriesInstanceUID": uid(scan.study, scan.series),
        "FrameOfReferenceUID": uid(scan.study, "frame"),
        "PatientID": scan.patient,
        "PatientName": "Secret^Name",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyID": "1",
        "StudyDate": "20200102",
        "StudyTime": "030405",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Manufacturer": "tests",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SeriesNumber": 2,
        "SeriesDescription": "Portal venous",
        "ConvolutionKernel": "B30f",
        "InstanceNumber": number,
        "SliceThickness": 9.0,
        "ImagePositionPatient": [float(f"{part:.6f}") for part in scan.position(index)],
        "ImageOrientationPatient": [float(f"{part:.8f}") for part in (*scan.row, *scan.column)],
        "PixelSpacing": [scan.spacing[1], scan.spacing[2]],
        "Rows": scan.shape[1],
        "Columns": scan.shape[2],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": scan.slope,
        "RescaleIntercept": scan.intercept,
        "RescaleType": "HU",
        "PixelData": np.rint((scan.hu(index) - scan.intercept) / scan.slope).astype("<i2").tobytes(),
    }
    for name, value in {**values, **scan.attributes}.items():
        if value is not None:
            setattr(image, name, value)
    return image


def write_series(
    folder: Path,
    scan: Scan = Scan(),
    *,
    indices: list[int] | None = None,
    syntax: UID | None = None,
) -> list[Path]:
    """Write the slices under shuffled names and numbers, so that only positions tell their order."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(range(scan.shape[0])) if indices is None else indices
    numbers = np.random.default_rng(5).permutation(len(chosen))
    paths = []
    for number, index in zip(numbers, chosen, strict=True):
        image = dataset(scan, index, int(number) + 1)
        if syntax:
            image.compress(syntax, generate_instance_uid=False)
        path = folder / f"{scan.series}-{number:03d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_multiframe(path: Path, scan: Scan = Scan()) -> Path:
    """Write the scan as one enhanced CT object, frames in shuffled order."""
    image = dataset(scan, 0, 1)
    order = [int(index) for index in np.random.default_rng(6).permutation(scan.shape[0])]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        del image[keyword]
    del image["RescaleIntercept"], image["RescaleType"]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    image.NumberOfFrames = len(order)
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [scan.spacing[1], scan.spacing[2]]
    measures.SliceThickness = 9.0
    orientation.ImageOrientationPatient = [*scan.row, *scan.column]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = scan.slope, scan.intercept, "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [float(part) for part in scan.position(index)]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    stored = [np.rint((scan.hu(index) - scan.intercept) / scan.slope).astype("<i2") for index in order]
    image.PixelData = np.stack(stored).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path
