"""The selective scan's compiled loops on a CPU, forward and backward; `selective_scan_numba` runs them.

Sixteen channels lie side by side in a vector (`pentad.core.layers.lanes`) and walk along the sequence together, so that
nothing is summed across a vector but the gradients of B and C, and one state is as fast as many. The sequence goes
through the caches in chunks: a tile of steps by lanes is turned once and then serves every state. The forward pass
keeps the state before each chunk; the backward pass goes through the chunks from last to first, walks each again from
its kept state, then back. Equations and adjoints: arXiv 2312.00752 and the chain rule, with e_t = exp(d_t A),

    g_t = gy_t C_t + e_(t+1) g_(t+1),  p_t = g_t e_t h_(t-1),  S_t = sum_n g_t B_t,
    dC_t = sum_c gy_t h_t,  dB_t = sum_c g_t d_t u_t,  dA = sum_t d_t p_t,
    du_t = d_t S_t + D gy_t,  dd_t = u_t S_t + sum_n A p_t.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pentad.core.layers.lanes import (
    COUNT,
    Flat,
    compiled,
    drain,
    exp2,
    exp_minus_abs,
    fill,
    fma,
    lane_sums,
    load,
    scratch,
    sigmoid,
    softplus,
    spread,
    store,
    zeros,
)
from pentad.core.layers.selective_scan import CHUNK, LANES

assert COUNT == LANES, "the checkpoints are laid out in vectors"

_LOG2E = 1 / math.log(2)

# Tiles of the workspace, each CHUNK rows of one vector. The odd vectors between them keep rows of different tiles from
# sharing the low bits of their addresses, which the processor takes for a dependency.
_PITCH = (CHUNK + 5) * LANES
_STEP, _INPUT, _SCALED, _OUT, _GATE = (k * _PITCH for k in range(5))
_SLOPE, _GRAD, _SUM_B, _SUM_A, _DECAY, _DECAYED, _PRODUCT = (k * _PITCH for k in range(5, 12))
_FORWARD_TILES, _BACKWARD_TILES = 5, 12


class Tensors(NamedTuple):
    """Flat arrays of the operator's inputs, or of their gradients; empty for what is not given."""

    u: Flat
    delta: Flat
    A: Flat
    B: Flat
    C: Flat
    D: Flat
    z: Flat
    bias: Flat


class Layout(NamedTuple):
    """Sizes, switches (0 or 1), and strides in elements; ``width`` is the number of channels of a group."""

    batch: int
    groups: int
    width: int
    length: int
    states: int
    parts: int
    softplus: int
    skip: int
    bias: int
    gate: int
    keep: int
    u: tuple[int, int, int]
    delta: tuple[int, int, int]
    z: tuple[int, int, int]
    grad: tuple[int, int, int]
    B: tuple[int, int, int]
    C: tuple[int, int, int]


class Task(NamedTuple):
    """Blocks ``first`` to ``first + blocks`` of one group of one sample; ``number`` counts the tasks."""

    batch: int
    group: int
    first: int
    blocks: int
    number: int


class Work(NamedTuple):
    """A task's memory: tiles of the current chunk, and vectors per block and state or per block."""

    tiles: Flat
    sums: Flat
    A: Flat
    scaled: Flat
    carry: Flat
    skip: Flat
    bias: Flat
    grad_A: Flat
    grad_skip: Flat
    grad_bias: Flat


