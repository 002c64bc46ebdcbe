"""Patches of prepared pairs, each a function of the seed and its ordinal number alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
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
Part = tuple[Array, Array, NDArray[np.bool_], NDArray[np.uint8]]
"""Both dates (bands, rows, columns), validity (rows, columns) and labels (roles, rows, columns) of one window."""

_REMEMBERED = 1 << 29  # bytes of whole pairs that a data set keeps in memory; larger ones are read window by window


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
    """Patches of labelled pairs: ``before`` and ``after`` (bands, side, side), ``labels`` (roles, side, side) with 255.

    Args:
        cases: Prepared pairs.
        roles: Which labels to read; patches are drawn about pixels where the first is neither 0 nor 255.
        scaling: How values become input.
        config: How patches are drawn.
        pair: How two dates are brought together.
        seed: With a patch's ordinal number it decides all about the patch.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        roles: Sequence[str],
        scaling: Scaling,
        config: PatchConfig,
        pair: PairConfig,
        seed: int,
    ) -> None:
        self.cases, self.roles, self.scaling = list(cases), tuple(roles), scaling
        self.config, self.pair, self.seed = config, pair, seed
        self._places = [_changed_places(Path(case.files[self.roles[0]])) for case in self.cases]
        self._whole: dict[int, Part] = {}
        self._room = _REMEMBERED

    def __getitem__(self, ordinal: int) -> dict[str, Tensor]:
        """Return the patch of an ordinal number."""
        rng = np.random.default_rng((self.seed, ordinal))
        number = int(rng.integers(len(self.cases)))
        side = self.config.side
        before, after, valid, labels = self._part(rng, number)
        labels = np.where(valid, labels, IGNORED).astype(np.uint8)
        before, after = self.scaling.apply(before, valid), self.scaling.apply(after, valid)
        before, after = (_to_side(values, side, 0) for values in (before, after))
        labels = _to_side(labels, side, IGNORED)
        if self.config.turn:
            before, after, labels = _turned(before, after, labels, int(rng.integers(2**31)))
        before, after = (self._lit(rng, image) for image in (before, after))
        return {
            "before": torch.from_numpy(before.astype(np.float32)),
            "after": torch.from_numpy(after.astype(np.float32)),
            "labels": torch.from_numpy(np.ascontiguousarray(labels)).long(),
        }

    def _part(self, rng: np.random.Generator, number: int) -> Part:
        """Both dates, validity and labels of a window of a pair; small pairs are read once and remembered."""
        known = self._whole.get(number)
        if known is not None:
            rows, columns = self._window(rng, number, known[2].shape)
            return tuple(values[..., rows, columns] for values in known)  # type: ignore[return-value]
        files = self.cases[number].files
        with open_pair(Path(files["before"]), Path(files["after"]), self.pair) as pair:
            height, width = pair.shape
            taken = height * width * (8 * len(pair.bands) + 1 + len(self.roles))
            rows, columns = self._window(rng, number, pair.shape)
            if taken > self._room:
                return *pair.read(rows, columns), self._labels(files, rows, columns)
            self._room -= taken
            everything = slice(0, height), slice(0, width)
            whole = *pair.read(*everything), self._labels(files, *everything)
        self._whole[number] = whole
        return tuple(values[..., rows, columns] for values in whole)  # type: ignore[return-value]

    def _labels(self, files: Mapping[str, str], rows: slice, columns: slice) -> NDArray[np.uint8]:
        window = Window.from_slices(rows, columns)
        made = []
        for role in self.roles:
            with rasterio.open(files[role]) as source:
                made.append(source.read(1, window=window))
        return np.stack(made).astype(np.uint8)

    def _window(self, rng: np.random.Generator, number: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
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
    """Rows and columns of at most ``most`` pixels of any class but 0, evenly taken."""
    with rasterio.open(label) as source:
        values = source.read(1)
    places = np.argwhere((values > 0) & (values != IGNORED))
    return places[:: max(1, len(places) // most)]


def _to_side(values: NDArray[Any], side: int, fill: int) -> NDArray[Any]:
    missing = [(0, side - length) for length in values.shape[1:]]
    return np.pad(values, [(0, 0), *missing], constant_values=fill) if any(after for _, after in missing) else values


def _turned(before: Array, after: Array, labels: NDArray[Any], seed: int) -> tuple[Array, Array, NDArray[Any]]:
    """Both dates and the labels under one of the eight symmetries of the square."""
    turn = _symmetries()
    turn.set_random_seed(seed)
    last = [np.moveaxis(values, 0, -1) for values in (before, after, labels)]
    made = turn(image=last[0], after=last[1], mask=last[2])
    first = [np.moveaxis(made[name], -1, 0) for name in ("image", "after", "mask")]
    return first[0], first[1], first[2]


@functools.cache
def _symmetries() -> Any:
    # Before its import: albumentations asks the network for a newer version of itself.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations.Compose([albumentations.D4(p=1.0)], additional_targets={"after": "image"})
