"""Batch inference by its command: killed, resumed, parted and on real scans."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import highdicom
import numpy as np
import pytest
from command import call, command, run
from medical.dicom_series import Scan, write_series
from medical.tiny_cases import GRID, tiny_ct

from pentad.core.bundle import load_bundle, save_bundle
from pentad.core.errors import ModelError
from pentad.core.files import digest_file
from pentad.medical.dicom import Series
from pentad.medical.ingest import find_cases, load_scan
from pentad.medical.models import MODELS
from pentad.medical.predictors import check_predictor
from pentad.medical.volumes import Volume, grid_distance, read_label, write_nifti


def worklist(folder: Path) -> list[dict[str, str]]:
    with (folder / "worklist.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def results(folder: Path) -> dict[str, str]:
    """Digest of every file of every case, and the worklist without the seconds."""
    digests = {str(path.relative_to(folder)): digest_file(path) for path in (folder / "cases").rglob("*.*")}
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in worklist(folder)]
    left = (folder / "left_aside.jsonl").read_text()
    return {**digests, "worklist": json.dumps(rows), "left_aside": left}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """Two studies, one with a localizer, and an image; one study more that is refused."""
    folder = tmp_path_factory.mktemp("given") / "studies"
    for name in "ab":
        write_series(folder / name, Scan(study=name, shape=(12, 40, 40)))
    scout = Scan(study="a", series="scout").but(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder / "a", scout, indices=[0])
    write_series(folder / "gap", Scan(study="gap"), indices=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    write_nifti(folder / "c.nii.gz", Volume(tiny_ct(0), GRID))
    return folder


def predict(studies: Path, out: Path, *options: object) -> tuple[object, ...]:
    """The call; all of one test use one key, so that pseudonyms agree."""
    key = studies.with_name("key")
    return ("medical", "predict", studies, "-o", out, "--model", "threshold", "--key-file", key, *options)


@pytest.fixture(scope="module")
def whole(studies, tmp_path_factory) -> Path:
    """The run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    done = call(*predict(studies, out, "--run", "r"))
    assert done.code == 3
    return out / "r"


def test_a_study_gets_label_object_volumes_and_page(whole):
    good = [row for row in worklist(whole) if row["status"] == "ok"]
    assert len(good) == 3
    for row in good:
        label = read_label(whole / "cases" / row["id"] / "label.nii.gz")
        stated = json.loads((whole / "cases" / row["id"] / "volumes.json").read_text())
        assert stated["volumes"]["liver_ml"] == pytest.approx((label.array > 0).sum() * label.voxel_ml, abs=1e-3)
        assert float(row["liver_ml"]) == stated["volumes"]["liver_ml"]
        assert row["id"] in (whole / "cases" / row["id"] / "page.html").read_text()


def test_only_the_outputs_asked_for_are_written(studies, tmp_path):
    options = ("-o", tmp_path, "--run", "r", "--model", "threshold", "--outputs", "nifti")
    assert call("medical", "predict", studies / "c.nii.gz", *options).code == 0
    assert {path.name for path in (tmp_path / "r" / "cases" / "c").iterdir()} == {
        "label.nii.gz",
        "volumes.json",
        "qc.json",
    }


def test_a_second_run_into_the_same_folder_refuses_and_changes_nothing(whole, studies):
    before = results(whole)
    done = call(*predict(studies, whole.parent, "--run", "r"))
    assert done.code == 2
    assert "PTD-242" in done.sentence()
    assert results(whole) == before


def test_resuming_a_finished_run_does_nothing_again(whole, studies):
    before = {path: path.stat().st_mtime_ns for path in (whole / "cases").rglob("*.*")}
    assert call(*predict(studies, whole.parent, "--resume", "r")).code == 3
    assert {path: path.stat().st_mtime_ns for path in (whole / "cases").rglob("*.*")} == before


