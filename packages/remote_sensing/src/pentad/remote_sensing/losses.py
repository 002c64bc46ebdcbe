"""The losses ChangeMamba was trained with; 255 in a label means: not counted.

Paper: Chen et al., arXiv 2404.03425; Lovász-softmax: Berman, Triki and Blaschko, CVPR 2018, arXiv 1705.08790.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pentad.core.processes import processes, together

IGNORED = 255


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the mean cross entropy over the pixels that count, of all training processes; 0 if there are none.

    Args:
        logits: (b, classes, h, w).
        label: Classes, whole numbers (b, h, w).
    """
    total = functional.cross_entropy(logits, label, ignore_index=IGNORED, reduction="sum")
    return total * processes() / together((label != IGNORED).sum()).clamp(min=1)


def lovasz_softmax(logits: Tensor, label: Tensor) -> Tensor:
    """Return the Lovász extension of 1 - IoU, averaged over the classes present in the batch; 0 if no pixel counts.

    Args:
        logits: (b, classes, h, w).
        label: Classes, whole numbers (b, h, w).
    """
    counted = label != IGNORED
    truth = label[counted]
    shares = torch.softmax(logits, dim=1).movedim(1, -1)[counted]  # (pixels, classes)
    losses = []
    for number in torch.unique(truth).tolist():
        present = (truth == number).to(shares.dtype)
        errors, order = (present - shares[:, number]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_slope(present[order]))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


def _jaccard_slope(present: Tensor) -> Tensor:
    """Return by how much 1 - IoU rises with each further wrong pixel, in the order given."""
    united = present.sum() + (1 - present).cumsum(0)
    loss = 1 - (present.sum() - present.cumsum(0)) / united
    return torch.diff(loss, prepend=loss.new_zeros(1))


def change_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return MambaBCD's loss: cross entropy and 0.75 Lovász-softmax; ``label`` is 0 or 1, (b, h, w)."""
    return cross_entropy(logits, label) + 0.75 * lovasz_softmax(logits, label)


def semantic_change_loss(logits: tuple[Tensor, Tensor, Tensor], labels: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return MambaSCD's loss.

    Args:
        logits: Of the change, and of the land cover before and after.
        labels: Change 0 or 1; land cover from 1 on, 0 or 255 where nothing changed, which is not counted.
    """
    change, before, after = labels[0], _without_0(labels[1]), _without_0(labels[2])
    entropy = cross_entropy(logits[1], before) + cross_entropy(logits[2], after)
    surface = lovasz_softmax(logits[1], before) + lovasz_softmax(logits[2], after)
    entropy = entropy + 0.5 * unchanged_difference(logits[1], logits[2], before)
    return change_loss(logits[0], change) + 0.5 * entropy + 0.375 * surface


def unchanged_difference(before: Tensor, after: Tensor, label: Tensor) -> Tensor:
    """Return the mean square by which the land covers' probabilities differ where the label is 255, 0 elsewhere."""
    difference = torch.softmax(before, dim=1) - torch.softmax(after, dim=1)
    return (difference * (label == IGNORED).unsqueeze(1)).square().mean()


def damage_loss(building: Tensor, damage: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
    """Return MambaBDA's loss.

    Args:
        building: Logits of buildings.
        damage: Logits of damage.
        labels: Building 0 or 1; damage from 1 on, 0 where there is no building, which is not counted.
    """
    loc, grade = labels[0], _without_0(labels[1])
    entropy = cross_entropy(building, loc) + cross_entropy(damage, grade)
    return entropy + 0.5 * lovasz_softmax(building, loc) + 0.75 * lovasz_softmax(damage, grade)


def _without_0(label: Tensor) -> Tensor:
    return torch.where(label == 0, IGNORED, label)
