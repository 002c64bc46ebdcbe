"""Scans brought onto a network's grid and its logits brought back, by the rules of nnU-Net (Isensee 2021).

Order: transpose, crop to the non-zero bounding box, normalise, resample. Resampling follows
``skimage.transform.resize`` as nnU-Net calls it (grid edges aligned, edge values continued, no anti-aliasing, the
range kept): cubic B-splines for images, linear one-hot maps for labels, linear logits on the way back, and the
coarsest axis alone by nearest neighbour where a spacing is anisotropic by more than 3.

Splines are separable, so an axis is resized by a banded matrix: ``scipy.ndimage.zoom`` of the identity gives its
entries, the matrix products give the volume. The result is that of ``zoom`` in float32 at a fraction of its time
and without its float64 copies. Deviation: the image is held to the range of the whole cropped scan also where
nnU-Net, going slice by slice, holds each slice to its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pentad.core.errors import CaseError, UsageError
from pentad.medical.plan import Normalisation, Plan

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Shape = tuple[int, int, int]
Floats = NDArray[np.float32]
Labels = NDArray[np.int8]

ANISOTROPY = 3.0
"""Ratio of the coarsest to the finest spacing above which the coarsest axis is resampled on its own."""

LARGEST_GRID = 600_000_000
"""Voxels at the network's spacing above which a scan is refused; 1,200 slices of 512 x 512 are 315 million."""

_BLOCK = 64  # outputs of one matrix product: wide enough for BLAS, narrow enough to leave most of the band's zeros out
_SLAB_BYTES = 2**24
_BY_VOXEL = ("ct", "rgb_to_0_1", "none")  # schemes that need nothing but a voxel's own value


@dataclass(frozen=True)
class Preprocessing:
    """What a scan goes through before the network sees it.

    Attributes:
        spacing: Target spacing in mm, in transposed axes order; two values for a 2-D network, whose first axis
            is never resampled.
        transpose: Axes of the scan (z, y, x) in the network's order.
        normalisation: Scheme and constants of the only channel.
        slice_size: Whole slices, uncropped, are resized to this many pixels whatever their spacing, as published 2-D
            models expect them; ``spacing`` then says nothing.
    """

    spacing: tuple[float, ...]
    transpose: tuple[int, int, int]
    normalisation: Normalisation
    slice_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.slice_size is not None and (len(self.spacing) != 2 or min(self.slice_size) < 1):
            raise ValueError(f"slice_size must be 2 lengths of at least 1 for a 2-D network, not {self.slice_size}")
        if len(self.spacing) not in (2, 3) or min(self.spacing) <= 0:
            raise ValueError(f"spacing must be 2 or 3 lengths above 0 mm, not {self.spacing}")
        if sorted(self.transpose) != [0, 1, 2]:
            raise ValueError(f"transpose must order the axes 0, 1, 2, not {self.transpose}")
        if self.normalisation.scheme == "ct" and self.normalisation.intensity is None:
            raise ValueError("normalisation 'ct' needs the intensities of a fingerprint")

    @property
    def masked(self) -> bool:
        """The image counts only inside its non-zero mask."""
        return self.normalisation.scheme == "zscore" and self.normalisation.inside_mask

    @classmethod
    def from_plan(cls, plan: Plan) -> Preprocessing:
        """Return what the plan says of preprocessing.

        Raises:
            UsageError: The plan has more than one channel.
        """
        if len(plan.normalisation) != 1:
            problem = f"the plan has {len(plan.normalisation)} channels"
            raise UsageError("PTD-377", problem, "plan with one image a case")
        return cls(plan.spacing, plan.transpose, plan.normalisation[0])


@dataclass(frozen=True)
class Grid:
    """How a network's grid lies in the scan's: all that is needed to go back exactly.

    Attributes:
        shape: Voxels of the scan (z, y, x).
        transpose: Axes of the scan in the network's order; the other fields are in that order.
        box: Start and stop of the crop per axis.
        spacing: The scan's spacing, mm.
        network_shape: Voxels of the network's grid.
        network_spacing: Its spacing, mm.
    """

    shape: Shape
    transpose: tuple[int, int, int]
    box: Box
    spacing: tuple[float, float, float]
    network_shape: Shape
    network_spacing: tuple[float, float, float]

    @property
    def cropped_shape(self) -> Shape:
        """Voxels of the crop."""
        (a, b), (c, d), (e, f) = self.box
        return b - a, d - c, f - e

    @property
    def crop(self) -> tuple[slice, slice, slice]:
        """The crop as slices of the transposed scan."""
        return slice(*self.box[0]), slice(*self.box[1]), slice(*self.box[2])


