from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pentad.core.cases import Case
from pentad.core.errors import CaseError, UsageError
from pentad.medical.fingerprint import nonzero_box
from pentad.medical.parity import differences, made_fingerprint
from pentad.medical.plan import Fingerprint, PlanOptions, fingerprint, plan, plan_all, read_plan
from pentad.medical.volumes import Volume, write_nifti

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "u_mamba.plans.json").read_text())["cases"]
NAMES = [case["name"] for case in GOLDEN]


def golden(name: str) -> Fingerprint:
    return made_fingerprint(GOLDEN[NAMES.index(name)]["fingerprint"])


def uniform(spacing=(5.0, 1.0, 1.0), shape=(60, 300, 300), cases=20, channels=("CT",), relative=1.0) -> Fingerprint:
    return Fingerprint((spacing,) * cases, (shape,) * cases, (relative,) * cases, channels, ("background", "liver"))


@pytest.mark.parametrize("rules", ["2.1.1", "2.8.1"])
@pytest.mark.parametrize("case", GOLDEN, ids=NAMES)
def test_every_configuration_is_the_published_planners(case, rules):
    expected = case[f"expected_{rules.replace('.', '_')}"]
    expected = case["expected_2_1_1"] if expected == "same" else expected
    plans = plan_all(made_fingerprint(case["fingerprint"]), PlanOptions(rules=rules))
    assert differences(plans, expected) == []


def test_a_single_difference_from_the_published_plan_is_found():
    plans = plan_all(golden("brats"))
    plans["3d_fullres"] = replace(plans["3d_fullres"], batch_size=3)
    assert differences(plans, GOLDEN[NAMES.index("brats")]["expected_2_1_1"]) == ["3d_fullres.batch_size: 3, not 2"]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_smaller_memory_gives_less_voxels_a_step(configuration):
    sizes = []
    for memory in (8.0, 2.0, 0.5):
        made = plan(uniform(), PlanOptions(configuration=configuration, memory_gb=memory))
        sizes.append(np.prod(made.patch_size) * made.batch_size)
    assert sizes[0] > sizes[1] > sizes[2]


def test_narrow_networks_get_larger_patches_in_the_same_memory():
    wide, narrow = (plan(uniform(), PlanOptions(memory_gb=0.5, base_features=base)) for base in (32, 8))
    assert np.prod(narrow.patch_size) > np.prod(wide.patch_size)
    assert narrow.features[:3] == (8, 16, 32)


