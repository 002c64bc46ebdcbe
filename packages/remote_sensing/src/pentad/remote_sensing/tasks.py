"""The three tasks of change detection, each described once: what is labelled, learnt, mapped and scored.

Every task says where something is, its mask (change, or buildings), and some say what is there, their layers: classes
from 1 on inside the mask. A network answers with one head for the mask and one for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pentad.core.errors import UsageError, nearest
from pentad.remote_sensing import metrics
from pentad.remote_sensing.losses import IGNORED, change_loss, damage_loss, semantic_change_loss

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]

COVERS = ("bare", "grass", "crop", "road", "building", "water")
"""Land covers 1 to 6 of the embedded samples."""
GRADES = ("undamaged", "minor", "major", "destroyed")
"""Damage 1 to 4."""


@dataclass(frozen=True)
class Task:
    """One kind of change detection.

    Attributes:
        name: As in params.yaml.
        mask: What the first head finds, and the name of its map.
        roles: Labels it is learnt from; the mask is where the first is not 0, the layers are their values.
        layers: Maps of classes inside the mask.
        outlined: Map whose areas become polygons.
        named: Map that tells a polygon's class.
        heads: Classes of each head of a network, 0 included.
        models: Networks for it.
        headline: Metrics that stand in the table of results.
        metrics: All metrics.
        located: The metric that is F1 of the mask.
        loss: Heads and labels (batch, roles, height, width) to a scalar.
        count: Predicted mask and classes (layers, pixels), and labels (roles, pixels) without unknown ones, to counts
            that may be added up over scenes.
        score: Counts to metrics.
        holds: Whether counts are of a scene that holds anything to find.
    """

    name: str
    mask: str
    roles: tuple[str, ...]
    layers: tuple[str, ...]
    outlined: str
    named: str
    heads: tuple[int, ...]
    models: tuple[str, ...]
    headline: tuple[str, ...]
    metrics: tuple[str, ...]
    located: str
    loss: Callable[[tuple[Tensor, ...], Tensor], Tensor]
    count: Callable[[NDArray[np.bool_], Labels, Labels], Counts]
    score: Callable[[Counts], Mapping[str, float]]
    holds: Callable[[Counts], bool]

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that a prediction writes, the probability of the mask left out."""
        return tuple(dict.fromkeys((self.mask, *self.layers, self.outlined)))


def task_named(name: str) -> Task:
    """Return a task.

    Raises:
        UsageError: There is none of this name (PTD-876).
    """
    if name not in TASKS:
        problem = f"there is no task '{name}'{nearest(name, TASKS)}"
        raise UsageError("PTD-876", problem, f"use one of {', '.join(TASKS)}")
    return TASKS[name]


def heads_of(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return a network's output as one tensor of logits a head."""
    return output if isinstance(output, tuple) else (output,)


def masked(label: Tensor) -> Tensor:
    """Return the mask a label (…) tells: 0, 1, or 255 where it is not known."""
    return torch.where(label == IGNORED, label, (label > 0).to(label.dtype))


def _learn_change(heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return change_loss(heads[0], masked(labels[:, 0]))


def _learn_covers(heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return semantic_change_loss((heads[0], heads[1], heads[2]), (masked(labels[:, 0]), labels[:, 0], labels[:, 1]))


def _learn_damage(heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    return damage_loss(heads[0], heads[1], (masked(labels[:, 0]), labels[:, 0]))


def _count_change(mask: NDArray[np.bool_], classes: Labels, labels: Labels) -> Counts:
    return metrics.confusion(mask.astype(np.int64), (labels[0] > 0).astype(np.int64), 2).ravel()


def _count_covers(mask: NDArray[np.bool_], classes: Labels, labels: Labels) -> Counts:
    found = metrics.pair_code(mask, classes[0], classes[1])
    return metrics.confusion(found, metrics.pair_code(labels[0] > 0, labels[0], labels[1]), 37).ravel()


def _count_damage(mask: NDArray[np.bool_], classes: Labels, labels: Labels) -> Counts:
    building = labels[0] > 0
    graded = metrics.confusion(classes[0][building].astype(np.int64), labels[0][building].astype(np.int64), 5)
    return np.concatenate([_count_change(mask, classes, labels), graded.ravel()])


def _score_change(counts: Counts) -> Mapping[str, float]:
    return metrics.binary(counts.reshape(2, 2))


def _score_covers(counts: Counts) -> Mapping[str, float]:
    matrix = counts.reshape(37, 37)
    parts = [matrix[:1, :1].sum(), matrix[:1, 1:].sum(), matrix[1:, :1].sum(), matrix[1:, 1:].sum()]
    found = metrics.binary(np.array(parts, dtype=np.int64).reshape(2, 2))
    return {**metrics.semantic(matrix), "f1": found["f1"], "iou": found["iou"]}


def _score_damage(counts: Counts) -> Mapping[str, float]:
    found = metrics.damage(counts[:4].reshape(2, 2), counts[4:].reshape(5, 5))
    single = found["f1_per_class"]
    assert isinstance(single, list)
    together = {name: value for name, value in found.items() if isinstance(value, float)}
    return {**together, **{f"f1_{grade}": value for grade, value in zip(GRADES, single, strict=True)}}


def _holds_mask(counts: Counts) -> bool:
    return bool(counts[[1, 3]].any())


def _holds_change(counts: Counts) -> bool:
    return bool(counts.reshape(37, 37)[:, 1:].any())


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="bcd",
            mask="change",
            roles=("label",),
            layers=(),
            outlined="change",
            named="change",
            heads=(2,),
            models=("mamba_bcd", "fc_siam_diff", "fc_siam_conc"),
            headline=("f1", "iou"),
            metrics=("f1", "iou", "precision", "recall", "oa", "kappa"),
            located="f1",
            loss=_learn_change,
            count=_count_change,
            score=_score_change,
            holds=_holds_mask,
        ),
        Task(
            name="scd",
            mask="change",
            roles=("cover_before", "cover_after"),
            layers=("cover_before", "cover_after"),
            outlined="transition",
            named="transition",
            heads=(2, 7, 7),
            models=("mamba_scd", "fc_siam_conc"),
            headline=("sek", "fscd", "miou"),
            metrics=("sek", "fscd", "miou", "f1", "iou"),
            located="f1",
            loss=_learn_covers,
            count=_count_covers,
            score=_score_covers,
            holds=_holds_change,
        ),
        Task(
            name="bda",
            mask="building",
            roles=("damage",),
            layers=("damage",),
            outlined="building",
            named="damage",
            heads=(2, 5),
            models=("mamba_bda", "fc_siam_conc"),
            headline=("f1_loc", "f1_clf", "f1_overall"),
            metrics=("f1_loc", "f1_clf", "f1_overall", *(f"f1_{grade}" for grade in GRADES)),
            located="f1_loc",
            loss=_learn_damage,
            count=_count_damage,
            score=_score_damage,
            holds=_holds_mask,
        ),
    )
}