def preprocess(
    array: NDArray[np.generic], spacing: Sequence[float], settings: Preprocessing
) -> tuple[Floats, Grid, NDArray[np.bool_] | None]:
    """Return the scan on the network's grid, the grid, and the cropped non-zero mask where the scheme uses one.

    Args:
        array: Intensities (z, y, x) in canonical orientation, any real type.
        spacing: Its spacing (z, y, x), mm.
        settings: Target spacing, axes order and normalisation.

    Raises:
        CaseError: The array is not a finite 3-D volume with more than one value, or a spacing is absurd.
    """
    _check(array, spacing)
    grid = plan_grid(array, spacing, settings)
    cropped = array.transpose(settings.transpose)[grid.crop]
    axis, by = separate_axis(grid.spacing, grid.network_spacing), settings.normalisation
    if by.scheme in _BY_VOXEL and _leaves_planes(cropped.shape, grid.network_shape):
        return _by_planes(cropped, by, grid.network_shape, axis), grid, None
    mask = _filled(cropped != 0) if settings.masked else None
    # No name is given to the normalised image: `resize` can then drop it as soon as the first axis is done.
    image = resize(normalise(cropped, by, mask), grid.network_shape, order=3, nearest_axis=axis)
    return image, grid, mask


def _leaves_planes(old: Sequence[int], new: Sequence[int]) -> bool:
    """Whether the first axis is resized after the others or not at all."""
    return old[0] == new[0] or _order(old, new)[-1] == 0


def _by_planes(array: NDArray[np.generic], by: Normalisation, shape: Shape, nearest_axis: int | None) -> Floats:
    """What `resize` makes of the normalised scan, to the bit; of the scan's size only one plane is there at a time."""
    image = np.empty((len(array), *shape[1:]), dtype=np.float32)
    low, high = np.inf, -np.inf
    for place in range(len(array)):
        plane = normalise(array[place : place + 1], by)
        low, high = min(low, plane.min()), max(high, plane.max())
        for axis in _order(plane.shape, (1, *shape[1:])):
            plane = _resize_along(plane, axis, shape[axis] if axis else 1, 0 if axis == nearest_axis else 3)
        image[place] = plane[0]
    image = _resize_along(image, 0, shape[0], 0 if nearest_axis == 0 else 3)
    return np.clip(image, low, high, out=image)


def preprocess_label(label: NDArray[np.generic], grid: Grid, mask: NDArray[np.bool_] | None = None) -> Labels:
    """Return a label map on the network's grid, -1 outside ``mask``.

    Args:
        label: Classes 0 to 127 on the scan's grid (z, y, x).
        grid: What `preprocess` returned for the scan.
        mask: What `preprocess` returned for the scan.

    Raises:
        CaseError: The label map has another shape, or a class that is no whole number of 0 to 127.
    """
    if label.shape != grid.shape:
        problem = f"the label map has {_times(label.shape)} voxels, the image {_times(grid.shape)}"
        raise CaseError("PTD-374", problem, "use the label map that belongs to the image")
    cropped = label.transpose(grid.transpose)[grid.crop]
    classes = cropped.astype(np.int8)
    if (classes != cropped).any() or classes.min() < 0:
        raise CaseError("PTD-375", "a label is no whole number of 0 to 127", "store classes as small whole numbers")
    if mask is not None:
        classes[~mask] = -1
    return resize_labels(classes, grid.network_shape, separate_axis(grid.spacing, grid.network_spacing))


def plan_grid(array: NDArray[np.generic], spacing: Sequence[float], settings: Preprocessing) -> Grid:
    """Return the network's grid for a scan: crop box, shape and spacing.

    Raises:
        CaseError: The grid would hold more than `LARGEST_GRID` voxels.
    """
    transposed = array.transpose(settings.transpose)
    box = bounding_box(transposed) if settings.slice_size is None else _whole(transposed)
    old = _three([float(spacing[axis]) for axis in settings.transpose])
    new = _three([old[0], *settings.spacing] if len(settings.spacing) == 2 else settings.spacing)
    sizes = [stop - start for start, stop in box]
    target = [max(1, round(size * a / b)) for size, a, b in zip(sizes, old, new, strict=True)]
    if settings.slice_size is not None:
        target = [sizes[0], *settings.slice_size]
        new = _three([a * size / b for size, a, b in zip(sizes, old, target, strict=True)])
    if target[0] * target[1] * target[2] > LARGEST_GRID:
        problem = f"{_times(sizes)} voxels of {_times(old)} mm become {_times(target)} at the model's spacing"
        raise CaseError("PTD-376", problem, "correct the spacing in the file or cut the scan to the region needed")
    network = (target[0], target[1], target[2])
    scan = (array.shape[0], array.shape[1], array.shape[2])
    return Grid(scan, settings.transpose, box, old, network, new)


