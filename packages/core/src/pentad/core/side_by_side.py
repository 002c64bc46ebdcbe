"""What every pipeline's report writes of its models side by side: values a case, and the course of each training."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from pentad.core.evaluation import Row
from pentad.core.report import style

History = Sequence[Mapping[str, float]]
"""The records of a run's history.jsonl."""


def per_case_csv(models: Iterable[tuple[str, Sequence[Row]]], metrics: Sequence[str], *, digits: int = 6) -> str:
    """Return a CSV with a row a model and case: ``model``, ``id`` and the metrics, ``nan`` where a case has none.

    Args:
        models: Name and rows of each model.
        metrics: Columns.
        digits: Significant digits of a value.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "id", *metrics])
    for name, rows in models:
        for row in rows:
            values = (row.metrics.get(metric, math.nan) for metric in metrics)
            writer.writerow([name, row.id, *(f"{value:.{digits}g}" for value in values)])
    return text.getvalue()


def read_histories(runs: Path, names: Iterable[str]) -> dict[str, list[dict[str, float]]]:
    """Return the history of each model that was trained; a baseline without weights has none.

    Args:
        runs: Folder with a run's folder a model.
        names: Of the models.
    """
    files = {name: runs / name / "history.jsonl" for name in names}
    return {
        name: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for name, file in files.items()
        if file.is_file()
    }


def training_csv(histories: Mapping[str, History]) -> str:
    """Return a CSV with a row a model and step at which the loss was noted: ``model``, ``step``, ``loss``."""
    lines = [f"{name},{int(step)},{loss:.6g}" for name, history in histories.items() for step, loss in _losses(history)]
    return "\n".join(["model,step,loss", *lines]) + "\n"


def draw_training(histories: Mapping[str, History], label: str = "loss") -> Drawing:
    """Draw each model's loss by step.

    Args:
        histories: Of the models.
        label: What the loss is.
    """
    with style():
        drawing = Drawing(figsize=(6.5, 2.6), layout="constrained")
        axes = drawing.subplots()
        for name, history in histories.items():
            axes.plot(*zip(*_losses(history), strict=True), label=name)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.legend()
    return drawing


def _losses(history: History) -> list[tuple[float, float]]:
    return [(entry["step"], entry["loss"]) for entry in history if entry.get("loss") is not None]
