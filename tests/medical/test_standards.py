"""Our DICOM objects, judged by other projects' tools; each test skips where its tool is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from medical.dicom_series import Scan, index_folder, write_multiframe, write_series
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, SegmentationStorage

from pentad.medical.dicom import Series, read_series
from pentad.medical.findings import Finding, find
from pentad.medical.seg import LIVER_SEGMENTS, Algorithm, segments_of, write_seg
from pentad.medical.sr import Measurements, write_sr
from pentad.medical.volumes import Volume, canonical, restore

MODEL = Algorithm("u_mamba_bot", "1.2.0", "ab" * 32, "cd" * 32)
OBLIQUE = ((0.8, 0.6, 0.0), (0.0, 0.0, -1.0))


def findings(shape: tuple[int, int, int]) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[1:4, 3:11, 2:9] = 1
    label[2, 5:7, 4:6] = 2
    return label


@pytest.fixture(params=["axial", "oblique", "enhanced", "empty", "anonymous", "one_segment", "one_frame"])
def segmentation(request, tmp_path) -> tuple[Path, Series, np.ndarray]:
    """A DICOM SEG, its series and its label map."""
    scan = Scan(shape=(6, 16, 12))
    if request.param == "oblique":
        scan = Scan(shape=(6, 16, 12), row=OBLIQUE[0], column=OBLIQUE[1])
    if request.param == "anonymous":
        names = ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "Manufacturer")
        scan = scan.but(**dict.fromkeys(names), PatientID="", AccessionNumber=None)
    if request.param == "enhanced":
        write_multiframe(tmp_path / "in" / "a.dcm", scan)
    else:
        write_series(tmp_path / "in", scan)
    series = index_folder(tmp_path / "in")[0][0]
    label = findings(series.shape)
    if request.param in ("empty", "one_segment", "one_frame"):
        label[:] = np.where(label == 1, request.param != "empty", 0)
    if request.param == "one_frame":
        label[2:] = 0
    write_seg(tmp_path / "seg.dcm", label, series, LIVER_SEGMENTS, MODEL)
    return tmp_path / "seg.dcm", series, label


@pytest.fixture
def report(segmentation, tmp_path) -> tuple[Path, list[Finding]]:
    """A report of the same findings, written as batch inference writes it, and what it says."""
    _, series, label = segmentation
    upright, how = canonical(read_series(series))
    findings, numbers = find(upright, canonical(Volume(label, series.affine))[0].array, {"liver": 1, "lesion": 2})
    segments = segments_of(findings, {"liver": 1, "lesion": 2})
    write_seg(tmp_path / "found.dcm", label, series, segments, MODEL, restore(numbers, how))
    volumes = {"liver_ml": sum(item.volume_ml for item in findings)}
    flags = {"fov_cut": "cut by the field of view; volumes are lower bounds"}
    measured = Measurements(findings, volumes, flags)
    write_sr(tmp_path / "sr.dcm", tmp_path / "found.dcm", series, segments, measured, MODEL)
    return tmp_path / "sr.dcm", findings


def program(name: str, package: str) -> str:
    """Path of a program, beside Python's own or anywhere; skip where it is not."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return found or pytest.skip(f"{name} is not installed ({package})")


def objections(path: Path) -> list[str]:
    """What dciodvfy says against an object; an identifier that the images lack is lacking, and that is no fault."""
    call = [program("dciodvfy", "Debian's dicom3tools; scripts/system_packages.sh installs it"), "-new", str(path)]
    said = subprocess.run(call, capture_output=True, text=True, errors="replace", timeout=60)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if re.match(r"(Error|Warning)\b", line)]
    # Private codes are allowed (PS3.16, 8.2), and no list of the standard can know them.
    harmless = ("would be needed to build DICOMDIR", "Unrecognized defined term = <99PENTAD>")
    return [line for line in lines if not line.endswith(harmless)]


def test_dciodvfy_has_nothing_against_a_segmentation(segmentation):
    assert objections(segmentation[0]) == []


def test_dciodvfy_has_nothing_against_a_report_and_its_segmentation(report, tmp_path):
    assert objections(report[0]) == []
    assert objections(tmp_path / "found.dcm") == []


