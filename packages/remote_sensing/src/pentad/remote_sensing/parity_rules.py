"""Golden figures of ChangeMamba's losses and metrics against this package's, on labels made from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pentad.core import recipe
from pentad.remote_sensing import losses, metrics

Rows = list[tuple[str, float, float]]
Labels = NDArray[np.int64]

_LOSS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}
# The published metrics add 1e-7 to every denominator.
_METRIC_TOLERANCE = 1e-5


class _Made:
    """The file's arrays, by name."""

    def __init__(self, spec: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.shape: Sequence[int] = spec["shape"]
        self.dtype = dtype

    def pixels(self, name: str) -> NDArray[np.float64]:
        return recipe.array(f"check:changemamba/{name}", self.shape).astype(np.float64)

    def logits(self, name: str, classes: int) -> Tensor:
        batch, *sides = self.shape
        drawn = recipe.array(f"check:changemamba/{name}", (batch, classes, *sides))
        return torch.from_numpy(drawn.astype(np.float64)).to(self.dtype)


def rows(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (figure, error, tolerance) for every loss and metric of the file.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the precision of the losses.
    """
    made, found = _Made(spec, dtype), []
    for task, function in {"bcd": _change, "scd": _semantic, "bda": _damage}.items():
        if task in spec["expected"]:
            for group, values in function(made).items():
                tolerance = _LOSS_TOLERANCE[dtype] if group == "loss" else _METRIC_TOLERANCE
                wanted = spec["expected"][task].get(group, {})
                for name in wanted:
                    error = float(np.abs(np.subtract(values[name], wanted[name])).max())
                    found.append((f"{task} {group} {name}", error, tolerance))
    return found


def _argmax(logits: Tensor) -> Labels:
    return np.asarray(logits.argmax(dim=1).numpy())


def _change(made: _Made) -> dict[str, dict[str, Any]]:
    label, logits = (made.pixels("bcd/label") > 0.5).astype(np.int64), made.logits("bcd/logits", 2)
    counted = torch.from_numpy(label.copy())
    counted[:, :2] = losses.IGNORED
    loss = {
        "ce": losses.cross_entropy(logits, counted).item(),
        "lovasz": losses.lovasz_softmax(logits, counted).item(),
        "total": losses.change_loss(logits, counted).item(),
    }
    return {"loss": loss, "metrics": dict(metrics.binary(metrics.confusion(_argmax(logits), label, 2)))}


def _semantic(made: _Made) -> dict[str, dict[str, Any]]:
    change = made.pixels("scd/change") > 0.3
    covers = [
        np.where(change, 1 + np.minimum(np.floor(3 * np.abs(made.pixels(f"scd/{name}"))), 5), 0).astype(np.int64)
        for name in ("t1", "t2")
    ]
    logits = [made.logits("scd/logits_cd", 2), *(made.logits(f"scd/logits_{name}", 7) for name in ("t1", "t2"))]
    for cover in logits[1:]:
        cover[:, 0] -= 10
    labels = [torch.from_numpy(change.astype(np.int64)), *(torch.from_numpy(cover) for cover in covers)]
    before, after = (torch.where(label == 0, losses.IGNORED, label) for label in labels[1:])
    loss = {
        "ce_cd": losses.cross_entropy(logits[0], labels[0]).item(),
        "lovasz_cd": losses.lovasz_softmax(logits[0], labels[0]).item(),
        "ce_t1": losses.cross_entropy(logits[1], before).item(),
        "lovasz_t1": losses.lovasz_softmax(logits[1], before).item(),
        "ce_t2": losses.cross_entropy(logits[2], after).item(),
        "lovasz_t2": losses.lovasz_softmax(logits[2], after).item(),
        "similarity": losses.unchanged_difference(logits[1], logits[2], before).item(),
        "total": losses.semantic_change_loss(
            (logits[0], logits[1], logits[2]), (labels[0], labels[1], labels[2])
        ).item(),
    }
    found = [_argmax(x) for x in logits]
    truth = metrics.pair_code(change, covers[0], covers[1])
    predicted = metrics.pair_code(found[0] > 0, found[1], found[2])
    mixed = np.where(made.pixels("scd/noise") > 1, predicted, truth)
    return {"loss": loss, "metrics": _scored(predicted, truth), "metrics_mixed": _scored(mixed, truth)}


def _scored(predicted: Labels, truth: Labels) -> dict[str, Any]:
    return metrics.semantic(metrics.confusion(predicted, truth, 37)) | {"oa": float((predicted == truth).mean())}


def _damage(made: _Made) -> dict[str, dict[str, Any]]:
    loc = made.pixels("bda/loc") > 0.2
    grade = np.where(loc, 1 + np.minimum(np.floor(1.5 * np.abs(made.pixels("bda/damage"))), 3), 0).astype(np.int64)
    building, damage = made.logits("bda/logits_loc", 2), made.logits("bda/logits_damage", 5)
    labels = torch.from_numpy(loc.astype(np.int64)), torch.from_numpy(grade)
    grades = torch.where(labels[1] == 0, losses.IGNORED, labels[1])
    loss = {
        "ce_loc": losses.cross_entropy(building, labels[0]).item(),
        "lovasz_loc": losses.lovasz_softmax(building, labels[0]).item(),
        "ce_clf": losses.cross_entropy(damage, grades).item(),
        "lovasz_clf": losses.lovasz_softmax(damage, grades).item(),
        "total": losses.damage_loss(building, damage, labels).item(),
    }
    location = metrics.confusion(_argmax(building), loc.astype(np.int64), 2)
    graded = metrics.confusion(_argmax(damage)[loc], grade[loc], 5)
    return {"loss": loss, "metrics": dict(metrics.damage(location, graded))}
