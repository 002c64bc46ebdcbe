"""Join the shards of a batch run to one run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pentad.core.batch.delivery import not_sent
from pentad.core.batch.folder import (
    CASES,
    EVENTS,
    JOURNAL,
    OWN,
    REJECTED,
    WORKLIST,
    RunState,
    new_run,
    not_writable,
    read_state,
    utc_now,
    write_state,
)
from pentad.core.batch.index import write_index
from pentad.core.batch.journal import CaseRecord, LineFile, read_journal, write_record
from pentad.core.batch.resuming import files_match
from pentad.core.batch.worklist import worst_first, write_worklist
from pentad.core.cases import Rejection, write_rejections
from pentad.core.errors import UsageError
from pentad.core.files import digest_file, read_lines
from pentad.core.run import code_version, environment


@dataclass(frozen=True)
class _Part:
    folder: Path
    state: RunState
    records: dict[str, CaseRecord]
    rejections: list[Rejection]


def merge(runs: Sequence[Path], out: Path, finish: Callable[[Path, list[CaseRecord]], None] | None = None) -> int:
    """Join finished runs, such as all shards of one, to the new run folder ``out`` and return the exit code.

    Result files are checked against their digests and linked, not copied, where the file system allows it. The
    given runs stay as they are.

    Args:
        runs: Run folders of the same identity without a case in common.
        out: The new run folder.
        finish: As for `run_batch`.

    Returns:
        0 all cases done; 3 some failed or were rejected.

    Raises:
        UsageError: A run is unfinished, missing, of another identity, holds a case of another or a changed
            file; a shard is missing; or ``out`` exists.
    """
    parts = [_read_part(folder) for folder in runs]
    _check_together(parts)
    try:
        with new_run(out.absolute().parent, out.name) as folder:
            try:
                return _join(parts, folder, finish)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        raise not_writable(out, error) from None


def _read_part(folder: Path) -> _Part:
    state = read_state(folder)
    if state.status != "finished":
        raise UsageError("PTD-254", f"this run is {state.status}, not finished", "resume it first", folder)
    try:
        rejections = [Rejection.model_validate_json(line) for _, line in read_lines(folder / REJECTED)]
    except (OSError, ValueError):
        raise UsageError("PTD-253", f"{REJECTED} cannot be read", "resume the run to write it anew", folder) from None
    records = read_journal(folder / JOURNAL)
    lost = state.cases.get("total", 0) - len(records)
    if lost > 0:
        problem = f"{JOURNAL} lacks {lost} of its {state.cases['total']} cases"
        raise UsageError("PTD-256", problem, "resume the run to do them again", folder)
    return _Part(folder, state, records, rejections)


def _check_together(parts: Sequence[_Part]) -> None:
    if not parts:
        raise UsageError("PTD-250", "no run to merge", "name the run folders")
    first = parts[0]
    owner: dict[str, Path] = {}
    for part in parts:
        if part.state.identity != first.state.identity:
            problem = f"model, configuration or code differ from those of {first.folder.name}"
            raise UsageError("PTD-252", problem, "merge runs of one model only", part.folder)
        for name in part.records:
            if name in owner:
                problem = f"the case '{name}' is also in {owner[name].name}"
                raise UsageError("PTD-251", problem, "merge runs without a case in common", part.folder)
            owner[name] = part.folder
    _check_shards([part.state.shard for part in parts])


def _check_shards(shards: Sequence[str]) -> None:
    for count in {shard.partition("/")[2] for shard in shards} - {"1"}:
        missing = [f"{index}/{count}" for index in range(1, int(count) + 1) if f"{index}/{count}" not in shards]
        if missing:
            raise UsageError("PTD-255", f"the shards {', '.join(missing)} are missing", "name their run folders too")


def _join(parts: Sequence[_Part], folder: Path, finish: Callable[[Path, list[CaseRecord]], None] | None) -> int:
    (folder / CASES).mkdir()
    (folder / EVENTS).touch()
    records = sorted((record for part in parts for record in part.records.values()), key=lambda record: record.case)
    rejections = [item for part in parts for item in part.rejections]
    with LineFile(folder / JOURNAL, sync=False) as journal:
        for part in parts:
            for record in part.records.values():
                if record.status == "ok":
                    _link_case(part.folder / CASES / record.case, folder / CASES / record.case, record)
        for record in records:
            write_record(journal, record)
    write_rejections(folder / REJECTED, rejections)
    _copy_shared(parts, folder)
    refused = [
        CaseRecord(case=item.where, status="rejected", code=item.code, reason=item.reason) for item in rejections
    ]
    write_worklist(folder / WORKLIST, [*records, *refused])
    if finish is not None:
        finish(folder, worst_first([*records, *refused]))
    state = _joined_state(parts, folder, records, len(refused))
    write_index(folder, [*records, *refused], state)
    write_state(folder, state)
    return state.exit_code or 0


def _copy_shared(parts: Sequence[_Part], folder: Path) -> None:
    """Copy what the domain left at the top of every part with the same content, such as files set aside."""
    for path in sorted(parts[0].folder.iterdir()):
        same = [part.folder / path.name for part in parts]
        if path.name in OWN or not all(other.is_file() for other in same):
            continue
        if len({digest_file(other) for other in same}) == 1:
            shutil.copy2(path, folder / path.name)


def _link_case(source: Path, target: Path, record: CaseRecord) -> None:
    if not files_match(source, record.files):
        problem = "its files are not as they were written"
        raise UsageError("PTD-256", problem, "resume the run to make them anew", source)
    target.mkdir()
    for name in record.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:  # another file system, or one without links
            shutil.copy2(source / name, target / name)


def _joined_state(parts: Sequence[_Part], folder: Path, records: Sequence[CaseRecord], rejected: int) -> RunState:
    good = [record for record in records if record.status == "ok"]
    failed = len(records) - len(good)
    flagged = sum(bool(record.flags) for record in good)
    counts = {"total": len(records), "ok": len(good), "failed": failed, "pending": 0}
    unsent = sum(not_sent(record) for record in good)
    strict = any(part.state.options.get("strict") for part in parts)
    return RunState(
        folder.name,
        status="finished",
        exit_code=3 if failed or rejected or unsent or (strict and flagged) else 0,
        started=min(part.state.started for part in parts),
        ended=utc_now(),
        seconds=round(sum(part.state.seconds for part in parts), 3),
        starts=1,
        identity=parts[0].state.identity,
        options={"strict": strict, "notice": parts[0].state.options.get("notice", "")},
        merged_from=[part.folder.name for part in parts],
        code=code_version(),
        environment=environment(),
        cases={**counts, "flagged": flagged, "rejected": rejected, "not_sent": unsent},
    )
