"""Batch inference over many cases: nothing lost, repeated, overwritten or skipped in silence.

A run is the folder ``OUT/<run>``: ``cases/<id>/`` holds a case's files, put there whole; ``journal.jsonl`` a record
of every case; ``worklist.csv`` and ``index.html`` a row per case, problems first; ``rejected.jsonl`` inputs that
became no case; ``events.jsonl`` what happened when; ``run.json`` what made it all (see ``run_schema.json``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pentad.core.batch.casework import CaseResult
from pentad.core.batch.delivery import Destination, deliver_run
from pentad.core.batch.folder import EVENTS, default_name, new_run, not_writable, old_run
from pentad.core.batch.journal import CaseRecord
from pentad.core.batch.kept import kept_folder
from pentad.core.batch.merging import merge
from pentad.core.batch.options import BatchOptions
from pentad.core.batch.planning import Cost, dry_run
from pentad.core.batch.progress import Progress
from pentad.core.batch.run import BatchRun, Finish, Setup
from pentad.core.batch.shards import Shard, parse_shard
from pentad.core.batch.worker import tell_share
from pentad.core.cases import Case, Rejection
from pentad.core.errors import UsageError
from pentad.core.interrupt import Interrupt

__all__ = [
    "BatchOptions",
    "CaseRecord",
    "CaseResult",
    "Cost",
    "Destination",
    "Finish",
    "Setup",
    "deliver_run",
    "dry_run",
    "kept_folder",
    "merge",
    "run_batch",
    "tell_share",
]


def run_batch(
    cases: Sequence[Case],
    setup: Setup,
    options: BatchOptions,
    identity: Mapping[str, str],
    rejections: Sequence[Rejection] = (),
    finish: Finish | None = None,
    destination: Destination | None = None,
) -> int:
    """Process the cases in worker processes and return the command's exit code.

    A case fails alone, with one sentence and a code in the worklist, whatever happens to it: an exception, a
    crash of its process, a time limit, an input that vanishes. A full disk ends the run cleanly. Killed at any
    moment, the run goes on with ``resume``: a case counts as done only if its record, its input's digest, the
    identity and its files' digests all match.

    Args:
        cases: All cases; of a shard's run too, which picks its part by the sorted ids.
        setup: Called once in each worker process, spawned, so it must be picklable (a module's function or a
            `functools.partial` of one). Returns the function that processes a case into an empty folder.
        options: Where and how to run.
        identity: What makes the results, such as the digests of model, configuration and code.
        rejections: Inputs that became no case; they stand in the worklist.
        finish: Called at the end with the run's folder and all records in the worklist's order.
        destination: Where each case's results are handed on once it is done; where that fails the case stays done,
            its record says so, and resuming tries again.

    Returns:
        0 all done; 1 workers cannot start; 3 some cases failed, were rejected, not reached or not handed on (or
        flagged, if strict); 4 no usable case; 5 the set-up raised a `ModelError` (2 for a `UsageError`); 130
        interrupted.

    Raises:
        UsageError: The options are wrong or the run's folder cannot be used; nothing was started.
    """
    shard = _check(cases, options)
    with _open(options, shard) as folder, Interrupt() as interrupt:
        batch = BatchRun(folder, options, dict(identity), interrupt, destination)
        try:
            batch.plan(shard, cases, rejections)
            progress = Progress(folder / EVENTS, len(batch.to_do), quiet=options.quiet, json_lines=options.json_lines)
        except OSError as error:
            raise not_writable(folder, error) from None
        with progress:
            return batch.run(setup, progress, finish)


def _check(cases: Sequence[Case], options: BatchOptions) -> Shard:
    twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise UsageError("PTD-249", f"the id '{twice[0]}' stands twice", "give every case its own id")
    return parse_shard(options.shard)


def _open(options: BatchOptions, shard: Shard) -> AbstractContextManager[Path]:
    if options.resume:
        return old_run(options.out, shard.name(options.resume))
    return new_run(options.out, shard.name(options.run or default_name()), overwrite=options.overwrite)
