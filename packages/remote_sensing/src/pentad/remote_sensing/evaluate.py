"""Stage evaluate: a model and labelled pairs in; a row a scene, and intervals by scene out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.errors import NoInputError
from pentad.core.evaluation import evaluate as evaluate_cases
from pentad.core.evaluation import summarise, to_entry, write_results
from pentad.core.files import digest_json
from pentad.core.metrics import pooled_interval
from pentad.core.run import provenance
from pentad.remote_sensing.losses import IGNORED
from pentad.remote_sensing.metrics import Matrix, binary, confusion
from pentad.remote_sensing.predict import Predictor, load_predictor
from pentad.remote_sensing.raster import open_pair

COUNTS = ("hits", "false_alarms", "misses", "rejections")
SCORES = ("f1", "iou", "precision", "recall")


@dataclass(frozen=True)
class EvaluateConfig:
    """Section ``evaluate`` of params.yaml.

    Attributes:
        threshold: Probability from which a pixel counts as changed.
        seed: Seed of the bootstrap intervals.
    """

    threshold: float = 0.5
    seed: int = 0


def evaluate(
    table: Path, split: str, model: str, out: Path, params: Path, overrides: Sequence[str] = (), device: str = "auto"
) -> tuple[str, int]:
    """Score a model on the labelled pairs of a split; return a one-line summary and how many failed.

    Writes ``per_case.csv`` and ``metrics.json``: F1, IoU, precision and recall over all pixels of all scenes
    (``…_pooled``) and their means over scenes that hold change, with intervals drawn by group of scenes.

    Raises:
        NoInputError: The split has no labelled pair.
        ModelError: The bundle cannot be used.
    """
    config = load_params(params, "evaluate", EvaluateConfig, overrides)
    cases = [case for case in read_cases(table, split) if "label" in case.files]
    if not cases:
        raise NoInputError("PTD-871", f"no labelled pair of the split '{split}'", "name another split", table)
    predictor = load_predictor(model, device)
    rows = evaluate_cases(cases, lambda case: score(predictor, case, config.threshold))
    scored = [row for row in rows if row.status == "ok"]
    done = {row.id for row in scored}
    data = data_digest([case for case in cases if case.id in done], ("before", "after", "label"))
    summary = summarise(rows, config.seed, SCORES if scored else ())
    counts = np.array([[row.metrics[name] for name in COUNTS] for row in scored])
    groups = [row.group or row.id for row in scored]
    for name in SCORES if scored else ():
        interval = pooled_interval(counts, _formula(name), seed=config.seed, groups=groups)
        summary[f"{name}_pooled"] = to_entry(interval)
    statement = provenance(
        "remote_sensing", seed=config.seed, model=predictor.digest, config=digest_json(to_mapping(config)), data=data
    )
    write_results(out, rows, summary, statement)
    failed = len(rows) - len(scored)
    text = f"{predictor.name}: {len(scored)} scenes scored, {failed} failed"
    return (f"{text}; F1 {summary['f1_pooled']['value']:.3f}" if scored else text), failed


def score(predictor: Predictor, case: Case, threshold: float) -> Mapping[str, float]:
    """Return F1, IoU, precision, recall (NaN where the scene has no change) and the four counts of one scene."""
    matrix: Matrix = np.zeros((2, 2), dtype=np.int64)
    with open_pair(Path(case.files["before"]), Path(case.files["after"]), predictor.pair) as pair:
        with rasterio.open(case.files["label"]) as source:
            label = source.read(1)
        for start, probability, valid in predictor.strips(pair):
            truth = label[start : start + len(probability)]
            known = valid & (truth != IGNORED)
            matrix += confusion((probability >= threshold)[known].astype(np.int64), truth[known], 2)
    found = binary(matrix)
    scores = {name: found[name] if matrix[:, 1].any() else float("nan") for name in SCORES}
    counts = (matrix[1, 1], matrix[1, 0], matrix[0, 1], matrix[0, 0])
    return {**scores, **{name: float(count) for name, count in zip(COUNTS, counts, strict=True)}}


def _formula(name: str) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The metric from sums (…, 4) of `COUNTS`."""

    def compute(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        hits, alarms, misses = sums[..., 0], sums[..., 1], sums[..., 2]
        parts = {
            "f1": (2 * hits, 2 * hits + alarms + misses),
            "iou": (hits, hits + alarms + misses),
            "precision": (hits, hits + alarms),
            "recall": (hits, hits + misses),
        }[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(parts[0] / parts[1])

    return compute
