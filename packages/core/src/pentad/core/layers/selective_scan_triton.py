"""The selective scan on a GPU, in Triton, forward and backward: the custom operator ``pentad::selective_scan_triton``.

**These kernels have not run on a GPU.** They were compared with the plain formula in Triton's interpreter, where this
backend takes CPU tensors (``TRITON_INTERPRET=1`` before the first import), and compiled to machine code for NVIDIA GPUs
of compute capability 8.0 and 9.0; ``tests/core/layers/test_selective_scan_gpu.py`` compares them where there is a GPU.
An earlier form, which laid time across the threads, ran on an NVIDIA H200: its output agreed with the published
kernel's to 2e-5, and it took 2.2 to 6 times the published kernel's time. `selective_scan_triton_kernels` says how the
work is divided.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DEVICES = ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)

# Elements (steps by states by channels) of a program's tile, programs that fill a GPU, registers of a thread that one
# of the tile's values may take, channels whose shares of the gradients of B and C one program adds up; powers of two,
# from the compiler's report of registers, not tuned on a GPU.
_TILE, _PROGRAMS, _REGISTERS, _SHARED = 512, 1024, 64, 32
_WARP = 32
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
    starts = u.new_empty(kept_shape(u, A, B) if keep else 0)
    if u.numel():
        sizes, shape, kernels = _sizes(u, A, B), _shape(u, A, B), _kernels()
        sizes["LANES"] = _walked(u, sizes)
        strides = [x.stride() for x in (u, delta, z, B, C)]
        tensors = (u, delta, A, B, C, D, z, bias, starts, last, out, *strides)
        with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
            grid = _grid(u, shape, sizes["LANES"])
            kernels.outputs[grid](*tensors, *shape, **_switches(inputs, delta_softplus), KEEP=keep, **sizes)
    return out, last, starts.flatten()


def backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Return the gradients of the eight inputs, empty ones for what was not given.

    Args:
        arguments: The eight inputs and the switch as given to `forward`, the states it kept, the gradient of its
            output, and that of the last state or nothing.
    """
    *inputs, delta_softplus, kept, grad, grad_last = arguments
    u, delta, A, B, C, D, z, bias = _stood_in(inputs)
    sizes, switches, shape = _sizes(u, A, B), _switches(inputs, delta_softplus), _shape(u, A, B)
    groups, width, chunks, length, states = shape
    sweeps = max(1, min(_SHARED, _power(width)) // sizes["LANES"])
    parts = -(-width // (sizes["LANES"] * sweeps))
    starts = kept.view(kept_shape(u, A, B))
    ends, grad_A = torch.empty_like(starts), torch.empty_like(starts)
    grad_D, grad_bias = (u.new_empty(starts.shape[:3]) for _ in range(2))
    grad_u, grad_delta, grad_z = (u.new_empty(u.shape) for _ in range(3))
    grad_B, grad_C = (u.new_empty((u.shape[0], groups, parts, states, length)) for _ in range(2))
    if u.numel():
        strides, kernels = [x.stride() for x in (u, delta, z, B, C, grad)], _kernels()
        given = ends if grad_last is None else grad_last.contiguous()
        walked = sizes | {"LANES": _walked(u, sizes)}
        three = {name: switches[name] for name in ("SOFTPLUS", "BIAS", "GATE")}
        made = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias)
        with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
            tensors = (delta, A, C, z, bias, grad, given, ends, *strides[1:3], *strides[4:])
            grid = _grid(u, shape, walked["LANES"])
            kernels.adjoints[grid](*tensors, *shape, **three, GIVEN=grad_last is not None, **walked)
            tensors = (u, delta, A, B, C, D, z, bias, grad, starts, ends, *made, *strides)
            grid = (_grid(u, shape, sizes["LANES"] * sweeps)[0] * chunks,)
            kernels.gradients[grid](*tensors, *shape, **switches, **sizes, SWEEPS=sweeps)
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
    """Return the sizes of a tile that fills one warp, powers of two, from the shapes alone."""
    states = _power(A.shape[1])
    lanes = max(1, _WARP // states)
    time = max(4, _TILE // (states * lanes))
    return {"LANES": lanes, "STATES": states, "TIME": time, "TERMS": _TERMS[u.dtype], "num_warps": 1}


def _walked(u: Tensor, sizes: dict[str, int]) -> int:
    """Return the channels of a program that walks the sequence; the more, the less the threads exchange."""
    wanted = _power(u.shape[0] * u.shape[1] // _PROGRAMS)
    most = _REGISTERS * _WARP // (sizes["STATES"] * sizes["TIME"])
    return max(sizes["LANES"], min(wanted, most, _WARP))


def _shape(u: Tensor, A: Tensor, B: Tensor) -> tuple[int, int, int, int, int]:
    """Return (groups, channels of a group, chunks, length, states)."""
    return B.shape[1], A.shape[0] // B.shape[1], kept_shape(u, A, B)[1], u.shape[2], A.shape[1]


def _grid(u: Tensor, shape: tuple[int, int, int, int, int], channels: int) -> tuple[int]:
    """Return the number of programs that take so many channels of a group each."""
    return (u.shape[0] * shape[0] * -(-shape[1] // channels),)


def _stood_in(inputs: Sequence[Tensor | None]) -> list[Any]:
    """Return the inputs, the small ones contiguous, and u in place of what is not given, where no kernel reads it."""
    small = [None if x is None else x.contiguous() if x.dim() < 3 else x for x in inputs]
    return [small[0] if x is None else x for x in small]


def _switches(inputs: Sequence[Tensor | None], delta_softplus: bool) -> dict[str, bool]:
    D, z, bias = inputs[5:]
    return {"SOFTPLUS": delta_softplus, "BIAS": bias is not None, "SKIP": D is not None, "GATE": z is not None}
