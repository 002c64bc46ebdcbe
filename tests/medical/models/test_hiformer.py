from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pentad.core.checkpoint import find_aliases, load_strict
from pentad.core.errors import ModelError
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import config_for
from pentad.medical.models.hiformer import (
    DUPLICATES,
    HiFormer,
    HiFormerConfig,
    config_from_official,
    config_from_state,
    fusion_was_trained,
    hiformer_b,
    hiformer_l,
    hiformer_s,
    official_state,
    resized,
)
from pentad.medical.parity import made_fingerprint
from pentad.medical.plan import PlanOptions, plan
from pentad.medical.slice_parity import official_tensors

REFERENCE = Path(__file__).parents[2] / "reference"
SPEC = json.loads((REFERENCE / "hiformer.b.json").read_text())
PLANS = {case["name"]: case for case in json.loads((REFERENCE / "u_mamba.plans.json").read_text())["cases"]}
SMALL = HiFormerConfig(
    classes=3,
    image_size=(32, 48),
    backbone="resnet18",
    embed_dim=12,
    depths=(1, 2, 2),
    heads=(2, 3, 4),
    windows=(4, 2, 2),
    mlp_ratio=2.0,
    fusion_depths=((1, 2), (2, 1)),
    fusion_heads=(3, 4),
    fusion_mlp_ratios=(1.0, 2.0),
    decoder_channels=16,
    decoder_groups=4,
    prediction_channels=8,
)
KINDS = ("fused", "dropped", "release_2022_07")


