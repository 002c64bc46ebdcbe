"""Label maps as DICOM SEG objects beside the images they were made from, read back to prove the geometry.

BINARY frames, a segment for the organ and one for each lesion, SNOMED CT codes. The same input, model and configuration
give the same UIDs and the same bytes, so that sending a result twice makes no duplicate in an archive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from pentad.core.errors import CaseError
from pentad.core.files import atomic
from pentad.medical.dicom import Series
from pentad.medical.dicom_header import discreet, instance_uid
from pentad.medical.findings import Finding

_hd: Any = highdicom  # carries no types

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Altered Structure")
LIVER = Code("10200004", "SCT", "Liver")
MASS = Code("4147007", "SCT", "Mass")
_ALGORITHM_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
_SERIES_NUMBER = 9000
_PATIENT_AND_STUDY = (
    "PatientID PatientName PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber"
    " ReferringPhysicianName"
).split()
LIMIT = 64
"""Characters of a DICOM long string."""

RESEARCH = "research use only"


@dataclass(frozen=True)
class Segment:
    """What a label value means.

    Attributes:
        value: Value in the label map.
        name: Name shown by viewers, at most 64 characters.
        category: Segmented property category.
        kind: Segmented property type.
        rgb: Recommended colour, 0 to 255.
        region: Anatomic region, where the type itself is not one.
    """

    value: int
    name: str
    category: Code
    kind: Code
    rgb: tuple[int, int, int]
    region: Code | None = None


LIVER_SEGMENTS = (
    Segment(1, "Liver without lesions", ANATOMY, LIVER, (42, 157, 143)),
    Segment(2, "Liver lesion", ABNORMALITY, MASS, (230, 57, 70), LIVER),
)
"""The classes of the liver models; the liver's segment leaves out its lesions, as the label map does."""

_KNOWN = {
    "liver": LIVER_SEGMENTS[0],
    "lesion": LIVER_SEGMENTS[1],
    "tumor": LIVER_SEGMENTS[1],
    "tumour": LIVER_SEGMENTS[1],
}


@dataclass(frozen=True)
class Algorithm:
    """What made the label map.

    Attributes:
        name: Name of the model.
        version: Its version.
        model: Digest of its weights, hexadecimal.
        config: Digest of the configuration, hexadecimal.
        input: Digest of the images' files, hexadecimal.
    """

    name: str
    version: str
    model: str
    config: str
    input: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """What DICOM objects state of it beside name and version."""
        stated = {"model": self.model, "config": self.config, "input": self.input, "use": RESEARCH}
        return {name: value for name, value in stated.items() if value}


def segments_for(classes: Mapping[str, int]) -> tuple[Segment, ...]:
    """Return a segment for every class of a bundle, by its name.

    Raises:
        CaseError: No code is known for a class (PTD-365).
    """
    found = []
    for name, value in sorted(classes.items(), key=lambda item: item[1]):
        if name.lower() not in _KNOWN:
            problem = f"no SNOMED CT code is known for the class '{name}'"
            raise CaseError("PTD-365", problem, "write NIfTI instead, or add the code to pentad.medical.seg")
        known = _KNOWN[name.lower()]
        found.append(Segment(value, known.name, known.category, known.kind, known.rgb, known.region))
    return tuple(found)


def segments_of(findings: Sequence[Finding], classes: Mapping[str, int]) -> tuple[Segment, ...]:
    """Return a segment for every finding, in their order; where nothing was found, one for every class.

    Raises:
        CaseError: No code is known for a class (PTD-365).
    """
    by_value = {segment.value: segment for segment in segments_for(classes)}
    if not findings:
        return tuple(by_value.values())
    made = []
    for item in findings:
        known = by_value[item.value]
        name = f"{known.name}{item.name.removeprefix(item.kind)}"
        made.append(replace(known, name=name[:LIMIT]))
    return tuple(made)


