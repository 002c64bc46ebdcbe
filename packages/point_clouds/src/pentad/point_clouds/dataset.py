"""Training samples: frames with flips, rotation, scale and pasted objects, each a function of its ordinal number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pentad.core.cases import Case
from pentad.core.errors import UsageError
from pentad.point_clouds.boxes import iou_bev, points_in_boxes
from pentad.point_clouds.frames import Objects, PointConfig, frame_of, load_points, to_objects
from pentad.point_clouds.points import Points

Array = NDArray[np.float64]

_NEIGHBOURHOOD = 3.0  # metres around a pasted object in which the ground is looked for
_GROUND_SHARE = 0.1  # the ground's height is this quantile of what lies there
_KEPT_BYTES = 512 * 2**20  # frames read stay in memory up to so much, per process


@dataclass(frozen=True)
class AugmentConfig:
    """Section ``augment`` of params.yaml; the defaults are FlatFormer's.

    Attributes:
        flip: Probability of each of the two mirrorings.
        rotation: Largest turn about the vertical, radians, either way.
        scale: Smallest and largest factor of all lengths.
        paste: Class to the number of its objects that a scene is filled up to with those of other scenes.
        paste_points: Fewest points of an object that is pasted.
        least_points: Objects with fewer points are not asked for in training.
    """

    flip: float = 0.5
    rotation: float = math.pi / 4
    scale: tuple[float, float] = (0.95, 1.05)
    paste: dict[str, int] = field(default_factory=dict)
    paste_points: int = 5
    least_points: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or not 0 < self.scale[0] <= self.scale[1] or self.rotation < 0:
            found = f"flip {self.flip}, rotation {self.rotation}, scale {self.scale}"
            raise UsageError("PTD-922", found, "give a probability, an angle and a rising pair of factors")


@dataclass(frozen=True)
class Cutout:
    """An object of another scene: its box (9), its class and its points (p, 5)."""

    box: Array
    label: int
    points: Points


class Frames(torch.utils.data.Dataset[dict[str, Any]]):
    """Frames as ``points`` (p, 5), ``boxes`` (n, 9) and ``labels`` (n), drawn at random and augmented.

    Args:
        cases: Labelled cases.
        classes: Names of the labels 0, 1, …
        points: What a model sees of a frame.
        span: Smallest x, y, z, then largest, metres.
        augment: How samples are varied.
        seed: Of the draws.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        classes: Sequence[str],
        points: PointConfig,
        span: Sequence[float],
        augment: AugmentConfig,
        seed: int,
    ) -> None:
        self.cases, self.classes, self.points, self.span = list(cases), tuple(classes), points, tuple(span)
        self.augment, self.seed = augment, seed
        for name in augment.paste:
            if name not in self.classes:
                raise UsageError("PTD-922", f"there is no class '{name}' to paste", f"use {', '.join(classes)}")
        self._kept: dict[str, tuple[Points, Objects, NDArray[np.int64]]] = {}
        self._room = _KEPT_BYTES
        self.cutouts = self._collect() if augment.paste else {}

    def _collect(self) -> dict[int, list[Cutout]]:
        found: dict[int, list[Cutout]] = {self.classes.index(name): [] for name in self.augment.paste}
        for case in self.cases:
            points, objects, labels = self._read(case)
            inside = points_in_boxes(torch.from_numpy(points), torch.from_numpy(objects.boxes).float()).numpy()
            for k, label in enumerate(labels):
                own = points[inside[:, k]]
                if int(label) in found and len(own) >= self.augment.paste_points:
                    found[int(label)].append(Cutout(objects.boxes[k], int(label), own))
        return found

    def _read(self, case: Case) -> tuple[Points, Objects, NDArray[np.int64]]:
        if case.id not in self._kept:
            read = self._load(case)
            if read[0].nbytes > self._room:
                return read
            self._room -= read[0].nbytes
            self._kept[case.id] = read
        return self._kept[case.id]

    def _load(self, case: Case) -> tuple[Points, Objects, NDArray[np.int64]]:
        frame = frame_of(case)
        points, _ = load_points(frame, self.points, self.span)
        objects = to_objects(frame)
        known = np.array([kind in self.classes for kind in objects.classes], dtype=bool)
        objects = objects.take(known & ((objects.points < 0) | (objects.points >= self.augment.least_points)))
        return points, objects, np.array([self.classes.index(kind) for kind in objects.classes], dtype=np.int64)

    def __getitem__(self, ordinal: int) -> dict[str, Any]:
        """Return the sample of an ordinal number."""
        rng = np.random.default_rng((self.seed, ordinal))
        points, objects, labels = self._read(self.cases[int(rng.integers(len(self.cases)))])
        boxes = objects.boxes
        if self.cutouts:
            points, boxes, labels = self._paste(rng, points, boxes, labels)
        points, boxes = vary(rng, points, boxes, self.augment)
        return {
            "points": torch.from_numpy(points),
            "boxes": torch.from_numpy(np.nan_to_num(boxes).astype(np.float32)),
            "labels": torch.from_numpy(labels),
        }

    def _paste(
        self, rng: np.random.Generator, points: Points, boxes: Array, labels: NDArray[np.int64]
    ) -> tuple[Points, Array, NDArray[np.int64]]:
        """Fill the scene up with objects of others where they touch nothing, set onto the ground found there."""
        for label, cutouts in self.cutouts.items():
            wanted = self.augment.paste[self.classes[label]] - int((labels == label).sum())
            for _ in range(max(wanted, 0) if cutouts else 0):
                cutout = cutouts[int(rng.integers(len(cutouts)))]
                if _touches(cutout.box, boxes) or (floor := _ground(points, cutout.box)) is None:
                    continue
                rise = floor - (cutout.box[2] - cutout.box[5] / 2)
                box, own = cutout.box.copy(), cutout.points.copy()
                box[2] += rise
                own[:, 2] += np.float32(rise)
                points = np.concatenate([points[~_covered(points, box)], own])
                boxes, labels = np.concatenate([boxes, box[None]]), np.append(labels, label)
        return points, boxes, labels

    @staticmethod
    def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch: all points with the number of each sample's, and lists of boxes and labels."""
        return {
            "points": torch.cat([sample["points"] for sample in samples]),
            "counts": torch.tensor([len(sample["points"]) for sample in samples]),
            "boxes": [sample["boxes"] for sample in samples],
            "labels": [sample["labels"] for sample in samples],
        }


