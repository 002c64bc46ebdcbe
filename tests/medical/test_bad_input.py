"""Everything a user may feed the command by mistake ends in one sentence, and the good cases are done all the same."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command import SENTENCE, Result, call, everything_written, run
from medical.dicom_series import Scan, write_series
from medical.tiny_cases import GRID, PARAMS, tiny_ct, tiny_labels, write_pair
from pydicom.uid import JPEG2000Lossless

from pentad.core.files import digest_file, digest_json
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
        dicom = {"seg.dcm", "sr.dcm"} if row["id"] != "good" else set()
        assert written == {"label.nii.gz", "volumes.json", "qc.json", "page.html"} | dicom


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
    assert sorted(line.split(" ")[0] for line in sentences) == sorted(row["code"] for row in failed)
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


# prepare: bad pairs and bad labelled studies


BAD_PAIRS = {
    "nan": "PTD-352",
    "flat": "PTD-351",
    "no_spacing": "PTD-353",
    "no_ct": "PTD-358",
    "cut": "PTD-350",
    "halves": "PTD-355",
    "unknown_class": "PTD-355",
    "other_shape": "PTD-356",
    "nan_label": "PTD-352",
    "no_label": "PTD-361",
}


def write_bad_pairs(folder: Path) -> None:
    write_pair(folder, "good")
    images = {"nan": with_nan(), "flat": tiny_ct(0)[5], "no_ct": np.abs(tiny_ct(0)), "cut": tiny_ct(0)}
    for name, image in images.items():
        write_raw_nifti(folder / f"{name}_image.nii", image)
        write_raw_nifti(folder / f"{name}_label.nii", tiny_labels(0))
    cut = folder / "cut_image.nii"
    cut.write_bytes(cut.read_bytes()[:-500])
    write_pair(folder, "no_spacing")
    write_raw_nifti(folder / "no_spacing_image.nii", tiny_ct(0), (0, 2, 4))
    write_pair(folder, "halves", labels=tiny_labels(0) * np.float32(0.5))
    write_pair(folder, "unknown_class", labels=tiny_labels(0) * np.uint8(3))
    write_pair(folder, "other_shape", labels=tiny_labels(0)[:, :, 1:])
    write_pair(folder, "nan_label", labels=np.where(tiny_labels(0) == 2, np.nan, 0).astype(np.float32))
    write_raw_nifti(folder / "no_label_image.nii", tiny_ct(0))


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(PARAMS)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, params) -> tuple[Result, Path]:
    work = tmp_path_factory.mktemp("pairs")
    write_bad_pairs(work / "raw")
    return run("medical", "prepare", work / "raw", "-o", work / "prepared", "--params", params), work


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_a_bad_pair_is_refused_with_its_code(name, pairs):
    done, _ = pairs
    (line,) = [line for line in done.out.splitlines() if line.startswith(f"refused {name}_image.nii: ")]
    code, _, reason = line.removeprefix(f"refused {name}_image.nii: ").partition(" ")
    assert code == BAD_PAIRS[name]
    assert is_sentence(reason)


def test_the_good_pair_is_prepared_and_the_call_ends_with_3(pairs):
    done, work = pairs
    assert done.code == 3
    assert [case["id"] for case in lines(work / "prepared" / "cases.jsonl")] == ["good"]
    assert [path.name for path in (work / "prepared" / "images").iterdir()] == ["good.nii"]


def test_refused_pairs_leave_no_trace_of_the_program_and_no_half_file(pairs):
    done, work = pairs
    assert "Traceback" not in done.out + done.err + everything_written(work / "prepared")
    assert {path.name for path in work.iterdir()} == {"raw", "prepared"}


def test_refused_pairs_may_be_accepted_by_the_call(tmp_path, params):
    write_bad_pairs(tmp_path / "raw")
    done = call("medical", "prepare", tmp_path / "raw", "-o", tmp_path / "out", "--params", params, "--accept-refused")
    assert done.code == 0


def test_bad_studies_with_labels_are_refused_and_the_good_one_prepared(tmp_path, params):
    write_bad_studies(tmp_path / "raw" / "studies")
    write_series(tmp_path / "raw" / "studies" / "good", Scan(study="good"))
    names = {*BAD_STUDIES, "good"}
    for name in names:
        grid = np.array([[1.0, 0, 0, -20], [0, 2, 0, 10], [0, 0, 3, -100], [0, 0, 0, 1]])
        write_nifti(tmp_path / "raw" / "labels" / f"{name}.nii", Volume(np.zeros((12, 10, 8), np.uint8), grid))
    done = call("medical", "prepare", tmp_path / "raw", "-o", tmp_path / "out", "--params", params)
    refused = re.findall(r"^refused studies/(\w+): (PTD-\d+) ", done.out, re.MULTILINE)
    assert done.code == 3
    assert [case["id"] for case in lines(tmp_path / "out" / "cases.jsonl")] == ["good"]
    assert {name for name, _ in refused} == {*BAD_STUDIES}
    assert all(code in BAD_STUDIES[name] for name, code in refused)


# the whole call is wrong


@pytest.mark.parametrize("verb", ["predict", "prepare"])
def test_an_empty_folder_is_no_input(verb, tmp_path, params):
    (tmp_path / "in").mkdir()
    model = ("--model", "threshold") if verb == "predict" else ()
    done = call("medical", verb, tmp_path / "in", "-o", tmp_path / "out", "--params", params, *model)
    assert done.code == 4
    done.sentence()


def test_a_tree_of_nothing_usable_is_no_input_but_told_file_by_file(tmp_path):
    write_bad_images(tmp_path / "in")
    for name in ("nan.nii.gz", "no_ct.nii", "cut.nii.gz"):  # what only a worker finds out
        (tmp_path / "in" / name).unlink()
    options = ("-o", tmp_path / "out", "--run", "r", "--model", "threshold")
    done = call("medical", "predict", tmp_path / "in", *options)
    assert done.code == 4
    assert "PTD-400" in done.sentence()
    assert len(rows(tmp_path / "out" / "r" / "worklist.csv")) == 6


@pytest.mark.parametrize("verb", ["predict", "prepare"])
def test_an_output_below_a_regular_file_is_a_usage_error(verb, tmp_path, params):
    write_pair(tmp_path / "in", "good")
    (tmp_path / "file").write_text("")
    model = ("--model", "threshold") if verb == "predict" else ()
    done = call("medical", verb, tmp_path / "in", "-o", tmp_path / "file" / "out", "--params", params, *model)
    assert done.code == 2
    done.sentence()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("verb", ["predict", "prepare"])
def test_a_read_only_output_is_a_usage_error(verb, tmp_path, params):
    write_pair(tmp_path / "in", "good")
    (tmp_path / "out").mkdir(mode=0o555)
    model = ("--model", "threshold") if verb == "predict" else ()
    done = call("medical", verb, tmp_path / "in", "-o", tmp_path / "out" / "x", "--params", params, *model)
    assert done.code == 2
    done.sentence()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("prepare", "{in}", "-o", "{out}", "--params", "{typo}"), 2, "PTD-215 .*seeed.*did you mean 'seed'"),
        (("prepare", "{in}", "-o", "{out}", "--params", "{params}", "--set", "seeed=3"), 2, "PTD-215 .*'seed'"),
        (("prepare", "{in}", "-o", "{out}", "--params", "{out}"), 2, "PTD-210"),
        (("prepare", "{in}/none", "-o", "{out}", "--params", "{params}"), 2, "PTD-412"),
        (("predict", "{in}", "-o", "{out}", "--model", "threshold", "--params", "{typo}"), 2, "PTD-215"),
        (("predict", "{in}/none", "-o", "{out}", "--model", "threshold"), 2, "PTD-412"),
        (("predict", "{in}", "-o", "{out}", "--model", "threshold", "--outputs", "nifty"), 2, "PTD-297 .*'nifti'"),
        (("predict", "{in}", "-o", "{out}", "--model", "threshold", "--shard", "3/2"), 2, "PTD-246"),
        (("predict", "{in}", "-o", "{out}", "--model", "threshold", "--resume", "none"), 2, "PTD-243"),
        (("predict", "{in}", "-o", "{out}", "--model", "threshold", "--run", "../x"), 2, "PTD-240"),
        (("predict", "{in}", "-o", "{out}", "--model", "{in}"), 5, "PTD-501"),
        (("plan", "{out}", "-o", "{out}", "--params", "{params}"), 2, "PTD-201"),
        (("plan", "{text}", "-o", "{out}", "--params", "{params}"), 2, "PTD-202"),
        (("models", "show", "{in}"), 5, "PTD-501"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_writes_nothing(arguments, code, sentence, tmp_path, params):
    write_pair(tmp_path / "in", "good")
    (tmp_path / "typo.yaml").write_text(PARAMS.replace("seed: 1", "seeed: 1"))
    (tmp_path / "text.jsonl").write_text("no case\n")
    names = {"in": tmp_path / "in", "out": tmp_path / "out", "params": params}
    names |= {"typo": tmp_path / "typo.yaml", "text": tmp_path / "text.jsonl"}
    done = call("medical", *(part.format(**names) for part in arguments))
    assert done.code == code
    assert re.search(sentence, done.sentence())
    assert not (tmp_path / "out").exists()


# bundles


def cut_weights(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def flip_a_weight(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def restate(bundle: Path, **changes: object) -> None:
    """Change the manifest and make its digests agree again, as another program would have written it."""
    manifest = json.loads((bundle / "bundle.json").read_text()) | changes
    manifest["files"] = {name: digest_file(bundle / name) for name in manifest["files"]}
    body = {key: value for key, value in manifest.items() if key != "digest"}
    (bundle / "bundle.json").write_text(json.dumps({**body, "digest": digest_json(body)}))


def of_another_domain(bundle: Path) -> None:
    restate(bundle, domain="audio")


def of_another_architecture(bundle: Path) -> None:
    restate(bundle, model="u_mamba_top")


def of_other_shapes(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["features"] = [2 * size for size in config["features"]]
    (bundle / "config.json").write_text(json.dumps(config))
    restate(bundle)


def with_a_typo_in_its_settings(bundle: Path) -> None:
    settings = json.loads((bundle / "bundle.json").read_text())["settings"]
    settings["patch"] = settings.pop("patch_size")
    restate(bundle, settings=settings)


def of_no_format(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (cut_weights, "PTD-503"),
        (flip_a_weight, "PTD-503"),
        (of_another_domain, "PTD-505"),
        (of_another_architecture, "PTD-506"),
        (of_other_shapes, "PTD-51[0-9]"),
        (with_a_typo_in_its_settings, "PTD-389"),
        (of_no_format, "PTD-502"),
    ],
)
def test_a_bad_bundle_is_one_sentence_and_exit_5(spoil, code, trained, tmp_path):
    bundle = shutil.copytree(trained / "bundle", tmp_path / "bundle")
    spoil(bundle)
    table = trained / "prepared" / "cases.jsonl"
    options = ("-o", tmp_path / "out", "--params", trained / "params.yaml")
    done = call("medical", "evaluate", table, "--model", bundle, *options)
    assert done.code == 5
    assert re.search(code, done.sentence())
    assert not (tmp_path / "out").exists()


def test_batch_inference_with_damaged_weights_ends_with_5_before_the_first_case(trained, tmp_path):
    bundle = shutil.copytree(trained / "bundle", tmp_path / "bundle")
    cut_weights(bundle)
    done = call("medical", "predict", trained / "raw", "-o", tmp_path / "out", "--run", "r", "--model", bundle)
    assert done.code == 5
    assert "PTD-503" in done.sentence()
    assert {row["status"] for row in rows(tmp_path / "out" / "r" / "worklist.csv")} == {"pending"}


# full disk


def test_a_full_disk_leaves_no_prepared_folder(tmp_path, params):
    write_pair(tmp_path / "raw", "good")
    done = run("medical", "prepare", tmp_path / "raw", "-o", tmp_path / "out", "--params", params, largest_file=10_000)
    assert done.code == 2
    assert "PTD-415" in done.sentence()
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}
