"""Stage report: evaluations side by side, with paired differences, a page, plots and the pipeline's metrics.json."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pentad.audio.statement import Statement
from pentad.core import side_by_side
from pentad.core.evaluation import from_entry
from pentad.core.files import write_json, write_text
from pentad.core.report import SYNTHETIC, Block, Cell, Figure, Table, Text, draw_intervals, write_page
from pentad.core.side_by_side import (
    draw_training,
    overview,
    paired_differences,
    per_case_csv,
    read_histories,
    training_csv,
)
from pentad.core.statement import read_statement

HEADLINE = ("accuracy", "mean_average_precision", "event_f1", "segment_f1")
SHOWN = (
    *("accuracy", "mean_average_precision", "auc", "d_prime"),
    *("event_f1", "event_f1_macro", "segment_f1", "segment_f1_macro"),
)
PAIRED = ("accuracy", "event_f1_of_case")


class Evaluation(side_by_side.Evaluation):
    """What the stage evaluate left for one model."""

    def events(self) -> dict[str, list[tuple[str, str, str]]]:
        """Onset, offset and label as written, by recording."""
        found: dict[str, list[tuple[str, str, str]]] = {row.id: [] for row in self.rows}
        with (self.folder / "events.csv").open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                found.setdefault(line["id"], []).append((line["onset_s"], line["offset_s"], line["label"]))
        return found


def report(
    table: Path, evaluations: Sequence[Path], out: Path, *, predictions: Path | None = None, runs: Path | None = None
) -> str:
    """Write ``metrics.json``, ``report/index.html`` and the plots' tables below ``out``; return one line.

    Args:
        table: The case table, for what the data are.
        evaluations: Folders of the stage evaluate; the first is the model of interest, compared with each other.
        out: The pipeline's folder.
        predictions: Run folder of predict; its events must equal those that were scored.
        runs: Folder with ``<model>/history.jsonl``.
    """
    found = [Evaluation.read(folder) for folder in evaluations]
    first, *others = found
    data = read_statement(table, Statement)
    paired = paired_differences(first, others, PAIRED)
    headline = [name for name in HEADLINE if name in first.metrics]
    metrics = overview("audio", found, paired, headline, synthetic=data.synthetic)
    shipped = _shipped(first, predictions) if predictions else None
    if shipped is not None:
        metrics["shipped"] = shipped
    write_json(out / "metrics.json", metrics)
    write_text(out / "report" / "per_case.csv", per_case_csv([(entry.name, entry.rows) for entry in found], PAIRED))
    histories = read_histories(runs, [entry.name for entry in found]) if runs else {}
    write_text(out / "report" / "training.csv", training_csv(histories))
    blocks = _blocks(data, found, paired, shipped, histories)
    write_page(
        out / "report" / "index.html", data.name, blocks, metrics["provenance"], subtitle="Sound tagging and events"
    )
    return f"{len(found)} models on {first.metrics['cases']['scored']} cases; see {out / 'report' / 'index.html'}"


def _shipped(scored: Evaluation, run: Path) -> dict[str, int]:
    """How many recordings that predict delivered have other events than those that were scored."""
    reference, cases, different = scored.events(), 0, 0
    for file in sorted((run / "cases").glob("*/events.csv")):
        if file.parent.name not in reference:
            continue
        with file.open(encoding="utf-8", newline="") as stream:
            delivered = [(line["onset_s"], line["offset_s"], line["label"]) for line in csv.DictReader(stream)]
        cases, different = cases + 1, different + (delivered != reference[file.parent.name])
    return {"cases": cases, "differing_cases": different}


def _blocks(
    data: Statement,
    found: Sequence[Evaluation],
    paired: Mapping[str, Mapping[str, Any]],
    shipped: Mapping[str, int] | None,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[Block]:
    blocks: list[Block] = [SYNTHETIC] if data.synthetic else []
    rows: list[list[Cell]] = [
        [name, *(from_entry(entry.metrics[name]) for entry in found)] for name in SHOWN if name in found[0].metrics
    ]
    note = (
        "With 95 % bootstrap intervals over recordings. Accuracy: the highest-scored class is among the labels. "
        "Events: onset within 0.2 s, offset within 0.2 s or half the event's length. Segments: one second."
    )
    blocks.append(Table(["metric", *(entry.name for entry in found)], rows, "Held-out recordings", note))
    for pair, entries in paired.items():
        intervals = {name: from_entry(entry) for name, entry in entries.items()}
        caption = f"{pair}: mean paired difference; an interval that holds 0 shows no difference."
        blocks.append(Figure(draw_intervals(intervals, pair), alt=caption, caption=caption))
    blocks.append(_by_class(found))
    if histories:
        blocks.append(
            Figure(draw_training(histories), alt="Training loss by step of each model", caption="Training loss")
        )
    if shipped:
        sentence = (
            f"Batch inference delivered {shipped['cases']} of the scored recordings; the events of "
            f"{shipped['differing_cases']} differ from what was scored."
        )
        blocks.append(Text("Scored is shipped", [sentence]))
    worst: list[list[Cell]] = [
        [row.id, row.status, *(row.metrics.get(name, float("nan")) for name in PAIRED), row.reason]
        for row in sorted(found[0].rows, key=lambda row: (row.metrics.get("event_f1_of_case", -1.0), row.id))
    ]
    return [*blocks, Table(["case", "status", *PAIRED, "reason"], worst, f"{found[0].name}, worst first")]


def _by_class(found: Sequence[Evaluation]) -> Table:
    names = list(found[0].metrics.get("average_precision", {}))
    rows: list[list[Cell]] = [
        [name, *(entry.metrics.get("average_precision", {}).get(name) for entry in found)] for name in names
    ]
    return Table(["class", *(entry.name for entry in found)], rows, "Average precision of each class")
