"""Calls of the selective scan for its tests, on any device."""

import torch

from pentad.core.layers.selective_scan import selective_scan

# Arguments of `inputs` at which blocks and chunks end raggedly.
ODD_SHAPES = [
    {},
    {"batch": 2, "groups": 2, "width": 5, "states": 1, "length": 77},
    {"groups": 3, "width": 3, "states": 16, "length": 130},
    {"optional": "", "length": 1},
    {"optional": "z", "states": 5, "length": 65},
    {"optional": "D", "width": 70, "states": 3, "length": 20},
    {"optional": "b", "groups": 2, "width": 33, "states": 1, "length": 1100},
]


def inputs(batch=1, groups=1, width=20, states=3, length=40, optional="Dzb", dtype=torch.float64, seed=0):
    """Random inputs of one call; `optional` names the tensors given beside the required ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    channels = groups * width
    made = {"u": normal(batch, channels, length), "delta": normal(batch, channels, length) - 1}
    made["A"] = -normal(channels, states).exp()
    made |= {name: normal(batch, groups, states, length) for name in ("B", "C")}
    made["D"] = normal(channels) if "D" in optional else None
    made["z"] = normal(batch, channels, length) if "z" in optional else None
    made["delta_bias"] = normal(channels) if "b" in optional else None
    return made


def with_gradients(made, backend, softplus=True, reverse=False):
    leaves = {name: x.clone().requires_grad_() for name, x in made.items() if x is not None}
    out, last = selective_scan(
        **leaves, delta_softplus=softplus, return_last_state=True, reverse=reverse, backend=backend
    )
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    weights = weights.flip(-1) if reverse else weights
    loss = (out * weights).sum() + last.square().sum()
    return {"out": out, "last": last} | dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def largest_share(found, wanted):
    return max(float(((found[k] - wanted[k]).abs().max() / (wanted[k].abs().max() + 1e-30)).detach()) for k in wanted)
