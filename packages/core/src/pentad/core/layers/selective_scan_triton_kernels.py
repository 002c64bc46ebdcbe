# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913 - Triton gives the arguments their types, and a kernel has no other way to get them
"""The selective scan's Triton kernels; `selective_scan_triton` runs them.

The sequence is cut into chunks of TIME steps that are worked on side by side, in three passes. The first finds what
each chunk makes of a state of zero, by a sum and not a scan: the decay from a step to the chunk's end is the
exponential of A times the sum of the later steps. The second chains the chunks, which gives the state before each of
them. The third scans within each chunk from there. The gradients go the same way backwards. A program holds LANES
channels by STATES states by TIME steps; the fewer states, the more lanes, so that one state fills it as sixteen do.
Equations as in `selective_scan_backward`; e_t h_(t-1) is carried through the scan as a value of its own, since taking
it as h_t - d_t B_t u_t would cancel. Nothing is added atomically, so two runs give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

_jit: Callable[..., Any] = triton.jit


@_jit
def _compose(a1, v1, a2, v2):
    """Return the step x -> a x + v that is step 1, then step 2."""
    return a1 * a2, a2 * v1 + v2


@_jit
def _compose_apart(a1, v1, q1, a2, v2, q2):
    """Return `_compose` and what of its v was there before the last step's own term was added."""
    carried = a2 * v1
    return a1 * a2, carried + v2, carried + q2


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
def _place(parts, chunks, TIME: tl.constexpr):
    """Return this program's sample, part of the channels, chunk, and steps."""
    index = tl.program_id(0).to(tl.int64)
    chunk = index % chunks
    part = index // chunks % parts
    return index // (chunks * parts), part, chunk, chunk * TIME + tl.arange(0, TIME)


@_jit
def _rows(pointer, batch, channel, strides, inside, t, limit):
    """Return (LANES, TIME) elements of a tensor (batch, channels, length), 0 outside of it."""
    at = batch * strides[0] + channel[:, None] * strides[1] + t[None, :] * strides[2]
    return tl.load(pointer + at, mask=inside[:, None] & (t >= 0)[None, :] & (t < limit)[None, :], other=0.0)


@_jit
def _matrix(pointer, batch, group, strides, n, states, t, limit):
    """Return (STATES, TIME) elements of a tensor (batch, groups, states, length), 0 outside of it."""
    at = batch * strides[0] + group * strides[1] + n[:, None] * strides[2] + t[None, :] * strides[3]
    return tl.load(pointer + at, mask=(n < states)[:, None] & (t < limit)[None, :], other=0.0)


@_jit
def _raw_step(delta, bias, batch, channel, strides, inside, t, limit, BIAS: tl.constexpr):
    x = _rows(delta, batch, channel, strides, inside, t, limit)
    if BIAS:
        x += tl.load(bias + channel, mask=inside, other=0.0)[:, None]
    return x


