"""Stage report: evaluations side by side, with paired differences, calibration and bias, a page and metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from pentad.core import side_by_side
from pentad.core.evaluation import Row, from_entry, read_json, to_entry
from pentad.core.files import write_json, write_text
from pentad.core.metrics import Interval, bootstrap_interval
from pentad.core.report import SYNTHETIC, Block, Cell, Figure, Notice, Table, Text, draw_intervals, style, write_page
from pentad.core.side_by_side import draw_training, overview, per_case_csv, read_histories, training_csv
from pentad.core.statement import read_statement
from pentad.nlp import metrics
from pentad.nlp.statement import Statement

HEADLINES = {
    "entities": ("f1", "f1_partial", "f1_macro", "calibration_error"),
    "classes": ("macro_f1", "accuracy", "auroc", "auprc", "calibration_error"),
}
TITLES = {"entities": "Named entities", "classes": "Classes of posts"}


class Evaluation(side_by_side.Evaluation):
    """What the stage evaluate left for one model."""

    def json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """Return one of its JSON files; empty if it is optional and not there.

        Raises:
            UsageError: It is not there.
        """
        path = self.folder / name
        content: dict[str, Any] = {} if optional and not path.is_file() else read_json(path)
        return content

    def scored(self) -> dict[str, Row]:
        """Rows of the documents that were scored, by id."""
        return {row.id: row for row in self.rows if row.status == "ok"}


def report(
    table: Path, evaluations: Sequence[Path], out: Path, *, predictions: Path | None = None, runs: Path | None = None
) -> str:
    """Write ``metrics.json``, ``report/index.html`` and the plots' tables below ``out``; return one line.

    Args:
        table: The case table, for what the data are.
        evaluations: Folders of the stage evaluate; the first is the model of interest, compared with each other.
        out: The pipeline's folder.
        predictions: Run folder of predict over the same documents; what it delivered must equal what was scored.
        runs: Folder with ``<model>/history.jsonl``.
    """
    found = [Evaluation.read(folder) for folder in evaluations]
    first, *others = found
    data = read_statement(table, Statement)
    paired = {f"{first.name} - {other.name}": _difference(first, other, data, first.seed) for other in others}
    content = overview("nlp", found, paired, HEADLINES[data.task], synthetic=data.synthetic)
    provenance = content.pop("provenance")
    content["bias"] = {entry.name: bias for entry in found if (bias := entry.json("bias.json", optional=True))}
    content["provenance"] = provenance
    if predictions:
        content["shipped"] = _shipped(first, predictions, data)
    write_json(out / "metrics.json", content)
    write_text(
        out / "report" / "per_case.csv",
        per_case_csv([(entry.name, entry.rows) for entry in found], ["confidence"], digits=4),
    )
    histories = read_histories(runs, [entry.name for entry in found]) if runs else {}
    write_text(out / "report" / "training.csv", training_csv(histories))
    blocks = _blocks(data, found, content, histories)
    write_page(out / "report" / "index.html", data.name, blocks, provenance, subtitle=TITLES[data.task])
    return f"{len(found)} models on {first.metrics['cases']['scored']} documents; see {out / 'report' / 'index.html'}"


def _difference(first: Evaluation, other: Evaluation, data: Statement, seed: int) -> dict[str, Any]:
    """The headline scores of one model minus those of another, documents drawn in pairs."""
    ours, theirs = first.scored(), other.scored()
    shared = [name for name in ours if name in theirs]
    tables = [[side[name].metrics for name in shared] for side in (ours, theirs)]
    if data.task == "entities":
        pair = [
            np.array([[row[f"strict_{name}"] for name in metrics.COUNTS] for row in table], dtype=float)
            for table in tables
        ]
        return {"f1": to_entry(metrics.pooled_difference(pair[0], pair[1], metrics.entity_f1, seed))}
    size = len(data.labels)
    pair = [
        metrics.class_counts(
            np.array([int(row["label"]) for row in table]), np.array([int(row["predicted"]) for row in table]), size
        )
        for table in tables
    ]

    def macro(sums: metrics.Array) -> metrics.Array:
        return metrics.macro_f1(sums, size)

    hits = [np.array([float(row["correct"]) for row in table]) for table in tables]
    return {
        "macro_f1": to_entry(metrics.pooled_difference(pair[0], pair[1], macro, seed)),
        "accuracy": to_entry(bootstrap_interval(hits[0] - hits[1], seed=seed)),
    }


def _shipped(scored: Evaluation, run: Path, data: Statement) -> dict[str, int]:
    """How many delivered documents differ from what was scored: another class, or another number of entities."""
    rows, documents, different = scored.scored(), 0, 0
    for file in sorted((run / "cases").glob("*/predictions.jsonl")):
        with file.open(encoding="utf-8") as stream:
            for line in map(json.loads, stream):
                if line["id"] not in rows:
                    continue
                documents += 1
                row = rows[line["id"]].metrics
                if data.task == "classes":
                    same = data.labels[int(row["predicted"])] == line["label"]
                else:
                    given = row["strict_correct"] + row["strict_incorrect"] + row["strict_spurious"]
                    same = len(line["spans"]) == int(given)
                different += not (same and abs(row["confidence"] - line["confidence"]) < 1e-5)
    return {"documents": documents, "differing_documents": different}


def _blocks(
    data: Statement,
    found: Sequence[Evaluation],
    content: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[Block]:
    blocks: list[Block] = [SYNTHETIC] if data.synthetic else []
    if data.non_commercial:
        blocks.append(Notice("Non-commercial data", f"Licence of the data: {data.licence}."))
    blocks.append(_scores(found))
    for pair, entries in content["paired_difference"].items():
        intervals = {name: from_entry(entry) for name, entry in entries.items()}
        caption = f"{pair}, on the same documents; an interval that holds 0 shows no difference."
        blocks.append(Figure(draw_intervals(intervals, pair), alt=caption, caption=caption))
    blocks.append(_calibration(found))
    if content["bias"]:
        blocks += _bias(content["bias"])
    if histories:
        caption = "Training loss by step of each model"
        blocks.append(Figure(draw_training(histories), alt=caption, caption=caption))
    if "shipped" in content:
        shipped = content["shipped"]
        sentence = (
            f"Batch inference delivered {shipped['documents']} of the scored documents; "
            f"{shipped['differing_documents']} differ from what was scored."
        )
        blocks.append(Text("Scored is shipped", [sentence]))
    use = "Scores support a person's judgement and do not replace it: decide nothing about people by them alone."
    blocks.append(Text("Use", [f"Licence of the data: {data.licence}. {use}"]))
    return blocks


def _scores(found: Sequence[Evaluation]) -> Table:
    names = [name for name in found[0].metrics if name not in ("cases", "provenance")]
    rows: list[list[Cell]] = [
        [
            name.replace("_", " "),
            *(from_entry(entry.metrics[name]) if name in entry.metrics else None for entry in found),
        ]
        for name in names
    ]
    times = [entry.json("timing.json", optional=True).get("seconds_per_1000") for entry in found]
    rows.append(["seconds per 1000 texts, on the machine that ran this", *times])
    note = "With a 95 % bootstrap interval over documents. Strict: borders and type; partial: half for an overlap."
    return Table(["metric", *(entry.name for entry in found)], rows, "Held-out documents", note)


def _calibration(found: Sequence[Evaluation]) -> Figure:
    with style():
        drawing = Drawing(figsize=(4.2, 3.8), layout="constrained")
        axes = drawing.subplots()
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
        for entry in found:
            bins = [one for one in entry.json("calibration.json")["bins"] if one["n"]]
            axes.plot([one["confidence"] for one in bins], [one["right"] for one in bins], "o-", label=entry.name, ms=3)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        axes.legend()
    caption = "Reliability: on the diagonal, a confidence of 0.8 is right in 80 of 100 cases."
    return Figure(drawing, alt=caption, caption=caption)


def _bias(reports: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    summary: list[list[Cell]] = [
        [name, from_entry(report["overall"]), *(report["power_mean"][kind] for kind in ("subgroup", "bpsn", "bnsp"))]
        for name, report in reports.items()
    ]
    heads = ["model", "AUC overall", "subgroup", "BPSN", "BNSP"]
    note = "Generalised power mean over the groups (p = -5), which leans towards the worst group (arXiv 1903.04561)."
    blocks.append(Table(heads, summary, "Bias by identity terms", note))
    name, report = next(iter(reports.items()))
    rows: list[list[Cell]] = [
        [
            group + ("" if entry["ranked"] else " (too few to rank)"),
            entry["positives"],
            entry["negatives"],
            *(from_entry(entry[kind]) for kind in ("subgroup", "bpsn", "bnsp")),
            entry["false_alarm_gap"],
        ]
        for group, entry in sorted(report["groups"].items(), key=lambda item: item[1]["bpsn"]["value"] or 1.0)
    ]
    heads = ["group", "harmful", "harmless", "subgroup AUC", "BPSN AUC", "BNSP AUC", "false alarms, gap"]
    note = "Low BPSN: harmless posts that name the group score too high. Gap: rate at 0.5 in the group less elsewhere."
    blocks.append(Table(heads, rows, f"{name}, by group", note))
    swap = report["swap"]
    if swap["texts"]:
        moved, flipped = from_entry(swap["moved"]), from_entry(swap["flipped"])
        sentence = (
            f"Putting each group's name into {swap['texts']} harmless posts moves {name}'s score by {moved} on average "
            f"between the kindest and the harshest group; the decision at 0.5 depends on it in {flipped} of them."
        )
        blocks.append(Text("Term-swap test", [sentence]))
        means = {group: Interval(value, value, value, 1) for group, value in swap["by_group"].items()}
        caption = "Mean score of the same posts, by the group that they name"
        blocks.append(Figure(draw_intervals(means, caption), alt=caption, caption=caption))
    return blocks
