"""Stage evaluate: a model and labelled documents in; a row a document, intervals, calibration and bias out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.errors import CaseError, NoInputError, UsageError, nearest
from pentad.core.evaluation import evaluate as evaluate_cases
from pentad.core.evaluation import to_entry, write_results
from pentad.core.files import digest_json, write_json
from pentad.core.metrics import bootstrap_interval
from pentad.core.run import provenance
from pentad.nlp import metrics
from pentad.nlp.bias import BiasConfig, bias_report, swap_test
from pentad.nlp.calibration import calibration_error, reliability
from pentad.nlp.documents import Document, from_case
from pentad.nlp.predict import Prediction
from pentad.nlp.predictors import Predictor, load_predictor
from pentad.nlp.tags import entities as entities_of
from pentad.nlp.tags import split_tag


@dataclass(frozen=True)
class EvaluateConfig:
    """Section ``evaluate`` of params.yaml.

    Attributes:
        seed: Of the bootstrap intervals.
        harmful: Classes that together count as harmful for the areas under curves and the bias metrics.
        bias: Identity terms; none leaves the bias report out.
    """

    seed: int = 0
    harmful: tuple[str, ...] = ()
    bias: BiasConfig | None = None


Scores = dict[str, Any]


def evaluate(
    table: Path, split: str, model: str, out: Path, params: Path, overrides: Sequence[str] = (), device: str = "auto"
) -> tuple[str, int]:
    """Score a model on the labelled documents of a split; return a one-line summary and how many documents failed.

    Writes ``per_case.csv``, ``metrics.json``, ``calibration.json``, ``bias.json`` (where terms are given) and
    ``timing.json`` into ``out``.

    Raises:
        NoInputError: The split has no document.
        ModelError: The bundle cannot be used.
        UsageError: ``harmful`` names what is no class.
    """
    config = load_params(params, "evaluate", EvaluateConfig, overrides)
    cases = read_cases(table, split)
    if not cases:
        raise NoInputError("PTD-797", f"no document of the split '{split}'", "name another split", table)
    predictor = load_predictor(model, device)
    entities = predictor.settings.task == "entities"
    if not entities:
        _harmful(predictor.settings.labels, config)  # before the long part
    found, seconds = _predict(predictor, cases)
    kinds = [split_tag(name)[1] for name in predictor.settings.labels if name.startswith("B-")]

    def score(case: Case) -> Mapping[str, float]:
        one = found.get(case.id)
        if one is None:
            raise CaseError("PTD-798", "the document could not be read", "prepare the data again", case.id)
        document = from_case(case)
        if entities:
            return _entity_row(document, one, kinds)
        return _class_row(document, one, predictor.settings.labels)

    with _failures_alone():
        rows = evaluate_cases(cases, score)
    scored = {row.id: row.metrics for row in rows if row.status == "ok"}
    if not scored:
        problem = f"no document of the split '{split}' could be scored; the first: {rows[0].reason.rstrip('.')}"
        raise NoInputError("PTD-797", problem, "prepare the data again", table)
    cases = [case for case in cases if case.id in scored]
    documents = [from_case(case) for case in cases]
    predictions = [found[document.id] for document in documents]
    names = next(iter(scored.values()))
    table_of = {name: np.array([row[name] for row in scored.values()]) for name in names}
    if entities:
        summary = _entity_summary(table_of, kinds, config.seed)
        confidence, right = _word_confidence(documents, predictions)
    else:
        summary = _class_summary(table_of, predictor.settings.labels, config)
        confidence = np.array([one.confidence for one in predictions])
        right = np.array([one.label == document.label for one, document in zip(predictions, documents, strict=True)])
    summary["calibration_error"] = to_entry(calibration_error(confidence, right, config.seed))
    summary["abstained"] = to_entry(bootstrap_interval([one.abstained for one in predictions], seed=config.seed))
    sure = np.array([not one.abstained for one in predictions])
    if not entities and sure.any():
        hits = right.astype(float)[sure]
        summary["accuracy_where_not_abstained"] = to_entry(bootstrap_interval(hits, seed=config.seed))
    statement = provenance(
        "nlp",
        seed=config.seed,
        model=predictor.digest,
        config=digest_json(to_mapping(config)),
        data=data_digest(cases),
    )
    write_results(out, rows, summary, statement)
    write_json(
        out / "calibration.json",
        _finite({"temperature": predictor.settings.temperature, "bins": reliability(confidence, right)}),
    )
    if config.bias and not entities:
        write_json(out / "bias.json", _bias(predictor, documents, predictions, config))
    write_json(
        out / "timing.json",
        {"seconds_per_1000": round(1000 * seconds / max(len(documents), 1), 4), "n": len(documents)},
    )
    failed = sum(row.status == "failed" for row in rows)
    main = "f1" if entities else "macro_f1"
    return f"{predictor.name}: {main} {_show(summary[main])} on {len(rows) - failed} documents, {failed} failed", failed


@contextmanager
def _failures_alone() -> Iterator[None]:
    """Let core tell of failed documents alone: a line for each would bury what matters."""
    told = logging.getLogger("pentad.core.evaluation")
    before = told.level
    told.setLevel(logging.WARNING)
    try:
        yield
    finally:
        told.setLevel(before)


def _show(entry: Mapping[str, Any]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" if entry["low"] is not None else "—"


def _predict(predictor: Predictor, cases: Sequence[Case]) -> tuple[dict[str, Prediction], float]:
    """Predictions by case, of those that hold a document, and the seconds that they took, loading left out."""
    documents = []
    for case in cases:
        try:
            documents.append(from_case(case))
        except CaseError:
            continue
    predictor.run(documents[:8])  # first calls build tables that later ones share
    start = time.perf_counter()
    found = predictor.run(documents)
    return dict(zip((document.id for document in documents), found, strict=True)), time.perf_counter() - start


def _entity_row(document: Document, one: Prediction, kinds: Sequence[str]) -> dict[str, float]:
    if len(document.tags) != len(one.tags):
        problem = f"{len(one.tags)} tags for {len(document.tags)} words"
        raise CaseError("PTD-798", problem, "prepare the data again", document.id)
    counts = metrics.entity_counts(document.tags, one.tags, kinds)
    row = {f"strict_{name}": value for name, value in zip(metrics.COUNTS, counts["strict"]["all"], strict=True)}
    row |= {f"partial_{name}": value for name, value in zip(metrics.COUNTS, counts["partial"]["all"], strict=True)}
    for kind in kinds:
        row |= {f"{kind}_{name}": value for name, value in zip(metrics.COUNTS, counts["strict"][kind], strict=True)}
    return {**row, "confidence": one.confidence}


def columns(table: Mapping[str, Any], prefix: str, names: Sequence[str] = metrics.COUNTS) -> metrics.Array:
    """Return the counts of a prefix as an array (documents, counts)."""
    return np.column_stack([table[f"{prefix}_{name}"] for name in names])


def _entity_summary(table: Mapping[str, Any], kinds: Sequence[str], seed: int) -> Scores:
    strict, partial = columns(table, "strict"), columns(table, "partial")
    summary = {
        "f1": metrics.pooled_f1(strict, seed),
        "f1_partial": metrics.pooled_f1(partial, seed),
        "precision": metrics.pooled_f1(strict, seed, metrics.precision),
        "recall": metrics.pooled_f1(strict, seed, metrics.recall),
        **{f"f1_{kind}": metrics.pooled_f1(columns(table, kind), seed) for kind in kinds},
    }
    by_kind = np.concatenate([columns(table, kind) for kind in kinds], axis=1)

    def macro(sums: metrics.Array) -> metrics.Array:
        width = len(metrics.COUNTS)
        parts = [metrics.entity_f1(sums[..., place : place + width]) for place in range(0, len(kinds) * width, width)]
        return np.asarray(np.nanmean(np.stack(parts), axis=0))

    return {
        name: to_entry(value)
        for name, value in {**summary, "f1_macro": metrics.pooled_f1(by_kind, seed, macro)}.items()
    }


def _class_row(document: Document, one: Prediction, labels: Sequence[str]) -> dict[str, float]:
    if document.label not in labels:
        raise CaseError(
            "PTD-771", f"the label '{document.label[:40]}' is unknown to the model", "correct it", document.id
        )
    wanted, given = labels.index(document.label), labels.index(one.label)
    scores = {f"p_{name}": one.scores[name] for name in labels}
    return {"label": wanted, "predicted": given, "correct": wanted == given, "confidence": one.confidence, **scores}


def _class_summary(table: Mapping[str, Any], labels: Sequence[str], config: EvaluateConfig) -> Scores:
    wanted, given = table["label"].astype(np.int64), table["predicted"].astype(np.int64)
    counts = metrics.class_counts(wanted, given, len(labels))
    summary = {
        "macro_f1": metrics.pooled_f1(counts, config.seed, lambda sums: metrics.macro_f1(sums, len(labels))),
        "accuracy": bootstrap_interval(table["correct"], seed=config.seed),
    }
    for place, name in enumerate(labels):
        summary[f"f1_{name}"] = metrics.pooled_f1(
            counts, config.seed, lambda sums, place=place: metrics.f1_by_class(sums, len(labels))[..., place]
        )
    harmful = _harmful(labels, config)
    positive = np.isin(wanted, [labels.index(name) for name in harmful])
    score = np.sum([table[f"p_{name}"] for name in harmful], axis=0)
    summary["auroc"] = metrics.area(score, positive, seed=config.seed)
    summary["auprc"] = metrics.area(score, positive, seed=config.seed, kind="pr")
    return {name: to_entry(value) for name, value in summary.items()}


def _harmful(labels: Sequence[str], config: EvaluateConfig) -> list[str]:
    """The classes that count as harmful: those named, else all but the first."""
    for name in config.harmful:
        if name not in labels:
            problem = f"evaluate.harmful names '{name}', which is no class of the model{nearest(name, labels)}"
            raise UsageError("PTD-814", problem, f"name some of {', '.join(labels)}")
    return [name for name in labels if name in config.harmful] or list(labels[1:])


def _word_confidence(
    documents: Sequence[Document], predictions: Sequence[Prediction]
) -> tuple[metrics.Array, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Whether each entity that was given is right, type and borders, and its score."""
    confidence, right = [], []
    for document, one in zip(documents, predictions, strict=True):
        wanted = {(start, end, kind) for start, end, kind in _spans(document)}
        for entity in one.found:
            confidence.append(entity.score)
            right.append((entity.start, entity.end, entity.label) in wanted)
    return np.array(confidence), np.array(right, dtype=bool)


def _spans(document: Document) -> list[tuple[int, int, str]]:
    words = document.spans()
    return [(words[start][0], words[after - 1][1], kind) for start, after, kind in entities_of(document.tags, "iob2")]


def _bias(
    predictor: Predictor, documents: Sequence[Document], found: Sequence[Prediction], config: EvaluateConfig
) -> Scores:
    assert config.bias is not None
    harmful = _harmful(predictor.settings.labels, config)
    texts = [document.text for document in documents]
    score = np.array([sum(one.scores[name] for name in harmful) for one in found])
    positive = np.array([document.label in harmful for document in documents])

    def run(variants: Sequence[str]) -> metrics.Array:
        made = predictor.run([Document(str(place), text) for place, text in enumerate(variants)])
        return np.array([sum(one.scores[name] for name in harmful) for one in made])

    report = bias_report(texts, score, positive, config.bias, config.seed)
    swaps = swap_test(
        [text for text, side in zip(texts, positive, strict=True) if not side], run, config.bias, config.seed
    )
    stated: Scores = _finite({"harmful": harmful, **report, "swap": swaps})
    return stated


def _finite(value: Any) -> Any:
    """The value with null for every number that is none, as JSON wants it."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
