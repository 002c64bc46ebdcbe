"""From a pair of any size to its map of change, strip by strip: the same function for evaluation and batch runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
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
from pentad.remote_sensing.strips import Strip
from pentad.remote_sensing.tasks import Task, heads_of, task_named


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
    task: str = "bcd"
    classes: tuple[tuple[str, ...], ...] = ()
    """Of each layer of the task, the names of its classes from 1 on."""

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return to_mapping(self)


class Strips(Protocol):
    """From an open pair to its strips, from the top or from the row ``first`` on, where an earlier strip ended."""

    def __call__(self, pair: Pair, first: int = 0) -> Iterator[Strip]:
        """Yield the strips from top to bottom."""


@dataclass(frozen=True)
class Predictor:
    """A function from a pair to strips of what was found, and what must be said of it.

    Attributes:
        name: Architecture or baseline.
        digest: SHA-256 of the bundle; of the code's version for a baseline without weights.
        pair: How two dates are brought together.
        task: What it looks for.
        classes: Of each layer of the task, the names of its classes from 1 on.
        strips: Pair in, strips out.
    """

    name: str
    digest: str
    pair: PairConfig
    task: Task
    classes: tuple[tuple[str, ...], ...]
    strips: Strips


def baseline_digest() -> str:
    """Return what stands for the digest of a predictor without weights: that of the code."""
    return digest_bytes(code_version("remote_sensing")["source"].encode())


def load_predictor(source: str, device: str = "auto", *, task: str = "", offline: bool = False) -> Predictor:
    """Return the predictor of a bundle, or of the baseline ``differencing``.

    Args:
        source: Folder of a bundle or its name on the hub, or ``differencing``.
        device: auto, cpu, cuda or cuda:N.
        task: What it must be for; empty takes the bundle's own, and change for the baseline.
        offline: Never touch the network.

    Raises:
        ModelError: There is no such bundle, or it is damaged.
        UsageError: The bundle is for another task (PTD-867).
    """
    if source == NAME:
        wanted = task_named(task or "bcd")
        classes = tuple(tuple(map(str, range(1, count))) for count in wanted.heads[1:])
        strips: Strips = partial(difference_strips, layers=len(wanted.layers))
        return Predictor(NAME, baseline_digest(), PairConfig(), wanted, classes, strips)
    bundle = load_bundle(source, "remote_sensing", {name: cls for name, (_, cls) in MODELS.items()}, offline=offline)
    settings = from_mapping(Settings, bundle.settings, source)
    own = task_named(settings.task)
    if task and own.name != task:
        raise UsageError(
            "PTD-867", f"a bundle for '{own.name}', not '{task}'", "give one trained for this task", source
        )
    network = partial(change_strips, bundle.model, settings, pick_device(device))
    return Predictor(bundle.name, bundle.digest, settings.pair, own, settings.classes, network)


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


def change_strips(
    model: nn.Module, settings: Settings, device: torch.device, pair: Pair, first: int = 0
) -> Iterator[Strip]:
    """Yield strips of the blended probabilities; memory follows the width of the scene, not its area.

    Args:
        model: Logits of each head from two images.
        settings: Scaling, windows and task.
        device: Where the network runs.
        pair: An open pair.
        first: Row to begin with; windows that end above it are not looked at.

    Raises:
        CaseError: The pair has other bands than the network was trained on (PTD-868).
    """
    bands, heads = len(settings.scaling.mean), task_named(settings.task).heads
    if len(pair.bands) != bands:
        problem = f"{len(pair.bands)} bands, the model was trained on {bands}"
        raise CaseError("PTD-868", problem, "give the bands of the training data in their order")
    model = model.to(device).eval()

    def probabilities(windows: Tensor) -> Tensor:
        """Those of class 1 of the mask, and of every class from 1 on of each layer."""
        both = windows.to(device)
        found = heads_of(model(both[:, :bands], both[:, bands:]))
        return torch.cat([torch.softmax(logits.float(), dim=1)[:, 1:] for logits in found], dim=1).cpu()

    tiles, width = settings.tiles, pair.shape[1]
    reader = _Reader(pair, settings.scaling)
    side = (tiles.side, tiles.side)
    slabs = predict_slabs(probabilities, reader, side, step=tiles.step, batch_size=tiles.batch_size, first=first)
    for start, slab in slabs:
        _, _, valid = pair.read(slice(start, start + slab.shape[1]), slice(0, width))
        mask, *layers = torch.split(slab, [count - 1 for count in heads])
        classes = [layer.argmax(dim=0).to(torch.uint8) + 1 for layer in layers]
        stacked = torch.stack(classes) if classes else slab.new_zeros((0, *slab.shape[1:]), dtype=torch.uint8)
        yield Strip(start, mask[0].numpy(), stacked.numpy(), valid)
