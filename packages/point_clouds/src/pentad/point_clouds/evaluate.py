"""Stage evaluate: a model and labelled frames in; a row a frame, and intervals by frame out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.errors import NoInputError
from pentad.core.evaluation import evaluate as evaluate_cases
from pentad.core.evaluation import make_room, to_entry, write_results
from pentad.core.files import digest_json, write_json
from pentad.core.metrics import statistic_interval
from pentad.core.run import provenance
from pentad.point_clouds import metrics_kitti, metrics_nuscenes, metrics_waymo
from pentad.point_clouds.frames import Objects, frame_of, to_objects
from pentad.point_clouds.labels import objects_to_kitti, objects_to_nuscenes, read_calibration, read_kitti
from pentad.point_clouds.predict import Predictor, load_predictor
from pentad.point_clouds.scoring import DETECTIONS, MATCHES, Scored, class_ap, mean_ap, nds, to_json

_AT = 2.0  # metres: the distance at which single frames are counted
_KITTI_IMAGE = (1242, 375)


@dataclass(frozen=True)
class EvaluateConfig:
    """Section ``evaluate`` of params.yaml.

    Attributes:
        ranges: Class to the distance in metres up to which it counts; those of nuScenes for classes not named.
        bins: Distances between which average precision is told apart.
        score: From which a detection counts in the figures of single frames.
        seed: Seed of the bootstrap intervals.
        resamples: Draws of the bootstrap.
    """

    ranges: dict[str, float] = field(default_factory=dict)
    bins: tuple[float, ...] = (0.0, 15.0, 30.0, 50.0)
    score: float = 0.3
    seed: int = 0
    resamples: int = 500


@dataclass(frozen=True)
class EvaluateRequest:
    """What to score, with what, and where to.

    Attributes:
        table: Case table.
        split: Split of it whose labelled frames are scored.
        model: Bundle folder or hub id.
        out: Folder of the results.
        params: With the section ``evaluate``.
        overrides: Changes to that section.
        device: auto, cpu, cuda or cuda:N.
        overwrite: Replace an earlier evaluation in ``out``.
    """

    table: Path
    split: str
    model: str
    out: Path
    params: Path
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    overwrite: bool = False


def evaluate(request: EvaluateRequest) -> tuple[str, int]:
    """Score a model on the labelled frames of a split; return a one-line summary and how many failed.

    Writes ``per_case.csv``, ``metrics.json``, ``matches.json`` (what `report` compares models by) and
    ``detections.json`` (all that was found, as nuScenes writes results, in the frame of the boxes).

    Raises:
        NoInputError: The split has no labelled frame (PTD-927).
        ModelError: The bundle cannot be used.
        UsageError: The folder is taken (PTD-938).
    """
    table, split, out = request.table, request.split, request.out
    config = load_params(request.params, "evaluate", EvaluateConfig, request.overrides)
    cases = [case for case in read_cases(table, split) if isinstance(case.target, dict) and "objects" in case.target]
    if not cases:
        raise NoInputError("PTD-927", f"no labelled frame of the split '{split}'", "name another split", table)
    predictor = load_predictor(request.model, request.device)
    make_room(out, ("metrics.json", MATCHES), "PTD-938", overwrite=request.overwrite)
    found: dict[str, Scored] = {}

    def score(case: Case) -> Mapping[str, float]:
        found[case.id] = score_case(predictor, case, config)
        return counts_of(found[case.id], config.score)

    rows = evaluate_cases(cases, score)
    scored = [row for row in rows if row.status == "ok"]
    summary = summarise([found[row.id] for row in scored], [row.group or row.id for row in scored], config)
    used = [case for case in cases if case.id in {row.id for row in scored}]
    roles = {role for case in used for role in case.files}
    statement = provenance(
        "point_clouds",
        seed=config.seed,
        model=predictor.digest,
        config=digest_json(to_mapping(config)),
        data=data_digest(used, roles),
    )
    write_json(out / MATCHES, {row.id: to_json(found[row.id].nuscenes) for row in scored})
    detections = {
        name: objects_to_nuscenes(entry.found, name) for name, entry in found.items() if entry.found is not None
    }
    write_json(out / DETECTIONS, detections)
    write_results(out, rows, summary, statement)
    failed = len(rows) - len(scored)
    text = f"{predictor.name}: {len(scored)} frames scored, {failed} failed"
    return (f"{text}; mean AP {summary['mean_ap']['value']:.3f}" if scored else text), failed


def score_case(predictor: Predictor, case: Case, config: EvaluateConfig) -> Scored:
    """Detect and match the objects of one case."""
    frame = frame_of(case)
    truth, detected = to_objects(frame), predictor.detect(frame).objects
    scored = score_frame(truth, detected, predictor.settings.classes, config)
    if {"label", "calib"} <= case.files.keys():
        calibration = read_calibration(Path(case.files["calib"]))
        answer = objects_to_kitti(detected, calibration, _KITTI_IMAGE)
        kitti = metrics_kitti.Frame(read_kitti(Path(case.files["label"])), answer)
        return replace(scored, kitti=kitti, found=detected)
    return replace(scored, found=detected)


def score_frame(truth: Objects, detected: Objects, classes: Sequence[str], config: EvaluateConfig) -> Scored:
    """Match detections with truth by every rule but KITTI's."""
    real, made = metrics_nuscenes.counted(truth, detected, {**metrics_nuscenes.CLASS_RANGES, **config.ranges})
    spans = list(itertools.pairwise(config.bins))
    return Scored(
        {kind: metrics_nuscenes.match(real, made, kind) for kind in classes},
        {
            kind: [metrics_nuscenes.match(_between(real, *span), _between(made, *span), kind) for span in spans]
            for kind in classes
        },
        {kind: metrics_waymo.match(real, made, kind) for kind in classes},
    )


