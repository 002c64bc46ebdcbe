from __future__ import annotations

import numpy as np
import pytest

from pentad.core import recipe

# First values drawn by the recipe that came with the golden figures, one for every rule.
EXPECTED = [
    ("stem.conv.weight", (2, 3, 2), [-0.09294, 0.194792, 0.26261]),
    ("bn.running_mean", (3,), [-0.143061, 0.009283, -0.097633]),
    ("bn.running_var", (3,), [1.125127, 1.161487, 1.010809]),
    ("mamba.A_log", (2, 3), [-0.014769, 0.520686, 1.190542]),
    ("x.D", (3,), [0.843673, 1.18857, 0.873655]),
    ("dt_proj.bias", (3,), [-3.951726, -3.933866, -4.166939]),
    ("dt_projs_bias", (1, 3), [-4.108061, -4.023067, -3.904256]),
    ("norm.weight", (3,), [0.92157, 1.028201, 0.977955]),
    ("norm.bias", (3,), [0.016652, -0.069008, -0.202277]),
    ("scale.weight", (), [0.86582]),
]


@pytest.mark.parametrize(("name", "shape", "values"), EXPECTED)
def test_a_weight_follows_the_rule_of_its_name(name, shape, values):
    drawn = recipe.weight(name, shape)
    assert drawn.dtype == np.float32
    assert drawn.shape == shape
    np.testing.assert_allclose(drawn.reshape(-1)[:3], values, atol=1e-6)


def test_an_input_is_fixed_by_its_key_and_scaled():
    expected = [[0.03532007, -1.1465085], [-0.5363674, -0.38213655]]
    np.testing.assert_allclose(recipe.array("input:x", (2, 2), scale=0.5), expected, rtol=1e-6)


def test_a_state_dict_holds_every_name():
    state = recipe.state_dict({"a.weight": [2, 2], "a.bias": [2]})
    assert {name: value.shape for name, value in state.items()} == {"a.weight": (2, 2), "a.bias": (2,)}


def test_an_error_is_a_share_of_the_standard_deviation():
    expected = {"shape": [2, 2], "std": 4.0, "index": [0, 3], "value": [1.0, 2.0]}
    assert recipe.compare(np.array([[1.0, 9.0], [9.0, 4.0]]), expected) == pytest.approx(0.5)


def test_an_error_where_nothing_varies_is_absolute():
    expected = {"shape": [2], "std": 0.0, "index": [0, 1], "value": [0.0, 0.0]}
    assert recipe.compare(np.array([0.0, 1e-3]), expected) == pytest.approx(1e-3)


def test_another_shape_is_no_match():
    with pytest.raises(ValueError, match=r"\[2\], expected \[3\]"):
        recipe.compare(np.zeros(2), {"shape": [3], "std": 1.0, "index": [], "value": []})
