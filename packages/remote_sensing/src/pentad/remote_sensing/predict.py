"""From a pair of any size to its map of change, strip by strip: the same function for evaluation and batch runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.bundle import load_bundle
from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import CaseError, UsageError
from pentad.core.files import digest_bytes
from pentad.core.run import code_version, pick_device
from pentad.core.tiling import predict_slabs
from pentad.remote_sensing.dataset import Scaling
from pentad.remote_sensing.differencing import NAME, difference_strips
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.raster import Pair, PairConfig

Strip = tuple[int, NDArray[np.float32], NDArray[np.bool_]]
BINARY = ("mamba_bcd", "fc_siam_diff")
"""Networks whose output is unchanged and changed."""


@dataclass(frozen=True)
class TileConfig:
    """Section ``tiles`` of params.yaml.

    Attributes:
        side: Rows and columns of a window.
        step: Largest distance between windows as a share of the side.
        batch_size: Windows at a time.
    """

    side: int = 256
    step: float = 0.5
    batch_size: int = 1


@dataclass(frozen=True)
class Settings:
    """What a bundle states beside the network."""

    scaling: Scaling
    tiles: TileConfig
    pair: PairConfig

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return to_mapping(self)


@dataclass(frozen=True)
class Predictor:
    """A function from a pair to strips of probability of change, and what must be said of it.

    Attributes:
        name: Architecture or baseline.
        digest: SHA-256 of the bundle; of the code's version for a baseline without weights.
        pair: How two dates are brought together.
        strips: Pair in; first row, probability and validity, each (rows, width), of strips out.
    """

    name: str
    digest: str
    pair: PairConfig
    strips: Callable[[Pair], Iterator[Strip]]


def baseline_digest() -> str:
    """Return what stands for the digest of a predictor without weights: that of the code."""
    return digest_bytes(code_version("remote_sensing")["source"].encode())


def load_predictor(source: str, device: str = "auto", *, offline: bool = False) -> Predictor:
    """Return the predictor of a bundle, or of the baseline ``differencing``.

    Raises:
        ModelError: There is no such bundle, or it is damaged.
        UsageError: The bundle's network is not one of change or no change (PTD-867).
    """
    if source == NAME:
        return Predictor(NAME, baseline_digest(), PairConfig(), difference_strips)
    bundle = load_bundle(source, "remote_sensing", {name: cls for name, (_, cls) in MODELS.items()}, offline=offline)
    if bundle.name not in BINARY:
        raise UsageError("PTD-867", f"{bundle.name} is not predicted with yet", f"use {' or '.join(BINARY)}", source)
    settings = from_mapping(Settings, bundle.settings, source)
    strips = partial(change_strips, bundle.model, settings, pick_device(device))
    return Predictor(bundle.name, bundle.digest, settings.pair, strips)


@dataclass
class _Reader:
    """A pair as `pentad.core.tiling.Windows`: both dates' bands one after the other, scaled, read when asked for."""

    pair: Pair
    scaling: Scaling

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def shape(self) -> tuple[int, int, int]:
        return 2 * len(self.pair.bands), *self.pair.shape

    def __getitem__(self, place: tuple[slice, ...]) -> Tensor:
        before, after, valid = self.pair.read(place[1], place[2])
        return torch.from_numpy(np.concatenate([self.scaling.apply(image, valid) for image in (before, after)]))


def change_strips(model: nn.Module, settings: Settings, device: torch.device, pair: Pair) -> Iterator[Strip]:
    """Yield strips of the blended probability of change; memory follows the width of the scene, not its area.

    Args:
        model: Logits of unchanged and changed from two images.
        settings: Scaling and windows.
        device: Where the network runs.
        pair: An open pair.

    Raises:
        CaseError: The pair has other bands than the network was trained on (PTD-868).
    """
    bands = len(settings.scaling.mean)
    if len(pair.bands) != bands:
        problem = f"{len(pair.bands)} bands, the model was trained on {bands}"
        raise CaseError("PTD-868", problem, "give the bands of the training data in their order")
    model = model.to(device).eval()

    def probability(windows: Tensor) -> Tensor:
        both = windows.to(device)
        return torch.softmax(model(both[:, :bands], both[:, bands:]).float(), dim=1)[:, 1:2].cpu()

    tiles, width = settings.tiles, pair.shape[1]
    reader = _Reader(pair, settings.scaling)
    side = (tiles.side, tiles.side)
    for start, slab in predict_slabs(probability, reader, side, step=tiles.step, batch_size=tiles.batch_size):
        _, _, valid = pair.read(slice(start, start + slab.shape[1]), slice(0, width))
        yield start, slab[0].numpy(), valid
