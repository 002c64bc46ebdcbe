"""Stage compare: evaluations of several models, folds and seeds in; paired differences, costs and a page out.

Every case is tested once a seed, by the model of the fold that did not train on it. A case's value is its mean over the
seeds; intervals come from drawing cases (whole patients), so they speak of the cases and not of the seeds, and each
seed's own difference stands beside them. After Isensee et al., "nnU-Net Revisited", arXiv 2404.09556.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pentad.core.errors import UsageError, nearest
from pentad.core.evaluation import Row, compare, from_entry, read_rows, summarise
from pentad.core.files import digest_files, write_json, write_text
from pentad.core.metrics import Interval
from pentad.core.report import SYNTHETIC, Block, Cell, Figure, Table, Text, draw_intervals, write_page
from pentad.core.run import provenance
from pentad.core.statement import Statement, read_statement

METRICS = ("liver_dice", "lesion_dice", "liver_nsd", "lesion_nsd", "lesion_f1")
_COST = ("parameters", "gflop", "seconds", "peak_mb")

Trials = dict[str, dict[str, list[Row]]]


@dataclass(frozen=True)
class CompareRequest:
    """What to compare.

    Attributes:
        table: A case table beside which the data say what they are.
        evaluations: Folder with ``<model>/<fold>/<seed>/per_case.csv``, as the stage evaluate writes them.
        costs: Folder with ``<model>.json`` of the command measure.
        out: Takes ``metrics.json`` and ``report/``.
        baseline: The model from which all others are subtracted.
        seed: Seed of the intervals.
    """

    table: Path
    evaluations: Path
    costs: Path
    out: Path
    baseline: str
    seed: int = 0


def compare_models(request: CompareRequest) -> str:
    """Write the comparison and return a one-line summary.

    Raises:
        UsageError: There is nothing to compare, the models were not tested on the same cases, or the baseline is not
            among them.
    """
    trials = read_trials(request.evaluations)
    if request.baseline not in trials:
        problem = f"the baseline '{request.baseline}' was not evaluated{nearest(request.baseline, trials)}"
        raise UsageError("PTD-602", problem, f"name one of {', '.join(trials)}", request.evaluations)
    data = read_statement(request.table, Statement)
    rows = {model: mean_over_seeds(list(seeds.values())) for model, seeds in trials.items()}
    others = [model for model in trials if model != request.baseline]
    against = rows[request.baseline]
    pairs = {model: _shown(compare(rows[model], against, request.seed)) for model in others}
    metrics: dict[str, Any] = {
        "data": "synthetic" if data.synthetic else "real",
        "baseline": request.baseline,
        "seeds": sorted({seed for seeds in trials.values() for seed in seeds}),
        "cases": len(against),
        "models": {model: summarise(found, request.seed, METRICS) for model, found in rows.items()},
        "paired_difference": {f"{model} - {request.baseline}": entries for model, entries in pairs.items()},
        "difference_of_each_seed": {model: _by_seed(trials, model, request) for model in others},
        "cost": _read_costs(request.costs, trials),
        "provenance": provenance(
            "medical", seed=request.seed, evaluations=digest_files(sorted(request.evaluations.rglob("per_case.csv")))
        ),
    }
    write_json(request.out / "metrics.json", metrics)
    write_text(request.out / "report" / "per_case.csv", _per_case(trials))
    page = request.out / "report" / "index.html"
    subtitle = "Models for liver and lesions in CT, cross-validated"
    write_page(page, data.name, _blocks(data, metrics), metrics["provenance"], subtitle=subtitle)
    return f"{len(trials)} models, {len(metrics['seeds'])} seeds, {len(against)} cases; see {page}"


def read_trials(folder: Path) -> Trials:
    """Return model → seed → rows of all folds, in the order of the names.

    Raises:
        UsageError: There is none, or a seed of a model was tested on other cases than the rest, or on one twice.
    """
    trials: Trials = {}
    for file in sorted(folder.glob("*/*/*/per_case.csv")):
        model, _, seed = file.relative_to(folder).parts[:3]
        trials.setdefault(model, {}).setdefault(seed, []).extend(read_rows(file))
    if not trials:
        raise UsageError("PTD-601", "no evaluation of any model", "run the evaluate command for each first", folder)
    tested = {
        (model, seed): sorted(row.id for row in rows) for model, seeds in trials.items() for seed, rows in seeds.items()
    }
    first = next(iter(tested.values()))
    for (model, seed), cases in tested.items():
        if cases != first or len(set(cases)) < len(cases):
            problem = f"{model}, seed {seed}, was tested on {len(cases)} cases, not the same {len(first)} as the first"
            raise UsageError("PTD-601", problem, "evaluate every model on every fold and seed", folder)
    return trials


def mean_over_seeds(seeds: Sequence[Sequence[Row]]) -> list[Row]:
    """Return one row a case: the mean of its metrics over the seeds; failed if it failed in one.

    A metric that a seed does not have (NaN) is left out of that case's mean.
    """
    by_case: dict[str, list[Row]] = {}
    for rows in seeds:
        for row in rows:
            by_case.setdefault(row.id, []).append(row)
    joined = []
    for case, rows in sorted(by_case.items()):
        failed = next((row for row in rows if row.status == "failed"), None)
        metrics = {} if failed else {name: _mean([row.metrics[name] for row in rows]) for name in METRICS}
        joined.append(failed or Row(case, rows[0].group, metrics=metrics))
    return joined


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _shown(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entries[name] for name in METRICS if name in entries}


def _by_seed(trials: Trials, model: str, request: CompareRequest) -> dict[str, dict[str, Any]]:
    """Each seed's mean paired difference, of the seeds that both have."""
    shared = [seed for seed in trials[model] if seed in trials[request.baseline]]
    return {
        seed: {
            name: entry["value"]
            for name, entry in _shown(
                compare(trials[model][seed], trials[request.baseline][seed], request.seed, resamples=1)
            ).items()
        }
        for seed in shared
    }


