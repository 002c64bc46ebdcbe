"""The selective scan's compiled loops on a CPU, forward and backward; `selective_scan_numba` runs them.

Sixteen channels lie side by side in a vector (`pentad.core.layers.lanes`) and walk along the sequence together, so that
nothing is summed across a vector but the gradients of B and C. Four states walk at once with theirs in registers; a
scan of one state has loops of its own. The sequence goes through the caches in chunks: a tile of steps by lanes is
turned once and then serves every state. The forward pass keeps the state before each chunk; the backward pass goes
through the chunks from last to first, walks each again from its kept state, then back. Equations and adjoints: arXiv
2312.00752 and the chain rule, with e_t = exp(d_t A),

    g_t = gy_t C_t + e_(t+1) g_(t+1),  p_t = g_t e_t h_(t-1),  S_t = sum_n g_t B_t,
    dC_t = sum_c gy_t h_t,  dB_t = sum_c g_t d_t u_t,  dA = sum_t d_t p_t,
    du_t = d_t S_t + D gy_t,  dd_t = u_t S_t + sum_n A p_t.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pentad.core.layers.lanes import (
    COUNT,
    Address,
    compiled,
    drain,
    exp2,
    exp_minus_abs,
    fill,
    finish_quads,
    fma,
    get,
    lane_sums,
    load,
    put,
    quad_sums,
    sigmoid,
    softplus,
    spread,
    store,
    zeros,
)
from pentad.core.layers.selective_scan import CHUNK, LANES
from pentad.core.layers.selective_scan_layout import (
    DECAY,
    GATE,
    GRAD,
    INPUT,
    OUT,
    PITCH,
    QUAD,
    SCALED,
    SLOPE,
    STATE,
    STEP,
    SUM_A,
    SUM_B,
    Layout,
    Plan,
)

assert COUNT == LANES, "the checkpoints are laid out in vectors"
assert CHUNK % LANES == 0, "a chunk is turned in squares"

_LOG2E = 1 / math.log(2)


class Tensors(NamedTuple):
    """Addresses of the operator's inputs, or of their gradients; any where the layout says there is none."""

    u: Address
    delta: Address
    A: Address
    B: Address
    C: Address
    D: Address
    z: Address
    bias: Address


class Known(NamedTuple):
    """Addresses of what the backward pass starts from: gradients of the output and last state, and kept states."""

    grad: Address
    grad_last: Address
    kept: Address


class Task(NamedTuple):
    """Blocks ``first`` to ``first + blocks`` of one group of one sample; ``number`` counts the tasks."""

    batch: int
    group: int
    first: int
    blocks: int
    number: int


class Rows(NamedTuple):
    """Rows of B and C for the chunk: their addresses, where the first state begins, and the way to the next."""

    B: Address
    C: Address
    at_b: int
    at_c: int
    next_b: int
    next_c: int


@compiled
def _triple(n: Any, k: int) -> tuple[int, int, int]:
    return get(n, k), get(n, k + 1), get(n, k + 2)


@compiled
def _layout(n: Any) -> tuple[Layout, Plan]:
    """Read both from the numbers that stand for them in a row."""
    a, b, c, d, e, f = _triple(n, 0), _triple(n, 3), _triple(n, 6), _triple(n, 9), _triple(n, 13), _triple(n, 16)
    rest = _triple(n, 19), _triple(n, 22), _triple(n, 25), _triple(n, 28)
    s = Layout(*a, *b, *c, *d, get(n, 12), e, f, *rest)
    return s, Plan(*_triple(n, 31), *_triple(n, 34), *_triple(n, 37), *_triple(n, 40))


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
def _start(w: Address, x: Tensors, s: Layout, m: Plan, task: Task) -> None:
    """Put the task's constants in their places; lanes and states that are not there stay 0, and all they compute."""
    for i in range(m.carry, m.size):
        put(w, i, 0.0)
    if s.skip:
        _spread_out(x.D, w, m.skip, s, task, (0, 1, 1))
    if s.bias:
        _spread_out(x.bias, w, m.bias, s, task, (0, 1, 1))
    _spread_out(x.A, w, m.A, s, task, (0, s.states, s.rows))
    for i in range(task.blocks * s.rows * LANES):
        put(w, m.scaled + i, get(w, m.A + i) * _LOG2E)


