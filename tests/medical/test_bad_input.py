"""Everything a user may feed the command by mistake ends in one sentence, and the good cases are done all the same."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from command import SENTENCE, Result, run
from medical.dicom_series import Scan, write_series
from medical.tiny_cases import GRID, tiny_ct
from pydicom.uid import JPEG2000Lossless

from pentad.medical.volumes import Volume, write_nifti

MR = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}


def slices(count: int = 12, without: int = -1) -> list[int]:
    return [index for index in range(count) if index != without]


def write_raw_nifti(path: Path, array: np.ndarray, pixdim: tuple[float, ...] = (2, 2, 4)) -> None:
    """A NIfTI whose header says what no writer of ours would say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array.T, np.diag([2.0, 2.0, 4.0, 1.0]))
    image.set_sform(image.affine, 1)
    image.header["pixdim"][1:4] = pixdim
    nibabel.save(image, path)


def with_nan() -> np.ndarray:
    values = tiny_ct(0).astype(np.float32)
    values[3, 4, 5] = np.nan
    return values


def write_bad_images(folder: Path) -> None:
    """Bad NIfTI scans by the names that `BAD_IMAGES` tells the codes of."""
    write_raw_nifti(folder / "nan.nii.gz", with_nan())
    write_raw_nifti(folder / "flat.nii.gz", tiny_ct(0)[5])
    write_raw_nifti(folder / "no_spacing.nii", tiny_ct(0), (0, 2, 4))
    write_raw_nifti(folder / "huge_spacing.nii", tiny_ct(0), (2, 2, 4000))
    write_raw_nifti(folder / "nan_spacing.nii", tiny_ct(0), (2, 2, np.nan))
    write_raw_nifti(folder / "no_ct.nii", np.abs(tiny_ct(0)))
    write_raw_nifti(folder / "cut.nii.gz", tiny_ct(0))
    whole = (folder / "cut.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii").write_text("no image")
    (folder / "empty.nii").touch()


BAD_IMAGES = {
    "nan.nii.gz": "PTD-352",
    "flat.nii.gz": "PTD-351",
    "no_spacing.nii": "PTD-353",
    "huge_spacing.nii": "PTD-353",
    "nan_spacing.nii": "PTD-353",
    "no_ct.nii": "PTD-358",
    "cut.nii.gz": "PTD-350",
    "text.nii": "PTD-350",
    "empty.nii": "PTD-350",
}


def write_bad_studies(folder: Path) -> None:
    """Bad DICOM studies by the names that `BAD_STUDIES` tells the codes of."""
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "report.dcm").write_text("no DICOM")
    write_series(folder / "gap", Scan(study="gap"), indices=slices(without=5))
    write_series(folder / "duplicate", Scan(study="duplicate"))
    write_series(folder / "duplicate" / "again", Scan(study="duplicate", intercept=-1000.0), indices=[4])
    write_series(folder / "mr", Scan(study="mr").but(**MR))
    write_series(folder / "one_uid" / "a", Scan(study="one_uid", series="a", patient="first"))
    write_series(folder / "one_uid" / "b", Scan(study="one_uid", series="b", patient="second"))
    write_series(folder / "no_spacing", Scan(study="no_spacing").but(PixelSpacing=[0.0, 1.0]))
    write_series(folder / "huge_spacing", Scan(study="huge_spacing").but(PixelSpacing=[2.0, 400.0]))
    for place, name in ((0, "cut_at_the_end"), (5, "cut_within")):
        write_series(folder / name, Scan(study=name), indices=slices(without=place))
        (cut,) = write_series(folder / name / "cut", Scan(study=name), indices=[place])
        cut.write_bytes(cut.read_bytes()[:-60])


