from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medical.dicom_series import Scan, index_folder, uid, write_series

from pentad.core.cases import read_cases
from pentad.core.config import from_mapping
from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.medical.dicom import FileRejection, read_series
from pentad.medical.ingest import PrepareConfig, find_cases, harmless, load_scan, prepare
from pentad.medical.volumes import Volume, grid_distance, read_nifti, write_nifti

LPS = np.diag([1.0, 2.0, 3.0, 1.0])


def image(path: Path, *, shape=(12, 10, 8), affine=LPS, low=-1000) -> None:
    values = np.random.default_rng(0).integers(low, low + 1200, shape).astype(np.int16)
    write_nifti(path, Volume(values, affine))


def label(path: Path, *, shape=(12, 10, 8), affine=LPS, value=2, kind=np.uint8) -> None:
    array = np.zeros(shape, kind)
    array[3:6, 2:5, 2:5] = 1
    array[4, 3, 3] = value
    write_nifti(path, Volume(array, affine))


def study(raw: Path, name: str, scan: Scan | None = None) -> None:
    """A labelled study of the samples' layout, with a localizer and a second reconstruction beside the series."""
    scan = scan or Scan(study=name, patient=name)
    folder = raw / "studies" / name
    write_series(folder, scan)
    write_series(
        folder, Scan(study=name, patient=scan.patient, series="thick", shape=(11, 10, 8), spacing=(6.0, 2.0, 1.0))
    )
    localizer = Scan(study=name, patient=scan.patient, series="scout").but(
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    write_series(folder, localizer, indices=[0])
    series = next(item for item in index_folder(folder)[0] if item.series_uid == uid(name, scan.series))
    array = (read_series(series).array > -900).astype(np.uint8)
    write_nifti(raw / "labels" / f"{name}.nii", Volume(array, series.affine))


@pytest.fixture
def key(tmp_path):
    return tmp_path / "key"


def codes(rejections):
    return {item.where.split(" ")[0]: item.code for item in rejections}


def test_every_study_and_image_becomes_a_case(tmp_path, key):
    write_series(tmp_path / "in" / "a", Scan(study="a"))
    write_series(tmp_path / "in" / "b", Scan(study="b"))
    image(tmp_path / "in" / "c" / "scan one.nii.gz")
    cases, rejections = find_cases(tmp_path / "in", key_file=key)
    assert rejections == []
    assert [len(case.files) for case in cases] == [12, 12, 1]
    assert cases[2].id == "scan_one"


def test_dicom_ids_are_pseudonyms_that_repeat(tmp_path, key):
    write_series(tmp_path / "in")
    first, second = (find_cases(tmp_path / "in", key_file=key)[0][0].id for _ in range(2))
    other = find_cases(tmp_path / "in", key_file=tmp_path / "other")[0][0].id
    assert first == second != other
    assert len(first) == 12


def test_images_of_one_name_keep_different_ids(tmp_path):
    for name in ("a/scan.nii", "b/scan.nii.gz", "b/other.nii"):
        image(tmp_path / name)
    assert [case.id for case in find_cases(tmp_path)[0]] == ["a-scan", "other", "b-scan"]


def test_what_stands_beside_the_scans_is_told_and_harmless(tmp_path, key):
    study(tmp_path, "one")
    (tmp_path / "README.md").write_text("notes")
    mr = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
    write_series(tmp_path / "mr", Scan(study="one", patient="one", series="mr").but(**mr))
    cases, rejections = find_cases(tmp_path, key_file=key)
    assert len(cases) == 1
    assert sorted(item.code for item in rejections) == ["PTD-320", "PTD-323", "PTD-325", "PTD-326", "PTD-329"]
    assert all(harmless(item) for item in rejections)


def test_mr_instead_of_ct_is_refused(tmp_path, key):
    write_series(tmp_path / "in", Scan().but(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR"))
    cases, rejections = find_cases(tmp_path / "in", key_file=key)
    assert cases == []
    assert [(item.code, harmless(item)) for item in rejections] == [("PTD-331", False)]


def test_a_bad_study_leaves_the_others(tmp_path, key):
    write_series(tmp_path / "in" / "good", Scan(study="good"))
    write_series(tmp_path / "in" / "gap", Scan(study="gap"), indices=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    (tmp_path / "in" / "text.dcm").write_text("no scan")
    image(tmp_path / "in" / "flat.nii", shape=(1, 10, 8))
    cases, rejections = find_cases(tmp_path / "in", key_file=key)
    assert len(cases) == 1
    assert set(codes(rejections).values()) == {"PTD-336", "PTD-330", "PTD-351"}


def test_two_patients_in_one_folder_are_two_cases(tmp_path, key):
    write_series(tmp_path / "in", Scan(study="a", series="a"))
    write_series(tmp_path / "in", Scan(study="b", series="b", patient="patient-2"))
    assert len(find_cases(tmp_path / "in", key_file=key)[0]) == 2


def test_an_empty_folder_gives_no_case(tmp_path):
    assert find_cases(tmp_path) == ([], [])


def test_an_input_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="PTD-412"):
        find_cases(tmp_path / "nowhere")


def test_several_inputs_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.dcm").write_text("no scan")
    _, rejections = find_cases([tmp_path / "a", tmp_path / "b"])
    assert [item.where for item in rejections] == ["a/x.dcm", "b/x.dcm"]


def test_no_identifier_stands_in_cases_and_rejections(tmp_path, key):
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", Scan(study="b"), indices=[0, 1, 5])
    cases, rejections = find_cases(tmp_path / "in", key_file=key)
    text = "".join(item.model_dump_json() for item in [*cases, *rejections])
    for secret in ("patient-1", "Secret", uid("study"), uid("b"), "20200102"):
        assert secret not in text


def test_a_case_is_loaded_from_its_slices_alone(tmp_path, key):
    study(tmp_path, "one")
    case = find_cases(tmp_path / "studies", key_file=key)[0][0]
    scan = load_scan(case)
    assert scan.volume.array.shape == (12, 10, 8)
    assert scan.series is not None


def test_a_prepared_case_is_loaded_from_its_study(tmp_path):
    study(tmp_path / "raw", "one")
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    case = read_cases(tmp_path / "out" / "cases.jsonl")[0]
    assert load_scan(case).volume.array.shape == (12, 10, 8)


def test_a_nifti_that_is_no_ct_is_not_loaded(tmp_path):
    image(tmp_path / "mr.nii", low=0)
    with pytest.raises(CaseError, match="PTD-358"):
        load_scan(find_cases(tmp_path)[0][0])


def test_samples_are_prepared_on_one_canonical_grid(tmp_path):
    study(tmp_path / "raw", "one", Scan(study="one", row=(-1.0, 0.0, 0.0), column=(0.0, -1.0, 0.0)))
    study(tmp_path / "raw", "two", Scan(study="two", row=(1.0, 0.0, 0.0), column=(0.0, -1.0, 0.0)))
    summary = prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert (summary.cases, summary.refused) == (2, 0)
    for case in read_cases(tmp_path / "out" / "cases.jsonl"):
        volume, mask = read_nifti(Path(case.files["image"])), read_nifti(Path(case.files["label"]))
        assert volume.array.dtype == np.int16
        assert mask.array.dtype == np.uint8
        assert grid_distance(volume, mask) == 0
        assert np.array_equal(mask.array > 0, volume.array > -900)
        assert (np.diag(volume.affine) > 0).all()


def test_scans_of_one_patient_share_a_group(tmp_path):
    for name in ("one", "two"):
        study(tmp_path / "raw", name, Scan(study=name, patient="the same"))
    study(tmp_path / "raw", "three")
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    cases = {case.id: case for case in read_cases(tmp_path / "out" / "cases.jsonl")}
    assert cases["one"].group == cases["two"].group == "one"
    assert cases["three"].group == "three"
    assert cases["one"].split == cases["two"].split


def test_preparing_twice_gives_the_same_bytes(tmp_path):
    study(tmp_path / "raw", "one")
    for name in ("a", "b"):
        prepare(tmp_path / "raw", tmp_path / name, PrepareConfig())
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def lits(raw):
    image(raw / "batch 1" / "volume-3.nii")
    label(raw / "batch 2" / "segmentation-3.nii")


def msd(raw):
    image(raw / "Task03_Liver" / "imagesTr" / "liver_3.nii.gz")
    label(raw / "Task03_Liver" / "labelsTr" / "liver_3.nii.gz")
    (raw / "Task03_Liver" / "imagesTr" / "._liver_3.nii.gz").write_text("a Mac was here")
    image(raw / "Task03_Liver" / "imagesTs" / "liver_4.nii.gz")
    entry = {"image": "./imagesTr/liver_3.nii.gz", "label": "./labelsTr/liver_3.nii.gz"}
    (raw / "Task03_Liver" / "dataset.json").write_text(json.dumps({"training": [entry], "test": []}))


def pairs(raw):
    image(raw / "case_00_image.nii.gz")
    label(raw / "case_00_label.nii.gz")


def folders(raw):
    image(raw / "images" / "a.nii")
    label(raw / "labels" / "a.nii.gz")


@pytest.mark.parametrize(
    ("layout", "case", "aside"),
    [(lits, "lits-3", 0), (msd, "liver_3", 3), (pairs, "case_00", 0), (folders, "a", 0)],
)
def test_layouts_are_recognised(layout, case, aside, tmp_path):
    layout(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert [item.id for item in read_cases(tmp_path / "out" / "cases.jsonl")] == [case]
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["files"]) for line in lines) == aside


def test_names_of_studies_become_safe_and_different_ids(tmp_path):
    for name in ("Ö 1", "Ä 1"):
        study(tmp_path / "raw", name)
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert [item.id for item in read_cases(tmp_path / "out" / "cases.jsonl")] == ["1", "1-2"]


def test_a_layout_can_be_named(tmp_path):
    pairs(tmp_path / "raw")
    with pytest.raises(NoInputError, match="PTD-410"):
        prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(layout="lits"))
    with pytest.raises(UsageError, match="PTD-413"):
        prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(layout="lit"))


