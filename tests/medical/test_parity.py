from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pentad.core import parity as core_parity
from pentad.core import recipe
from pentad.core.errors import ModelError, UsageError
from pentad.medical import parity

REFERENCE = Path(__file__).parents[1] / "reference"
FILES = sorted(REFERENCE.glob("u_mamba.*.json"))


@pytest.fixture
def small():
    """Figures in the published format for another variant: 3-D Enc with swapped roles, without deep supervision."""
    plan = {
        "patch_size": [4, 8, 8],
        "num_input_channels": 2,
        "num_classes": 2,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage_encoder": [1, 2, 2],
        "n_conv_per_stage_decoder": [2, 1],
    }
    with torch.device("meta"):
        model = parity.UMambaEnc(parity.config_from_official(plan))
    tensors = {name: list(value.shape) for name, value in model.state_dict().items()}
    figures = {"shape": [1, 2, 4, 8, 8], "std": 1.0, "index": [0], "value": [0.0]}
    return {
        "model": "u_mamba",
        "hyperparameters": {"plan": plan, "deep_supervision": False, "mamba": {"d_state": 16}},
        "tensors": tensors,
        "aliases": {f"decoder.{name}": name for name in tensors if name.startswith("encoder.")},
        "input": {"key": "input:small", "shape": [1, 2, 4, 8, 8]},
        "expected": {"output": figures},
    }


def test_all_files_of_u_mamba_hold_from_the_network_to_the_planner(capsys):
    assert [path.name.split(".")[1] for path in FILES] == ["bot_3d", "enc_2d", "loss", "plans"]
    assert core_parity.check(FILES, "float32") == 0
    printed = capsys.readouterr().out
    assert "ct_abdomen 2.1.1" in printed
    assert "case 3 total" in printed
    assert printed.rstrip().endswith("all within tolerance")


def test_another_variant_is_built_from_its_file(small):
    rows = {stage: error for stage, error, _ in parity.u_mamba(small, torch.float64)}
    model = parity.network(small).double().eval()
    x = torch.from_numpy(recipe.array("input:small", (1, 2, 4, 8, 8))).double()
    assert rows["output"] == pytest.approx(abs(model(x).flatten()[0].item()), abs=1e-12)


def test_a_file_whose_tensors_are_another_networks_names_them(small):
    small["tensors"]["decoder.seg_layers.0.weight"] = [3, 6, 1, 1, 1]
    with pytest.raises(ModelError, match=r"decoder\.seg_layers\.0\.weight \(3, 6, 1, 1, 1\)"):
        parity.u_mamba(small, torch.float64)


def test_a_wrong_parameter_count_is_above_tolerance(small):
    small["parameters"] = 1
    stage, error, tolerance = parity.u_mamba(small, torch.float32)[-1]
    assert stage == "parameters"
    assert error > tolerance


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("input", {}, "PTD-276 .*the entry 'key' is missing"),
        ("expected", {"output": {}, "stages": {"encoder.no_such": {}}}, "PTD-277 .*no_such"),
    ],
)
def test_an_incomplete_file_is_refused_in_one_sentence(small, tmp_path, entry, value, sentence):
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**small, entry: value}))
    with pytest.raises(UsageError, match=sentence):
        core_parity.check([path])
