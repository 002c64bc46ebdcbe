import math

import pytest
import torch
from scans import ODD_SHAPES, inputs, largest_share, with_gradients

from pentad.core.layers.mamba import Mamba
from pentad.core.layers.selective_scan import available_backends, preferred_backend, selective_scan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
BACKENDS = ("triton", "mamba_ssm")
# float32 on a GPU against float64 by the plain formula, as a share of each result's largest value.
SINGLE = 2e-5


@pytest.fixture(params=BACKENDS)
def backend(request):
    found = available_backends()[request.param]
    if found.startswith("cannot be loaded"):
        pytest.skip(f"{request.param} {found}")
    return request.param


def on_gpu(made, dtype=None):
    return {name: None if x is None else x.to("cuda", dtype) for name, x in made.items()}


def shares(made, backend, dtype, softplus=True):
    found = with_gradients(on_gpu(made, dtype), backend, softplus)
    return largest_share({name: x.cpu().double() for name, x in found.items()}, with_gradients(made, "numba", softplus))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-11), (torch.float32, SINGLE)])
@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_triton_equals_the_cpu_with_all_gradients(shape, dtype, share):
    made, softplus = inputs(**shape), "z" not in shape.get("optional", "")
    made["delta"] = made["delta"] if softplus else made["delta"].abs()
    assert shares(made, "triton", dtype, softplus) < share


def test_every_backend_equals_the_cpu_without_a_gradient_of_the_last_state(backend):
    made = inputs(batch=2, groups=2, width=40, states=16, length=2100)
    plain = selective_scan(**made, delta_softplus=True)
    out = selective_scan(**on_gpu(made, torch.float32), delta_softplus=True, backend=backend)
    assert largest_share({"out": out.cpu().double()}, {"out": plain}) < SINGLE


@pytest.mark.parametrize("length", [65_536, 65_537])
def test_triton_holds_over_long_sequences(length):
    assert shares(inputs(width=6, length=length), "triton", torch.float32) < 1e-4


def test_triton_gives_the_same_bits_twice_and_for_any_strides():
    made = on_gpu(inputs(batch=2, groups=2, width=33, states=16, length=700), torch.float32)
    turned = {k: x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x for k, x in made.items()}
    first, again, strided = (with_gradients(x, "triton") for x in (made, made, turned))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], strided[name]) for name in first)


def test_triton_computes_half_precision_in_float32():
    half = on_gpu(inputs(width=6, length=70), torch.bfloat16)
    wide = {name: x.float() for name, x in half.items()}
    found, wanted = (selective_scan(**made, delta_softplus=True, backend="triton") for made in (half, wide))
    assert torch.equal(found, wanted.bfloat16())


def test_triton_stays_finite_where_the_state_is_forgotten_at_once():
    made = on_gpu(inputs(width=2, length=70, optional="", dtype=torch.float32))
    made |= {"delta": torch.full((1, 2, 70), 2.0).cuda(), "A": torch.full((2, 3), -5e4).cuda()}
    assert all(x.isfinite().all() for x in with_gradients(made, "triton", False).values())


def test_triton_takes_no_samples():
    assert selective_scan(**on_gpu(inputs(batch=0)), backend="triton").shape == (0, 20, 40)


def test_triton_in_a_mamba_block_is_kept_whole_by_compile():
    torch.manual_seed(0)
    block, x = Mamba(32), torch.randn(2, 300, 32)
    with torch.no_grad():
        wanted = block(x)
        block, x = block.cuda(), x.cuda()
        with preferred_backend("triton"):
            found = [block(x), torch.compile(block, fullgraph=True)(x)]
    for out in found:
        assert largest_share({"out": out.cpu()}, {"out": wanted}) < 1e-4


def test_triton_keeps_no_more_than_a_state_every_few_steps():
    made = on_gpu(inputs(width=512, states=16, length=4096), torch.float32)
    leaves = {name: x.requires_grad_() for name, x in made.items()}
    before = torch.cuda.memory_allocated()
    out = selective_scan(**leaves, delta_softplus=True, backend="triton")
    states = out.numel() * 16 * out.element_size()
    assert torch.cuda.memory_allocated() - before < out.numel() * out.element_size() + states / 8
    assert math.isfinite(float(out.sum()))
