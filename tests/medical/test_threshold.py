import numpy as np
import pytest

from pentad.medical.threshold import predict_threshold, threshold_labels
from pentad.medical.volumes import Volume


@pytest.fixture
def scan():
    image = np.full((24, 40, 40), -100, np.float32)
    image[2:20, 5:30, 5:30] = 110
    image[8:14, 10:18, 10:18] = 60
    image[2:20, 33:38, 33:38] = 115  # a smaller organ of the same intensity
    return image


def test_the_largest_component_is_the_liver_and_its_dark_part_a_lesion(scan):
    label = threshold_labels(scan)
    assert label[11, 7, 7] == 1
    assert label[11, 14, 14] == 2
    assert label[11, 35, 35] == 0


def test_a_liver_cut_by_the_field_of_view_reaches_the_border(scan):
    label = threshold_labels(scan[5:])
    assert np.all(label[:3, 7:28, 7:28] == 1)


def test_a_scan_without_such_intensities_gives_nothing():
    assert not threshold_labels(np.full((5, 20, 20), -1000, np.float32)).any()


def test_the_predictor_answers_on_the_scans_own_grid(scan):
    prediction = predict_threshold(Volume(scan, np.eye(4)))
    assert prediction.label.shape == scan.shape
    assert prediction.label.dtype == np.uint8
