"""The selective scan on a GPU, in Triton, forward and backward: the custom operator ``pentad::selective_scan_triton``.

**Never run on a GPU**: there was none. The kernels were compared with the plain formula in Triton's interpreter, where
this backend takes CPU tensors (``TRITON_INTERPRET=1`` before the first import), and compiled to machine code for NVIDIA
GPUs of compute capability 8.0 and 9.0. Their speed, and what a GPU's own exponential changes in the last bits, are
unknown. `selective_scan_triton_kernels` holds them and says how they divide the work.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DEVICES = ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)

# Steps of a chunk, elements (channels by states by steps) of a program, channels whose shares of the gradients of B
# and C one program adds up, chunks and elements of a program that chains chunks. Not tuned: see above.
_TIME, _TILE, _SHARED, _CHAINED = 64, 2048, 32, (16, 64)
# Terms of the logarithm's series that reach the last bit.
_TERMS = {torch.float32: 8, torch.float64: 17}


def kept_shape(u: Tensor, A: Tensor, B: Tensor) -> tuple[int, int, int, int]:
    """Return the shape of the kept states, those before each chunk: (batch, chunks, channels, states)."""
    return u.shape[0], -(-u.shape[2] // _sizes(u, A, B)["TIME"]), A.shape[0], A.shape[1]


def kept_size(u: Tensor, A: Tensor, B: Tensor) -> int:
    """Return how many values `kept_shape` holds."""
    return math.prod(kept_shape(u, A, B))


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return (out, last state, kept states); the kept states are empty unless asked for.

    Args:
        arguments: u, delta, A, B, C, D, z, delta_bias, whether the step goes through softplus, whether to keep states.
    """
    *inputs, delta_softplus, keep = arguments
    u, delta, A, B, C, D, z, bias = _stood_in(inputs)
    out, last = u.new_empty(u.shape), u.new_zeros((u.shape[0], *A.shape))
    ends = starts = u.new_empty(kept_shape(u, A, B))
    if u.numel():
        sizes, switches, shape = _sizes(u, A, B), _switches(inputs, delta_softplus), _shape(u, A, B)
        strides = [x.stride() for x in (u, delta, z, B, C)]
        sums, grid = u.new_empty(ends.shape[:3]), _grid(u, shape, sizes["LANES"])
        kernels = _kernels()
        with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
            tensors = (u, delta, A, B, bias, ends, sums, *strides[:2], strides[3])
            kernels.local_states[grid](*tensors, *shape, **_only(switches, "SOFTPLUS", "BIAS"), **sizes)
            starts = _chain(ends, sums, A, None, last)
            kernels.outputs[grid](u, delta, A, B, C, D, z, bias, starts, out, *strides, *shape, **switches, **sizes)
    return out, last, starts.flatten() if keep else u.new_empty(0)


