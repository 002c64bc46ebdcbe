"""The nuScenes detection metric: average precision by distance in the ground plane, true-positive errors, NDS.

Matching needs one frame at a time, so it is done once; scores over any choice of frames, as a bootstrap draws them,
are then computed from the matches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pentad.point_clouds.frames import Objects

Array = NDArray[np.float64]

DISTANCES = (0.5, 1.0, 2.0, 4.0)
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
CLASS_RANGES = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "cyclist": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
"""Metres from the vehicle, beyond which neither truth nor detections of a class count."""
UNDEFINED = {
    "traffic_cone": ("orient_err", "vel_err", "attr_err"),
    "barrier": ("vel_err", "attr_err"),
}
_ERROR_DISTANCE = 2.0
_RECALLS = np.linspace(0, 1, 101)
_FIRST = 11  # the first recall above 0.1
_LEAST_PRECISION = 0.1
_MOST_BOXES = 500


@dataclass(frozen=True)
class Matches:
    """What one frame gives for one class.

    Attributes:
        truth: Number of objects to be found.
        scores: Of the detections, falling (n).
        hits: Distance threshold to which of them are true positives (n).
        errors: Error to its value for the detections that are hits at 2 m (hits), NaN where undefined.
    """

    truth: int
    scores: Array
    hits: Mapping[float, NDArray[np.bool_]]
    errors: Mapping[str, Array] = field(default_factory=dict)


def counted(truth: Objects, found: Objects, ranges: Mapping[str, float] | None = None) -> tuple[Objects, Objects]:
    """Return truth and detections that count: in their class's range, truth with a point, the 500 best detections."""
    limits = CLASS_RANGES if ranges is None else ranges

    def near(objects: Objects) -> NDArray[np.bool_]:
        limit = np.array([limits.get(kind, math.inf) for kind in objects.classes])
        return np.asarray(np.hypot(objects.boxes[:, 0], objects.boxes[:, 1]) < limit)

    kept = truth.take(near(truth) & (truth.points != 0))
    best = found.take(np.argsort(-found.scores, kind="stable")[:_MOST_BOXES])
    return kept, best.take(near(best))


def match(truth: Objects, found: Objects, kind: str) -> Matches:
    """Return the matches of one class in one frame: by falling score, each detection takes the nearest free object.

    Of equal scores the later one goes first, as in the devkit.
    """
    real, made = (
        objects.take(np.array([name == kind for name in objects.classes], bool)) for objects in (truth, found)
    )
    order = np.lexsort((np.arange(len(made)), made.scores))[::-1]
    made = made.take(order)
    gaps = np.hypot(*(made.boxes[:, None, axis] - real.boxes[None, :, axis] for axis in (0, 1)))
    hits = {}
    pairs: list[tuple[int, int]] = []
    for limit in DISTANCES:
        taken = _greedy(gaps, limit)
        hits[limit] = taken >= 0
        if limit == _ERROR_DISTANCE:
            pairs = [(k, int(place)) for k, place in enumerate(taken) if place >= 0]
    return Matches(len(real), made.scores, hits, _errors(real, made, pairs, kind))


def _greedy(gaps: Array, limit: float) -> NDArray[np.int64]:
    """For each detection (rows, best first) the object it takes, or -1."""
    free = gaps.copy()
    taken = np.full(len(gaps), -1, dtype=np.int64)
    for row in range(len(gaps)):
        if not free.shape[1]:
            break
        nearest = int(np.argmin(free[row]))
        if free[row, nearest] < limit:
            taken[row] = nearest
            free[:, nearest] = np.inf
    return taken


def _errors(real: Objects, made: Objects, pairs: Sequence[tuple[int, int]], kind: str) -> dict[str, Array]:
    mine = made.boxes[[k for k, _ in pairs]]
    true = real.boxes[[place for _, place in pairs]]
    period = math.pi if kind == "barrier" else 2 * math.pi
    turned = np.abs((mine[:, 6] - true[:, 6] + period / 2) % period - period / 2)
    shared = np.minimum(mine[:, 3:6], true[:, 3:6]).prod(axis=1)
    united = mine[:, 3:6].prod(axis=1) + true[:, 3:6].prod(axis=1) - shared
    attributes = [
        math.nan if not real.attributes[place] else float(real.attributes[place] != made.attributes[k])
        for k, place in pairs
        if real.attributes and made.attributes
    ]
    found = {
        "trans_err": np.hypot(mine[:, 0] - true[:, 0], mine[:, 1] - true[:, 1]),
        "scale_err": 1 - shared / united,
        "orient_err": turned,
        "vel_err": np.hypot(mine[:, 7] - true[:, 7], mine[:, 8] - true[:, 8]),
        "attr_err": np.array(attributes or [math.nan] * len(pairs), dtype=np.float64),
    }
    return {name: values for name, values in found.items() if name not in UNDEFINED.get(kind, ())}


