"""A recording at a glance, gathered window by window: a spectrogram and scores of at most so many columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from pentad.audio.events import SoundEvent
from pentad.audio.predict import WindowScores
from pentad.core.report import PALETTE, style

COLUMNS = 480
_ROWS = 64
_SHOWN = 12


class Overview:
    """Means of log-mel features over equal stretches of a recording, in memory that its length does not change.

    Args:
        seconds: Length of the recording, as its header states it.
        rate: Of the front-end, Hz.
    """

    def __init__(self, seconds: float, rate: int) -> None:
        self.seconds = seconds
        self.rate = rate
        self._sums = np.zeros((COLUMNS, _ROWS))
        self._counts = np.zeros(COLUMNS)

    def add(self, scores: WindowScores) -> None:
        """Take in a window; where windows overlap, both count."""
        frames, bins = scores.features.shape
        begin, length = scores.start / self.rate, scores.samples / self.rate
        places = (begin + (np.arange(frames) + 0.5) / frames * length) / max(self.seconds, 1e-9) * COLUMNS
        columns = np.clip(places.astype(int), 0, COLUMNS - 1)
        merged = (
            scores.features[:, : bins // _ROWS * _ROWS].reshape(frames, _ROWS, -1).mean(2) if bins >= _ROWS else None
        )
        features = merged if merged is not None else np.repeat(scores.features, -(-_ROWS // bins), axis=1)[:, :_ROWS]
        np.add.at(self._sums, columns, features)
        np.add.at(self._counts, columns, 1)

    def image(self) -> NDArray[np.float64]:
        """Return the spectrogram (mel rows from low to high, columns); stretches without a frame repeat the last."""
        known = np.flatnonzero(self._counts)
        if not len(known):
            return np.zeros((_ROWS, COLUMNS))
        nearest = known[np.clip(np.searchsorted(known, np.arange(COLUMNS), side="right") - 1, 0, None)]
        return np.asarray((self._sums[nearest] / self._counts[nearest, None]).T)

    def draw(self, events: Sequence[SoundEvent], classes: Sequence[str]) -> Drawing:
        """Return the spectrogram above a track of events, a line a class that occurs."""
        present = [name for name in classes if any(event.label == name for event in events)][:_SHOWN]
        with style():
            height = 2.4 + 0.28 * max(1, len(present))
            drawing = Drawing(figsize=(9, height), layout="constrained", dpi=100)
            upper, lower = drawing.subplots(
                2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 0.28 * max(1, len(present)) + 0.2]}
            )
            image = self.image()
            low, high = np.quantile(image, [0.05, 0.995])
            upper.imshow(
                image,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=low,
                vmax=max(high, low + 1e-6),
                extent=(0, self.seconds, 0, _ROWS),
                interpolation="nearest",
            )
            upper.set_ylabel("mel band")
            for row, name in enumerate(present):
                spans = [(event.onset, event.offset - event.onset) for event in events if event.label == name]
                lower.broken_barh(spans, (row - 0.35, 0.7), color=PALETTE[row % len(PALETTE)])
            lower.set_yticks(range(len(present)), present)
            lower.set_ylim(max(1, len(present)) - 0.5, -0.5)
            lower.set_xlim(0, self.seconds)
            lower.set_xlabel("seconds")
        return drawing
