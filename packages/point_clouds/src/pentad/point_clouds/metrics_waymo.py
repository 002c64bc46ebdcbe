"""Average precision by overlap in space, in the manner of Waymo's: AP and, weighted by heading, APH, at two levels.

Detections are matched greedily by falling score, each to the object of its class that it overlaps most, at least by
the class's threshold. Level 1: objects with more than 5 returns that nobody marked as level 2; level 2: all with one
return or more. At level 1 the harder objects are neutral: a detection on them counts neither way. Waymo's own
evaluator is compiled and matches in groups of scores; its figures differ in the third digit (not checked).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pentad.point_clouds.boxes import iou_3d
from pentad.point_clouds.frames import Objects

Array = NDArray[np.float64]

THRESHOLDS = {"car": 0.7, "vehicle": 0.7, "truck": 0.7, "bus": 0.7}
OTHERWISE = 0.5
_EASY_POINTS = 5


@dataclass(frozen=True)
class Matches:
    """What one frame gives for one class at one level.

    Attributes:
        truth: Number of objects to be found.
        scores: Of the detections that count, falling (n).
        hits: Which are true positives (n).
        headings: 1 - |heading error| / π of the true positives, 0 elsewhere (n).
    """

    truth: int
    scores: Array
    hits: NDArray[np.bool_]
    headings: Array


def levels(truth: Objects) -> NDArray[np.int64]:
    """Return each object's level: as stated, else 1 with more than 5 returns or uncounted ones, 2 with fewer, or 0."""
    by_points = np.where(truth.points < 0, 1, np.where(truth.points > _EASY_POINTS, 1, np.minimum(truth.points, 1) * 2))
    return np.where(truth.points == 0, 0, np.where(truth.levels > 0, truth.levels, by_points)).astype(np.int64)


def match(truth: Objects, found: Objects, kind: str) -> dict[int, Matches]:
    """Return the matches of one class in one frame at the levels 1 and 2."""
    grades = levels(truth)
    kept = np.array([name == kind for name in truth.classes], bool) & (grades > 0)
    real, grades = truth.take(kept), grades[kept]
    made = found.take(np.array([name == kind for name in found.classes], bool))
    made = made.take(np.argsort(-made.scores, kind="stable"))
    pair = (torch.from_numpy(np.ascontiguousarray(objects.boxes[:, :7])) for objects in (made, real))
    taken = _greedy(iou_3d(*pair).numpy(), THRESHOLDS.get(kind, OTHERWISE))
    hits = taken >= 0
    gap = np.zeros(len(made))
    gap[hits] = made.boxes[hits, 6] - real.boxes[taken[hits], 6]
    headings = np.where(hits, 1 - np.abs((gap + math.pi) % (2 * math.pi) - math.pi) / math.pi, 0)
    answer = {}
    for level in (1, 2):
        neutral = np.zeros(len(made), dtype=bool)
        neutral[hits] = grades[taken[hits]] > level
        chosen = ~neutral
        answer[level] = Matches(int((grades <= level).sum()), made.scores[chosen], hits[chosen], headings[chosen])
    return answer


def _greedy(overlap: Array, threshold: float) -> NDArray[np.int64]:
    """For each detection (rows, best first) the object it takes, or -1."""
    free = overlap.copy()
    taken = np.full(len(overlap), -1, dtype=np.int64)
    for row in range(len(overlap)):
        if free.shape[1] and free[row].max() >= threshold:
            taken[row] = int(np.argmax(free[row]))
            free[:, taken[row]] = -1
    return taken


def average_precision(frames: Sequence[Matches], *, heading: bool = False) -> float:
    """Return the area below the precision envelope over recall, 0 … 1; NaN where there is nothing to find.

    Args:
        frames: Matches of one class at one level.
        heading: Weight each true positive by its heading (APH).
    """
    truth = sum(frame.truth for frame in frames)
    if not truth:
        return math.nan
    scores = np.concatenate([frame.scores for frame in frames])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([frame.hits for frame in frames])[order]
    weights = np.concatenate([frame.headings for frame in frames])[order] if heading else hits.astype(np.float64)
    gained = np.cumsum(weights)
    # Detections of one score come in together, so that their order decides nothing.
    last = np.append(np.diff(scores[order]) != 0, True)[: len(scores)]
    gained, seen = gained[last], np.arange(1, len(scores) + 1)[last]
    envelope = np.maximum.accumulate((gained / seen)[::-1])[::-1]
    return float((np.diff(gained / truth, prepend=0.0) * envelope).sum())
