"""The KITTI object metric: average precision of 2-D, bird's-eye and 3-D boxes, and of orientation, at R11 and R40.

Objects of the class that are too small, hidden or cut off for a difficulty are neutral, as are Van for Car and sitting
persons for Pedestrian; detections lower than the difficulty's height are neutral too. DontCare regions absorb false
positives of the 2-D metric alone. Scores are those of the official rules in per cent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pentad.point_clouds.boxes import iou_3d, iou_bev
from pentad.point_clouds.labels import NOMINAL, NOT_CARED, KittiRow, kitti_to_objects

Array = NDArray[np.float64]
Metric = Literal["bbox", "bev", "3d"]

METRICS: tuple[Metric, ...] = ("bbox", "bev", "3d")
OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
DIFFICULTIES = ("easy", "moderate", "hard")
_NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}
_HEIGHTS, _OCCLUSIONS, _TRUNCATIONS = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
_POINTS = 41
COUNTS, NEUTRAL, OTHER = 0, 1, -1


@dataclass(frozen=True)
class Frame:
    """Truth and detections of one frame."""

    truth: Sequence[KittiRow]
    found: Sequence[KittiRow]

    @cached_property
    def objects(self) -> list[KittiRow]:
        """Return the truth without DontCare."""
        return [row for row in self.truth if row.kind != NOT_CARED]

    @cached_property
    def overlaps(self) -> dict[str, Array]:
        """Return the overlap of every detection (rows) with every object (columns) by metric, 0 … 1."""
        flat = [np.array([row.image for row in rows]).reshape(-1, 4) for rows in (self.found, self.objects)]
        solid = [
            torch.from_numpy(np.ascontiguousarray(kitti_to_objects(rows, NOMINAL).boxes[:, :7]))
            for rows in (self.found, self.objects)
        ]
        return {
            "bbox": _overlap_2d(*flat),
            "bev": iou_bev(*solid).numpy(),
            "3d": iou_3d(*solid).numpy(),
        }

    @cached_property
    def absorbed(self) -> Array:
        """Return the share of each detection's 2-D box that lies in the DontCare region it lies in most (n)."""
        regions = np.array([row.image for row in self.truth if row.kind == NOT_CARED]).reshape(-1, 4)
        boxes = np.array([row.image for row in self.found]).reshape(-1, 4)
        return np.asarray(_overlap_2d(boxes, regions, of_first=True).max(axis=1, initial=0.0))


def _overlap_2d(first: Array, second: Array, *, of_first: bool = False) -> Array:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    united = areas[0][:, None] + (0 if of_first else areas[1][None] - shared)
    united = np.broadcast_to(united, shared.shape)
    return np.asarray(np.divide(shared, united, out=np.zeros(shared.shape), where=united > 0))


@dataclass(frozen=True)
class _Task:
    """One frame under one class, difficulty and metric, ready to be counted at any score."""

    overlap: Array
    scores: Array
    state_of_found: NDArray[np.int64]
    state_of_truth: NDArray[np.int64]
    absorbed: NDArray[np.bool_]
    angles: tuple[Array, Array]

    @property
    def wanted(self) -> int:
        return int((self.state_of_truth == COUNTS).sum())

    def scores_of_hits(self, threshold: float) -> list[float]:
        """The score of the best-scored detection of each object, where there is one that counts."""
        free = self.state_of_found != OTHER
        gained = []
        for column in np.flatnonzero(self.state_of_truth != OTHER):
            able = np.flatnonzero(free & (self.overlap[:, column] > threshold))
            if not len(able):
                continue
            best = able[np.argmax(self.scores[able])]
            free[best] = False
            if self.state_of_truth[column] == COUNTS and self.state_of_found[best] == COUNTS:
                gained.append(float(self.scores[best]))
        return gained

    def count(self, threshold: float, least: float) -> tuple[int, int, float]:
        """True and false positives of at least that score, and the true ones' similarity of orientation."""
        free = (self.state_of_found != OTHER) & (self.scores >= least)
        hits, similar = 0, 0.0
        for column in np.flatnonzero(self.state_of_truth != OTHER):
            able = free & (self.overlap[:, column] > threshold)
            counting = np.flatnonzero(able & (self.state_of_found == COUNTS))
            neutral = np.flatnonzero(able & (self.state_of_found == NEUTRAL))
            if not len(counting) and not len(neutral):
                continue
            best = counting[np.argmax(self.overlap[counting, column])] if len(counting) else neutral[0]
            free[best] = False
            if self.state_of_truth[column] == COUNTS and len(counting):
                hits += 1
                similar += (1 + math.cos(self.angles[1][column] - self.angles[0][best])) / 2
        wrong = free & (self.state_of_found == COUNTS) & ~self.absorbed
        return hits, int(wrong.sum()), similar