@compiled
def _spread_out(source: Address, w: Address, to: int, s: Layout, task: Task, shape: tuple[int, int, int]) -> None:
    """Copy the task's part of a contiguous (batch, channels, values) tensor to rows of vectors per block.

    ``shape`` holds the batch, the values and the rows they are given.
    """
    batch, values, rows = shape
    for k in range(task.blocks):
        start, lanes = _channels(s, task, k)
        for c in range(lanes):
            for n in range(values):
                at = (batch * s.groups * s.width + start + c) * values + n
                put(w, to + (k * rows + n) * LANES + c, get(source, at))


@compiled
def _gather(w: Address, at: int, target: Address, s: Layout, task: Task, shape: tuple[int, int]) -> None:
    """Copy vectors back to the task's part of a contiguous (batch, channels, values) tensor; shape: values, rows."""
    values, rows = shape
    for k in range(task.blocks):
        start, lanes = _channels(s, task, k)
        for c in range(lanes):
            for n in range(values):
                to = (task.batch * s.groups * s.width + start + c) * values + n
                put(target, to, get(w, at + (k * rows + n) * LANES + c))


@compiled
def _rows(w: Address, x: Tensors, s: Layout, m: Plan, task: Task, first: int, steps: int) -> Rows:
    """Return the chunk's rows of B and C: the tensors' own, or a copy where states are made up to whole quads."""
    b = task.batch * s.B[0] + task.group * s.B[1] + first
    c = task.batch * s.C[0] + task.group * s.C[1] + first
    if s.rows == s.states:
        return Rows(x.B, x.C, b, c, s.B[2], s.C[2])
    to_c = m.matrices + s.rows * CHUNK
    for n in range(s.states):
        for t in range(steps):
            put(w, m.matrices + n * CHUNK + t, get(x.B, b + n * s.B[2] + t))
            put(w, to_c + n * CHUNK + t, get(x.C, c + n * s.C[2] + t))
    return Rows(w, w, m.matrices, to_c, CHUNK, CHUNK)


