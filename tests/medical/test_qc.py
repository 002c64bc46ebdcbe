from __future__ import annotations

import numpy as np
import pytest

from pentad.medical.fingerprint import Intensity
from pentad.medical.qc import LEAST_AGREEMENT, TEXTS, Reference, check
from pentad.medical.training_range import TrainingRange, volumes_ml
from pentad.medical.volumes import Volume

SHAPE = (20, 30, 30)
CLASSES = {"liver": 1, "lesion": 2}
TRAINING = TrainingRange(
    cases=4,
    spacing=((2.0, 5.0), (0.7, 1.0), (0.7, 1.0)),
    volumes_ml={"liver": (2.0, 5.0), "lesion": (0.0, 0.5)},
    hu={"liver": (95.0, 115.0)},
)
REFERENCE = Reference(CLASSES, TRAINING, Intensity(100, 20, 100, -50, 250, 40, 170))


def labels() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[5:12, 8:20, 8:20] = 1  # 7 x 12 x 12 voxels of 3 mm3
    label[7, 10:13, 10:13] = 2
    return label


def scan(label: np.ndarray, liver: float = 105, spacing: tuple[float, float, float] = (3.0, 1.0, 1.0)) -> Volume:
    values = np.full(SHAPE, -1000.0, np.float32)
    values[:, 3:27, 3:27] = 40
    values[label > 0] = liver
    return Volume(values, np.diag([*reversed(spacing), 1.0]))


def quality(label, image=None, agreement=None, reference=REFERENCE):
    image = image or scan(label)
    return check(image, label, volumes_ml(label, image.spacing, CLASSES), agreement or {}, reference)


def test_a_scan_like_the_training_scans_has_no_flag():
    assert quality(labels(), agreement={"liver": 0.95}).flags == {}
    assert quality(labels(), agreement={"liver": 0.95}).unchecked == {}


def test_nothing_found_is_flagged_once():
    assert list(quality(np.zeros(SHAPE, np.uint8)).flags) == ["empty"]


@pytest.mark.parametrize(
    ("where", "side"),
    [
        ((slice(0, 6), slice(9, 19), slice(9, 19)), "feet"),
        ((slice(11, 20), slice(9, 19), slice(9, 19)), "head"),
        ((slice(6, 10), slice(0, 9), slice(9, 19)), "front"),
        ((slice(6, 10), slice(19, 30), slice(9, 19)), "back"),
        ((slice(6, 10), slice(9, 19), slice(0, 9)), "right"),
        ((slice(6, 10), slice(9, 19), slice(19, 30)), "left"),
    ],
)
def test_a_liver_at_an_edge_is_cut_and_its_volume_a_lower_bound(where, side):
    label = labels()
    label[where] = 1
    found = quality(label)
    assert f"edge: {side})" in found.flags["fov_cut"]
    assert found.lower_bounds == ["liver_ml"]


def test_a_lesion_at_the_edge_makes_both_volumes_lower_bounds():
    label = labels()
    label[:6, 9:12, 9:12] = 2
    assert quality(label).lower_bounds == ["liver_ml", "lesion_ml"]


def test_a_liver_beside_what_lies_outside_the_reconstructed_circle_is_cut():
    image = scan(labels())
    image.array[:, :, :8] = -1024
    assert "reconstructed circle" in quality(labels(), image).flags["fov_cut"]


def test_a_liver_in_two_parts_is_flagged_and_a_crumb_is_not():
    label = labels()
    label[14, 22, 22] = 1
    assert "fragments" not in quality(label).flags
    label[14:17, 21:25, 21:25] = 1
    assert "2 parts" in quality(label).flags["fragments"]


def test_a_spacing_outside_the_training_range_is_flagged():
    thick = quality(labels(), scan(labels(), spacing=(7.5, 1.0, 1.0)))
    assert "slices lie 7.5 mm apart" in thick.flags["spacing_range"]
    assert "spacing_range" not in quality(labels(), scan(labels(), spacing=(5.4, 1.0, 1.0))).flags


def test_intensities_outside_the_training_range_are_flagged():
    assert "intensity_range" in quality(labels(), scan(labels(), liver=190)).flags


def test_an_unenhanced_liver_suggests_another_phase():
    assert "55 HU" in quality(labels(), scan(labels(), liver=55)).flags["phase"]


def test_a_picture_without_the_grey_values_of_ct_suggests_another_modality():
    image = scan(labels())
    image.array[image.array > -500] += 600
    assert "modality" in quality(labels(), image).flags


def test_a_volume_far_outside_the_training_range_is_flagged_on_both_sides():
    small = np.zeros(SHAPE, np.uint8)
    small[5:8, 8:14, 8:14] = 1
    large = labels()
    large[2:18, 5:25, 5:25] = 1
    assert "volume_outlier" in quality(small).flags
    assert "volume_outlier" in quality(large).flags


def test_a_small_volume_is_no_outlier_where_the_scan_ends():
    small = np.zeros(SHAPE, np.uint8)
    small[:3, 8:14, 8:14] = 1
    assert list(quality(small).flags) == ["fov_cut"]


def test_poor_agreement_of_single_answers_is_flagged():
    assert "lesion 0.31" in quality(labels(), agreement={"liver": 0.96, "lesion": 0.31}).flags["disagreement"]
    assert quality(labels(), agreement={"liver": LEAST_AGREEMENT}).flags == {}


def test_what_cannot_be_checked_is_said():
    found = quality(labels(), reference=Reference(CLASSES))
    assert sorted(found.unchecked) == ["disagreement", "intensity_range", "phase", "spacing_range", "volume_outlier"]
    assert found.flags == {}


def test_every_flag_fits_the_fields_of_a_report():
    assert all(len(name) <= 16 and len(text) <= 64 for name, text in TEXTS.items())


def test_every_flag_has_one_sentence():
    label = labels()
    label[:, 9:12, 9:12] = 1
    sentences = quality(label, scan(label, 300, (9.0, 1.0, 1.0)), {"liver": 0.1}).flags
    assert len(sentences) >= 5
    assert all(text[0].isupper() and text.count(". ") == 0 and text[-1] in ".?" for text in sentences.values())