@pytest.mark.parametrize("memory", [8.0, 0.3, 0.1])
def test_the_strides_divide_the_patch_and_no_map_is_smaller_than_4(memory):
    made = plan(uniform(), PlanOptions(memory_gb=memory, base_features=12))
    divisor = np.prod(made.strides, axis=0)
    assert (np.asarray(made.patch_size) % divisor == 0).all()
    pooled = divisor > 1
    assert (np.asarray(made.patch_size) // divisor)[pooled].min() >= 4


def test_a_coarse_axis_is_pooled_and_convolved_later():
    made = plan(uniform())
    assert made.strides[1] == (1, 2, 2)
    assert made.kernel_sizes[0] == (1, 3, 3)
    assert made.kernel_sizes[-1] == (3, 3, 3)


def test_the_coarsest_axis_comes_first_and_a_given_spacing_replaces_the_rules():
    made = plan(uniform(), PlanOptions(spacing=(2.0, 2.0, 4.0)))
    assert made.transpose == (2, 0, 1)
    assert made.spacing == (4.0, 2.0, 2.0)
    assert made.median_shape == (75.0, 150.0, 150.0)


def test_a_given_patch_is_padded_to_the_strides_and_holds_for_its_configuration_alone():
    options = PlanOptions(patch_size=(20, 90, 96), batch_size=3)
    plans = plan_all(uniform(), options)
    assert plans["3d_fullres"].patch_size == (20, 96, 96)
    assert plans["3d_fullres"].batch_size == 3
    assert plans["2d"] == plan_all(uniform())["2d"]


def test_masked_modalities_are_normalised_inside_the_mask_but_ct_is_not():
    made = plan(uniform(channels=("CT", "MR", "noNorm"), relative=0.5))
    assert [entry.scheme for entry in made.normalisation] == ["ct", "zscore", "none"]
    assert [entry.inside_mask for entry in made.normalisation] == [False, True, False]


def test_a_plan_is_the_same_after_saving_and_reading(tmp_path):
    made = plan(golden("ct_abdomen_spread"))
    made.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == made


def test_a_typo_in_a_plan_file_names_the_nearest_entry(tmp_path):
    path = tmp_path / "plan.json"
    plan(uniform()).save(path)
    path.write_text(path.read_text().replace('"strides"', '"stride"'))
    with pytest.raises(UsageError, match=r"unknown setting 'stride' .*'strides'"):
        read_plan(path)


def test_a_missing_plan_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"PTD-287 .*cannot be read"):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memory_gb": 0}, "PTD-285 memory_gb of the plan is 0"),
        ({"spacing": (1.0, 1.0)}, "PTD-285 spacing has 2 values; give three"),
        ({"configuration": "2d", "patch_size": (8, 8, 8)}, "PTD-285 patch_size has 3 values; give 2"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "PTD-285 spacing"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        PlanOptions(**options)


def test_single_slices_have_no_3d_plan():
    with pytest.raises(UsageError, match=r"PTD-286 .*'3d_fullres'; choose one of 2d"):
        plan(golden("microscopy_png"))


@pytest.mark.parametrize("memory", [1e-3, 1e-6])
def test_a_hopeless_memory_budget_is_refused_in_one_sentence(memory):
    with pytest.raises(UsageError, match="PTD-288"):
        plan(uniform(), PlanOptions(memory_gb=memory))


def test_the_box_holds_what_is_non_zero_in_any_channel():
    image = np.zeros((2, 4, 5, 6))
    image[0, 1, 2, 3] = image[1, 2, 4, 3] = -1
    assert nonzero_box(image) == (slice(1, 3), slice(2, 5), slice(3, 4))
    assert nonzero_box(np.zeros((1, 4, 5, 6))) == (slice(0, 4), slice(0, 5), slice(0, 6))


@pytest.fixture
def cases(tmp_path):
    """Two cases: 4 x 6 x 8 voxels of -1000, a box of organ around 100 and 200 HU, padded by a plane of zeros."""
    made = []
    for number, level in enumerate((100.0, 200.0)):
        image = np.full((5, 6, 8), -1000.0, dtype=np.float32)
        image[0] = 0
        label = np.zeros(image.shape, dtype=np.uint8)
        label[2:4, 2:4, 2:6] = 1
        image[label > 0] = level + np.linspace(-1, 1, 16, dtype=np.float32)
        affine = np.diag([0.75, 0.75, 2.5, 1.0])
        files = {role: str(tmp_path / f"{role}{number}.nii") for role in ("image", "label")}
        write_nifti(Path(files["image"]), Volume(image, affine))
        write_nifti(Path(files["label"]), Volume(label, affine))
        made.append(Case(id=f"case{number}", files=files))
    return made


def test_the_fingerprint_measures_cropped_shapes_spacings_and_foreground(cases):
    found = fingerprint(cases, labels=("background", "liver"), draws=20000)
    assert found.shapes == ((4, 6, 8),) * 2
    np.testing.assert_allclose(found.spacings, [(2.5, 0.75, 0.75)] * 2, atol=1e-6)
    assert found.relative_sizes == (0.8, 0.8)
    intensity = found.intensities[0]
    assert intensity.mean == pytest.approx(150, abs=2)
    assert intensity.std == pytest.approx(50, abs=1)
    assert (intensity.minimum, intensity.maximum) == pytest.approx((99, 201), abs=0.01)
    assert intensity.low < 100 < 200 < intensity.high


def test_the_fingerprint_repeats_itself_and_follows_its_seed(cases):
    first, again, other = (
        fingerprint(cases, labels=("background", "liver"), draws=100, seed=seed).intensities for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_cases_without_foreground_are_refused(cases, tmp_path):
    empty = tmp_path / "empty.nii"
    write_nifti(empty, Volume(np.zeros((5, 6, 8), dtype=np.uint8), np.diag([0.75, 0.75, 2.5, 1.0])))
    blank = [case.model_copy(update={"files": {**case.files, "label": str(empty)}}) for case in cases]
    with pytest.raises(CaseError, match="PTD-284 no case has a labelled voxel"):
        fingerprint(blank)


def test_a_label_of_another_shape_names_its_case(cases, tmp_path):
    path = tmp_path / "other.nii"
    write_nifti(path, Volume(np.zeros((5, 6, 7), dtype=np.uint8), np.diag([0.75, 0.75, 2.5, 1.0])))
    case = cases[0].model_copy(update={"files": {**cases[0].files, "label": str(path)}})
    with pytest.raises(CaseError, match="PTD-356 case0: "):
        fingerprint([case])


def test_a_case_without_a_label_names_the_role(cases):
    case = cases[0].model_copy(update={"files": {"image": cases[0].files["image"]}})
    with pytest.raises(CaseError, match="PTD-283 case0: the case has no file 'label'"):
        fingerprint([case])
