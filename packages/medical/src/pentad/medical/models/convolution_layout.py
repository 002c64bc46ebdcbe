"""What the compiled loops of `convolution_loops` are told of a convolution."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

Size = tuple[int, int, int]

HEAD = 16
"""Numbers before the offsets of the taps: those of `Layout`."""

_MEMORY = 1 << 18  # float32 values of a task's input, half of what a second-level cache holds
_SLACK = 6 * 16  # values that the last tile may read beyond the end


class Layout(NamedTuple):
    """Sizes of a convolution and of its parts; maps are (z, y, x), and a map of two axes is (y, 1, x)."""

    inputs: int
    outputs: int
    depth: int
    height: int
    width: int
    kernel_z: int
    kernel_y: int
    kernel_x: int
    planes: int
    """Outputs of a task along z."""
    parts: int
    """Tasks of a sample."""
    block: int
    """Output channels of a tile: 4, 8 or 12."""
    results: int
    """Where a block's outputs lie in the task's memory, behind the input."""
    maps: int
    """Maps of a sample in the tensor that is written, of which the outputs are the first."""
    step_z: int = 1
    """Positions that an input's become along z, where a transposed convolution enlarges; each is an output here."""
    step_y: int = 1
    step_x: int = 1


def layout(channels: tuple[int, int], size: Size, kernel: Size, steps: Size = (1, 1, 1), more: int = 0) -> Layout:
    """Return how a convolution is parted.

    Args:
        channels: Inputs and outputs, these at every one of the ``steps`` positions.
        size: Of the maps.
        kernel: Of the convolution.
        steps: Positions that an input's become.
        more: Maps that the written tensor has behind the outputs.
    """
    inputs, outputs = channels
    plane = (size[1] + kernel[1] - 1) * (size[2] + kernel[2] - 1)
    border = kernel[0] - 1
    planes = min(size[0], max(_MEMORY // (inputs * plane) - border, 2 * border, 1))
    parts = -(-size[0] // planes)
    planes = -(-size[0] // parts)
    # Ties go to the wider block, which reads the input less often.
    block = min((12, 8, 4), key=lambda width: -(-outputs // width) * width)
    results, maps = inputs * (planes + border) * plane + _SLACK, outputs // math.prod(steps) + more
    return Layout(*channels, *size, *kernel, planes, parts, block, results, maps, *steps)


def memory(s: Layout) -> int:
    """Return how many float32 values a task needs."""
    plane = (s.height + s.kernel_y - 1) * (s.width + s.kernel_x - 1)
    return s.results + s.block * (s.planes * plane + _SLACK)


def offsets(s: Layout) -> list[int]:
    """Return where each (input channel, tap) lies from an output's place on, in the order of the weights."""
    pitch, rows = s.width + s.kernel_x - 1, s.height + s.kernel_y - 1
    ranges = range(s.inputs), range(s.kernel_z), range(s.kernel_y), range(s.kernel_x)
    depth = s.planes + s.kernel_z - 1
    return [((c * depth + z) * rows + y) * pitch + x for c, z, y, x in itertools.product(*ranges)]
