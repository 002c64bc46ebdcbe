"""Patches of prepared pairs, each a function of the seed and its ordinal number alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch import Tensor

from pentad.core.cases import Case
from pentad.core.errors import UsageError
from pentad.remote_sensing.losses import IGNORED
from pentad.remote_sensing.raster import PairConfig, open_pair

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scaling:
    """How pixel values become a network's input: minus the mean, over the deviation, band by band."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, image: Array, valid: NDArray[np.bool_]) -> Array:
        """Return (bands, rows, columns) scaled, 0 where not valid."""
        mean = np.array(self.mean, dtype=np.float32)[:, None, None]
        std = np.array(self.std, dtype=np.float32)[:, None, None]
        return np.where(valid, (image - mean) / std, np.float32(0))


@dataclass(frozen=True)
class PatchConfig:
    """Section ``patches`` of params.yaml.

    Attributes:
        side: Rows and columns of a patch.
        changed: Share of patches drawn about a changed pixel, where the pair has one.
        light: Largest change of brightness and contrast, in deviations, drawn for each date alone.
        turn: Turn and mirror both dates and the label together.
    """

    side: int = 64
    changed: float = 0.5
    light: float = 0.2
    turn: bool = True

    def __post_init__(self) -> None:
        if self.side < 8 or not 0 <= self.changed <= 1 or self.light < 0:
            found = f"patches of {self.side} pixels, {self.changed} changed, light {self.light}"
            raise UsageError("PTD-865", found, "give at least 8 pixels, a share and a light of at least 0")


def measure(cases: Sequence[Case], config: PairConfig) -> Scaling:
    """Return mean and deviation of each band over the valid pixels of both dates of all pairs."""
    total, squares, count = np.zeros(0), np.zeros(0), 0
    for case in cases:
        with open_pair(Path(case.files["before"]), Path(case.files["after"]), config) as pair:
            if count and len(pair.bands) != len(total):
                problem = f"{len(pair.bands)} bands, other pairs {len(total)}"
                raise UsageError("PTD-866", problem, "train on pairs of the same bands", case.id)
            for _, before, after, valid in pair.strips():
                values = np.concatenate([before[:, valid], after[:, valid]], axis=1).astype(np.float64)
                total = values.sum(1) + (total if count else 0)
                squares = (values**2).sum(1) + (squares if count else 0)
                count += values.shape[1]
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 1e-12))
    return Scaling(tuple(mean.tolist()), tuple(np.maximum(std, 1e-6).tolist()))


class Patches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Patches of labelled pairs: ``before`` and ``after`` (bands, side, side), ``label`` (side, side) with 255."""

    def __init__(
        self, cases: Sequence[Case], scaling: Scaling, config: PatchConfig, pair: PairConfig, seed: int
    ) -> None:
        self.cases, self.scaling, self.config, self.pair, self.seed = list(cases), scaling, config, pair, seed
        self._places = [_changed_places(Path(case.files["label"])) for case in self.cases]

    def __getitem__(self, ordinal: int) -> dict[str, Tensor]:
        """Return the patch of an ordinal number."""
        rng = np.random.default_rng((self.seed, ordinal))
        number = int(rng.integers(len(self.cases)))
        case, side = self.cases[number], self.config.side
        with open_pair(Path(case.files["before"]), Path(case.files["after"]), self.pair) as pair:
            rows, columns = self._window(rng, number, pair.shape)
            before, after, valid = pair.read(rows, columns)
        with rasterio.open(case.files["label"]) as source:
            label = source.read(1, window=Window.from_slices(rows, columns))
        label = np.where(valid, label, IGNORED).astype(np.uint8)
        before, after = self.scaling.apply(before, valid), self.scaling.apply(after, valid)
        before, after, label = (_to_side(values, side) for values in (before, after, label))
        if self.config.turn:
            before, after, label = _turned(before, after, label, int(rng.integers(2**31)))
        before, after = (self._lit(rng, image) for image in (before, after))
        return {
            "before": torch.from_numpy(before.astype(np.float32)),
            "after": torch.from_numpy(after.astype(np.float32)),
            "label": torch.from_numpy(np.ascontiguousarray(label)).long(),
        }

    def _window(self, rng: np.random.Generator, number: int, shape: tuple[int, int]) -> tuple[slice, slice]:
        places, side = self._places[number], self.config.side
        drawn = rng.random(2)
        centre: Any = drawn * shape
        if len(places) and rng.random() < self.config.changed:
            centre = places[int(rng.integers(len(places)))] + (drawn - 0.5) * side * 0.5
        starts = [int(np.clip(c - side / 2, 0, max(n - side, 0))) for c, n in zip(centre, shape, strict=True)]
        return tuple(  # type: ignore[return-value]
            slice(start, min(start + side, n)) for start, n in zip(starts, shape, strict=True)
        )

    def _lit(self, rng: np.random.Generator, image: Array) -> Array:
        gain, offset = 1 + self.config.light * rng.uniform(-1, 1), self.config.light * rng.uniform(-1, 1)
        return np.asarray(image * np.float32(gain) + np.where(image != 0, np.float32(offset), np.float32(0)))


def _changed_places(label: Path, most: int = 2000) -> NDArray[np.int64]:
    """Rows and columns of at most ``most`` changed pixels, evenly taken."""
    with rasterio.open(label) as source:
        places = np.argwhere(source.read(1) == 1)
    return places[:: max(1, len(places) // most)]


def _to_side(values: NDArray[Any], side: int) -> NDArray[Any]:
    missing = [(0, side - length) for length in values.shape[-2:]]
    if not any(after for _, after in missing):
        return values
    fill = IGNORED if values.ndim == 2 else 0
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + missing, constant_values=fill)


def _turned(before: Array, after: Array, label: NDArray[Any], seed: int) -> tuple[Array, Array, NDArray[Any]]:
    """Both dates and the label under one of the eight symmetries of the square."""
    # Before its import: albumentations asks the network for a newer version of itself.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    turn = albumentations.Compose([albumentations.D4(p=1.0)], additional_targets={"after": "image"}, seed=seed)
    made = turn(image=np.moveaxis(before, 0, -1), after=np.moveaxis(after, 0, -1), mask=label)
    return np.moveaxis(made["image"], -1, 0), np.moveaxis(made["after"], -1, 0), made["mask"]