def _ground(points: Points, box: Array) -> float | None:
    near = points[_around(points, box, _NEIGHBOURHOOD)]
    near = near[np.hypot(near[:, 0] - box[0], near[:, 1] - box[1]) < _NEIGHBOURHOOD, 2]
    return float(np.quantile(near, _GROUND_SHARE)) if len(near) > 3 else None


def _covered(points: Points, box: Array) -> NDArray[np.bool_]:
    """Which points lie in a box, bool (p,)."""
    covered = _around(points, box, float(np.hypot(box[3], box[4])))
    near = torch.from_numpy(points[covered])
    covered[covered] = points_in_boxes(near, torch.from_numpy(box[None]).float())[:, 0].numpy()
    return covered


def _around(points: Points, box: Array, reach: float) -> NDArray[np.bool_]:
    """Which points lie in the square around a box's centre; a cheap choice before an exact one."""
    x, y = points[:, 0], points[:, 1]
    return np.asarray((np.abs(x - np.float32(box[0])) <= reach) & (np.abs(y - np.float32(box[1])) <= reach))


def _touches(box: Array, others: Array) -> bool:
    pair: list[Tensor] = [torch.from_numpy(np.ascontiguousarray(each[:, :7])) for each in (box[None], others)]
    return bool((iou_bev(*pair) > 0).any())


def vary(rng: np.random.Generator, points: Points, boxes: Array, config: AugmentConfig) -> tuple[Points, Array]:
    """Return points and boxes mirrored, turned about the vertical and scaled, all by draws from ``rng``."""
    points, boxes = points.copy(), boxes.copy()
    for axis in (0, 1):
        if rng.random() < config.flip:
            points[:, axis] *= -1
            boxes[:, [axis, 7 + axis]] *= -1
            boxes[:, 6] = math.pi - boxes[:, 6] if axis == 0 else -boxes[:, 6]
    angle = float(rng.uniform(-config.rotation, config.rotation))
    factor = float(rng.uniform(*config.scale))
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    points[:, :2] = points[:, :2] @ turn.astype(np.float32)
    boxes[:, :2], boxes[:, 7:] = boxes[:, :2] @ turn, boxes[:, 7:] @ turn
    boxes[:, 6] = (boxes[:, 6] + angle + math.pi) % (2 * math.pi) - math.pi
    points[:, :3] *= np.float32(factor)
    boxes[:, :6] *= factor
    boxes[:, 7:] *= factor
    return points, boxes
