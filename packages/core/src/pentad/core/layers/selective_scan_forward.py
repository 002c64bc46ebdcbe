"""The forward pass of the selective scan's compiled loops on a CPU; `selective_scan_numba` runs it.

Four states walk at once with theirs in registers; a scan of one state has a loop of its own. Where the backward pass is
to follow, the state before each chunk is kept.
"""

from __future__ import annotations

from typing import Any

from pentad.core.layers.lane_functions import bounded, exp_minus_abs, power, sigmoid, softplus
from pentad.core.layers.lanes import Address, Lines, compiled, drain, fetch, fetch_all, fma, load, spread, store
from pentad.core.layers.selective_scan import CHUNK, LANES
from pentad.core.layers.selective_scan_layout import GATE, INPUT, OUT, QUAD, RATE, SCALED, STEP, Layout, Plan
from pentad.core.layers.selective_scan_tasks import (
    Place,
    Tensors,
    copy_matrices,
    fetch_matrices,
    fill_steps,
    gather,
    inputs_ahead,
    layout,
    place_of,
    result_ahead,
    result_at,
    start,
    start_steps,
    task_of,
)


@compiled
def _advance(w: Address, b: int, c: int, at: tuple[int, int], steps: int, ahead: Lines) -> None:
    """Walk four states through the chunk, adding C h to the outputs.

    Args:
        w: The task's memory.
        b: Where the first state's row of B lies; the next ones follow.
        c: The same for C.
        at: Where the vectors of A log2(e) and the states lie.
        steps: Length of the chunk.
        ahead: Lines of memory to ask for meanwhile.
    """
    a, h = at
    a0, a1, a2, a3 = load(w, a), load(w, a + LANES), load(w, a + 2 * LANES), load(w, a + 3 * LANES)
    h0, h1, h2, h3 = load(w, h), load(w, h + LANES), load(w, h + 2 * LANES), load(w, h + 3 * LANES)
    for t in range(steps):
        i, b_t, c_t = t * LANES, b + t, c + t
        fetch(ahead, t)
        d, du = load(w, RATE + i), load(w, SCALED + i)
        h0 = fma(power(d, a0), h0, du * spread(w, b_t))
        h1 = fma(power(d, a1), h1, du * spread(w, b_t + CHUNK))
        h2 = fma(power(d, a2), h2, du * spread(w, b_t + 2 * CHUNK))
        h3 = fma(power(d, a3), h3, du * spread(w, b_t + 3 * CHUNK))
        y = fma(h1, spread(w, c_t + CHUNK), fma(h0, spread(w, c_t), load(w, OUT + i)))
        store(w, OUT + i, fma(h3, spread(w, c_t + 3 * CHUNK), fma(h2, spread(w, c_t + 2 * CHUNK), y)))
    store(w, h, h0)
    store(w, h + LANES, h1)
    store(w, h + 2 * LANES, h2)
    store(w, h + 3 * LANES, h3)


@compiled
def _advance_single(w: Address, s: Layout, m: Plan, k: int, steps: int) -> None:
    """Walk the only state of block ``k`` from raw steps to finished outputs, all in registers."""
    bias, skip, limit = load(w, m.bias + k * LANES), load(w, m.skip + k * LANES), load(w, m.limit + k * LANES)
    a, h = load(w, m.scaled + k * LANES), load(w, m.carry + k * LANES)
    for t in range(steps):
        i = t * LANES
        d, u = load(w, STEP + i) + bias, load(w, INPUT + i)
        if s.softplus:
            d = softplus(d, exp_minus_abs(d))
        h = fma(power(bounded(d, limit), a), h, (d * u) * spread(w, m.matrices + t))
        y = fma(h, spread(w, m.matrices + CHUNK + t), u * skip)
        if s.gate:
            z = load(w, GATE + i)
            y = y * (z * sigmoid(z, exp_minus_abs(z)))
        store(w, OUT + i, y)
    store(w, m.carry + k * LANES, h)


@compiled
def _gate_outputs(w: Address, steps: int) -> None:
    for i in range(0, steps * LANES, LANES):
        z = load(w, GATE + i)
        store(w, OUT + i, load(w, OUT + i) * (z * sigmoid(z, exp_minus_abs(z))))


@compiled
def _ahead(x: Tensors, out: Address, s: Layout, p: Place, q: int) -> Lines:
    """Return what to ask for during the walk of quad ``q``: the next walk's inputs, or where results go here."""
    if q < 2 or (q == 2 and s.gate):
        return inputs_ahead(x, s, p.after, q)
    return result_ahead(s, out, p.here)


@compiled
def _walk(x: Tensors, out: Address, w: Address, s: Layout, m: Plan, p: Place) -> None:
    """Take one block through its chunk."""
    steps = p.size[1]
    if s.states == 1:
        for q in range(4):
            fetch_all(_ahead(x, out, s, p, q), steps)
        _advance_single(w, s, m, p.block, steps)
        return
    start_steps(w, s, m, p.block, steps, 0)
    quads = s.rows // QUAD
    for q in range(quads):
        row, b = (p.block * s.rows + q * QUAD) * LANES, m.matrices + q * QUAD * CHUNK
        _advance(w, b, b + s.rows * CHUNK, (m.scaled + row, m.carry + row), steps, _ahead(x, out, s, p, q))
    for q in range(quads, 4):
        fetch_all(_ahead(x, out, s, p, q), steps)
    if s.gate:
        _gate_outputs(w, steps)


@compiled
def _forward(x: Tensors, out: Address, last: Address, kept: Address, w: Address, n: Any, index: int) -> None:
    """Write the outputs, the last states and the kept states of one task."""
    s, m = layout(n)
    task = task_of(s, index)
    start(w, x, s, m, task)
    for first in range(0, s.length, CHUNK):
        copy_matrices(w, x, s, m, task, first, min(CHUNK, s.length - first))
        fetch_matrices(x, s, task, first + CHUNK)
        for k in range(task.blocks):
            p = place_of(s, task, k, first, 1)
            fill_steps(w, x, s, p.here, p.size)
            if s.keep:
                for i in range(0, s.states * LANES, LANES):
                    store(kept, p.kept + i, load(w, m.carry + k * s.rows * LANES + i))
            _walk(x, out, w, s, m, p)
            drain(w, OUT, out, result_at(s, p.here), (s.length, s.way), p.size)
    gather(w, m.carry, last, s, task, (s.states, s.rows))


def forward_task(  # noqa: PLR0913 - called from outside with plain addresses
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any,
    out: Any, last: Any, kept: Any, work: Any, numbers: Any, index: int,
) -> None:  # fmt: skip
    """Do one task of the forward pass; every argument but the task's number is an address."""
    _forward(Tensors(u, delta, A, B, C, D, z, bias), out, last, kept, work, numbers, index)
