"""From a frame to the objects in it: the same function for evaluation and batch runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from pentad.core.bundle import load_bundle
from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import UsageError
from pentad.core.run import pick_device
from pentad.point_clouds.decoding import DecodeConfig, decode
from pentad.point_clouds.frames import Frame, Objects, PointConfig, load_points, make_objects
from pentad.point_clouds.models import MODELS
from pentad.point_clouds.models.detector import Detector
from pentad.point_clouds.points import Points


@dataclass(frozen=True)
class Settings:
    """What a bundle states beside the network."""

    classes: tuple[str, ...]
    points: PointConfig
    decode: DecodeConfig

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return to_mapping(self)


@dataclass(frozen=True)
class Limits:
    """What a caller may narrow.

    Attributes:
        span: Smallest x, y, z, then largest, in the frame of the boxes, metres; empty for the model's own.
        max_points: At most so many points; 0 for the model's own setting.
        sweeps: Turns merged; 0 for the model's own setting.
    """

    span: tuple[float, ...] = ()
    max_points: int = 0
    sweeps: int = 0

    def __post_init__(self) -> None:
        rising = len(self.span) == 6 and all(a < b for a, b in zip(self.span[:3], self.span[3:], strict=True))
        if self.span and not rising:
            found = f"a range of {', '.join(f'{value:g}' for value in self.span)}"
            raise UsageError("PTD-923", found, "give x, y, z of the low corner, then of the high one")
        if self.max_points < 0 or self.sweeps < 0:
            raise UsageError("PTD-923", f"{self.max_points} points of {self.sweeps} sweeps", "give positive numbers")


@dataclass(frozen=True)
class Found:
    """What a predictor says of a frame.

    Attributes:
        objects: By falling score within a class.
        points: What the network saw (n, 5).
        notes: What was done to the points on the way.
        seconds: Duration of each stage: ``read``, ``network``, ``decode``.
    """

    objects: Objects
    points: Points
    notes: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Predictor:
    """A function from a frame to objects, and what must be said of it.

    Attributes:
        name: Architecture.
        digest: SHA-256 of the bundle.
        settings: Classes, points, decoding.
        span: Smallest x, y, z, then largest, that the network takes, metres.
        detect: Frame in, objects out.
    """

    name: str
    digest: str
    settings: Settings
    span: tuple[float, ...]
    detect: Callable[[Frame], Found]


def load_predictor(
    source: str, device: str = "auto", *, offline: bool = False, limits: Limits | None = None
) -> Predictor:
    """Return the predictor of a bundle.

    Args:
        source: Folder, or OWNER/NAME on the hub.
        device: auto, cpu, cuda or cuda:N.
        offline: Never ask the network for a model.
        limits: What the caller narrows.

    Raises:
        ModelError: There is no such bundle, or it is damaged.
    """
    bundle = load_bundle(source, "point_clouds", {name: cls for name, (_, cls) in MODELS.items()}, offline=offline)
    settings = from_mapping(Settings, bundle.settings, source)
    model = bundle.model
    assert isinstance(model, Detector)
    own = model.grid.range_m
    limits = limits or Limits()
    span = _narrowed(own, limits.span)
    points = replace(
        settings.points,
        sweeps=limits.sweeps or settings.points.sweeps,
        max_points=limits.max_points or settings.points.max_points,
    )
    model = model.to(pick_device(device)).eval()
    detect = partial(detect_objects, model, Settings(settings.classes, points, settings.decode), span)
    return Predictor(bundle.name, bundle.digest, settings, span, detect)


def _narrowed(own: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[float, ...]:
    if not wanted:
        return tuple(own)
    low = [max(a, b) for a, b in zip(own[:3], wanted[:3], strict=True)]
    high = [min(a, b) for a, b in zip(own[3:], wanted[3:], strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        span = ", ".join(f"{value:g}" for value in own)
        raise UsageError("PTD-923", "the range lies outside the model's", f"the model sees {span}")
    return *low, *high


@torch.no_grad()
def detect_objects(model: Detector, settings: Settings, span: tuple[float, ...], frame: Frame) -> Found:
    """Return the objects that a network finds in a frame.

    Raises:
        CaseError: The points cannot be read, or none lies in the range.
    """
    began = time.perf_counter()
    points, notes = load_points(frame, settings.points, span)
    read = time.perf_counter()
    device = next(model.parameters()).device
    maps = model(torch.from_numpy(points).to(device), torch.tensor([len(points)], device=device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    network = time.perf_counter()
    [found] = decode(maps, model.map_grid, settings.decode)
    boxes = found.boxes.double().cpu().numpy()
    objects = make_objects(
        boxes,
        tuple(settings.classes[label] for label in found.labels.tolist()),
        scores=found.scores.double().cpu().numpy(),
    )
    seconds = {"read": read - began, "network": network - read, "decode": time.perf_counter() - network}
    return Found(objects, points, notes, seconds)
