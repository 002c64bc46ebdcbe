"""What both passes of the selective scan's compiled loops on a CPU share: tasks, and the filling of their memory.

Sixteen channels lie side by side in a vector (`pentad.core.layers.lanes`) and walk along the sequence together, so that
nothing is summed across a vector but the gradients of B and C. The sequence goes through the caches in chunks: a tile
of steps by lanes is turned once and then serves every state. A task takes some blocks of sixteen channels through all
chunks, block by block, and asks the memory for the next block's tiles while it works on one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pentad.core.layers.lane_functions import bounded, exp_minus_abs, sigmoid, softplus
from pentad.core.layers.lanes import (
    COUNT,
    Address,
    Lines,
    compiled,
    copy_back,
    copy_row,
    fetch_all,
    fill,
    get,
    lines,
    load,
    put,
    store,
)
from pentad.core.layers.selective_scan import CHUNK, LANES
from pentad.core.layers.selective_scan_layout import (
    GATE,
    INPUT,
    OUT,
    RATE,
    SCALED,
    SLOPE,
    STEP,
    Layout,
    Plan,
)

assert COUNT == LANES, "the checkpoints are laid out in vectors"
assert CHUNK % LANES == 0, "a chunk is turned in squares"

_LOG2E = 1 / math.log(2)
# The exponents `power` takes: a step is cut where the steepest of its channel's states would go beyond, which is seen
# only in states 1e11 times less steep.
_STEEPEST, _STEEPEST_A = 1e14, 1e13


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


class Task(NamedTuple):
    """Blocks ``first`` to ``first + blocks`` of one group of one sample; ``number`` counts the tasks."""

    batch: int
    group: int
    first: int
    blocks: int
    number: int


class Place(NamedTuple):
    """Where a walk stands: block, (lanes, steps), first (batch, channel, step) and that of the next walk, kept states.

    ``kept`` and ``kept_after`` are the places of the states before this chunk and before the next walk's.
    """

    block: int
    size: tuple[int, int]
    here: tuple[int, int, int]
    after: tuple[int, int, int]
    kept: int
    kept_after: int


@compiled
def _triple(n: Any, k: int) -> tuple[int, int, int]:
    return get(n, k), get(n, k + 1), get(n, k + 2)


@compiled
def layout(n: Any) -> tuple[Layout, Plan]:
    """Read both from the numbers that stand for them in a row."""
    a, b, c, d, e, f = _triple(n, 0), _triple(n, 3), _triple(n, 6), _triple(n, 9), _triple(n, 14), _triple(n, 17)
    rest = _triple(n, 20), _triple(n, 23), _triple(n, 26), _triple(n, 29), _triple(n, 32), _triple(n, 35)
    s = Layout(*a, *b, *c, *d, get(n, 12), get(n, 13), e, f, *rest, _triple(n, 38))
    return s, Plan(*_triple(n, 41), *_triple(n, 44), *_triple(n, 47), *_triple(n, 50), get(n, 53))


@compiled
def task_of(s: Layout, index: int) -> Task:
    """Return the task of that number."""
    sample, part = index // s.parts, index % s.parts
    blocks = -(-s.width // LANES)
    first, end = blocks * part // s.parts, blocks * (part + 1) // s.parts
    return Task(sample // s.groups, sample % s.groups, first, end - first, index)


@compiled
def channels(s: Layout, task: Task, k: int) -> tuple[int, int]:
    """Return the first channel of the task's block ``k`` and how many there are."""
    start = (task.first + k) * LANES
    return task.group * s.width + start, min(LANES, s.width - start)


@compiled
def start(w: Address, x: Tensors, s: Layout, m: Plan, task: Task) -> None:
    """Put the task's constants in their places; lanes and states that are not there stay 0, and all they compute."""
    for i in range(m.carry, m.size):
        put(w, i, 0.0)
    if s.skip:
        spread_out(x.D, w, m.skip, s, task, (0, 1, 1))
    if s.bias:
        spread_out(x.bias, w, m.bias, s, task, (0, 1, 1))
    spread_out(x.A, w, m.A, s, task, (0, s.states, s.rows))
    for k in range(task.blocks):
        for c in range(LANES):
            steepest = 0.0
            for n in range(s.rows):
                i = (k * s.rows + n) * LANES + c
                scaled = max(min(get(w, m.A + i) * _LOG2E, _STEEPEST_A), -_STEEPEST_A)
                put(w, m.scaled + i, scaled)
                steepest = max(steepest, abs(scaled))
            put(w, m.limit + k * LANES + c, _STEEPEST / max(steepest, 1e-20))


@compiled
def spread_out(source: Address, w: Address, to: int, s: Layout, task: Task, shape: tuple[int, int, int]) -> None:
    """Copy the task's part of a contiguous (batch, channels, values) tensor to rows of vectors per block.

    ``shape`` holds the batch, the values and the rows they are given.
    """
    batch, values, rows = shape
    for k in range(task.blocks):
        start, lanes = channels(s, task, k)
        for c in range(lanes):
            for n in range(values):
                place = (batch * s.groups * s.width + start + c) * values + n
                put(w, to + (k * rows + n) * LANES + c, get(source, place))


