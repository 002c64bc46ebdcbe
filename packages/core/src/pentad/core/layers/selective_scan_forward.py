"""The forward pass of the selective scan's compiled loops on a CPU; `selective_scan_numba` runs it.

Four states walk at once with theirs in registers; a scan of one state has a loop of its own, which needs no tiles where
the channels of a step lie side by side. Where the backward pass is to follow, the state before each chunk is kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pentad.core.layers.lane_functions import (
    bounded,
    exp_minus_abs,
    four_powers,
    four_softplus,
    power,
    sigmoid,
    softplus,
)
from pentad.core.layers.lanes import (
    Address,
    Lines,
    compiled,
    drain,
    fetch,
    fetch_all,
    fill,
    fma,
    lines,
    load,
    spread,
    store,
)
from pentad.core.layers.selective_scan import CHUNK, LANES
from pentad.core.layers.selective_scan_layout import GATE, INPUT, OUT, QUAD, RATE, SCALED, STEP, Layout, Plan
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
    start,
    start_steps,
    task_of,
)


class Track(NamedTuple):
    """Where one vector of each step lies: the first at ``start``, the next ``step`` numbers on."""

    numbers: Address
    start: int
    step: int


@compiled
def _advance(w: Address, b: int, c: int, vectors: tuple[int, int], steps: int, ahead: Lines) -> None:
    """Walk four states through the chunk, adding C h to the outputs.

    Args:
        w: The task's memory.
        b: Where the first state's row of B lies; the next ones follow.
        c: The same for C.
        vectors: Where those of A log2(e) and the states lie.
        steps: Length of the chunk.
        ahead: Lines of memory to ask for meanwhile.
    """
    a, h = vectors
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
def _opened(w: Address, tile: int, source: Address, strides: tuple[int, int, int], p: Place) -> Track:
    """Return where to read a tensor's vectors: in place if channels lie side by side, else in the tile, now filled."""
    if p.size[0] == LANES and strides[1] == 1:
        return Track(source, at(strides, p.here), strides[2])
    fill(w, tile, source, at(strides, p.here), strides, p.size)
    return Track(w, tile, LANES)


@compiled
def _vector(track: Track, t: int) -> Any:
    return load(track.numbers, track.start + t * track.step)


@compiled
def _write(track: Track, t: int, value: Any) -> None:
    store(track.numbers, track.start + t * track.step, value)


@compiled
def _gated(s: Layout, z_of: Track, t: int, y: Any) -> Any:
    """Return y times silu(z) where there is a gate."""
    if s.gate:
        z = _vector(z_of, t)
        y = y * (z * sigmoid(z, exp_minus_abs(z)))
    return y