def test_raw_label_values_can_be_renamed(tmp_path):
    image(tmp_path / "raw" / "a_image.nii")
    label(tmp_path / "raw" / "a_label.nii", value=6)
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(label_values={6: 2}))
    assert read_nifti(tmp_path / "out" / "labels" / "a.nii").array.max() == 2


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({"value": 3}, "PTD-355"),
        ({"value": 1.5, "kind": np.float32}, "PTD-355"),
        ({"value": -1, "kind": np.int16}, "PTD-355"),
        ({"shape": (12, 10, 9)}, "PTD-356"),
        ({"affine": np.diag([1.0, 2.0, 3.2, 1.0])}, "PTD-357"),
    ],
)
def test_a_bad_label_is_refused_and_the_other_cases_are_prepared(broken, code, tmp_path):
    pairs(tmp_path / "raw")
    image(tmp_path / "raw" / "bad_image.nii")
    label(tmp_path / "raw" / "bad_label.nii", **broken)
    summary = prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert f"refused bad_image.nii: {code}" in str(summary)
    assert len(read_cases(tmp_path / "out" / "cases.jsonl")) == 1


def test_bad_images_are_refused_for_their_reason(tmp_path):
    pairs(tmp_path / "raw")
    nan = np.full((8, 10, 12), np.nan, np.float32)
    flat = np.zeros((8, 10), np.float32)
    for name, array in (("nan", nan), ("flat", flat)):
        nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "raw" / f"{name}_image.nii")
        label(tmp_path / "raw" / f"{name}_label.nii")
    image(tmp_path / "raw" / "mr_image.nii", low=0)
    label(tmp_path / "raw" / "mr_label.nii")
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    expected = {"nan_image.nii": "PTD-352", "flat_image.nii": "PTD-351", "mr_image.nii": "PTD-358"}
    assert {line["where"]: line["code"] for line in lines} == expected


