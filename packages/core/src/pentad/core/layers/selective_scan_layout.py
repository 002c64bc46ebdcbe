"""What the selective scan's compiled loops on a CPU are told: sizes, switches, strides, and the plan of their memory.

Free of heavy imports, so that code from the cache runs without the compiler being loaded.
"""

from __future__ import annotations

from typing import NamedTuple

from pentad.core.layers.selective_scan import CHUNK, LANES

# States that are walked side by side; a single state has loops of its own.
QUAD = 4

# Tiles of the workspace, each CHUNK rows of one vector. The odd vectors between them keep rows of different tiles from
# sharing the low bits of their addresses, which the processor takes for a dependency.
PITCH = (CHUNK + 5) * LANES
STEP, RATE, INPUT, SCALED, OUT, GATE = (k * PITCH for k in range(6))
SLOPE, GRAD, SUM_B, SUM_A = (k * PITCH for k in range(6, 10))
DECAY, STATE = 10 * PITCH, (10 + QUAD) * PITCH  # one tile for each state of a quad
FORWARD_TILES, BACKWARD_TILES = 6, 10 + 2 * QUAD


class Layout(NamedTuple):
    """Sizes, switches (0 or 1), and strides in elements (batch, channel, step; of B and C batch, group, state).

    ``out`` are those of the result, or of the gradient of u; ``to_delta`` and ``to_z`` of these gradients.

    ``width`` is the number of channels of a group, ``parts`` the number of tasks that share it, ``rows`` the number of
    states the loops walk: ``states`` made up to whole quads. ``way`` is 1, or -1 where the last step in memory comes
    first: addresses are then those of the last step, and strides along the steps negative.
    """

    batch: int
    groups: int
    width: int
    length: int
    states: int
    rows: int
    parts: int
    softplus: int
    skip: int
    bias: int
    gate: int
    keep: int
    grad_last: int
    way: int
    u: tuple[int, int, int]
    delta: tuple[int, int, int]
    z: tuple[int, int, int]
    grad: tuple[int, int, int]
    B: tuple[int, int, int]
    C: tuple[int, int, int]
    out: tuple[int, int, int]
    to_delta: tuple[int, int, int]
    to_z: tuple[int, int, int]

    def numbers(self) -> list[int]:
        """Return all of it in one row."""
        return [*self[:14], *(stride for strides in self[14:] for stride in strides)]


class Plan(NamedTuple):
    """Where the parts of a task's memory begin, in elements; all but the tiles start as zeros."""

    carry: int
    A: int
    scaled: int
    grad_A: int
    limit: int
    skip: int
    bias: int
    grad_skip: int
    grad_bias: int
    matrices: int
    sums: int
    totals: int
    size: int


def whole_quads(states: int) -> int:
    """Return the number of states the loops walk."""
    return states if states == 1 else -(-states // QUAD) * QUAD


def plan(tiles: int, blocks: int, rows: int) -> Plan:
    """Return the places of a task's memory, for both passes.

    Args:
        tiles: How many tiles the pass needs.
        blocks: How many blocks of channels a task has at most.
        rows: `Layout.rows`.
    """
    vectors, states = blocks * LANES, blocks * rows * LANES
    carry = tiles * PITCH
    limit = carry + 4 * states
    matrices = limit + 5 * vectors
    sums = matrices + 2 * rows * CHUNK
    # A vector per step for every quad of states, of B and of C.
    totals = sums + 2 * -(-rows // QUAD) * CHUNK * LANES
    state_vectors = [carry + k * states for k in range(4)]
    block_vectors = [limit + k * vectors for k in range(5)]
    size = totals + 2 * -(-rows // QUAD) * QUAD * CHUNK
    return Plan._make([*state_vectors, *block_vectors, matrices, sums, totals, size])
