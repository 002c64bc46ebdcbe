"""The predictor: a trained model over a recording of any length, window by window, in constant memory.

Evaluation and batch inference call `Tagger.run`, so what is scored is what ships.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.audio.events import EventFinder, EventRules, SoundEvent
from pentad.audio.frontends import FrontEnd, FrontEndConfig
from pentad.audio.keeping import KeptScores, Scored
from pentad.audio.waveform import Samples, Signal, stream
from pentad.audio.windows import Stitcher, Track, Window, windows
from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import ModelError, UsageError
from pentad.core.run import pick_device


@dataclass(frozen=True)
class WindowConfig:
    """How a trained model is applied, section ``predict`` of params.yaml."""

    window_s: float = 10.0
    """Length of a window; what the model was trained on."""
    hop_s: float = 5.0
    """From window to window, at most a window."""
    short: Literal["pad", "as_is"] = "pad"
    """A recording shorter than a window is padded with silence, or given to the model as it is."""
    batch_size: int = 8
    """Windows in one forward pass."""
    events: EventRules = field(default_factory=EventRules)
    """When scores make an event."""

    def __post_init__(self) -> None:
        if not (self.window_s > 0 and 0 < self.hop_s <= self.window_s and self.batch_size > 0):
            problem = f"windows of {self.window_s} s every {self.hop_s} s, {self.batch_size} at once"
            raise UsageError("PTD-731", problem, "give 0 < hop_s <= window_s and a batch of at least 1")


@dataclass(frozen=True)
class Settings:
    """All that a predictor needs beside the weights; saved in the bundle."""

    frontend: FrontEndConfig
    """The features that the model was trained on."""
    classes: tuple[str, ...]
    """Labels by number."""
    windows: WindowConfig
    exclusive: bool = False
    """One class a recording: scores are a softmax, else each class is a yes or no of its own."""

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.windows.window_s * self.frontend.sample_rate)

    @property
    def hop(self) -> int:
        """Samples from window to window."""
        return round(self.windows.hop_s * self.frontend.sample_rate)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return to_mapping(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings of a bundle.

        Raises:
            UsageError: A field is unknown, missing or does not fit.
        """
        return from_mapping(cls, values, "settings")


@dataclass(frozen=True)
class WindowScores:
    """What a model says of one window."""

    start: int
    """First sample, at the front-end's rate."""
    samples: int
    clip: NDArray[np.float32]
    """Probability of each class in the window."""
    steps: Track
    """The same over time (steps, classes)."""
    embedding: NDArray[np.float32]
    features: NDArray[np.float32]
    """Log-mel (frames, mel bins), normalised."""


@dataclass(frozen=True)
class Tagging:
    """What a model says of a recording."""

    seconds: float
    windows: int
    mean: NDArray[np.float32]
    """Mean of the windows' probabilities: the recording's scores."""
    highest: NDArray[np.float32]
    """Highest probability in any window."""
    events: list[SoundEvent]
    flags: list[str]


Sink = Callable[[WindowScores], None]


