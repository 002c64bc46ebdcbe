"""Training windows by ordinal number: sample i is a function of the seed and i, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pentad.audio.waveform import Samples, read
from pentad.core.cases import Case
from pentad.core.errors import CaseError, UsageError

TARGET_RATE = 100
"""Steps a second of the targets over time; a model's own steps are means of these."""
_HELD_BYTES = 1 << 30


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training windows, section ``augment`` of params.yaml; 0 leaves a change out."""

    gain_db: float = 6.0
    """Louder or softer by up to so much."""
    roll: float = 1.0
    """Chance of turning the window in time, its end to its beginning, by any amount."""
    noise: float = 0.3
    """Chance of white noise, of an amplitude up to 0.005."""
    mixup: float = 0.5
    """Chance of mixing in another recording."""
    mixup_alpha: float = 2.0
    """Of the Beta distribution of the first recording's share, which is at least a half."""
    frequency_mask: int = 8
    """Mel bins that SpecAugment hides at most."""
    time_mask: float = 0.1
    """Share of the frames that SpecAugment hides at most; labels over time stay."""

    def __post_init__(self) -> None:
        chances = (self.roll, self.noise, self.mixup, self.time_mask)
        if min(self.gain_db, self.frequency_mask) < 0 or not all(0 <= chance <= 1 for chance in chances):
            raise UsageError("PTD-733", f"augmentation {self}", "give chances from 0 to 1 and no negative amount")


@dataclass(frozen=True)
class ClipConfig:
    """What a sample is."""

    classes: tuple[str, ...]
    rate: int
    """Of the front-end, Hz."""
    window: int
    """Samples."""
    exclusive: bool
    """One class a recording: mixed labels are shares, else both are there."""
    seed: int = 0
    augmentation: AugmentConfig = AugmentConfig()


class Clips(Dataset[dict[str, Tensor]]):
    """Training windows without end: item 0, 1, 2 and so on, each recording once in every round.

    Every item holds ``wave`` (window,), ``labels`` (classes,) shares of 0 to 1, ``active`` (steps, classes) at
    `TARGET_RATE`, and ``marked`` (), whether somebody marked onsets and offsets.

    Args:
        cases: Where windows come from.
        config: What a sample is.

    Raises:
        UsageError: There is no case.
    """

    def __init__(self, cases: Sequence[Case], config: ClipConfig) -> None:
        if not cases:
            raise UsageError("PTD-734", "there is no recording to train on", "give the case table a split 'train'")
        self.cases = tuple(cases)
        self.config = config
        self._held: dict[int, Samples] = {}
        self._bytes = 0

    def __getitem__(self, ordinal: int) -> dict[str, Tensor]:
        """Return the sample of this number."""
        config, change = self.config, self.config.augmentation
        rng = np.random.default_rng((config.seed, ordinal))
        turn, place = divmod(ordinal, len(self.cases))
        order = np.random.default_rng((config.seed, turn, 1)).permutation(len(self.cases))
        wave, labels, active, marked = self._window(int(order[place]), rng)
        if rng.random() < change.mixup:
            other = self._window(int(rng.integers(len(self.cases))), rng)
            share = max(part := float(rng.beta(change.mixup_alpha, change.mixup_alpha)), 1 - part)
            wave = share * wave + (1 - share) * other[0]
            if config.exclusive:
                labels = share * labels + (1 - share) * other[1]
            else:
                labels = np.maximum(labels, other[1])
            active, marked = np.maximum(active, other[2]), marked and other[3]
        if rng.random() < change.noise:
            wave = wave + rng.uniform(0, 0.005) * rng.standard_normal(len(wave), dtype=np.float32)
        wave = wave * 10 ** (rng.uniform(-change.gain_db, change.gain_db) / 20)
        return {
            "wave": torch.from_numpy(np.asarray(wave, dtype=np.float32)),
            "labels": torch.from_numpy(labels),
            "active": torch.from_numpy(active),
            "marked": torch.tensor(float(marked)),
        }

    def _window(
        self, number: int, rng: np.random.Generator
    ) -> tuple[Samples, NDArray[np.float32], NDArray[np.float32], bool]:
        """A random window of a recording, turned in time, with its targets."""
        config = self.config
        sound, (labels, spans) = self._sound(number), _targets(self.cases[number], config.classes)
        room = len(sound) - config.window
        start = int(rng.integers(room + 1)) if room > 0 else 0
        wave = np.zeros(config.window, np.float32)
        piece = sound[start : start + config.window]
        wave[: len(piece)] = piece
        steps = round(config.window / config.rate * TARGET_RATE)
        active = np.zeros((steps, len(config.classes)), np.float32)
        for onset, offset, column in spans or ():
            first = round((onset - start / config.rate) * TARGET_RATE)
            last = round((offset - start / config.rate) * TARGET_RATE)
            active[max(first, 0) : max(last, 0), column] = 1
        if spans is not None and room > 0:
            labels = active.max(axis=0)  # an event may lie outside the window
        if rng.random() < config.augmentation.roll:
            by = int(rng.integers(steps))
            active = np.roll(active, by, axis=0)
            wave = np.roll(wave, by * config.rate // TARGET_RATE)
        return wave, labels, active, spans is not None

    def _sound(self, number: int) -> Samples:
        """A whole recording at the front-end's rate, kept while there is room."""
        if number not in self._held:
            _, sound = read(Path(self.cases[number].files["audio"]), self.config.rate)
            if self._bytes + sound.nbytes > _HELD_BYTES:
                return sound
            self._held[number] = sound
            self._bytes += sound.nbytes
        return self._held[number]


def _targets(case: Case, classes: Sequence[str]) -> tuple[NDArray[np.float32], list[tuple[float, float, int]] | None]:
    """Labels (classes,) of a case and its events by column, None where nobody marked them.

    Raises:
        CaseError: The case has no labels, or one that the data set does not know.
    """
    names, events = labels_of(case), events_of(case)
    if not names and events is None:
        raise CaseError("PTD-735", "the case has no labels", "prepare the data again", case.id)
    labels = np.zeros(len(classes), np.float32)
    try:
        for name in names:
            labels[classes.index(name)] = 1
        if events is None:
            return labels, None
        return labels, [(onset, offset, classes.index(name)) for onset, offset, name in events]
    except ValueError as error:
        raise CaseError("PTD-735", f"a label is unknown ({error})", "prepare the data again", case.id) from None


def labels_of(case: Case) -> tuple[str, ...]:
    """Return the labels of a case."""
    target: Any = case.target
    names = target.get("labels") if isinstance(target, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def events_of(case: Case) -> list[tuple[float, float, str]] | None:
    """Return onset, offset and label of a case's events, None where nobody marked them."""
    target: Any = case.target
    rows = target.get("events") if isinstance(target, dict) else None
    return [(float(row[0]), float(row[1]), str(row[2])) for row in rows] if isinstance(rows, list) else None
