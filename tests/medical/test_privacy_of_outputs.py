"""What predict writes and says names no patient, although headers, folders and files of the input do."""

from __future__ import annotations

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


def test_no_output_but_the_object_for_the_archive_names_the_patient(done):
    _, folder = done
    (objects,) = folder.rglob("seg.dcm")
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
