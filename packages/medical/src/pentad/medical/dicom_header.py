"""One DICOM file's header, read as far as the pixels, and the reasons why a file is no CT image."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    generate_uid,
)

from pentad.core.errors import CaseError

_CT_CLASSES = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGE = ("7", "9.", "11.", "30", "66", "67", "68", "77.1.5.4", "88.", "104.", "481.", "501.")
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
_MODALITIES = set(
    "AR AU BI BMD CR CTPROTOCOL DG DOC DX ECG EPS ES FID GM HC HD IO IVUS IVOCT KER KO LEN LS MG MR M3D NM OAM OCT OP"
    " OPM OPT OPV OT PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SEG SM SMR SR SRF"
    " STAIN TG US VA XA XC".split()
)
_UNITS = set("OD HGL US MGML Z_EFF ED EDW PCT".split())  # defined terms of RescaleType that are no HU
_FARTHEST_MM = 1e6
_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
# What a data set without preamble begins with: group 0002 or 0008, in either byte order.
_FIRST_GROUPS = {b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08"}
_OTHER_KINDS = set(
    ".md .txt .csv .tsv .json .jsonl .xml .html .htm .css .js .pdf .doc .docx .xls .xlsx .ppt .png .jpg .jpeg .gif .bmp"
    " .svg .tif .tiff .nrrd .nhdr .mha .mhd .raw .stl .npy .npz .py .sh .bat .exe .dll .inf .ini .ico .jar .cfg .log"
    " .zip .gz .tar .7z .bak .yaml .yml .toml .sha256 .md5 .dvc".split()
)
_OTHER_NAMES = {
    "sha256sums",
    "md5sums",
    "license",
    "licence",
    "readme",
    "thumbs.db",
    "desktop.ini",
    "lockfile",
    "version",
}
_TAGS = (
    "SpecificCharacterSet SOPClassUID SOPInstanceUID Modality ImageType StudyInstanceUID SeriesInstanceUID PatientID"
    " PatientName FrameOfReferenceUID SeriesNumber SeriesDescription ConvolutionKernel ImagePositionPatient"
    " ImageOrientationPatient PixelSpacing Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation"
    " BitsAllocated BitsStored PixelRepresentation RescaleSlope RescaleIntercept RescaleType"
    " SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence DirectoryRecordSequence"
    " PatientBirthDate OtherPatientIDs AccessionNumber StudyDate InstitutionName ReferringPhysicianName"
).split()
# Dates and UIDs are known by their form, wherever they stand.
_IDENTIFIERS = "PatientName PatientID OtherPatientIDs AccessionNumber InstitutionName ReferringPhysicianName".split()


@dataclass(frozen=True)
class Plane:
    """One slice in space: a single-frame file, or a frame of a multi-frame file.

    Attributes:
        path: The file.
        name: How errors call it: its path relative to the input.
        frame: Frame number from 0.
        position: Centre of the first pixel, LPS mm.
        orientation: Direction in which columns run, then that in which rows run.
        spacing: Distance of rows and of columns, mm.
        shape: Rows and columns.
        slope: HU per stored value.
        intercept: HU of the stored value 0.
        instance: SOP instance UID; never shown.
    """

    path: Path
    name: str
    frame: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    shape: tuple[int, int]
    slope: float
    intercept: float
    instance: str = field(repr=False)


@dataclass(frozen=True)
class Header:
    """What a CT file says of itself.

    Attributes:
        study: Study instance UID; like the other identifiers never shown.
        series: Series instance UID.
        patient: Patient ID, or the name where there is none.
        frame_of_reference: Frame of reference UID.
        number: Series number.
        description: Series description.
        kernel: Convolution kernel.
        image_type: Values of ImageType.
        identifiers: Names and numbers that tell who the patient is, in memory only.
        planes: Its slices.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    patient: str = field(repr=False)
    identifiers: tuple[str, ...] = field(repr=False)
    frame_of_reference: str = field(repr=False)
    number: int
    description: str
    kernel: str
    image_type: tuple[str, ...]
    planes: tuple[Plane, ...]