def bounding_box(array: NDArray[np.generic]) -> Box:
    """Return start and stop per axis of the smallest box with every non-zero voxel; all of it if there is none."""
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(array.any(axis=others))
        found.append((int(hit[0]), int(hit[-1]) + 1) if len(hit) else (0, array.shape[axis]))
    return found[0], found[1], found[2]


def normalise(array: NDArray[np.generic], by: Normalisation, mask: NDArray[np.bool_] | None = None) -> Floats:
    """Return normalised intensities, a new float32 array; outside ``mask``, where there is one, they are 0."""
    image = np.array(array, dtype=np.float32, order="C")
    shift, scale = 0.0, 255.0 if by.scheme == "rgb_to_0_1" else 1.0
    if by.scheme == "ct" and by.intensity is not None:
        np.clip(image, by.intensity.low, by.intensity.high, out=image)
        shift, scale = by.intensity.mean, by.intensity.std
    elif by.scheme == "zscore":
        region = image if mask is None else image[mask]
        shift, scale = float(region.mean(dtype=np.float64)), float(region.std(dtype=np.float64))
    elif by.scheme == "rescale_to_0_1":
        shift, scale = float(image.min()), float(image.max() - image.min())
    image -= np.float32(shift)
    image /= np.float32(max(scale, 1e-8))
    if mask is not None:
        image[~mask] = 0
    return image