def built(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return HiFormer(config)


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(model):
    """The model with every tensor away from its start, so that all of them matter."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    ("preset", "parameters"), [(hiformer_s, 23_254_355), (hiformer_b, 25_512_115), (hiformer_l, 29_519_219)]
)
def test_the_sizes_have_the_published_number_of_parameters(preset, parameters):
    with torch.device("meta"):
        model = HiFormer(preset(9))
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_the_file_of_the_base_size_is_its_preset():
    assert config_from_official(SPEC["hyperparameters"]) == replace(hiformer_b(9), fusion="dropped")


def test_the_second_names_of_tensors_are_those_of_the_published_checkpoint():
    names = [*SPEC["tensors"], *SPEC["aliases"], *SPEC["integer_buffers"]]
    assert find_aliases(names, DUPLICATES) == SPEC["aliases"]


def test_the_published_key_list_loads_strictly():
    with torch.device("meta"):
        own = HiFormer(hiformer_b(9)).state_dict()
    state = official_state({f"module.{name}": value for name, value in official_tensors(SPEC).items()})
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in own.items()}


def test_second_names_that_disagree_are_refused():
    state = {"ConvUp_l.conv_tower.1.bias": torch.zeros(2), "ConvUp_l.convs_level.1.bias": torch.ones(2)}
    with pytest.raises(ModelError, match=r"PTD-515 .*ConvUp_l\.convs_level\.1\.bias"):
        official_state(state)


def test_without_the_fusion_exactly_the_published_tensors_have_no_effect():
    model = built(replace(hiformer_b(2), fusion="dropped", image_size=(32, 32), drop_path=0.0)).train()
    model(drawn(2, 1, 32, 32)).square().sum().backward()
    idle = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    named = dict.fromkeys(SPEC["no_effect"], torch.zeros(1))
    assert idle == set(official_state(named))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_papers_fusion_lets_every_parameter_learn(kind):
    model = moved(built(replace(SMALL, fusion=kind, drop_path=0.0))).train()
    segmentation_loss(model(drawn(2, 3, 32, 48)), torch.randint(0, 3, (2, 1, 32, 48))).backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert (idle == []) == (kind == "fused")


def test_the_three_behaviours_differ_on_equal_weights():
    model, x = moved(built()).eval(), drawn(1, 3, 32, 48)
    outputs = []
    for kind in KINDS:
        other = HiFormer(replace(SMALL, fusion=kind)).eval()
        load_strict(other, model.state_dict())
        outputs.append(other(x))
    assert torch.equal(outputs[0], model(x))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (outputs[first] - outputs[second]).abs().max() > 1e-4 * outputs[0].std()


def test_the_fusion_is_known_as_untrained_until_one_of_its_norms_moves():
    state = built().state_dict()
    assert not fusion_was_trained(state)
    state["blocks.1.blocks.0.1.norm2.bias"][3] = 1e-6
    assert fusion_was_trained(state)


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (33, 50), (5, 7)])
def test_slices_of_any_size_come_back_in_that_size(size):
    assert built().eval()(drawn(1, 3, *size)).shape == (1, 3, *size)


def test_position_embeddings_of_another_grid_are_interpolated_and_the_class_tokens_stays():
    embedding = torch.arange(5.0).expand(2, 5).T[None].clone()
    assert resized(embedding, (2, 2), (2, 2)) is embedding
    larger = resized(embedding, (2, 2), (4, 4))
    assert larger.shape == (1, 17, 2)
    assert torch.equal(larger[:, 0], embedding[:, 0])
    assert larger[0, 1:, 0].mean().item() == pytest.approx(2.5, abs=1e-5)
    assert larger[0, 1, 0] < larger[0, 4, 0] < larger[0, 16, 0]


def test_one_channel_is_repeated_and_another_number_refused():
    model = built().eval()
    x = drawn(1, 1, 32, 48)
    assert torch.equal(model(x), model(x.repeat(1, 3, 1, 1)))
    with pytest.raises(ModelError, match="PTD-531 slices of 2 channels for a model of 3; "):
        model(torch.zeros(1, 2, 32, 48))


def test_classes_channels_and_image_size_are_found_in_the_tensors_shapes():
    config = replace(hiformer_l(5), input_channels=1, image_size=(112, 112), fusion="release_2022_07")
    with torch.device("meta"):
        state = HiFormer(config).state_dict()
    assert config_from_state(state, hiformer_l(9), "release_2022_07") == config


def test_stochastic_depth_rises_over_the_ten_swin_blocks():
    with torch.device("meta"):
        model = HiFormer(hiformer_b(2))
    rates = [block.drop_path.rate for stage in model.pyramid.swin for block in stage]
    assert rates == pytest.approx([0.1 * number / 9 for number in range(10)])


def test_four_slices_are_learnt_by_heart():
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    discs = [(rows - 12 - n) ** 2 + (columns - 20 + 2 * n) ** 2 < (6 + n) ** 2 for n in range(4)]
    target = torch.stack(discs)[:, None].long()
    x = target + drawn(4, 1, 32, 32, seed=7)
    model = built(replace(SMALL, classes=2, image_size=(32, 32), drop_path=0.0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(40):
        loss = segmentation_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()(x).argmax(1, keepdim=True)
    assert 2 * (found * target).sum() / (found.sum() + target.sum()) > 0.95


def test_a_saved_model_comes_back_with_its_configuration_and_running_statistics(tmp_path):
    model = built().train()
    model(drawn(2, 3, 32, 48))
    model.eval().save_pretrained(tmp_path)
    loaded = HiFormer.from_pretrained(tmp_path)
    assert loaded.config == SMALL
    x = drawn(1, 3, 32, 48)
    assert torch.equal(loaded(x), model(x))


def test_a_2d_plan_gives_position_embeddings_for_its_patch():
    fingerprint = made_fingerprint(PLANS["ct_abdomen"]["fingerprint"])
    made = plan(fingerprint, PlanOptions(configuration="2d", patch_size=(90, 64)))
    config = config_for("hiformer_s", made)
    assert config == replace(hiformer_s(len(made.labels)), image_size=(96, 64))
    assert config.fusion == "fused"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backbone": "resnet35"}, "backbone is one of"),
        ({"fusion": "none"}, "fusion is"),
        ({"image_size": (30, 48)}, "multiples of 16"),
        ({"fusion_depths": ((1,),)}, "two entries"),
        ({"depths": (1, 1)}, "three entries"),
        ({"fusion_heads": (5, 4)}, "heads divide"),
        ({"decoder_groups": 5}, "decoder_groups divide"),
        ({"classes": 0}, "above 0"),
        ({"drop_path": -0.1}, "drop_path"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, sentence):
    with pytest.raises(ModelError, match=f"PTD-532 .*{sentence}"):
        replace(SMALL, **change)


def test_constructor_values_that_no_checkpoint_has_are_refused():
    changed = {**SPEC["hyperparameters"], "patch_sizes": [4, 8]}
    with pytest.raises(ValueError, match=r"patch_sizes is \[4, 8\]"):
        config_from_official(changed)
