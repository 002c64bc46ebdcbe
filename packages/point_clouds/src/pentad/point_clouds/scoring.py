"""The matches of frames, on disk and as scores: what evaluate writes and report compares models by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pentad.point_clouds import metrics_kitti, metrics_nuscenes, metrics_waymo
from pentad.point_clouds.frames import Objects

MATCHES, DETECTIONS = "matches.json", "detections.json"


@dataclass(frozen=True)
class Scored:
    """What one frame gives: matches by class, and by class and range; levels by class; KITTI's rows; all detections."""

    nuscenes: dict[str, metrics_nuscenes.Matches]
    ranges: dict[str, list[metrics_nuscenes.Matches]]
    waymo: dict[str, dict[int, metrics_waymo.Matches]]
    kitti: metrics_kitti.Frame | None = None
    found: Objects | None = None


def class_ap(frames: Sequence[Scored], kind: str) -> float:
    """Return a class's average precision over the four distances; NaN where there is nothing to find."""
    matches = [frame.nuscenes[kind] for frame in frames]
    if not any(match.truth for match in matches):
        return math.nan
    return metrics_nuscenes.class_scores(matches, errors=False).mean_ap


def mean_ap(frames: Sequence[Scored]) -> float:
    """Return the mean over the classes that there are."""
    found = np.array([class_ap(frames, kind) for kind in frames[0].nuscenes])
    return float(np.nanmean(found)) if np.isfinite(found).any() else math.nan


def nds(frames: Sequence[Scored]) -> float:
    """Return the nuScenes detection score."""
    return metrics_nuscenes.all_scores(
        {kind: [frame.nuscenes[kind] for frame in frames] for kind in frames[0].nuscenes}
    ).nds


def to_json(matches: Mapping[str, metrics_nuscenes.Matches]) -> dict[str, Any]:
    """Return the matches of one frame as they stand in ``matches.json``."""
    return {
        kind: {
            "truth": found.truth,
            "scores": [round(float(score), 8) for score in found.scores],
            "hits": {str(limit): hits.astype(int).tolist() for limit, hits in found.hits.items()},
        }
        for kind, found in matches.items()
    }


def from_json(stated: Mapping[str, Any]) -> Scored:
    """Return the matches of one frame as ``matches.json`` states them, without errors and ranges."""
    return Scored(
        {
            kind: metrics_nuscenes.Matches(
                int(entry["truth"]),
                np.array(entry["scores"], dtype=np.float64),
                {float(limit): np.array(hits, dtype=bool) for limit, hits in entry["hits"].items()},
            )
            for kind, entry in stated.items()
        },
        {},
        {},
    )
