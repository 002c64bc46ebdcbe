from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from medical.dicom_series import Scan, dataset, index_folder, uid, value_at, write_multiframe, write_series
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from pentad.core.errors import CaseError
from pentad.medical.dicom import FileRejection, Series, read_series
from pentad.medical.dicom_pixels import read_pixels, to_hounsfield

AXES = [np.array(axis, dtype=float) * sign for axis in np.eye(3) for sign in (1, -1)]
DIRECTIONS = [(tuple(row), tuple(column)) for row, column in itertools.permutations(AXES, 2) if row @ column == 0]


def only_series(root: Path) -> Series:
    series, rejections = index_folder(root)
    assert [(item.where, item.reason) for item in rejections] == []
    assert len(series) == 1
    return series[0]


def refusal(root: Path) -> str:
    """Code and reason of the only rejection, where nothing usable was found."""
    series, rejections = index_folder(root)
    assert series == []
    assert len(rejections) == 1
    return f"{rejections[0].code} {rejections[0].reason}"


def wrong_voxels(series: Series) -> int:
    """Voxels whose value is not the one that belongs to their place in the world."""
    volume = read_series(series)
    z, y, x = np.meshgrid(*(np.arange(size) for size in volume.array.shape), indexing="ij")
    world = np.stack([x, y, z, np.ones_like(x)], axis=-1) @ volume.affine.T
    return int((np.abs(value_at(world[..., :3]) - volume.array) > 0.51).sum())


@pytest.mark.parametrize(("row", "column"), DIRECTIONS)
def test_every_direction_puts_values_in_their_place(row, column, tmp_path):
    write_series(tmp_path, Scan(shape=(5, 4, 3), row=row, column=column))
    assert wrong_voxels(only_series(tmp_path)) == 0


def test_an_oblique_series_puts_values_in_their_place(tmp_path):
    turn = np.linalg.qr(np.array([[1.0, 0.3, 0.2], [-0.2, 1.0, 0.4], [0.1, -0.3, 1.0]]))[0]
    write_series(tmp_path, Scan(row=tuple(turn[0]), column=tuple(turn[1])))
    assert wrong_voxels(only_series(tmp_path)) == 0


