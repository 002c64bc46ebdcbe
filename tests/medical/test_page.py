import re

import numpy as np
import pytest

from pentad.medical.page import largest_section, montage, three_planes, volumes_ml, write_case_page
from pentad.medical.volumes import Volume

SPACING = (5.0, 1.0, 2.0)


def box(shape=(10, 20, 30), corner=(2, 3, 4), size=(4, 6, 8), value=1):
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))] = value
    return label


def test_the_largest_section_lies_in_the_widest_part():
    label = box()
    label[7, 3:20, 4:30] = 1
    assert largest_section(label > 0)[0] == 7
    assert largest_section(np.zeros((4, 6, 8), bool)) == (2, 3, 4)


def test_volumes_are_millilitres_and_the_liver_holds_its_lesions():
    label = box()
    label[3, 4, 5:9] = 2
    volumes = volumes_ml(label, SPACING, {"liver": 1, "lesion": 2})
    assert volumes == {"liver_ml": pytest.approx(4 * 6 * 8 * 10 / 1000), "lesion_ml": pytest.approx(0.04)}


def test_the_three_planes_keep_the_proportions_of_the_body():
    drawing = three_planes(np.zeros((10, 20, 30), np.float32), box(), SPACING)
    aspects = [axes.get_aspect() for axes in drawing.axes]
    assert aspects == [1.0 / 2.0, 5.0 / 2.0, 5.0 / 1.0]


def test_head_is_up_in_the_coronal_and_sagittal_plane():
    image = np.zeros((10, 20, 30), np.float32)
    image[9] = 100  # the slice nearest to the head
    _, coronal, sagittal = (axes.images[0].get_array() for axes in three_planes(image, box(), SPACING).axes)
    assert coronal[0].min() == 100
    assert sagittal[0].min() == 100


@pytest.mark.parametrize("label", [box(), np.zeros((10, 20, 30), np.uint8), np.full((10, 20, 30), 2, np.uint8)])
def test_a_montage_shows_slices_of_the_finding_or_of_the_scan(label):
    drawing = montage(np.zeros(label.shape, np.float32), label, SPACING, count=4)
    shown = [int(axes.get_title()) - 1 for axes in drawing.axes]
    found = np.flatnonzero(label.any(axis=(1, 2))) if label.any() else np.arange(10)
    assert shown[0] == found[0]
    assert shown[-1] == found[-1]


def test_the_page_escapes_its_strings_and_states_what_made_it(tmp_path):
    scan = Volume(np.zeros((10, 20, 30), np.float32), np.diag([2.0, 1.0, 5.0, 1.0]))
    write_case_page(tmp_path / "page.html", "<b>x", scan, box(), {"liver_ml": 1.5}, {"model": "abc123"})
    text = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;x" in text
    assert "<b>x" not in text
    assert "abc123" in text
    assert re.search(r"Research use only", text)


def test_among_many_organs_the_liver_holds_no_organ_numbered_after_it(tmp_path):
    label = box(value=5) + box(corner=(7, 10, 15), size=(2, 2, 2), value=7)
    classes = {"aorta": 1, "liver": 5, "spleen": 7}
    volumes = volumes_ml(label, SPACING, classes)
    assert volumes == {"aorta_ml": 0, "liver_ml": pytest.approx(1.92), "spleen_ml": pytest.approx(0.08)}
    write_case_page(
        tmp_path / "page.html", "c", Volume(np.zeros(label.shape, np.float32), np.eye(4)), label, volumes, {}
    )
    page = (tmp_path / "page.html").read_text()
    assert "All structures together" in page
    assert "lesions" not in page
