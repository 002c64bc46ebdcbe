"""The selective scan by the plain formula, step by step: what every other backend is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# softplus(x) and x differ by less than the last bit of a float64 from here on.
_SOFTPLUS_LINEAR = 40.0


def run(  # noqa: PLR0913 - the published signature
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Return (out, last state) by the recurrence, differentiable any number of times.

    Inputs as `pentad.core.layers.selective_scan` checked them; B and C (batch, groups, states, length).
    """
    batch, channels, _ = u.shape
    groups, states = B.shape[1], A.shape[1]
    d = delta if delta_bias is None else delta + delta_bias[:, None]
    d = functional.softplus(d, threshold=_SOFTPLUS_LINEAR) if delta_softplus else d
    grouped = (batch, groups, channels // groups, 1)
    h = u.new_zeros((*grouped[:3], states))
    decay = A.view(1, groups, channels // groups, states)
    # unbind, not indexing: the gradient of each index would be a tensor of the full length, quadratic in all.
    steps = zip(d.unbind(2), (d * u).unbind(2), B.unbind(3), C.unbind(3), strict=True)
    outputs = []
    for d_t, du_t, B_t, C_t in steps:
        h = torch.exp(d_t.reshape(grouped) * decay) * h + du_t.reshape(grouped) * B_t.unsqueeze(2)
        outputs.append((h * C_t.unsqueeze(2)).sum(-1).reshape(batch, channels))
    y = torch.stack(outputs, dim=2)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * functional.silu(z)), h.reshape(batch, channels, states)