def _task(frame: Frame, kind: str, difficulty: int, metric: Metric) -> _Task:
    least = _HEIGHTS[difficulty]
    found = [
        NEUTRAL if abs(row.image[3] - row.image[1]) < least else COUNTS if row.kind == kind else OTHER
        for row in frame.found
    ]
    truth = []
    for row in frame.objects:
        hard = (
            row.occluded > _OCCLUSIONS[difficulty]
            or row.truncated > _TRUNCATIONS[difficulty]
            or row.image[3] - row.image[1] <= least
        )
        if row.kind == kind:
            truth.append(NEUTRAL if hard else COUNTS)
        else:
            truth.append(NEUTRAL if row.kind == _NEIGHBOURS.get(kind) else OTHER)
    absorbed = frame.absorbed > OVERLAPS[kind] if metric == "bbox" else np.zeros(len(frame.found), dtype=bool)
    alphas = tuple(np.array([row.alpha for row in rows]) for rows in (frame.found, frame.objects))
    scores = np.array([row.score for row in frame.found])
    states = (np.array(found, dtype=np.int64), np.array(truth, dtype=np.int64))
    return _Task(frame.overlaps[metric], scores, *states, absorbed, (alphas[0], alphas[1]))


@dataclass(frozen=True)
class Score:
    """Average precision, and average orientation similarity, in per cent."""

    r11: float
    r40: float
    aos_r11: float
    aos_r40: float


def score(frames: Sequence[Frame], kind: str, difficulty: str, metric: Metric) -> Score:
    """Return the average precision of one class at one difficulty; zeros where there is nothing to find.

    Args:
        frames: Truth and detections.
        kind: Car, Pedestrian or Cyclist.
        difficulty: easy, moderate or hard.
        metric: bbox, bev or 3d; orientation is meant for bbox.
    """
    grade = DIFFICULTIES.index(difficulty)
    tasks = [_task(frame, kind, grade, metric) for frame in frames]
    threshold = OVERLAPS[kind]
    wanted = sum(task.wanted for task in tasks)
    gained = sorted((value for task in tasks for value in task.scores_of_hits(threshold)), reverse=True)
    curves = np.zeros((2, _POINTS))
    for place, least in enumerate(_score_steps(gained, wanted)[:_POINTS]):
        counts = [task.count(threshold, least) for task in tasks]
        hits, wrong, similar = (sum(column) for column in zip(*counts, strict=True))
        curves[:, place] = np.array([hits, similar]) / max(hits + wrong, 1)
    precision, orientation = 100 * np.maximum.accumulate(curves[:, ::-1], axis=1)[:, ::-1]
    return Score(
        float(precision[::4].mean()),
        float(precision[1:].mean()),
        float(orientation[::4].mean()),
        float(orientation[1:].mean()),
    )


def _score_steps(gained: Sequence[float], wanted: int) -> list[float]:
    """Scores, falling, at which recall comes nearest to multiples of 1/40."""
    steps, target = [], 0.0
    for place, value in enumerate(gained):
        now, following = (place + 1) / wanted, min(place + 2, len(gained)) / wanted
        if following - target < target - now and place < len(gained) - 1:
            continue
        steps.append(value)
        target += 1 / (_POINTS - 1)
    return steps
