"""The one predictor of the medical package: a scan in, a label map on the same grid out.

Training's validation, evaluation and batch inference all call `predict_volume`, so what is scored is what ships.
Memory: the scan, one float32 volume at the network's resolution (two while its first axis is resampled) and the labels;
logits exist only slab by slab.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import ModelError, UsageError
from pentad.core.tiling import predict_slabs, predict_tiled
from pentad.medical.agreement import Agreement, winners
from pentad.medical.plan import Plan
from pentad.medical.postprocess import PostProcessing, postprocess
from pentad.medical.preprocess import Grid, Preprocessing, most_probable, preprocess, restore_labels, restored
from pentad.medical.training_range import TrainingRange
from pentad.medical.volumes import Volume, canonical, restore

log = logging.getLogger(__name__)

_SLICES = 4  # slices of a 2-D network that share a forward pass
# Voxels that slices and mirrored copies of a window may share a forward pass up to. Calls cost most in small maps: with
# half as many a pass, windows of 96 x 96 take a tenth longer; with twice as many, a third more memory and no less time.
_PASS = 75_000


@dataclass(frozen=True)
class Settings:
    """What a bundle carries beside the weights so that a scan can be segmented.

    Attributes:
        classes: Name to index of every class but the background.
        preprocessing: Spacing, axes order and normalisation.
        patch_size: Window of the network, voxels; two values for a 2-D network.
        postprocessing: Rules for the label map.
        step: Largest distance between windows as a share of the patch.
        mirror: Average the logits over all mirrored windows (4 passes in 2-D, 8 in 3-D).
        training: What the training scans were like, where it was measured.
    """

    classes: dict[str, int]
    preprocessing: Preprocessing
    patch_size: tuple[int, ...]
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    step: float = 0.5
    mirror: bool = False
    training: TrainingRange | None = None

    def __post_init__(self) -> None:
        if len(self.patch_size) != len(self.preprocessing.spacing):
            raise ValueError(f"patch_size {self.patch_size} and spacing {self.preprocessing.spacing} differ in axes")
        if sorted(self.classes.values()) != list(range(1, len(self.classes) + 1)):
            raise ValueError(f"classes must be numbered 1, 2, …, not {sorted(self.classes.values())}")

    @classmethod
    def from_plan(
        cls, plan: Plan, postprocessing: PostProcessing | None = None, *, step: float = 0.5, mirror: bool = False
    ) -> Settings:
        """Return the settings of a network made by ``plan``.

        Raises:
            UsageError: The plan has more than one channel, or the rules name an unknown class.
        """
        classes = {name: value for value, name in enumerate(plan.labels) if value}
        rules = postprocessing or PostProcessing()
        rules.check(classes)
        return cls(classes, Preprocessing.from_plan(plan), plan.patch_size, rules, step, mirror, plan.training)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "the bundle's settings") -> Settings:
        """Return the settings that a bundle carries.

        Raises:
            UsageError: A key is unknown or missing, or a value does not fit.
        """
        return from_mapping(cls, mapping, where)

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return to_mapping(self)


Member = tuple[nn.Module, Settings]
"""A model and what it was trained with."""


@dataclass(frozen=True)
class Prediction:
    """A segmented scan.

    Attributes:
        label: Classes (z, y, x) on the scan's own grid.
        seconds: Time it took.
        raw: The classes before post-processing, where they were asked for.
        agreement: Of the single answers with the final one, by class (see `Agreement.result`); empty where there
            was only one.
    """

    label: NDArray[np.uint8]
    seconds: float
    raw: NDArray[np.uint8] | None = None
    agreement: dict[str, float] = field(default_factory=dict)


def predict_volume(
    model: nn.Module,
    settings: Settings,
    volume: Volume,
    device: torch.device | str = "cpu",
    *,
    batch_size: int = 1,
    keep_raw: bool = False,
) -> Prediction:
    """Return the label map of a scan in any orientation, on its own grid.

    Args:
        model: Maps (b, 1, *patch) to logits (b, classes + 1, *patch), or to a list that begins with them.
        settings: What the model was trained with.
        volume: The scan, in the unit of the training scans (HU for CT).
        device: Where the model runs; it is moved there.
        batch_size: Windows a forward pass; a 2-D model takes up to 4 slices for each, and mirrored copies come on top
            where all are small.
        keep_raw: Also return the classes before post-processing, a second label map.

    Raises:
        CaseError: The scan is no finite volume, its spacing is absurd, or the logits are not finite.
        ModelError: The model has another number of classes than the settings.
    """
    return predict_ensemble([(model, settings)], volume, device, batch_size=batch_size, keep_raw=keep_raw)


def predict_ensemble(
    members: Sequence[Member],
    volume: Volume,
    device: torch.device | str = "cpu",
    *,
    batch_size: int = 1,
    keep_raw: bool = False,
) -> Prediction:
    """Return the label map that several models give together: the class of the largest mean probability.

    Each model sees the scan at its own spacing and in its own windows; the means are taken on the scan's grid, block
    by block. The post-processing is the first model's. One model alone gives what `predict_volume` gives.

    Args:
        members: Models with their settings, which share classes and axes order (`check_members`).
        volume: As for `predict_volume`; so are the other arguments and the errors.
        device: Where the models run.
        batch_size: As for `predict_volume`.
        keep_raw: Also return the classes before post-processing.
    """
    began = time.perf_counter()
    upright, orientation = canonical(volume)
    spacing, settings = upright.spacing, members[0][1]
    agreement = Agreement(settings.classes)
    streams: list[tuple[Iterator[Tensor], Grid]] = []
    training = [model.training for model, _ in members]
    try:
        for model, own in members:
            image, grid, _ = preprocess(upright.array, spacing, own.preprocessing)
            model.to(device).eval()
            answers = predict_logits(
                model, own, torch.from_numpy(image), device, batch_size=batch_size, agreement=agreement
            )
            streams.append((answers, grid))
        del image
        label = restore_labels(*streams[0]) if len(streams) == 1 else _mean_labels(streams, agreement)
    finally:
        for (model, _), before in zip(members, training, strict=True):
            model.train(before)
    streams.clear()  # the connected parts need the images' memory
    del answers
    raw = np.ascontiguousarray(restore(label, orientation)).copy() if keep_raw else None
    label = postprocess(label, settings.classes, spacing, settings.postprocessing)
    seconds = time.perf_counter() - began
    log.info("segmented %s voxels in %.1f s", " x ".join(map(str, label.shape)), seconds)
    return Prediction(np.ascontiguousarray(restore(label, orientation)), seconds, raw, agreement.result())


def check_members(settings: Sequence[Settings]) -> None:
    """See that models can vote on one scan.

    Raises:
        UsageError: Their classes (PTD-553) or the order in which they take the axes (PTD-554) differ.
    """
    first = settings[0]
    for other in settings[1:]:
        if other.classes != first.classes:
            problem = f"the models know different classes ({_names(first)} and {_names(other)})"
            raise UsageError("PTD-553", problem, "combine models trained on the same labels")
        if other.preprocessing.transpose != first.preprocessing.transpose:
            problem = "the models take the scan's axes in different orders"
            raise UsageError("PTD-554", problem, "combine models planned on the same data")


def _names(settings: Settings) -> str:
    return ", ".join(f"{value} {name}" for name, value in settings.classes.items())


def predict_logits(
    model: nn.Module,
    settings: Settings,
    image: Tensor,
    device: torch.device | str = "cpu",
    *,
    batch_size: int = 1,
    agreement: Agreement | None = None,
) -> Iterator[Tensor]:
    """Return blended logits (classes + 1, rows, y, x) of a preprocessed scan, slab after slab of the first axis.

    Args:
        model: As for `predict_volume`, in evaluation mode and on the device.
        settings: What the model was trained with.
        image: The scan on the network's grid, normalised, (z, y, x).
        device: Where the windows are computed; the sums stay beside the image.
        batch_size: As for `predict_volume`.
        agreement: Counts how far mirrored windows agree, where settings ask for them.
    """
    forward = _forward(model, settings, torch.device(device), agreement or Agreement(settings.classes))
    slabs = _slabs if len(settings.patch_size) == 3 else _slabs_of_slices
    return slabs(forward, settings, image, batch_size)


def _mean_labels(streams: Sequence[tuple[Iterator[Tensor], Grid]], agreement: Agreement) -> NDArray[np.uint8]:
    """The class of the largest mean probability per voxel of the scan, 0 outside the crop."""
    grid = streams[0][1]
    label = np.zeros(grid.shape, dtype=np.uint8)
    inside = label.transpose(grid.transpose)[grid.crop]
    for blocks in zip(*(restored(slabs, grid) for slabs, grid in streams), strict=True):
        start, rows = blocks[0][0], blocks[0][1].shape[1]
        answers = [torch.from_numpy(logits).softmax(0) for _, logits in blocks]
        mean = torch.stack(answers).mean(0)
        most_probable(mean.numpy(), inside[start : start + rows])
        final = winners(mean[None])
        for answer in answers:
            agreement.add(final, winners(answer[None]))
    return label


def _forward(
    model: nn.Module, settings: Settings, device: torch.device, agreement: Agreement
) -> Callable[[Tensor], Tensor]:
    """The model on windows (b, 1, *patch), with the mean over mirrored windows where settings ask for it."""

    def logits(windows: Tensor) -> Tensor:
        output = model(windows)
        first: Tensor = output if isinstance(output, Tensor) else output[0]
        if first.shape[1] != len(settings.classes) + 1:
            problem = f"the model gives {first.shape[1]} maps for {len(settings.classes)} classes and background"
            raise ModelError("PTD-380", problem, "use the settings the model was trained with")
        return first.float()

    def forward(windows: Tensor) -> Tensor:
        windows = windows.to(device)
        if not settings.mirror:
            return logits(windows)
        answers = _mirrored(logits, windows)
        total = next(answers).clone()  # the model may hold what it gave
        votes = [winners(total)]
        for answer in answers:
            total += answer
            votes.append(winners(answer))
        final = winners(total)
        for vote in votes:
            agreement.add(final, vote)
        return total.div_(len(votes))

    return forward


def _mirrored(logits: Callable[[Tensor], Tensor], windows: Tensor) -> Iterator[Tensor]:
    """Logits of the windows as they are, then of each mirrored copy, turned back."""
    # Per window, as nnU-Net does it, and not per scan: one pass over the windows, one set of sums.
    axes = range(2, windows.ndim)
    flips = [flip for count in range(windows.ndim - 1) for flip in itertools.combinations(axes, count)]
    share = max(1, _PASS // windows.numel())
    for start in range(0, len(flips), share):
        group = flips[start : start + share]
        copies = [windows.flip(flip) if flip else windows for flip in group]
        answers = logits(torch.cat(copies) if len(copies) > 1 else copies[0])
        for flip, answer in zip(group, answers.chunk(len(group)), strict=True):
            yield answer.flip(flip) if flip else answer


def _slabs(forward: Callable[[Tensor], Tensor], settings: Settings, image: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Blended logits (classes, rows, y, x) of an image (z, y, x), slab after slab."""
    tiles = predict_slabs(forward, image[None], settings.patch_size, step=settings.step, batch_size=batch_size)
    for _, slab in tiles:
        yield slab


def _slabs_of_slices(
    forward: Callable[[Tensor], Tensor], settings: Settings, image: Tensor, batch_size: int
) -> Iterator[Tensor]:
    """The same for a 2-D network: slices travel as channels through the tiling and as a batch through the network."""

    def fold(windows: Tensor) -> Tensor:
        logits = forward(windows.flatten(0, 1)[:, None])
        return logits.reshape(len(windows), -1, *logits.shape[2:])

    count = max(1, min(_SLICES, _PASS // math.prod(settings.patch_size))) * batch_size
    for start in range(0, len(image), count):
        slices = image[start : start + count]
        blended = predict_tiled(fold, slices, settings.patch_size, step=settings.step)
        yield blended.reshape(len(slices), -1, *blended.shape[1:]).transpose(0, 1)
