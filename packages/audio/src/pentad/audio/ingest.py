"""Stage prepare: a data set's folder in, the case table and what was refused out."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pentad.audio.layouts import Entry, list_entries
from pentad.audio.statement import Statement
from pentad.audio.waveform import stream
from pentad.core.cases import Case, Rejection, assign_splits, free_id, write_cases, write_rejections
from pentad.core.errors import CaseError, NoInputError, UsageError, nearest
from pentad.core.files import digest_file
from pentad.core.statement import FILE, raw_statement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareConfig:
    """Section ``prepare`` of params.yaml."""

    layout: str = "auto"
    """How the data set lies on the disk; see `layouts.LAYOUTS`."""
    classes: tuple[str, ...] = ()
    """The labels there are, in their order; a recording with another is refused. Empty takes all that occur."""
    folds: dict[str, list[int]] = field(default_factory=dict)
    """Split to its official folds, for instance ``test: [5]``; other folds train. Folds are never mixed."""
    split: dict[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    """Shares of the splits where a data set has neither folds nor splits."""
    seed: int = 0
    """Of that division."""


@dataclass(frozen=True)
class Prepared:
    """What was prepared, in words, and how much was refused."""

    text: str
    refused: int


def prepare(raw: Path, out: Path, config: PrepareConfig, *, dry_run: bool = False, overwrite: bool = False) -> Prepared:
    """Check every recording and write ``cases.jsonl``, ``rejected.jsonl`` and ``dataset.json`` into ``out``.

    Raises:
        UsageError: The folder, its layout or the output folder cannot be used.
        NoInputError: No recording can be used.
    """
    if out.exists() and any(out.iterdir()) and not overwrite and not dry_run:
        raise UsageError("PTD-724", "the folder holds something already", "choose another, or give --overwrite", out)
    listing = list_entries(raw, config.layout)
    rejected = [Rejection(where=problem.where, code="PTD-725", reason=problem.sentence) for problem in listing.problems]
    kept: list[tuple[Entry, Case]] = []
    seen: dict[str, Entry] = {}
    for entry in listing.entries:
        where = _name(entry.file, raw)
        try:
            kept.append((entry, _case(entry, raw, config, seen)))
        except CaseError as error:
            log.info("%s refused: %s", where, error.problem)
            rejected.append(Rejection(where=where, code=error.code, reason=f"{error.problem}; {error.remedy}."))
    if not kept:
        first = f" ({rejected[0].where}: {rejected[0].reason.rstrip('.')})" if rejected else ""
        raise NoInputError("PTD-726", f"no usable recording{first}", "correct the folder or prepare.layout", raw)
    cases = _unique([case for _, case in kept])
    if not all(case.split for case in cases):
        cases = assign_splits(cases, config.split, config.seed)
    if not dry_run:
        _write(out, raw, config, cases, kept, rejected)
    counts = Counter(case.split for case in cases)
    parts = ", ".join(f"{split} {count}" for split, count in sorted(counts.items()))
    return Prepared(f"{len(cases)} recordings ({parts}), {len(rejected)} refused", len(rejected))


def _name(path: Path, raw: Path) -> str:
    return path.relative_to(raw).as_posix() if path.is_relative_to(raw) else path.name


def _case(entry: Entry, raw: Path, config: PrepareConfig, seen: dict[str, Entry]) -> Case:
    """The entry as a case, if its sound can be used and its labels are known."""
    name = entry.file.name
    unknown = [label for label in entry.labels if config.classes and label not in config.classes]
    if unknown:
        problem = f"the class '{unknown[0]}' is not in prepare.classes{nearest(unknown[0], config.classes)}"
        raise CaseError("PTD-727", problem, "correct the label or add the class", name)
    signal, blocks = stream(entry.file, 16_000)
    for _ in blocks:  # decoded to its end: only so a cut-off or poisoned file is known
        pass
    late = [label for onset, offset, label in entry.events or () if offset > signal.header.seconds + 0.05]
    if late:
        problem = f"the event '{late[0]}' ends after the recording's {signal.header.seconds:.3f} s"
        raise CaseError("PTD-728", problem, "correct its onset and offset", name)
    split = entry.split or _split_of(entry.fold, config)
    digest = digest_file(entry.file)
    first = seen.setdefault(digest, entry)
    if first is not entry:
        where = f"fold {first.fold}" if first.fold != entry.fold else "the list"
        problem = f"the same bytes as {first.file.name}, which {where} holds already"
        raise CaseError("PTD-729", problem, "keep one of them: a copy in another fold would be scored twice", name)
    events = None if entry.events is None else [[onset, offset, label] for onset, offset, label in entry.events]
    identity = re.sub(r"[^A-Za-z0-9._-]+", "_", _name(entry.file.with_suffix(""), raw).removeprefix("audio/"))
    return Case(
        id=identity.lstrip("._-")[:120] or "recording",
        files={"audio": os.path.realpath(entry.file)},
        target={"labels": list(entry.labels), "events": events, "fold": entry.fold},  # type: ignore[dict-item]
        group=entry.group,
        split=split,
    )


def _split_of(fold: int, config: PrepareConfig) -> str:
    if not config.folds or not fold:
        return ""
    return next((split for split, folds in config.folds.items() if fold in folds), "train")


def _unique(cases: Sequence[Case]) -> list[Case]:
    """The cases with a number behind ids that stand twice (one name in two folders, or two suffixes)."""
    taken: set[str] = set()
    found = []
    for case in cases:
        found.append(case.model_copy(update={"id": free_id(case.id, taken)}))
        taken.add(found[-1].id)
    return found


def _write(
    out: Path,
    raw: Path,
    config: PrepareConfig,
    cases: Sequence[Case],
    kept: Sequence[tuple[Entry, Case]],
    rejected: Sequence[Rejection],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    occurring = sorted({label for entry, _ in kept for label in entry.labels})
    said = replace(
        raw_statement(raw, Statement),
        classes=tuple(config.classes) or tuple(occurring),
        exclusive=all(len(entry.labels) == 1 for entry, _ in kept),
        strong=any(entry.events is not None for entry, _ in kept),
    )
    write_cases(out / "cases.jsonl", cases)
    write_rejections(out / "rejected.jsonl", rejected)
    said.save(out)
    log.info("wrote %s", out / FILE)
