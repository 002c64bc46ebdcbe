"""Predict an image of any size through a model that sees one tile, blending overlapping tiles.

The windows and weights are nnU-Net's (Isensee et al., Nature Methods 2021, as used by U-Mamba, arXiv 2401.04722):
evenly spread windows, weights falling off from the tile's middle as a Gaussian of an eighth of the tile. The
sums run in float32 over a slab one tile thick that moves along the first axis, so memory follows the size of
the image, never the number of windows. One, two and three spatial axes are treated alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pentad.core.errors import CaseError, UsageError

Predict = Callable[[Tensor], Tensor]


class Windows(Protocol):
    """An image that is read window by window, of the shape ``(c, *spatial)``; a tensor is one."""

    @property
    def shape(self) -> Sequence[int]:
        """Channels and spatial lengths."""

    @property
    def device(self) -> torch.device:
        """Where windows come from and the sums are kept."""

    def __getitem__(self, place: tuple[slice, ...]) -> Tensor:
        """Return the values at one slice a axis, the first that of all channels."""


def window_starts(image: Sequence[int], tile: Sequence[int], step: float = 0.5) -> list[list[int]]:
    """Return, for each axis, the first positions of windows that cover the image evenly.

    Each axis holds ``ceil((image - tile) / (step * tile)) + 1`` windows, evenly spread and rounded to whole
    positions; an axis no longer than the tile holds one.

    Args:
        image: Length of the image along each axis.
        tile: Length of the window along each axis.
        step: Largest distance between windows as a share of the tile, above 0 and at most 1.

    Raises:
        UsageError: The step is out of range, or the tile does not fit the image's axes.
    """
    _check(image, tile, step)
    starts = []
    for length, window in zip(image, tile, strict=True):
        room = max(length - window, 0)
        count = math.ceil(room / (window * step)) + 1
        starts.append([round(room / max(count - 1, 1) * index) for index in range(count)])
    return starts


def gaussian_map(tile: Sequence[int], sigma_scale: float = 0.125, peak: float = 10.0) -> Tensor:
    """Return the float32 weights of a tile's positions: a Gaussian about ``tile // 2``, positive everywhere.

    Args:
        tile: Shape of the tile.
        sigma_scale: Standard deviation along each axis as a share of the tile.
        peak: Weight in the middle. Beyond four standard deviations a position gets the smallest other weight.
    """
    weights = np.full((1,) * len(tile), peak, dtype=np.float64)
    for axis, length in enumerate(tile):
        sigma = length * sigma_scale
        distance = np.abs(np.arange(length) - length // 2)
        bell = np.exp(-0.5 * (distance / sigma) ** 2)
        bell[distance > int(4 * sigma + 0.5)] = 0
        weights = weights * bell.reshape([-1 if other == axis else 1 for other in range(len(tile))])
    single = weights.astype(np.float32)
    single[single == 0] = single[single > 0].min()
    return torch.from_numpy(single)


def predict_tiled(
    predict: Predict, image: Tensor, tile: Sequence[int], *, step: float = 0.5, batch_size: int = 1
) -> Tensor:
    """Return the blended prediction over the whole image, float32 of shape ``(k, *spatial)``.

    Args:
        predict: Maps a batch of windows ``(b, c, *tile)`` to ``(b, k, *tile)``. It may move them to another
            device; the sums stay on the image's.
        image: ``(c, *spatial)`` with one to three spatial axes. Where it is smaller than the tile it is padded
            with zeros on both sides, and the result is cropped again.
        tile: Shape of a window.
        step: Largest distance between windows as a share of the tile.
        batch_size: Windows given to ``predict`` at a time.

    Raises:
        UsageError: Tile, step or batch size do not fit the image, or ``predict`` changes a window's shape.
        CaseError: The prediction holds a value that is not finite.
    """
    result: Tensor | None = None
    for start, slab in predict_slabs(predict, image, tile, step=step, batch_size=batch_size):
        if result is None:
            result = torch.empty((slab.shape[0], *image.shape[1:]), dtype=torch.float32, device=image.device)
        result[:, start : start + slab.shape[1]] = slab
    assert result is not None, "an image has at least one window"
    return result


def predict_slabs(
    predict: Predict,
    image: Tensor | Windows,
    tile: Sequence[int],
    *,
    step: float = 0.5,
    batch_size: int = 1,
    first: int = 0,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the parts of `predict_tiled`'s result, each as soon as no further window touches it.

    Whoever needs labels only takes the arg max of each part and never holds ``k`` maps of the whole image. An image
    larger than the tile along every axis is only ever asked for windows, so it need not be in memory either.

    Args:
        predict: As in `predict_tiled`.
        image: As in `predict_tiled`, or read window by window.
        tile: Shape of a window.
        step: Largest distance between windows as a share of the tile.
        batch_size: Windows given to ``predict`` at a time.
        first: Position along the first spatial axis to begin with, the end of an earlier part. Windows that end before
            it are left out, and the parts from there on are those of a run from the top; with a batch size of 1 to the
            bit.

    Yields:
        The first position along the first spatial axis, and the finished part ``(k, rows, *spatial[1:])``. The
        parts follow each other without a gap.
    """
    tile = tuple(int(length) for length in tile)
    shape = tuple(image.shape[1:])
    starts = window_starts(shape, tile, step)
    if batch_size < 1:
        raise UsageError("PTD-262", f"a batch of {batch_size} windows", "give a batch size of at least 1")
    padded, before = _pad_to_tile(image, tile)
    inner = tuple(slice(margin, margin + length) for margin, length in zip(before[1:], shape[1:], strict=True))
    sums = _Slab(gaussian_map(tile).to(image.device), tuple(padded.shape[1:]))
    # The first axis varies slowest, so once a window begins further along, the rows before it are finished.
    needed = [start for start in starts[0] if start + tile[0] > first + before[0]]
    corners = itertools.product(needed, *starts[1:])
    sums.start = needed[0]
    while batch := list(itertools.islice(corners, batch_size)):
        logits = _run(predict, padded, batch, tile)
        for corner, window in zip(batch, logits, strict=True):
            if corner[0] > sums.start:
                start, slab = sums.advance(corner[0])
                yield from _from(first, start, slab[(slice(None), slice(None), *inner)])
            sums.add(corner, window)
    start, slab = sums.advance(sums.start + tile[0])
    rows = slice(before[0], before[0] + min(slab.shape[1], shape[0]))
    yield from _from(first, start, slab[(slice(None), rows, *inner)])