@compiled
def _advance_single(
    w: Address,
    s: Layout,
    m: Plan,
    p: Place,
    tracks: tuple[Track, Track, Track, Track],
    ahead: tuple[Lines, Lines, Lines, Lines],
) -> None:
    """Walk the only state of a block from raw steps to finished outputs, all in registers; tracks: u, delta, z, out.

    Four steps are taken side by side up to their decays, as one alone would leave the processor waiting.
    """
    u_of, delta_of, z_of, out_of = tracks
    first, second, third, fourth = ahead
    k, b, c = p.block * LANES, m.matrices, m.matrices + CHUNK
    bias, skip, limit = load(w, m.bias + k), load(w, m.skip + k), load(w, m.limit + k)
    a, h = load(w, m.scaled + k), load(w, m.carry + k)
    whole = p.size[1] - p.size[1] % 4
    for t in range(0, whole, 4):
        for i in range(t, t + 4):
            fetch(first, i)
            fetch(second, i)
            fetch(third, i)
            if s.gate:
                fetch(fourth, i)
        d0, d1 = _vector(delta_of, t) + bias, _vector(delta_of, t + 1) + bias
        d2, d3 = _vector(delta_of, t + 2) + bias, _vector(delta_of, t + 3) + bias
        if s.softplus:
            d0, d1, d2, d3 = four_softplus(d0, d1, d2, d3)
        e0, e1, e2, e3 = four_powers(d0, d1, d2, d3, limit, a)
        u0, u1, u2, u3 = _vector(u_of, t), _vector(u_of, t + 1), _vector(u_of, t + 2), _vector(u_of, t + 3)
        h0 = fma(e0, h, (d0 * u0) * spread(w, b + t))
        h1 = fma(e1, h0, (d1 * u1) * spread(w, b + t + 1))
        h2 = fma(e2, h1, (d2 * u2) * spread(w, b + t + 2))
        h = fma(e3, h2, (d3 * u3) * spread(w, b + t + 3))
        _write(out_of, t, _gated(s, z_of, t, fma(h0, spread(w, c + t), u0 * skip)))
        _write(out_of, t + 1, _gated(s, z_of, t + 1, fma(h1, spread(w, c + t + 1), u1 * skip)))
        _write(out_of, t + 2, _gated(s, z_of, t + 2, fma(h2, spread(w, c + t + 2), u2 * skip)))
        _write(out_of, t + 3, _gated(s, z_of, t + 3, fma(h, spread(w, c + t + 3), u3 * skip)))
    for t in range(whole, p.size[1]):
        d, u = _vector(delta_of, t) + bias, _vector(u_of, t)
        if s.softplus:
            d = softplus(d, exp_minus_abs(d))
        h = fma(power(bounded(d, limit), a), h, (d * u) * spread(w, b + t))
        _write(out_of, t, _gated(s, z_of, t, fma(h, spread(w, c + t), u * skip)))
    store(w, m.carry + k, h)


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
    return lines(out, at(s.out, p.here), s.out)


@compiled
def _walk_single(x: Tensors, out: Address, w: Address, s: Layout, m: Plan, p: Place) -> None:
    """Take the only state of one block through its chunk."""
    u, delta = _opened(w, INPUT, x.u, s.u, p), _opened(w, STEP, x.delta, s.delta, p)
    z = _opened(w, GATE, x.z, s.z, p) if s.gate else u
    direct = s.out[1] == 1
    results = lines(out, at(s.out, p.after if direct else p.here), s.out)
    ahead = inputs_ahead(x, s, p.after, 0), inputs_ahead(x, s, p.after, 1), results, inputs_ahead(x, s, p.after, 2)
    if p.size[0] == LANES and direct:
        _advance_single(w, s, m, p, (u, delta, z, Track(out, at(s.out, p.here), s.out[2])), ahead)
    else:
        _advance_single(w, s, m, p, (u, delta, z, Track(w, OUT, LANES)), ahead)
        drain(w, OUT, out, at(s.out, p.here), s.out, p.size)


@compiled
def _walk(x: Tensors, out: Address, w: Address, s: Layout, m: Plan, p: Place) -> None:
    """Take the states of one block through their chunk."""
    steps = p.size[1]
    fill_steps(w, x, s, p.here, p.size)
    start_steps(w, s, m, p.block, steps, 0)
    quads = s.rows // QUAD
    for q in range(quads):
        row, b = (p.block * s.rows + q * QUAD) * LANES, m.matrices + q * QUAD * CHUNK
        _advance(w, b, b + s.rows * CHUNK, (m.scaled + row, m.carry + row), steps, _ahead(x, out, s, p, q))
    for q in range(quads, 4):
        fetch_all(_ahead(x, out, s, p, q), steps)
    if s.gate:
        _gate_outputs(w, steps)
    drain(w, OUT, out, at(s.out, p.here), s.out, p.size)


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
            if s.keep:
                for i in range(0, s.states * LANES, LANES):
                    store(kept, p.kept + i, load(w, m.carry + k * s.rows * LANES + i))
            if s.states == 1:
                _walk_single(x, out, w, s, m, p)
            else:
                _walk(x, out, w, s, m, p)
    gather(w, m.carry, last, s, task, (s.states, s.rows))


def forward_task(  # noqa: PLR0913 - called from outside with plain addresses
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any,
    out: Any, last: Any, kept: Any, work: Any, numbers: Any, index: int,
) -> None:  # fmt: skip
    """Do one task of the forward pass; every argument but the task's number is an address."""
    _forward(Tensors(u, delta, A, B, C, D, z, bias), out, last, kept, work, numbers, index)
