from __future__ import annotations

import numpy as np
import pytest

from pentad.medical.findings import MOST_PARTS, count_lesions, find, longest_axial_diameter
from pentad.medical.volumes import Volume

CLASSES = {"liver": 1, "lesion": 2}
SPACING = (5.0, 2.0, 1.0)


def scan(array: np.ndarray) -> Volume:
    z, y, x = SPACING
    return Volume(array.astype(np.float32), np.diag([x, y, z, 1.0]))


def disc(radius_mm: float) -> np.ndarray:
    """One slice of a ball's middle, 1 mm pixels."""
    rows, columns = np.mgrid[-40:41, -40:41]
    return (rows**2 + columns**2 <= radius_mm**2)[None]


def test_a_disc_measures_its_diameter_within_a_pixel():
    assert longest_axial_diameter(disc(30), (5.0, 1.0, 1.0)) == pytest.approx(60, abs=1)


def test_a_single_voxel_measures_its_longer_edge():
    mask = np.zeros((3, 5, 5), bool)
    mask[1, 2, 2] = True
    assert longest_axial_diameter(mask, SPACING) == 2.0


def test_the_diameter_never_runs_through_several_slices():
    mask = np.zeros((30, 5, 5), bool)
    mask[:, 2, 1:4] = True
    assert longest_axial_diameter(mask, (5.0, 1.0, 1.0)) == 3.0


def test_the_longest_pair_of_an_outline_is_found_among_all_points():
    random = np.random.default_rng(0)
    mask = random.random((4, 9, 11)) < 0.2
    points = [
        (z, (y + dy) * 2.0, (x + dx) * 1.0)
        for z, y, x in np.argwhere(mask)
        for dy, dx in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    ]
    longest = max(np.hypot(a[1] - b[1], a[2] - b[2]) for a in points for b in points if a[0] == b[0])
    assert longest_axial_diameter(mask, SPACING) == pytest.approx(longest)


def test_each_lesion_is_a_finding_the_largest_first_and_the_organ_leaves_them_out():
    label = np.zeros((6, 10, 10), np.uint8)
    label[1:5, 1:9, 1:9] = 1
    label[2, 2, 2] = 2
    label[3, 5:7, 5] = 2
    values = np.where(label == 2, 60, 110)
    found, numbers = find(scan(values), label, CLASSES)
    assert [item.name for item in found] == ["liver", "lesion 1", "lesion 2"]
    assert [item.volume_ml for item in found] == [pytest.approx((4 * 64 - 3) * 0.01), 0.02, 0.01]
    assert [item.hu_mean for item in found] == [110, 60, 60]
    assert numbers[3, 5, 5] == 2
    assert numbers[2, 2, 2] == 3
    assert count_lesions(found) == 2


def test_mean_and_deviation_are_those_of_the_voxels():
    label = np.zeros((4, 5, 6), np.uint8)
    label[1:3, 1:4, 1:5] = 1
    values = np.random.default_rng(1).normal(100, 20, label.shape).astype(np.float32)
    (liver,), _ = find(scan(values), label, CLASSES)
    assert liver.hu_mean == pytest.approx(values[label == 1].mean(), abs=0.01)
    assert liver.hu_sd == pytest.approx(values[label == 1].std(), abs=0.01)


def test_nothing_found_gives_no_finding():
    found, numbers = find(scan(np.zeros((4, 5, 6))), np.zeros((4, 5, 6), np.uint8), CLASSES)
    assert (found, int(numbers.max())) == ([], 0)


def test_lesions_beyond_the_limit_are_measured_together_and_none_is_lost():
    label = np.zeros((2, 30, 30), np.uint8)
    label[0, ::2, ::2] = 2  # 225 single voxels
    found, numbers = find(scan(np.zeros(label.shape)), label, CLASSES)
    assert len(found) == MOST_PARTS + 1
    assert found[-1].name == f"lesions {MOST_PARTS + 1} to 225 together"
    assert sum(item.volume_ml for item in found) == pytest.approx(225 * 0.01)
    assert np.array_equal(numbers > 0, label > 0)