def test_a_label_that_fits_no_series_is_refused(tmp_path):
    study(tmp_path / "raw", "good")
    study(tmp_path / "raw", "bad")
    label(tmp_path / "raw" / "labels" / "bad.nii")
    assert "studies/bad: PTD-363" in prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig()).text


def test_a_study_with_a_missing_slice_is_refused(tmp_path):
    study(tmp_path / "raw", "good")
    study(tmp_path / "raw", "bad")
    shutil.rmtree(tmp_path / "raw" / "studies" / "bad")
    write_series(tmp_path / "raw" / "studies" / "bad", Scan(study="bad"), indices=[0, 1, 2, 4, 5])
    assert "studies/bad: PTD-336" in prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig()).text


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path):
    study(tmp_path / "raw", "one")
    before = sorted(tmp_path.rglob("*"))
    summary = prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(), dry_run=True)
    assert str(summary).startswith("would prepare 1 cases")
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_usable_is_told_with_the_reasons(tmp_path, caplog):
    write_series(tmp_path / "raw", Scan(), indices=[0, 1, 5])
    with caplog.at_level(logging.WARNING), pytest.raises(NoInputError, match="PTD-410"):
        prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert "PTD-336" in caplog.text
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_no_input(tmp_path):
    with pytest.raises(NoInputError, match="PTD-411"):
        prepare(tmp_path, tmp_path / "out", PrepareConfig())