@_jit
def _step(x, t, limit, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """Return the step of `_raw_step`; 0, which leaves the state alone, after the sequence's end."""
    d = _softplus(x, TERMS) if SOFTPLUS else x
    return tl.where((t < limit)[None, :], d, 0.0)


@_jit
def _small(pointer, row, channel, inside, n, states):
    """Return (LANES, STATES) elements of a contiguous tensor (…, states) whose row of channel 0 is ``row``."""
    at = (row + channel[:, None]) * states + n[None, :]
    return tl.load(pointer + at, mask=inside[:, None] & (n < states)[None, :], other=0.0)


@_jit
def local_states(
    u, delta, A, B, bias, ends, sums, u_strides, delta_strides, B_strides, groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr,
    TERMS: tl.constexpr,
):  # fmt: skip
    """Write each chunk's last state, had it begun with zero, and the sum of its steps."""
    blocks = tl.cdiv(width, LANES)
    batch, part, chunk, t = _place(groups * blocks, chunks, TIME)
    lane = part % blocks * LANES + tl.arange(0, LANES)
    n, inside, group = tl.arange(0, STATES), lane < width, part // blocks
    channel = group * width + lane
    d = _step(
        _raw_step(delta, bias, batch, channel, delta_strides, inside, t, length, BIAS), t, length, SOFTPLUS, TERMS
    )
    x = d * _rows(u, batch, channel, u_strides, inside, t, length)
    # The sum of the later steps, without taking a difference.
    beyond = _step(
        _raw_step(delta, bias, batch, channel, delta_strides, inside, t + 1, length, BIAS),
        t + 1,
        length,
        SOFTPLUS,
        TERMS,
    )
    later = tl.cumsum(tl.where((t + 1 < (chunk + 1) * TIME)[None, :], beyond, 0.0), axis=1, reverse=True)
    decay = _small(A, 0, channel, inside, n, states)
    moved = tl.exp(later[:, None, :] * decay[:, :, None])
    driven = x[:, None, :] * _matrix(B, batch, group, B_strides, n, states, t, length)[None, :, :]
    row = (batch * chunks + chunk) * groups * width + channel
    here = inside[:, None] & (n < states)[None, :]
    tl.store(ends + row[:, None] * states + n[None, :], tl.sum(moved * driven, axis=2), mask=here)
    tl.store(sums + row, tl.sum(d, axis=1), mask=inside)


@_jit
def chain(
    ends, sums, A, given, starts, last, chunks, channels, states,
    GIVEN: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write what each chunk is given, from what each makes of zero; after the last chunk, what that one hands on.

    ROWS chunks are taken at once, since a step of one chunk would wait for the memory each time.
    """
    size = channels * states
    blocks = tl.cdiv(size, BLOCK)
    index = tl.program_id(0).to(tl.int64)
    batch, at = index // blocks, index % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    decay = tl.load(A + at, mask=inside, other=0.0)
    carry = tl.load(given + batch * size + at, mask=inside, other=0.0) if GIVEN else tl.zeros_like(decay)
    tl.store(starts + (batch * chunks + (chunks - 1 if REVERSE else 0)) * size + at, carry, mask=inside)
    begin = index * 0
    while begin < chunks:
        k = begin + tl.arange(0, ROWS)
        here = (k < chunks)[:, None] & inside[None, :]
        chunk = batch * chunks + (chunks - 1 - k if REVERSE else k)[:, None]
        made = tl.load(ends + chunk * size + at[None, :], mask=here, other=0.0)
        total = tl.load(sums + chunk * channels + (at // states)[None, :], mask=here, other=0.0)
        kept, gained = tl.associative_scan((tl.exp(decay[None, :] * total), made), 0, _compose)
        after = kept * carry[None, :] + gained
        following = chunk - 1 if REVERSE else chunk + 1
        tl.store(starts + following * size + at[None, :], after, mask=here & (k < chunks - 1)[:, None])
        carry = tl.sum(tl.where((k == begin + ROWS - 1)[:, None], after, 0.0), axis=0)
        begin += ROWS
    if not REVERSE:
        tl.store(last + batch * size + at, carry, mask=inside)


@_jit
def outputs(
    u, delta, A, B, C, D, z, bias, starts, out, u_strides, delta_strides, z_strides, B_strides, C_strides,
    groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr,
    LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write the output of each chunk, given the state before it."""
    blocks = tl.cdiv(width, LANES)
    batch, part, chunk, t = _place(groups * blocks, chunks, TIME)
    lane = part % blocks * LANES + tl.arange(0, LANES)
    n, inside, group = tl.arange(0, STATES), lane < width, part // blocks
    channel = group * width + lane
    d = _step(
        _raw_step(delta, bias, batch, channel, delta_strides, inside, t, length, BIAS), t, length, SOFTPLUS, TERMS
    )
    value = _rows(u, batch, channel, u_strides, inside, t, length)
    decay = _small(A, 0, channel, inside, n, states)
    row = (batch * chunks + chunk) * groups * width
    start = _small(starts, row, channel, inside, n, states)
    e = tl.exp(d[:, None, :] * decay[:, :, None])
    v = (d * value)[:, None, :] * _matrix(B, batch, group, B_strides, n, states, t, length)[None, :, :]
    kept, gained = tl.associative_scan((e, v), 2, _compose)
    h = kept * start[:, :, None] + gained
    y = tl.sum(h * _matrix(C, batch, group, C_strides, n, states, t, length)[None, :, :], axis=1)
    if SKIP:
        y += tl.load(D + channel, mask=inside, other=0.0)[:, None] * value
    if GATE:
        gate = _rows(z, batch, channel, z_strides, inside, t, length)
        y *= gate * _sigmoid(gate)
    at = ((batch * groups * width + channel) * length)[:, None] + t[None, :]
    tl.store(out + at, y, mask=inside[:, None] & (t < length)[None, :])


@_jit
def local_adjoints(
    delta, A, C, z, bias, grad, ends, sums, delta_strides, z_strides, C_strides, grad_strides,
    groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the state before each chunk, had that after it none, and the sum of the chunk's steps."""
    blocks = tl.cdiv(width, LANES)
    batch, part, chunk, t = _place(groups * blocks, chunks, TIME)
    lane = part % blocks * LANES + tl.arange(0, LANES)
    n, inside, group = tl.arange(0, STATES), lane < width, part // blocks
    channel = group * width + lane
    d = _step(
        _raw_step(delta, bias, batch, channel, delta_strides, inside, t, length, BIAS), t, length, SOFTPLUS, TERMS
    )
    g = _rows(grad, batch, channel, grad_strides, inside, t, length)
    if GATE:
        gate = _rows(z, batch, channel, z_strides, inside, t, length)
        g *= gate * _sigmoid(gate)
    decay = _small(A, 0, channel, inside, n, states)
    moved = tl.exp(tl.cumsum(d, axis=1)[:, None, :] * decay[:, :, None])
    driven = g[:, None, :] * _matrix(C, batch, group, C_strides, n, states, t, length)[None, :, :]
    row = (batch * chunks + chunk) * groups * width + channel
    here = inside[:, None] & (n < states)[None, :]
    tl.store(ends + row[:, None] * states + n[None, :], tl.sum(moved * driven, axis=2), mask=here)
    tl.store(sums + row, tl.sum(d, axis=1), mask=inside)


@_jit
def gradients(
    u, delta, A, B, C, D, z, bias, grad, starts, ends,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias,
    u_strides, delta_strides, z_strides, B_strides, C_strides, grad_strides, groups, width, chunks, length, states,
    SOFTPLUS: tl.constexpr, BIAS: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr,
    LANES: tl.constexpr, STATES: tl.constexpr, TIME: tl.constexpr, TERMS: tl.constexpr, SWEEPS: tl.constexpr,
):  # fmt: skip
    """Write all gradients of a chunk; those of A, D and the bias a chunk, those of B and C a part of the channels."""
    parts = tl.cdiv(width, LANES * SWEEPS)
    batch, part, chunk, t = _place(groups * parts, chunks, TIME)
    n, group = tl.arange(0, STATES), part // parts
    b = _matrix(B, batch, group, B_strides, n, states, t, length)
    c = _matrix(C, batch, group, C_strides, n, states, t, length)
    sum_b, sum_c = tl.zeros_like(b), tl.zeros_like(c)
    row = (batch * chunks + chunk) * groups * width
    for sweep in range(SWEEPS):
        lane = (part % parts * SWEEPS + sweep) * LANES + tl.arange(0, LANES)
        inside = lane < width
        channel = group * width + lane
        here = inside[:, None] & (t < length)[None, :]
        at = ((batch * groups * width + channel) * length)[:, None] + t[None, :]
        raw = _raw_step(delta, bias, batch, channel, delta_strides, inside, t, length, BIAS)
        d = _step(raw, t, length, SOFTPLUS, TERMS)
        beyond = _raw_step(delta, bias, batch, channel, delta_strides, inside, t + 1, length, BIAS)
        # After the chunk's last step the adjoint comes in as it is.
        later = tl.where((t + 1 < (chunk + 1) * TIME)[None, :], _step(beyond, t + 1, length, SOFTPLUS, TERMS), 0.0)
        value = _rows(u, batch, channel, u_strides, inside, t, length)
        decay = _small(A, 0, channel, inside, n, states)
        start = _small(starts, row, channel, inside, n, states)
        end = _small(ends, row, channel, inside, n, states)
        e = tl.exp(d[:, None, :] * decay[:, :, None])
        v = (d * value)[:, None, :] * b[None, :, :]
        kept, gained, before = tl.associative_scan((e, v, tl.zeros_like(v)), 2, _compose_apart)
        h = kept * start[:, :, None] + gained
        before = kept * start[:, :, None] + before  # e_t h_(t-1)
        skip = tl.load(D + channel, mask=inside, other=0.0)[:, None] if SKIP else 0.0
        g = _rows(grad, batch, channel, grad_strides, inside, t, length)
        if GATE:
            gate = _rows(z, batch, channel, z_strides, inside, t, length)
            s = _sigmoid(gate)
            y = tl.sum(h * c[None, :, :], axis=1) + skip * value
            tl.store(grad_z + at, g * y * s * (1.0 + gate * (1.0 - s)), mask=here)
            g *= gate * s
        f = tl.exp(later[:, None, :] * decay[:, :, None])
        passed, own = tl.associative_scan((f, g[:, None, :] * c[None, :, :]), 2, _compose, reverse=True)
        adjoint = passed * end[:, :, None] + own
        p = adjoint * before
        share = tl.sum(adjoint * b[None, :, :], axis=1)
        slope = value * share + tl.sum(decay[:, :, None] * p, axis=1)
        if SOFTPLUS:
            slope *= _sigmoid(raw)
        slope = tl.where(here, slope, 0.0)
        tl.store(grad_u + at, d * share + skip * g, mask=here)
        tl.store(grad_delta + at, slope, mask=here)
        places = (row + channel)[:, None] * states + n[None, :]
        tl.store(grad_A + places, tl.sum(d[:, None, :] * p, axis=2), mask=inside[:, None] & (n < states)[None, :])
        if SKIP:
            tl.store(grad_D + row + channel, tl.sum(g * value, axis=1), mask=inside)
        if BIAS:
            tl.store(grad_bias + row + channel, tl.sum(slope, axis=1), mask=inside)
        sum_b += tl.sum(adjoint * (d * value)[:, None, :], axis=0)
        sum_c += tl.sum(g[:, None, :] * h, axis=0)
    places = ((batch * groups * parts + part) * states + n)[:, None] * length + t[None, :]
    here = (n < states)[:, None] & (t < length)[None, :]
    tl.store(grad_B + places, sum_b, mask=here)
    tl.store(grad_C + places, sum_c, mask=here)