@contextmanager
def discreet() -> Iterator[None]:
    """Let pydicom read without remarks: they quote the value they complain of, which may name a patient."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), pydicom_config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


class Unusable(CaseError):
    """A file that is no CT slice.

    Attributes:
        study: Its study instance UID, as far as known.
        series: Its series instance UID, as far as known.
        identifiers: As in a `Header`, as far as known.
    """

    study: str = ""
    series: str = ""
    identifiers: tuple[str, ...] = ()


def read_header(path: Path, name: str) -> Header:
    """Return what a CT file says of itself; its pixels are not read.

    Args:
        path: The file.
        name: How errors call it.

    Raises:
        Unusable: It is no CT slice: PTD-320 to 323 for what belongs to a normal study all the same, PTD-330 to 333
            and 344 for what is damaged, of another modality or not measurable.
    """
    with discreet():
        return _read_header(path, name)


def _read_header(path: Path, name: str) -> Header:
    try:
        with path.open("rb") as stream:
            dataset = _parse(stream, path, name)
            behind = path.stat().st_size - stream.tell()
    except OSError as error:
        raise _damaged(f"cannot be read ({error.strerror or type(error).__name__})", name) from None
    study, series = _membership(dataset, path)
    identifiers = _identifiers(dataset)
    try:
        _check_kind(dataset, path, name)
        _check_pixels(dataset, name)
        _check_complete(dataset, path, behind - _element_header(dataset), name)
        return _header(dataset, study, series, path, name)
    except Unusable as reason:
        reason.study, reason.series, reason.identifiers = study, series, identifiers
        raise
    except Exception as error:
        # A damaged header fails anywhere in the parser, and in any way: values are converted when they are asked for.
        unusable = _damaged(f"its header is damaged ({type(error).__name__})", name)
        unusable.study, unusable.series, unusable.identifiers = study, series, identifiers
        raise unusable from None


def _membership(dataset: FileDataset, path: Path) -> tuple[str, str]:
    """Study and series instance UID; where an anonymiser blanked them, ones made of what files of a folder share."""
    shared = [path.parent.name, str(dataset.get("FrameOfReferenceUID") or "")]
    alike = [*shared, *(str(dataset.get(keyword) or "") for keyword in ("SeriesNumber", "SeriesDescription"))]
    study = str(dataset.get("StudyInstanceUID") or "") or str(generate_uid(entropy_srcs=["study", *shared]))
    return study, str(dataset.get("SeriesInstanceUID") or "") or str(generate_uid(entropy_srcs=["series", *alike]))


def _identifiers(dataset: FileDataset) -> tuple[str, ...]:
    try:
        return tuple(str(dataset[keyword].value) for keyword in _IDENTIFIERS if dataset.get(keyword))
    except Exception:  # a damaged header fails in any way, and what cannot be read cannot be known in a file's name
        return ()


def _damaged(problem: str, name: str) -> Unusable:
    return Unusable("PTD-330", problem, "fetch the file again", name)


def _parse(stream: IO[bytes], path: Path, name: str) -> FileDataset:
    start = stream.read(132)
    stream.seek(0)
    if not start and _looks_other(path):
        raise Unusable("PTD-320", "a file of another kind", "nothing to do", name)
    if not start:
        raise _damaged("the file is empty", name)
    # Forced parsing of any file could take its first bytes for the length of a giant element.
    if start[128:] != b"DICM" and start[:2] not in _FIRST_GROUPS:
        if _looks_other(path):
            raise Unusable("PTD-320", "a file of another kind", "nothing to do", name)
        raise Unusable("PTD-330", "it is not a DICOM file", "remove it or fetch it again", name)
    try:
        dataset = dcmread(stream, stop_before_pixels=True, force=start[128:] != b"DICM", specific_tags=list(_TAGS))
        _membership(dataset, path)  # fails on a header whose first values are damaged already
    except InvalidDicomError:
        raise Unusable("PTD-330", "it is not a DICOM file", "remove it or fetch it again", name) from None
    except Exception as error:
        raise _damaged(f"its header is damaged ({type(error).__name__})", name) from None
    return dataset


def _looks_other(path: Path) -> bool:
    return path.name.startswith(".") or path.suffix.lower() in _OTHER_KINDS or path.name.lower() in _OTHER_NAMES


def _check_kind(dataset: FileDataset, path: Path, name: str) -> None:
    """Refuse what is no CT image, and localizers."""
    kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind == MediaStorageDirectoryStorage:
        raise Unusable("PTD-321", _directory(dataset, path), "nothing to do, the images are read themselves", name)
    modality = str(dataset.get("Modality", "") or "")
    if not kind:
        raise _damaged("it does not say what kind of object it is", name)
    if kind.removeprefix(_STORAGE).startswith(_NO_IMAGE):
        known = modality if modality in _MODALITIES else "document or screen capture"
        problem = f"no scan but another kind of object ({known})"
        raise Unusable("PTD-322", problem, "nothing to do", name)
    if kind not in _CT_CLASSES or modality not in ("CT", ""):
        # A modality that nobody knows may be any text, also a name.
        modality = f"{modality} image" if modality in _MODALITIES else "image of another kind"
        raise Unusable("PTD-331", f"{modality}, not CT", "give CT, or a model of that modality", name)
    if _LOCALIZERS & {value.strip().upper() for value in _values(dataset, "ImageType")}:
        raise Unusable("PTD-323", "a localizer", "nothing to do", name)


def _directory(dataset: FileDataset, path: Path) -> str:
    """What a DICOMDIR lists, and how much of it is not here."""
    listed = [record.get("ReferencedFileID") for record in dataset.get("DirectoryRecordSequence", [])]
    parts = [[entry] if isinstance(entry, str) else list(entry) for entry in listed if entry]
    missing = sum(not path.parent.joinpath(*map(str, entry)).is_file() for entry in parts)
    return f"a DICOMDIR; it lists {len(parts)} files, of which {missing} are not here"


def _check_pixels(dataset: FileDataset, name: str) -> None:
    needed = ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")
    absent = [keyword for keyword in needed if dataset.get(keyword) is None]
    if absent:
        raise Unusable("PTD-332", f"it has no {absent[0]}, so no image", "fetch the file again", name)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        raise Unusable("PTD-332", "its pixels are no CT numbers but colours or inverted", "give the original", name)


def _element_header(dataset: FileDataset) -> int:
    return 8 if dataset.original_encoding[0] else 12


def _check_complete(dataset: FileDataset, path: Path, behind: int, name: str) -> None:
    """Refuse a file that ends before its pixel data do; ``behind`` is the number of bytes that could be pixels."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        return
    if behind <= 0:
        raise Unusable("PTD-332", "it has no pixel data", "fetch the file again", name)
    if syntax is not None and syntax.is_compressed:
        # Decoders of JPEG 2000 fill the rest of a cut stream with noise and say nothing.
        content = path.read_bytes()[-behind:]
        if _SEQUENCE_END not in content:
            raise _damaged("it is cut off: the compressed pixel data have no end", name)
        return
    frames = int(dataset.get("NumberOfFrames") or 1)
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8 * frames
    if behind < expected:
        raise _damaged(f"it is cut off: {behind} of {expected} bytes of pixel data", name)


