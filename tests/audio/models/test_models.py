from __future__ import annotations

import pytest
import torch

from pentad.audio.models import MODELS, build
from pentad.audio.models.passt import PaSST, PaSSTConfig
from pentad.core.errors import ModelError

SIZES = {"classes": 3, "mel_bins": 32, "frames": 64}
SETTINGS = {
    "ast": {"dim": 16, "depth": 1, "heads": 2},
    "passt": {"dim": 16, "depth": 1, "heads": 2},
    "hts_at": {"image": 64, "dim": 8, "depths": [1, 1], "heads": [1, 2], "window": 4},
    "cnn": {"channels": [4, 8], "time_pooling": 4},
}


def model(name, **settings):
    torch.manual_seed(0)
    return build(name, {**SETTINGS[name], **settings}, **SIZES)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_four_clips_by_heart(name):
    network, x = model(name).train(), torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(1))
    optimizer, wanted = torch.optim.AdamW(network.parameters(), lr=0.01), torch.eye(4, 3)
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x).clip, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", ["ast", "hts_at", "passt"])
def test_longer_input_is_refused_and_not_cut(name):
    network = model(name).eval()
    with pytest.raises(ModelError, match=r"PTD-70[35]"):
        network(torch.zeros(1, 300, 32))


@pytest.mark.parametrize("name", ["hts_at", "cnn", "passt"])
def test_shorter_input_is_taken(name):
    assert model(name).eval()(torch.randn(2, 40, 32)).clip.shape == (2, 3)


def test_scores_over_time_cover_the_window_in_equal_steps():
    assert model("hts_at").eval()(torch.randn(2, 64, 32)).frames.shape == (2, 16, 3)
    assert model("cnn").eval()(torch.randn(2, 64, 32)).frames.shape == (2, 16, 3)


def test_patchout_leaves_out_as_many_as_asked_and_only_in_training():
    config = PaSSTConfig(3, 32, 96, 16, (8, 8), 16, 1, 2, patchout_time=4, patchout_frequency=1, patchout=3)
    network, x = PaSST(config), torch.randn(2, 96, 32)
    assert network.train().embeddings(x).shape[1] == 2 + (11 - 4) * (3 - 1) - 3
    assert network.eval().embeddings(x).shape[1] == 2 + 11 * 3


def test_patchout_of_a_short_clip_is_refused_with_a_sentence():
    network = PaSST(PaSSTConfig(3, 32, 96, 16, (8, 8), 16, 1, 2, patchout_time=9)).train()
    with pytest.raises(ModelError, match="PTD-706 patchout leaves none of 3 x 4 patches"):
        network(torch.randn(1, 40, 32))


def test_stochastic_depth_drops_both_branches():
    network = model("hts_at", drop_path=0.99).train()
    x = torch.randn(64, 8, 8, 16)
    assert (network.layers[1].blocks[0](x) == x).flatten(1).all(1).float().mean() > 0.8


def test_an_unknown_model_is_named_with_its_nearest():
    with pytest.raises(ModelError, match=r"PTD-709 .*did you mean 'passt'"):
        build("past", {}, **SIZES)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ast", {"heads": 3}),
        ("hts_at", {"image": 100}),
        ("cnn", {"time_pooling": 3}),
        ("passt", {"patchout": -1}),
        ("passt", {"strides": (20, 10)}),
    ],
)
def test_impossible_sizes_are_refused(name, settings):
    with pytest.raises(ModelError, match=r"PTD-70[278]"):
        model(name, **settings)