def test_dciodvfy_objects_where_something_is_wrong(segmentation, tmp_path):
    import pydicom

    broken = pydicom.dcmread(segmentation[0])
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(tmp_path / "broken.dcm")
    assert any("SegmentLabel" in line for line in objections(tmp_path / "broken.dcm"))


def test_dcmqi_reads_every_voxel_of_a_segmentation_in_its_place(segmentation, tmp_path):
    path, series, label = segmentation
    if not label.any():
        pytest.skip("dcmqi gives no image for an object without a voxel")
    call = [program("segimage2itkimage", "the package dcmqi"), "-t", "nrrd", "--inputDICOM", str(path)]
    (tmp_path / "itk").mkdir()
    done = subprocess.run(
        [*call, "--outputDirectory", str(tmp_path / "itk")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert re.findall(r"^[WE]: .*", done.stdout + done.stderr, re.MULTILINE) == []
    for value in np.unique(label[label > 0]):
        image = sitk.ReadImage(str(tmp_path / "itk" / f"{value}.nrrd"))
        index = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
        found = np.array([image.TransformIndexToPhysicalPoint([int(part) for part in voxel]) for voxel in index])
        ours = np.argwhere(label == value)[:, ::-1]
        wanted = ours @ series.affine[:3, :3].T + series.affine[:3, 3]
        assert found.shape == wanted.shape
        assert np.abs(np.sort(found, axis=0) - np.sort(wanted, axis=0)).max() < 1e-4
    said = json.loads((tmp_path / "itk" / "meta.json").read_text())["segmentAttributes"]
    codes = [segment["SegmentedPropertyTypeCodeSequence"]["CodeValue"] for group in said for segment in group]
    assert codes == ["10200004", "4147007"]


def test_dcmqi_reads_every_measurement_of_a_report(report, tmp_path):
    path, findings = report
    call = [program("tid1500reader", "the package dcmqi"), "--inputDICOM", str(path)]
    said = subprocess.run([*call, "--outputMetadata", str(tmp_path / "sr.json")], capture_output=True, timeout=120)
    assert said.returncode == 0, said.stderr
    groups = json.loads((tmp_path / "sr.json").read_text()).get("Measurements", [])
    found = [[float(item["value"]) for item in group["measurementItems"]] for group in groups]
    wanted = [[item.volume_ml, item.diameter_mm, item.hu_mean, item.hu_sd] for item in findings]
    assert found[1:] == [pytest.approx(values, rel=1e-4) for values in wanted]  # the first sums up the others


@pytest.fixture(scope="module")
def standard() -> Any:
    """What dicom-validator knows of the standard: it brings no edition and would download one."""
    if importlib.util.find_spec("dicom_validator") is None:
        pytest.skip("dicom-validator is not installed")
    from dicom_validator.spec_reader.edition_reader import EditionReader
    from medical.dicom_tables import standard_from, tables

    folder = Path(os.environ.get("PENTAD_DICOM_STANDARD", Path.home() / "dicom-validator"))
    if (folder / "editions.json").is_file():
        return EditionReader(folder).dicom_info_for_edition("local")
    if found := tables(folder):
        return standard_from(found, {SegmentationStorage: "segmentation", ComprehensiveSRStorage: "comprehensive-sr"})
    pytest.skip(f"no tables of the DICOM standard below {folder}; tests/medical/dicom_tables.py says where to get them")


def test_dicom_validator_has_nothing_against_a_segmentation_and_a_report(standard, segmentation, report):
    from dicom_validator.validator.dicom_file_validator import DicomFileValidator

    for path in (segmentation[0], report[0]):
        results = DicomFileValidator(standard).validate(path)
        assert {name: result.errors for name, result in results.items()} == {str(path): 0}


def test_dicom_validator_misses_what_is_taken_out_of_a_segmentation_and_a_report(standard, segmentation, report):
    from dicom_validator.validator.dicom_file_validator import DicomFileValidator

    (seg, _, _), (sr, _) = segmentation, report
    for path, tag in ((seg, "SegmentationType"), (seg, "DimensionIndexSequence"), (sr, "CompletionFlag")):
        damaged = dcmread(path)
        delattr(damaged, tag)
        damaged.save_as(path.with_name("damaged.dcm"))
        results = DicomFileValidator(standard).validate(path.with_name("damaged.dcm"))
        assert [result.errors for result in results.values()] != [0]
