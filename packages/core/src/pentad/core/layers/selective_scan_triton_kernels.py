# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913 - Triton gives the arguments their types, and a kernel has no other way to get them
"""The selective scan's Triton kernels; `selective_scan_triton` runs them.

A program is one warp. Its tiles hold TIME steps by STATES states by LANES channels, of which the lanes and then the
states lie side by side across the threads, so that each thread has all steps of what is its own: it walks them one
after another without talking to the others. `outputs` and `adjoints` carry the state, and its gradient, from chunk to
chunk over the whole sequence; `gradients` works on all chunks side by side from what the two have left before each.
Equations as in `selective_scan_backward`; e_t h_(t-1) is carried through the scan as a value of its own, since taking
it as h_t - d_t B_t u_t would cancel. Nothing is added atomically, so two runs give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

_jit: Callable[..., Any] = triton.jit
_LOG2E = tl.constexpr(1.4426950408889634)


@_jit
def _compose(a1, v1, a2, v2):
    """Return the step x -> a x + v that is step 1, then step 2."""
    return a1 * a2, a2 * v1 + v2


@_jit
def _compose_after(a1, v1, q1, a2, v2, q2):
    """Return `_compose` and what of its v was there before the last step's own term was added."""
    carried = a2 * v1
    return a1 * a2, carried + v2, carried + q2


@_jit
def _compose_before(a1, v1, p1, q1, a2, v2, p2, q2):
    """Return `_compose` and the p x + q that the last step of all multiplied."""
    return a1 * a2, a2 * v1 + v2, a1 * p2, p2 * v1 + q2


@_jit
def _sigmoid(x):
    w = tl.exp(-tl.abs(x))
    return tl.where(x < 0, w, 1.0) / (1.0 + w)


@_jit
def _softplus(x, TERMS: tl.constexpr):
    """Return max(x, 0) + log1p(exp(-|x|)), the logarithm as 2 artanh(w / (2 + w)), exact for small w."""
    w = tl.exp(-tl.abs(x))
    s = w / (2.0 + w)
    square = s * s
    series = tl.zeros_like(s)
    for k in tl.static_range(TERMS - 1, -1, -1):
        series = series * square + 2.0 / (2 * k + 1)
    return tl.maximum(x, 0.0) + series * s


@_jit
def _place(groups, width, part, LANES: tl.constexpr):
    """Return the group, the channels and which of them there are, of a part that holds LANES channels of one group."""
    blocks = tl.cdiv(width, LANES)
    group, lane = part // blocks, part % blocks * LANES + tl.arange(0, LANES)
    return group, group * width + lane, lane < width


@_jit
def _rows(pointer, batch, channel, strides, inside, t, limit):
    """Return (TIME, LANES) elements of a tensor (batch, channels, length), 0 outside of it."""
    at = batch * strides[0] + channel[None, :] * strides[1] + t[:, None] * strides[2]
    return tl.load(pointer + at, mask=inside[None, :] & (t < limit)[:, None], other=0.0)


@_jit
def _matrix(pointer, batch, group, strides, n, states, t, limit):
    """Return (TIME, STATES) elements of a tensor (batch, groups, states, length), 0 outside of it."""
    at = batch * strides[0] + group * strides[1] + n[None, :] * strides[2] + t[:, None] * strides[3]
    return tl.load(pointer + at, mask=(n < states)[None, :] & (t < limit)[:, None], other=0.0)


