"""The selective scan of Mamba (S6) as one differentiable operator with interchangeable backends.

Equations: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, section 3.
Signature and semantics are those of ``selective_scan_fn`` in state-spaces/mamba (Apache-2.0) for real A and B, C that
vary along the sequence. Deviations: the gradient of the last state is propagated too, and softplus is not replaced by
the identity above 20 (a difference of at most 2e-9).

Backends: ``reference`` is the plain formula, a loop over the steps on any device; ``doubling`` is the same in few plain
operations, for exporters; ``numba`` runs on CPUs and ``triton`` on GPUs, both compiled on first use; ``mamba_ssm`` is
the published kernel, where that package is installed. ``numba`` and ``triton`` are custom operators, which
``torch.compile`` and ``torch.export`` keep whole.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from pentad.core.errors import UsageError, nearest
from pentad.core.layers import (
    selective_scan_doubling,
    selective_scan_mamba_ssm,
    selective_scan_reference,
    selective_scan_triton,
)
from pentad.core.layers.selective_scan_mamba_ssm import Need

# Lanes of the channel blocks whose states the compiled forward pass keeps, and steps between two kept states.
LANES = 16
CHUNK = 32

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class _Backend(NamedTuple):
    """Where a backend runs (empty: everywhere), the module it needs (empty: none), and what it refuses, if anything."""

    devices: tuple[str, ...]
    module: str
    refusal: Callable[[Need], str] = lambda need: ""


_LAYERS = "pentad.core.layers"
# In order of preference.
_BACKENDS = {
    "numba": _Backend(("cpu",), f"{_LAYERS}.selective_scan_numba"),
    "mamba_ssm": _Backend(("cuda",), selective_scan_mamba_ssm.MODULE, selective_scan_mamba_ssm.refusal),
    "triton": _Backend(selective_scan_triton.DEVICES, f"{_LAYERS}.selective_scan_triton_kernels"),
    "reference": _Backend((), ""),
    "doubling": _Backend((), "pentad.core.layers.selective_scan_doubling"),
}
_ANY = Need()
_PROBLEMS: dict[str, str] = {}
_preferred = "auto"


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    return_last_state: Literal[False] = ...,
    *,
    reverse: bool = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = ...,
    z: Tensor | None = ...,
    delta_bias: Tensor | None = ...,
    delta_softplus: bool = ...,
    *,
    return_last_state: Literal[True],
    reverse: bool = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def selective_scan(  # noqa: PLR0913 - the published signature
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return y of h_t = exp(d_t A) h_(t-1) + d_t B_t u_t, y_t = C_t h_t + D u_t, times silu(z) where z is given.

    d is ``delta + delta_bias``, through softplus if ``delta_softplus``; h starts at 0. Half-precision inputs are
    computed in float32, everything in float64 if one input is float64.

    Args:
        u: Input, (batch, channels, length), any strides.
        delta: Step before bias and softplus, same shape.
        A: State matrix, (channels, states), real and meant to be negative.
        B: Input matrix, (batch, states, length), or (batch, groups, states, length) where channel c uses group
            c // (channels / groups).
        C: Output matrix, shaped as B.
        D: Skip, (channels).
        z: Gate, shaped as u.
        delta_bias: (channels).
        delta_softplus: Whether the step goes through softplus.
        return_last_state: Also return the state after the last step, (batch, channels, states), at least float32.
        reverse: Walk from the end of the sequence to its beginning, where h then ends.
        backend: ``auto`` takes the fastest that runs here; `available_backends` lists the names.

    Returns:
        y, shaped as u and of its dtype, or (y, last state).

    Raises:
        UsageError: A shape or dtype does not fit (PTD-122, PTD-123), the backend is unknown (PTD-120) or cannot run
            here (PTD-121).
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    grouped = B if B.dim() == 4 else B.unsqueeze(1), C if C.dim() == 4 else C.unsqueeze(1)
    given = (u, delta, A, *grouped, D, z, delta_bias)
    wide = torch.float64 if any(x is not None and x.dtype == torch.float64 for x in given) else torch.float32
    u_, delta_, A_, B_, C_, D_, z_, bias_ = (None if x is None else x.to(wide) for x in given)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    need = Need(wide, u.numel(), A.shape[1], keep and return_last_state)
    chosen = _choose(backend, u.device.type, need)
    flip = reverse and chosen != "numba"  # which alone walks backwards; the others are given flipped copies
    if flip:
        u_, delta_, B_, C_, z_ = (None if x is None else x.flip(-1) for x in (u_, delta_, B_, C_, z_))
    inputs = u_, delta_, A_, B_, C_, D_, z_, bias_
    if chosen in _FUNCTIONS:
        out, last = _FUNCTIONS[chosen](*inputs, delta_softplus)
    elif chosen == "numba":
        out, last, _ = torch.ops.pentad.selective_scan(*inputs, delta_softplus, reverse, keep)
    else:
        out, last, _ = torch.ops.pentad.selective_scan_triton(*inputs, delta_softplus, keep)
    out = (out.flip(-1) if flip else out).to(u.dtype)
    return (out, last) if return_last_state else out


def available_backends() -> dict[str, str]:
    """Return for each backend what it is used for by ``auto``, ``available``, or why it cannot run here."""
    chosen = {device: _choose("auto", device) for device in ("cpu", "cuda")}
    return {name: _problem(name) or _use(name, chosen) for name in _BACKENDS}


def _use(name: str, chosen: dict[str, str]) -> str:
    present = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    devices = _BACKENDS[name].devices
    if devices and set(devices).isdisjoint(present):
        return "no cuda device here" + ("; used where there is one" if chosen["cuda"] == name else "")
    used = [device for device in present if chosen[device] == name]
    return f"used on {' and '.join(used)}" if used else "available"


@contextmanager
def preferred_backend(name: str) -> Iterator[None]:
    """Make ``auto`` mean the named backend inside the ``with`` block, in every thread.

    Raises:
        UsageError: There is no such backend (PTD-120).
    """
    global _preferred
    _known(name)
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def _known(name: str) -> None:
    if name != "auto" and name not in _BACKENDS:
        hint = nearest(name, _BACKENDS)
        raise UsageError("PTD-120", f"'{name}' is no selective-scan backend{hint}", f"use auto, {', '.join(_BACKENDS)}")


def _problem(name: str) -> str:
    """Return why the backend cannot be loaded, or an empty string; importing is the only honest test."""
    # A compiler cannot trace an import: inside it, what was not tried yet is taken to work.
    if name in _PROBLEMS or torch.compiler.is_compiling():
        return _PROBLEMS.get(name, "")
    module = _BACKENDS[name].module
    _PROBLEMS[name] = ""
    try:
        if module:
            importlib.import_module(module)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # what a broken build of others raises
        _PROBLEMS[name] = f"cannot be loaded ({error})"
    return _PROBLEMS[name]


def _choose(name: str, device: str, need: Need = _ANY) -> str:
    _known(name)
    name = _preferred if name == "auto" else name
    if name == "auto":
        fits = (key for key, entry in _BACKENDS.items() if not entry.devices or device in entry.devices)
        return next(key for key in fits if not _BACKENDS[key].refusal(need) and not _problem(key))
    devices, reason = _BACKENDS[name].devices, _problem(name) or _BACKENDS[name].refusal(need)
    if devices and device not in devices:
        reason = f"runs on {', '.join(devices)} only, the input is on {device}"
    if reason:
        raise UsageError("PTD-121", f"the selective-scan backend '{name}' {reason}", "use the backend auto")
    return name


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *optional: *tuple[Tensor | None, Tensor | None, Tensor | None],
) -> None:
    D, z, delta_bias = optional
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    for name, x in named.items():
        if x is not None and not x.is_floating_point():
            raise UsageError(
                "PTD-123", f"{name} of the selective scan is {x.dtype}", "give real floating-point tensors"
            )
    if u.dim() != 3 or A.dim() != 2 or u.shape[2] < 1:
        found = f"u {tuple(u.shape)}, A {tuple(A.shape)}"
        raise UsageError(
            "PTD-122", f"the selective scan got {found}", "give u (batch, channels, length ≥ 1), A (channels, N)"
        )
    batch, channels, length = u.shape
    groups = B.shape[1] if B.dim() == 4 else 1
    if groups < 1 or channels % groups:
        raise UsageError(
            "PTD-122", f"{channels} channels in {groups} groups", "let the groups of B divide the channels"
        )
    matrix = (batch, groups, A.shape[1], length) if B.dim() == 4 else (batch, A.shape[1], length)
    wanted = {"delta": u.shape, "A": (channels, A.shape[1]), "B": matrix, "C": matrix}
    wanted |= {"D": (channels,), "z": u.shape, "delta_bias": (channels,)}
    for name, shape in wanted.items():
        x = named[name]
        if x is not None and tuple(x.shape) != tuple(shape):
            found = f"{name} of the selective scan has shape {tuple(x.shape)}"
            raise UsageError("PTD-122", found, f"give {tuple(shape)}, as u and A say")


def _forward(  # noqa: PLR0913 - the published signature
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (out, last state, checkpoints); the checkpoints are empty unless ``keep``."""
    from pentad.core.layers import selective_scan_numba

    inputs = (u, delta, A, B, C, D, z, delta_bias)
    flags = selective_scan_numba.Flags(delta_softplus, reverse)
    return selective_scan_numba.forward(inputs, flags, checkpoint_size(u, A, B) if keep else 0)