def test_a_dry_run_tells_the_cases_and_writes_nothing(studies, tmp_path):
    done = call(*predict(studies, tmp_path / "out", "--dry-run"))
    assert done.code == 3
    assert done.out.count("would process ") == 3
    assert "rejected gap/series-000.dcm and 10 more: PTD-336 " in done.out
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_aside_what_any_study_holds_and_ends_well(studies, tmp_path):
    key = ("--key-file", studies.with_name("key"))
    done = call("medical", "predict", studies / "a", "-o", tmp_path, "--model", "threshold", "--dry-run", *key)
    assert done.code == 0
    assert done.out.count("left aside ") == done.out.count("PTD-323 a localizer") == 1
    assert "1 of 1 cases to do, 0 rejected" in done.out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda bundle: (bundle / "model.safetensors").unlink(), "PTD-503 .*model.safetensors is missing"),
        (lambda bundle: (bundle / "model.safetensors").write_bytes(b"other"), "PTD-503 .*not as it was saved"),
        (lambda bundle: (bundle / "bundle.json").unlink(), "PTD-501"),
        (lambda bundle: shutil.rmtree(bundle), "PTD-520"),
    ],
)
def test_a_dry_run_without_a_usable_model_ends_as_the_run_would(damage, sentence, studies, trained, tmp_path):
    bundle = shutil.copytree(trained / "bundle", tmp_path / "bundle")
    damage(bundle)
    done = call("medical", "predict", studies, "-o", tmp_path / "out", "--model", bundle, "--dry-run")
    assert done.code == 5
    assert re.search(sentence, done.sentence())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_a_bundle_whose_settings_are_of_another_version(trained, tmp_path):
    bundle = load_bundle(trained / "bundle", "medical", {name: cls for name, (_, cls) in MODELS.items()})
    statement = {"settings": {**bundle.settings, "sharpness": 1}, "card": "", "provenance": {}}
    save_bundle(tmp_path / "other", bundle.model, domain="medical", name=bundle.name, **statement)
    with pytest.raises(ModelError, match=r"PTD-389 .*sharpness"):
        check_predictor(str(tmp_path / "other"))
    check_predictor(str(trained / "bundle"))


def test_the_process_that_hands_out_cases_loads_none_of_what_works_on_them(trained):
    code = f"""
import sys
from pathlib import Path
from pentad.medical import infer
digest = infer._model_digest({str(trained / "bundle")!r})
assert digest == {json.loads((trained / "bundle" / "bundle.json").read_text())["digest"]!r}
sys.exit(bool({{"torch", "scipy.ndimage", "SimpleITK", "highdicom", "matplotlib"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_run_killed_in_its_middle_goes_on_to_the_same_results(whole, studies, tmp_path):
    process = subprocess.Popen(command(*predict(studies, tmp_path, "--run", "r")), stderr=subprocess.DEVNULL)
    journal = tmp_path / "r" / "journal.jsonl"
    while process.poll() is None and not (journal.is_file() and journal.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done_before = len(journal.read_text().splitlines())
    assert 1 <= done_before < 3
    assert call(*predict(studies, tmp_path, "--resume", "r")).code == 3
    assert len(journal.read_text().splitlines()) == 3  # nothing was done twice
    assert results(tmp_path / "r") == results(whole)


@pytest.mark.slow
def test_shards_merge_to_the_run_of_one(whole, studies, tmp_path):
    for shard in ("1/2", "2/2"):
        assert call(*predict(studies, tmp_path, "--run", "s", "--shard", shard)).code in (0, 3)
    alone = call("merge", tmp_path / "s-1of2", "-o", tmp_path / "joined")
    assert alone.code == 2
    assert "PTD-255" in alone.sentence()
    done = call("merge", tmp_path / "s-1of2", tmp_path / "s-2of2", "-o", tmp_path / "joined")
    assert done.code == 3
    assert results(tmp_path / "joined") == results(whole)


@pytest.mark.slow
def test_a_bundle_predicts_what_evaluate_scored(trained, tmp_path):
    table, params = trained / "prepared" / "cases.jsonl", trained / "params.yaml"
    model = ("--model", trained / "bundle", "--device", "cpu")
    assert call("medical", "evaluate", table, *model, "-o", tmp_path / "scored", "--params", params).code == 0
    options = ("--split", "test", "--run", "r", "--outputs", "nifti")
    assert call("medical", "predict", table, *model, "-o", tmp_path, *options).code == 0
    for scored in (tmp_path / "scored" / "labels").iterdir():
        shipped = tmp_path / "r" / "cases" / scored.stem / "label.nii.gz"
        assert np.array_equal(read_label(shipped).array, read_label(scored).array)


@pytest.mark.slow
def test_of_two_runs_into_one_folder_at_the_same_time_the_second_refuses(studies, tmp_path):
    call_of_both = command(*predict(studies, tmp_path, "--run", "r", "--overwrite"))
    first = subprocess.Popen(call_of_both, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "r" / "run.json").is_file():
        time.sleep(0.01)
    second = run(*predict(studies, tmp_path, "--run", "r", "--overwrite"))
    assert second.code == 2
    assert "PTD-245" in second.sentence()
    assert first.wait() == 3
    assert [row["status"] for row in worklist(tmp_path / "r")] == ["rejected", "ok", "ok", "ok"]


def test_the_index_page_lists_the_worst_first_with_links_and_needs_no_other_file(whole):
    text = (whole / "index.html").read_text()
    assert text.index("PTD-336") < text.index('/page.html"')
    for row in worklist(whole):
        if row["status"] == "ok":
            assert f'href="cases/{row["id"]}/page.html"' in text
    assert not re.search(r"""(src|href)=["'](https?:)?//|<script""", text)


