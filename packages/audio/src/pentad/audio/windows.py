"""Overlapping windows over a stream, and their scores blended to one track over time, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pentad.audio.waveform import Samples

Track = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A stretch of a recording."""

    start: int
    """First sample."""
    samples: Samples
    """As many as a window has, or the whole of a shorter recording."""


def windows(blocks: Iterable[Samples], size: int, hop: int) -> Iterator[Window]:
    """Yield windows of ``size`` samples every ``hop``, and one that ends with the recording; nothing is left out.

    Args:
        blocks: The recording in pieces of any length.
        size: Samples of a window.
        hop: Samples from one to the next, at most ``size``.
    """
    held, start, last_end = np.zeros(0, np.float32), 0, 0
    tail = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= size:
            yield Window(start, held[:size])
            last_end = start + size
            tail = held[:size]
            held, start = held[hop:], start + hop
    end = start + len(held)
    if last_end == 0:
        if end:
            yield Window(0, held)
    elif end > last_end:
        # The stretch after the last full window, with as much before it as makes a window of it.
        joined = np.concatenate([tail, held[last_end - start :]])
        yield Window(end - size, joined[-size:])


class Stitcher:
    """Blend scores of overlapping windows, step by step, and hand over what no later window can change.

    A window's scores weigh most in its middle: a step near an edge is better heard by the neighbour.

    Args:
        step: Samples of a step; windows may begin anywhere, their steps are laid on the nearest of the track.
    """

    def __init__(self, step: float) -> None:
        self.step = step
        self._first = 0  # number of the first step that is still open
        self._sum: NDArray[np.float64] | None = None
        self._weight = np.zeros(0)

    def add(self, start: int, scores: Track) -> Track:
        """Take a window's scores (steps, classes) and return the steps of the track that are now final.

        Args:
            start: First sample of the window; never before that of an earlier one.
            scores: One row a step.
        """
        final = self._release(int(start / self.step))
        at = round(start / self.step) - self._first
        steps, classes = scores.shape
        if self._sum is None:
            self._sum = np.zeros((0, classes))
        missing = at + steps - len(self._weight)
        if missing > 0:
            self._sum = np.concatenate([self._sum, np.zeros((missing, classes))])
            self._weight = np.concatenate([self._weight, np.zeros(missing)])
        place = np.arange(steps) + 0.5
        weight = np.minimum(place, steps - place) / steps
        self._sum[at : at + steps] += weight[:, None] * scores
        self._weight[at : at + steps] += weight
        return final

    def finish(self, samples: int) -> Track:
        """Return the rest of the track of a recording of so many samples."""
        count = max(1, int(np.ceil(samples / self.step - 1e-6)))
        return self._release(count)

    def _release(self, until: int) -> Track:
        count = min(max(0, until - self._first), len(self._weight))
        if self._sum is None or count == 0:
            return np.zeros((0, 0 if self._sum is None else self._sum.shape[1]), np.float32)
        final = self._sum[:count] / np.maximum(self._weight[:count, None], 1e-12)
        self._sum, self._weight = self._sum[count:], self._weight[count:]
        self._first += count
        return final.astype(np.float32)
