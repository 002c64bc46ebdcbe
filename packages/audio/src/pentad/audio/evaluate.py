"""Stage evaluate: a model and labelled cases in; a row a case, scores, events and intervals out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.audio.dataset import events_of, labels_of
from pentad.audio.metrics import (
    area_under_roc,
    average_precision,
    d_prime,
    event_counts,
    f1,
    macro_f1,
    mean_over_classes,
    segment_counts,
)
from pentad.audio.predict import Tagging, load_tagger
from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.errors import CaseError, NoInputError
from pentad.core.evaluation import Row, Summary, summarise, to_entry, write_results
from pentad.core.evaluation import evaluate as evaluate_cases
from pentad.core.files import digest_json, write_text
from pentad.core.metrics import pooled_interval, statistic_interval
from pentad.core.run import provenance


@dataclass(frozen=True)
class EvaluateConfig:
    """Section ``evaluate`` of params.yaml."""

    seed: int = 0
    """Of the bootstrap intervals."""
    resamples: int = 1000
    """Draws of those intervals that are no ratio of sums."""


@dataclass
class _Scored:
    """What was found in one recording beside its row."""

    row: Row
    truth: NDArray[np.bool_]
    scores: NDArray[np.float32]
    events: NDArray[np.float64] | None
    segments: NDArray[np.float64] | None


def evaluate(
    table: Path, split: str, model: str, out: Path, params: Path, overrides: Sequence[str] = (), device: str = "auto"
) -> tuple[str, int]:
    """Score a model on the labelled cases of a split; return a one-line summary and how many cases failed.

    Writes ``per_case.csv``, ``scores.csv``, ``events.csv`` and ``metrics.json`` into ``out``.

    Raises:
        NoInputError: The split has no case.
        ModelError: The bundle cannot be used.
    """
    config = load_params(params, "evaluate", EvaluateConfig, overrides)
    cases = read_cases(table, split)
    if not cases:
        raise NoInputError("PTD-737", f"no case of the split '{split}'", "name another split", table)
    tagger = load_tagger(model, device)
    classes = tagger.settings.classes
    found: dict[str, tuple[Tagging, Case]] = {}

    def score(case: Case) -> Mapping[str, float]:
        unknown = [label for label in labels_of(case) if label not in classes]
        if unknown:
            problem = f"the model does not know the class '{unknown[0]}'"
            raise CaseError("PTD-738", problem, "train on these classes, or leave the case out", case.id)
        tagging = tagger.run(Path(case.files["audio"]))
        found[case.id] = tagging, case
        return _case_metrics(case, tagging, classes)

    rows = evaluate_cases(cases, score)
    scored = [_gather(row, *found[row.id], classes) for row in rows if row.status == "ok"]
    summary = _summary(rows, scored, classes, config)
    data = data_digest([found[row.row.id][1] for row in scored], ("audio",))
    statement = provenance(
        "audio", seed=config.seed, model=tagger.digest, config=digest_json(to_mapping(config)), data=data
    )
    write_text(out / "scores.csv", _scores_csv(scored, classes))
    write_text(out / "events.csv", events_csv({name: tagging for name, (tagging, _) in found.items()}))
    write_results(out, rows, summary, statement)
    failed = len(rows) - len(scored)
    return f"{tagger.name}: {len(scored)} cases scored, {failed} failed", failed


def _case_metrics(case: Case, tagging: Tagging, classes: Sequence[str]) -> dict[str, float]:
    best = classes[int(np.argmax(tagging.mean))]
    metrics = {"accuracy": float(best in labels_of(case))} if labels_of(case) else {}
    reference = events_of(case)
    if reference is None:
        return metrics
    spans = [(event.onset, event.offset, event.label) for event in tagging.events]
    totals = event_counts(reference, spans, classes).sum(0)
    if totals[1:].sum():
        metrics["event_f1_of_case"] = float(f1(totals))
    return metrics


def _gather(row: Row, tagging: Tagging, case: Case, classes: Sequence[str]) -> _Scored:
    reference, labels = events_of(case), labels_of(case)
    spans = [(event.onset, event.offset, event.label) for event in tagging.events]
    return _Scored(
        row,
        np.array([name in labels for name in classes]),
        tagging.mean,
        None if reference is None else event_counts(reference, spans, classes),
        None if reference is None else segment_counts(reference, spans, classes),
    )


def _summary(
    rows: Sequence[Row], scored: Sequence[_Scored], classes: Sequence[str], config: EvaluateConfig
) -> dict[str, Any]:
    """Accuracy, tagging and event metrics with intervals, and the average precision of each class."""
    summary: dict[str, Any] = dict(summarise(rows, config.seed))
    if not scored:
        return summary
    truth = np.stack([entry.truth for entry in scored])
    scores = np.stack([entry.scores for entry in scored])
    groups = [entry.row.group or entry.row.id for entry in scored]

    def over_classes(measure: Any, places: NDArray[np.intp]) -> float:
        return mean_over_classes([measure(truth[places, k], scores[places, k]) for k in range(len(classes))])

    statistics = {
        "mean_average_precision": lambda places: over_classes(average_precision, places),
        "auc": lambda places: over_classes(area_under_roc, places),
        "d_prime": lambda places: d_prime(over_classes(area_under_roc, places)),
    }
    for name, statistic in statistics.items():
        interval = statistic_interval(
            statistic, len(scored), seed=config.seed, groups=groups, resamples=config.resamples
        )
        summary[name] = to_entry(interval)
    summary |= _event_summary(scored, config.seed)
    per_class = {name: average_precision(truth[:, k], scores[:, k]) for k, name in enumerate(classes)}
    known = {name: round(value, 6) for name, value in per_class.items() if not np.isnan(value)}
    return {**summary, "average_precision": known}


def _event_summary(scored: Sequence[_Scored], seed: int) -> Summary:
    """F1 of events and segments, pooled over all (micro) and as a mean over classes (macro)."""
    summary: Summary = {}
    for name in ("event", "segment"):
        marked = [entry for entry in scored if getattr(entry, f"{name}s") is not None]
        if not marked:
            continue
        groups = [entry.row.group or entry.row.id for entry in marked]
        counts = np.stack([getattr(entry, f"{name}s") for entry in marked])
        pooled = pooled_interval(counts.sum(1), f1, seed=seed, groups=groups)
        macro = pooled_interval(counts.reshape(len(counts), -1), macro_f1, seed=seed, groups=groups, resamples=2000)
        summary |= {f"{name}_f1": to_entry(pooled), f"{name}_f1_macro": to_entry(macro)}
    return summary


def _scores_csv(scored: Sequence[_Scored], classes: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *classes])
    for entry in scored:
        writer.writerow([entry.row.id, *(f"{value:.6g}" for value in entry.scores)])
    return text.getvalue()


def events_csv(found: Mapping[str, Tagging]) -> str:
    """Return events of several recordings as CSV: id, onset and offset in seconds, label, peak probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "onset_s", "offset_s", "label", "peak"])
    for name, tagging in found.items():
        for event in tagging.events:
            writer.writerow([name, f"{event.onset:.3f}", f"{event.offset:.3f}", event.label, f"{event.peak:.4f}"])
    return text.getvalue()
