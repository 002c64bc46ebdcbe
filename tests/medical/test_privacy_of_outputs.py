"""What predict writes and says names no patient, although headers, folders and files of the input do."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pydicom
import pytest
from command import Result, everything_written, run
from medical.dicom_series import Scan, uid, write_series

MR = "1.2.840.10008.5.1.4.1.1.4"
SECRETS = {
    "PatientName": "Kowalczyk^Zdzislawa^Maria",
    "PatientID": "HN-77120345",
    "PatientBirthDate": "19610723",
    "StudyDate": "20190517",
    "AccessionNumber": "ACC9081726",
    "InstitutionName": "Lazarett Wolkenstein",
    "ReferringPhysicianName": "Grabowski^Tadeusz",
    "SeriesDescription": "Portal venous",
}
# In every way that a header or the name of a file may spell them.
SPELLINGS = (
    "kowalczyk zdzislawa hn.?77120345 77120345 1961.?07.?23 23.?07.?1961 2019.?05.?17 acc9081726 wolkenstein lazarett"
    " grabowski tadeusz"
).split()


def spelt(text: str, study: str) -> list[str]:
    """The secrets found in a text."""
    patterns = [*SPELLINGS, re.escape(uid(study)), re.escape(uid(study, "series"))]
    return [pattern for pattern in patterns if re.search(pattern, text, re.IGNORECASE)]


def write_secret_tree(root: Path) -> None:
    """A good study, one with a gap, a localizer, a report and files that are no DICOM, all named by the patient."""
    scan = Scan(study="good", patient=SECRETS["PatientID"]).but(**SECRETS)
    patient = root / "KOWALCZYK_ZDZISLAWA_1961-07-23" / f"HN-77120345 {uid('good')}"
    write_series(patient / "20190517_CT", scan)
    localizer = Scan(study="good", series="scout").but(**SECRETS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for path in write_series(patient / "ACC9081726", localizer, indices=[0]):
        path.rename(path.with_name(f"{uid('good', 'series')}.dcm"))
    thick = Scan(study="good", series="thick", shape=(11, 10, 8), spacing=(6.0, 2.0, 1.0)).but(**SECRETS)
    write_series(patient / "Zdzislawa.Kowalczyk thick", thick)
    gap = Scan(study="gap").but(**SECRETS)
    for number, path in enumerate(write_series(root / "Lazarett", gap, indices=[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11])):
        path.rename(path.with_name(f"Kowalczyk-20190517103000-{number:03d}.dcm"))
    write_series(root / "mr zdzislawakowalczyk", Scan(study="mr").but(**SECRETS, SOPClassUID=MR, Modality="MR"))
    (patient / "Befund Kowalczyk 17.05.2019.txt").write_text("Kowalczyk")
    (patient / "Grabowski.dcm").write_text("Kowalczyk")
    damaged = write_series(root / "wolkenstein" / "HN77120345", Scan(study="bad").but(**SECRETS))[3]
    damaged.write_bytes(damaged.read_bytes()[:-30])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Result, Path]:
    work = tmp_path_factory.mktemp("work")
    write_secret_tree(work / "in")
    options = ("-o", work / "out", "--run", "r", "--model", "threshold", "--key-file", work / "key", "--json")
    return run("-v", "medical", "predict", work / "in", *options), work / "out" / "r"


def test_the_test_would_notice_every_secret():
    told = " ".join([*SECRETS.values(), uid("good"), uid("good", "series"), "23.07.1961", "17-05-2019 2019_05_17"])
    assert len(spelt(told, "good")) == len(SPELLINGS) + 2


def test_no_output_but_the_objects_for_the_archive_names_the_patient(done):
    _, folder = done
    for name in ("seg.dcm", "sr.dcm"):
        (objects,) = folder.rglob(name)
        assert str(pydicom.dcmread(objects).PatientName) == SECRETS["PatientName"]
        objects.unlink()
    assert [spelt(everything_written(folder), study) for study in ("good", "gap", "mr", "bad")] == [[], [], [], []]


def test_neither_standard_output_nor_standard_error_names_the_patient(done):
    result, _ = done
    assert result.code == 3
    assert "1 of 1 cases done" in result.err
    assert [spelt(result.out + result.err, study) for study in ("good", "gap", "mr", "bad")] == [[], [], [], []]


def test_files_are_told_apart_although_their_names_are_hidden(done):
    _, folder = done
    told = [
        name
        for kind in ("rejected", "left_aside")
        for line in (folder / f"{kind}.jsonl").read_text().splitlines()
        for name in json.loads(line)["files"]
    ]
    assert len(set(told)) == len(told) == 1 + 11 + 11 + 12 + 1 + 1 + 12


def test_a_dry_run_shows_the_names_as_they_are(done, tmp_path):
    _, folder = done
    options = ("-o", tmp_path, "--model", "threshold", "--key-file", folder.parents[1] / "key", "--dry-run")
    shown = run("medical", "predict", folder.parents[1] / "in", *options)
    assert "Lazarett/Kowalczyk-20190517103000-000.dcm and 10 more: PTD-336" in shown.out
    assert list(tmp_path.iterdir()) == []


# Every tag that may hold a text.

MARK = re.compile(r"zq\d{4}k", re.IGNORECASE)
LENGTHS = {"SH": 16, "CS": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240, "UT": 20000, "AE": 16, "UC": 64, "IS": 0}
# What a scan must state to be read at all.
NEEDED = {"Modality", "ImageType", "PhotometricInterpretation", "RescaleType", "SpecificCharacterSet"}


def marked() -> dict[str, str]:
    """A mark of its own for every text of patient, study, visit, order, equipment and acquisition."""
    groups = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x4008)
    entries = ((tag, *entry) for tag, entry in pydicom.datadict.DicomDictionary.items() if tag >> 16 in groups)
    keywords = [
        keyword
        for _, vr, multiplicity, _, _, keyword in entries
        if LENGTHS.get(vr) and multiplicity in ("1", "1-n") and keyword and keyword not in NEEDED
    ]
    return {keyword: f"ZQ{number:04d}K" for number, keyword in enumerate(keywords)}


def write_marked_tree(root: Path) -> int:
    """Studies good and bad whose every text is marked, files and folders too; return how many marks there are."""
    marks = marked()
    names = [marks[keyword] for keyword in ("PatientName", "PatientID", "AccessionNumber")]
    scans = {
        "good": {},
        "mr": {"SOPClassUID": MR, "Modality": "MR"},
        "coloured": {"PhotometricInterpretation": "RGB"},
        "derived": {"RescaleType": "ZQ9001K"},
        "unknown": {"SOPClassUID": MR, "Modality": "ZQ9002K"},
    }
    for study, attributes in scans.items():
        scan = Scan(study=study, shape=(12, 16, 14), origin=(-20.0, 10.0, 10.0)).but(**{**marks, **attributes})
        for path in write_series(root / f"{names[0]} {study}" / names[1], scan):
            content = path.read_bytes()
            path.write_bytes(b"ZQ9003K ZQ9004K".ljust(128, b" ") + content[128:])  # the preamble is free text too
            path.rename(path.with_name(f"{names[2]}_{path.name}"))
    gap = Scan(study="gap").but(**marks)
    write_series(root / names[0] / "gap", gap, indices=[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11])
    write_series(root / names[1], Scan(study="cut").but(**marks))[0].write_bytes(b"DICM")
    return len(marks)


@pytest.mark.slow
def test_no_text_of_any_tag_reaches_an_output_or_the_screen(tmp_path):
    assert write_marked_tree(tmp_path / "in") > 300
    options = ("-o", tmp_path / "out", "--run", "r", "--model", "threshold", "--key-file", tmp_path / "key")
    outputs = ("--outputs", "nifti,seg,sr,page,pdf", "--json")
    told = run("-v", "medical", "predict", tmp_path / "in", *options, *outputs)
    folder = tmp_path / "out" / "r"
    objects = [path for name in ("seg.dcm", "sr.dcm") for path in folder.rglob(name)]
    assert len(objects) == 4  # of the good study and of the one whose last slice is not there
    assert all(MARK.search(path.read_bytes().decode("latin-1")) for path in objects)  # the archive needs the patient
    for path in objects:
        path.unlink()
    opened = "".join(gzip.decompress(path.read_bytes()).decode("latin-1") for path in folder.rglob("*.nii.gz"))
    assert MARK.findall(everything_written(folder) + told.out + told.err + opened) == []