def _from(first: int, start: int, part: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The part from the position ``first`` on, if anything of it is left."""
    gone = max(first - start, 0)
    if gone < part.shape[1]:
        yield start + gone, part[:, gone:]


@dataclass
class _Slab:
    """Weighted sums over the rows ``start`` to ``start + tile[0]``, the only ones an open window can touch."""

    weights: Tensor
    spatial: tuple[int, ...]
    start: int = 0
    sums: Tensor | None = None
    norm: Tensor | None = None

    def add(self, corner: tuple[int, ...], window: Tensor) -> None:
        """Add one window's prediction ``(k, *tile)`` at its corner."""
        if self.sums is None or self.norm is None:
            rest = (self.weights.shape[0], *self.spatial[1:])
            self.norm = torch.zeros(rest, dtype=torch.float32, device=self.weights.device)
            self.sums = self.norm.new_zeros((window.shape[0], *rest))
        place = tuple(
            slice(first, first + length) for first, length in zip(corner[1:], self.weights.shape[1:], strict=True)
        )
        self.sums[(slice(None), slice(None), *place)].addcmul_(window.to(self.sums), self.weights)
        self.norm[(slice(None), *place)] += self.weights

    def advance(self, start: int) -> tuple[int, Tensor]:
        """Move on to ``start`` and return where the rows left behind begin, and their blended values."""
        assert self.sums is not None, "advance follows add"
        assert self.norm is not None, "advance follows add"
        first, rows = self.start, start - self.start
        finished = self.sums[:, :rows] / self.norm[:rows]
        if not bool(torch.isfinite(finished).all()):
            raise CaseError(
                "PTD-310", "the model's output is not finite", "check the input for NaN, or run in fp32 precision"
            )
        kept = self.weights.shape[0] - rows
        for values in (self.sums.movedim(1, 0), self.norm):
            # Blocks no longer than the shift never overlap themselves, so no second copy of the sums is needed.
            for row in range(0, kept, rows):
                values[row : min(row + rows, kept)] = values[row + rows : min(row + 2 * rows, kept + rows)]
            values[kept:] = 0
        self.start = start
        return first, finished


def _run(
    predict: Predict, image: Tensor | Windows, corners: Sequence[tuple[int, ...]], tile: tuple[int, ...]
) -> Tensor:
    """Predictions ``(b, k, *tile)`` of the windows at the corners."""
    places = [
        tuple(slice(first, first + length) for first, length in zip(corner, tile, strict=True)) for corner in corners
    ]
    windows = torch.stack([image[(slice(None), *place)] for place in places])
    with torch.no_grad():
        logits = predict(windows)
    if logits.ndim != windows.ndim or logits.shape[0] != len(corners) or tuple(logits.shape[2:]) != tile:
        raise UsageError(
            "PTD-263",
            f"the model turns windows of shape {tuple(windows.shape)} into {tuple(logits.shape)}",
            "tile with a model that keeps batch and spatial shape",
        )
    return logits


def _pad_to_tile(image: Tensor | Windows, tile: tuple[int, ...]) -> tuple[Tensor | Windows, tuple[int, ...]]:
    """The image with zeros around it up to the tile's size, and how many stand before it along each axis."""
    missing = [max(window - length, 0) for window, length in zip(tile, image.shape[1:], strict=True)]
    before = tuple(count // 2 for count in missing)
    if not any(missing):
        return image, before
    sides = [(first, count - first) for first, count in zip(before, missing, strict=True)]
    whole = image[tuple(slice(0, length) for length in image.shape)]
    # torch counts the axes from the last.
    return torch.nn.functional.pad(whole, [side for pair in reversed(sides) for side in pair]), before


def _check(image: Sequence[int], tile: Sequence[int], step: float) -> None:
    if not 0 < step <= 1:
        raise UsageError("PTD-260", f"a step of {step} tiles", "give a step above 0 and at most 1")
    if len(image) != len(tile) or min(*image, *tile) < 1:
        raise UsageError(
            "PTD-261",
            f"a tile of shape {tuple(tile)} does not fit an image of shape {tuple(image)}",
            "give a tile with one positive length for each axis of the image",
        )