def write_seg(
    path: Path,
    label: NDArray[np.uint8],
    series: Series,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    numbers: NDArray[np.uint8] | None = None,
) -> None:
    """Write a label map as DICOM SEG, whole or not at all, after reading it back voxel for voxel.

    Frames without a voxel are left out, unless the whole map is empty: an object without frames is not allowed.

    Args:
        path: The file.
        label: Label values (slice, row, column) on the series' grid.
        series: The images.
        segments: What they mean, in the order of segment numbers.
        algorithm: What made it; name, version and digests are written, and decide the UIDs.
        numbers: Segment number of every voxel, 0 for none, where several segments share a value; by default each
            value is one segment.

    Raises:
        CaseError: The label has another shape (PTD-356), a value without a segment (PTD-355), or does not come back as
            it was written (PTD-366), or the images' headers make no SEG (PTD-369).
    """
    if label.shape != series.shape:
        problem = f"a label of {label.shape} voxels for a series of {series.shape}"
        raise CaseError("PTD-356", problem, "predict on the series' own grid", series.name)
    unknown = sorted(set(np.unique(label).tolist()) - {0, *(segment.value for segment in segments)})
    if unknown:
        raise CaseError("PTD-355", f"the label value {unknown[0]} has no segment", "name all classes", series.name)
    try:
        if numbers is None:
            numbers = _numbers(label, segments)
        dataset = _dataset(numbers, series, segments, algorithm)
    except Exception as error:
        # Source headers are copied into the object, and each of their oddities fails in its own way.
        problem = f"its headers make no DICOM SEG ({type(error).__name__})"
        raise CaseError("PTD-369", problem, "ask for NIfTI only", series.name) from None
    with atomic(path) as temporary:
        with discreet():
            dataset.save_as(temporary)
        back = read_back(temporary, series, segments)
        if not np.array_equal(back, label):
            problem = f"{int((back != label).sum())} voxels differ after reading the segmentation back"
            raise CaseError("PTD-366", problem, "report this as a defect", series.name)


def _numbers(label: NDArray[np.uint8], segments: Sequence[Segment]) -> NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for number, segment in enumerate(segments, 1):
        table[segment.value] = number
    return table[label]


def _dataset(numbers: NDArray[np.uint8], series: Series, segments: Sequence[Segment], algorithm: Algorithm) -> Dataset:
    with discreet():
        sources, frames = read_sources(series)
    uid = Uids(series, algorithm)
    with discreet():
        seg = _hd.seg.Segmentation(
            source_images=sources,
            # A map of segment numbers: a mask for each of a hundred lesions would not fit the memory.
            pixel_array=numbers[frames],
            segmentation_type=_hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(n, s, algorithm, uid) for n, s in enumerate(segments, 1)],
            series_instance_uid=uid("series"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=uid("instance"),
            instance_number=1,
            manufacturer="pentad",
            manufacturer_model_name=algorithm.name[:LIMIT],
            software_versions=(algorithm.version[:LIMIT], f"model {algorithm.model[:16]}"),
            device_serial_number=algorithm.model[:16] or "0",
            content_description=f"{RESEARCH}, unverified: {algorithm.name} {algorithm.version}"[:LIMIT],
            content_label="SEGMENTATION",
            series_description=f"{RESEARCH}: {algorithm.name} {algorithm.version}"[:LIMIT],
            omit_empty_frames=bool(numbers.any()),
        )
    _say_in_every_frame(seg)
    seg.ContentCreatorName = None  # required, though nobody's: highdicom leaves it out
    return without_clock(seg, sources[0], uid)


class Uids:
    """UIDs that follow from input, model and configuration."""

    def __init__(self, series: Series, algorithm: Algorithm) -> None:
        instances = dict.fromkeys(plane.instance for plane in series.planes)
        self.entropy = [*instances, *asdict(algorithm).values()]

    def __call__(self, part: str) -> str:
        """Return the UID of a part."""
        return str(generate_uid(entropy_srcs=[part, *self.entropy]))


def _description(number: int, segment: Segment, algorithm: Algorithm, uid: Uids) -> Any:
    identification = _hd.AlgorithmIdentificationSequence(
        name=algorithm.name[:LIMIT],
        family=_ALGORITHM_FAMILY,
        version=algorithm.version[:LIMIT],
        parameters=algorithm.parameters,
    )
    return _hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:LIMIT],
        segmented_property_category=segment.category,
        segmented_property_type=segment.kind,
        algorithm_type=_hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        tracking_uid=uid(f"tracking {number}"),
        tracking_id=segment.name[:LIMIT],
        anatomic_regions=[segment.region] if segment.region else None,
        display_color=CIELabColor.from_rgb(*segment.rgb),
    )


def read_sources(series: Series) -> tuple[list[Dataset], list[int]]:
    """Headers of the source images, and for each source frame its slice of the series."""
    sources = [_source(path, series) for path in series.files]
    places = {(plane.path, plane.frame): place for place, plane in enumerate(series.planes)}
    frames = [
        places[path, frame]
        for path, source in zip(series.files, sources, strict=True)
        for frame in range(int(source.get("NumberOfFrames") or 1))
    ]
    return sources, frames


