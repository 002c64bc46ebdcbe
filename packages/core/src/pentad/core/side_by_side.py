"""What every pipeline's report writes of its models side by side: their metrics, values a case, and trainings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from matplotlib.figure import Figure as Drawing

from pentad.core.evaluation import Row, compare, read_json, read_rows
from pentad.core.report import style
from pentad.core.run import code_version

History = Sequence[Mapping[str, float]]
"""The records of a run's history.jsonl."""


@dataclass(frozen=True)
class Evaluation:
    """What the stage evaluate left for one model; a domain derives from it what more its own leaves.

    Attributes:
        name: That of the folder.
        folder: Where it lies.
        rows: Of per_case.csv.
        metrics: Of metrics.json.
    """

    name: str
    folder: Path
    rows: list[Row]
    metrics: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the evaluation in ``folder``.

        Raises:
            UsageError: There is none.
        """
        return cls(folder.name, folder, read_rows(folder / "per_case.csv"), read_json(folder / "metrics.json"))

    @property
    def seed(self) -> int:
        """Of its intervals."""
        return int(self.metrics["provenance"].get("seed", 0))


def paired_differences(
    first: Evaluation, others: Iterable[Evaluation], metrics: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return the mean differences a case, with intervals, of one model less each other, by ``first - other``.

    Args:
        first: The model of interest.
        others: What it is compared with.
        metrics: Of a case; others are left out.
    """
    return {
        f"{first.name} - {other.name}": {
            name: entry for name, entry in compare(first.rows, other.rows, first.seed).items() if name in metrics
        }
        for other in others
    }


def overview(
    domain: str, found: Sequence[Evaluation], paired: Mapping[str, Any], headline: Iterable[str], *, synthetic: bool
) -> dict[str, Any]:
    """Return what every pipeline's metrics.json holds.

    Args:
        domain: Whose code wrote the report, such as ``point_clouds``.
        found: The evaluations, the model of interest first.
        paired: Differences by pair of models.
        headline: Metrics for the table of results.
        synthetic: Whether the data are.
    """
    return {
        "data": "synthetic" if synthetic else "real",
        "headline": ", ".join(headline),
        "models": {
            entry.name: {key: value for key, value in entry.metrics.items() if key != "provenance"} for entry in found
        },
        "paired_difference": paired,
        "provenance": {
            "code": code_version(domain),
            "models": {entry.name: entry.metrics["provenance"].get("model", "") for entry in found},
        },
    }


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