def _header(dataset: FileDataset, study: str, series: str, path: Path, name: str) -> Header:
    return Header(
        study=study,
        series=series,
        patient=str(dataset.get("PatientID") or dataset.get("PatientName") or ""),
        identifiers=_identifiers(dataset),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        number=int(dataset.get("SeriesNumber") or 0),
        description=str(dataset.get("SeriesDescription") or "").strip(),
        kernel="/".join(_values(dataset, "ConvolutionKernel")),
        image_type=_values(dataset, "ImageType"),
        planes=tuple(_planes(dataset, path, name)),
    )


def _values(dataset: Mapping[Any, Any] | FileDataset, keyword: str) -> tuple[str, ...]:
    value = dataset.get(keyword)
    if value is None or isinstance(value, str):
        return (value.strip(),) if value else ()
    return tuple(str(part).strip() for part in value)


def _planes(dataset: FileDataset, path: Path, name: str) -> Iterator[Plane]:
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if not frames and int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Unusable("PTD-333", "a multi-frame image that does not place its frames", "export single frames", name)
    # A frame's own group wins over the shared one; the standard allows one of them only.
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    for number, frame in enumerate(frames or [None]):

        def value(keyword: str, group: str, frame: Any = frame) -> Any:
            if not frames:
                return dataset.get(keyword)
            for groups in (frame, shared):
                items = groups.get(group) if groups is not None else None
                if items and items[0].get(keyword) is not None:
                    return items[0].get(keyword)
            return None

        slope, intercept = _rescaling(dataset, value, name)
        yield Plane(
            path=path,
            name=name,
            frame=number,
            position=_numbers(value("ImagePositionPatient", "PlanePositionSequence"), 3, "position", name),
            orientation=_direction(value("ImageOrientationPatient", "PlaneOrientationSequence"), name),
            spacing=_spacing(value("PixelSpacing", "PixelMeasuresSequence"), name),
            shape=(int(dataset.Rows), int(dataset.Columns)),
            slope=slope,
            intercept=intercept,
            instance=instance_uid(dataset),
        )


