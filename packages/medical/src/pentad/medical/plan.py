"""From a fingerprint to a plan: target spacing, normalisation, patch, batch and network topology.

The planner's rules are those of nnU-Net 2.1.1 (Isensee et al., Nature Methods 2021), which U-Mamba was published
with; ``rules="2.8.1"`` follows the later release. The memory estimate is that of a plain U-Net with two convolutions
a stage and knows nothing of residual or Mamba blocks, as in the published runs.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import UsageError
from pentad.core.files import write_json
from pentad.medical.fingerprint import Fingerprint, Intensity, fingerprint
from pentad.medical.training_range import TrainingRange

__all__ = ["Fingerprint", "Normalisation", "Plan", "PlanOptions", "fingerprint", "plan", "plan_all", "read_plan"]

log = logging.getLogger(__name__)

Scheme = Literal["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]

_SCHEMES: dict[str, Scheme] = {
    "ct": "ct",
    "nonorm": "none",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}


@dataclass(frozen=True)
class Normalisation:
    """How one channel is normalised.

    Attributes:
        scheme: ``ct`` (clip to the foreground's percentiles 0.5 and 99.5, subtract its mean, divide by its std),
            ``zscore`` (of the whole cropped image), ``none``, ``rescale_to_0_1`` or ``rgb_to_0_1`` (divide by 255).
        inside_mask: The z-score is taken inside the non-zero mask and the outside stays 0.
        intensity: The foreground's statistics; needed by ``ct``.
    """

    scheme: Scheme
    inside_mask: bool = False
    intensity: Intensity | None = None


@dataclass(frozen=True)
class Plan:
    """All that preprocessing, training and the networks take from the data.

    Attributes:
        configuration: ``2d``, ``3d_fullres`` or ``3d_lowres``.
        channels: Names of the image channels.
        labels: Names of the label values from 0 (background) upwards.
        transpose: Order in which the read axes (z, y, x) are taken; all sizes below are in that order.
        spacing: Target spacing, mm; two values for ``2d``, where the first axis is not resampled.
        median_shape: Median shape of the resampled cases, as many values as ``spacing``.
        patch_size: Voxels of a training patch; a multiple of the product of the strides.
        batch_size: Patches a step.
        features: Channels of each stage.
        kernel_sizes: Kernel of each stage.
        strides: Stride of each stage; the first is 1.
        encoder_blocks: Convolutions of each encoder stage.
        decoder_blocks: Convolutions of each decoder stage, deepest first.
        normalisation: One entry a channel.
        batch_dice: Dice over the whole batch instead of per patch.
        rules: Release of nnU-Net whose rules were followed.
        memory_gb: Memory that the plan was made for, in GB of the published GPU estimate.
        training: What the training scans were like; batch inference compares each scan with it.
    """

    configuration: Literal["2d", "3d_fullres", "3d_lowres"]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    transpose: tuple[int, int, int]
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    normalisation: tuple[Normalisation, ...]
    batch_dice: bool
    rules: Literal["2.1.1", "2.8.1"] = "2.1.1"
    memory_gb: float = 8.0
    training: TrainingRange | None = None

    @property
    def stages(self) -> int:
        """Number of resolutions."""
        return len(self.strides)

    @property
    def dimensions(self) -> int:
        """2 or 3 spatial axes."""
        return len(self.patch_size)

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_json(path, to_mapping(self))


@dataclass(frozen=True)
class PlanOptions:
    """What a user may ask of the planner; every field left at its default follows the published rules.

    Attributes:
        configuration: ``3d_fullres``, ``2d``, or ``3d_lowres`` where the data call for one.
        memory_gb: Memory budget in GB of the published GPU estimate: patch and batch grow and shrink with it.
        base_features: Channels of the first stage.
        max_features: Most channels of any stage; 0 for 512 in 2-D and 320 in 3-D.
        spacing: Target spacing (z, y, x) in mm instead of the rule's; empty for the rule.
        patch_size: Patch in the plan's axis order instead of the rule's, padded up to fit the strides; empty for
            the rule.
        batch_size: Patches a step instead of the rule's; 0 for the rule.
        rules: Release of nnU-Net whose rules are followed.
    """

    configuration: Literal["2d", "3d_fullres", "3d_lowres"] = "3d_fullres"
    memory_gb: float = 8.0
    base_features: int = 32
    max_features: int = 0
    spacing: tuple[float, ...] = ()
    patch_size: tuple[int, ...] = ()
    batch_size: int = 0
    rules: Literal["2.1.1", "2.8.1"] = "2.1.1"

    def __post_init__(self) -> None:
        for name in ("memory_gb", "base_features", "spacing", "patch_size"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(number) and number > 0 for number in numbers):
                raise UsageError("PTD-285", f"{name} of the plan is {value}", "give numbers above 0")
        if self.max_features < 0 or self.batch_size < 0:
            raise UsageError("PTD-285", "max_features or batch_size is negative", "give 0 for the rule, or a number")
        if len(self.spacing) not in (0, 3):
            raise UsageError("PTD-285", f"spacing has {len(self.spacing)} values", "give three, (z, y, x) in mm")
        axes = 2 if self.configuration == "2d" else 3
        if len(self.patch_size) not in (0, axes):
            raise UsageError("PTD-285", f"patch_size has {len(self.patch_size)} values", f"give {axes} of them")


def plan(fingerprint: Fingerprint, options: PlanOptions | None = None) -> Plan:
    """Return the plan of one configuration.

    Raises:
        UsageError: The data do not call for that configuration (3-D of single slices, low resolution of small images).
    """
    options = options or PlanOptions()
    plans = plan_all(fingerprint, options)
    if options.configuration not in plans:
        raise UsageError(
            "PTD-286",
            f"these data give no configuration '{options.configuration}'",
            f"choose one of {', '.join(plans)}",
        )
    return plans[options.configuration]


def plan_all(fingerprint: Fingerprint, options: PlanOptions | None = None) -> dict[str, Plan]:
    """Return every configuration that the rules give: ``2d``, ``3d_fullres`` and ``3d_lowres`` where they apply.

    A given ``patch_size`` and ``batch_size`` hold for ``options.configuration`` alone. With a ``3d_lowres`` the
    published planner also offers the cascade, ``3d_fullres`` on top of its output.
    """
    options = options or PlanOptions()
    spacing = np.asarray(options.spacing or _target_spacing(fingerprint))
    shapes = np.asarray(fingerprint.shapes) * np.asarray(fingerprint.spacings) / spacing
    median = np.median(np.round(shapes), axis=0)
    coarsest = int(np.argmax(spacing))
    order = [coarsest, *(axis for axis in range(3) if axis != coarsest)]
    spacing, median = spacing[order], median[order]
    frame = Plan(
        configuration="3d_fullres",
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        transpose=(order[0], order[1], order[2]),
        spacing=(),
        median_shape=(),
        patch_size=(),
        batch_size=0,
        features=(),
        kernel_sizes=(),
        strides=(),
        encoder_blocks=(),
        decoder_blocks=(),
        normalisation=_normalisations(fingerprint),
        batch_dice=True,
        rules=options.rules,
        memory_gb=options.memory_gb,
        training=fingerprint.training,
    )
    voxels = float(np.prod(median)) * len(fingerprint.shapes)
    plans = {"2d": _configure(replace(frame, configuration="2d"), spacing[1:], median[1:], voxels, options)}
    if median[0] > 1:
        full = _configure(frame, spacing, median, voxels, options)
        low = _low_resolution(full, len(fingerprint.shapes), options)
        plans["3d_fullres"] = replace(full, batch_dice=low is not None)
        if low is not None:
            plans["3d_lowres"] = low
    return plans


def _target_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Median spacing; of a strongly anisotropic axis its 10th percentile, as long as it stays the coarsest."""
    spacings = np.asarray(fingerprint.spacings)
    target = np.median(spacings, axis=0)
    shape = np.median(np.asarray(fingerprint.shapes), axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    if target[worst] > 3 * target[others].max() and shape[worst] * 3 < shape[others].min():
        finest = float(np.percentile(spacings[:, worst], 10))
        others_max = float(target[others].max())
        target[worst] = finest if finest >= others_max else others_max + 1e-5
    return tuple(float(value) for value in target)


def _normalisations(fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
    # A crop that removes a quarter of the image means a masked modality (skull-stripped MR): its zeros are no tissue.
    masked = float(np.median(fingerprint.relative_sizes)) < 0.75
    intensities: Sequence[Intensity | None] = fingerprint.intensities or [None] * len(fingerprint.channels)
    entries = []
    for channel, intensity in zip(fingerprint.channels, intensities, strict=True):
        scheme = _SCHEMES.get(channel.casefold(), "zscore")
        entries.append(Normalisation(scheme, inside_mask=masked and scheme == "zscore", intensity=intensity))
    return tuple(entries)


def _configure(frame: Plan, spacing: np.ndarray, median: np.ndarray, voxels: float, options: PlanOptions) -> Plan:
    """One configuration: the largest patch within the memory budget, then the largest batch.

    Args:
        frame: What all configurations share, and the configuration's name.
        spacing: Target spacing in the plan's order, mm.
        median: Median shape at that spacing.
        voxels: Voxels of all training cases at that spacing.
        options: Budget, features and what the user fixed.
    """
    axes = len(spacing)
    budget = _Budget(axes, len(frame.labels), options)
    asked = frame.configuration == options.configuration
    fixed = options.patch_size if asked else ()
    size = np.asarray(fixed) if fixed else _initial_patch(spacing, median)
    topology = _topology(spacing, size)
    while not fixed and budget.exceeded_by(topology):
        size = topology.patch_size.copy()
        axis = int(np.argsort(size / median, kind="stable")[-1])
        smaller = size.copy()
        smaller[axis] -= topology.divisor[axis]
        if smaller[axis] < 1:
            raise UsageError(
                "PTD-288", f"no patch fits a memory budget of {options.memory_gb} GB", "give the plan more memory_gb"
            )
        # The step is the divisor of the smaller patch's own topology, which may have one pooling less.
        size[axis] -= _topology(spacing, smaller).divisor[axis]
        topology = _topology(spacing, size)
    elements = budget.elements(topology)
    if fixed and budget.exceeded_by(topology):
        log.warning("the patch %s given for %s is larger than the memory budget allows", fixed, frame.configuration)
    batch = round(budget.reference / elements * budget.reference_batch)
    largest = round(voxels * 0.05 / float(np.prod(topology.patch_size)))
    stages = len(topology.strides)
    if stages < 2:
        raise UsageError(
            "PTD-288",
            f"a patch of {size.tolist()} voxels is too small for a network of two resolutions",
            "give larger images, a finer spacing or more memory_gb",
        )
    return replace(
        frame,
        spacing=tuple(float(value) for value in spacing),
        median_shape=tuple(float(value) for value in median),
        patch_size=tuple(int(value) for value in topology.patch_size),
        batch_size=(options.batch_size if asked else 0) or max(min(batch, largest), 2),
        features=budget.features(stages),
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        encoder_blocks=(2,) * stages,
        decoder_blocks=(2,) * (stages - 1),
    )


def _low_resolution(full: Plan, cases: int, options: PlanOptions) -> Plan | None:
    """The coarser configuration in which a patch holds a quarter of the median image, or None if one is not needed."""
    fine, median = np.asarray(full.spacing), np.asarray(full.median_shape)
    spacing, low = fine.copy(), full
    voxels = float(np.prod(median))
    while np.prod(low.patch_size) / voxels < 0.25:
        finer = spacing.max() / spacing > 2
        spacing[finer if finer.any() else slice(None)] *= 1.03
        voxels = float(np.prod(fine / spacing * median))
        shape = np.round(fine / spacing * median)
        frame = replace(full, configuration="3d_lowres", batch_dice=False)
        low = _configure(frame, spacing, shape, voxels * cases, options)
    if low is full or (options.rules == "2.8.1" and np.prod(median) / voxels < 2):
        return None
    return low


def _initial_patch(spacing: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Patch of equal extent in mm on all axes, of 256³ voxels (2048² pixels), but no larger than the median image."""
    axes = len(spacing)
    volume = 256**3 if axes == 3 else 2048**2
    shape = np.round((volume * np.prod(spacing)) ** (1 / axes) / spacing)
    patch: np.ndarray = np.minimum(shape, median).astype(np.int64)
    return patch


@dataclass(frozen=True)
class _Topology:
    """Strides and kernels of a patch, and the patch padded up to them.

    ``divisor`` is the product of the strides.
    """

    patch_size: np.ndarray
    divisor: np.ndarray
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]


def _topology(spacing: np.ndarray, patch: np.ndarray) -> _Topology:
    """Pool the fine axes until they are as coarse as the others, then all, down to maps of at least 4 voxels."""
    axes = len(spacing)
    spacing, size = np.array(spacing, dtype=float), np.array(patch, dtype=np.int64)
    strides, kernels = [(1,) * axes], []
    kernel, pools = np.ones(axes, dtype=np.int64), np.zeros(axes, dtype=np.int64)
    while True:
        chosen = size >= 8
        if chosen.any():
            chosen &= spacing < 2 * spacing[chosen].min()
        if not chosen.any() or (chosen.sum() == 1 and size[chosen][0] < 12):
            break
        kernel[spacing < 2 * spacing.min()] = 3
        kernels.append(tuple(int(value) for value in kernel))
        strides.append(tuple(int(value) for value in np.where(chosen, 2, 1)))
        spacing[chosen] *= 2
        size[chosen] = -(-size[chosen] // 2)
        pools += chosen
    kernels.append((3,) * axes)
    divisor = 2**pools
    return _Topology(-(-np.asarray(patch) // divisor) * divisor, divisor, tuple(strides), tuple(kernels))


class _Budget:
    """The published memory estimate, in elements of feature maps, and its limit."""

    def __init__(self, axes: int, classes: int, options: PlanOptions) -> None:
        self.reference = (5.6e8 if axes == 3 else 8.5e7) * options.memory_gb / 8
        self.reference_batch = 2 if axes == 3 else 12
        self.most = options.max_features or (320 if axes == 3 else 512)
        self.base = options.base_features
        self.classes = classes
        # From 2.8.1 the limit is on the smallest batch of two; the published 2.1.1 compares the reference batch.
        self.factor = 2 / self.reference_batch if options.rules == "2.8.1" else 1.0

    def features(self, stages: int) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(min(self.base * 2**stage, self.most) for stage in range(stages))

    def elements(self, topology: _Topology) -> float:
        """Elements of all feature maps of a plain U-Net with two convolutions a stage, for one patch."""
        voxels = np.prod(topology.patch_size / np.cumprod(topology.strides, axis=0), axis=1)
        maps = np.asarray(self.features(len(voxels))) * voxels
        return float(2 * maps.sum() + 3 * maps[:-1].sum() + self.classes * voxels[0])

    def exceeded_by(self, topology: _Topology) -> bool:
        """Whether the topology needs more than the budget."""
        return self.elements(topology) * self.factor > self.reference


def read_plan(path: Path) -> Plan:
    """Read a plan written by `Plan.save`.

    Raises:
        UsageError: The file is missing or is no plan.
    """
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UsageError("PTD-287", problem, "run the plan command first or correct the path", path) from None
    except ValueError:
        raise UsageError("PTD-287", "not valid JSON", "run the plan command again", path) from None
    return from_mapping(Plan, values, str(path))