def test_what_is_there_is_not_overwritten_unasked(tmp_path):
    pairs(tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    with pytest.raises(UsageError, match="PTD-414"):
        prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    assert prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig(), overwrite=True).cases == 1


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path):
    pairs(tmp_path / "raw")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"PTD-415 .*cannot be written"):
        prepare(tmp_path / "raw", tmp_path / "file" / "out", PrepareConfig())


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    resource = pytest.importorskip("resource")
    pairs(tmp_path / "raw")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(UsageError, match="PTD-415"):
            prepare(tmp_path / "raw", tmp_path / "out", PrepareConfig())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_typo_in_the_settings_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'min_slices'"):
        from_mapping(PrepareConfig, {"select": {"min_slice": 5}}, "params.yaml, prepare")


@pytest.mark.real_data
def test_every_awkward_file_is_told_by_a_dry_run(real_data, tmp_path, caplog):
    root = real_data / "medical" / "dicom_awkward"
    with caplog.at_level(logging.INFO), pytest.raises(NoInputError, match="PTD-410"):
        prepare(root, tmp_path / "out", PrepareConfig(), dry_run=True)
    assert "can be read but has no label" in caplog.text
    cases, rejections = find_cases(root, key_file=tmp_path / "key")
    used = {Path(path).relative_to(root.resolve()).as_posix() for case in cases for path in case.files.values()}
    used |= {name for item in rejections if isinstance(item, FileRejection) for name in item.files}
    assert used == {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.real_data
def test_real_pairs_are_prepared(real_data, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for kind in ("image", "label"):
        source = real_data / "medical" / "liver_ct_11" / "volumes" / f"case_00_{kind}.nii.gz"
        (raw / source.name).symlink_to(source)
    prepare(raw, tmp_path / "out", PrepareConfig())
    mask = read_nifti(tmp_path / "out" / "labels" / "case_00.nii").array
    assert mask.shape == (28, 256, 256)
    assert ((mask > 0).sum(), (mask == 2).sum()) == (137957, 652)
