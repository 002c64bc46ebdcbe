"""The selective scan on a CPU: compiled by Numba on first use, kept on disk, and run on torch's number of threads.

Blocks of channels are parted among threads without regard to their number, and the parts of the gradients of B and C
are added in a fixed order, so results do not depend on it. Compiled code is kept in the user's cache folder
(``$XDG_CACHE_HOME`` or ``~/.cache``, then ``pentad/numba``; ``$NUMBA_CACHE_DIR`` where it is set).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core import config, event
from torch import Tensor

from pentad.core.layers import lanes, selective_scan_kernels
from pentad.core.layers.lanes import Flat
from pentad.core.layers.selective_scan import LANES, Gradients
from pentad.core.layers.selective_scan_kernels import Layout, Tensors, backward_task, forward_task

log = logging.getLogger(__name__)

# Fewer states than this are not worth starting a thread (about a third of a millisecond).
_WORTH_THREADS = 1 << 20
_MOST_PARTS = 8


def cache_folder() -> Path:
    """Return the user's folder for compiled code, whether or not it exists."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        root = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        root = Path("~", ".cache")
    return root / "pentad" / "numba"


def _source_folder() -> Path | None:
    """Return a writable folder for compiled code of exactly this source, or nothing."""
    source = b"".join(Path(file).read_bytes() for file in (lanes.__file__, selective_scan_kernels.__file__))
    folder = cache_folder() / hashlib.sha256(source).hexdigest()[:16]
    if not folder.is_absolute():
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


_CACHE = _source_folder()


def _kernel(function: Callable[..., None]) -> Any:
    """Return the function compiled on first use, without Python's lock, kept on disk where that is possible."""
    if _CACHE is None:
        return numba.njit(error_model="numpy", nogil=True)(function)
    settings: Any = config  # its attributes come from the environment, unseen by a type checker
    before = settings.CACHE_DIR
    settings.CACHE_DIR = before or str(_CACHE)
    try:
        return numba.njit(error_model="numpy", nogil=True, cache=True)(function)
    finally:
        settings.CACHE_DIR = before


_FORWARD, _BACKWARD = _kernel(forward_task), _kernel(backward_task)


class _Announcement(event.Listener):
    """Says once per kernel and dtype that it is being compiled."""

    def __init__(self, kernel: Any, dtype: Any) -> None:
        self.kernel, self.dtype = kernel, dtype

    def on_start(self, happened: Any) -> None:
        if happened.data["dispatcher"] is self.kernel:
            kept = "once on this machine" if _CACHE else "again in every run: the cache folder is not writable"
            way = self.kernel.py_func.__name__.strip("_").removesuffix("_task")
            log.info("compiling the selective scan, %s, %s: some seconds, %s", way, self.dtype, kept)

    def on_end(self, happened: Any) -> None:
        """Stay silent."""


_typeof: Callable[[Any], Any] = numba.typeof
_READY: set[tuple[Any, Any]] = set()
_READY_LOCK = threading.Lock()


def _make_ready(kernel: Any, arguments: tuple[Any, ...]) -> None:
    """Load or compile the kernel for these arguments before threads need it."""
    dtype = arguments[0].u.dtype
    with _READY_LOCK:
        if (kernel, dtype) in _READY:
            return
        types = tuple(_typeof(argument) for argument in (*arguments, 0))
        try:
            with event.install_listener("numba:compile", _Announcement(kernel, dtype)):
                kernel.compile(types)
        except OSError as error:  # compiled, but not kept: the disk is full, for instance
            log.warning("the compiled selective scan could not be kept in %s: %s", _CACHE, error.strerror)
        _READY.add((kernel, dtype))


def _run(kernel: Any, arguments: tuple[Any, ...], s: Layout) -> None:
    """Call the kernel for every task, on as many threads as torch may use."""
    _make_ready(kernel, arguments)
    tasks = s.batch * s.groups * s.parts
    workers = min(torch.get_num_threads(), tasks)
    todo = iter(range(tasks))

    def work() -> None:
        for index in todo:
            kernel(*arguments, index)

    if workers == 1 or s.batch * s.groups * s.width * s.length * s.states < _WORTH_THREADS:
        work()
        return
    with ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(work) for _ in range(workers - 1)]
        work()
    for other in others:
        other.result()


