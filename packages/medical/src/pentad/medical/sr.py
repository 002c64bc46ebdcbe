"""Measurements as a DICOM structured report (TID 1500) beside the SEG it measures, read back before it counts.

One summary group (TID 1501) with the organ's whole volume, the number of lesions and the flags; one volumetric group
(TID 1411) for each finding, tied to its segment by segment number, tracking UID and tracking identifier. Unverified,
and never final: a person has seen nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from pentad.core.errors import CaseError
from pentad.core.files import atomic
from pentad.medical.dicom import Series
from pentad.medical.dicom_header import discreet
from pentad.medical.findings import Finding, count_lesions
from pentad.medical.seg import LIMIT, RESEARCH, Algorithm, Segment, Uids, read_sources, without_clock

_hd: Any = highdicom  # carries no types
_codes: Any = codes

_SERIES_NUMBER = 9001
_SCHEME = "99PENTAD"  # private codes begin with 99 (PS3.16, 8.2)
_ML = Code("ml", "UCUM", "milliliter")
_MM = Code("mm", "UCUM", "millimeter")
_HU = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
_ONE = Code("1", "UCUM", "no units")
_VOLUME = Code("118565006", "SCT", "Volume")
_LONG_AXIS = Code("103339001", "SCT", "Long Axis")
_LESIONS = Code("246206008", "SCT", "Number of lesions")
_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_MEAN = Code("373098007", "SCT", "Mean")
_SPREAD = Code("386136009", "SCT", "Standard Deviation")
_QUALITY = Code("quality", _SCHEME, "Quality flag")
_CT = Code("77477000", "SCT", "Computed tomography")


@dataclass(frozen=True)
class Measurements:
    """What a report states.

    Attributes:
        findings: Findings in the order of their segments.
        volumes: Name of a structure to its volume in ml; an organ's includes its lesions.
        flags: Code to a short text of every quality flag.
    """

    findings: Sequence[Finding]
    volumes: Mapping[str, float]
    flags: Mapping[str, str]


def write_sr(
    path: Path,
    seg_path: Path,
    series: Series,
    segments: Sequence[Segment],
    measurements: Measurements,
    algorithm: Algorithm,
) -> None:
    """Write a TID 1500 report of a segmentation, whole or not at all, after reading its numbers back.

    Args:
        path: The file.
        seg_path: The DICOM SEG of the same findings.
        series: The images.
        segments: Meaning of every segment of the SEG, one for each finding.
        measurements: What to report.
        algorithm: What made it; decides the UIDs.

    Raises:
        CaseError: The images' headers make no report (PTD-550), or it does not come back as written (PTD-551).
    """
    try:
        dataset = _dataset(seg_path, series, segments, measurements, algorithm)
    except Exception as error:
        # Source headers are copied into the object, and each of their oddities fails in its own way.
        problem = f"its headers make no DICOM SR ({type(error).__name__})"
        raise CaseError("PTD-550", problem, "leave sr out of --outputs", series.name) from None
    with atomic(path) as temporary:
        with discreet():
            dataset.save_as(temporary)
        if read_report(temporary) != _expected(measurements, Uids(series, algorithm)):
            problem = "the measurements differ after reading the report back"
            raise CaseError("PTD-551", problem, "report this as a defect", series.name)


def _dataset(
    seg_path: Path, series: Series, segments: Sequence[Segment], measurements: Measurements, algorithm: Algorithm
) -> Dataset:
    uid = Uids(series, algorithm)
    with discreet():
        sources, _ = read_sources(series)
        seg = pydicom.dcmread(seg_path)
        groups = [_summary(measurements, segments, algorithm, uid)]
        groups += [
            _group(item, segment, seg, algorithm, uid)
            for item, segment in zip(measurements.findings, segments, strict=False)
        ]
        report = _hd.sr.MeasurementReport(
            observation_context=_hd.sr.ObservationContext(observer_device_context=_device(algorithm)),
            procedure_reported=_CT,
            imaging_measurements=groups,
            title=_codes.DCM.ImagingMeasurementReport,
        )
        sr = _hd.sr.ComprehensiveSR(
            evidence=[seg, *sources],
            content=report,
            series_instance_uid=uid("report series"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=uid("report instance"),
            instance_number=1,
            manufacturer="pentad",
            is_complete=True,
            is_final=False,
            is_verified=False,
            manufacturer_model_name=algorithm.name[:LIMIT],
            software_versions=(algorithm.version[:LIMIT], f"model {algorithm.model[:16]}"),
            device_serial_number=algorithm.model[:16] or "0",
            series_description=f"{RESEARCH}: {algorithm.name} {algorithm.version}"[:LIMIT],
        )
        sr.CompletionFlagDescription = f"{RESEARCH}; made by software, seen by nobody"
        return without_clock(sr, sources[0], uid)


def _device(algorithm: Algorithm) -> Any:
    """The software as the observer; its UID follows from the model, so all its reports name one device."""
    device = generate_uid(entropy_srcs=["device", algorithm.name, algorithm.version, algorithm.model])
    return _hd.sr.ObserverContext(
        observer_type=_codes.DCM.Device,
        observer_identifying_attributes=_hd.sr.DeviceObserverIdentifyingAttributes(
            uid=str(device),
            name=f"pentad {algorithm.name}, {RESEARCH}",
            manufacturer_name="pentad",
            model_name=algorithm.name,
            serial_number=algorithm.model[:16] or "0",
        ),
    )


def _identification(algorithm: Algorithm, *, digests: bool = False) -> Any:
    stated = [f"{name}: {value}" for name, value in algorithm.parameters.items()] if digests else None
    return _hd.sr.AlgorithmIdentification(name=algorithm.name, version=algorithm.version, parameters=stated)


def _summary(measurements: Measurements, segments: Sequence[Segment], algorithm: Algorithm, uid: Uids) -> Any:
    """The organ as a whole: its volume with lesions, how many there are, and what a person should look at."""
    name, volume = next(iter(measurements.volumes.items()), ("", 0.0))
    organ = next((segment for segment in segments if segment.region is None), segments[0])
    numbers = [_measurement(_VOLUME, volume, _ML)] if name else []
    numbers.append(_measurement(_LESIONS, count_lesions(measurements.findings), _ONE))
    return _hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_hd.sr.TrackingIdentifier(uid=uid("tracking summary"), identifier=_SUMMARY),
        finding_type=organ.kind,
        finding_category=organ.category,
        algorithm_id=_identification(algorithm, digests=True),
        measurements=numbers,
        qualitative_evaluations=[
            _hd.sr.QualitativeEvaluation(name=_QUALITY, value=Code(flag[:16], _SCHEME, text[:LIMIT]))
            for flag, text in measurements.flags.items()
        ],
    )


_SUMMARY = "Organ with its lesions"


def _group(item: Finding, segment: Segment, seg: Dataset, algorithm: Algorithm, uid: Uids) -> Any:
    return _hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_hd.sr.TrackingIdentifier(uid=uid(f"tracking {item.number}"), identifier=segment.name),
        referenced_segment=_hd.sr.ReferencedSegment.from_segmentation(seg, item.number),
        finding_type=segment.kind,
        finding_category=segment.category,
        finding_sites=[_hd.sr.FindingSite(segment.region)] if segment.region else None,
        algorithm_id=_identification(algorithm),
        measurements=[
            _measurement(_VOLUME, item.volume_ml, _ML),
            _measurement(_LONG_AXIS, item.diameter_mm, _MM),
            _measurement(_ATTENUATION, item.hu_mean, _HU, _MEAN),
            _measurement(_ATTENUATION, item.hu_sd, _HU, _SPREAD),
        ],
    )


def _measurement(name: Code, value: float, unit: Code, derivation: Code | None = None) -> Any:
    return _hd.sr.Measurement(name=name, value=value, unit=unit, derivation=derivation)


Report = dict[str, tuple[int, tuple[float, ...]]]


def read_report(path: Path) -> Report:
    """Return what a report states: tracking UID to segment number (0 for the summary) and values in their order.

    Raises:
        CaseError: It is no such report (PTD-552).
    """
    try:
        with discreet():
            content = pydicom.dcmread(path).ContentSequence
        (measured,) = _items(content, _IMAGING_MEASUREMENTS)
        groups = _items(measured.ContentSequence, _GROUP)
        found = {_text(group, _TRACKING_UID): (_segment(group), _values(group)) for group in groups}
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        problem = f"it is no report of measurements ({type(error).__name__})"
        raise CaseError("PTD-552", problem, "give a report that pentad wrote", path.name) from None
    return found


# Read by pydicom alone: what highdicom wrote is not taken back at its own word.
_IMAGING_MEASUREMENTS, _GROUP, _TRACKING_UID = "126010", "125007", "112040"


def _items(content: Sequence[Dataset], concept: str) -> list[Dataset]:
    return [item for item in content if item.ConceptNameCodeSequence[0].CodeValue == concept]


def _text(group: Dataset, concept: str) -> str:
    (item,) = _items(group.ContentSequence, concept)
    return str(item.UID)


def _segment(group: Dataset) -> int:
    for item in group.ContentSequence:
        for reference in item.get("ReferencedSOPSequence", []):
            if "ReferencedSegmentNumber" in reference:
                return int(reference.ReferencedSegmentNumber)
    return 0


def _values(group: Dataset) -> tuple[float, ...]:
    numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    return tuple(float(item.MeasuredValueSequence[0].NumericValue) for item in numbers)


def _expected(measurements: Measurements, uid: Uids) -> Report:
    lesions = float(count_lesions(measurements.findings))
    whole = [*list(measurements.volumes.values())[:1], lesions]
    expected: Report = {uid("tracking summary"): (0, tuple(whole))}
    for item in measurements.findings:
        values = (item.volume_ml, item.diameter_mm, item.hu_mean, item.hu_sd)
        expected[uid(f"tracking {item.number}")] = (item.number, values)
    return expected
