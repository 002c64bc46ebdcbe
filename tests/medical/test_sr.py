from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from medical.dicom_series import Scan, index_folder, write_series

from pentad.core.errors import CaseError
from pentad.medical.dicom import Series, read_series
from pentad.medical.findings import Finding, find
from pentad.medical.seg import Algorithm, segments_of, write_seg
from pentad.medical.sr import Measurements, read_report, write_sr
from pentad.medical.volumes import Volume, canonical, restore

MODEL = Algorithm("u_mamba_bot", "1.2.0", "ab" * 32, "cd" * 32, "ef" * 32)
CLASSES = {"liver": 1, "lesion": 2}


def write(folder: Path, series: Series, label: np.ndarray, model: Algorithm = MODEL) -> list[Finding]:
    """Write seg.dcm and sr.dcm of a label map, as batch inference does."""
    upright, how = canonical(read_series(series))
    findings, numbers = find(upright, canonical(Volume(label, series.affine))[0].array, CLASSES)
    segments = segments_of(findings, CLASSES)
    folder.mkdir(exist_ok=True)
    write_seg(folder / "seg.dcm", label, series, segments, model, restore(numbers, how))
    flags = {"fov_cut": "cut by the field of view; volumes are lower bounds"}
    measured = Measurements(findings, {"liver_ml": 12.5, "lesion_ml": 0.5}, flags)
    write_sr(folder / "sr.dcm", folder / "seg.dcm", series, segments, measured, model)
    return findings


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Series:
    folder = tmp_path_factory.mktemp("study")
    write_series(folder, Scan(shape=(6, 16, 12), study="sr").but(PatientName="Doe^Jane"))
    return index_folder(folder)[0][0]


@pytest.fixture(scope="module")
def label(series) -> np.ndarray:
    array = np.zeros(series.shape, np.uint8)
    array[1:4, 3:11, 2:9] = 1
    array[2, 5:7, 4:6] = 2
    array[3, 9, 7] = 2
    return array


@pytest.fixture(scope="module")
def written(series, label, tmp_path_factory) -> tuple[Path, list[Finding]]:
    folder = tmp_path_factory.mktemp("written")
    return folder, write(folder, series, label)


def groups(folder: Path) -> list:
    return highdicom.sr.srread(folder / "sr.dcm").content.get_volumetric_roi_measurement_groups()


def test_a_group_a_finding_has_its_volume_diameter_and_intensities_with_units(written):
    folder, findings = written
    assert len(groups(folder)) == len(findings) == 3
    for group, finding in zip(groups(folder), findings, strict=True):
        told = [(item.name.meaning, float(item.value), item.unit.value) for item in group.get_measurements()]
        assert told == [
            ("Volume", finding.volume_ml, "ml"),
            ("Long Axis", finding.diameter_mm, "mm"),
            ("Attenuation Coefficient", finding.hu_mean, "[hnsf'U]"),
            ("Attenuation Coefficient", finding.hu_sd, "[hnsf'U]"),
        ]


def test_a_group_names_the_segment_that_carries_its_tracking_uid(written):
    folder, _ = written
    seg = pydicom.dcmread(folder / "seg.dcm")
    by_number = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    for group in groups(folder):
        (number,) = group.referenced_segment.referenced_segment_numbers
        assert group.referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert by_number[number].TrackingUID == group.tracking_uid
        assert by_number[number].TrackingID == group.tracking_identifier


def test_the_summary_has_the_whole_volume_the_lesion_count_and_the_flags(written):
    folder, _ = written
    (summary,) = highdicom.sr.srread(folder / "sr.dcm").content.get_image_measurement_groups()
    told = {item.name.meaning: float(item.value) for item in summary.get_measurements()}
    assert told == {"Volume": 12.5, "Number of lesions": 2}
    flags = [item.value.meaning for item in summary.get_qualitative_evaluations() if item.name.value == "quality"]
    assert flags == ["cut by the field of view; volumes are lower bounds"]


def test_the_report_is_unverified_and_says_what_made_it_and_its_use(written):
    folder, _ = written
    report = pydicom.dcmread(folder / "sr.dcm")
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.PreliminaryFlag == "PRELIMINARY"
    text = report.to_json()
    assert all(digest in text for digest in (MODEL.model, MODEL.config, MODEL.input))
    assert "research use only" in text
    assert "research use only" in str(pydicom.dcmread(folder / "seg.dcm"))


def test_the_report_belongs_to_the_study_and_patient_of_its_images(written, series):
    folder, _ = written
    report = pydicom.dcmread(folder / "sr.dcm")
    assert (report.StudyInstanceUID, str(report.PatientName)) == (series.study_uid, "Doe^Jane")


def test_the_same_run_makes_the_same_objects_and_another_model_others(written, series, label, tmp_path):
    folder, _ = written
    write(tmp_path / "again", series, label)
    write(tmp_path / "other", series, label, replace(MODEL, model="12" * 32))
    for name in ("seg.dcm", "sr.dcm"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    uids = [uids_of(place) for place in (folder, tmp_path / "other")]
    assert all(one != other for one, other in zip(*uids, strict=True))


def uids_of(folder: Path) -> list[str]:
    """Series, instance, tracking and device UIDs of both objects."""
    seg, report = (pydicom.dcmread(folder / name) for name in ("seg.dcm", "sr.dcm"))
    tracking = [str(item.TrackingUID) for item in seg.SegmentSequence]
    device = next(
        str(item.UID) for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121012"
    )
    return [
        seg.SeriesInstanceUID,
        seg.SOPInstanceUID,
        report.SeriesInstanceUID,
        report.SOPInstanceUID,
        device,
        *tracking,
    ]


def test_a_scan_in_which_nothing_was_found_has_a_report_of_no_lesions(series, tmp_path):
    write(tmp_path / "empty", series, np.zeros(series.shape, np.uint8))
    ((number, values),) = read_report(tmp_path / "empty" / "sr.dcm").values()
    assert (number, values) == (0, (12.5, 0.0))


def test_an_image_is_no_report(series):
    with pytest.raises(CaseError, match="PTD-552"):
        read_report(series.files[0])


def test_headers_that_make_no_report_are_one_sentence(series, tmp_path):
    with pytest.raises(CaseError, match="PTD-550"):
        write_sr(tmp_path / "sr.dcm", tmp_path / "none.dcm", series, (), Measurements((), {}, {}), MODEL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm"])
def test_dciodvfy_finds_no_error(name, written):
    told = subprocess.run(["dciodvfy", "-new", written[0] / name], capture_output=True, text=True, timeout=60)
    assert [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")] == []
