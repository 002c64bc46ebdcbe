from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DynUNet as MonaiDynUNet

from pentad.core.errors import ModelError
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import build, config_for
from pentad.medical.models.baseline import DynUNet, DynUNetConfig, monai_arguments
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


DEEP = DynUNetConfig(
    input_channels=2,
    classes=3,
    features=(6, 10, 14, 18),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 2)),
)


@pytest.mark.parametrize(("config", "shape"), [(CONFIG, (2, 1, 32, 24)), (DEEP, (1, 2, 8, 16, 16))])
def test_names_first_weights_and_logits_are_those_of_monais_network(config, shape):
    model = built(config)
    following = torch.rand(1)
    torch.manual_seed(0)
    monais = MonaiDynUNet(**monai_arguments(config))
    assert torch.equal(torch.rand(1), following)  # training goes on with the same numbers
    theirs = {name: value for name, value in monais.state_dict().items() if not name.startswith("skip_layers.")}
    assert list(model.network.state_dict()) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in model.network.state_dict().items())
    x = torch.randn(*shape)
    heads = model.train()(x)
    logits = monais.train().output_block(monais.skip_layers(x))
    for own, exact in zip(heads, [logits, *monais.heads], strict=True):
        torch.testing.assert_close(own, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.eval()(x), monais.eval()(x))


def test_the_process_that_predicts_does_not_import_monai():
    code = "import sys, pentad.medical.models; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


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
