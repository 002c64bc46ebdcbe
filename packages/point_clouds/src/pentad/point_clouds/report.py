"""Stage report: evaluations side by side, with paired differences, a page and the pipeline's metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core import side_by_side
from pentad.core.evaluation import from_entry, read_json, to_entry
from pentad.core.files import write_json, write_text
from pentad.core.metrics import Interval, statistic_interval
from pentad.core.report import SYNTHETIC, Block, Cell, Figure, Table, draw_intervals, write_page
from pentad.core.side_by_side import overview, per_case_csv
from pentad.core.statement import Statement, read_statement
from pentad.point_clouds.scoring import DETECTIONS, MATCHES, Scored, class_ap, from_json, mean_ap

_RESAMPLES = 1000


class Evaluation(side_by_side.Evaluation):
    """What the stage evaluate left for one model."""

    @cached_property
    def frames(self) -> dict[str, Scored]:
        """What was matched in each frame."""
        return {name: from_json(entry) for name, entry in read_json(self.folder / MATCHES).items()}


def report(table: Path, evaluations: Sequence[Path], out: Path, predictions: Path | None = None) -> str:
    """Write ``metrics.json``, ``report/index.html`` and ``report/per_case.csv`` below ``out``; return one line.

    Args:
        table: The case table; beside it stands what the data are.
        evaluations: Folders of the stage evaluate; the first is the model of interest.
        out: The pipeline's folder.
        predictions: Run folder of predict with the first model, to check that what was scored is what ships.
    """
    found = [Evaluation.read(folder) for folder in evaluations]
    first, *others = found
    about = read_statement(table, Statement)
    classes = list(first.metrics["ap_by_distance"])
    headline = [f"{classes[0]}_ap", "mean_ap", "nds"]
    paired = {f"{first.name} - {other.name}": _paired(first, other, classes) for other in others}
    metrics = overview("point_clouds", found, paired, headline, synthetic=about.synthetic)
    if predictions is not None:
        metrics["shipped"] = _shipped(evaluations[0], predictions)
    write_json(out / "metrics.json", metrics)
    columns = [f"{kind}_{what}" for kind in classes for what in ("f1", "objects", "found", "hits")]
    write_text(out / "report" / "per_case.csv", per_case_csv([(entry.name, entry.rows) for entry in found], columns))
    blocks = _blocks(found, paired, classes, synthetic=about.synthetic)
    page = out / "report" / "index.html"
    write_page(page, about.name, blocks, metrics["provenance"], subtitle="Objects in LiDAR sweeps")
    return f"{len(found)} models on {first.metrics['cases']['scored']} frames; see {page}"


def _shipped(evaluation: Path, predictions: Path) -> dict[str, int]:
    """How many cases the batch run holds, and how many of them differ from what was scored."""
    scored = json.loads((evaluation / DETECTIONS).read_text(encoding="utf-8"))
    files = sorted(predictions.glob("cases/*/nuscenes.json"))
    differing = 0
    for path in files:
        [(name, found)] = json.loads(path.read_text(encoding="utf-8"))["results"].items()
        differing += _without_place(found) != _without_place(scored.get(name, ()))
    return {"cases": len(files), "differing_cases": differing}


def _without_place(found: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Class, score and size of each object, which are the same in every frame of reference."""
    return [(entry["detection_name"], entry["detection_score"], *entry["size"]) for entry in found]


def _paired(first: Evaluation, other: Evaluation, classes: Sequence[str]) -> dict[str, Any]:
    """Differences of average precision on the same draws of frames, with intervals."""
    names = sorted(first.frames.keys() & other.frames.keys())
    groups = {row.id: row.group or row.id for row in first.rows}

    def interval(kind: str) -> Interval:
        def difference(places: NDArray[np.intp]) -> float:
            sides = [[entry.frames[names[place]] for place in places] for entry in (first, other)]
            values = [class_ap(side, kind) if kind else mean_ap(side) for side in sides]
            return values[0] - values[1]

        drawn = [groups[name] for name in names]
        return statistic_interval(difference, len(names), seed=first.seed, groups=drawn, resamples=_RESAMPLES)

    return {"mean_ap": to_entry(interval("")), **{f"{kind}_ap": to_entry(interval(kind)) for kind in classes}}


def _blocks(
    found: Sequence[Evaluation], paired: Mapping[str, Mapping[str, Any]], classes: Sequence[str], *, synthetic: bool
) -> list[Block]:
    blocks: list[Block] = [SYNTHETIC] if synthetic else []
    levels = [f"{kind}_l{level}_{name}" for kind in classes for level in (1, 2) for name in ("ap", "aph")]
    tables = (
        (
            ["mean_ap", "nds", *(f"{kind}_ap" for kind in classes)],
            "Held-out frames, nuScenes' rules",
            "Mean over 0.5, 1, 2 and 4 m in the ground plane; attributes are unknown, and velocities where the "
            "head has none, and count as wrong in NDS. With a 95 % bootstrap interval drawn by frame.",
        ),
        (
            levels,
            "The same by overlap in space, in the manner of Waymo",
            "Overlap 0.7 for cars, 0.5 for others; level 1: more than 5 returns, level 2: at least one; APH weights "
            "by heading.",
        ),
    )
    for names, title, note in tables:
        rows: list[list[Cell]] = [[name, *(from_entry(entry.metrics[name]) for entry in found)] for name in names]
        blocks.append(Table(["metric", *(entry.name for entry in found)], rows, title, note))
    ranged: list[list[Cell]] = [
        [kind, span, found[0].metrics["ap_by_range"][kind][span]["objects"]]
        + [entry.metrics["ap_by_range"][kind].get(span, {}).get("ap") for entry in found]
        for kind in classes
        for span in found[0].metrics["ap_by_range"][kind]
    ]
    heads = ["class", "range", "objects", *(entry.name for entry in found)]
    blocks.append(Table(heads, ranged, "Average precision by range"))
    for pair, entries in paired.items():
        intervals = {name: from_entry(entry) for name, entry in entries.items()}
        caption = f"{pair}: difference on the same draws of frames; an interval that holds 0 shows no difference."
        blocks.append(Figure(draw_intervals(intervals, pair), alt=caption, caption=caption))
    name = f"{classes[0]}_f1"
    ranked = sorted(found[0].rows, key=lambda row: (row.metrics.get(name, -1.0), row.id))
    shown = [name, *(f"{classes[0]}_{what}" for what in ("objects", "found", "hits"))]
    cells: list[list[Cell]] = [
        [row.id, row.status, *(row.metrics.get(key, float("nan")) for key in shown), row.reason] for row in ranked
    ]
    blocks.append(Table(["frame", "status", *shown, "reason"], cells, f"{found[0].name}, worst first"))
    return blocks