def test_spacing_comes_from_positions_not_from_thickness(tmp_path):
    write_series(tmp_path)
    assert only_series(tmp_path).spacing == pytest.approx((3.0, 2.0, 1.0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_compression_changes_no_value(syntax, tmp_path):
    scan = Scan(shape=(3, 32, 32))
    plain, packed = write_series(tmp_path / "plain", scan), write_series(tmp_path / "packed", scan, syntax=syntax)
    for one, other in zip(plain, packed, strict=True):
        assert np.array_equal(read_pixels(one)[0], read_pixels(other)[0])


def test_a_multi_frame_file_is_one_series(tmp_path):
    write_multiframe(tmp_path / "enhanced")
    series = only_series(tmp_path)
    assert series.shape == (12, 10, 8)
    assert wrong_voxels(series) == 0


def test_rescaling_gives_hounsfield_units(tmp_path):
    write_series(tmp_path, Scan(slope=0.5, intercept=-1000.0))
    assert wrong_voxels(only_series(tmp_path)) == 0


def test_signed_values_without_rescaling_are_hounsfield_units(tmp_path):
    write_series(tmp_path, Scan(intercept=0.0).but(RescaleSlope=None, RescaleIntercept=None, RescaleType=None))
    assert wrong_voxels(only_series(tmp_path)) == 0


def test_unsigned_values_without_rescaling_are_refused(tmp_path):
    write_series(tmp_path, Scan().but(RescaleSlope=None, RescaleIntercept=None, PixelRepresentation=0))
    assert re.match(r"PTD-344 .*HU", refusal(tmp_path))


def test_unsigned_values_are_read_as_such(tmp_path):
    write_series(tmp_path, Scan(intercept=-3000.0).but(PixelRepresentation=0))
    assert wrong_voxels(only_series(tmp_path)) == 0


def test_padding_becomes_air(tmp_path):
    write_series(tmp_path, Scan(shape=(3, 4, 4)))
    path = next(tmp_path.iterdir())
    image = pydicom.dcmread(path)
    stored = np.frombuffer(image.PixelData, "<i2").copy()
    stored[:5] = -2000
    image.add_new("PixelPaddingValue", "US", 63536)  # the same 16 bits, declared unsigned as many writers do
    image.PixelData = stored.tobytes()
    image.save_as(path)
    assert (read_series(only_series(tmp_path)).array == -1024).sum() == 5


def test_padding_that_looks_like_water_is_left():
    stored, padding = np.array([[0, 40]]), np.array([[True, False]])
    assert to_hounsfield(stored, padding, 1.0, 0.0).tolist() == [[0.0, 40.0]]


def test_bits_that_do_not_count_are_ignored(tmp_path):
    image = dataset(Scan(shape=(1, 1, 2)), 0, 1)
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 1
    image.PixelData = np.array([0x1FFF, 0x0005], "<u2").tobytes()  # an overlay bit above 12 bits of -1
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_pixels(tmp_path / "a.dcm")[0].ravel().tolist() == [-1, 5]


def test_two_reconstructions_in_one_folder_are_two_series(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, Scan(series="sharp", spacing=(5.0, 2.0, 1.0)))
    series, rejections = index_folder(tmp_path)
    assert [item.spacing[0] for item in series] == pytest.approx([3.0, 5.0])
    assert rejections == []


def test_two_patients_in_one_folder_are_two_studies(tmp_path):
    write_series(tmp_path / "one")
    write_series(tmp_path / "two", Scan(study="other", patient="patient-2"))
    series, _ = index_folder(tmp_path)
    assert len({item.study_uid for item in series}) == 2


def test_two_patients_in_one_study_are_refused(tmp_path):
    write_series(tmp_path, Scan(), indices=[0, 1, 2])
    write_series(tmp_path, Scan(series="b", patient="patient-2"), indices=[0, 1, 2])
    _, rejections = index_folder(tmp_path)
    assert [item.code for item in rejections] == ["PTD-342", "PTD-342"]


def test_a_missing_slice_is_found_between_its_neighbours(tmp_path):
    write_series(tmp_path, indices=[0, 1, 2, 4, 5, 6])
    assert re.match(r"PTD-336 .*1 slice is missing: 6\.00 mm between", refusal(tmp_path))


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_series_with_a_damaged_slice_is_refused_wherever_it_lies(place, tmp_path):
    write_series(tmp_path / "rest", indices=[index for index in range(12) if index != place])
    (cut,) = write_series(tmp_path / "cut", indices=[place])
    cut.write_bytes(cut.read_bytes()[:-60])
    series, rejections = index_folder(tmp_path)
    assert series == []
    assert [item.code for item in rejections] == ["PTD-330", "PTD-336"]


def test_duplicate_positions_are_refused(tmp_path):
    write_series(tmp_path)
    image = dataset(Scan(), 3, 99)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid("another")
    image.save_as(tmp_path / "again.dcm", enforce_file_format=True)
    assert re.match(r"PTD-335 .*again\.dcm", refusal(tmp_path))


def test_a_copy_of_a_file_does_no_harm(tmp_path):
    paths = write_series(tmp_path)
    (tmp_path / "copy").write_bytes(paths[0].read_bytes())
    series, rejections = index_folder(tmp_path)
    assert series[0].shape[0] == 12
    assert [item.code for item in rejections] == ["PTD-324"]


def test_a_changing_distance_is_refused(tmp_path):
    write_series(tmp_path, indices=[0, 1, 2])
    for number, index in enumerate((2.4, 2.8)):
        dataset(Scan(), index, number).save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert re.match(r"PTD-337 .*1\.20 to 3\.00 mm", refusal(tmp_path))


def test_positions_rounded_to_a_tenth_of_a_millimetre_pass(tmp_path):
    folder = tmp_path
    for index in range(40):
        image = dataset(Scan(spacing=(0.625, 1.0, 1.0)), index, index)
        image.ImagePositionPatient = [round(float(part), 1) for part in image.ImagePositionPatient]
        image.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    assert only_series(folder).spacing[0] == pytest.approx(0.625, abs=0.003)


def test_a_changing_orientation_is_refused(tmp_path):
    write_series(tmp_path, indices=[0, 1])
    write_series(tmp_path / "b", Scan(column=(0.0, 0.0, 1.0)), indices=[5, 6])
    assert re.match(r"PTD-339 .*directions", refusal(tmp_path))


def test_a_changing_size_is_refused(tmp_path):
    write_series(tmp_path, indices=[0, 1])
    write_series(tmp_path / "b", Scan(shape=(12, 9, 8)), indices=[5, 6])
    assert re.match(r"PTD-340 .*size", refusal(tmp_path))


def test_a_gantry_tilt_is_refused_with_its_angle(tmp_path):
    tilt = np.tan(np.radians(15))
    for index in range(6):
        image = dataset(Scan(), index, index)
        x, y, z = (float(part) for part in image.ImagePositionPatient)
        image.ImagePositionPatient = [x, y + tilt * 3.0 * index, z]
        image.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    assert re.match(r"PTD-338 .*tilted against their stacking by 15\.0 degrees", refusal(tmp_path))


def test_a_slice_that_stands_aside_is_refused(tmp_path):
    write_series(tmp_path)
    path = sorted(tmp_path.iterdir())[4]
    image = pydicom.dcmread(path)
    image.ImagePositionPatient = [float(image.ImagePositionPatient[0]) + 5.0, *image.ImagePositionPatient[1:]]
    image.save_as(path)
    assert refusal(tmp_path).startswith("PTD-341")


def test_a_single_slice_is_no_volume(tmp_path):
    write_series(tmp_path, indices=[3])
    assert refusal(tmp_path).startswith("PTD-334")


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"ImagePositionPatient": None}, "PTD-333"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "PTD-333"),
        ({"PixelSpacing": [0, 0]}, "PTD-333"),
        ({"PixelSpacing": [500, 500]}, "PTD-333"),
        ({"RescaleType": "US"}, "PTD-332"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "PTD-332"),
        ({"PixelData": None}, "PTD-332"),
        ({"RescaleSlope": 0}, "PTD-344"),
        ({"NumberOfFrames": 2, "PixelData": bytes(320)}, "PTD-333"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, "PTD-331"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "PTD-322"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR"}, "PTD-322"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Modality": "RTSTRUCT"}, "PTD-322"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "Modality": "PR"}, "PTD-322"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "PTD-322"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "PTD-323"),
    ],
)
def test_what_is_no_ct_slice_is_told_once_a_series(attributes, code, tmp_path):
    write_series(tmp_path, Scan().but(**attributes), indices=[0, 1, 2])
    told = refusal(tmp_path)
    assert told.startswith(code)
    assert told.endswith(".")
    assert not re.search("Secret|patient-1", told)


