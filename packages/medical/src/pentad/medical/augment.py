"""Random changes to training patches by nnU-Net's published list, on MONAI's transforms, behind one function.

Order: rotation and scaling, noise, blur, brightness, contrast, low resolution, gamma on the inverted image, gamma,
mirroring. Parameters are drawn here, from the patch's own seed, and given to MONAI's deterministic transforms: the
published probabilities part rotation from scaling and split ranges at 1, which MONAI's random ones do not.

Deviations, both those of current nnU-Net (batchgeneratorsv2): the image is rotated by linear instead of cubic
interpolation, and brought back from low resolution linearly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms.intensity.array import AdjustContrast, GaussianSmooth, ScaleIntensity, ScaleIntensityFixedMean
from monai.transforms.spatial.array import Affine, RandSimulateLowResolution
from torch import Tensor

_SCALES = (0.7, 1.4)
_MARGIN = 0.85  # the scaling that a loaded region has room for; beyond it zeros come in, as published
_ANISOTROPY = 3.0
_BLUR_REACH = 4  # voxels; four times the widest sigma


@dataclass(frozen=True)
class AugmentConfig:
    """Probability of each change; 0 switches it off.

    Attributes:
        rotation: By up to 30 degrees about each axis; in 2-D, and in the plane of patches more than three times
            as wide as deep, by up to 180 (15 for 2-D patches of an aspect above 1.5).
        scaling: By 0.7 to 1.4, equal on all axes.
        noise: Gaussian, standard deviation 0 to 0.1.
        blur: Gaussian, sigma 0.5 to 1 voxel; a channel takes part with chance one half.
        brightness: Times 0.75 to 1.25.
        contrast: About the mean, times 0.75 to 1.25, the range kept.
        low_resolution: Down to 0.5 to 1 of the size and up again; a channel takes part with chance one half.
        gamma_inverted: Exponent 0.7 to 1.5 on the inverted image, mean and standard deviation kept.
        gamma: The same on the image.
        mirroring: Along each axis.
    """

    rotation: float = 0.2
    scaling: float = 0.2
    noise: float = 0.1
    blur: float = 0.2
    brightness: float = 0.15
    contrast: float = 0.15
    low_resolution: float = 0.25
    gamma_inverted: float = 0.1
    gamma: float = 0.3
    mirroring: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability of 0 to 1, not {value}")

    @classmethod
    def off(cls) -> AugmentConfig:
        """Nothing is changed."""
        return cls(*[0.0] * 10)

    @classmethod
    def light(cls) -> AugmentConfig:
        """The changes that cost a CPU next to nothing: brightness, contrast, noise and mirroring."""
        return cls(rotation=0, scaling=0, blur=0, low_resolution=0, gamma_inverted=0, gamma=0)


def loaded_size(patch_size: Sequence[int], config: AugmentConfig) -> tuple[int, ...]:
    """Return the region to read for a patch, so that what rotation and scaling bring in is image and not padding.

    The room is that of a rotation about any one axis and of scaling by 1 / 0.85; rarer combinations reach outside.
    """
    size = [float(length) for length in patch_size]
    axes = _turned_axes(patch_size)
    if config.rotation > 0:
        limit = math.radians(min(90, _degrees(patch_size)))
        for first in axes:
            for second in set(axes) - {first}:
                # The longest shadow on an axis is cast at the angle of the diagonal, if the turn gets that far.
                angle = min(limit, math.atan2(patch_size[second], patch_size[first]))
                reach = patch_size[first] * math.cos(angle) + patch_size[second] * math.sin(angle)
                size[first] = max(size[first], reach)
    if config.scaling > 0:
        size = [length / _MARGIN if axis in axes else length for axis, length in enumerate(size)]
    return tuple(math.ceil(length - 1e-9) for length in size)


def augment(
    image: Tensor, label: Tensor, seed: int | Sequence[int], config: AugmentConfig, patch_size: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return the changed image and label, cut to ``patch_size`` in the middle; equal seeds give equal bits.

    Args:
        image: Normalised intensities (1, *spatial), float32, two or three spatial axes.
        label: Classes (1, *spatial), integers; -1 marks voxels outside the masked image and becomes 0, as do the
            image's values there.
        seed: Of all that is drawn: a number, or several such as (run, sample).
        config: Probabilities.
        patch_size: Size of the result; empty for that of the input.

    Returns:
        Image (1, *patch_size) float32 and label (1, *patch_size) of the given integer type.
    """
    rng = np.random.default_rng(seed)
    size = tuple(patch_size) or tuple(image.shape[1:])
    image, label = _spatial(image, label, rng, config, size)
    image = _intensity(image, rng, config)
    axes = [axis for axis in range(1, image.ndim) if rng.random() < config.mirroring]
    if axes:
        image, label = image.flip(axes), label.flip(axes)
    outside = label < 0
    if outside.any():
        image, label = image.masked_fill(outside, 0), label.masked_fill(outside, 0)
    return image.contiguous(), label.contiguous()


