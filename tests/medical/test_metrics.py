from __future__ import annotations

import io
import math
import re
import zipfile

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage

from pentad.core.errors import CaseError
from pentad.medical.metrics import (
    SUMMARY_METRICS,
    dice,
    hausdorff_mm,
    lesion_rows,
    match_lesions,
    pooled_metrics,
    score_case,
    surface_dice,
)

SPACING = (3.0, 0.8, 0.7)  # z, y, x


def ball(shape, centre, radius_mm, spacing=SPACING):
    axes = np.meshgrid(*[np.arange(length) * step for length, step in zip(shape, spacing, strict=True)], indexing="ij")
    return sum((axis - at * step) ** 2 for axis, at, step in zip(axes, centre, spacing, strict=True)) <= radius_mm**2


def box(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*pair) for pair in ranges)] = True
    return mask


def surface_distances(prediction, reference, spacing):
    """Distances in mm between the six-neighbour borders, in both directions, by scipy alone."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    away = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    return away[1][borders[0]], away[0][borders[1]]


@pytest.fixture
def liver_and_lesions():
    """A reference with two lesions, and a prediction that is shifted, misses one and invents one."""
    shape = (14, 50, 60)
    reference = ball(shape, (7, 25, 30), 17).astype(np.uint8)
    prediction = ball(shape, (7, 26, 32), 17).astype(np.uint8)
    reference[ball(shape, (7, 25, 24), 4)] = 2
    reference[ball(shape, (7, 24, 40), 3)] = 2
    prediction[ball(shape, (7, 25, 24), 3.7)] = 2
    prediction[ball(shape, (10, 30, 38), 2)] = 2
    return prediction, reference


def test_surface_metrics_equal_an_independent_distance_transform(liver_and_lesions):
    prediction, reference = (labels >= 1 for labels in liver_and_lesions)
    there, back = surface_distances(prediction, reference, SPACING)
    expected = np.mean(np.concatenate([there, back]) <= 1.0)
    assert 0.3 < expected < 0.95
    assert surface_dice(prediction, reference, SPACING, 1.0) == pytest.approx(expected, abs=1e-6)
    largest = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hausdorff_mm(prediction, reference, SPACING) == pytest.approx(largest, rel=1e-5)
    assert hausdorff_mm(prediction, reference, SPACING, None) == pytest.approx(max(there.max(), back.max()), rel=1e-5)


@pytest.mark.parametrize(("axis", "shift_mm"), [(0, 3.0), (1, 1.6), (2, 1.4)])
def test_spacing_is_taken_along_z_y_x(axis, shift_mm):
    reference = box((12, 24, 24), (3, 7), (6, 14), (6, 14))
    prediction = np.roll(reference, 1 if axis == 0 else 2, axis)
    assert hausdorff_mm(prediction, reference, SPACING, None) == pytest.approx(shift_mm, rel=1e-6)


def test_metrics_do_not_depend_on_the_empty_room_around(liver_and_lesions):
    padded = [np.pad(labels, ((2, 5), (0, 9), (4, 0))) for labels in liver_and_lesions]
    assert score_case(*padded, SPACING) == pytest.approx(score_case(*liver_and_lesions, SPACING), nan_ok=True)


def test_a_structure_cut_by_the_volume_has_its_border_at_the_cut():
    reference, prediction = box((4, 10, 10), (0, 4), (0, 10), (0, 6)), box((4, 10, 10), (0, 4), (0, 10), (0, 5))
    there, back = surface_distances(*(np.pad(mask, 1) for mask in (prediction, reference)), SPACING)
    expected = np.mean(np.concatenate([there, back]) <= 0.5)
    assert surface_dice(prediction, reference, SPACING, 0.5) == pytest.approx(expected, abs=1e-6)


def test_lesions_count_as_liver(liver_and_lesions):
    prediction, reference = liver_and_lesions
    found = score_case(prediction, reference, SPACING)
    assert found["liver_dice"] == pytest.approx(dice(prediction >= 1, reference >= 1))
    assert found["lesion_dice"] == pytest.approx(dice(prediction == 2, reference == 2))
    assert found["lesion_dice"] < found["liver_dice"] < 1


def test_volumes_are_in_millilitres_and_their_error_has_a_sign():
    reference, prediction = box((10, 10, 10), (0, 10), (0, 10), (0, 10)), box((10, 10, 10), (0, 4), (0, 10), (0, 10))
    found = score_case(prediction, reference, (5.0, 2.0, 1.0))
    assert (found["liver_volume_ml"], found["liver_predicted_volume_ml"]) == pytest.approx((10.0, 4.0))
    assert (found["liver_volume_error_ml"], found["liver_volume_absolute_error_ml"]) == pytest.approx((-6.0, 6.0))


def test_tumour_burden_is_the_share_of_lesion_in_liver():
    reference, prediction = np.ones((4, 5, 5), np.uint8), np.ones((4, 5, 5), np.uint8)
    reference[0], prediction[:2] = 2, 2
    assert score_case(prediction, reference, SPACING)["tumour_burden_error"] == pytest.approx(0.25)


def test_two_empty_cases_agree_and_have_no_distance():
    found = score_case(np.zeros((4, 5, 5)), np.zeros((4, 5, 5)), SPACING)
    ones = ("liver_dice", "liver_nsd", "lesion_dice", "lesion_nsd", "lesion_f1", "lesion_f1_any")
    nans = ("liver_hd95_mm", "lesion_hd95_mm", "lesion_precision", "lesion_recall", "tumour_burden_error")
    assert [found[name] for name in ones] == [1.0] * len(ones)
    assert all(math.isnan(found[name]) for name in nans)
    assert found["liver_volume_error_ml"] == 0


@pytest.mark.parametrize("missed", [True, False])
def test_a_lesion_on_one_side_only_scores_zero(missed):
    plain = np.ones((4, 9, 9), np.uint8)
    lesioned = plain.copy()
    lesioned[2, 2:5, 2:5] = 2
    found = score_case(plain, lesioned, SPACING) if missed else score_case(lesioned, plain, SPACING)
    assert (found["lesion_dice"], found["lesion_nsd"], found["lesion_f1"], found["lesion_f1_any"]) == (0, 0, 0, 0)
    assert math.isnan(found["lesion_hd95_mm"])
    assert math.isnan(found["lesion_precision" if missed else "lesion_recall"])
    assert found["lesion_recall" if missed else "lesion_precision"] == 0


def test_a_prediction_of_lesions_without_liver_has_liver_dice_zero():
    reference = np.ones((3, 6, 6), np.uint8)
    prediction = np.full((3, 6, 6), 2, np.uint8)
    assert score_case(prediction, reference, SPACING)["liver_dice"] == 0


def test_detection_counts_found_missed_and_invented_lesions(liver_and_lesions):
    found = score_case(*liver_and_lesions, SPACING)
    names = ("lesion_count", "lesion_predicted_count", "lesion_found_count", "lesion_true_count")
    assert [found[name] for name in names] == [2, 2, 1, 1]
    assert [found[f"lesion_{name}"] for name in ("precision", "recall", "f1")] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(("overlap", "found"), [(6, 0), (7, 1)])
def test_a_lesion_is_found_above_half_intersection_over_union(overlap, found):
    # Two bars of 9 voxels: IoU is 6/12 (not above a half) or 7/11.
    labels = [np.ones((3, 5, 20), np.uint8) for _ in range(2)]
    labels[0][1, 2, 2:11] = 2
    labels[1][1, 2, 11 - overlap : 20 - overlap] = 2
    scores = score_case(*labels, SPACING)
    assert (scores["lesion_recall"], scores["lesion_recall_any"]) == (found, 1)


def test_a_prediction_spanning_two_lesions_is_compared_with_their_union():
    reference = box((3, 4, 22), (0, 3), (0, 4), (0, 10)) | box((3, 4, 22), (0, 3), (0, 4), (11, 21))
    matches = match_lesions(box((3, 4, 22), (0, 3), (0, 4), (0, 21)), reference)
    assert matches.reference_match.tolist() == [0, 0]
    assert matches.iou.tolist() == [pytest.approx(20 / 21)]


def test_a_lesion_predicted_in_two_parts_is_compared_with_their_union():
    prediction = box((3, 4, 22), (0, 3), (0, 4), (0, 10)) | box((3, 4, 22), (0, 3), (0, 4), (11, 21))
    matches = match_lesions(prediction, box((3, 4, 22), (0, 3), (0, 4), (0, 21)))
    assert matches.predicted_match.tolist() == [0, 0]
    assert matches.ious("predicted").tolist() == [pytest.approx(20 / 21)] * 2


def test_two_found_lesions_that_touch_slightly_are_not_merged():
    shape = (1, 2, 40)
    reference = box(shape, (0, 1), (0, 1), (0, 10)) | box(shape, (0, 1), (0, 1), (12, 30))
    prediction = box(shape, (0, 1), (0, 1), (0, 13)) | box(shape, (0, 1), (0, 1), (14, 30))
    matches = match_lesions(prediction, reference)
    assert matches.reference_match.tolist() == matches.predicted_match.tolist() == [1, 0]
    assert matches.iou.tolist() == [pytest.approx(16 / 18), pytest.approx(10 / 13)]


def test_a_chain_of_overlaps_leaves_only_one_side_of_a_match_with_several():
    shape = (1, 1, 60)
    reference = box(shape, (0, 1), (0, 1), (0, 20)) | box(shape, (0, 1), (0, 1), (22, 40))
    prediction = box(shape, (0, 1), (0, 1), (2, 32)) | box(shape, (0, 1), (0, 1), (34, 45))
    matches = match_lesions(prediction, reference)
    assert matches.reference_match.tolist() == [0, 0]
    assert matches.predicted_match.tolist() == [0, -1]
    assert matches.predicted_touched.tolist() == [True, True]


def test_lesions_that_meet_at_a_corner_are_two():
    mask = box((2, 6, 6), (0, 1), (0, 3), (0, 3)) | box((2, 6, 6), (1, 2), (3, 6), (3, 6))
    assert len(match_lesions(mask, mask).reference_voxels) == 2


def test_lesion_rows_state_size_detection_and_dice(liver_and_lesions):
    rows = lesion_rows(*liver_and_lesions, SPACING)
    assert [(row["side"], row["found"]) for row in rows] == [
        ("reference", 1),
        ("reference", 0),
        ("predicted", 1),
        ("predicted", 0),
    ]
    prediction, reference = (labels == 2 for labels in liver_and_lesions)
    left = np.arange(60) < 34
    assert rows[0]["dice"] == pytest.approx(dice(prediction & left, reference & left))
    assert rows[0]["diameter_mm"] == pytest.approx(8, rel=0.1)
    assert rows[0]["volume_mm3"] == pytest.approx((reference & left).sum() * math.prod(SPACING))
    assert rows[1]["dice"] == 0


def test_pooled_values_weigh_cases_by_voxels_and_lesions(liver_and_lesions):
    prediction, reference = liver_and_lesions
    cases = [score_case(prediction, reference, SPACING), score_case(reference, reference, SPACING)]
    pooled = pooled_metrics(cases, seed=0)
    both = np.concatenate([prediction, reference]), np.concatenate([reference, reference])
    assert pooled["lesion_dice_global"].value == pytest.approx(dice(*(labels == 2 for labels in both)))
    assert pooled["lesion_recall_pooled"].value == pytest.approx(3 / 4)
    assert pooled["lesion_f1_pooled"].value == pytest.approx(3 / 4)
    assert pooled["lesion_f1_any_pooled"].value == pytest.approx(3 / 4)


def test_pooled_f1_is_zero_where_lesions_are_never_predicted(liver_and_lesions):
    _, reference = liver_and_lesions
    pooled = pooled_metrics([score_case(np.minimum(reference, 1), reference, SPACING)] * 2, seed=0)
    assert pooled["lesion_f1_pooled"].value == 0
    assert math.isnan(pooled["lesion_precision_pooled"].value)


def test_metrics_to_summarise_are_metrics_of_a_case(liver_and_lesions):
    assert set(SUMMARY_METRICS) <= set(score_case(*liver_and_lesions, SPACING))


GRID = np.ones((3, 4, 5))


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "message"),
    [
        (GRID[:2], GRID, SPACING, r"PTD-311 .*\(2, 4, 5\).*\(3, 4, 5\)"),
        (GRID[0], GRID[0], SPACING, "PTD-311"),
        (GRID * 3, GRID, SPACING, "PTD-312 the prediction holds the label 3"),
        (GRID, GRID * 0.5, SPACING, "PTD-312 the reference holds the label 0.5"),
        (GRID, GRID * math.nan, SPACING, "PTD-312 the reference holds the label nan"),
        (GRID.astype(int), GRID.astype(int) * -1, SPACING, "PTD-312 the reference holds the label -1"),
        (GRID, GRID, (1.0, 0.0, 1.0), "PTD-313"),
        (GRID, GRID, (1.0, 1.0), "PTD-313"),
        (GRID, GRID, (math.nan, 1.0, 1.0), "PTD-313"),
    ],
)
def test_input_that_cannot_be_scored_fails_its_case(prediction, reference, spacing, message):
    with pytest.raises(CaseError, match=message):
        score_case(prediction, reference, spacing)


@pytest.fixture(scope="session")
def chaos(real_data):
    """The CHAOS pair of masks (z, y, x) and its spacing; the slice positions are 2 mm apart."""
    archive = real_data / "medical/chaos_ct_metric_case/chaos_ct_case.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    volumes = []
    with zipfile.ZipFile(archive) as content:
        for folder in ("Segmentation", "Ground"):
            names = [name for name in content.namelist() if name.startswith(folder) and name.endswith(".png")]
            names.sort(key=lambda name: int(re.findall(r"\d+", name)[-1]))
            volumes.append(np.stack([imread(io.BytesIO(content.read(name))) > 0 for name in names]))
    return *volumes, (2.0, 0.7265625, 0.7265625)


@pytest.mark.real_data
def test_chaos_pair_scores_as_its_organisers_published(chaos):
    prediction, reference, spacing = chaos
    found = score_case(prediction, reference, spacing)
    assert found["liver_dice"] == pytest.approx(0.97843, abs=5e-6)
    relative = 100 * found["liver_volume_absolute_error_ml"] / found["liver_volume_ml"]
    assert relative == pytest.approx(0.66453, abs=5e-6)
    assert hausdorff_mm(prediction, reference, spacing, None) == pytest.approx(14.0, abs=1e-5)


@pytest.mark.real_data
def test_chaos_surfaces_equal_an_independent_distance_transform(chaos):
    prediction, reference, spacing = chaos
    place = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]
    there, back = surface_distances(*(np.pad(mask[place], 1) for mask in (prediction, reference)), spacing)
    found = score_case(prediction, reference, spacing)
    assert np.mean(np.concatenate([there, back])) == pytest.approx(0.713, abs=5e-4)
    assert found["liver_hd95_mm"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert found["liver_nsd"] == pytest.approx(np.mean(np.concatenate([there, back]) <= 5.0), abs=1e-6)