@compiled
def gather(w: Address, first: int, target: Address, s: Layout, task: Task, shape: tuple[int, int]) -> None:
    """Copy vectors back to the task's part of a contiguous (batch, channels, values) tensor; shape: values, rows."""
    values, rows = shape
    for k in range(task.blocks):
        start, lanes = channels(s, task, k)
        for c in range(lanes):
            for n in range(values):
                to = (task.batch * s.groups * s.width + start + c) * values + n
                put(target, to, get(w, first + (k * rows + n) * LANES + c))


@compiled
def at(strides: tuple[int, int, int], place: tuple[int, int, int]) -> int:
    """Return where the place (batch, channel, step) lies in a tensor of these strides."""
    return place[0] * strides[0] + place[1] * strides[1] + place[2] * strides[2]


@compiled
def fill_steps(w: Address, x: Tensors, s: Layout, place: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Fill the tiles of u, of the raw step and of z for the lanes that start at ``place`` (batch, channel, step)."""
    fill(w, INPUT, x.u, at(s.u, place), s.u, size)
    fill(w, STEP, x.delta, at(s.delta, place), s.delta, size)
    if s.gate:
        fill(w, GATE, x.z, at(s.z, place), s.z, size)


@compiled
def inputs_ahead(x: Tensors, s: Layout, place: tuple[int, int, int], which: int) -> Lines:
    """Return the lines of u (0), delta (1) or z (2) that `fill_steps` will read at the place."""
    if which == 0:
        return lines(x.u, at(s.u, place), s.u)
    if which == 1:
        return lines(x.delta, at(s.delta, place), s.delta)
    return lines(x.z, at(s.z, place), s.z)


@compiled
def copy_matrices(w: Address, x: Tensors, s: Layout, m: Plan, task: Task, first: int, steps: int) -> None:
    """Copy the chunk's rows of B and C; rows of tensors whose length is a power of two would share their cache lines.

    Those of B come before those of C, a row per state; states that are not there keep their zeros.
    """
    b = task.batch * s.B[0] + task.group * s.B[1] + first * s.way
    c = task.batch * s.C[0] + task.group * s.C[1] + first * s.way
    for n in range(s.states):
        to_b, to_c = m.matrices + n * CHUNK, m.matrices + (s.rows + n) * CHUNK
        if s.way > 0:
            copy_row(x.B, b + n * s.B[2], w, to_b, steps)
            copy_row(x.C, c + n * s.C[2], w, to_c, steps)
        else:
            copy_back(x.B, b + n * s.B[2], w, to_b, steps)
            copy_back(x.C, c + n * s.C[2], w, to_c, steps)


@compiled
def fetch_matrices(x: Tensors, s: Layout, task: Task, first: int) -> None:
    """Ask the memory for what `copy_matrices` will read."""
    b = task.batch * s.B[0] + task.group * s.B[1] + first * s.way
    c = task.batch * s.C[0] + task.group * s.C[1] + first * s.way
    fetch_all(lines(x.B, b, (0, s.B[2], s.way)), 2 * s.states)
    fetch_all(lines(x.C, c, (0, s.C[2], s.way)), 2 * s.states)


@compiled
def kept_place(s: Layout, task: Task, k: int, first: int) -> int:
    """Return where the states of block ``k`` before step ``first`` are kept."""
    blocks, chunks = -(-s.width // LANES), -(-s.length // CHUNK)
    block = (task.batch * s.groups + task.group) * blocks + task.first + k
    return (block * chunks + first // CHUNK) * s.states * LANES


@compiled
def place_of(s: Layout, task: Task, k: int, first: int, way: int) -> Place:
    """Return the place of block ``k`` in the chunk at ``first``; at the end the next one is itself; way: 1 or -1."""
    k_after, after = k, first
    if k + 1 < task.blocks:
        k_after = k + 1
    elif 0 <= first + way * CHUNK < s.length:
        k_after, after = 0, first + way * CHUNK
    begin, lanes = channels(s, task, k)
    size, here = (lanes, min(CHUNK, s.length - first)), (task.batch, begin, first)
    following = task.batch, channels(s, task, k_after)[0], after
    return Place(k, size, here, following, kept_place(s, task, k, first), kept_place(s, task, k_after, after))


@compiled
def start_steps(w: Address, s: Layout, m: Plan, k: int, steps: int, slopes: int) -> None:
    """Turn raw steps into steps d, with d u, D u and, for the way back, the slope of softplus beside them."""
    bias, skip, limit = load(w, m.bias + k * LANES), load(w, m.skip + k * LANES), load(w, m.limit + k * LANES)
    for i in range(0, steps * LANES, LANES):
        d = load(w, STEP + i) + bias
        if s.softplus:
            decayed = exp_minus_abs(d)
            if slopes:
                store(w, SLOPE + i, sigmoid(d, decayed))
            d = softplus(d, decayed)
        u = load(w, INPUT + i)
        store(w, STEP + i, d)
        store(w, RATE + i, bounded(d, limit))
        store(w, SCALED + i, d * u)
        store(w, OUT + i, u * skip)
