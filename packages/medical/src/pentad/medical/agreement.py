"""How far several answers for the same voxels agree: mirrored passes of one model, or the models of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Agreement:
    """Counts of voxels, class by class, in which single answers and the final one coincide.

    Args:
        classes: Name to value of every class but the background.
    """

    def __init__(self, classes: Mapping[str, int]) -> None:
        self._classes = dict(classes)
        size = len(classes) + 1
        self._table = torch.zeros(size, size, dtype=torch.int64)

    def add(self, final: Tensor, answer: Tensor) -> None:
        """Count one answer; both hold class values and have one shape."""
        size = len(self._table)
        pairs = final.flatten().long() * size + answer.flatten().long()
        self._table += torch.bincount(pairs, minlength=size * size).reshape(size, size).cpu()

    def result(self) -> dict[str, float]:
        """Return each class's agreement: voxels that both call it over voxels that either does (Jaccard).

        Classes that no answer holds are left out; nothing was compared where only one answer was asked for.
        """
        shared = self._table.diagonal()
        either = self._table.sum(0) + self._table.sum(1) - shared
        return {
            name: round(float(shared[value] / either[value]), 4)
            for name, value in self._classes.items()
            if either[value]
        }
