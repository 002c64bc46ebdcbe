"""Stage report: evaluations side by side, with paired differences, a page, plots and the pipeline's metrics.json."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pentad.core import side_by_side
from pentad.core.cases import Case, read_cases
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
from pentad.core.statement import Statement, read_statement
from pentad.medical.page import three_planes
from pentad.medical.volumes import canonical, read_label, read_nifti

HEADLINE = ("liver_dice", "lesion_dice", "liver_nsd", "lesion_nsd", "lesion_f1_pooled")
SHOWN = (
    *("liver_dice", "liver_nsd", "liver_hd95_mm", "liver_volume_absolute_error_ml"),
    *("lesion_dice", "lesion_nsd", "lesion_hd95_mm", "lesion_volume_absolute_error_ml"),
    *("lesion_precision_pooled", "lesion_recall_pooled", "lesion_f1_pooled", "lesion_f1_any_pooled"),
)
PAIRED = ("liver_dice", "lesion_dice", "liver_nsd", "lesion_nsd", "lesion_f1")
RULED = ("liver_dice", "lesion_dice", "lesion_f1")
PUBLISHED = (
    "For orientation, published and from other data than this page: SWTR-Unet reports Dice of "
    "97 ± 2 % for the liver and 79 ± 25 % for lesions on LiTS CT (arXiv 2201.10981; mean ± SD over cases, its split "
    "and the rule for cases without lesions are not stated).",
    "The best entries of the LiTS challenge reached 0.963 for the liver and 0.739 for lesions on its hidden test cases "
    "(Bilic et al., Medical Image Analysis 84, 2023).",
)
SIZES_MM = (0.0, 10.0, 20.0, float("inf"))


class Evaluation(side_by_side.Evaluation):
    """What the stage evaluate left for one model."""

    def rules(self) -> dict[str, Any]:
        """Content of rules.json: what each rule of post-processing does; empty without rules."""
        file = self.folder / "rules.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found

    def lesions(self) -> list[dict[str, str]]:
        """Rows of per_lesion.csv."""
        with (self.folder / "per_lesion.csv").open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))


def report(
    table: Path, evaluations: Sequence[Path], out: Path, *, predictions: Path | None = None, runs: Path | None = None
) -> str:
    """Write ``metrics.json``, ``report/index.html`` and the plots' tables below ``out``; return one line.

    Args:
        table: The case table, for images and reference labels of the figures.
        evaluations: Folders of the stage evaluate; the first is the model of interest, compared with each other.
        out: The pipeline's folder.
        predictions: Run folder of predict; its label maps must equal those that were scored.
        runs: Folder with ``<model>/history.jsonl``.
    """
    found = [Evaluation.read(folder) for folder in evaluations]
    first, *others = found
    data = read_statement(table, Statement)
    paired = paired_differences(first, others, PAIRED)
    metrics = overview("medical", found, paired, HEADLINE, synthetic=data.synthetic)
    if rules := {entry.name: entry.rules() for entry in found if entry.rules()}:
        metrics["rules"] = rules
    shipped = _shipped(first, predictions) if predictions else None
    if shipped is not None:
        metrics["shipped"] = shipped
    write_json(out / "metrics.json", metrics)
    write_text(out / "report" / "per_case.csv", per_case_csv([(entry.name, entry.rows) for entry in found], PAIRED))
    histories = read_histories(runs, [entry.name for entry in found]) if runs else {}
    write_text(out / "report" / "training.csv", training_csv(histories))
    blocks = _blocks(data, found, paired, shipped, histories, read_cases(table))
    write_page(
        out / "report" / "index.html", data.name, blocks, metrics["provenance"], subtitle="Liver and lesions in CT"
    )
    return f"{len(found)} models on {first.metrics['cases']['scored']} cases; see {out / 'report' / 'index.html'}"


def _shipped(scored: Evaluation, run: Path) -> dict[str, int]:
    """How many voxels of the label maps that predict wrote differ from those that were scored."""
    cases = different = 0
    for file in sorted((run / "cases").glob("*/label.nii.gz")):
        reference = scored.folder / "labels" / f"{file.parent.name}.nii"
        if reference.is_file():
            cases += 1
            delivered, _ = canonical(read_label(file))
            different += int(np.count_nonzero(delivered.array != read_label(reference).array))
    return {"cases": cases, "differing_voxels": different}


def _blocks(
    data: Statement,
    found: Sequence[Evaluation],
    paired: Mapping[str, Mapping[str, Any]],
    shipped: Mapping[str, int] | None,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    cases: Sequence[Case],
) -> list[Block]:
    blocks: list[Block] = [SYNTHETIC] if data.synthetic else []
    rows: list[list[Cell]] = [
        [name, *(from_entry(entry.metrics[name]) for entry in found)] for name in SHOWN if name in found[0].metrics
    ]
    note = (
        "Mean over cases with a 95 % bootstrap interval, too narrow below about ten cases; pooled: over all lesions. "
        "threshold needs no weights."
    )
    blocks.append(Table(["metric", *(entry.name for entry in found)], rows, "Held-out cases", note))
    for pair, entries in paired.items():
        intervals = {name: from_entry(entry) for name, entry in entries.items()}
        caption = f"{pair}: mean paired difference; an interval that holds 0 shows no difference."
        blocks.append(Figure(draw_intervals(intervals, pair), alt=caption, caption=caption))
    blocks.append(_by_size(found))
    blocks += [_rules(entry) for entry in found if entry.rules()]
    blocks.append(Text("Published figures", list(PUBLISHED)))
    if histories:
        blocks.append(
            Figure(
                draw_training(histories, "Dice + cross-entropy"),
                alt="Training loss by step of each model",
                caption="Training loss",
            )
        )
    if shipped:
        sentence = (
            f"Batch inference delivered {shipped['cases']} of the scored cases from their raw files; "
            f"{shipped['differing_voxels']} voxels differ from what was scored."
        )
        blocks.append(Text("Scored is shipped", [sentence]))
    blocks.append(_per_case_table(found[0]))
    blocks += _pictures(found[0], cases)
    blocks.append(Text("Use", ["Research use only: not a medical device, not for diagnosis."]))
    return blocks


def _rules(entry: Evaluation) -> Table:
    """Scores under the rules as shipped, without any, with each alone and with each left out."""
    rows: list[list[Cell]] = [
        [
            name,
            *(from_entry(found["mean"][metric]) for metric in RULED),
            *(from_entry(found["minus_shipped"][metric]) for metric in RULED),
        ]
        for name, found in entry.rules().items()
    ]
    heads = [metric.replace("_", " ") for metric in RULED]
    note = (
        "Every row from the same label maps as the network left them. Mean over cases, and the paired difference to "
        "the rules as shipped, with 95 % bootstrap intervals; the F1 is that of each case, averaged."
    )
    columns = ["rules", *heads, *(f"{head}, difference" for head in heads)]
    return Table(columns, rows, f"{entry.name}: post-processing, each rule on and off", note)


def _by_size(found: Sequence[Evaluation]) -> Table:
    """Share of reference lesions found (IoU above 0.5), by diameter of the ball of equal volume."""
    rows: list[list[Cell]] = []
    for low, high in itertools.pairwise(SIZES_MM):
        name = f"{low:g} to {high:g} mm" if np.isfinite(high) else f"{low:g} mm and more"
        cells = []
        for entry in found:
            hits = [
                int(row["found"])
                for row in entry.lesions()
                if row["side"] == "reference" and low <= float(row["diameter_mm"]) < high
            ]
            cells.append(f"{sum(hits)} of {len(hits)}")
        rows.append([name, *cells])
    return Table(["diameter", *(entry.name for entry in found)], rows, "Lesions found, by size")


def _per_case_table(first: Evaluation) -> Table:
    rows: list[list[Cell]] = [
        [row.id, row.status, *(row.metrics.get(name, float("nan")) for name in PAIRED), row.reason]
        for row in sorted(first.rows, key=lambda row: row.metrics.get("lesion_dice", -1.0))
    ]
    return Table(["case", "status", *PAIRED, "reason"], rows, f"{first.name}, worst first")


def _pictures(first: Evaluation, cases: Sequence[Case]) -> list[Block]:
    """The cases with the lowest and the highest lesion Dice."""
    ranked = sorted((row for row in first.rows if row.status == "ok"), key=lambda row: row.metrics["lesion_dice"])
    by_id = {case.id: case for case in cases}
    pictures: list[Block] = []
    for row, word in ((ranked[:1], "lowest"), (ranked[-1:], "highest")):
        for entry in row:
            image = read_nifti(Path(by_id[entry.id].files["image"]))
            label = read_label(first.folder / "labels" / f"{entry.id}.nii").array
            caption = (
                f"{entry.id}, the {word} lesion Dice ({entry.metrics['lesion_dice']:.2f}); outlines: {first.name}."
            )
            pictures.append(Figure(three_planes(image.array, label, image.spacing), alt=caption, caption=caption))
    return pictures