def _flat(x: Tensor) -> Flat:
    """Return the tensor's memory from its first to its last element, without a copy."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((extent if x.numel() else 0,), (1,)).numpy()


def _walkable(x: Tensor) -> Tensor:
    """Return the tensor itself where steps or channels lie side by side, else a contiguous copy."""
    return x if 1 in x.stride()[1:] else x.contiguous()


def _prepare(
    inputs: tuple[Tensor | None, ...], delta_softplus: bool, keep: bool, grad: Tensor | None = None
) -> tuple[Tensors, Layout]:
    u, delta, z = (None if x is None else _walkable(x) for x in (inputs[0], inputs[1], inputs[6]))
    B, C = (x if x.stride(3) == 1 else x.contiguous() for x in (inputs[3], inputs[4]) if x is not None)
    A, D, bias = (None if x is None else x.contiguous() for x in (inputs[2], inputs[5], inputs[7]))
    assert u is not None
    assert A is not None
    given = [u.new_empty(0) if x is None else x for x in (u, delta, A, B, C, D, z, bias)]
    batch, channels, length = u.shape
    width = channels // B.shape[1]
    strides: Any = [(0, 0, 0) if x is None else x.stride()[:3] for x in (u, delta, z, grad, B, C)]
    switches = (int(delta_softplus), int(D is not None), int(bias is not None), int(z is not None), int(keep))
    parts = min(_MOST_PARTS, -(-width // LANES))
    layout = Layout(batch, B.shape[1], width, length, A.shape[1], parts, *switches, *strides)
    return Tensors(*(_flat(x) for x in given)), layout


def forward(inputs: tuple[Tensor | None, ...], delta_softplus: bool, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (out, last state, kept states) of the inputs u, delta, A, B, C, D, z and delta_bias.

    Args:
        inputs: CPU tensors of one dtype, float32 or float64, shaped as `selective_scan` says; B, C of four axes.
        delta_softplus: Whether the step goes through softplus.
        keep: How many state values to keep for the backward pass, 0 for none.
    """
    u, _, A = inputs[:3]
    assert u is not None
    assert A is not None
    x, layout = _prepare(inputs, delta_softplus, keep > 0)
    out, last, kept = u.new_empty(u.shape), u.new_empty((u.shape[0], *A.shape)), u.new_empty(keep)
    if u.numel():
        _run(_FORWARD, (x, layout, _flat(out), _flat(last), _flat(kept)), layout)
    return out, last, kept


def backward(
    inputs: tuple[Tensor | None, ...], delta_softplus: bool, kept: Tensor, grad: Tensor, grad_last: Tensor | None
) -> Gradients:
    """Return the gradients of `forward`'s inputs, empty where there is no input.

    Args:
        inputs: As given to `forward`.
        delta_softplus: As given to `forward`.
        kept: The states it kept.
        grad: Gradient of its output, any strides.
        grad_last: Gradient of the last state, if any.
    """
    u, _, A, B, _, D, z, bias = inputs
    assert u is not None
    assert A is not None
    assert B is not None
    grad = _walkable(grad)
    x, s = _prepare(inputs, delta_softplus, True, grad)
    parts = u.new_empty((s.batch, s.groups, s.parts, s.states, s.length))
    made = [torch.empty_like(parts) if index in (3, 4) else u.new_empty(u.shape) for index in (0, 1, 3, 4)]
    per_sample = [u.new_empty((s.batch, *A.shape)), u.new_empty(u.shape[:2]), u.new_empty(u.shape[:2])]
    grad_z = u.new_empty(0 if z is None else u.shape)
    ordered = (*made[:2], per_sample[0], *made[2:], per_sample[1], grad_z, per_sample[2])
    last = u.new_empty(0) if grad_last is None else grad_last.contiguous()
    if u.numel():
        arguments = (x, s, _flat(grad), _flat(last), _flat(kept), Tensors(*(_flat(g) for g in ordered)))
        _run(_BACKWARD, arguments, s)
    return _summed(ordered, D is not None, bias is not None)


def _summed(grads: tuple[Tensor, ...], skip: bool, biased: bool) -> Gradients:
    """Add up what tasks and samples left apart, in a fixed order."""
    u, delta, A, B, C, D, z, bias = grads
    B, C = (x.squeeze(2) if x.shape[2] == 1 else x.sum(2) for x in (B, C))
    A = A.squeeze(0) if A.shape[0] == 1 else A.sum(0)
    D, bias = (x.sum(0) if given else x.new_empty(0) for x, given in ((D, skip), (bias, biased)))
    return u, delta, A, B, C, D, z, bias
