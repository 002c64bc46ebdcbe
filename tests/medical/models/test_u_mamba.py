from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pentad.core.checkpoint import find_aliases, load_strict
from pentad.core.errors import ModelError
from pentad.medical import parity
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import MODELS, build, config_for
from pentad.medical.models.u_mamba import (
    DUPLICATES,
    MambaLayer,
    UMambaBot,
    UMambaConfig,
    UMambaEnc,
    config_from_official,
    effective_blocks,
    official_state,
)
from pentad.medical.plan import plan_all

REFERENCE = Path(__file__).parents[2] / "reference"
BOT_3D, ENC_2D = (json.loads((REFERENCE / f"u_mamba.{name}.json").read_text()) for name in ("bot_3d", "enc_2d"))
PLANS = {case["name"]: case for case in json.loads((REFERENCE / "u_mamba.plans.json").read_text())["cases"]}

FLAT = UMambaConfig(
    input_channels=1,
    classes=3,
    patch_size=(32, 24),
    features=(6, 10, 14),
    kernel_sizes=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
    encoder_blocks=(2, 2, 2),
    decoder_blocks=(2, 2),
)
# Widths, kernels, strides and block counts that no published plan has; the last map, 1 x 3 x 2, swaps the roles.
SOLID = UMambaConfig(
    input_channels=2,
    classes=5,
    patch_size=(4, 12, 8),
    features=(4, 6, 8),
    kernel_sizes=((1, 3, 3), (3, 3, 5), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    encoder_blocks=(3, 2, 2),
    decoder_blocks=(2, 3),
)


def built(cls, config, seed=0):
    torch.manual_seed(seed)
    return cls(config)


def published_names(model):
    """The model's tensors under every name the published code saves them by, behind a data-parallel prefix."""
    state = dict(model.state_dict())
    for name in list(state):
        twin = re.sub(r"\.(conv1|conv2)\.conv\.", r".\1.all_modules.0.", name)
        twin = re.sub(r"\.(conv1|conv2)\.norm\.", r".\1.all_modules.1.", twin)
        state[twin] = state[name]
    state |= {f"decoder.{name}": value for name, value in state.items() if name.startswith("encoder.")}
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        pytest.param(BOT_3D, torch.float64, id="bot_3d-float64", marks=pytest.mark.slow),
        pytest.param(BOT_3D, torch.float32, id="bot_3d-float32"),
        pytest.param(ENC_2D, torch.float64, id="enc_2d-float64"),
        pytest.param(ENC_2D, torch.float32, id="enc_2d-float32"),
    ],
)
def test_every_stage_has_the_published_values(spec, dtype):
    rows = parity.u_mamba(spec, dtype)
    assert {"output", "head 0", "encoder.stem", "parameters"} <= {stage for stage, _, _ in rows}
    assert [row for row in rows if not row[1] <= row[2]] == []


@pytest.mark.parametrize("spec", [BOT_3D, ENC_2D], ids=["bot_3d", "enc_2d"])
def test_the_second_names_of_tensors_are_those_of_the_published_checkpoint(spec):
    assert find_aliases([*spec["tensors"], *spec["aliases"]], DUPLICATES) == spec["aliases"]


@pytest.mark.parametrize(
    ("case", "configuration", "cls", "millions"),
    [
        ("ct_abdomen", "3d_fullres", UMambaBot, 41.945),
        ("ct_abdomen", "3d_fullres", UMambaEnc, 42.843),
        ("endoscopy_png", "2d", UMambaBot, 47.525),
        ("endoscopy_png", "2d", UMambaEnc, 47.681),
        ("microscopy_png", "2d", UMambaBot, 64.797),
        ("microscopy_png", "2d", UMambaEnc, 64.014),
    ],
)
def test_the_papers_networks_have_the_published_number_of_parameters(case, configuration, cls, millions):
    plan = plan_all(parity.made_fingerprint(PLANS[case]["fingerprint"]))[configuration]
    with torch.device("meta"):
        model = cls(config_for("u_mamba_bot", plan))
    assert sum(value.numel() for value in model.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)


@pytest.mark.parametrize(
    ("stages", "encoder", "decoder"),
    [
        (4, [2, 2, 1, 1], [2, 2, 1]),
        (5, [2, 2, 2, 1, 1], [2, 2, 2, 1]),
        (6, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]),
        (7, [2, 2, 2, 2, 1, 1, 1], [2, 2, 2, 2, 1, 1]),
        (8, [2] * 4 + [1] * 4, [2] * 4 + [1] * 3),
    ],
)
def test_blocks_are_cut_as_in_the_published_code(stages, encoder, decoder):
    config = replace(
        FLAT,
        features=(4,) * stages,
        kernel_sizes=((3, 3),) * stages,
        strides=((1, 1), *((2, 2),) * (stages - 1)),
        encoder_blocks=(2,) * stages,
        decoder_blocks=(2,) * (stages - 1),
    )
    assert effective_blocks(config) == (encoder, decoder)


