"""Every rule on and off: each variant is the plain rule applied to the raw map."""

import numpy as np
import pytest

from pentad.core.evaluation import Row
from pentad.medical.ablation import SHIPPED, ablate, table_of, variants
from pentad.medical.postprocess import PostProcessing

CLASSES = {"liver": 1, "lesion": 2}
RULES = PostProcessing("liver", "lesion", smallest_lesion_ml=0.005)
SPACING = (1.0, 1.0, 1.0)


def reference():
    label = np.zeros((12, 24, 24), np.uint8)
    label[2:10, 4:16, 4:16] = 1
    label[4:8, 6:10, 6:10] = 2
    return label


def raw():
    """The reference with a stray liver, a hole, a lesion far from the liver and one of a single voxel."""
    label = reference()
    label[2:4, 20:22, 20:22] = 1
    label[5, 12, 12] = 0
    label[8:11, 20:23, 2:5] = 2
    label[3, 13, 13] = 2
    return label


def scores():
    return ablate(raw(), reference(), SPACING, CLASSES, RULES)


def test_all_rules_together_mend_every_planted_fault():
    assert scores()[SHIPPED] == {"liver_dice": 1.0, "lesion_dice": 1.0, "lesion_f1": 1.0}


def test_leaving_a_rule_out_shows_the_fault_that_it_mends():
    found = scores()
    assert found["without fill_holes"]["liver_dice"] < 1
    assert found["without smallest_lesion_ml"]["lesion_f1"] == pytest.approx(2 / 3)
    assert found["without largest_component"]["liver_dice"] < 1
    # Two rules drop the lesion outside: without the one, the other still does.
    assert found["without lesions_inside"]["lesion_dice"] == 1


def test_a_rule_alone_mends_its_own_fault_only():
    found = scores()
    none, alone = found["no rule"], found["only lesions_inside"]
    assert alone["lesion_dice"] > none["lesion_dice"]
    assert found["only smallest_lesion_ml"]["lesion_f1"] > none["lesion_f1"]
    assert alone["lesion_f1"] < 1


def test_the_raw_map_stays_as_it_is():
    label = raw()
    ablate(label, reference(), SPACING, CLASSES, RULES)
    assert np.array_equal(label, raw())


def test_a_rule_that_is_off_as_shipped_has_no_variant():
    names = variants(PostProcessing("liver", "lesion", fill_holes=False))
    assert not [name for name in names if "fill_holes" in name or "smallest" in name]
    assert len(names) == 2 + 2 * 2


def test_differences_are_paired_with_the_rules_as_shipped():
    rows = {name: [Row("a", metrics=found), Row("b", metrics=found)] for name, found in scores().items()}
    made = table_of(rows, seed=0)
    lost = made["without fill_holes"]["minus_shipped"]["liver_dice"]["value"]
    assert lost == pytest.approx(scores()["without fill_holes"]["liver_dice"] - 1, abs=1e-6)
    assert made[SHIPPED]["minus_shipped"]["liver_dice"]["value"] == 0
