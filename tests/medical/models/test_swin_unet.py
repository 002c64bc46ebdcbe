from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pentad.core.checkpoint import load_strict
from pentad.core.errors import ModelError
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import config_for, fitted
from pentad.medical.models.swin_unet import (
    SwinUNet,
    SwinUNetConfig,
    config_from_official,
    config_from_state,
    official_state,
    padded,
    swin_unet_tiny,
)
from pentad.medical.parity import made_fingerprint
from pentad.medical.plan import PlanOptions, plan, plan_all

REFERENCE = Path(__file__).parents[2] / "reference"
SPEC = json.loads((REFERENCE / "swin_unet.tiny224.json").read_text())
PLANS = {case["name"]: case for case in json.loads((REFERENCE / "u_mamba.plans.json").read_text())["cases"]}
# No published size: three stages of other depths, heads and windows, two channels, no biases.
SMALL = SwinUNetConfig(
    classes=3,
    input_channels=2,
    embed_dim=12,
    depths=(2, 1, 2),
    heads=(2, 3, 4),
    windows=(4, 4, 2),
    mlp_ratio=2.0,
    qkv_bias=False,
)


def built(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return SwinUNet(config)


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_names(model):
    """The model's tensors as the published code saves them, masks and indices included."""
    state = {f"module.swin_unet.{name}": value for name, value in model.state_dict().items()}
    for name in list(state):
        if name.endswith("relative_position_bias_table"):
            state[name.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.long)
            state[name.replace("attn.relative_position_bias_table", "attn_mask")] = torch.zeros(4, 16, 16)
    return state


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = SwinUNet(swin_unet_tiny(9))
    assert sum(value.numel() for value in model.parameters()) == SPEC["parameters"] == 27_168_900


def test_the_tensors_are_the_published_ones_less_their_prefix():
    with torch.device("meta"):
        state = SwinUNet(config_from_official(SPEC["hyperparameters"])).state_dict()
    assert {f"swin_unet.{name}": list(value.shape) for name, value in state.items()} == SPEC["tensors"]


def test_a_published_checkpoint_with_masks_and_indices_is_taken():
    trained, fresh = built(seed=1), built(seed=2)
    load_strict(fresh, official_state(published_names(trained)))
    x = drawn(1, 2, 32, 48)
    assert torch.equal(fresh.eval()(x), trained.eval()(x))


@pytest.mark.parametrize("config", [SMALL, replace(swin_unet_tiny(4), depths=(1, 1, 3, 1)), swin_unet_tiny(2)])
def test_the_configuration_is_found_again_in_the_tensors_shapes(config):
    with torch.device("meta"):
        state = SwinUNet(config).state_dict()
    assert config_from_state(state) == replace(config, drop_path=0.2)


def test_windows_shrink_with_the_published_image_size():
    hyper = {**SPEC["hyperparameters"], "img_size": 128, "window_size": 8}
    assert config_from_official(hyper).windows == (8, 8, 8, 4)


@pytest.mark.parametrize(("name", "value"), [("patch_size", 2), ("ape", True), ("final_upsample", "bilinear")])
def test_constructor_values_that_no_checkpoint_has_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        config_from_official({**SPEC["hyperparameters"], name: value})


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (33, 50), (5, 7), (96, 16)])
def test_slices_of_any_size_come_back_in_that_size(size):
    assert built().eval()(drawn(1, 2, *size)).shape == (1, 3, *size)


def test_a_slice_is_seen_as_if_zeros_lay_below_and_on_its_right():
    model = built().eval()
    x = drawn(1, 2, 33, 50)
    torch.testing.assert_close(model(x), model(padded(x, 16))[..., :33, :50])


def test_one_channel_is_repeated():
    model = built().eval()
    x = drawn(2, 1, 32, 32)
    assert torch.equal(model(x), model(torch.cat([x, x], 1)))


def test_another_number_of_channels_is_refused():
    with pytest.raises(ModelError, match="PTD-531 slices of 3 channels for a model of 2; "):
        built()(torch.zeros(1, 3, 32, 32))


def test_a_batch_of_one_gives_what_it_gives_among_others():
    model = built().eval()
    x = drawn(3, 2, 32, 32)
    torch.testing.assert_close(model(x[1:2]), model(x)[1:2], rtol=1e-4, atol=1e-5)


def test_stochastic_depth_of_the_decoder_is_that_of_the_encoder_at_its_resolution():
    model = built(swin_unet_tiny(2))
    rates = [[block.drop_path.rate for block in stage.blocks] for stage in model.layers]
    assert rates[3][-1] == pytest.approx(0.2)
    assert [[block.drop_path.rate for block in stage.blocks] for stage in model.layers_up[1:]] == rates[2::-1]


def test_every_parameter_gets_a_finite_gradient():
    model = built(replace(SMALL, drop_path=0.0)).train()
    segmentation_loss(model(drawn(2, 2, 32, 32)), torch.randint(0, 3, (2, 1, 32, 32))).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_four_slices_are_learnt_by_heart():
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    discs = [(rows - 12 - n) ** 2 + (columns - 20 + 2 * n) ** 2 < (6 + n) ** 2 for n in range(4)]
    target = torch.stack(discs)[:, None].long()
    x = target + drawn(4, 1, 32, 32, seed=7)
    model = built(replace(SMALL, classes=2, embed_dim=24, drop_path=0.0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(100):
        loss = segmentation_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()(x).argmax(1, keepdim=True)
    assert 2 * (found * target).sum() / (found.sum() + target.sum()) > 0.95


def test_a_saved_model_comes_back_with_its_configuration(tmp_path):
    model = built().eval()
    model.save_pretrained(tmp_path)
    loaded = SwinUNet.from_pretrained(tmp_path)
    assert loaded.config == SMALL
    x = drawn(1, 2, 32, 32)
    assert torch.equal(loaded(x), model(x))


def test_a_2d_plan_gives_the_published_size_and_a_patch_of_whole_tokens():
    made = plan(
        made_fingerprint(PLANS["ct_abdomen"]["fingerprint"]), PlanOptions(configuration="2d", patch_size=(100, 64))
    )
    assert fitted("swin_unet", made).patch_size == (128, 64)
    assert config_for("swin_unet", made) == swin_unet_tiny(len(made.labels))


def test_a_3d_plan_is_refused_in_one_sentence():
    made = plan_all(made_fingerprint(PLANS["ct_abdomen"]["fingerprint"]))["3d_fullres"]
    with pytest.raises(ModelError, match=r"PTD-533 swin_unet segments slices, and the plan is '3d_fullres'; "):
        config_for("swin_unet", made)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": (2, 3)}, "one entry a stage"),
        ({"heads": (5, 3, 4)}, "heads divide"),
        ({"depths": (2,), "heads": (2,), "windows": (4,)}, "at least 2 stages"),
        ({"classes": 0}, "above 0"),
        ({"drop_path": 1.0}, "below 1"),
        ({"embed_dim": 7, "heads": (7, 7, 7)}, "embed_dim is even"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, sentence):
    with pytest.raises(ModelError, match=f"PTD-530 .*{sentence}"):
        replace(SMALL, **change)
