import json
from pathlib import Path

import pytest
import torch

from pentad.core.errors import UsageError
from pentad.core.layers import parity
from pentad.core.layers.mamba import Mamba
from pentad.core.layers.selective_scan import preferred_backend

SPEC = json.loads((Path(__file__).parents[2] / "reference" / "mamba_block.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_published_block_is_reproduced_with_its_gradients(backend, dtype):
    with preferred_backend(backend):
        rows = parity.mamba_block(SPEC, dtype)
    assert len(rows) == 16
    assert [row for row in rows if not row[1] <= row[2]] == []


def test_tensors_have_the_published_names_shapes_and_order():
    state = Mamba(32).state_dict()
    assert {name: list(x.shape) for name, x in state.items()} == SPEC["tensors"]
    assert [name.split(".")[0] for name in state][:2] == ["A_log", "D"]
    assert sum(x.numel() for x in state.values()) == SPEC["parameters"]


def test_block_starts_as_published():
    torch.manual_seed(0)
    block = Mamba(48, d_state=8)
    step = torch.nn.functional.softplus(block.dt_proj.bias)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 9).expand(96, 8))
    assert (block.D == 1).all()
    assert 1e-3 <= step.min() < 2e-3
    assert 0.05 < step.max() <= 0.1001
    assert block.dt_proj.weight.abs().max() <= block.dt_rank**-0.5
    assert block.A_log._no_weight_decay
    assert block.D._no_weight_decay
    assert block.dt_proj.bias._no_reinit


def test_output_depends_on_the_past_only():
    block, x = Mamba(8).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 20:] += 1
    before, after = block(x), block(changed)
    torch.testing.assert_close(after[:, :20], before[:, :20], rtol=0, atol=1e-12)
    assert (after[:, 20] != before[:, 20]).any()


@pytest.mark.parametrize("length", [1, 2, 3, 200])
def test_every_length_works_and_samples_do_not_mix(length):
    block, x = Mamba(8, d_conv=3).double(), torch.randn(3, length, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x)[1:2], block(x[1:2]), rtol=0, atol=1e-12)


def test_block_compiles_without_a_graph_break():
    block, x = Mamba(8), torch.randn(1, 20, 8)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), rtol=0, atol=0)


def test_file_of_another_block_is_refused():
    other = json.loads(json.dumps(SPEC))
    other["tensors"]["dt_proj.weight"] = [64, 3]
    with pytest.raises(UsageError, match=r"PTD-124.*dt_proj\.weight"):
        parity.mamba_block(other, torch.float64)
