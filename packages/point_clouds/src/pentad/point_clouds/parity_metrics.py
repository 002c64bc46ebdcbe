"""Golden figures of the nuScenes and KITTI metrics against this package, for ``pentad parity``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pentad.core.errors import UsageError
from pentad.point_clouds import metrics_kitti, metrics_nuscenes
from pentad.point_clouds.frames import Objects, make_objects
from pentad.point_clouds.labels import KittiRow

if TYPE_CHECKING:
    import torch

Rows = list[tuple[str, float, float]]

TOLERANCE = 1e-9


def pointcloud(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of metrics, errors as they are; always in float64.

    Raises:
        UsageError: The file's rules differ from those built here (PTD-933).
    """
    rows: Rows = []
    if "nuscenes" in spec:
        rows += _nuscenes(spec["nuscenes"])
    if "kitti" in spec:
        rows += _kitti(spec["kitti"])
    return rows


def _nuscenes(part: Mapping[str, Any]) -> Rows:
    stated = part["config"]
    if tuple(stated["dist_ths"]) != metrics_nuscenes.DISTANCES or stated["dist_th_tp"] != 2.0:
        raise UsageError("PTD-933", f"distances of {stated['dist_ths']} m", "give nuScenes' 0.5, 1, 2 and 4 m")
    names = part["class_names"]
    samples = sorted({row[0] for row in (*part["ground_truth"], *part["prediction"])})
    frames = [
        (
            _objects([row for row in part["ground_truth"] if row[0] == sample], names),
            _objects([row for row in part["prediction"] if row[0] == sample], names),
        )
        for sample in samples
    ]
    matches = {kind: [metrics_nuscenes.match(*frame, kind) for frame in frames] for kind in names}
    found, expected = metrics_nuscenes.all_scores(matches), part["expected"]
    ap = [
        found.classes[kind].ap[float(limit)] - value
        for kind, values in expected["ap"].items()
        for limit, value in values.items()
    ]
    errors = [
        found.classes[kind].errors[name] - value
        for kind, values in expected["tp_error"].items()
        for name, value in values.items()
        if value is not None
    ]
    means = [found.errors[name] - value for name, value in expected["tp_errors"].items()]
    whole = [found.mean_ap - expected["mean_ap"], found.nds - expected["nd_score"]]
    stages = {"ap": ap, "tp_error": errors, "tp_errors": means, "mean_ap and nd_score": whole}
    return [(f"nuscenes.{name}", _largest(gaps), TOLERANCE) for name, gaps in stages.items()]


def _objects(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> Objects:
    """sample, class, x, y, z, width, length, height, yaw, vx, vy, attribute[, score]."""
    table = [[row[2], row[3], row[4], row[6], row[5], row[7], row[8], row[9], row[10]] for row in rows]
    return make_objects(
        np.array(table, dtype=np.float64).reshape(-1, 9),
        tuple(names[row[1]] for row in rows),
        scores=np.array([row[12] if len(row) > 12 else 1.0 for row in rows]),
        attributes=tuple(row[11] for row in rows),
    )


def _kitti(part: Mapping[str, Any]) -> Rows:
    frames = [
        metrics_kitti.Frame(
            [_truth(row[1:]) for row in part["ground_truth"] if row[0] == number],
            [_found(row[1:]) for row in part["prediction"] if row[0] == number],
        )
        for number in range(part["frames"])
    ]
    gaps: dict[str, list[float]] = {}
    for metric in metrics_kitti.METRICS:
        for kind, values in part["expected"][metric].items():
            for difficulty, value in values.items():
                found = metrics_kitti.score(frames, kind, difficulty, metric)
                gaps.setdefault(metric, []).extend((found.r11 - value["R11"], found.r40 - value["R40"]))
                if metric == "bbox":
                    angles = part["expected"]["aos"][kind][difficulty]
                    gaps.setdefault("aos", []).extend((found.aos_r11 - angles["R11"], found.aos_r40 - angles["R40"]))
    return [(f"kitti.{name}", _largest(differences), TOLERANCE) for name, differences in gaps.items()]


def _truth(row: Sequence[Any]) -> KittiRow:
    """Name, truncated, occluded, alpha, 2-D box, length, height, width, x, y, z, rotation_y."""
    return KittiRow(
        row[0], row[1], row[2], row[3], tuple(row[4:8]), (row[9], row[10], row[8]), tuple(row[11:14]), row[14]
    )


def _found(row: Sequence[Any]) -> KittiRow:
    """Name, alpha, 2-D box, length, height, width, x, y, z, rotation_y, score."""
    size = (row[7], row[8], row[6])
    return KittiRow(row[0], -1, -1, row[1], tuple(row[2:6]), size, tuple(row[9:12]), row[12], row[13])


def _largest(gaps: Sequence[float]) -> float:
    return float(np.abs(gaps).max())
