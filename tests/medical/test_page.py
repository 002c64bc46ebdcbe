import re
from dataclasses import replace

import numpy as np
import pytest

from pentad.medical.findings import Finding
from pentad.medical.page import ShownCase, largest_section, montage, three_planes, write_case_page
from pentad.medical.pdf import write_case_pdf
from pentad.medical.qc import Quality
from pentad.medical.training_range import TrainingRange, volumes_ml
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


def shown() -> ShownCase:
    """A case whose every text a page must show or escape."""
    return ShownCase(
        case="<b>x",
        scan=Volume(np.zeros((10, 20, 30), np.float32), np.diag([2.0, 1.0, 5.0, 1.0])),
        label=box(),
        volumes={"liver_ml": 1234.56, "lesion_ml": 7.8},
        findings=[Finding(1, "liver", "liver", 1, 1226.76, 181.2, 104.4, 12.3)],
        quality=Quality({"fov_cut": "The scan ends within <i>liver</i>."}, ["liver_ml"]),
        provenance={"model": "abc123"},
        training=TrainingRange(4, ((1, 2), (1, 1), (1, 1)), {"liver": (900.0, 1800.0)}, {}),
        card="../../model_card.html",
    )


def test_the_page_escapes_its_strings_and_states_what_made_it(tmp_path):
    write_case_page(tmp_path / "page.html", shown())
    text = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;x" in text
    assert "<b>x" not in text
    assert "<i>" not in text
    assert "abc123" in text
    assert re.search(r"Research use only", text)


def test_the_page_says_lower_bounds_the_training_range_and_where_the_model_card_is(tmp_path):
    write_case_page(tmp_path / "page.html", shown())
    text = (tmp_path / "page.html").read_text()
    assert "≥ 1234.6" in text
    assert "900.0 to 1800.0" in text
    assert 'href="../../model_card.html"' in text
    assert "181.2" in text


def test_the_pdf_repeats_its_bytes(tmp_path):
    for name in ("one", "two"):
        write_case_pdf(tmp_path / f"{name}.pdf", shown())
    assert (tmp_path / "one.pdf").read_bytes()[:5] == b"%PDF-"
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "two.pdf").read_bytes()


def test_a_pdf_of_many_findings_has_more_pages(tmp_path):
    many = replace(shown(), findings=shown().findings * 200)
    for name, case in (("few", shown()), ("many", many)):
        write_case_pdf(tmp_path / f"{name}.pdf", case)
    few, more = (len(re.findall(rb"/Type /Page\b", (tmp_path / f"{n}.pdf").read_bytes())) for n in ("few", "many"))
    assert (few, more) == (3, 5)


def test_among_many_organs_the_liver_holds_no_organ_numbered_after_it(tmp_path):
    label = box(value=5) + box(corner=(7, 10, 15), size=(2, 2, 2), value=7)
    classes = {"aorta": 1, "liver": 5, "spleen": 7}
    volumes = volumes_ml(label, SPACING, classes)
    assert volumes == {"aorta_ml": 0, "liver_ml": pytest.approx(1.92), "spleen_ml": pytest.approx(0.08)}
    write_case_page(tmp_path / "page.html", replace(shown(), label=label, volumes=volumes, findings=[]))
    page = (tmp_path / "page.html").read_text()
    assert "All structures together" in page
    assert "lesions" not in page