def _read_costs(folder: Path, models: Sequence[str] | Trials) -> dict[str, dict[str, Any]]:
    costs = {}
    for model in models:
        try:
            entry = json.loads((folder / f"{model}.json").read_text(encoding="utf-8"))
            costs[model] = {
                name: entry[name] for name in (*_COST, "steps", "batch_size", "patch_size", "device", "threads")
            }
        except (OSError, ValueError, KeyError):
            raise UsageError(
                "PTD-603", f"no cost of {model} here", "run pentad medical measure for it first", folder
            ) from None
    return costs


def _per_case(trials: Trials) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "seed", "id", *METRICS])
    for model, seeds in trials.items():
        for seed, rows in seeds.items():
            for row in sorted(rows, key=lambda row: row.id):
                values = [row.metrics.get(name, math.nan) for name in METRICS]
                writer.writerow([model, seed, row.id, *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def _blocks(data: Statement, metrics: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = [SYNTHETIC] if data.synthetic else []
    models, seeds = metrics["models"], metrics["seeds"]
    columns = ["model", *(name.replace("_", " ") for name in METRICS)]
    rows: list[list[Cell]] = [
        [model, *(from_entry(entries[name]) for name in METRICS)] for model, entries in models.items()
    ]
    note = (
        f"{metrics['cases']} cases, each tested once a seed by a model that was not trained on it; a case's value is "
        f"its mean over {len(seeds)} seeds; 95 % bootstrap intervals over cases. The models of a fold share their "
        "training cases, so the intervals are somewhat too narrow."
    )
    blocks.append(Table(columns, rows, "Cross-validated scores", note))
    rows = [
        [pair, *(from_entry(entries[name]) for name in METRICS)]
        for pair, entries in metrics["paired_difference"].items()
    ]
    note = "Paired over cases; an interval that holds 0 shows no difference. Nothing is corrected for many comparisons."
    blocks.append(Table(["pair", *columns[1:]], rows, "Mean paired differences", note))
    for name in ("liver_dice", "lesion_dice"):
        intervals: dict[str, Interval] = {
            pair: from_entry(entries[name]) for pair, entries in metrics["paired_difference"].items()
        }
        caption = f"{name.replace('_', ' ')}: difference to {metrics['baseline']}"
        if intervals:
            blocks.append(Figure(draw_intervals(intervals, caption), alt=caption, caption=caption))
    rows = [
        [model, seed, *(values.get(name) for name in METRICS)]
        for model, found in metrics["difference_of_each_seed"].items()
        for seed, values in found.items()
    ]
    blocks.append(Table(["model", "seed", *columns[1:]], rows, f"Difference to {metrics['baseline']} of each seed"))
    blocks.append(_cost_table(metrics["cost"]))
    blocks.append(Text("Use", ["Research use only: not a medical device, not for diagnosis."]))
    return blocks


def _cost_table(costs: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = [
        [
            model,
            cost["parameters"] / 1e6,
            cost["gflop"] / cost["batch_size"],
            cost["seconds"],
            cost["steps"] * cost["seconds"] / 60,
            cost["peak_mb"],
        ]
        for model, cost in costs.items()
    ]
    columns = ["model", "parameters, M", "GFLOP a patch", "s a step", "min a training", "memory, MB"]
    first = next(iter(costs.values()))
    sizes = " x ".join(map(str, first["patch_size"]))
    note = (
        f"The budget is one number of steps for all: {first['steps']} of {first['batch_size']} patches of {sizes}, the "
        "same patches in the same order. Operations of one forward pass: convolutions, matrix products, attention and "
        f"selective scan. Seconds and memory of a training step, measured on {first['device']} with "
        f"{first['threads']} threads beside whatever else ran; minutes are their product with the steps."
    )
    return Table(columns, rows, "What each model costs", note)
