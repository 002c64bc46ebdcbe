"""What a batch run would do, without doing any of it."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pentad.core.batch.folder import CASES, JOURNAL, check_free, check_name, check_resumable, default_name
from pentad.core.batch.journal import CaseRecord, read_journal
from pentad.core.batch.options import BatchOptions
from pentad.core.batch.resuming import DONE, reasons_to_do
from pentad.core.batch.shards import Shard, parse_shard
from pentad.core.cases import Case, Rejection
from pentad.core.errors import NoInputError


@dataclass(frozen=True)
class Cost:
    """What a case is expected to take; 0 where nothing is known: bytes written, seconds on one worker."""

    bytes: int = 0
    seconds: float = 0.0


def dry_run(
    cases: Sequence[Case],
    options: BatchOptions,
    identity: Mapping[str, str],
    rejections: Sequence[Rejection] = (),
    cost: Cost = Cost(),
    aside: Sequence[Rejection] = (),
) -> int:
    """Print which cases would be processed to where, what is done already, what is rejected and why, and the cost.

    Nothing is written, no worker starts and no model is loaded. With ``options.json_lines`` the lines are JSON.

    Args:
        cases: As for `run_batch`.
        options: As for `run_batch`.
        identity: As for `run_batch`; decides what counts as done when resuming.
        rejections: As for `run_batch`.
        cost: Expected cost of a case. The records of a resumed run know better and take precedence.
        aside: Inputs that any normal folder holds beside its cases; told, and no reason to exit with 3.

    Returns:
        0 all fine; 3 something is rejected or cannot be read; 4 no usable case.

    Raises:
        UsageError: The real call would refuse to start.
    """
    shard = parse_shard(options.shard)
    folder = _folder(options, shard)
    records = read_journal(folder / JOURNAL) if options.resume else {}
    mine = shard.select(cases, lambda case: case.id)
    reasons = (
        reasons_to_do(folder, mine, records, identity)
        if options.resume
        else dict.fromkeys((case.id for case in mine), "new")
    )
    sizes = {case.id: input_size(case) for case in mine}
    for case in mine:
        _tell_case(case, folder, reasons[case.id], sizes[case.id], options.json_lines)
    refused = shard.select(rejections, lambda rejection: rejection.where)
    for item in refused:
        fields = {"where": item.where, "code": item.code, "reason": item.reason}
        _tell(f"rejected {item.where}: {item.code} {item.reason}", "plan.rejected", fields, options.json_lines)
    for item in shard.select(aside, lambda rejection: rejection.where):
        fields = {"where": item.where, "code": item.code, "reason": item.reason}
        _tell(f"left aside {item.where}: {item.code} {item.reason}", "plan.aside", fields, options.json_lines)
    to_do = [case.id for case in mine if reasons[case.id] != DONE]
    _tell_cost(options, to_do, sizes, _known_cost(records, folder, cost), (len(mine), len(refused)))
    if not cases:
        typer.echo(str(NoInputError("PTD-400", "no usable case in the input", "correct the path")), err=True)
        return NoInputError.exit_code
    return 3 if refused or any(sizes[name] < 0 for name in to_do) else 0


def _folder(options: BatchOptions, shard: Shard) -> Path:
    if options.resume:
        return check_resumable(options.out, shard.name(options.resume))
    folder = options.out / check_name(shard.name(options.run or default_name()))
    check_free(folder, overwrite=options.overwrite)
    return folder


def input_size(case: Case) -> int:
    """Return the bytes of a case's files, with all files beneath a folder; -1 if one is not there."""
    total = 0
    try:
        for path in map(Path, case.files.values()):
            inner = [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path]
            total += sum(found.stat().st_size for found in inner)
    except OSError:
        return -1
    return total


def _known_cost(records: Mapping[str, CaseRecord], folder: Path, cost: Cost) -> Cost:
    good = [record for record in records.values() if record.status == "ok"]
    if not good:
        return cost
    sizes = [
        sum(found.stat().st_size for found in (folder / CASES / record.case).rglob("*") if found.is_file())
        for record in good
    ]
    return Cost(int(statistics.mean(sizes)), statistics.mean(record.seconds for record in good))


def _tell_case(case: Case, folder: Path, reason: str, size: int, json_lines: bool) -> None:
    target = folder / CASES / case.id
    if reason == DONE:
        text = f"done already {case.id}"
    elif size < 0:
        text = f"would fail {case.id}: an input file is not there or cannot be read"
    else:
        text = f"would process {case.id} ({reason}) to {target}"
    fields = {"case": case.id, "done": reason == DONE, "reason": reason, "target": str(target), "input_bytes": size}
    _tell(text, "plan.case", fields, json_lines)


def _tell_cost(
    options: BatchOptions, to_do: list[str], sizes: Mapping[str, int], cost: Cost, numbers: tuple[int, int]
) -> None:
    total, rejected = numbers
    place = next(path for path in (options.out.absolute(), *options.out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    reading = sum(max(0, sizes[name]) for name in to_do)
    seconds = cost.seconds * len(to_do) / options.workers
    text = f"{len(to_do)} of {total} cases to do, {rejected} rejected; reads {_human(reading)}"
    text += f", writes about {_human(cost.bytes * len(to_do))}" if cost.bytes else ""
    text += f" ({_human(free)} free)" + (f", about {seconds / 60:.1f} min" if seconds else "")
    fields = {
        "to_do": len(to_do),
        "total": total,
        "rejected": rejected,
        "input_bytes": reading,
        "output_bytes": cost.bytes * len(to_do),
        "free_bytes": free,
        "s": round(seconds, 1),
    }
    _tell(text, "plan.sum", fields, options.json_lines)


def _human(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _tell(text: str, event: str, fields: Mapping[str, Any], json_lines: bool) -> None:
    typer.echo(json.dumps({"event": event, **fields}, ensure_ascii=False) if json_lines else text)