def instance_uid(dataset: FileDataset) -> str:
    """Return the SOP instance UID, from the file's preamble where the data set's own was blanked."""
    return str(dataset.get("SOPInstanceUID") or dataset.file_meta.get("MediaStorageSOPInstanceUID") or "")


def _rescaling(dataset: FileDataset, value: Any, name: str) -> tuple[float, float]:
    group = "PixelValueTransformationSequence"
    unit = str(value("RescaleType", group) or "HU").strip().upper()
    if unit not in ("HU", "HU_MOD"):
        told = f"'{unit}'" if unit in _UNITS else "another unit"
        raise Unusable("PTD-332", f"its values are in {told}, not HU: a derived map", "give the original CT", name)
    slope, intercept = value("RescaleSlope", group), value("RescaleIntercept", group)
    if slope is None and intercept is None:
        # Without a rescaling only signed values can be CT numbers: unsigned ones cannot say air.
        if int(dataset.PixelRepresentation) == 1:
            return 1.0, 0.0
        raise Unusable("PTD-344", "no rescaling says what its values are in HU", "give the original CT", name)
    pair = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not all(map(math.isfinite, pair)) or pair[0] <= 0:
        raise Unusable("PTD-344", f"a rescaling of {pair[0]:g} x + {pair[1]:g} gives no HU", "correct it", name)
    return pair


def _numbers(value: Any, count: int, what: str, name: str) -> tuple[float, ...]:
    if value is None or isinstance(value, str) or len(value) != count:
        raise Unusable("PTD-333", f"it does not give its {what} in the patient", "fetch the original image", name)
    numbers = tuple(float(part) for part in value)
    if not all(abs(number) <= _FARTHEST_MM for number in numbers):  # so put, NaN is refused too
        raise Unusable("PTD-333", f"its {what} is not finite or absurdly large", "fetch the original image", name)
    return numbers


def _direction(value: Any, name: str) -> tuple[float, ...]:
    """The two directions, made exactly unit and perpendicular."""
    numbers: NDArray[np.float64] = np.array(_numbers(value, 6, "orientation", name))
    row, column = numbers[:3], numbers[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row @ column) > 0.01:
        raise Unusable("PTD-333", "its two directions are not perpendicular unit vectors", "fetch the original", name)
    # Stored with few digits, the two are not quite perpendicular; an affine made of them would be sheared.
    row = row / lengths[0]
    column = column - (column @ row) * row
    return tuple(float(part) for part in (*row, *(column / np.linalg.norm(column))))


def _spacing(value: Any, name: str) -> tuple[float, ...]:
    numbers = _numbers(value, 2, "pixel spacing", name)
    if not all(0.05 <= size <= 25 for size in numbers):
        problem = f"a pixel spacing of {numbers[0]:g} x {numbers[1]:g} mm is not between 0.05 and 25"
        raise Unusable("PTD-333", problem, "fetch the original image", name)
    return numbers