def _between(objects: Objects, low: float, high: float) -> Objects:
    away = np.hypot(objects.boxes[:, 0], objects.boxes[:, 1])
    return objects.take((away >= low) & (away < high))


def counts_of(scored: Scored, score: float) -> dict[str, float]:
    """Return F1 at 2 m by class, NaN where there is nothing to find and nothing found, and the numbers behind it."""
    figures: dict[str, float] = {}
    for kind, matches in scored.nuscenes.items():
        kept = matches.scores >= score
        hits = int((matches.hits[_AT] & kept).sum())
        total = matches.truth + int(kept.sum())
        figures[f"{kind}_f1"] = 2 * hits / total if total else math.nan
        figures |= {f"{kind}_objects": matches.truth, f"{kind}_found": int(kept.sum()), f"{kind}_hits": hits}
    return figures


def summarise(frames: Sequence[Scored], groups: Sequence[str], config: EvaluateConfig) -> dict[str, Any]:
    """Return every metric over all frames, the main ones with intervals drawn by group of frames."""
    if not frames:
        return {}

    def interval(statistic: Callable[[Sequence[Scored]], float]) -> dict[str, float | int | None]:
        def over(places: NDArray[np.intp]) -> float:
            return statistic([frames[place] for place in places])

        drawn = statistic_interval(over, len(frames), seed=config.seed, groups=groups, resamples=config.resamples)
        return to_entry(drawn)

    classes = list(frames[0].nuscenes)
    summary: dict[str, Any] = {"mean_ap": interval(mean_ap), "nds": interval(nds)}
    for kind in classes:
        summary[f"{kind}_ap"] = interval(lambda drawn, kind=kind: class_ap(drawn, kind))  # type: ignore[misc]
        for level in (1, 2):
            for name, heading in (("ap", False), ("aph", True)):
                summary[f"{kind}_l{level}_{name}"] = interval(
                    lambda drawn, kind=kind, level=level, heading=heading: metrics_waymo.average_precision(  # type: ignore[misc]
                        [frame.waymo[kind][level] for frame in drawn], heading=heading
                    )
                )
    whole = metrics_nuscenes.all_scores({kind: [frame.nuscenes[kind] for frame in frames] for kind in classes})
    summary["ap_by_distance"] = {kind: _rounded(found.ap) for kind, found in whole.classes.items()}
    summary["errors"] = {kind: _rounded(found.errors) for kind, found in whole.classes.items()}
    summary["ap_by_range"] = {kind: _by_range(frames, kind, config.bins) for kind in classes}
    if all(frame.kitti is not None for frame in frames):
        summary["kitti"] = _kitti([frame.kitti for frame in frames if frame.kitti is not None])
    return summary


def _by_range(frames: Sequence[Scored], kind: str, bins: Sequence[float]) -> dict[str, dict[str, float | int]]:
    answer: dict[str, dict[str, float | int]] = {}
    for place, (low, high) in enumerate(itertools.pairwise(bins)):
        matches = [frame.ranges[kind][place] for frame in frames]
        count = sum(match.truth for match in matches)
        if count:
            value = metrics_nuscenes.class_scores(matches, errors=False).mean_ap
            answer[f"{low:g} to {high:g} m"] = {"ap": round(value, 6), "objects": count}
    return answer


def _kitti(frames: Sequence[metrics_kitti.Frame]) -> dict[str, Any]:
    """Average precisions in per cent by class, metric and difficulty; classes without an object are left out."""
    present = {row.kind for frame in frames for row in frame.truth}
    return {
        kind: {
            metric: {
                difficulty: {"R11": round(found.r11, 4), "R40": round(found.r40, 4)}
                for difficulty in metrics_kitti.DIFFICULTIES
                for found in [metrics_kitti.score(frames, kind, difficulty, metric)]
            }
            for metric in metrics_kitti.METRICS
        }
        for kind in metrics_kitti.OVERLAPS
        if kind in present
    }


def _rounded(values: Mapping[Any, float]) -> dict[str, float]:
    return {str(name): round(value, 6) for name, value in values.items()}