@dataclass(frozen=True)
class Tagger:
    """A model with its settings, ready to be applied."""

    name: str
    digest: str
    model: nn.Module
    settings: Settings
    device: torch.device

    def run(self, path: Path, sink: Sink | None = None, kept: KeptScores | None = None) -> Tagging:
        """Return what the model says of a file, however long it is.

        Args:
            path: A sound file.
            sink: Called with every window's scores, in order.
            kept: Where scores are kept; those that are there already are not computed again.

        Raises:
            CaseError: The file cannot be read to its end, or is too short.
        """
        signal, blocks = stream(path, self.settings.frontend.sample_rate)
        return self.run_blocks(signal, blocks, sink, kept)

    def run_blocks(
        self, signal: Signal | None, blocks: Iterable[Samples], sink: Sink | None = None, kept: KeptScores | None = None
    ) -> Tagging:
        """Return what the model says of samples that come in blocks, at the front-end's rate."""
        settings = self.settings
        total, highest, count, end = np.zeros(len(settings.classes)), np.zeros(len(settings.classes)), 0, 0
        stitcher: Stitcher | None = None
        finder: EventFinder | None = None
        events: list[SoundEvent] = []
        for scores in self._scores(windows(blocks, settings.window, settings.hop), kept):
            if stitcher is None or finder is None:
                step = self._covered(scores) / len(scores.steps)
                stitcher = Stitcher(step)
                rules = settings.windows.events
                finder = EventFinder(settings.classes, step / settings.frontend.sample_rate, rules)
            total, highest = total + scores.clip, np.maximum(highest, scores.clip)
            count, end = count + 1, scores.start + scores.samples
            if sink is not None:
                sink(scores)
            if len(final := stitcher.add(scores.start, scores.steps)):
                events += finder.add(final)
        if stitcher is not None and finder is not None:
            events += finder.add(stitcher.finish(end))
            events += finder.finish()
        seconds = end / settings.frontend.sample_rate
        events = [
            SoundEvent(event.onset, min(event.offset, round(seconds, 4)), event.label, event.peak) for event in events
        ]
        mean = (total / max(count, 1)).astype(np.float32)
        flags = signal.flags() if signal is not None else []
        return Tagging(seconds, count, mean, highest.astype(np.float32), events, flags)

    def _covered(self, scores: WindowScores) -> int:
        """Samples that the steps of a window stand for."""
        if scores.samples < self.settings.window and self.settings.windows.short == "pad":
            return self.settings.window
        return scores.samples

    def _scores(self, found: Iterator[Window], kept: KeptScores | None) -> Iterator[WindowScores]:
        """Scores of windows, a batch at a time; all windows of a recording are of one length."""
        for number in itertools.count():
            batch = list(itertools.islice(found, self.settings.windows.batch_size))
            if not batch:
                return
            features = self._features(batch)
            scored = kept.get(number) if kept else None
            if scored is None:
                scored = score_features(self.model, features, self.settings)
                if kept:
                    kept.put(number, scored)
            for row, window in enumerate(batch):
                yield WindowScores(
                    window.start,
                    len(window.samples),
                    scored.clip[row].numpy(),
                    scored.steps[row].numpy(),
                    scored.embedding[row].numpy(),
                    features[row].cpu().numpy(),
                )

    @torch.inference_mode()
    def _features(self, batch: Sequence[Window]) -> Tensor:
        """Features (windows, frames, mel bins), padded to a window's where the settings say so."""
        settings = self.settings
        waves = torch.from_numpy(np.stack([window.samples for window in batch])).to(self.device)
        features: Tensor = self.front_end(waves)
        if waves.shape[1] < settings.window and settings.windows.short == "pad":
            features = self.front_end.pad(features, settings.frontend.frames(settings.window))
        return features

    @property
    def front_end(self) -> FrontEnd:
        """The features' module on the model's device, made once."""
        made = _FRONT_ENDS.get((self.settings.frontend, str(self.device)))
        if made is None:
            made = _FRONT_ENDS[self.settings.frontend, str(self.device)] = FrontEnd(self.settings.frontend).to(
                self.device
            )
        return made


_FRONT_ENDS: dict[tuple[FrontEndConfig, str], FrontEnd] = {}


@torch.inference_mode()
def score_features(model: nn.Module, features: Tensor, settings: Settings) -> Scored:
    """Return probabilities and embeddings of features (windows, frames, mel bins).

    A model without scores over time gives the window's for as many steps as hops make a window.
    """
    scores = model(features)
    clip = scores.clip.float()
    clip = clip.softmax(1) if settings.exclusive else clip.sigmoid()
    if scores.frames is None:
        steps = clip[:, None].repeat(1, max(1, round(settings.window / settings.hop)), 1)
    else:
        steps = scores.frames.float().sigmoid()
    return Scored(clip.cpu(), steps.cpu(), scores.embedding.float().cpu())


def load_tagger(source: str, device: str = "auto", *, offline: bool = False) -> Tagger:
    """Return the predictor of a bundle's folder or hub id.

    Raises:
        ModelError: There is no such bundle, or it is damaged.
        UsageError: The device is not there.
    """
    from pentad.audio.models import MODELS, classes_of
    from pentad.core.bundle import MANIFEST, load_bundle, read_manifest

    folder = Path(source)
    # One architecture's module is imported, not all: the library behind them is slow to load.
    named = read_manifest(folder)["model"] if (folder / MANIFEST).is_file() else ""
    bundle = load_bundle(source, "audio", classes_of([named] if named in MODELS else None), offline=offline)
    try:
        settings = Settings.from_mapping(bundle.settings)
    except UsageError as error:
        problem = f"its settings do not fit: {error.problem}"
        raise ModelError("PTD-732", problem, "install the version that made it", source) from None
    chosen = pick_device(device)
    return Tagger(bundle.name, bundle.digest, bundle.model.to(chosen).eval(), settings, chosen)