@_jit
def _step(delta, shift, batch, channel, strides, inside, t, limit, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """Return the step before softplus, and after it: 0, which leaves the state alone, after the sequence's end."""
    raw = _rows(delta, batch, channel, strides, inside, t, limit) + shift
    d = _softplus(raw, TERMS) if SOFTPLUS else raw
    return raw, tl.where((t < limit)[:, None], d, 0.0)


@_jit
def _small(pointer, row, channel, inside, n, states):
    """Return (STATES, LANES) elements of a contiguous tensor (…, states) whose row of channel 0 is ``row``."""
    return tl.load(pointer + _small_at(row, channel, n, states), mask=_there(inside, n, states), other=0.0)


@_jit
def _small_at(row, channel, n, states):
    return (row + channel[None, :]) * states + n[:, None]


@_jit
def _there(inside, n, states):
    return inside[None, :] & (n < states)[:, None]


@_jit
def _each(pointer, channel, inside, GIVEN: tl.constexpr):
    """Return (1, LANES) elements of a tensor (channels), 0 if it is not given."""
    return tl.load(pointer + channel, mask=inside & GIVEN, other=0.0)[None, :]


@_jit
def outputs(
    u, delta, A, B, C, D, z, bias, starts, last, out, u_strides, delta_strides, z_strides, B_strides, C_strides,
    groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, KEEP: tl.constexpr,
    LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write the output, the state after the last step and, if asked, the state before each chunk."""
    index = tl.program_id(0).to(tl.int64)
    parts = groups * tl.cdiv(width, LANES)
    batch = index // parts
    group, channel, inside = _place(groups, width, index % parts, LANES)
    n, step = tl.arange(0, STATES), tl.arange(0, TIME)
    decay = _small(A, 0, channel, inside, n, states) * _LOG2E
    shift, skip = _each(bias, channel, inside, BIAS), _each(D, channel, inside, SKIP)
    carry = tl.zeros_like(decay)
    chunk = index * 0
    while chunk < chunks:
        t = chunk * TIME + step
        if KEEP:
            row = (batch * chunks + chunk) * groups * width
            tl.store(starts + _small_at(row, channel, n, states), carry, mask=_there(inside, n, states))
        _, d = _step(delta, shift, batch, channel, delta_strides, inside, t, length, SOFTPLUS, TERMS)
        value = _rows(u, batch, channel, u_strides, inside, t, length)
        e = tl.exp2(d[:, None, :] * decay[None, :, :])
        v = (d * value)[:, None, :] * _matrix(B, batch, group, B_strides, n, states, t, length)[:, :, None]
        v += tl.where((step == 0)[:, None, None], e * carry[None, :, :], 0.0)
        _, h = tl.associative_scan((e, v), 0, _compose)
        carry = tl.sum(tl.where((step == TIME - 1)[:, None, None], h, 0.0), axis=0)
        y = tl.sum(h * _matrix(C, batch, group, C_strides, n, states, t, length)[:, :, None], axis=1) + skip * value
        if GATE:
            gate = _rows(z, batch, channel, z_strides, inside, t, length)
            y *= gate * _sigmoid(gate)
        at = (batch * groups * width + channel)[None, :] * length + t[:, None]
        tl.store(out + at, y, mask=inside[None, :] & (t < length)[:, None])
        chunk += 1
    at = _small_at(batch * groups * width, channel, n, states)
    tl.store(last + at, carry, mask=_there(inside, n, states))


@_jit
def adjoints(
    delta, A, C, z, bias, grad, given, ends, delta_strides, z_strides, C_strides, grad_strides,
    groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr, GIVEN: tl.constexpr,
    LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write the gradient that the steps after each chunk give to the state at its end."""
    index = tl.program_id(0).to(tl.int64)
    parts = groups * tl.cdiv(width, LANES)
    batch = index // parts
    group, channel, inside = _place(groups, width, index % parts, LANES)
    n, step = tl.arange(0, STATES), tl.arange(0, TIME)
    decay = _small(A, 0, channel, inside, n, states) * _LOG2E
    shift = _each(bias, channel, inside, BIAS)
    carry = tl.zeros_like(decay)
    if GIVEN:
        carry += _small(given, batch * groups * width, channel, inside, n, states)
    chunk = index * 0 + chunks - 1
    while chunk >= 0:
        t = chunk * TIME + step
        row = (batch * chunks + chunk) * groups * width
        tl.store(ends + _small_at(row, channel, n, states), carry, mask=_there(inside, n, states))
        _, d = _step(delta, shift, batch, channel, delta_strides, inside, t, length, SOFTPLUS, TERMS)
        g = _rows(grad, batch, channel, grad_strides, inside, t, length)
        if GATE:
            gate = _rows(z, batch, channel, z_strides, inside, t, length)
            g *= gate * _sigmoid(gate)
        moved = tl.exp2(tl.cumsum(d, axis=0)[:, None, :] * decay[None, :, :])
        driven = g[:, None, :] * _matrix(C, batch, group, C_strides, n, states, t, length)[:, :, None]
        carry = tl.exp2(tl.sum(d, axis=0)[None, :] * decay) * carry + tl.sum(moved * driven, axis=0)
        chunk -= 1


@_jit
def gradients(
    u, delta, A, B, C, D, z, bias, grad, starts, ends,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias,
    u_strides, delta_strides, z_strides, B_strides, C_strides, grad_strides, groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr,
    LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr, TERMS: tl.constexpr, SWEEPS: tl.constexpr,
):  # fmt: skip
    """Write all gradients of a chunk; those of A, D and the bias a chunk, those of B and C a part of the channels."""
    index = tl.program_id(0).to(tl.int64)
    parts = groups * tl.cdiv(width, LANES * SWEEPS)
    chunk, part, batch = index % chunks, index // chunks % parts, index // (chunks * parts)
    group = part // (parts // groups)
    n, step = tl.arange(0, STATES), tl.arange(0, TIME)
    t = chunk * TIME + step
    b = _matrix(B, batch, group, B_strides, n, states, t, length)[:, :, None]
    c = _matrix(C, batch, group, C_strides, n, states, t, length)[:, :, None]
    sum_b = tl.zeros((TIME, STATES, LANES), u.dtype.element_ty)
    sum_c = tl.zeros_like(sum_b)
    row = (batch * chunks + chunk) * groups * width
    for sweep in range(SWEEPS):
        lane = (part % (parts // groups) * SWEEPS + sweep) * LANES + tl.arange(0, LANES)
        inside, channel = lane < width, group * width + lane
        here = inside[None, :] & (t < length)[:, None]
        at = (batch * groups * width + channel)[None, :] * length + t[:, None]
        shift, skip = _each(bias, channel, inside, BIAS), _each(D, channel, inside, SKIP)
        raw, d = _step(delta, shift, batch, channel, delta_strides, inside, t, length, SOFTPLUS, TERMS)
        value = _rows(u, batch, channel, u_strides, inside, t, length)
        decay = _small(A, 0, channel, inside, n, states) * _LOG2E
        e = tl.exp2(d[:, None, :] * decay[None, :, :])
        start = _small(starts, row, channel, inside, n, states)
        before = tl.where((step == 0)[:, None, None], e * start[None, :, :], 0.0)
        driven = before + (d * value)[:, None, :] * b
        _, h, before = tl.associative_scan((e, driven, before), 0, _compose_after)  # before: e_t h_(t-1)
        g = _rows(grad, batch, channel, grad_strides, inside, t, length)
        if GATE:
            gate = _rows(z, batch, channel, z_strides, inside, t, length)
            s = _sigmoid(gate)
            y = tl.sum(h * c, axis=1) + skip * value
            tl.store(grad_z + at, g * y * s * (1.0 + gate * (1.0 - s)), mask=here)
            g *= gate * s
        end = _small(ends, row, channel, inside, n, states)
        own = g[:, None, :] * c + tl.where((step == TIME - 1)[:, None, None], end[None, :, :], 0.0)
        # Turned round by tl.flip, which renames registers; reverse=True would exchange them between threads.
        ones = tl.full((TIME, STATES, LANES), 1.0, own.dtype)
        turned = (tl.flip(e, 0), tl.flip(e * own, 0), ones, tl.flip(own, 0))
        scanned = tl.associative_scan(turned, 0, _compose_before)
        adjoint = tl.flip(scanned[3], 0)
        p = adjoint * before
        share = tl.sum(adjoint * b, axis=1)
        slope = value * share + tl.sum(decay[None, :, :] * p, axis=1) / _LOG2E
        if SOFTPLUS:
            slope *= _sigmoid(raw)
        slope = tl.where(here, slope, 0.0)
        tl.store(grad_u + at, d * share + skip * g, mask=here)
        tl.store(grad_delta + at, slope, mask=here)
        places = _small_at(row, channel, n, states)
        tl.store(grad_A + places, tl.sum(d[:, None, :] * p, axis=0), mask=_there(inside, n, states))
        if SKIP:
            tl.store(grad_D + row + channel, tl.sum(g * value, axis=0), mask=inside)
        if BIAS:
            tl.store(grad_bias + row + channel, tl.sum(slope, axis=0), mask=inside)
        sum_b += adjoint * (d * value)[:, None, :]
        sum_c += g[:, None, :] * h
    places = ((batch * parts + part) * states + n)[None, :] * length + t[:, None]
    here = (n < states)[None, :] & (t < length)[:, None]
    tl.store(grad_B + places, tl.sum(sum_b, axis=2), mask=here)
    tl.store(grad_C + places, tl.sum(sum_c, axis=2), mask=here)