def _backward(  # noqa: PLR0913 - the forward pass's arguments, what it kept, and the two gradients
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    checkpoints: Tensor,
    grad_out: Tensor,
    grad_last: Tensor | None,
) -> Gradients:
    """Return the gradients of u, delta, A, B, C, D, z and delta_bias; empty ones for what was not given."""
    from pentad.core.layers import selective_scan_numba

    inputs = (u, delta, A, B, C, D, z, delta_bias)
    flags = selective_scan_numba.Flags(delta_softplus, reverse)
    return selective_scan_numba.backward(inputs, flags, checkpoints, grad_out, grad_last)


def result_like(x: Tensor) -> Tensor:
    """Return memory for a result shaped as ``x``, with the channels of a step side by side where ``x`` has them so."""
    _, channels, length = x.shape
    if x.stride(1) == 1 and x.stride(2) != 1:
        return x.new_empty_strided(x.shape, (channels * length, 1, channels))
    return x.new_empty(x.shape)


def checkpoint_size(u: Tensor, A: Tensor, B: Tensor) -> int:
    """Return how many state values the compiled forward pass keeps: one state per block of lanes and chunk of steps."""
    batch, channels, length = u.shape
    groups = B.shape[1]
    blocks = groups * -(-(channels // groups) // LANES)
    return batch * blocks * -(-length // CHUNK) * A.shape[1] * LANES


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.switches = inputs[8:-1]
    ctx.save_for_backward(*inputs[:8], output[2])


def _differentiate(
    backward: str, ctx: Any, grad_out: Tensor | None, grad_last: Tensor | None, _: Tensor | None
) -> tuple[Any, ...]:
    *inputs, checkpoints = ctx.saved_tensors
    if grad_out is None:
        grad_out = torch.zeros_like(inputs[0])
    operator = getattr(torch.ops.pentad, backward)
    grads = operator(*inputs, *ctx.switches, checkpoints, grad_out, grad_last)
    wanted = [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]
    return (*wanted, *[None] * (len(ctx.switches) + 1))


def _register(
    name: str,
    devices: tuple[str, ...],
    passes: tuple[Callable[..., Any], Callable[..., Any]],
    kept: Callable[..., int],
    switches: str,
    result: Callable[[Tensor], Tensor],
) -> None:
    """Make the operators known to torch; registering by schema spares the first call an import of torch's compiler.

    Args:
        name: Of the forward operator; the backward operator's has ``_backward`` after it.
        devices: Device types the two passes run on.
        passes: Forward and backward.
        kept: u, A and B to the number of state values that forward keeps.
        switches: What follows the tensors, as in a schema.
        result: An input with steps to memory as its gradient has; that of u as the output has.
    """

    def forward_fake(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        last, size = u.new_empty((u.shape[0], *A.shape)), kept(u, A, B) if others[-1] else 0
        return result(u), last, u.new_empty((size,))

    def backward_fake(*arguments: Any) -> Gradients:
        made = [arguments[0].new_empty((0,) if x is None else x.shape) for x in arguments[:8]]
        for index in (0, 1, 6):  # u, delta and z
            made[index] = made[index] if arguments[index] is None else result(arguments[index])
        return tuple(made)

    inputs = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias"
    saved = "Tensor checkpoints, Tensor grad_out, Tensor? grad_last"
    three, eight = (f"({', '.join(['Tensor'] * count)})" for count in (3, 8))
    forward, backward = f"pentad::{name}", f"pentad::{name}_backward"
    tags = (torch.Tag.pt2_compliant_tag,)
    torch.library.define(forward, f"({inputs}, {switches}, bool keep) -> {three}", tags=tags)
    torch.library.define(backward, f"({inputs}, {switches}, {saved}) -> {eight}", tags=tags)
    for operator, function in zip((forward, backward), passes, strict=True):
        torch.library.impl(operator, devices, function)
    torch.library.register_fake(forward, forward_fake)
    torch.library.register_fake(backward, backward_fake)
    gradient = partial(_differentiate, f"{name}_backward")
    torch.library.register_autograd(forward, gradient, setup_context=_setup_context)


_FUNCTIONS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": selective_scan_reference.run,
    "doubling": selective_scan_doubling.run,
    "mamba_ssm": selective_scan_mamba_ssm.run,
}
_SWITCHES = "bool delta_softplus", "bool delta_softplus, bool reverse"
_register("selective_scan", ("cpu",), (_forward, _backward), checkpoint_size, _SWITCHES[1], result_like)
_register(
    "selective_scan_triton",
    selective_scan_triton.DEVICES,
    (selective_scan_triton.forward, selective_scan_triton.backward),
    selective_scan_triton.kept_size,
    _SWITCHES[0],
    lambda x: x.new_empty(x.shape),
)
