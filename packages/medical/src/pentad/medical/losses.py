"""Dice plus cross-entropy under deep supervision, as nnU-Net 2.1.1 and U-Mamba train with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pentad.core.processes import processes, together

SMOOTH = 1e-5


def soft_dice_loss(logits: Tensor, target: Tensor, *, batch_dice: bool = True, mask: Tensor | None = None) -> Tensor:
    """Return minus the mean soft Dice of the foreground classes, between -1 (perfect) and 0.

    Dice is (2 sum(p g) + 1e-5) / (sum p + sum g + 1e-5) with p the softmax; a class absent from the target therefore
    scores about 0 as soon as any probability goes to it.

    Args:
        logits: (b, classes, …), float32 or wider.
        target: Class indices (b, 1, …), each below ``classes``.
        batch_dice: Sum over the batch before dividing; otherwise one Dice a sample.
        mask: (b, 1, …), 1 where the voxel counts; None for everywhere.
    """
    probability = logits.softmax(dim=1)
    truth = torch.zeros_like(probability).scatter_(1, target, 1.0)
    if mask is not None:
        probability, truth = probability * mask, truth * mask
    axes = tuple(range(2, logits.ndim))
    overlap = (probability * truth).sum(axes)[:, 1:]  # (b, foreground classes)
    total = (probability.sum(axes) + truth.sum(axes))[:, 1:]
    if batch_dice:
        overlap, total = overlap.sum(0), total.sum(0)
    return -((2 * overlap + SMOOTH) / (total + SMOOTH).clamp(min=1e-8)).mean()


def dice_ce_loss(logits: Tensor, target: Tensor, *, batch_dice: bool = True, ignore_label: int | None = None) -> Tensor:
    """Return soft Dice loss plus cross-entropy of one head, both with weight 1; computed in float32 or wider.

    Args:
        logits: (b, classes, …).
        target: Class indices (b, 1, …) of any integer or float type.
        batch_dice: Dice over the whole batch instead of per sample.
        ignore_label: Voxels with this value count in neither part.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    target = target.long()
    if ignore_label is None:
        dice = soft_dice_loss(logits, target, batch_dice=batch_dice)
        return dice + functional.cross_entropy(logits, target[:, 0])
    counted = target != ignore_label
    known = torch.where(counted, target, 0)
    dice = soft_dice_loss(logits, known, batch_dice=batch_dice, mask=counted)
    # The mean over the voxels that count in all training processes, and 0 (not 0/0) where none does.
    losses = functional.cross_entropy(logits, known[:, 0], reduction="none") * counted[:, 0]
    return dice + losses.sum() * processes() / together(counted.sum()).clamp(min=1)


def deep_supervision_weights(heads: int) -> tuple[float, ...]:
    """Return the weight of each head from full resolution down: 1, 1/2, 1/4 …, the coarsest 0, summing to 1.

    A single head weighs 1.
    """
    if heads < 1:
        raise ValueError(f"{heads} heads; there is at least one")
    raw = [0.5**head for head in range(heads)]
    if heads > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def target_pyramid(target: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the target (b, 1, …) at each size, by nearest neighbour (the voxel under the new voxel's centre)."""
    pyramid = []
    for size in sizes:
        if tuple(size) == tuple(target.shape[2:]):
            pyramid.append(target)
        else:
            nearest = functional.interpolate(target.float(), size=tuple(size), mode="nearest-exact")
            pyramid.append(nearest.to(target.dtype))
    return pyramid


def segmentation_loss(
    heads: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    *,
    batch_dice: bool = True,
    ignore_label: int | None = None,
) -> Tensor:
    """Return the weighted sum of `dice_ce_loss` over the heads of a model.

    Args:
        heads: Logits, or a list of logits from full resolution to the coarsest.
        target: Class indices (b, 1, …) at full resolution, or one for each head.
        batch_dice: Dice over the whole batch instead of per sample.
        ignore_label: Voxels with this value count nowhere.
    """
    heads = [heads] if isinstance(heads, Tensor) else list(heads)
    targets = target_pyramid(target, [head.shape[2:] for head in heads]) if isinstance(target, Tensor) else target
    # The coarsest head's weight is 0, not left out: every parameter then has a gradient, as data-parallel runs demand.
    losses = [
        weight * dice_ce_loss(head, truth, batch_dice=batch_dice, ignore_label=ignore_label)
        for weight, head, truth in zip(deep_supervision_weights(len(heads)), heads, targets, strict=True)
    ]
    return torch.stack(losses).sum()
