from __future__ import annotations

import itertools

import pytest
from medical.dicom_series import Scan, index_folder, write_series
from pydantic import ValidationError

from pentad.core.config import from_mapping
from pentad.core.errors import UsageError
from pentad.medical.selection import SelectionRules, choose

THIN = Scan(series="thin", spacing=(2.0, 1.0, 1.0)).but(SeriesDescription="Venous thin", ConvolutionKernel="B70s")
SOFT = Scan(series="soft", spacing=(4.0, 1.0, 1.0)).but(
    SeriesDescription="Venous", ConvolutionKernel="B30f", SeriesNumber=7
)
LONG = Scan(series="long", shape=(15, 10, 8), spacing=(5.0, 1.0, 1.0)).but(SeriesDescription="Native", SeriesNumber=1)


@pytest.fixture
def study(tmp_path):
    for scan in (THIN, SOFT, LONG):
        write_series(tmp_path / scan.series, scan)
    return index_folder(tmp_path)[0]


def chosen(study, **rules):
    series, rejections = choose(study, SelectionRules(**rules))
    refused = {item.where.split("/")[0] for item in rejections}
    assert refused | ({series.name.split("/")[0]} if series else set()) == {"thin", "soft", "long"}
    return series.name.split("/")[0] if series else None


@pytest.mark.parametrize(
    ("rules", "winner"),
    [
        ({}, "thin"),
        ({"prefer": "most_slices"}, "long"),
        ({"prefer": "first"}, "long"),
        ({"prefer_kernel": ["^b30"]}, "soft"),
        ({"prefer_description": ["native"]}, "long"),
        ({"kernel_exclude": ["B70"]}, "soft"),
        ({"kernel_include": ["nothing"]}, None),
        ({"description_exclude": ["thin", "native"]}, "soft"),
        ({"description_include": ["^venous$"]}, "soft"),
        ({"slice_spacing_mm": [3, 4.5]}, "soft"),
        ({"pixel_spacing_mm": [0.2, 0.9]}, None),
        ({"min_slices": 13}, "long"),
        ({"orientation": "coronal"}, None),
        ({"orientation": "any"}, "thin"),
    ],
)
def test_rules_choose_one_series_and_refuse_the_others(rules, winner, study):
    assert chosen(study, **rules) == winner


def test_the_choice_does_not_depend_on_the_order(study):
    assert len({choose(order, SelectionRules())[0].name for order in itertools.permutations(study)}) == 1


def test_a_coronal_series_is_told_from_an_axial_one(tmp_path):
    write_series(tmp_path, Scan(column=(0.0, 0.0, -1.0)))
    series, rejections = choose(index_folder(tmp_path)[0], SelectionRules())
    assert series is None
    assert rejections[0].reason == "its slices are coronal, against the rule orientation axial; " + (
        "give another series or change the rule."
    )


def test_an_unfit_series_and_an_unpreferred_one_have_different_codes(study):
    _, rejections = choose(study, SelectionRules(min_slices=13))
    assert {item.code for item in rejections} == {"PTD-346"}
    _, rejections = choose(study, SelectionRules())
    assert {item.code for item in rejections} == {"PTD-325"}


@pytest.mark.parametrize(
    "rules", [{"kernel_include": ["("]}, {"slice_spacing_mm": [5, 1]}, {"min_slices": 1}, {"modality": "MR"}]
)
def test_impossible_rules_are_refused(rules):
    with pytest.raises(ValidationError):
        SelectionRules(**rules)


def test_a_typo_in_the_rules_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'min_slices'"):
        from_mapping(SelectionRules, {"min_slice": 3}, "params.yaml, select")
