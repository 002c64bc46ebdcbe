"""Stage report: evaluations side by side, with paired differences, a page and the pipeline's metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pentad.core import side_by_side
from pentad.core.evaluation import from_entry
from pentad.core.files import write_json, write_text
from pentad.core.report import SYNTHETIC, Block, Cell, Figure, Table, Text, draw_intervals, write_page
from pentad.core.side_by_side import overview, paired_differences, per_case_csv
from pentad.core.statement import read_statement
from pentad.remote_sensing.shipped import compare_shipped
from pentad.remote_sensing.statement import Statement
from pentad.remote_sensing.tasks import Task, task_named

_SUBTITLES = {
    "bcd": "Building change between two dates",
    "scd": "Changed land cover between two dates",
    "bda": "Building damage between two dates",
}


class Evaluation(side_by_side.Evaluation):
    """What the stage evaluate left for one model."""

    @property
    def task(self) -> Task:
        """What it is an evaluation of."""
        return task_named(str(self.metrics["task"]))


def report(table: Path, evaluations: Sequence[Path], out: Path, predictions: Path | None = None) -> str:
    """Write ``metrics.json``, ``report/index.html`` and ``report/per_case.csv`` below ``out``; return one line.

    Args:
        table: The case table; beside it stands what the data are.
        evaluations: Folders of the stage evaluate; the first is the model of interest.
        out: The pipeline's folder.
        predictions: Folder of a run of predict, whose maps are compared with what was scored.
    """
    found = [Evaluation.read(folder) for folder in evaluations]
    first, *others = found
    about = read_statement(table, Statement)
    paired = paired_differences(first, others, first.task.headline)
    headline = [f"{name}_pooled" for name in first.task.headline]
    common = overview("remote_sensing", found, paired, headline, synthetic=about.synthetic)
    metrics = {"data": common["data"], "task": first.task.name, **common}
    if predictions:
        metrics["shipped"] = compare_shipped(table, first.rows, first.task, predictions)
    write_json(out / "metrics.json", metrics)
    write_text(
        out / "report" / "per_case.csv",
        per_case_csv([(entry.name, entry.rows) for entry in found], first.task.headline),
    )
    blocks = _blocks(found, paired, synthetic=about.synthetic)
    if shipped := metrics.get("shipped"):
        words = (
            f"Batch inference delivered {shipped['cases']} of the scored scenes; {shipped['differing_cases']} of its "
            "masks differ from what was scored."
        )
        blocks.append(Text("Delivered maps", [words]))
    page = out / "report" / "index.html"
    write_page(page, about.name, blocks, metrics["provenance"], subtitle=_SUBTITLES[first.task.name])
    return f"{len(found)} models on {first.metrics['cases']['scored']} scenes; see {page}"


def _blocks(found: Sequence[Evaluation], paired: Mapping[str, Mapping[str, Any]], *, synthetic: bool) -> list[Block]:
    blocks: list[Block] = [SYNTHETIC] if synthetic else []
    task = found[0].task
    shown = (*(f"{name}_pooled" for name in task.metrics), *task.headline)
    rows: list[list[Cell]] = [
        [name, *(from_entry(entry.metrics[name]) for entry in found)] for name in shown if name in found[0].metrics
    ]
    note = (
        "With a 95 % bootstrap interval drawn by group of scenes; pooled: over all pixels of all scenes, else the "
        "mean over scenes that hold something to find. differencing needs no weights."
    )
    blocks.append(Table(["metric", *(entry.name for entry in found)], rows, "Held-out scenes", note))
    for pair, entries in paired.items():
        intervals = {name: from_entry(entry) for name, entry in entries.items()}
        caption = f"{pair}: mean paired difference; an interval that holds 0 shows no difference."
        blocks.append(Figure(draw_intervals(intervals, pair), alt=caption, caption=caption))
    ranked = sorted(found[0].rows, key=lambda row: row.metrics.get(task.headline[0], -1.0))
    cells: list[list[Cell]] = [
        [row.id, row.status, *(row.metrics.get(name, float("nan")) for name in task.headline), row.reason]
        for row in ranked
    ]
    blocks.append(Table(["scene", "status", *task.headline, "reason"], cells, f"{found[0].name}, worst first"))
    return blocks