def _turned_axes(patch_size: Sequence[int]) -> list[int]:
    """Axes that rotation and scaling touch: not the first of a patch more than three times as wide as deep."""
    flat = len(patch_size) == 3 and max(patch_size) / patch_size[0] > _ANISOTROPY
    return list(range(1 if flat else 0, len(patch_size)))


def _degrees(patch_size: Sequence[int]) -> float:
    if len(patch_size) == 2:
        return 15.0 if max(patch_size) / min(patch_size) > 1.5 else 180.0
    return 180.0 if len(_turned_axes(patch_size)) == 2 else 30.0


def _either_side(rng: np.random.Generator, low: float, high: float) -> float:
    """A factor below 1 or above, with equal chance."""
    return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))


def _spatial(
    image: Tensor, label: Tensor, rng: np.random.Generator, config: AugmentConfig, size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    axes = _turned_axes(size)
    angles, scale = [0.0] * (1 if len(axes) == 2 else 3), 1.0
    if rng.random() < config.rotation:
        limit = math.radians(_degrees(size))
        angles = [float(rng.uniform(-limit, limit)) for _ in angles]
    if rng.random() < config.scaling:
        scale = _either_side(rng, *_SCALES)
    if not any(angles) and scale == 1.0:
        return _centre(image, size), _centre(label, size)
    image, kind = image.float(), label.dtype
    if len(axes) < len(size):  # the untouched first axis is cut now and travels as channels
        untouched = (size[0], *image.shape[2:])
        image, label = _centre(image, untouched)[0], _centre(label, untouched)[0]
    transform = Affine(
        rotate_params=angles if len(angles) == 3 else angles[0],
        scale_params=[scale] * len(axes),
        spatial_size=[size[axis] for axis in axes],
        mode="bilinear",
        padding_mode="zeros",
        image_only=True,
    )
    # Classes are counted from -1 where the image is masked: what no class covers is then outside, not background.
    masked = bool((label < 0).any())
    first, last = 0 if masked else 1, int(label.max())
    values = [value for value in range(first, last + 1) if bool((label == value).any())]
    # Image and one map a class go through one resampling, so that they cannot come apart.
    maps = _plain(transform(torch.cat([image, *[(label == value).float() for value in values]])))
    image, *shares = maps.reshape(-1, len(image), *maps.shape[1:])
    changed = torch.zeros(image.shape, dtype=kind)
    for value, share in zip(values, shares, strict=True):
        changed[share >= 0.5] = value
    if masked:
        changed[sum(shares) < 0.5] = -1
    return image.reshape(1, *size), changed.reshape(1, *size)


def _intensity(image: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    if rng.random() < config.noise:
        image = image + float(rng.uniform(0, 0.1)) * torch.from_numpy(rng.standard_normal(image.shape, np.float32))
    if rng.random() < config.blur and rng.random() < 0.5:
        image = _blurred(image, float(rng.uniform(0.5, 1)))
    if rng.random() < config.brightness:
        image = _plain(ScaleIntensity(minv=None, maxv=None, factor=float(rng.uniform(0.75, 1.25)) - 1)(image))
    if rng.random() < config.contrast:
        factor = _either_side(rng, 0.75, 1.25) - 1
        image = _plain(ScaleIntensityFixedMean(factor=factor, preserve_range=True, fixed_mean=True)(image))
    if rng.random() < config.low_resolution and rng.random() < 0.5:
        image = _low_resolution(image, float(rng.uniform(0.5, 1)))
    for probability, inverted in ((config.gamma_inverted, True), (config.gamma, False)):
        if rng.random() < probability:
            gamma = _either_side(rng, 0.7, 1.5)
            image = _plain(AdjustContrast(gamma, invert_image=inverted, retain_stats=True)(image))
    return image


def _blurred(image: Tensor, sigma: float) -> Tensor:
    # MONAI's filter takes zeros for what lies outside, which would darken the patch's edges.
    reach = [_BLUR_REACH] * (2 * (image.ndim - 1))
    padded = torch.nn.functional.pad(image[None], reach, mode="replicate")[0]
    return _centre(_plain(GaussianSmooth(sigma)(padded)), tuple(image.shape[1:]))


def _low_resolution(image: Tensor, zoom: float) -> Tensor:
    flat = len(_turned_axes(image.shape[1:])) == 2
    transform = RandSimulateLowResolution(
        prob=1.0,
        downsample_mode="nearest",
        upsample_mode="bilinear" if flat else "trilinear",
        zoom_range=(zoom, zoom),
    )
    channels = image[0] if flat and image.ndim == 4 else image
    return _plain(transform(channels)).reshape(image.shape)


def _centre(array: Tensor, size: Sequence[int]) -> Tensor:
    starts = [(have - want) // 2 for have, want in zip(array.shape[1:], size, strict=True)]
    return array[(slice(None), *[slice(start, start + want) for start, want in zip(starts, size, strict=True)])]


def _plain(image: Any) -> Tensor:
    """The tensor without MONAI's metadata."""
    tensor: Tensor = image.as_subclass(Tensor)
    return tensor
