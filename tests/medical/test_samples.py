from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from pentad.core.samples import _is_current
from pentad.medical.phantom import build
from pentad.medical.samples import SCANS, write, write_study
from pentad.medical.shapes import Draws

DIGEST = Path(__file__).parents[1] / "reference" / "samples_medical.sha256"
DATA = Path(__file__).parents[2] / "data"


@dataclass(frozen=True)
class Reading:
    """One study as an independent reader sees it: images by series number, CT numbers and label on one grid."""

    series: dict[int, list[pydicom.Dataset]]
    hu: np.ndarray
    label: np.ndarray
    dicom_affine: np.ndarray
    label_affine: np.ndarray

    @property
    def steps(self):
        return np.abs(self.dicom_affine[:3, :3]).sum(0)[::-1]


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Path:
    """What `pentad samples` wrote with this very code, or where it has not, what is written now."""
    if _is_current(DATA):
        return DATA / "medical" / "liver"
    root = tmp_path_factory.mktemp("samples")
    write(root)
    return root / "medical" / "liver"


@pytest.fixture(scope="session")
def readings(samples) -> dict[str, Reading]:
    return {case: read(samples, case) for case in SCANS}


def read(samples: Path, case: str) -> Reading:
    series = defaultdict(list)
    for path in sorted((samples / "studies" / case).iterdir()):
        image = pydicom.dcmread(path)
        series[image.SeriesNumber].append(image)
    axial = series[2]
    row, column = np.array(axial[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    axial.sort(key=lambda image: float(normal @ np.array(image.ImagePositionPatient, float)))
    places = np.array([image.ImagePositionPatient for image in axial], float)
    affine = np.eye(4)
    affine[:3, 0] = row * float(axial[0].PixelSpacing[1])
    affine[:3, 1] = column * float(axial[0].PixelSpacing[0])
    affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
    affine[:3, 3] = places[0]
    hu = np.stack([i.pixel_array * float(i.RescaleSlope) + float(i.RescaleIntercept) for i in axial]).astype(np.float32)
    content = (samples / "labels" / f"{case}.nii").read_bytes()
    columns, rows, slices = struct.unpack_from("<3h", content, 42)
    label = np.frombuffer(content, np.uint8, offset=352).reshape(slices, rows, columns)
    label_affine = np.vstack([np.reshape(struct.unpack_from("<12f", content, 280), (3, 4)), [0, 0, 0, 1]])
    return Reading(dict(series), hu, label, affine, label_affine)


def digest_tree(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(
            f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return whole.hexdigest()


def lesions_of(reading: Reading) -> list[np.ndarray]:
    parts, count = ndimage.label(reading.label == 2)
    return [parts == number for number in range(1, count + 1)]


def test_all_bytes_are_those_of_the_stored_digest(samples):
    assert digest_tree(samples) == DIGEST.read_text().strip()


def test_writing_a_study_again_gives_the_same_bytes(samples, tmp_path):
    write_study(tmp_path, "liver-012")
    again = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(again) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"studies", "labels"}
    assert all((samples / path).read_bytes() == content for path, content in again.items())


def test_the_folder_holds_studies_labels_and_readme_within_58_megabytes(samples):
    assert sorted(path.name for path in samples.iterdir()) == ["README.md", "dataset.json", "labels", "studies"]
    assert len(list((samples / "studies").iterdir())) == len(list((samples / "labels").iterdir())) == 28
    assert sum(path.stat().st_size for path in samples.rglob("*") if path.is_file()) < 58e6


def test_every_label_lies_where_its_dicom_series_lies(readings):
    left_back_to_right_front = np.diag([-1.0, -1.0, 1.0, 1.0])
    for reading in readings.values():
        assert reading.label.shape == reading.hu.shape
        assert np.abs(left_back_to_right_front @ reading.dicom_affine - reading.label_affine).max() < 1e-4


def test_slices_are_evenly_spaced(readings):
    for reading in readings.values():
        places = np.array([image.ImagePositionPatient for image in reading.series[2]], float)
        assert np.ptp(np.diff(places, axis=0), axis=0).max() < 1e-9


def test_spacings_span_the_promised_ranges(readings):
    steps = np.array([reading.steps for reading in readings.values()])
    assert steps[:, 0].min() == 2.0
    assert steps[:, 0].max() == 5.0
    assert steps[:, 1:].min() == pytest.approx(0.703125)
    assert steps[:, 1:].max() == 2.0


def test_orientations_orders_rescales_and_thicknesses_differ(readings):
    first = [reading.series[2][0] for reading in readings.values()]
    assert {tuple(image.ImageOrientationPatient)[::4] for image in first} == {(1, 1), (-1, 1), (1, -1), (-1, -1)}
    assert {(float(i.RescaleSlope), float(i.RescaleIntercept)) for i in first} >= {(1, -1024), (1, 0), (0.5, -1024)}
    assert {image.InstanceNumber == 1 for image in first} == {True, False}
    assert any(abs(r.steps[0] - float(r.series[2][0].SliceThickness)) > 0.4 for r in readings.values())


def test_some_studies_hold_localizers_and_a_thicker_second_reconstruction(readings):
    localizers = [reading.series[1] for reading in readings.values() if 1 in reading.series]
    second = [reading for reading in readings.values() if 3 in reading.series]
    assert len(localizers) >= 4
    assert all("LOCALIZER" in image.ImageType for images in localizers for image in images)
    assert len(second) >= 3
    assert all(r.series[3][0].ConvolutionKernel != r.series[2][0].ConvolutionKernel for r in second)
    assert all(float(r.series[3][0].SliceThickness) > float(r.series[2][0].SliceThickness) for r in second)


def test_uids_are_valid_and_never_repeat(readings):
    images = [image for r in readings.values() for group in r.series.values() for image in group]
    uids = [image.SOPInstanceUID for image in images]
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)
    assert len(set(uids)) == len(images)
    assert {image.file_meta.ImplementationVersionName for image in images} == {"PENTAD_1"}


def test_liver_is_enhanced_and_noisy_in_every_study(readings):
    for reading in readings.values():
        core = reading.hu[ndimage.binary_erosion(reading.label == 1)]
        assert 90 <= np.median(core) <= 130
        assert 8 <= core.std() <= 20


def test_liver_is_one_piece_of_plausible_volume(readings):
    for case, reading in readings.items():
        parts, _ = ndimage.label(reading.label > 0)
        sizes = np.bincount(parts.ravel())[1:]
        litres = sizes.sum() * reading.steps.prod() / 1e6
        assert sizes.max() > 0.995 * sizes.sum()
        assert 0.7 < litres / SCANS[case].patient.scale ** 3 < 1.9


def test_every_study_has_the_lesions_of_its_description(readings):
    counts = {case: len(lesions_of(reading)) for case, reading in readings.items()}
    assert counts == {case: scan.patient.lesions for case, scan in SCANS.items()}
    assert min(counts.values()) == 0
    assert max(counts.values()) == 6


def test_lesions_measure_4_to_25_mm_and_few_are_below_6(readings):
    widths = []
    for reading in readings.values():
        for lesion in lesions_of(reading):
            widths.append(2 * (lesion.sum() * reading.steps.prod() * 0.75 / np.pi) ** (1 / 3))
    assert min(widths) > 4
    assert max(widths) < 25
    assert np.mean(np.array(widths) < 6) < 0.12


def test_lesions_are_darker_than_the_liver(readings):
    contrasts = []
    for reading in readings.values():
        liver = np.median(reading.hu[reading.label == 1])
        contrasts += [liver - np.median(reading.hu[lesion]) for lesion in lesions_of(reading)]
    assert min(contrasts) > 5
    assert np.mean((np.array(contrasts) > 20) & (np.array(contrasts) < 62)) > 0.85


def test_some_lesions_touch_the_capsule_and_others_do_not(readings):
    touching = []
    for reading in readings.values():
        touching += [
            bool((reading.label[ndimage.binary_dilation(lesion)] == 0).any()) for lesion in lesions_of(reading)
        ]
    assert 10 < sum(touching) < len(touching) - 10


def test_lesions_are_placed_20_to_60_hu_below_the_liver():
    phantom = build(SCANS["liver-005"].patient)
    liver = np.median(phantom.hu[phantom.label == 1])
    assert all(16 < liver - lesion.hu < 64 for lesion in phantom.lesions)


def test_a_threshold_does_not_find_the_liver(readings):
    scores = []
    for reading in list(readings.values())[:6]:
        smooth = ndimage.median_filter(reading.hu, 3)
        parts, _ = ndimage.label((smooth >= 80) & (smooth <= 150))
        found = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        liver = reading.label > 0
        scores.append(2 * (found & liver).sum() / (found.sum() + liver.sum()))
    assert np.mean(scores) < 0.8


def test_draws_repeat_by_key_and_keep_their_range():
    values = [Draws(1, 2).uniform(-3.0, 5.0), Draws(1, 2).uniform(-3.0, 5.0), Draws(2, 1).uniform(-3.0, 5.0)]
    assert values[0] == values[1] != values[2]
    assert all(-3.0 <= value < 5.0 for value in values)


def test_grain_has_mean_0_and_deviation_1():
    grain = Draws(7).grain((50, 50, 50))
    assert abs(grain.mean()) < 0.02
    assert grain.std() == pytest.approx(1.0, abs=0.02)