def separate_axis(old: Sequence[float], new: Sequence[float]) -> int | None:
    """Return the axis to resample by nearest neighbour on its own, or None.

    It is the single coarsest axis of the old spacing if that is anisotropic by more than `ANISOTROPY`, else of
    the new one.
    """
    for spacing in (old, new):
        if max(spacing) / min(spacing) > ANISOTROPY:
            coarsest = [axis for axis, value in enumerate(spacing) if value == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resize(image: Floats, shape: Sequence[int], *, order: Literal[1, 3], nearest_axis: int | None = None) -> Floats:
    """Return ``image`` resized by splines of ``order``, held to its range; equal sizes return it untouched.

    Args:
        image: Volume (z, y, x).
        shape: New size per axis.
        order: 3 for cubic, 1 for linear.
        nearest_axis: Axis that takes the nearest slice instead.
    """
    if image.shape == tuple(shape):
        return image
    low, high = image.min(), image.max()
    for axis in _order(image.shape, shape):
        image = _resize_along(image, axis, shape[axis], 0 if axis == nearest_axis else order)
    return np.clip(image, low, high, out=image) if order == 3 else image


def _order(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """The axes in the order of resizing: that which shrinks most first, so that the others have less work."""
    return sorted(range(3), key=lambda axis: new[axis] / old[axis])


def resize_labels(label: Labels, shape: Sequence[int], nearest_axis: int | None = None) -> Labels:
    """Return a label map resized linearly class by class; a class is written where its share is at least 0.5.

    Classes are written in ascending order; a voxel where none reaches 0.5 becomes 0.
    """
    if label.shape == tuple(shape):
        return label
    resized = np.zeros(shape, dtype=np.int8)
    classes = [int(value) for value in np.unique(label)]
    for value in classes:
        if value == 0 and classes[0] == 0:
            continue
        share = resize((label == value).astype(np.float32), shape, order=1, nearest_axis=nearest_axis)
        # Exact halves (a scan halved in size) must not hang on the last bit of a float32 product.
        resized[share >= 0.5 - 1e-6] = value
    return resized


def restore_labels(slabs: Iterable[Tensor], grid: Grid) -> NDArray[np.uint8]:
    """Return the most probable class per voxel of the scan, 0 outside the crop.

    Logits are resampled linearly (the separate axis by nearest neighbour) block by block of the first axis, so
    that no volume of logits is ever held at the scan's resolution.

    Args:
        slabs: Logits (classes, rows, y, x) on the network's grid, in the order of the first axis.
        grid: What `preprocess` returned for the scan.
    """
    label = np.zeros(grid.shape, dtype=np.uint8)
    inside = label.transpose(grid.transpose)[grid.crop]
    for start, logits in restored(iter(slabs), grid):
        most_probable(logits, inside[start : start + logits.shape[1]])
    return label


def restored(slabs: Iterator[Tensor], grid: Grid) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, logits) at the crop's resolution, reading no more slabs ahead than a block needs.

    The blocks' rows follow from the crop and the number of classes alone, whatever the network's grid.
    """
    axis = separate_axis(grid.network_spacing, grid.spacing)
    held, first = next(slabs).float().numpy(), 0
    classes = held.shape[0]
    depth, *plane = grid.cropped_shape
    rows = max(1, min(_BLOCK, _SLAB_BYTES // (4 * classes * plane[0] * plane[1])))
    for outputs, needed, weights in _bands(grid.network_shape[0], depth, 0 if axis == 0 else 1, rows):
        parts = [held[:, needed.start - first :]]
        first = needed.start
        while first + sum(part.shape[1] for part in parts) < needed.stop:
            parts.append(next(slabs).float().numpy())
        held = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        source = held[:, : needed.stop - first]
        block = np.matmul(weights, source.reshape(classes, source.shape[1], -1))
        flat = block.reshape(-1, *source.shape[2:])
        for position in (1, 2):
            flat = _resize_along(flat, position, plane[position - 1], 0 if axis == position else 1)
        yield outputs.start, flat.reshape(classes, -1, *plane)


def most_probable(logits: Floats, label: NDArray[np.uint8]) -> None:
    """Write the class of the largest logit; the first of equals, as argmax does, at a fifth of its time."""
    best = logits[0].copy()
    for value in range(1, len(logits)):
        np.putmask(label, logits[value] > best, value)
        np.maximum(best, logits[value], out=best)


def nearest_indices(size: int, target: int) -> NDArray[np.int64]:
    """Return, for each of ``target`` positions, the nearest of ``size``: that of (i + 0.5) size / target - 0.5."""
    position = (np.arange(target) + 0.5) * (size / target) - 0.5
    nearest: NDArray[np.int64] = np.clip(np.floor(position + 0.5), 0, size - 1).astype(np.int64)
    return nearest


@functools.lru_cache(maxsize=32)
def _matrix(size: int, target: int, order: int) -> NDArray[np.float64]:
    """Weights (target, size) of a spline resize with aligned grid edges and edge values continued."""
    if order == 0:
        return np.eye(size)[nearest_indices(size, target)]
    weights: NDArray[np.float64] = ndimage.zoom(
        np.eye(size), (target / size, 1), order=order, mode="nearest", grid_mode=True
    )
    # A spline's weights fall by 0.268 a voxel: what is dropped here lies below the resolution of float32.
    weights[np.abs(weights) < 1e-9] = 0
    return weights


@functools.lru_cache(maxsize=32)
def _bands(size: int, target: int, order: int, block: int = _BLOCK) -> list[tuple[slice, slice, Floats]]:
    """Part the weights in blocks: outputs, the inputs they need, and the weights between them."""
    weights = np.eye(size) if size == target else _matrix(size, target, order)
    bands = []
    for start in range(0, target, block):
        part = weights[start : start + block]
        used = np.flatnonzero(part.any(axis=0))
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + len(part)), inputs, np.ascontiguousarray(part[:, inputs], dtype=np.float32)))
    return bands


def _resize_along(image: Floats, axis: int, target: int, order: int) -> Floats:
    shape = list(image.shape)
    if shape[axis] == target:
        return image
    if order == 0:
        return image.take(nearest_indices(shape[axis], target), axis)
    bands = _bands(shape[axis], target, order)
    shape[axis] = target
    out = np.empty(shape, dtype=np.float32)
    if axis == 0:
        flat_in, flat_out = image.reshape(image.shape[0], -1), out.reshape(target, -1)
        for rows, needed, weights in bands:
            np.matmul(weights, flat_in[needed], out=flat_out[rows])
        return out
    for source, result in zip(image, out, strict=True):
        for outputs, needed, weights in bands:
            if axis == 1:
                np.matmul(weights, source[needed], out=result[outputs])
            else:
                result[:, outputs] = source[:, needed] @ weights.T
    return out


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


def _check(array: NDArray[np.generic], spacing: Sequence[float]) -> None:
    if array.ndim != 3 or array.size == 0:
        raise CaseError("PTD-370", f"an image of {_times(array.shape)} voxels is no volume", "give a 3-D scan")
    # A sum in float64 is finite exactly if every float32 in it is, and needs no mask of the volume's size.
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise CaseError("PTD-371", "the image holds NaN or infinite values", "export the scan again")
    if array.max() == array.min():
        raise CaseError("PTD-372", "every voxel of the image has the same value", "check that the right file was given")
    if len(spacing) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing):
        raise CaseError("PTD-373", f"a spacing of {_times(spacing)} mm is impossible", "correct it in the file")


def _whole(array: NDArray[np.generic]) -> Box:
    z, y, x = array.shape
    return (0, z), (0, y), (0, x)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _times(values: Iterable[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