def write_undecodable(folder: Path) -> None:
    """A study whose headers are in order and whose pixels are not: only the worker finds out."""
    damaged = write_series(folder, Scan(study="undecodable", shape=(12, 64, 64)), syntax=JPEG2000Lossless)[3]
    content = bytearray(damaged.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")  # start of the codestream
    content[start : start + 40] = bytes(40)
    damaged.write_bytes(content)


BAD_STUDIES = {
    "text": ["PTD-330"],
    "gap": ["PTD-336"],
    "duplicate": ["PTD-335"],
    "mr": ["PTD-331"],
    "one_uid": ["PTD-342", "PTD-342"],
    "no_spacing": ["PTD-333"],
    "huge_spacing": ["PTD-333"],
    "cut_at_the_end": ["PTD-330", "PTD-336"],
    "cut_within": ["PTD-330", "PTD-336"],
}


@pytest.fixture(scope="module")
def predicted(tmp_path_factory) -> tuple[Result, Path]:
    """One run over everything that is bad, with three good cases among it."""
    work = tmp_path_factory.mktemp("predicted")
    write_bad_images(work / "in" / "nifti")
    write_bad_studies(work / "in")
    write_undecodable(work / "in" / "undecodable")
    # Two patients in one folder are two studies, and no fault.
    write_series(work / "in" / "two_patients", Scan(study="a", series="a", patient="a"))
    write_series(work / "in" / "two_patients", Scan(study="b", series="b", patient="b"))
    write_nifti(work / "in" / "good.nii.gz", Volume(tiny_ct(0), GRID))
    options = ("-o", work / "out", "--run", "r", "--model", "threshold", "--key-file", work / "key", "--workers", 1)
    return run("medical", "predict", work / "in", *options), work / "out" / "r"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_sentence(text: str) -> bool:
    return text.endswith(".") and "; " in text and "\n" not in text


def test_the_good_cases_of_a_mixed_tree_are_done_and_the_run_ends_with_3(predicted):
    done, folder = predicted
    good = [row for row in rows(folder / "worklist.csv") if row["status"] == "ok"]
    assert done.code == 3
    assert len(good) == 3
    assert "good" in {row["id"] for row in good}
    for row in good:
        written = {path.name for path in (folder / "cases" / row["id"]).iterdir()}
        assert written == {"label.nii.gz", "volumes.json", "page.html"} | (
            {"seg.dcm"} if row["id"] != "good" else set()
        )


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_has_one_row_with_its_code(name, predicted):
    _, folder = predicted
    case = name.removesuffix(".gz").removesuffix(".nii")
    found = [row for row in rows(folder / "worklist.csv") if row["id"] in (case, f"nifti/{name}")]
    assert [row["code"] for row in found] == [BAD_IMAGES[name]]
    assert is_sentence(found[0]["reason"])


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_a_bad_study_has_a_row_with_its_code(name, predicted):
    _, folder = predicted
    found = [row for row in rows(folder / "worklist.csv") if row["id"].startswith(f"{name}/")]
    assert [row["code"] for row in found] == BAD_STUDIES[name]
    assert {row["status"] for row in found} == {"rejected"}
    assert all(is_sentence(row["reason"]) for row in found)


def test_pixels_that_cannot_be_decoded_fail_their_case_alone(predicted):
    _, folder = predicted
    (row,) = [row for row in rows(folder / "worklist.csv") if row["code"] == "PTD-343"]
    assert row["status"] == "failed"
    assert is_sentence(row["reason"])


def test_no_trace_of_the_program_and_no_half_file_is_left(predicted):
    done, folder = predicted
    assert "Traceback" not in done.out + done.err + everything_written(folder)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".part-") or path.name == ".work"]
    good = [row["id"] for row in rows(folder / "worklist.csv") if row["status"] == "ok"]
    assert sorted(path.name for path in (folder / "cases").iterdir()) == sorted(good)


def test_standard_error_holds_one_sentence_a_failed_case_and_the_sum(predicted):
    done, folder = predicted
    failed = [row for row in rows(folder / "worklist.csv") if row["status"] == "failed"]
    *sentences, total = done.err.strip().splitlines()
    assert [line.split(" ")[0] for line in sentences] == sorted(row["code"] for row in failed)
    assert all(SENTENCE.fullmatch(line) for line in sentences)
    assert "3 of 7 cases done" in total


def test_every_file_of_the_input_is_told_of(predicted):
    _, folder = predicted
    told = [
        name
        for kind in ("rejected", "left_aside")
        for line in lines(folder / f"{kind}.jsonl")
        for name in line["files"]
    ]
    there = [path for path in (folder.parents[1] / "in").rglob("*") if path.is_file()]
    in_cases = 3 * 12 + 1 + 3  # the slices of two good studies and an undecodable one, a good image, three bad ones
    assert len(told) == len(set(told)) == len(there) - in_cases
