"""Stage evaluate: a model and labelled cases in; a row a case, a row a lesion, label maps and intervals out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.errors import NoInputError
from pentad.core.evaluation import Row, make_room, summarise, to_entry, write_results
from pentad.core.evaluation import evaluate as evaluate_cases
from pentad.core.files import digest_json, write_json, write_text
from pentad.core.run import provenance
from pentad.medical.ablation import ablate, table_of
from pentad.medical.metrics import SUMMARY_METRICS, TOLERANCES_MM, lesion_rows, pooled_metrics, score_case
from pentad.medical.predictors import load_predictor
from pentad.medical.volumes import Volume, read_label, read_nifti, write_nifti


@dataclass(frozen=True)
class EvaluateConfig:
    """Section ``evaluate`` of params.yaml.

    Attributes:
        tolerances_mm: Tolerance of the normalised surface Dice of each structure, mm.
        seed: Seed of the bootstrap intervals.
        mirror: Average over mirrored windows or not; nothing for what the bundle says.
    """

    tolerances_mm: dict[str, float] = field(default_factory=lambda: dict(TOLERANCES_MM))
    seed: int = 0
    mirror: bool | None = None

    def __post_init__(self) -> None:
        if self.tolerances_mm.keys() != TOLERANCES_MM.keys() or not min(self.tolerances_mm.values()) > 0:
            raise ValueError(f"tolerances_mm must give {' and '.join(TOLERANCES_MM)} a length above 0")


@dataclass(frozen=True)
class EvaluateRequest:
    """What to score, with what, and where to.

    Attributes:
        table: Case table.
        split: Its split to score.
        model: Bundle, several divided by commas, or a baseline.
        out: Folder to write.
        params: A params.yaml with a section ``evaluate``.
        overrides: Settings that go before it, ``name=value``.
        device: auto, cpu, cuda or cuda:N.
        overwrite: Replace an earlier evaluation in ``out``.
    """

    table: Path
    split: str
    model: str
    out: Path
    params: Path
    overrides: Sequence[str] = ()
    device: str = "auto"
    overwrite: bool = False


def evaluate(request: EvaluateRequest) -> tuple[str, int]:
    """Score a model on the labelled cases of a split; return a one-line summary and how many cases failed.

    Writes ``labels/<id>.nii``, ``per_case.csv``, ``per_lesion.csv`` and ``metrics.json`` into ``out``, and for a
    predictor with post-processing ``rules.json``: what each rule does, on and off.

    Raises:
        NoInputError: The split has no case.
        UsageError: ``out`` holds something already (PTD-419).
        ModelError: The bundle cannot be used.
    """
    config = load_params(request.params, "evaluate", EvaluateConfig, request.overrides)
    out, cases = request.out, read_cases(request.table, request.split)
    if not cases:
        problem = f"no case of the split '{request.split}'"
        raise NoInputError("PTD-416", problem, "name another split", request.table)
    predictor = load_predictor(request.model, request.device, mirror=config.mirror)
    make_room(out, ("metrics.json", "labels"), "PTD-419", overwrite=request.overwrite)
    lesions: list[dict[str, Any]] = []
    ruled: dict[str, list[Row]] = {}
    rules = predictor.rules if predictor.rules and predictor.rules.organ else None

    def score(case: Case) -> Mapping[str, float]:
        image, reference = read_nifti(Path(case.files["image"])), read_label(Path(case.files["label"]))
        prediction = predictor.run(image, keep_raw=True) if rules else predictor.run(image)
        label = prediction.label
        if rules and prediction.raw is not None:
            found = ablate(prediction.raw, reference.array, image.spacing, predictor.classes, rules)
            for name, metrics in found.items():
                ruled.setdefault(name, []).append(Row(case.id, case.group, metrics=metrics))
        write_nifti(out / "labels" / f"{case.id}.nii", Volume(label, image.affine))
        lesions.extend({"id": case.id, **row} for row in lesion_rows(label, reference.array, image.spacing))
        return score_case(label, reference.array, image.spacing, config.tolerances_mm)

    rows = evaluate_cases(cases, score)
    scored = [row for row in rows if row.status == "ok"]
    done = {row.id for row in scored}
    # Of what was scored: a file that cannot be read has no digest, and the raw source may be far away.
    data = data_digest([case for case in cases if case.id in done], ("image", "label"))
    summary = summarise(rows, config.seed, SUMMARY_METRICS if scored else ())
    pooled = pooled_metrics([row.metrics for row in scored], config.seed, [row.group or row.id for row in scored])
    summary |= {name: to_entry(interval) for name, interval in pooled.items()}
    statement = provenance(
        "medical", seed=config.seed, model=predictor.digest, config=digest_json(to_mapping(config)), data=data
    )
    write_text(out / "per_lesion.csv", _as_csv(lesions))
    if ruled:
        write_json(out / "rules.json", table_of(ruled, config.seed))
    write_results(out, rows, summary, statement)
    failed = len(rows) - len(scored)
    return f"{predictor.name}: {len(scored)} cases scored, {failed} failed", failed


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