def test_a_dicomdir_is_reported_with_the_files_it_lacks(tmp_path):
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    image.file_meta.MediaStorageSOPInstanceUID = uid("directory")
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    record = pydicom.Dataset()
    record.ReferencedFileID = ["IMAGES", "IM1"]
    image.DirectoryRecordSequence = [record]
    image.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert re.match(r"PTD-321 .*lists 1 files, of which 1 are not here", refusal(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.dcm", b"", "PTD-330"),
        ("a.dcm", b"this is a text file", "PTD-330"),
        ("a", b"\x08\x00\x05\x00damaged", "PTD-330"),
        ("a.dcm", bytes(128) + b"DICM\x08", "PTD-330"),
        ("notes.txt", b"a note", "PTD-320"),
        (".DS_Store", b"", "PTD-320"),
    ],
)
def test_what_is_no_dicom_is_told(name, content, code, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path).startswith(code)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_never_read_as_an_image(syntax, share, tmp_path):
    path = write_series(tmp_path, Scan(shape=(1, 64, 64)), syntax=syntax)[0]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    _, rejections = index_folder(tmp_path)
    assert rejections[0].code in {"PTD-330", "PTD-332", "PTD-333"}


def test_damaged_pixel_data_end_in_one_sentence(tmp_path):
    paths = write_series(tmp_path, Scan(shape=(3, 64, 64)), syntax=JPEG2000Lossless)
    content = bytearray(paths[0].read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")  # start of the codestream
    content[start : start + 40] = bytes(40)
    paths[0].write_bytes(content)
    series, _ = index_folder(tmp_path)
    with pytest.raises(CaseError, match="PTD-343"):
        read_series(series[0])


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_read_or_refused_but_never_crashes(seed, tmp_path):
    rng = np.random.default_rng(seed)
    paths = write_series(tmp_path, Scan(shape=(3, 8, 8)))
    for path in paths:
        content = bytearray(path.read_bytes())
        for place in rng.integers(128, 1200, 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
    series, rejections = index_folder(tmp_path)
    refused = [name for item in rejections if isinstance(item, FileRejection) for name in item.files]
    assert sorted([*(name for item in series for name in item.names), *refused]) == [
        path.name for path in sorted(paths)
    ]
    for item in series:
        with contextlib.suppress(CaseError):
            assert read_series(item).array.dtype == np.float32


def test_blanked_study_and_series_uids_fall_back_to_the_folder(tmp_path):
    for name in ("one", "two"):
        write_series(tmp_path / name, Scan(study=name).but(StudyInstanceUID="", SeriesInstanceUID=""))
    series, rejections = index_folder(tmp_path)
    assert rejections == []
    assert len({item.study_uid for item in series}) == 2


def test_links_to_folders_are_followed_once(tmp_path):
    write_series(tmp_path / "data" / "study")
    (tmp_path / "farm").mkdir()
    (tmp_path / "farm" / "study").symlink_to(tmp_path / "data" / "study")
    (tmp_path / "farm" / "loop").symlink_to(tmp_path / "farm")
    assert only_series(tmp_path / "farm").shape[0] == 12


def test_a_broken_link_is_told(tmp_path):
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    assert refusal(tmp_path).startswith("PTD-330")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_told(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    assert "locked" in [item.where for item in index_folder(tmp_path)[1]]


def test_no_identifier_stands_in_the_printed_series(tmp_path):
    write_series(tmp_path)
    text = repr(only_series(tmp_path))
    assert "patient-1" not in text
    assert uid("study") not in text


def accounted(root: Path) -> tuple[set[str], set[str]]:
    series, rejections = index_folder(root)
    used = {name for item in series for name in item.names}
    refused = {name for item in rejections if isinstance(item, FileRejection) for name in item.files}
    assert not used & refused
    everything = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return used | refused, everything


@pytest.mark.real_data
def test_every_awkward_file_is_read_or_refused(real_data):
    told, there = accounted(real_data / "medical" / "dicom_awkward")
    assert told == there
    assert len(there) > 150


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("dcm_qa_ct_ge_variable_tilt", "PTD-338"),
        ("dcm_qa_ct_philips_localizer", "PTD-323"),
        ("dicom2nifti/failing_gantry_tilt", "PTD-338"),
        ("dicom2nifti/failing_slice_increment_a", "PTD-336"),
        ("dicom2nifti/failing_slice_orientation", "PTD-331"),
        ("dicom2nifti/philips_enhanced_multiframe", "PTD-331"),
        ("pydicom/dicomdirtests/77654033/CT2", "PTD-336"),
    ],
)
def test_awkward_series_are_refused_for_the_right_reason(folder, code, real_data):
    series, rejections = index_folder(real_data / "medical" / "dicom_awkward" / folder)
    assert series == []
    assert {item.code for item in rejections} == {code}


LOSSLESS = (
    "BigEndianExplicit_1.2.840.10008.1.2.2",
    "JPEG2000LosslessOnly_1.2.840.10008.1.2.4.90",
    "JPEGProcess14SV1_1.2.840.10008.1.2.4.70",
    "LittleEndianExplicit_1.2.840.10008.1.2.1",
    "LittleEndianImplicit_1.2.840.10008.1.2",
    "RLELossless_1.2.840.10008.1.2.5",
)


@pytest.mark.real_data
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_variants_equal_the_raw_slice(name, real_data):
    folder = real_data / "medical" / "dicom_awkward" / "ct_transfer_syntaxes"
    raw, _ = read_pixels(folder / "CTImage.dcm")
    assert np.array_equal(read_pixels(folder / f"CTImage_{name}.dcm")[0], raw)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("JPEGLSLossy_1.2.840.10008.1.2.4.81", 1),
        ("JPEGProcess2_4_1.2.840.10008.1.2.4.51", 5),
        ("JPEGProcess6_8_1.2.840.10008.1.2.4.53", 5),
        ("JPEGProcess10_12_1.2.840.10008.1.2.4.55", 5),
    ],
)
def test_lossy_variants_stay_within_a_few_hounsfield_units(name, mean, real_data):
    folder = real_data / "medical" / "dicom_awkward" / "ct_transfer_syntaxes"

    def hounsfield(path: Path) -> np.ndarray:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        return to_hounsfield(*read_pixels(path), float(header.RescaleSlope), float(header.RescaleIntercept))

    apart = np.abs(hounsfield(folder / "CTImage.dcm") - hounsfield(folder / f"CTImage_{name}.dcm"))
    assert apart.mean() <= mean


@pytest.mark.real_data
def test_the_awkward_multi_frame_ct_is_decoded(real_data):
    folder = real_data / "medical" / "dicom_awkward"
    raw, _ = read_pixels(folder / "pydicom_data" / "eCT_Supplemental.dcm")
    packed, _ = read_pixels(folder / "ct_transfer_syntaxes" / "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm")
    assert packed.shape == raw.shape == (2, 512, 512)


@pytest.mark.real_data
def test_the_chaos_series_has_the_spacing_of_its_positions(real_data, tmp_path):
    import zipfile

    archive = real_data / "medical" / "chaos_ct_metric_case" / "chaos_ct_case.zip"
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path, [name for name in content.namelist() if name.startswith("DICOM_anon")])
    series = only_series(tmp_path)
    assert series.shape == (78, 512, 512)
    assert series.spacing == pytest.approx((2.0, 0.7265625, 0.7265625))


@pytest.mark.real_data
def test_the_jpeg_2000_series_has_the_spacing_of_its_positions(real_data):
    series = only_series(real_data / "medical" / "totalseg_example" / "dicom_series")
    volume = read_series(series)
    assert series.spacing == pytest.approx((2.0, 0.9765625, 0.9765625))
    assert volume.array.min() == -1024