@compiled
def _task(s: Layout, index: int) -> Task:
    sample, part = index // s.parts, index % s.parts
    blocks = -(-s.width // LANES)
    first, end = blocks * part // s.parts, blocks * (part + 1) // s.parts
    return Task(sample // s.groups, sample % s.groups, first, end - first, index)


@compiled
def _channels(s: Layout, task: Task, k: int) -> tuple[int, int]:
    """Return the first channel of the task's block ``k`` and how many there are."""
    start = (task.first + k) * LANES
    return task.group * s.width + start, min(LANES, s.width - start)


@compiled
def _work(x: Tensors, s: Layout, task: Task, tiles: int, sums: int) -> Work:
    """Return the task's memory with its constants; lanes without a channel stay 0, and so does all they compute."""
    u, states, rows = x.u, task.blocks * s.states * LANES, task.blocks * LANES
    tile, total, carry = scratch(u, tiles * _PITCH), scratch(u, sums), scratch(u, states)
    A, scaled, grad_A = scratch(u, states), scratch(u, states), scratch(u, states)
    skip, bias, grad_skip, grad_bias = scratch(u, rows), scratch(u, rows), scratch(u, rows), scratch(u, rows)
    if s.skip:
        _spread_out(x.D, skip, s, task, (0, 1))
    if s.bias:
        _spread_out(x.bias, bias, s, task, (0, 1))
    _spread_out(x.A, A, s, task, (0, s.states))
    for i in range(states):
        scaled[i] = A[i] * _LOG2E
    return Work(tile, total, A, scaled, carry, skip, bias, grad_A, grad_skip, grad_bias)


@compiled
def _spread_out(source: Flat, target: Flat, s: Layout, task: Task, shape: tuple[int, int]) -> None:
    """Copy the task's part of a contiguous (batch, channels, values) tensor to vectors; ``shape``: batch, values."""
    batch, values = shape
    for k in range(task.blocks):
        start, lanes = _channels(s, task, k)
        for c in range(lanes):
            for n in range(values):
                at = (batch * s.groups * s.width + start + c) * values + n
                target[(k * values + n) * LANES + c] = source[at]


@compiled
def _gather(source: Flat, target: Flat, s: Layout, task: Task, values: int) -> None:
    """Copy vectors of ``values`` per channel to the task's part of a contiguous (batch, channels, values) tensor."""
    for k in range(task.blocks):
        start, lanes = _channels(s, task, k)
        for c in range(lanes):
            for n in range(values):
                to = (task.batch * s.groups * s.width + start + c) * values + n
                target[to] = source[(k * values + n) * LANES + c]


@compiled
def _fill_steps(w: Flat, x: Tensors, s: Layout, place: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Fill the tiles of u and of the raw step for the lanes that start at ``place`` (batch, channel, step)."""
    b, c, t = place
    fill(w, _INPUT, x.u, b * s.u[0] + c * s.u[1] + t * s.u[2], s.u, size)
    fill(w, _STEP, x.delta, b * s.delta[0] + c * s.delta[1] + t * s.delta[2], s.delta, size)
    if s.gate:
        fill(w, _GATE, x.z, b * s.z[0] + c * s.z[1] + t * s.z[2], s.z, size)


@compiled
def _start_steps(w: Flat, s: Layout, bias: Any, skip: Any, steps: int, slopes: int) -> None:
    """Turn raw steps into steps d, with d u, D u and, for the way back, the slope of softplus beside them."""
    for i in range(0, steps * LANES, LANES):
        d = load(w, _STEP + i) + bias
        if s.softplus:
            decayed = exp_minus_abs(d)
            if slopes:
                store(w, _SLOPE + i, sigmoid(d, decayed))
            d = softplus(d, decayed)
        u = load(w, _INPUT + i)
        store(w, _STEP + i, d)
        store(w, _SCALED + i, d * u)
        store(w, _OUT + i, u * skip)


@compiled
def _advance(w: Flat, x: Tensors, at: tuple[int, int, int], a: Any, h: Any, steps: int) -> Any:
    """Return the state after the chunk and add C h to the tile of outputs; ``at`` are the places in B and C."""
    for t in range(steps):
        i = t * LANES
        h = fma(exp2(load(w, _STEP + i) * a), h, load(w, _SCALED + i) * spread(x.B, at[0] + t))
        store(w, _OUT + i, fma(h, spread(x.C, at[1] + t), load(w, _OUT + i)))
    return h


@compiled
def _matrix_places(s: Layout, task: Task, n: int, t: int) -> tuple[int, int, int]:
    """Return where state ``n`` and step ``t`` lie in B and C, and where the state lies in the sums of a chunk."""
    at_b = task.batch * s.B[0] + task.group * s.B[1] + n * s.B[2] + t
    return at_b, task.batch * s.C[0] + task.group * s.C[1] + n * s.C[2] + t, n * CHUNK


@compiled
def _kept_place(s: Layout, task: Task, k: int, chunk: int) -> int:
    blocks, chunks = -(-s.width // LANES), -(-s.length // CHUNK)
    block = (task.batch * s.groups + task.group) * blocks + task.first + k
    return (block * chunks + chunk) * s.states * LANES


@compiled
def _gate_outputs(w: Flat, steps: int) -> None:
    for i in range(0, steps * LANES, LANES):
        z = load(w, _GATE + i)
        store(w, _OUT + i, load(w, _OUT + i) * (z * sigmoid(z, exp_minus_abs(z))))


def forward_task(x: Tensors, s: Layout, out: Flat, last: Flat, kept: Flat, index: int) -> None:
    """Write the outputs, the last states and the kept states of one task."""
    task = _task(s, index)
    work = _work(x, s, task, _FORWARD_TILES, 0)
    w = work.tiles
    for chunk in range(-(-s.length // CHUNK)):
        first = chunk * CHUNK
        steps = min(CHUNK, s.length - first)
        for k in range(task.blocks):
            start, lanes = _channels(s, task, k)
            _fill_steps(w, x, s, (task.batch, start, first), (lanes, steps))
            _start_steps(w, s, load(work.bias, k * LANES), load(work.skip, k * LANES), steps, 0)
            for n in range(s.states):
                row = (k * s.states + n) * LANES
                h = load(work.carry, row)
                if s.keep:
                    store(kept, _kept_place(s, task, k, chunk) + n * LANES, h)
                h = _advance(w, x, _matrix_places(s, task, n, first), load(work.scaled, row), h, steps)
                store(work.carry, row, h)
            if s.gate:
                _gate_outputs(w, steps)
            to = (task.batch * s.groups * s.width + start) * s.length + first
            drain(w, _OUT, out, to, s.length, (lanes, steps))
    _gather(work.carry, last, s, task, s.states)


@compiled
def _gate_gradients(w: Flat, s: Layout, steps: int) -> None:
    """Turn the output's gradient into that of y, and the gate into the factor of y in its own gradient."""
    zero = zeros(w)
    for i in range(0, steps * LANES, LANES):
        store(w, _SUM_A + i, zero)
        store(w, _SUM_B + i, zero)
        if s.gate:
            z, grad = load(w, _GATE + i), load(w, _GRAD + i)
            share = sigmoid(z, exp_minus_abs(z))
            silu = z * share
            store(w, _GRAD + i, grad * silu)
            store(w, _GATE + i, grad * (share + (silu - silu * share)))


@compiled
def _add_lane_sums(w: Flat, sums: Flat, to: int, steps: int) -> None:
    """Add each step's sum over the lanes of the products to ``sums``; rows after the last step count for nothing."""
    for t in range(0, steps, LANES):
        store(sums, to + t, load(sums, to + t) + lane_sums(w, _PRODUCT + t * LANES))


@compiled
def _replay(w: Flat, x: Tensors, at: tuple[int, int, int], a: Any, h: Any, sums: Flat, steps: int) -> None:
    """Walk a chunk again from its kept state, keeping e_t and e_t h_(t-1), and add to y and to the gradient of C."""
    for t in range(steps):
        i = t * LANES
        decay = exp2(load(w, _STEP + i) * a)
        # A product, not h_t - d B u: that difference cancels where this term is small.
        decayed = decay * h
        store(w, _DECAY + i, decay)
        store(w, _DECAYED + i, decayed)
        h = fma(load(w, _SCALED + i), spread(x.B, at[0] + t), decayed)
        store(w, _OUT + i, fma(h, spread(x.C, at[1] + t), load(w, _OUT + i)))
        store(w, _PRODUCT + i, h * load(w, _GRAD + i))
    _add_lane_sums(w, sums, sums.size // 2 + at[2], steps)


@compiled
def _walk_back(
    w: Flat, x: Tensors, at: tuple[int, int, int], a: Any, carry: Any, sums: Flat, steps: int
) -> tuple[Any, Any]:
    """Return (e g of the chunk's first step, gradient of A), adding to the sums behind the gradients of B, u, delta."""
    grad_a = zeros(w)
    for t in range(steps - 1, -1, -1):
        i = t * LANES
        g = fma(load(w, _GRAD + i), spread(x.C, at[1] + t), carry)
        store(w, _SUM_B + i, fma(g, spread(x.B, at[0] + t), load(w, _SUM_B + i)))
        p = g * load(w, _DECAYED + i)
        store(w, _SUM_A + i, fma(p, a, load(w, _SUM_A + i)))
        grad_a = fma(p, load(w, _STEP + i), grad_a)
        store(w, _PRODUCT + i, g * load(w, _SCALED + i))
        carry = g * load(w, _DECAY + i)
    _add_lane_sums(w, sums, at[2], steps)
    return carry, grad_a


@compiled
def _sweep_states(
    x: Tensors, s: Layout, task: Task, work: Work, kept: Flat, place: tuple[int, int], steps: int
) -> None:
    """Go forth and back through the chunk for each state; ``place``: block, chunk."""
    k, chunk = place
    kept_at = _kept_place(s, task, k, chunk)
    w = work.tiles
    for n in range(s.states):
        row = (k * s.states + n) * LANES
        at = _matrix_places(s, task, n, chunk * CHUNK)
        _replay(w, x, at, load(work.scaled, row), load(kept, kept_at + n * LANES), work.sums, steps)
        carry, grad_a = _walk_back(w, x, at, load(work.A, row), load(work.carry, row), work.sums, steps)
        store(work.carry, row, carry)
        store(work.grad_A, row, load(work.grad_A, row) + grad_a)


@compiled
def _finish(s: Layout, work: Work, k: int, steps: int) -> None:
    """Turn the sums over states into gradients of u, delta and z in their tiles, and add up those of D and the bias."""
    w, row = work.tiles, k * LANES
    skip = load(work.skip, row)
    grad_skip = grad_bias = zeros(w)
    for i in range(0, steps * LANES, LANES):
        grad, u, summed = load(w, _GRAD + i), load(w, _INPUT + i), load(w, _SUM_B + i)
        grad_skip = fma(grad, u, grad_skip)
        grad_step = fma(u, summed, load(w, _SUM_A + i))
        if s.softplus:
            grad_step = grad_step * load(w, _SLOPE + i)
        grad_bias = grad_bias + grad_step
        store(w, _SUM_A + i, grad_step)
        store(w, _SUM_B + i, fma(load(w, _STEP + i), summed, grad * skip))
        if s.gate:
            store(w, _OUT + i, load(w, _OUT + i) * load(w, _GATE + i))
    store(work.grad_skip, row, load(work.grad_skip, row) + grad_skip)
    store(work.grad_bias, row, load(work.grad_bias, row) + grad_bias)


def backward_task(x: Tensors, s: Layout, grad: Flat, last: Flat, kept: Flat, grads: Tensors, index: int) -> None:
    """Write one task's gradients; those of A, D and bias are per sample, those of B and C per task."""
    task = _task(s, index)
    half = s.states * CHUNK
    work = _work(x, s, task, _BACKWARD_TILES, 2 * half)
    w = work.tiles
    if last.size:
        _spread_out(last, work.carry, s, task, (task.batch, s.states))
    for chunk in range(-(-s.length // CHUNK) - 1, -1, -1):
        first = chunk * CHUNK
        steps = min(CHUNK, s.length - first)
        for i in range(0, 2 * half, LANES):
            store(work.sums, i, zeros(w))
        for k in range(task.blocks):
            start, lanes = _channels(s, task, k)
            size = (lanes, steps)
            _fill_steps(w, x, s, (task.batch, start, first), size)
            fill(w, _GRAD, grad, task.batch * s.grad[0] + start * s.grad[1] + first * s.grad[2], s.grad, size)
            _start_steps(w, s, load(work.bias, k * LANES), load(work.skip, k * LANES), steps, s.softplus)
            _gate_gradients(w, s, steps)
            _sweep_states(x, s, task, work, kept, (k, chunk), steps)
            _finish(s, work, k, steps)
            to = (task.batch * s.groups * s.width + start) * s.length + first
            drain(w, _SUM_B, grads.u, to, s.length, size)
            drain(w, _SUM_A, grads.delta, to, s.length, size)
            if s.gate:
                drain(w, _OUT, grads.z, to, s.length, size)
        for n in range(s.states):
            to = (index * s.states + n) * s.length + first
            for t in range(steps):
                grads.B[to + t] = work.sums[n * CHUNK + t]
                grads.C[to + t] = work.sums[half + n * CHUNK + t]
    _gather(work.grad_A, grads.A, s, task, s.states)
    _gather(work.grad_skip, grads.D, s, task, 1)
    _gather(work.grad_bias, grads.bias, s, task, 1)
