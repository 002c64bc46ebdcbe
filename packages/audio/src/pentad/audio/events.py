"""From scores over time to events: threshold, median filter, joined gaps, shortest length; chunk after chunk.

An event begins and ends where the straight line between the scores of two neighbouring steps, each standing at its
middle, crosses the threshold: networks give a score every tenth of a second or so, and a sound begins between two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pentad.audio.windows import Track
from pentad.core.errors import UsageError


@dataclass(frozen=True)
class EventRules:
    """When scores make an event."""

    threshold: float = 0.5
    """A step is active from this probability."""
    median_s: float = 0.2
    """Length of the median filter over active steps; 0 filters nothing."""
    join_s: float = 0.2
    """Events of one class with a shorter gap become one."""
    shortest_s: float = 0.1
    """Shorter events are dropped."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or min(self.median_s, self.join_s, self.shortest_s) < 0:
            raise UsageError("PTD-730", f"event rules {self}", "give a threshold between 0 and 1, and no negative time")


@dataclass(frozen=True)
class SoundEvent:
    """A sound with its place in a recording."""

    onset: float
    """Seconds."""
    offset: float
    """Seconds."""
    label: str
    peak: float
    """Highest probability within it."""


@dataclass
class _Open:
    first: int
    last: int
    onset: float
    """Steps from the beginning of the recording, as the offset."""
    offset: float
    peak: float


class EventFinder:
    """Find events in a track that comes in pieces; the pieces' lengths change nothing.

    Args:
        classes: Name of each column.
        step_s: Seconds of a step.
        rules: What makes an event.
    """

    def __init__(self, classes: Sequence[str], step_s: float, rules: EventRules) -> None:
        self.classes = tuple(classes)
        self.step_s = step_s
        self.rules = rules
        self._half = round(rules.median_s / step_s / 2)
        # What lies before the first step is silent, without a score; an edge needs the step beside it too.
        self._active = np.zeros((self._half, len(self.classes)), np.uint8)
        self._scores = np.full((1, len(self.classes)), np.nan, np.float32)
        self._done = 0
        self._open: dict[int, _Open] = {}

    def add(self, track: Track) -> list[SoundEvent]:
        """Take the next steps (steps, classes) and return the events that can grow no more."""
        self._active = np.concatenate([self._active, (track >= self.rules.threshold).astype(np.uint8)])
        self._scores = np.concatenate([self._scores, track])
        return sorted(self._advance(len(self._active) - 2 * self._half - 1), key=_order)

    def finish(self) -> list[SoundEvent]:
        """Return the events that are left at the end of the recording."""
        silence = np.zeros((self._half + 1, len(self.classes)), np.uint8)
        self._active = np.concatenate([self._active, silence])
        self._scores = np.concatenate([self._scores, np.full((1, len(self.classes)), np.nan, np.float32)])
        found = list(self._advance(len(self._active) - 2 * self._half - 1))
        for column, event in self._open.items():
            found += self._closed(column, event)
        self._open = {}
        return sorted(found, key=_order)

    def _advance(self, count: int) -> Iterator[SoundEvent]:
        """Filter and read the next ``count`` steps, which have their neighbours on both sides."""
        if count <= 0:
            return
        width = 2 * self._half + 1
        sums = np.cumsum(np.pad(self._active.astype(np.int32), ((1, 0), (0, 0))), axis=0)
        majority = 2 * (sums[width:] - sums[:-width])[:count] > width
        for active in np.flatnonzero(majority.any(axis=0)):
            scores = self._scores[:, active]  # its row of the first step is 1
            for first, last in _runs(majority[:, active]):
                onset = self._done + first + self._edge(scores[first], scores[first + 1])
                offset = self._done + last + 1 - self._edge(scores[last + 2], scores[last + 1])
                peak = float(scores[first + 1 : last + 2].max())
                found = _Open(self._done + first, self._done + last, onset, offset, peak)
                yield from self._extend(int(active), found)
        self._active, self._scores = self._active[count:], self._scores[count:]
        self._done += count
        for column in [column for column, event in self._open.items() if self._gap(event, self._done) >= 0]:
            yield from self._closed(column, self._open.pop(column))

    def _edge(self, outer: float, inner: float) -> float:
        """Return how far within the border of an active step the line from the step outside crosses the threshold."""
        if not outer < self.rules.threshold <= inner:
            return 0.0  # the recording ends there, or the median filter has moved the border
        return float((self.rules.threshold - outer) / (inner - outer)) - 0.5

    def _gap(self, event: _Open, step: int) -> float:
        """How much longer than what is joined the silence is if the next active step is ``step``."""
        return (step - event.last - 1) * self.step_s - self.rules.join_s - 1e-9

    def _extend(self, column: int, found: _Open) -> Iterator[SoundEvent]:
        event = self._open.get(column)
        if event is not None and self._gap(event, found.first) < 0:
            event.last, event.offset, event.peak = found.last, found.offset, max(event.peak, found.peak)
            return
        if event is not None:
            yield from self._closed(column, event)
        self._open[column] = found

    def _closed(self, column: int, event: _Open) -> list[SoundEvent]:
        onset, offset = max(0.0, event.onset) * self.step_s, event.offset * self.step_s
        if offset - onset < self.rules.shortest_s - 1e-9:
            return []
        return [SoundEvent(round(onset, 4), round(offset, 4), self.classes[column], round(event.peak, 4))]


def _order(event: SoundEvent) -> tuple[float, str]:
    return event.onset, event.label


def _runs(active: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last step of each stretch of active steps."""
    edges = np.flatnonzero(np.diff(np.pad(active.astype(np.int8), 1)))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
