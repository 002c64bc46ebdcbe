"""The selective scan by the published fused kernel, where the package ``mamba_ssm`` happens to be installed.

Called as ``selective_scan_fn`` of state-spaces/mamba (Apache-2.0) is declared there: u, delta, A, B, C, D, z,
delta_bias, delta_softplus, return_last_state; run once, mamba_ssm 2.3.2 on an NVIDIA H200, whose output equalled the
CPU's to 2e-5. It is no operator that ``torch.compile`` can keep whole, it has no float64, and it passes no gradient on
from the last state; `refusal` says so, and the backend ``auto`` then takes the next one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MODULE = "mamba_ssm.ops.selective_scan_interface"
# The published kernel's own limit.
_MOST_STATES = 256


class Need(NamedTuple):
    """What one call asks of a backend: working precision, elements of u, states, a gradient through the last state."""

    dtype: torch.dtype = torch.float32
    elements: int = 1
    states: int = 1
    grad_last: bool = False


def refusal(need: Need) -> str:
    """Return why the published kernel cannot do this, or an empty string."""
    if need.dtype == torch.float64:
        return "has no float64"
    if need.grad_last:
        return "passes no gradient on from the last state"
    if not need.elements or not 1 <= need.states <= _MOST_STATES:
        return f"takes 1 to {_MOST_STATES} states and no empty input"
    return "cannot be compiled or exported" if torch.compiler.is_compiling() else ""


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
    """Return (out, last state) of float32 CUDA tensors; B and C (batch, groups, states, length)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    skip, bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
    out, last = selective_scan_fn(
        u, delta, A.contiguous(), B, C, skip, z, bias, delta_softplus=delta_softplus, return_last_state=True
    )
    return out, last
