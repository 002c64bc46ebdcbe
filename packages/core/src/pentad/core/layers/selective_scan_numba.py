"""The selective scan on a CPU: compiled by Numba on first use, kept on disk, and run on torch's number of threads.

Blocks of channels are parted among threads without regard to their number, and the parts of the gradients of B and C
are added in a fixed order, so results do not depend on it. `pentad.core.layers.machine_code` keeps the compiled code.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pentad.core.layers import machine_code
from pentad.core.layers import selective_scan_layout as plans
from pentad.core.layers.selective_scan import LANES, Gradients, result_like
from pentad.core.layers.selective_scan_layout import Layout

if importlib.util.find_spec("numba") is None:
    raise ImportError("the package numba is not installed")

# Fewer states than this are not worth waking a thread (about a twentieth of a millisecond).
_WORTH_THREADS = 1 << 19
# Tasks a group is parted into, and blocks a task has at least if the group has them.
_MOST_PARTS, _LEAST_BLOCKS = 8, 3
# Which of the tensors given to each pass have steps.
_STEPPED = {"forward": (0, 1, 3, 4, 6, 8), "backward": (0, 1, 3, 4, 6, 8, 11, 12, 14, 15, 17)}
# Bytes of a huge page.
_HUGE = 1 << 21
_SHARED = ("lanes", "lane_functions", "selective_scan_layout", "selective_scan_tasks")


@functools.cache
def _kernel(way: str, dtype: torch.dtype) -> Callable[..., None]:
    """Return the compiled pass, ``forward`` or ``backward``, from the cache folder where that is possible."""
    element, module = str(dtype).removeprefix("torch."), f"selective_scan_{way}"
    sources = [str(Path(__file__).with_name(f"{name}.py")) for name in (*_SHARED, module)]
    return machine_code.load(f"pentad.core.layers.{module}", f"{way}_task", element, sources)


def _run(way: str, tensors: tuple[Tensor | None, ...], s: Layout, tiles: int) -> None:
    """Call the kernel for every task, on as many threads as torch may use."""
    like = tensors[0]
    assert like is not None
    kernel = _kernel(way, like.dtype)
    blocks = -(-s.width // LANES)
    memory = plans.plan(tiles, -(-blocks // s.parts), s.rows)
    numbers = torch.tensor([*s.numbers(), *memory])
    stepped = _STEPPED[way] if s.way < 0 else ()
    addresses = [
        0 if x is None else (x[..., -1:] if index in stepped else x).data_ptr() for index, x in enumerate(tensors)
    ]
    tasks = s.batch * s.groups * s.parts
    workers = min(torch.get_num_threads(), tasks)
    todo = iter(range(tasks))

    def work() -> None:
        space = torch.empty(memory.size, dtype=like.dtype)
        for index in todo:
            kernel(*addresses, space.data_ptr(), numbers.data_ptr(), index)

    small = s.batch * s.groups * s.width * s.length * s.states < _WORTH_THREADS
    machine_code.on_threads(work, 1 if small else workers)


@functools.cache
def _advise() -> Callable[[int, int, int], int] | None:
    """Return the C library's madvise, where the system has huge pages to give."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def _in_huge_pages(made: Tensor) -> Tensor:
    """Return memory that nothing was written to yet, in huge pages if the system has them.

    Being given results page by page takes a third of the time of a scan too long for the memory of the one before.
    """
    advise = _advise()
    start = -(-made.data_ptr() // _HUGE) * _HUGE
    size = (made.data_ptr() + made.nbytes) // _HUGE * _HUGE - start
    if advise and size > 0:
        advise(start, size, mmap.MADV_HUGEPAGE)  # advice: what comes of it makes no difference to the result
    return made


def _walkable(x: Tensor) -> Tensor:
    """Return the tensor itself where steps or channels lie side by side, else a contiguous copy."""
    return x if 1 in x.stride()[1:] else x.contiguous()


Inputs = tuple[Tensor | None, ...]


class Flags(NamedTuple):
    """Whether the step goes through softplus, and whether the last step of the sequence comes first."""

    delta_softplus: bool
    reverse: bool


def _prepare(
    inputs: Inputs,
    flags: Flags,
    keep: bool,
    results: tuple[Tensor, ...],
    grad: Tensor | None = None,
    grad_last: Tensor | None = None,
) -> tuple[Inputs, Layout]:
    """Return the inputs as the loops can walk them, and what to tell the loops about them and the ``results``.

    These are the output, or the gradients of u, delta and z.
    """
    u, delta, z = (None if x is None else _walkable(x) for x in (inputs[0], inputs[1], inputs[6]))
    B, C = (x if x.stride(3) == 1 else x.contiguous() for x in (inputs[3], inputs[4]) if x is not None)
    A, D, bias = (None if x is None else x.contiguous() for x in (inputs[2], inputs[5], inputs[7]))
    assert u is not None
    assert A is not None
    batch, channels, length = u.shape
    width, states = channels // B.shape[1], A.shape[1]
    way = -1 if flags.reverse else 1
    written = (*results, None, None)[:3]
    walked = [
        (0, 0, 0) if x is None or x.dim() != 3 else (*x.stride()[:2], x.stride(2) * way)
        for x in (u, delta, z, grad, *written)
    ]
    strides: Any = [*walked[:4], B.stride()[:3], C.stride()[:3], *walked[4:]]
    given = [int(x is not None) for x in (D, bias, z)]
    parts = min(_MOST_PARTS, -(-width // (_LEAST_BLOCKS * LANES)))
    sizes = batch, B.shape[1], width, length, states, plans.whole_quads(states), parts
    switches = int(flags.delta_softplus), *given, int(keep), int(grad_last is not None), way
    layout = Layout._make([*sizes, *switches, *strides])
    return (u, delta, A, B, C, D, z, bias), layout


def forward(inputs: Inputs, flags: Flags, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (out, last state, kept states) of the inputs u, delta, A, B, C, D, z and delta_bias.

    Args:
        inputs: CPU tensors of one dtype, float32 or float64, shaped as `selective_scan` says; B, C of four axes.
        flags: How to walk.
        keep: How many state values to keep for the backward pass, 0 for none.
    """
    u, _, A = inputs[:3]
    assert u is not None
    assert A is not None
    out, last, kept = (
        _in_huge_pages(result_like(u)),
        u.new_empty((u.shape[0], *A.shape)),
        _in_huge_pages(u.new_empty(keep)),
    )
    x, layout = _prepare(inputs, flags, keep > 0, (out,))
    if u.numel():
        _run("forward", (*x, out, last, kept), layout, plans.FORWARD_TILES)
    return out, last, kept


def backward(inputs: Inputs, flags: Flags, kept: Tensor, grad: Tensor, grad_last: Tensor | None) -> Gradients:
    """Return the gradients of `forward`'s inputs, empty where there is no input.

    Args:
        inputs: As given to `forward`.
        flags: As given to `forward`.
        kept: The states it kept.
        grad: Gradient of its output, any strides.
        grad_last: Gradient of the last state, if any.
    """
    u, delta, A, B, _, D, z, bias = inputs
    assert u is not None
    assert delta is not None
    assert A is not None
    assert B is not None
    grad, grad_last = _walkable(grad), None if grad_last is None else grad_last.contiguous()
    walked = [u.new_empty(0) if x is None else _in_huge_pages(result_like(x)) for x in (u, delta, z)]
    x, s = _prepare(inputs, flags, True, tuple(walked), grad, grad_last)
    parts = s.batch, s.groups, s.parts, s.states, s.length
    matrices = [_in_huge_pages(u.new_empty(parts)) for _ in range(2)]
    per_sample = [u.new_empty((s.batch, *A.shape)), u.new_empty(u.shape[:2]), u.new_empty(u.shape[:2])]
    ordered = (*walked[:2], per_sample[0], *matrices, per_sample[1], walked[2], per_sample[2])
    if u.numel():
        _run("backward", (*x, grad, grad_last, kept, *ordered), s, plans.BACKWARD_TILES)
    return _summed(ordered, D is not None, bias is not None)


def _summed(grads: tuple[Tensor, ...], skip: bool, biased: bool) -> Gradients:
    """Add up what tasks and samples left apart, in a fixed order."""
    u, delta, A, B, C, D, z, bias = grads
    B, C = (x.squeeze(2) if x.shape[2] == 1 else x.sum(2) for x in (B, C))
    A = A.squeeze(0) if A.shape[0] == 1 else A.sum(0)
    D, bias = (x.sum(0) if given else x.new_empty(0) for x, given in ((D, skip), (bias, biased)))
    return u, delta, A, B, C, D, z, bias