def _source(path: Path, series: Series) -> Dataset:
    """A source image's header, with what an anonymiser blanked filled in."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    dataset.SOPClassUID = dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = instance_uid(dataset)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = series.study_uid, series.series_uid
    if not dataset.get("FrameOfReferenceUID") and "NumberOfFrames" not in dataset:
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", series.series_uid])
    for keyword in _PATIENT_AND_STUDY:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    # Hospitals write the word of their own language; the object must not carry it on, nor fail for it.
    if dataset.PatientSex not in ("M", "F", "O"):
        dataset.PatientSex = None
    return dataset


def _say_in_every_frame(seg: Any) -> None:
    """Let each frame name its segment and place, also where all share them: most readers look nowhere else."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    for keyword in ("SegmentIdentificationSequence", "PlanePositionSequence", "DerivationImageSequence"):
        if keyword in shared:
            for group in seg.PerFrameFunctionalGroupsSequence:
                setattr(group, keyword, getattr(shared, keyword))
            delattr(shared, keyword)


def without_clock(seg: Any, source: Dataset, uid: Uids) -> Dataset:
    """The object with the source's dates in place of the clock's, and derived UIDs in place of random ones."""
    # The clock would make every resend another object; the images' own dates are the same each time.
    date = source.get("ContentDate") or source.get("AcquisitionDate") or source.get("StudyDate") or "19000101"
    time = source.get("ContentTime") or source.get("AcquisitionTime") or source.get("StudyTime") or "000000"
    for name in ("Content", "Series", "InstanceCreation"):
        for kind, value in (("Date", date), ("Time", time)):
            if f"{name}{kind}" in seg:
                setattr(seg, f"{name}{kind}", value)
    for item in seg.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = f"{date}{time}"
    organization = uid("dimensions")
    for item in seg.get("DimensionOrganizationSequence", []):
        item.DimensionOrganizationUID = organization
    for item in seg.get("DimensionIndexSequence", []):
        item.DimensionOrganizationUID = organization
    dataset: Dataset = seg
    return dataset


def read_back(path: Path, series: Series, segments: Sequence[Segment] = LIVER_SEGMENTS) -> NDArray[np.uint8]:
    """Return the label map (slice, row, column) that a SEG object holds for a series.

    Every frame is placed by the image it refers to and its position is checked against that image's.

    Args:
        path: The SEG file.
        series: The images it was made from.
        segments: Value of every segment, in the order of segment numbers.

    Raises:
        CaseError: It is no segmentation of this series (PTD-367), or two segments overlap (PTD-368).
    """
    try:
        with discreet():
            seg = pydicom.dcmread(path)
        frames = seg.pixel_array.reshape(-1, int(seg.Rows), int(seg.Columns))
        groups = list(seg.PerFrameFunctionalGroupsSequence)
        numbers = {number: segment.value for number, segment in enumerate(segments, 1)}
        values = [numbers[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] for group in groups]
        places = [_place(group, series) for group in groups]
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        problem = f"it is no segmentation of this series ({type(error).__name__})"
        raise CaseError("PTD-367", problem, "give the series it was made from", path.name) from None
    label = np.zeros(series.shape, dtype=np.uint8)
    for frame, value, place in zip(frames, values, places, strict=True):
        inside = frame > 0
        # Label maps give one class a voxel; an overlap means that the object is not ours.
        if label[place][inside].any():
            raise CaseError("PTD-368", "two of its segments share voxels", "read them one by one", path.name)
        label[place][inside] = value
    return label


def _place(group: Dataset, series: Series) -> int:
    """The slice a frame belongs to, by its source image where it names one; KeyError if it lies elsewhere."""
    position = np.array([float(part) for part in group.PlanePositionSequence[0].ImagePositionPatient])
    apart = np.linalg.norm(np.array([plane.position for plane in series.planes]) - position, axis=1)
    place = int(np.argmin(apart))
    if apart[place] > 1e-2:
        raise KeyError("position")
    for derivation in group.get("DerivationImageSequence", []):
        for source in derivation.get("SourceImageSequence", []):
            if source.ReferencedSOPInstanceUID != series.planes[place].instance:
                raise KeyError("source")
    return place