@compiled
def _fill_steps(w: Address, x: Tensors, s: Layout, place: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Fill the tiles of u, of the raw step and of z for the lanes that start at ``place`` (batch, channel, step)."""
    b, c, t = place
    fill(w, INPUT, x.u, b * s.u[0] + c * s.u[1] + t * s.u[2], s.u, size)
    fill(w, STEP, x.delta, b * s.delta[0] + c * s.delta[1] + t * s.delta[2], s.delta, size)
    if s.gate:
        fill(w, GATE, x.z, b * s.z[0] + c * s.z[1] + t * s.z[2], s.z, size)


@compiled
def _start_steps(w: Address, s: Layout, bias: Any, skip: Any, steps: int, slopes: int) -> None:
    """Turn raw steps into steps d, with d u, D u and, for the way back, the slope of softplus beside them."""
    for i in range(0, steps * LANES, LANES):
        d = load(w, STEP + i) + bias
        if s.softplus:
            decayed = exp_minus_abs(d)
            if slopes:
                store(w, SLOPE + i, sigmoid(d, decayed))
            d = softplus(d, decayed)
        u = load(w, INPUT + i)
        store(w, STEP + i, d)
        store(w, SCALED + i, d * u)
        store(w, OUT + i, u * skip)


@compiled
def _advance(w: Address, r: Rows, n: int, a: int, h: int, steps: int) -> None:
    """Walk states ``n`` to ``n + 3`` through the chunk, adding C h to the outputs; ``a``, ``h``: their vectors."""
    b0, c0 = r.at_b + n * r.next_b, r.at_c + n * r.next_c
    b1, b2, b3 = b0 + r.next_b, b0 + 2 * r.next_b, b0 + 3 * r.next_b
    c1, c2, c3 = c0 + r.next_c, c0 + 2 * r.next_c, c0 + 3 * r.next_c
    a0, a1, a2, a3 = load(w, a), load(w, a + LANES), load(w, a + 2 * LANES), load(w, a + 3 * LANES)
    h0, h1, h2, h3 = load(w, h), load(w, h + LANES), load(w, h + 2 * LANES), load(w, h + 3 * LANES)
    for t in range(steps):
        i = t * LANES
        d, du = load(w, STEP + i), load(w, SCALED + i)
        h0 = fma(exp2(d * a0), h0, du * spread(r.B, b0 + t))
        h1 = fma(exp2(d * a1), h1, du * spread(r.B, b1 + t))
        h2 = fma(exp2(d * a2), h2, du * spread(r.B, b2 + t))
        h3 = fma(exp2(d * a3), h3, du * spread(r.B, b3 + t))
        y = fma(h1, spread(r.C, c1 + t), fma(h0, spread(r.C, c0 + t), load(w, OUT + i)))
        store(w, OUT + i, fma(h3, spread(r.C, c3 + t), fma(h2, spread(r.C, c2 + t), y)))
    store(w, h, h0)
    store(w, h + LANES, h1)
    store(w, h + 2 * LANES, h2)
    store(w, h + 3 * LANES, h3)


@compiled
def _advance_single(w: Address, r: Rows, s: Layout, m: Plan, k: int, steps: int) -> None:
    """Walk the only state of block ``k`` from raw steps to finished outputs, all in registers."""
    bias, skip = load(w, m.bias + k * LANES), load(w, m.skip + k * LANES)
    a, h = load(w, m.scaled + k * LANES), load(w, m.carry + k * LANES)
    for t in range(steps):
        i = t * LANES
        d, u = load(w, STEP + i) + bias, load(w, INPUT + i)
        if s.softplus:
            d = softplus(d, exp_minus_abs(d))
        h = fma(exp2(d * a), h, (d * u) * spread(r.B, r.at_b + t))
        y = fma(h, spread(r.C, r.at_c + t), u * skip)
        if s.gate:
            z = load(w, GATE + i)
            y = y * (z * sigmoid(z, exp_minus_abs(z)))
        store(w, OUT + i, y)
    store(w, m.carry + k * LANES, h)


@compiled
def _kept_place(s: Layout, task: Task, k: int, chunk: int) -> int:
    blocks, chunks = -(-s.width // LANES), -(-s.length // CHUNK)
    block = (task.batch * s.groups + task.group) * blocks + task.first + k
    return (block * chunks + chunk) * s.states * LANES


@compiled
def _gate_outputs(w: Address, steps: int) -> None:
    for i in range(0, steps * LANES, LANES):
        z = load(w, GATE + i)
        store(w, OUT + i, load(w, OUT + i) * (z * sigmoid(z, exp_minus_abs(z))))


@compiled
def _forward(x: Tensors, out: Address, last: Address, kept: Address, w: Address, n: Any, index: int) -> None:
    """Write the outputs, the last states and the kept states of one task."""
    s, m = _layout(n)
    task = _task(s, index)
    _start(w, x, s, m, task)
    for chunk in range(-(-s.length // CHUNK)):
        first = chunk * CHUNK
        steps = min(CHUNK, s.length - first)
        r = _rows(w, x, s, m, task, first, steps)
        for k in range(task.blocks):
            start, lanes = _channels(s, task, k)
            block = k * s.rows * LANES
            _fill_steps(w, x, s, (task.batch, start, first), (lanes, steps))
            if s.keep:
                place = _kept_place(s, task, k, chunk)
                for i in range(0, s.states * LANES, LANES):
                    store(kept, place + i, load(w, m.carry + block + i))
            if s.states == 1:
                _advance_single(w, r, s, m, k, steps)
            else:
                _start_steps(w, s, load(w, m.bias + k * LANES), load(w, m.skip + k * LANES), steps, 0)
                for q in range(0, s.rows, QUAD):
                    row = block + q * LANES
                    _advance(w, r, q, m.scaled + row, m.carry + row, steps)
                if s.gate:
                    _gate_outputs(w, steps)
            to = (task.batch * s.groups * s.width + start) * s.length + first
            drain(w, OUT, out, to, s.length, (lanes, steps))
    _gather(w, m.carry, last, s, task, (s.states, s.rows))


@compiled
def _gate_gradients(w: Address, s: Layout, steps: int) -> None:
    """Turn the output's gradient into that of y, and the gate into the factor of y in its own gradient."""
    zero = zeros(w)
    for i in range(0, steps * LANES, LANES):
        store(w, SUM_A + i, zero)
        store(w, SUM_B + i, zero)
        if s.gate:
            z, grad = load(w, GATE + i), load(w, GRAD + i)
            share = sigmoid(z, exp_minus_abs(z))
            silu = z * share
            store(w, GRAD + i, grad * silu)
            store(w, GATE + i, grad * (share + (silu - silu * share)))


@compiled
def _replay(w: Address, r: Rows, n: int, a: int, steps: int) -> None:
    """Walk four states through a chunk again, keeping e_t and h_t, and add to y; the kept states lie before h_1."""
    b0, c0 = r.at_b + n * r.next_b, r.at_c + n * r.next_c
    b1, b2, b3 = b0 + r.next_b, b0 + 2 * r.next_b, b0 + 3 * r.next_b
    c1, c2, c3 = c0 + r.next_c, c0 + 2 * r.next_c, c0 + 3 * r.next_c
    a0, a1, a2, a3 = load(w, a), load(w, a + LANES), load(w, a + 2 * LANES), load(w, a + 3 * LANES)
    h0, h1, h2, h3 = load(w, STATE), load(w, STATE + PITCH), load(w, STATE + 2 * PITCH), load(w, STATE + 3 * PITCH)
    for t in range(steps):
        i = t * LANES
        d, du = load(w, STEP + i), load(w, SCALED + i)
        e0, e1, e2, e3 = exp2(d * a0), exp2(d * a1), exp2(d * a2), exp2(d * a3)
        h0 = fma(e0, h0, du * spread(r.B, b0 + t))
        h1 = fma(e1, h1, du * spread(r.B, b1 + t))
        h2 = fma(e2, h2, du * spread(r.B, b2 + t))
        h3 = fma(e3, h3, du * spread(r.B, b3 + t))
        store(w, DECAY + i, e0)
        store(w, DECAY + PITCH + i, e1)
        store(w, DECAY + 2 * PITCH + i, e2)
        store(w, DECAY + 3 * PITCH + i, e3)
        store(w, STATE + LANES + i, h0)
        store(w, STATE + PITCH + LANES + i, h1)
        store(w, STATE + 2 * PITCH + LANES + i, h2)
        store(w, STATE + 3 * PITCH + LANES + i, h3)
        y = fma(h1, spread(r.C, c1 + t), fma(h0, spread(r.C, c0 + t), load(w, OUT + i)))
        store(w, OUT + i, fma(h3, spread(r.C, c3 + t), fma(h2, spread(r.C, c2 + t), y)))


@compiled
def _walk_back(w: Address, r: Rows, n: int, at: tuple[int, int, int], sums: tuple[int, int], steps: int) -> None:
    """Walk four states back, adding to the sums behind the gradients of A, B, C, u and delta.

    ``at``: vectors of A, of e g and of the gradient of A; ``sums``: vectors of the gradients of B and C.
    """
    a, g, s = at
    b0, c0 = r.at_b + n * r.next_b, r.at_c + n * r.next_c
    b1, b2, b3 = b0 + r.next_b, b0 + 2 * r.next_b, b0 + 3 * r.next_b
    c1, c2, c3 = c0 + r.next_c, c0 + 2 * r.next_c, c0 + 3 * r.next_c
    a0, a1, a2, a3 = load(w, a), load(w, a + LANES), load(w, a + 2 * LANES), load(w, a + 3 * LANES)
    g0, g1, g2, g3 = load(w, g), load(w, g + LANES), load(w, g + 2 * LANES), load(w, g + 3 * LANES)
    s0, s1, s2, s3 = load(w, s), load(w, s + LANES), load(w, s + 2 * LANES), load(w, s + 3 * LANES)
    for t in range(steps - 1, -1, -1):
        i = t * LANES
        grad, d, du = load(w, GRAD + i), load(w, STEP + i), load(w, SCALED + i)
        j0, j1, j2, j3 = STATE + i, STATE + PITCH + i, STATE + 2 * PITCH + i, STATE + 3 * PITCH + i
        c = quad_sums(
            grad * load(w, j0 + LANES),
            grad * load(w, j1 + LANES),
            grad * load(w, j2 + LANES),
            grad * load(w, j3 + LANES),
        )
        store(w, sums[1] + i, load(w, sums[1] + i) + c)
        g0 = fma(grad, spread(r.C, c0 + t), g0)
        g1 = fma(grad, spread(r.C, c1 + t), g1)
        g2 = fma(grad, spread(r.C, c2 + t), g2)
        g3 = fma(grad, spread(r.C, c3 + t), g3)
        store(w, sums[0] + i, load(w, sums[0] + i) + quad_sums(g0 * du, g1 * du, g2 * du, g3 * du))
        b = fma(g1, spread(r.B, b1 + t), fma(g0, spread(r.B, b0 + t), load(w, SUM_B + i)))
        store(w, SUM_B + i, fma(g3, spread(r.B, b3 + t), fma(g2, spread(r.B, b2 + t), b)))
        g0, g1 = g0 * load(w, DECAY + i), g1 * load(w, DECAY + PITCH + i)
        g2, g3 = g2 * load(w, DECAY + 2 * PITCH + i), g3 * load(w, DECAY + 3 * PITCH + i)
        # g e h as a product, not from h_t - d B u: that difference cancels where e h is small.
        p0, p1, p2, p3 = g0 * load(w, j0), g1 * load(w, j1), g2 * load(w, j2), g3 * load(w, j3)
        s0, s1, s2, s3 = fma(p0, d, s0), fma(p1, d, s1), fma(p2, d, s2), fma(p3, d, s3)
        store(w, SUM_A + i, fma(p3, a3, fma(p2, a2, fma(p1, a1, fma(p0, a0, load(w, SUM_A + i))))))
    store(w, g, g0)
    store(w, g + LANES, g1)
    store(w, g + 2 * LANES, g2)
    store(w, g + 3 * LANES, g3)
    store(w, s, s0)
    store(w, s + LANES, s1)
    store(w, s + 2 * LANES, s2)
    store(w, s + 3 * LANES, s3)


@compiled
def _sweep_quads(w: Address, r: Rows, s: Layout, m: Plan, kept: Address, place: tuple[int, int], steps: int) -> None:
    """Go forth and back through the chunk for every four states; ``place``: block, where its kept states lie."""
    k, kept_at = place
    for q in range(0, s.rows, QUAD):
        row = (k * s.rows + q) * LANES
        for n in range(QUAD):
            before = load(kept, kept_at + (q + n) * LANES) if q + n < s.states else zeros(w)
            store(w, STATE + n * PITCH, before)
        _replay(w, r, q, m.scaled + row, steps)
        to_b = m.sums + q // QUAD * CHUNK * LANES
        sums = to_b, to_b + s.rows // QUAD * CHUNK * LANES
        _walk_back(w, r, q, (m.A + row, m.carry + row, m.grad_A + row), sums, steps)


@compiled
def _sweep_single(w: Address, r: Rows, s: Layout, m: Plan, kept: Address, place: tuple[int, int], steps: int) -> None:
    """Go forth and back through the chunk for the only state; its products of B and C are summed lane by lane."""
    k, kept_at = place
    row = k * LANES
    a, h = load(w, m.scaled + row), load(kept, kept_at)
    store(w, STATE, h)
    for t in range(steps):
        i = t * LANES
        decay = exp2(load(w, STEP + i) * a)
        h = fma(decay, h, load(w, SCALED + i) * spread(r.B, r.at_b + t))
        store(w, DECAY + i, decay)
        store(w, STATE + LANES + i, h)
        store(w, OUT + i, fma(h, spread(r.C, r.at_c + t), load(w, OUT + i)))
    a, g, grad_a = load(w, m.A + row), load(w, m.carry + row), load(w, m.grad_A + row)
    to_b, to_c = m.sums, m.sums + CHUNK * LANES
    for t in range(steps - 1, -1, -1):
        i = t * LANES
        grad = load(w, GRAD + i)
        store(w, to_c + i, fma(grad, load(w, STATE + LANES + i), load(w, to_c + i)))
        g = fma(grad, spread(r.C, r.at_c + t), g)
        store(w, to_b + i, fma(g, load(w, SCALED + i), load(w, to_b + i)))
        store(w, SUM_B + i, g * spread(r.B, r.at_b + t))
        g = g * load(w, DECAY + i)
        p = g * load(w, STATE + i)
        grad_a = fma(p, load(w, STEP + i), grad_a)
        store(w, SUM_A + i, p * a)
    store(w, m.carry + row, g)
    store(w, m.grad_A + row, grad_a)


@compiled
def _finish(w: Address, s: Layout, m: Plan, k: int, steps: int) -> None:
    """Turn the sums over states into gradients of u, delta and z in their tiles, and add up those of D and the bias."""
    skip = load(w, m.skip + k * LANES)
    grad_skip, grad_bias = load(w, m.grad_skip + k * LANES), load(w, m.grad_bias + k * LANES)
    for i in range(0, steps * LANES, LANES):
        grad, u, summed = load(w, GRAD + i), load(w, INPUT + i), load(w, SUM_B + i)
        grad_skip = fma(grad, u, grad_skip)
        grad_step = fma(u, summed, load(w, SUM_A + i))
        if s.softplus:
            grad_step = grad_step * load(w, SLOPE + i)
        grad_bias = grad_bias + grad_step
        store(w, SUM_A + i, grad_step)
        store(w, SUM_B + i, fma(load(w, STEP + i), summed, grad * skip))
        if s.gate:
            store(w, OUT + i, load(w, OUT + i) * load(w, GATE + i))
    store(w, m.grad_skip + k * LANES, grad_skip)
    store(w, m.grad_bias + k * LANES, grad_bias)


@compiled
def _finish_matrices(w: Address, s: Layout, m: Plan, grads: Tensors, at: int, steps: int) -> None:
    """Write the chunk's gradients of B and C from ``at`` on and set their sums back to 0."""
    zero, half = zeros(w), -(-s.rows // QUAD) * QUAD * CHUNK
    vectors = -(-s.rows // QUAD) * CHUNK * LANES
    for i in range(0, 2 * vectors, CHUNK * LANES):
        to = m.totals + i // LANES * QUAD
        for t in range(0, steps, LANES):
            if s.states == 1:
                store(w, to + t, lane_sums(w, m.sums + i + t * LANES))
            else:
                finish_quads(w, m.sums + i + t * LANES, w, to + t, CHUNK)
    for i in range(0, 2 * vectors, LANES):
        store(w, m.sums + i, zero)
    for n in range(s.states):
        for t in range(steps):
            put(grads.B, at + n * s.length + t, get(w, m.totals + n * CHUNK + t))
            put(grads.C, at + n * s.length + t, get(w, m.totals + half + n * CHUNK + t))


@compiled
def _backward(x: Tensors, known: Known, grads: Tensors, w: Address, n: Any, index: int) -> None:
    """Write one task's gradients; those of A, D and bias are per sample, those of B and C per task."""
    s, m = _layout(n)
    task = _task(s, index)
    _start(w, x, s, m, task)
    if s.grad_last:
        _spread_out(known.grad_last, w, m.carry, s, task, (task.batch, s.states, s.rows))
    for chunk in range(-(-s.length // CHUNK) - 1, -1, -1):
        first = chunk * CHUNK
        steps = min(CHUNK, s.length - first)
        r = _rows(w, x, s, m, task, first, steps)
        for k in range(task.blocks):
            start, lanes = _channels(s, task, k)
            size, place = (lanes, steps), (k, _kept_place(s, task, k, chunk))
            _fill_steps(w, x, s, (task.batch, start, first), size)
            fill(w, GRAD, known.grad, task.batch * s.grad[0] + start * s.grad[1] + first * s.grad[2], s.grad, size)
            _start_steps(w, s, load(w, m.bias + k * LANES), load(w, m.skip + k * LANES), steps, s.softplus)
            _gate_gradients(w, s, steps)
            if s.states == 1:
                _sweep_single(w, r, s, m, known.kept, place, steps)
            else:
                _sweep_quads(w, r, s, m, known.kept, place, steps)
            _finish(w, s, m, k, steps)
            to = (task.batch * s.groups * s.width + start) * s.length + first
            drain(w, SUM_B, grads.u, to, s.length, size)
            drain(w, SUM_A, grads.delta, to, s.length, size)
            if s.gate:
                drain(w, OUT, grads.z, to, s.length, size)
        _finish_matrices(w, s, m, grads, index * s.states * s.length + first, steps)
    _gather(w, m.grad_A, grads.A, s, task, (s.states, s.rows))
    _gather(w, m.grad_skip, grads.D, s, task, (1, 1))
    _gather(w, m.grad_bias, grads.bias, s, task, (1, 1))


def forward_task(  # noqa: PLR0913 - called from outside with plain addresses
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any,
    out: Any, last: Any, kept: Any, work: Any, numbers: Any, index: int,
) -> None:  # fmt: skip
    """Do one task of the forward pass; every argument but the task's number is an address."""
    _forward(Tensors(u, delta, A, B, C, D, z, bias), out, last, kept, work, numbers, index)


def backward_task(  # noqa: PLR0913 - called from outside with plain addresses
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any,
    grad: Any, grad_last: Any, kept: Any,
    to_u: Any, to_delta: Any, to_A: Any, to_B: Any, to_C: Any, to_D: Any, to_z: Any, to_bias: Any,
    work: Any, numbers: Any, index: int,
) -> None:  # fmt: skip
    """Do one task of the backward pass; every argument but the task's number is an address."""
    inputs = Tensors(u, delta, A, B, C, D, z, bias)
    grads = Tensors(to_u, to_delta, to_A, to_B, to_C, to_D, to_z, to_bias)
    _backward(inputs, Known(grad, grad_last, kept), grads, work, numbers, index)
