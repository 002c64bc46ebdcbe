"""Whether the maps that batch inference delivered are those that were scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from pentad.core.cases import Case, read_cases
from pentad.core.evaluation import Row
from pentad.remote_sensing.losses import IGNORED
from pentad.remote_sensing.metrics import binary, confusion
from pentad.remote_sensing.tasks import Task

_SAME = 1e-6  # of a score; a table keeps eight digits


def compare_shipped(table: Path, rows: Sequence[Row], task: Task, predictions: Path) -> dict[str, int]:
    """Return how many scored cases were delivered, and of how many the delivered mask scores differently.

    Args:
        table: The case table with the labels.
        rows: What was scored.
        task: Of both.
        predictions: Folder of a run of predict.
    """
    cases = {case.id: case for case in read_cases(table)}
    delivered = different = 0
    for row in rows:
        path = predictions / "cases" / row.id / f"{task.mask}.tif"
        if row.status == "ok" and path.is_file():
            delivered += 1
            scored, shipped = row.metrics[task.located], _score(path, cases[row.id], task)
            different += not (np.isnan(scored) or abs(scored - shipped) <= _SAME)
    return {"cases": delivered, "differing_cases": different}


def _score(mask: Path, case: Case, task: Task) -> float:
    """F1 of a delivered mask against the case's labels."""
    with rasterio.open(mask) as source:
        found = source.read(1)
    labels = []
    for role in task.roles:
        with rasterio.open(case.files[role]) as source:
            labels.append(source.read(1))
    known = (found != IGNORED) & (np.stack(labels) != IGNORED).all(axis=0)
    truth = (labels[0] > 0)[known].astype(np.int64)
    return binary(confusion(found[known].astype(np.int64), truth, 2))["f1"]
