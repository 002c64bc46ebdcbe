"""Stage evaluate: a model and labelled pairs in; a row a scene, and intervals by scene out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.errors import NoInputError
from pentad.core.evaluation import evaluate as evaluate_cases
from pentad.core.evaluation import summarise, to_entry, write_results
from pentad.core.files import digest_json
from pentad.core.metrics import statistic_interval
from pentad.core.run import provenance
from pentad.core.statement import read_statement
from pentad.remote_sensing.losses import IGNORED
from pentad.remote_sensing.predict import Predictor, load_predictor
from pentad.remote_sensing.raster import open_pair
from pentad.remote_sensing.statement import Statement
from pentad.remote_sensing.tasks import Counts, Task, task_named


@dataclass(frozen=True)
class EvaluateConfig:
    """Section ``evaluate`` of params.yaml.

    Attributes:
        threshold: Probability from which a pixel counts as changed, or as building.
        seed: Seed of the bootstrap intervals.
    """

    threshold: float = 0.5
    seed: int = 0


def evaluate(
    table: Path, split: str, model: str, out: Path, params: Path, overrides: Sequence[str] = (), device: str = "auto"
) -> tuple[str, int]:
    """Score a model on the labelled pairs of a split; return a one-line summary and how many failed.

    Writes ``per_case.csv`` and ``metrics.json``: the task's metrics over all pixels of all scenes (``…_pooled``) and
    their means over scenes that hold something to find, with intervals drawn by group of scenes.

    Raises:
        NoInputError: The split has no labelled pair.
        ModelError: The bundle cannot be used.
        UsageError: It is for another task than the table.
    """
    config = load_params(params, "evaluate", EvaluateConfig, overrides)
    task = task_named(read_statement(table, Statement).task)
    cases = [case for case in read_cases(table, split) if set(task.roles) <= case.files.keys()]
    if not cases:
        raise NoInputError("PTD-871", f"no labelled pair of the split '{split}'", "name another split", table)
    predictor = load_predictor(model, device, task=task.name)
    counts: dict[str, Counts] = {}

    def scored(case: Case) -> Mapping[str, float]:
        counts[case.id] = count(predictor, case, config.threshold)
        return scores(task, counts[case.id])

    rows = evaluate_cases(cases, scored)
    done = [row for row in rows if row.status == "ok"]
    data = data_digest([case for case in cases if case.id in counts], ("before", "after", *task.roles))
    summary: dict[str, Any] = {"task": task.name, **summarise(rows, config.seed, task.metrics if done else ())}
    summary |= _pooled(task, [counts[row.id] for row in done], [row.group or row.id for row in done], config.seed)
    statement = provenance(
        "remote_sensing", seed=config.seed, model=predictor.digest, config=digest_json(to_mapping(config)), data=data
    )
    write_results(out, rows, summary, statement)
    failed = len(rows) - len(done)
    text = f"{predictor.name}: {len(done)} scenes scored, {failed} failed"
    first = task.headline[0]
    return (f"{text}; {first} {summary[f'{first}_pooled']['value']:.3f}" if done else text), failed


def count(predictor: Predictor, case: Case, threshold: float) -> Counts:
    """Return the task's counts over one scene; pixels that are not valid or whose label is not known do not count."""
    task = predictor.task
    total: Counts | None = None
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(open_pair(Path(case.files["before"]), Path(case.files["after"]), predictor.pair))
        labels = [stack.enter_context(rasterio.open(case.files[role])) for role in task.roles]
        for start, probability, classes, valid in predictor.strips(pair):
            window = Window(0, start, probability.shape[1], len(probability))
            truth = np.stack([label.read(1, window=window) for label in labels])
            known = valid & (truth != IGNORED).all(axis=0)
            found = task.count(probability[known] >= threshold, classes[:, known], truth[:, known])
            total = found if total is None else total + found
    assert total is not None, "a pair has at least one strip"
    return total


def scores(task: Task, counts: Counts) -> Mapping[str, float]:
    """Return the task's metrics from one scene's counts; NaN where the scene holds nothing to find."""
    found = task.score(counts)
    return {name: found[name] if task.holds(counts) else float("nan") for name in task.metrics}


def _pooled(task: Task, counts: Sequence[Counts], groups: Sequence[str], seed: int) -> dict[str, Any]:
    """Metrics of the sum over all scenes, with intervals from drawing groups of scenes anew."""
    table = np.stack(counts) if counts else np.zeros((0, 1), dtype=np.int64)

    def one(name: str) -> Callable[[NDArray[np.intp]], float]:
        return lambda drawn: task.score(table[drawn].sum(axis=0))[name]

    return {
        f"{name}_pooled": to_entry(statistic_interval(one(name), len(counts), seed=seed, groups=groups))
        for name in (task.metrics if counts else ())
    }
