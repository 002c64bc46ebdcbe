from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pentad.audio import parity
from pentad.core import recipe
from pentad.core.errors import ModelError

REFERENCE = Path(__file__).parents[1] / "reference"
CHECKS = {"ast": parity.ast, "hts_at": parity.hts_at, "passt": parity.passt, "frontend": parity.front_end}
CHEAP = sorted(path for path in REFERENCE.glob("*.json") if "frontend" in path.name or "pretrain" in path.name)
NETWORKS = ["ast.base384_speechcommands.json", "hts_at.audioset_wave.json", "passt.s_swa_p16_s10_2s.json"]


def check(path, dtype):
    return CHECKS[path.name.split(".")[0]](json.loads(path.read_text()), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", CHEAP, ids=lambda path: path.name)
def test_front_ends_and_adapted_weights_give_the_published_figures(path, dtype):
    assert [row for row in check(path, dtype) if not row[1] <= row[2]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_published_figures_at_every_stage(name):
    rows = check(REFERENCE / name, torch.float64)
    assert [row for row in rows if not row[1] <= row[2]] == []
    assert len(rows) > 8


def test_a_checkpoint_of_other_tensors_is_refused_by_name():
    spec = json.loads((REFERENCE / "hts_at.audioset_wave.json").read_text())
    spec["tensors"]["tscam_conv.bias"] = [7]
    with pytest.raises(ModelError, match=r"PTD-516 .*tscam_conv.bias \(7,\) instead of \(527,\)"):
        parity.hts_at(spec, torch.float64)


@pytest.mark.parametrize(("strides", "frames", "classes"), [((10, 10), 300, 5), ((16, 12), 130, 3), ((7, 9), 64, 2)])
def test_passt_equals_ast_where_its_positions_are_sums_of_rows_and_columns(strides, frames, classes):
    """Two importers, two embeddings, one network: other strides, lengths and class counts included."""
    from pentad.audio.models import ast, passt
    from pentad.audio.models.transformer import grid

    own = passt.PaSSTConfig(classes, 64, frames, 16, strides, 32, 2, 2)
    first = passt.PaSST(own).double().eval()
    second = ast.AST(ast.ASTConfig(classes, 64, frames, 16, strides, 32, 2, 2)).double().eval()
    rows, columns = grid(own)
    embeddings = first.embeddings
    state = {name: tensor for name, tensor in first.state_dict().items() if name.startswith("network.")}
    head = "network.audio_spectrogram_transformer.embeddings."
    patches = embeddings.freq_new_pos_embed[..., :rows, :] + embeddings.time_new_pos_embed[..., :columns]
    state[f"{head}position_embeddings"] = torch.cat(
        [embeddings.new_pos_embed, patches.flatten(2).transpose(1, 2)], dim=1
    )
    state[f"{head}cls_token"], state[f"{head}distillation_token"] = embeddings.cls_token, embeddings.dist_token
    for name, tensor in embeddings.projection.state_dict().items():
        state[f"{head}patch_embeddings.projection.{name}"] = tensor
    second.load_state_dict(state)
    x = torch.from_numpy(recipe.array("x", (2, frames, 64))).double()
    with torch.no_grad():
        assert (first(x).clip - second(x).clip).abs().max() < 1e-12
