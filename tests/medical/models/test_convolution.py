"""Compiled convolutions and norms against torch's, and where they keep out of the way."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from pentad.core.layers import machine_code
from pentad.medical.models import convolution
from pentad.medical.models.baseline import DynUNet, DynUNetConfig
from pentad.medical.models.convolution import (
    TRANSPOSED,
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    convolve,
    enlarge,
    joined,
    normalise_,
)
from pentad.medical.models.convolution_layout import layout
from pentad.medical.models.norms import InstanceNorm2d, activated

wide = pytest.mark.skipif(not machine_code.has_wide_lanes(), reason="the processor has no registers of sixteen values")
KERNELS = {2: functional.conv2d, 3: functional.conv3d}


def close(found: torch.Tensor, exact: torch.Tensor) -> bool:
    """Return whether float32 results are those of float64 up to the rounding of their sums."""
    return float((found.double() - exact).abs().max()) < 2e-6 * float(exact.abs().max())


@wide
@pytest.mark.parametrize(
    ("channels", "size", "kernel"),
    [
        ((1, 12), (96, 96), (3, 3)),
        ((24, 12), (37, 41), (3, 3)),
        ((12, 3), (16, 16), (1, 1)),
        ((5, 7), (1, 1), (3, 3)),
        ((3, 20), (9, 33), (5, 1)),
        ((8, 8), (9, 20, 24), (3, 3, 3)),
        ((2, 13), (1, 5, 7), (1, 3, 3)),
        ((9, 4), (30, 40, 40), (3, 3, 3)),
    ],
)
def test_every_shape_has_the_values_of_torch(
    channels: tuple[int, int], size: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, channels[0], *size, generator=generator)
    weight, bias = (torch.randn(channels[1], *more, generator=generator) for more in ((channels[0], *kernel), ()))
    padding = tuple(length // 2 for length in kernel)
    exact = KERNELS[len(size)](x.double(), weight.double(), bias.double(), padding=padding)
    assert close(convolve(x, weight, bias), exact)
    assert close(convolve(x.mT.contiguous().mT, weight, None), exact - bias.double().view(-1, *[1] * len(size)))


@wide
@pytest.mark.parametrize(
    ("channels", "size", "steps", "more"),
    [
        ((24, 12), (48, 48), (2, 2), 12),
        ((5, 3), (7, 37), (2, 2), 0),
        ((7, 5), (9, 20), (1, 3), 2),
        ((6, 4), (1, 1), (2, 1), 1),
        ((16, 8), (9, 24, 20), (2, 2, 2), 8),
        ((4, 13), (5, 6, 7), (1, 2, 2), 3),
        ((40, 4), (6, 70, 70), (2, 2, 2), 4),
    ],
)
def test_transposed_convolutions_have_the_values_of_torch_before_those_of_the_skip(
    channels: tuple[int, int], size: tuple[int, ...], steps: tuple[int, ...], more: int
) -> None:
    torch.manual_seed(7)
    layer, x = TRANSPOSED[len(size)](*channels, steps, steps).eval(), torch.randn(2, channels[0], *size)
    skip = torch.randn(2, more, *(length * step for length, step in zip(size, steps, strict=True)))
    found = enlarge(x, layer, skip)
    assert torch.equal(found[:, channels[1] :], skip)
    assert torch.equal(found[:, : channels[1]], enlarge(x, layer))
    assert close(found[:, : channels[1]], layer.double()(x.double()))


@wide
def test_transposed_convolutions_leave_deep_maps_and_all_but_whole_steps_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    run = convolution._run
    monkeypatch.setattr(convolution, "_run", lambda name, *rest: (calls.append(name), run(name, *rest))[1])
    x, plain = torch.randn(1, 4, 8, 8), ConvTranspose2d(4, 4, 2, 2).eval()
    others = [
        ConvTranspose2d(4, 4, 3, 2),
        ConvTranspose2d(4, 4, 2, 2, padding=1),
        ConvTranspose2d(4, 4, 2, 2, groups=2),
    ]
    joined(plain, x, torch.randn(1, 1, 16, 16))  # gradients are asked for
    with torch.no_grad():
        for layer in (*others, plain.train()):
            layer(x)
        plain.eval()(torch.randn(1, 4, 1, 3))
        assert not calls
        found = joined(plain, x, torch.zeros(1, 1, 16, 16))
    assert calls == ["convolve"]
    assert close(found[:, :4], plain.double()(x.double()).detach())


@wide
def test_a_volume_alone_is_predicted_as_in_a_batch() -> None:
    torch.manual_seed(8)
    x = torch.randn(2, 16, 8, 16, 16)
    for layer in (Conv3d(16, 16, 3, 1, 1), Conv3d(16, 32, 3, 2, 1), Conv3d(16, 16, (1, 3, 3), 1, (0, 1, 1), groups=2)):
        with torch.no_grad():
            both = layer.eval()(x)
            assert all(close(layer(part[None])[0], whole.double()) for part, whole in zip(x, both, strict=True))
            layer.padding_mode = "replicate"
            layer(x[:1])  # torch's own


def test_large_maps_are_parted_and_every_plane_belongs_to_one_part() -> None:
    for size in ((512, 1, 512), (32, 96, 96), (1, 512, 512), (5, 200, 200)):
        s = layout((24, 12), size, (3, min(3, size[1]), 3))
        assert (s.parts - 1) * s.planes < size[0] <= s.parts * s.planes


@wide
@pytest.mark.parametrize("size", [(96, 96), (3, 3), (5, 7, 11), (1, 1)])
def test_norm_and_rectifier_have_the_values_of_torch(size: tuple[int, ...]) -> None:
    x = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(2)) * 3 + 100
    norm = (nn.InstanceNorm2d if len(size) == 2 else nn.InstanceNorm3d)(6, affine=True)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(3))
    nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(4))
    exact = functional.group_norm(x.double(), 6, norm.weight.double(), norm.bias.double(), norm.eps)
    found = normalise_(x.clone(), norm, 0.01)
    assert float((found.double() - functional.leaky_relu(exact, 0.01)).abs().max()) < 2e-4


@wide
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(5)
    x, weight = torch.randn(5, 12, 64, 64, generator=generator), torch.randn(12, 12, 3, 3, generator=generator)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            norm = nn.InstanceNorm2d(12, affine=True)
            found.append(normalise_(convolve(x, weight, None), norm, 0.01))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@wide
def test_the_loops_only_predict_in_float32_and_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    run = convolution._run
    monkeypatch.setattr(convolution, "_run", lambda name, *rest: (calls.append(name), run(name, *rest))[1])
    layer, x = Conv2d(1, 4, 3, padding=1), torch.randn(1, 1, 8, 8)
    layer(x)  # trains
    layer.eval()(x)  # gradients are asked for
    with torch.no_grad():
        layer.double()(x.double())
        layer.float()
        with FlopCounterMode(display=False) as counted:
            layer(x)
        assert counted.get_total_flops() == 2 * 9 * 4 * 64
        for other in (Conv2d(1, 4, 3), Conv2d(1, 4, 3, 2, 1), Conv2d(16, 16, 3, padding=1), Conv2d(4, 4, 1, groups=2)):
            other.eval()(torch.randn(1, other.in_channels, 8, 8))
        assert not calls
        layer(x)
    assert calls == ["convolve"]


def test_the_unet_predicts_what_torch_computes_and_keeps_its_random_start() -> None:
    config = DynUNetConfig(1, 3, (6, 12, 20), ((3, 3),) * 3, ((1, 1), (2, 2), (2, 2)))
    torch.manual_seed(6)
    model = DynUNet(config).eval()
    x = torch.randn(2, 1, 24, 32)
    exact = model.double()(x.double())
    model.float()
    with torch.no_grad():
        predicted = model(x)
    assert close(predicted, exact.detach())
    assert torch.is_grad_enabled()
    assert float((model(x) - exact).abs().max()) < 1e-4


def test_a_norm_that_trains_or_is_not_ours_leaves_its_input_alone() -> None:
    x = torch.randn(2, 4, 8, 8)
    kept = x.clone()
    for norm in (InstanceNorm2d(4, affine=True).train(), nn.InstanceNorm2d(4, affine=True).eval()):
        with torch.no_grad():
            found = activated(norm, x, 0.01)
        assert torch.equal(x, kept)
        assert float((found - functional.leaky_relu(norm(x), 0.01)).detach().abs().max()) < 1e-5
