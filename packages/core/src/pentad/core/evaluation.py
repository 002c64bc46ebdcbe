"""Score cases one by one, keep every outcome as a row, and summarise the rows with intervals.

A case that cannot be scored stays in the table with a code and a reason; nothing is skipped in silence.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pentad.core.cases import Case
from pentad.core.errors import CaseError, PentadError, UsageError, nearest
from pentad.core.files import write_json, write_text
from pentad.core.metrics import Interval, bootstrap_interval, paired_difference

log = logging.getLogger(__name__)

_FIXED_COLUMNS = ("id", "status", "code", "reason", "group")

Summary = dict[str, dict[str, float | int | None]]


@dataclass(frozen=True)
class Row:
    """What became of one case.

    Attributes:
        id: The case.
        group: Its group; cases of one group are drawn together when intervals are computed.
        status: ``ok`` or ``failed``.
        code: Stable code of the failure, empty for ``ok``.
        reason: One sentence, empty for ``ok``.
        metrics: Name to value; NaN where the case has no value of this kind. Empty for ``failed``.
    """

    id: str
    group: str = ""
    status: Literal["ok", "failed"] = "ok"
    code: str = ""
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    cases: Iterable[Case],
    score: Callable[[Case], Mapping[str, float]],
) -> list[Row]:
    """Return one row a case, in the order given.

    Args:
        cases: The cases to score.
        score: Predicts and scores one case; returns metrics by flat names. Errors about one case end that
            case alone; errors about the call or the model (`UsageError`, `ModelError`) end the whole.
    """
    rows = []
    for case in cases:
        row = _score(case, score)
        rows.append(row)
        log.log(logging.INFO if row.status == "ok" else logging.WARNING, "%s %s %s", case.id, row.status, row.reason)
    return rows


def _score(case: Case, score: Callable[[Case], Mapping[str, float]]) -> Row:
    try:
        metrics = {name: float(value) for name, value in score(case).items()}
    except CaseError as error:
        return Row(case.id, case.group, "failed", error.code, str(error).removeprefix(f"{error.code} "))
    except PentadError:
        raise
    except Exception as error:
        # The message may quote the file's content, a patient's name even, so only its kind goes into the table.
        log.debug("case %s failed", case.id, exc_info=True)
        reason = f"an unforeseen {type(error).__name__}; run with -v for its trace, and report it."
        return Row(case.id, case.group, "failed", "PTD-319", reason)
    return Row(case.id, case.group, metrics=metrics)


def summarise(rows: Sequence[Row], seed: int, metrics: Sequence[str] = (), resamples: int = 10_000) -> Summary:
    """Return ``{metric: {value, low, high, n}}``: each metric's mean over the scored cases with its interval.

    Args:
        rows: Outcome of `evaluate`; failed cases have no metrics and show as a smaller ``n``.
        seed: Seed of the bootstrap.
        metrics: Names to summarise, in this order; all by default.
        resamples: Draws of the bootstrap.

    Raises:
        UsageError: No case has a metric of a name asked for.
    """
    known = _metric_names(rows)
    for name in metrics:
        if known and name not in known:
            raise UsageError("PTD-267", f"no case has the metric '{name}'{nearest(name, known)}", "correct the name")
    groups = [row.group or row.id for row in rows]
    return {
        name: to_entry(bootstrap_interval(_column(rows, name), seed=seed, groups=groups, resamples=resamples))
        for name in metrics or known
    }


def compare(rows: Sequence[Row], others: Sequence[Row], seed: int, resamples: int = 10_000) -> Summary:
    """Return ``{metric: {value, low, high, n}}``: the mean of ``rows - others`` over cases that both scored.

    Args:
        rows: Outcome of the method looked at.
        others: Outcome of the method it is compared with, on the same cases.
        seed: Seed of the bootstrap.
        resamples: Draws of the bootstrap.

    Raises:
        UsageError: The two do not hold the same cases.
    """
    by_id = {row.id: row for row in others}
    if sorted(by_id) != sorted(row.id for row in rows):
        different = sorted(by_id.keys() ^ {row.id for row in rows})
        raise UsageError(
            "PTD-268",
            f"the two evaluations differ in {len(different)} cases ({', '.join(different[:3])})",
            "compare evaluations of the same split",
        )
    paired = [by_id[row.id] for row in rows]
    groups = [row.group or row.id for row in rows]
    shared = [name for name in _metric_names(rows) if name in _metric_names(others)]
    return {
        name: to_entry(
            paired_difference(_column(rows, name), _column(paired, name), seed=seed, groups=groups, resamples=resamples)
        )
        for name in shared
    }


def to_entry(interval: Interval) -> dict[str, float | int | None]:
    """Return an interval as it stands in metrics.json: six digits after the point, null for NaN."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {**{name: round(x, 6) if math.isfinite(x) else None for name, x in numbers.items()}, "n": interval.n}


