"""The backward pass of the selective scan's compiled loops on a CPU; `selective_scan_numba` runs it.

It goes through the chunks from last to first, walks each again from its kept state, then back. Equations and adjoints:
arXiv 2312.00752 and the chain rule, with e_t = exp(d_t A),

    g_t = gy_t C_t + e_(t+1) g_(t+1),  p_t = g_t e_t h_(t-1),  S_t = sum_n g_t B_t,
    dC_t = sum_c gy_t h_t,  dB_t = sum_c g_t d_t u_t,  dA = sum_t d_t p_t,
    du_t = d_t S_t + D gy_t,  dd_t = u_t S_t + sum_n A p_t.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pentad.core.layers.lane_functions import exp_minus_abs, power, sigmoid
from pentad.core.layers.lanes import (
    Address,
    Lines,
    compiled,
    drain,
    fetch,
    fetch_all,
    fill,
    finish_quads,
    fma,
    get,
    lane_sums,
    line,
    lines,
    load,
    put,
    quad_sums,
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
    RATE,
    SCALED,
    SLOPE,
    STATE,
    STEP,
    SUM_A,
    SUM_B,
    Layout,
    Plan,
)
from pentad.core.layers.selective_scan_tasks import (
    Place,
    Tensors,
    at,
    copy_matrices,
    fetch_matrices,
    fill_steps,
    gather,
    inputs_ahead,
    layout,
    place_of,
    spread_out,
    start,
    start_steps,
    task_of,
)


class Known(NamedTuple):
    """Addresses of what the backward pass starts from: gradients of the output and last state, and kept states."""

    grad: Address
    grad_last: Address
    kept: Address


class Traffic(NamedTuple):
    """Addresses of all that the backward pass reads and writes."""

    x: Tensors
    known: Known
    grads: Tensors


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
def _replay(w: Address, b: int, c: int, a: int, steps: int, ahead: Lines) -> None:
    """Walk four states through a chunk again, keeping e_t and h_t, and add to y; the kept states lie before h_1.

    Arguments as of the forward pass's walk.
    """
    a0, a1, a2, a3 = load(w, a), load(w, a + LANES), load(w, a + 2 * LANES), load(w, a + 3 * LANES)
    h0, h1, h2, h3 = load(w, STATE), load(w, STATE + PITCH), load(w, STATE + 2 * PITCH), load(w, STATE + 3 * PITCH)
    for t in range(steps):
        i, b_t, c_t = t * LANES, b + t, c + t
        fetch(ahead, t)
        d, du = load(w, RATE + i), load(w, SCALED + i)
        e0, e1, e2, e3 = power(d, a0), power(d, a1), power(d, a2), power(d, a3)
        h0 = fma(e0, h0, du * spread(w, b_t))
        h1 = fma(e1, h1, du * spread(w, b_t + CHUNK))
        h2 = fma(e2, h2, du * spread(w, b_t + 2 * CHUNK))
        h3 = fma(e3, h3, du * spread(w, b_t + 3 * CHUNK))
        store(w, DECAY + i, e0)
        store(w, DECAY + PITCH + i, e1)
        store(w, DECAY + 2 * PITCH + i, e2)
        store(w, DECAY + 3 * PITCH + i, e3)
        store(w, STATE + LANES + i, h0)
        store(w, STATE + PITCH + LANES + i, h1)
        store(w, STATE + 2 * PITCH + LANES + i, h2)
        store(w, STATE + 3 * PITCH + LANES + i, h3)
        y = fma(h1, spread(w, c_t + CHUNK), fma(h0, spread(w, c_t), load(w, OUT + i)))
        store(w, OUT + i, fma(h3, spread(w, c_t + 3 * CHUNK), fma(h2, spread(w, c_t + 2 * CHUNK), y)))


@compiled
def _walk_back(
    w: Address, b: int, c: int, vectors: tuple[int, int, int], sums: tuple[int, int], steps: int, ahead: Lines
) -> None:
    """Walk four states back, adding to the sums behind the gradients of A, B, C, u and delta.

    ``vectors``: those of A, of e g and of the gradient of A; ``sums``: vectors of the gradients of B and C.
    """
    a, g, s = vectors
    a0, a1, a2, a3 = load(w, a), load(w, a + LANES), load(w, a + 2 * LANES), load(w, a + 3 * LANES)
    g0, g1, g2, g3 = load(w, g), load(w, g + LANES), load(w, g + 2 * LANES), load(w, g + 3 * LANES)
    s0, s1, s2, s3 = load(w, s), load(w, s + LANES), load(w, s + 2 * LANES), load(w, s + 3 * LANES)
    for t in range(steps - 1, -1, -1):
        i = t * LANES
        fetch(ahead, t)
        grad, d, du = load(w, GRAD + i), load(w, STEP + i), load(w, SCALED + i)
        j0, j1, j2, j3 = STATE + i, STATE + PITCH + i, STATE + 2 * PITCH + i, STATE + 3 * PITCH + i
        outer = quad_sums(
            grad * load(w, j0 + LANES),
            grad * load(w, j1 + LANES),
            grad * load(w, j2 + LANES),
            grad * load(w, j3 + LANES),
        )
        store(w, sums[1] + i, load(w, sums[1] + i) + outer)
        g0 = fma(grad, spread(w, c + t), g0)
        g1 = fma(grad, spread(w, c + t + CHUNK), g1)
        g2 = fma(grad, spread(w, c + t + 2 * CHUNK), g2)
        g3 = fma(grad, spread(w, c + t + 3 * CHUNK), g3)
        store(w, sums[0] + i, load(w, sums[0] + i) + quad_sums(g0 * du, g1 * du, g2 * du, g3 * du))
        inner = fma(g1, spread(w, b + t + CHUNK), fma(g0, spread(w, b + t), load(w, SUM_B + i)))
        store(w, SUM_B + i, fma(g3, spread(w, b + t + 3 * CHUNK), fma(g2, spread(w, b + t + 2 * CHUNK), inner)))
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
def _ahead(io: Traffic, s: Layout, p: Place, which: int) -> Lines:
    """Return what to ask for in one of eight walks: the next one's inputs and kept states, and where results go."""
    if which < 2 or (which == 2 and s.gate):
        return inputs_ahead(io.x, s, p.after, which)
    if which == 3:
        return lines(io.known.grad, at(s.grad, p.after), s.grad)
    if which == 4:
        return Lines(io.known.kept, p.kept_after, 2 * line(io.known.kept), line(io.known.kept))
    if which == 5:
        return lines(io.grads.u, at(s.out, p.here), s.out)
    if which == 6 and s.gate:
        return lines(io.grads.z, at(s.to_z, p.here), s.to_z)
    return lines(io.grads.delta, at(s.to_delta, p.here), s.to_delta)