def test_every_output_says_research_use_only_and_what_made_it(whole):
    identity = json.loads((whole / "run.json").read_text())["identity"]
    pages = [*whole.glob("*.html"), *whole.rglob("page.html"), *whole.rglob("qc.json"), *whole.rglob("volumes.json")]
    assert len(pages) == 2 + 3 * 3
    for path in [*pages, whole / "run.json"]:
        text = path.read_text()
        assert "research use only" in text.lower(), path.name
        assert identity["model"] in text, path.name
        assert identity["code"] in text, path.name


def test_worklist_links_lead_to_files(whole):
    for row in worklist(whole):
        if row["status"] == "ok":
            named = [row[name] for name in ("nifti", "seg", "sr", "page") if row[name]]
            assert len(named) == (2 if row["id"] == "c" else 4)
            assert all((whole / name).is_file() for name in named)


def test_flagged_cases_end_a_strict_run_with_3_and_stand_in_qc_json(tmp_path):
    without = np.where(tiny_ct(0) > 0, 40, -1000).astype(np.int16)  # a body without a liver
    write_nifti(tmp_path / "in" / "without.nii.gz", Volume(without, GRID))
    options = ("-o", tmp_path, "--model", "threshold", "--outputs", "nifti")
    assert call("medical", "predict", tmp_path / "in", *options, "--run", "mild").code == 0
    assert call("medical", "predict", tmp_path / "in", *options, "--run", "strict", "--strict").code == 3
    (row,) = worklist(tmp_path / "strict")
    assert row["flags"] == "empty"
    quality = json.loads((tmp_path / "strict" / "cases" / "without" / "qc.json").read_text())
    assert [item["flag"] for item in quality["flags"]] == ["empty"]


