from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet as MonaiDynUNet

from pentad.core.errors import ModelError
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import build, config_for
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.parity import made_fingerprint
from pentad.medical.plan import plan_all

PLANS = json.loads((Path(__file__).parents[2] / "reference" / "u_mamba.plans.json").read_text())["cases"]
CONFIG = DynUNetConfig(
    input_channels=1,
    classes=2,
    features=(6, 10, 14),
    kernel_sizes=((3, 3),) * 3,
    strides=((1, 1), (2, 2), (2, 2)),
)


def built(config=CONFIG):
    torch.manual_seed(0)
    return DynUNet(config)


def test_training_returns_heads_at_their_own_size_and_evaluation_the_first():
    model = built()
    x = torch.randn(2, 1, 32, 24)
    heads = model.train()(x)
    assert [tuple(head.shape) for head in heads] == [(2, 2, 32, 24), (2, 2, 16, 12)]
    torch.testing.assert_close(model.eval()(x), heads[0])


def test_the_logits_are_those_of_monais_network():
    model = built().eval()
    x = torch.randn(1, 1, 32, 24)
    assert isinstance(model.network, MonaiDynUNet)
    assert torch.equal(model(x), model.network(x))


def test_it_takes_width_strides_and_kernels_from_the_plan():
    case = next(case for case in PLANS if case["name"] == "prostate")
    plan = plan_all(made_fingerprint(case["fingerprint"]))["3d_fullres"]
    config = config_for("dynunet", plan)
    assert (config.features, config.strides, config.kernel_sizes) == (plan.features, plan.strides, plan.kernel_sizes)
    with torch.device("meta"):
        heads = build("dynunet", plan)(torch.zeros(1, 2, *plan.patch_size, device="meta"))
    assert tuple(heads[0].shape) == (1, 3, *plan.patch_size)
    assert len(heads) == plan.stages - 1


def test_a_size_that_the_strides_do_not_divide_is_refused_in_one_sentence():
    with pytest.raises(ModelError, match="PTD-295 this DynUNet takes multiples of 4 x 4, not 30 x 24; "):
        built()(torch.zeros(1, 1, 30, 24))


def test_every_parameter_gets_a_gradient():
    model = built().train()
    segmentation_loss(model(torch.randn(2, 1, 16, 16)), torch.randint(0, 2, (2, 1, 16, 16))).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_four_cases_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(4, 1, 32, 24, generator=generator)
    target = (torch.nn.functional.avg_pool2d(x, 5, 1, 2) > 0.1).long()
    model = built().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = segmentation_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()(x).argmax(1, keepdim=True)
    assert 2 * (found * target).sum() / (found.sum() + target.sum()) > 0.95


def test_a_saved_model_comes_back_with_its_configuration(tmp_path):
    model = built().eval()
    model.save_pretrained(tmp_path)
    loaded = DynUNet.from_pretrained(tmp_path)
    x = torch.randn(1, 1, 16, 16)
    assert loaded.config == CONFIG
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"features": (6, 10)}, "at least 3 stages"),
        ({"strides": ((1, 1), (2, 2))}, "one entry a stage"),
        ({"kernel_sizes": ((3, 3), (3, 3), (4, 3))}, "are odd"),
        ({"classes": 0}, "above 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, sentence):
    with pytest.raises(ModelError, match=f"PTD-294 .*{sentence}"):
        replace(CONFIG, **change)