def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Return the gradients of the eight inputs, empty ones for what was not given.

    Args:
        arguments: The eight inputs and the switch as given to `forward`, the states it kept, the gradient of its
            output, and that of the last state or nothing.
    """
    *inputs, delta_softplus, kept, grad, grad_last = arguments
    u, delta, A, B, C, D, z, bias = _stood_in(inputs)
    sizes, switches, shape = _sizes(u, A, B), _switches(inputs, delta_softplus), _shape(u, A, B)
    groups, width, _, length, states = shape
    # The last kernel holds some ten tiles at once; in half the lanes they fit the registers.
    lanes = max(1, sizes["LANES"] // 2)
    sweeps = min(_SHARED, _power(width)) // lanes
    parts = -(-width // (lanes * sweeps))
    starts = kept.view(kept_shape(u, A, B))
    ends, grad_A = torch.empty_like(starts), torch.empty_like(starts)
    sums, grad_D, grad_bias = (u.new_empty(starts.shape[:3]) for _ in range(3))
    grad_u, grad_delta, grad_z = (u.new_empty(u.shape) for _ in range(3))
    grad_B, grad_C = (u.new_empty((u.shape[0], groups, parts, states, length)) for _ in range(2))
    if u.numel():
        strides = [x.stride() for x in (u, delta, z, B, C, grad)]
        kernels = _kernels()
        with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
            tensors = (delta, A, C, z, bias, grad, ends, sums, *strides[1:3], *strides[4:])
            three = _only(switches, "SOFTPLUS", "BIAS", "GATE")
            kernels.local_adjoints[_grid(u, shape, sizes["LANES"])](*tensors, *shape, **three, **sizes)
            ends = _chain(ends, sums, A, grad_last, None)
            made = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias)
            tensors = (u, delta, A, B, C, D, z, bias, grad, starts, ends, *made, *strides)
            grid, sizes = _grid(u, shape, lanes * sweeps), sizes | {"LANES": lanes, "SWEEPS": sweeps}
            kernels.gradients[grid](*tensors, *shape, **switches, **sizes)
    # The parts are added in a fixed order.
    grads = (grad_u, grad_delta, grad_A.sum((0, 1)), grad_B.sum(2), grad_C.sum(2))
    rest = (grad_D.sum((0, 1)), grad_z, grad_bias.sum((0, 1)))
    return tuple(u.new_empty(0) if x is None else g for x, g in zip(inputs, (*grads, *rest), strict=True))


def _kernels() -> Any:
    from pentad.core.layers import selective_scan_triton_kernels

    return selective_scan_triton_kernels


def _power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def _sizes(u: Tensor, A: Tensor, B: Tensor) -> dict[str, int]:
    """Return the sizes of a program's tile, powers of two, from the shapes alone."""
    states, width = _power(A.shape[1]), _power(A.shape[0] // B.shape[1])
    time = max(16, min(_TIME, _TILE // states))
    lanes = max(1, min(_TILE // (states * time), width, _SHARED))
    return {"LANES": lanes, "STATES": states, "TIME": time, "TERMS": _TERMS[u.dtype]}


def _shape(u: Tensor, A: Tensor, B: Tensor) -> tuple[int, int, int, int, int]:
    """Return (groups, channels of a group, chunks, length, states)."""
    return B.shape[1], A.shape[0] // B.shape[1], kept_shape(u, A, B)[1], u.shape[2], A.shape[1]


def _grid(u: Tensor, shape: tuple[int, int, int, int, int], channels: int) -> tuple[int]:
    """Return the number of programs that take so many channels of a group each."""
    return (u.shape[0] * shape[0] * -(-shape[1] // channels) * shape[2],)


def _stood_in(inputs: Sequence[Tensor | None]) -> list[Any]:
    """Return the inputs, the small ones contiguous, and u in place of what is not given, where no kernel reads it."""
    small = [None if x is None else x.contiguous() if x.dim() < 3 else x for x in inputs]
    return [small[0] if x is None else x for x in small]


def _switches(inputs: Sequence[Tensor | None], delta_softplus: bool) -> dict[str, bool]:
    D, z, bias = inputs[5:]
    return {"SOFTPLUS": delta_softplus, "BIAS": bias is not None, "SKIP": D is not None, "GATE": z is not None}


def _only(switches: dict[str, bool], *names: str) -> dict[str, bool]:
    return {name: switches[name] for name in names}


def _chain(ends: Tensor, sums: Tensor, A: Tensor, given: Tensor | None, last: Tensor | None) -> Tensor:
    """Return what each chunk is given, from the first on, or from the last if there is no ``last`` to write."""
    batch, chunks, channels, states = ends.shape
    starts, grid = torch.empty_like(ends), (batch * -(-channels * states // _CHAINED[1]),)
    first = ends if given is None else given.contiguous()
    flags = {"GIVEN": given is not None, "REVERSE": last is None, "ROWS": _CHAINED[0], "BLOCK": _CHAINED[1]}
    if ends.numel():
        tensors = (ends, sums, A, first, starts, ends if last is None else last)
        _kernels().chain[grid](*tensors, chunks, channels, states, **flags)
    return starts