@compiled
def _sweep_quads(w: Address, s: Layout, m: Plan, io: Traffic, p: Place) -> None:
    """Go forth and back through the chunk for every four states of the block."""
    quads, steps = s.rows // QUAD, p.size[1]
    for q in range(quads):
        row, b = (p.block * s.rows + q * QUAD) * LANES, m.matrices + q * QUAD * CHUNK
        c = b + s.rows * CHUNK
        for n in range(QUAD):
            state = q * QUAD + n
            before = load(io.known.kept, p.kept + state * LANES) if state < s.states else zeros(w)
            store(w, STATE + n * PITCH, before)
        _replay(w, b, c, m.scaled + row, steps, _ahead(io, s, p, 2 * q))
        to_b = m.sums + q * CHUNK * LANES
        sums = to_b, to_b + quads * CHUNK * LANES
        vectors = m.A + row, m.carry + row, m.grad_A + row
        _walk_back(w, b, c, vectors, sums, steps, _ahead(io, s, p, 2 * q + 1))
    for which in range(2 * quads, 8):
        fetch_all(_ahead(io, s, p, which), steps)


@compiled
def _sweep_single(w: Address, s: Layout, m: Plan, io: Traffic, p: Place) -> None:
    """Go forth and back through the chunk for the only state; its products of B and C are summed lane by lane."""
    steps = p.size[1]
    for which in range(8):
        fetch_all(_ahead(io, s, p, which), steps)
    row, b, c = p.block * LANES, m.matrices, m.matrices + CHUNK
    a, h = load(w, m.scaled + row), load(io.known.kept, p.kept)
    store(w, STATE, h)
    for t in range(steps):
        i = t * LANES
        decay = power(load(w, RATE + i), a)
        h = fma(decay, h, load(w, SCALED + i) * spread(w, b + t))
        store(w, DECAY + i, decay)
        store(w, STATE + LANES + i, h)
        store(w, OUT + i, fma(h, spread(w, c + t), load(w, OUT + i)))
    a, g, grad_a = load(w, m.A + row), load(w, m.carry + row), load(w, m.grad_A + row)
    to_b, to_c = m.sums, m.sums + CHUNK * LANES
    for t in range(steps - 1, -1, -1):
        i = t * LANES
        grad = load(w, GRAD + i)
        store(w, to_c + i, fma(grad, load(w, STATE + LANES + i), load(w, to_c + i)))
        g = fma(grad, spread(w, c + t), g)
        store(w, to_b + i, fma(g, load(w, SCALED + i), load(w, to_b + i)))
        store(w, SUM_B + i, g * spread(w, b + t))
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
def _finish_matrices(w: Address, s: Layout, m: Plan, grads: Tensors, place: int, steps: int) -> None:
    """Write the chunk's gradients of B and C from ``place`` on and set their sums back to 0."""
    zero, half = zeros(w), -(-s.rows // QUAD) * QUAD * CHUNK
    vectors = -(-s.rows // QUAD) * CHUNK * LANES
    for i in range(0, 2 * vectors, CHUNK * LANES):
        to = m.totals + i // LANES * QUAD
        for t in range(0, steps, LANES):
            if s.states == 1:
                store(w, to + t, lane_sums(w, m.sums + i + t * LANES))
            else:
                finish_quads(w, m.sums + i + t * LANES, w, to + t, CHUNK)
            for v in range(LANES):
                store(w, m.sums + i + (t + v) * LANES, zero)
    for n in range(s.states):
        for t in range(steps):
            to = place + n * s.length + t * s.way
            put(grads.B, to, get(w, m.totals + n * CHUNK + t))
            put(grads.C, to, get(w, m.totals + half + n * CHUNK + t))


@compiled
def _backward(io: Traffic, w: Address, n: Any, index: int) -> None:
    """Write one task's gradients; those of A, D and bias are per sample, those of B and C per task."""
    s, m = layout(n)
    x, known, grads = io
    task = task_of(s, index)
    start(w, x, s, m, task)
    if s.grad_last:
        spread_out(known.grad_last, w, m.carry, s, task, (task.batch, s.states, s.rows))
    for chunk in range(-(-s.length // CHUNK) - 1, -1, -1):
        first = chunk * CHUNK
        steps, to = min(CHUNK, s.length - first), index * s.states * s.length + first * s.way
        copy_matrices(w, x, s, m, task, first, steps)
        fetch_matrices(x, s, task, max(first - CHUNK, 0))
        fetch_all(lines(grads.B, to, (0, s.length, s.way)), 2 * s.states)
        fetch_all(lines(grads.C, to, (0, s.length, s.way)), 2 * s.states)
        for k in range(task.blocks):
            p = place_of(s, task, k, first, -1)
            fill_steps(w, x, s, p.here, p.size)
            fill(w, GRAD, known.grad, at(s.grad, p.here), s.grad, p.size)
            start_steps(w, s, m, k, steps, s.softplus)
            _gate_gradients(w, s, steps)
            if s.states == 1:
                _sweep_single(w, s, m, io, p)
            else:
                _sweep_quads(w, s, m, io, p)
            _finish(w, s, m, k, steps)
            drain(w, SUM_B, grads.u, at(s.out, p.here), s.out, p.size)
            drain(w, SUM_A, grads.delta, at(s.to_delta, p.here), s.to_delta, p.size)
            if s.gate:
                drain(w, OUT, grads.z, at(s.to_z, p.here), s.to_z, p.size)
        _finish_matrices(w, s, m, grads, to, steps)
    gather(w, m.grad_A, grads.A, s, task, (s.states, s.rows))
    gather(w, m.grad_skip, grads.D, s, task, (1, 1))
    gather(w, m.grad_bias, grads.bias, s, task, (1, 1))


def backward_task(  # noqa: PLR0913 - called from outside with plain addresses
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any,
    grad: Any, grad_last: Any, kept: Any,
    to_u: Any, to_delta: Any, to_A: Any, to_B: Any, to_C: Any, to_D: Any, to_z: Any, to_bias: Any,
    work: Any, numbers: Any, index: int,
) -> None:  # fmt: skip
    """Do one task of the backward pass; every argument but the task's number is an address."""
    inputs = Tensors(u, delta, A, B, C, D, z, bias)
    grads = Tensors(to_u, to_delta, to_A, to_B, to_C, to_D, to_z, to_bias)
    _backward(Traffic(inputs, Known(grad, grad_last, kept), grads), work, numbers, index)