def from_entry(stated: Mapping[str, float | int | None]) -> Interval:
    """Return the interval that an entry of metrics.json states."""
    numbers = [stated[name] for name in ("value", "low", "high")]
    value, low, high = (math.nan if number is None else float(number) for number in numbers)
    return Interval(value, low, high, int(stated["n"] or 0))


def make_room(out: Path, marks: Collection[str], code: str, *, overwrite: bool) -> None:
    """Remove an earlier evaluation if that is allowed; refuse anything else: two evaluations must not mix.

    Args:
        out: Folder to write.
        marks: Names by one of which an evaluation is known, or what is left of one that was stopped half-way.
        code: Of the error.
        overwrite: Whether it is allowed.

    Raises:
        UsageError: Something is there, or with ``overwrite`` something that is no evaluation.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UsageError(code, "there is something already", "choose another folder or give --overwrite", out)
    if not any((out / name).exists() for name in marks):
        raise UsageError(code, "there is something that is no evaluation", "choose another folder", out)
    shutil.rmtree(out)


def write_results(folder: Path, rows: Sequence[Row], summary: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write ``per_case.csv`` and ``metrics.json``, each whole or not at all.

    Args:
        folder: Where to write; made if missing.
        rows: Outcome of `evaluate`, a line each.
        summary: Metric to ``{value, low, high, n}`` as from `summarise`, or a mapping of such mappings (one for
            each model). It becomes metrics.json, beside ``cases`` (how many were scored and how many failed).
        provenance: Short statement of code, model and data, as from `pentad.core.run.provenance`.
    """
    failed = sum(row.status == "failed" for row in rows)
    cases = {"scored": len(rows) - failed, "failed": failed}
    write_text(folder / "per_case.csv", format_rows(rows))
    write_json(folder / "metrics.json", {**summary, "cases": cases, "provenance": provenance})


def format_rows(rows: Sequence[Row]) -> str:
    """Return rows as CSV: id, status, code, reason, group and the metrics; an empty field is a missing value."""
    names = _metric_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED_COLUMNS, *names])
    for row in rows:
        values = [row.metrics.get(name, math.nan) for name in names]
        fixed = [row.id, row.status, row.code, row.reason, row.group]
        writer.writerow(fixed + ["" if math.isnan(value) else f"{value:.8g}" for value in values])
    return text.getvalue()


def read_rows(table: Path) -> list[Row]:
    """Read a per_case.csv.

    Raises:
        UsageError: The file is missing or is no such table.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
        return [_parse_row(line) for line in lines]
    except OSError as error:
        raise UsageError(
            "PTD-269", f"cannot be read ({error.strerror})", "run the evaluate command first", table
        ) from None
    except (KeyError, ValueError, TypeError):
        raise UsageError("PTD-269", "not a per_case.csv", "write it with the evaluate command", table) from None


def read_json(file: Path) -> Any:
    """Read the metrics.json, or what else an evaluation wrote as JSON.

    Raises:
        UsageError: The file is missing or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError("PTD-269", "missing, or no JSON", "run the evaluate command first", file) from None


def _parse_row(line: dict[str, str]) -> Row:
    fixed = {name: line.pop(name) for name in _FIXED_COLUMNS}
    if fixed["status"] not in ("ok", "failed"):
        raise ValueError(fixed["status"])
    metrics = {name: float(value) if value else math.nan for name, value in line.items()}
    status: Literal["ok", "failed"] = "ok" if fixed["status"] == "ok" else "failed"
    return Row(fixed["id"], fixed["group"], status, fixed["code"], fixed["reason"], metrics if status == "ok" else {})


def _metric_names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def _column(rows: Iterable[Row], name: str) -> list[float]:
    return [row.metrics.get(name, math.nan) for row in rows]