@dataclass(frozen=True)
class ClassScores:
    """What all frames give for one class: average precision by distance, and errors."""

    ap: dict[float, float]
    errors: dict[str, float]

    @property
    def mean_ap(self) -> float:
        """Return the mean over the distances."""
        return float(np.mean(list(self.ap.values())))


def class_scores(frames: Sequence[Matches], *, errors: bool = True) -> ClassScores:
    """Return average precisions and errors of one class over frames; 0 and 1 where there is nothing to find."""
    truth = sum(frame.truth for frame in frames)
    scores = np.concatenate([frame.scores for frame in frames]) if frames else np.zeros(0)
    order = np.lexsort((np.arange(len(scores)), scores))[::-1]
    ap = {}
    for limit in DISTANCES:
        hits = np.concatenate([frame.hits[limit] for frame in frames])[order] if frames else np.zeros(0, bool)
        ap[limit] = _average_precision(hits, truth)
    names = [name for name in ERRORS if not frames or name in frames[0].errors]
    if not errors:
        return ClassScores(ap, {})
    return ClassScores(ap, {name: _error(frames, scores, order, truth, name) for name in names})


def _average_precision(hits: NDArray[np.bool_], truth: int) -> float:
    if not truth or not hits.any():
        return 0.0
    found = np.cumsum(hits)
    precision = np.interp(_RECALLS, found / truth, found / np.arange(1, len(hits) + 1), right=0)
    return float(np.clip(precision[_FIRST:] - _LEAST_PRECISION, 0, None).mean() / (1 - _LEAST_PRECISION))


def _error(frames: Sequence[Matches], scores: Array, order: NDArray[np.intp], truth: int, name: str) -> float:
    """The running mean of an error along falling score, taken at the 101 recalls and averaged over those reached."""
    hits = np.concatenate([frame.hits[_ERROR_DISTANCE] for frame in frames])
    if not truth or not hits.any():
        return 1.0
    values = np.full(len(hits), np.nan)
    values[hits] = np.concatenate([frame.errors[name] for frame in frames])
    hits, values, scores = hits[order], values[order], scores[order]
    reached = np.interp(_RECALLS, np.cumsum(hits) / truth, scores, right=0)
    last = int(np.flatnonzero(reached)[-1]) if reached.any() else 0
    if last < _FIRST:
        return 1.0
    running = _running_mean(values[hits])
    resampled = np.interp(reached[::-1], scores[hits][::-1], running[::-1])[::-1]
    return float(resampled[_FIRST : last + 1].mean())


def _running_mean(values: Array) -> Array:
    """Mean of the values so far that are known; 1 throughout where none is."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    counts = np.cumsum(known)
    return np.asarray(np.divide(np.nancumsum(values), counts, out=np.zeros(len(values)), where=counts > 0))


@dataclass(frozen=True)
class Scores:
    """The whole metric: mean average precision, mean errors, and NDS."""

    classes: dict[str, ClassScores]
    mean_ap: float
    errors: dict[str, float]
    nds: float


def all_scores(frames: Mapping[str, Sequence[Matches]]) -> Scores:
    """Return the metric over classes, each with its frames' matches.

    An error that no class defines counts as 1 in NDS, as one that is never reached does.
    """
    classes = {kind: class_scores(matches) for kind, matches in frames.items()}
    mean_ap = float(np.mean([found.mean_ap for found in classes.values()]))
    errors = {}
    for name in ERRORS:
        known = [found.errors[name] for found in classes.values() if name in found.errors]
        errors[name] = float(np.mean(known)) if known else math.nan
    gains = [max(0.0, 1 - error) if not math.isnan(error) else 0.0 for error in errors.values()]
    return Scores(classes, mean_ap, errors, (5 * mean_ap + sum(gains)) / 10)
