"""The selective scan in plain tensor operations whose number grows with the logarithm of the length.

Two steps of the recurrence h -> a h + b make one, (a2 a1, a2 b1 + b2): after round k every position holds the steps of
the 2^k positions up to it (Hillis and Steele, "Data parallel algorithms", CACM 1986; for state spaces Gu and Dao, arXiv
2312.00752, section 3.3). It takes length x channels x states values at a time, so it is no way to train, but exporters
that know neither our operator nor loops can write it down.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SOFTPLUS_LINEAR = 40.0  # as in the plain formula


def run(  # noqa: PLR0913 - the operator's inputs
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Return (out, last state) of `pentad.core.layers.selective_scan` for its checked inputs.

    B and C come with groups, (batch, groups, states, length); the rest as there.
    """
    batch, channels, length = u.shape
    groups, states = B.shape[1], A.shape[1]
    d = delta if bias is None else delta + bias[:, None]
    d = functional.softplus(d, threshold=_SOFTPLUS_LINEAR) if delta_softplus else d
    grouped = (batch, groups, channels // groups, 1, length)
    a = torch.exp(d.reshape(grouped) * A.reshape(1, groups, channels // groups, states, 1))
    h = (d * u).reshape(grouped) * B.unsqueeze(2)
    reach = 1
    while reach < length:
        h = torch.cat([h[..., :reach], h[..., reach:] + a[..., reach:] * h[..., :-reach]], dim=-1)
        a = torch.cat([a[..., :reach], a[..., reach:] * a[..., :-reach]], dim=-1)
        reach *= 2
    y = (h * C.unsqueeze(2)).sum(3).reshape(batch, channels, length)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * functional.silu(z)), h[..., -1].reshape(batch, channels, states)