@pytest.mark.parametrize("cls", [UMambaBot, UMambaEnc])
@pytest.mark.parametrize("config", [FLAT, SOLID], ids=["2d", "3d"])
def test_training_returns_every_head_and_evaluation_the_first(cls, config):
    model = built(cls, config).double()
    size = (2, config.input_channels, *config.patch_size)
    x = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    heads = model.train()(x)
    halves = tuple(length // stride for length, stride in zip(config.patch_size, config.strides[1], strict=True))
    assert [tuple(head.shape[1:]) for head in heads] == [
        (config.classes, *config.patch_size),
        (config.classes, *halves),
    ]
    # Not bit for bit: evaluation sums its norms in another order.
    assert torch.allclose(model.eval()(x), heads[0], rtol=0, atol=1e-9)


def test_without_deep_supervision_training_returns_one_tensor_from_the_same_weights():
    deep, plain = built(UMambaBot, FLAT), built(UMambaBot, replace(FLAT, deep_supervision=False))
    plain.load_state_dict(deep.state_dict())
    x = torch.randn(1, 1, 32, 24, dtype=torch.float64)
    assert torch.allclose(plain.double().train()(x), deep.double().eval()(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("cls", [UMambaBot, UMambaEnc])
@pytest.mark.parametrize("config", [FLAT, SOLID], ids=["2d", "3d"])
def test_a_published_checkpoint_with_every_duplicate_is_taken(cls, config):
    trained, fresh = built(cls, config, seed=1), built(cls, config, seed=2)
    load_strict(fresh, official_state(published_names(trained)))
    x = torch.randn(1, config.input_channels, *config.patch_size)
    assert torch.equal(fresh.eval()(x), trained.eval()(x))


def test_duplicates_that_disagree_are_refused():
    state = published_names(built(UMambaBot, FLAT))
    name = "module.decoder.encoder.stem.0.conv1.bias"
    with pytest.raises(ModelError, match=r"encoder\.stem\.0\.conv1\.bias"):
        official_state({**state, name: state[name] + 1})


def test_weights_of_the_first_public_version_are_named_as_such():
    with pytest.raises(ModelError, match="PTD-293 these are weights of U-Mamba's first public version"):
        official_state({"decoder.transpconvs.0.weight": torch.zeros(1)})


def test_weights_of_another_width_are_refused_tensor_by_tensor():
    state = built(UMambaBot, replace(FLAT, features=(6, 10, 16))).state_dict()
    with pytest.raises(ModelError, match=r"mamba_layer\.norm\.weight \(16,\) instead of \(14,\)"):
        load_strict(built(UMambaBot, FLAT), official_state(state))


def test_enc_swaps_roles_where_a_map_has_no_more_positions_than_channels():
    layers = built(UMambaEnc, SOLID).encoder.mamba_layers
    assert [layer.norm.normalized_shape for layer in layers] == [(4,), (6,), (6,)]
    assert [layer.channel_tokens for layer in layers] == [False, False, True]


@pytest.mark.parametrize(("stages", "present"), [(3, [0, 2]), (4, [1, 3])])
def test_enc_has_mamba_at_every_second_stage_in_2d_counted_from_the_last(stages, present):
    config = replace(
        FLAT,
        patch_size=(32, 32),
        features=(4,) * stages,
        kernel_sizes=((3, 3),) * stages,
        strides=((1, 1), *((2, 2),) * (stages - 1)),
        encoder_blocks=(1,) * stages,
        decoder_blocks=(1,) * (stages - 1),
    )
    layers = built(UMambaEnc, config).encoder.mamba_layers
    assert [stage for stage, layer in enumerate(layers) if not isinstance(layer, torch.nn.Identity)] == present


def test_enc_tied_to_its_patch_refuses_another_size_in_one_sentence():
    with pytest.raises(ModelError, match=r"PTD-292 this U-Mamba Enc takes patches of 4 x 12 x 8, not 4 x 12 x 12; "):
        built(UMambaEnc, SOLID)(torch.zeros(1, 2, 4, 12, 12))


def test_enc_tied_to_a_patch_that_its_strides_do_not_divide_is_refused():
    with pytest.raises(ModelError, match=r"PTD-291 .*4 x 12 x 6.*multiples of 4 x 4 x 4"):
        built(UMambaEnc, replace(SOLID, patch_size=(4, 12, 6)))


@pytest.mark.parametrize("size", [(32, 24), (31, 23), (33, 57), (5, 7)])
def test_bot_takes_any_size_and_returns_it(size):
    assert built(UMambaBot, FLAT).eval()(torch.randn(1, 1, *size)).shape == (1, 3, *size)


def test_a_batch_of_one_gives_what_it_gives_among_others():
    model = built(UMambaBot, FLAT).eval()
    x = torch.randn(3, 1, 32, 24, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(model(x[1:2]), model(x)[1:2], rtol=1e-4, atol=1e-5)


def test_a_strided_view_gives_what_its_copy_gives():
    model = built(UMambaBot, FLAT).eval()
    view = torch.randn(1, 1, 24, 32, generator=torch.Generator().manual_seed(5)).transpose(2, 3)
    torch.testing.assert_close(model(view), model(view.contiguous()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [UMambaBot, UMambaEnc])
def test_under_bfloat16_the_mamba_layers_stay_in_float32_and_the_logits_stay_close(cls):
    model = built(cls, FLAT).eval()
    seen = []
    for name, module in model.named_modules():
        if name.endswith(".mamba") or name == "mamba":
            module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    x = torch.randn(2, 1, 32, 24, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        exact = model(x)
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert (half.float() - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("cls", [UMambaBot, UMambaEnc])
@pytest.mark.parametrize("config", [FLAT, SOLID], ids=["2d", "3d"])
def test_every_parameter_gets_a_finite_gradient(cls, config):
    model = built(cls, config).train()
    target = torch.randint(0, config.classes, (2, 1, *config.patch_size))
    segmentation_loss(model(torch.randn(2, config.input_channels, *config.patch_size)), target).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize("name", ["u_mamba_bot", "u_mamba_enc"])
def test_four_cases_are_learnt_by_heart(name):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 1, 32, 24, generator=generator)
    target = (torch.nn.functional.avg_pool2d(x, 5, 1, 2) > 0.1).long()
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    model = built(MODELS[name][1], replace(FLAT, classes=2)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = segmentation_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()(x).argmax(1, keepdim=True)
    dice = 2 * (found * target).sum() / (found.sum() + target.sum())
    assert dice > 0.95


def test_the_same_seed_builds_the_same_weights():
    first, second = (built(UMambaEnc, SOLID, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_convolutions_start_as_kaiming_and_mamba_as_itself():
    model = built(UMambaBot, replace(FLAT, features=(64, 64, 64)))
    weight = model.encoder.stages[1][0].conv2.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 0.01**2) / (64 * 9)), rel=0.02)
    assert model.encoder.stages[1][0].conv2.bias.abs().max() == 0
    torch.testing.assert_close(model.mamba_layer.mamba.A_log[0].exp(), torch.arange(1.0, 17))


def test_a_saved_model_comes_back_with_its_configuration(tmp_path):
    model = built(UMambaEnc, SOLID).eval()
    model.save_pretrained(tmp_path)
    loaded = UMambaEnc.from_pretrained(tmp_path)
    assert loaded.config == SOLID
    x = torch.randn(1, 2, *SOLID.patch_size)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"patch_size": (8,)}, "patch_size has 2 or 3 axes"),
        ({"features": (6, 10)}, "kernel_sizes has one entry a stage"),
        ({"kernel_sizes": ((3, 3), (3, 3), (2, 3))}, "kernel_sizes are odd"),
        ({"strides": ((2, 2),) * 3}, "the first stride is 1"),
        ({"decoder_blocks": (2,)}, "decoder_blocks has one entry less"),
        ({"classes": 0}, "all numbers are above 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, sentence):
    with pytest.raises(ModelError, match=f"PTD-290 .*{sentence}"):
        replace(FLAT, **change)


def test_a_published_plan_with_plain_block_counts_becomes_a_configuration():
    plan = {**BOT_3D["hyperparameters"]["plan"], "n_conv_per_stage_encoder": 2, "n_conv_per_stage_decoder": 2}
    assert config_from_official(plan) == config_from_official(BOT_3D["hyperparameters"]["plan"])


def test_a_model_is_built_from_a_plan_by_name_and_a_typo_names_the_nearest():
    plan = plan_all(parity.made_fingerprint(PLANS["hippocampus"]["fingerprint"]))["3d_fullres"]
    with torch.device("meta"):
        assert isinstance(build("u_mamba_enc", plan), UMambaEnc)
    with pytest.raises(ModelError, match=r"PTD-296 .*'umamba_bot'.*did you mean 'u_mamba_bot'"):
        build("umamba_bot", plan)


def test_a_mamba_layer_hands_on_a_map_in_rows_of_positions():
    # Channels-last maps end the process in the backward pass of a strided 1x1 convolution (torch 2.11 on CPUs).
    layer = MambaLayer(6, FLAT)
    assert layer(torch.zeros(2, 6, 5, 4)).is_contiguous(memory_format=torch.contiguous_format)