def test_names_that_escape_or_inject_stay_words(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    inputs = tmp_path / "in"
    attributes = {"PatientID": "../../escaped", "PatientName": evil, "SeriesDescription": evil, "StudyID": evil}
    write_series(inputs / evil, Scan(study="good").but(**attributes))
    write_series(inputs / "uid", Scan(study="bad").but(StudyInstanceUID="../../../escaped", **attributes))
    write_series(
        inputs / f"{evil} gap", Scan(study="gap").but(**attributes), indices=[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    )
    write_nifti(inputs / f"{evil}.nii.gz", Volume(tiny_ct(0), GRID))
    write_series(inputs / os.fsdecode(b"\xff no text"), Scan(study="bytes"))
    with zipfile.ZipFile(inputs / "slip.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "out")
    before = {path for path in tmp_path.parent.rglob("*escaped*")}
    done = call(*predict(inputs, tmp_path / "out", "--run", "r"))
    assert done.code == 3
    assert {path for path in tmp_path.parent.rglob("*escaped*")} == before
    pages = list((tmp_path / "out" / "r").rglob("*.html"))
    assert len(pages) == 2 + 4
    assert [path.name for path in pages if "<img" in path.read_text()] == []
    assert "slip.zip" in (tmp_path / "out" / "r" / "left_aside.jsonl").read_text()  # never opened


def test_a_report_without_its_segmentation_is_refused_before_anything_starts(studies, tmp_path):
    done = call(*predict(studies, tmp_path / "out", "--outputs", "sr,page"))
    assert done.code == 2
    assert "PTD-556" in done.sentence()
    assert not (tmp_path / "out").exists()


# Real scans.


def in_highdicom(path: Path, series: Series) -> np.ndarray:
    """The segment numbers (slice, row, column) that another reader finds on the series' images."""
    stored = highdicom.seg.segread(path)
    images = [plane.instance for plane in series.planes]
    return stored.get_pixels_by_source_instance(images, combine_segments=True, assert_missing_frames_are_empty=True)


def assert_every_case_lies_on_its_scan(inputs: Path, folder: Path, key: Path) -> None:
    """Labels have the grid of their input, and the DICOM objects read back as the same voxels."""
    cases, _ = find_cases(inputs, key_file=key)
    good = {row["id"] for row in worklist(folder) if row["status"] == "ok"}
    assert good == {case.id for case in cases}
    for case in cases:
        scan = load_scan(case)
        label = read_label(folder / "cases" / case.id / "label.nii.gz")
        assert grid_distance(label, scan.volume) < 1e-3
        if scan.series is not None:
            again = in_highdicom(folder / "cases" / case.id / "seg.dcm", scan.series)
            assert label.array.any()
            assert np.array_equal(np.minimum(again, 2), label.array)  # the liver, then a segment for every lesion


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("place", ["totalseg_example/dicom_series", "chaos_ct_metric_case"])
def test_a_real_study_is_segmented_on_its_own_grid(place, real_data, tmp_path):
    inputs = real_data / "medical" / place
    if place == "chaos_ct_metric_case":
        with zipfile.ZipFile(inputs / "chaos_ct_case.zip") as content:
            content.extractall(tmp_path / "in")
        inputs = tmp_path / "in"
    done = call(*predict(inputs, tmp_path, "--run", "r", "--key-file", tmp_path / "key"))
    assert done.code == 0, done.err
    assert len(worklist(tmp_path / "r")) == 1
    assert_every_case_lies_on_its_scan(inputs, tmp_path / "r", tmp_path / "key")


@pytest.mark.real_data
def test_every_awkward_file_is_read_or_refused_by_predict(real_data, tmp_path):
    inputs = real_data / "medical" / "dicom_awkward"
    done = run(*predict(inputs, tmp_path, "--run", "r", "--key-file", tmp_path / "key"))
    assert done.code in (3, 4)
    assert "Traceback" not in done.err
    told = [
        name
        for kind in ("rejected", "left_aside")
        for line in (tmp_path / "r" / f"{kind}.jsonl").read_text().splitlines()
        for name in json.loads(line)["files"]
    ]
    cases, _ = find_cases(inputs, key_file=tmp_path / "key")
    assert {case.id for case in cases} == {row["id"] for row in worklist(tmp_path / "r") if row["status"] != "rejected"}
    there = [path for path in inputs.rglob("*") if path.is_file()]
    assert len(told) == len(set(told)) == len(there) - sum(len(case.files) for case in cases)


@pytest.mark.real_data
def test_every_awkward_file_is_told_by_a_dry_run_of_prepare(real_data, tmp_path):
    inputs = real_data / "medical" / "dicom_awkward"
    (tmp_path / "params.yaml").write_text("prepare: {}\n")
    options = ("-o", tmp_path / "out", "--params", tmp_path / "params.yaml", "--dry-run")
    done = run("medical", "prepare", inputs, *options)
    assert done.code == 4
    told = [line for line in done.err.splitlines() if ": PTD-" in line]
    more = sum(int(line.partition(" and ")[2].split()[0]) for line in told if " more: " in line)
    assert len(told) + more == len([path for path in inputs.rglob("*") if path.is_file()])
    assert not (tmp_path / "out").exists()
