"""The folder of one batch run: its name, its lock, and run.json, the statement of what made it."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pentad.core.errors import UsageError, nearest
from pentad.core.files import write_json

FORMAT = "pentad.run/1"
RUN, JOURNAL, EVENTS, WORKLIST, REJECTED = "run.json", "journal.jsonl", "events.jsonl", "worklist.csv", "rejected.jsonl"
CASES, SCRATCH, KEPT, LOCK, INDEX = "cases", ".work", ".kept", ".lock", "index.html"

OWN = {RUN, JOURNAL, EVENTS, WORKLIST, REJECTED, CASES, SCRATCH, KEPT, LOCK, INDEX}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass
class RunState:
    """What run.json says; run_schema.json describes every key for readers.

    Attributes:
        run: Name of the run and its folder.
        format: Version of this layout.
        status: ``running``, ``finished``, ``stopped`` (by a limit or a full disk), ``interrupted`` or ``crashed``.
        exit_code: Exit code of the command, null while it runs.
        started: When the run first started, in UTC.
        ended: When it last ended, in UTC, or empty.
        seconds: Duration of all its starts together by the monotonic clock.
        starts: How often it was started or resumed.
        shard: The part of the cases that this run holds, ``i/n``.
        identity: Digests of model, configuration, code … that make its results.
        options: Settings of the runner.
        merged_from: Names of the runs that were joined to this one.
        code: Package versions and a digest of their source.
        environment: Versions of libraries and the commit, where there is one.
        cases: Numbers of cases: ``total`` and by status.
    """

    run: str
    format: str = FORMAT
    status: str = "running"
    exit_code: int | None = None
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    starts: int = 0
    shard: str = "1/1"
    identity: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    merged_from: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)


def utc_now() -> str:
    """Return the time in UTC, such as ``2026-11-23T04:05:06.123Z``; for people, never for calculations."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def default_name() -> str:
    """Return a run name: that of the Slurm array job, the same for all its tasks, else the time in UTC."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    return f"slurm-{job}" if job.isdigit() else datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]


def check_name(name: str) -> str:
    """Return ``name`` if it is fit for a run's folder.

    Raises:
        UsageError: It is not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError("PTD-240", f"'{name}' is no run name", "use up to 128 letters, digits, '.', '_' and '-'")
    return name


def write_state(folder: Path, state: RunState) -> None:
    """Write run.json, whole or not at all."""
    write_json(folder / RUN, TypeAdapter(RunState).dump_python(state))


def read_state(folder: Path) -> RunState:
    """Read run.json.

    Raises:
        UsageError: There is none, or it is not of this format.
    """
    path = folder / RUN
    try:
        state = TypeAdapter(RunState).validate_python(json.loads(path.read_text(encoding="utf-8")))
        if not (re.fullmatch(r"\d{1,6}/\d{1,6}", state.shard) and math.isfinite(state.seconds)):
            raise ValueError("no shard, or no duration")
    except (OSError, ValueError, RecursionError, ValidationError):
        raise UsageError("PTD-253", "this is no run folder with a readable run.json", "name another", folder) from None
    if state.format != FORMAT:
        raise UsageError(
            "PTD-253", f"its format is '{state.format}', not '{FORMAT}'", "use the version that made it", path
        )
    return state


@contextmanager
def new_run(out: Path, name: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Make the folder ``out/name`` and hold its lock; with ``overwrite`` an older run there is emptied first.

    Raises:
        UsageError: It exists, cannot be written, is no run folder, or another process works in it.
    """
    folder = out / check_name(name)
    check_free(folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=overwrite)
    except OSError as error:
        raise not_writable(out, error) from None
    with _locked(folder):
        for path in folder.iterdir():
            if path.name == LOCK:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield folder


@contextmanager
def old_run(out: Path, name: str) -> Iterator[Path]:
    """Hold the lock of the run folder ``out/name``.

    Raises:
        UsageError: There is no such run, it cannot be written, or another process works in it.
    """
    folder = check_resumable(out, name)
    with _locked(folder):
        yield folder


def check_free(folder: Path, *, overwrite: bool) -> None:
    """See that a run may be made in ``folder``.

    Raises:
        UsageError: Something is there, or with ``overwrite`` something that is no run, or it cannot be looked at.
    """
    try:
        taken = folder.exists()
    except OSError as error:  # a folder above it that may not be searched
        raise not_writable(folder.parent, error) from None
    if taken and not overwrite:
        raise UsageError("PTD-242", "this run exists", "resume it, give another name, or say --overwrite", folder)
    if taken and not _is_run(folder):
        raise UsageError("PTD-242", "this is no run folder, so it is not emptied", "give another name", folder)


def check_resumable(out: Path, name: str) -> Path:
    """Return the folder of the run ``name``.

    Raises:
        UsageError: There is none.
    """
    folder = out / check_name(name)
    if not folder.is_dir() or not _is_run(folder):
        if (folder / RUN).exists():
            read_state(folder)  # it says that this is a run, but not a readable one
        runs = [path.parent.name for path in out.glob(f"*/{RUN}")] if out.is_dir() else []
        hint = nearest(name, runs)
        raise UsageError("PTD-243", f"no run '{name}' to resume here{hint}", "name a run of this folder", out)
    return folder


def _is_run(folder: Path) -> bool:
    try:
        read_state(folder)
    except UsageError:
        # A run killed in its first moment has its folder, but no run.json yet, or half of one.
        return folder.is_dir() and all(path.name in OWN or _is_part(path) for path in folder.iterdir())
    return True


def _is_part(path: Path) -> bool:
    return path.name.startswith(".part-")  # what `files.atomic` writes before it renames


def clear_leavings(folder: Path) -> None:
    """Remove what a killed start left half-written, and make the scratch folder anew."""
    for path in filter(_is_part, list(folder.iterdir())):
        path.unlink()
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    (folder / SCRATCH).mkdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise not_writable(folder, error) from None
    try:
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    # The kernel gives this lock back however the process ends, so none is ever stale.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        problem = "another process works in this run"
        raise UsageError("PTD-245", problem, "wait for it, or give the new run a name of its own", folder) from None


def not_writable(folder: Path, error: OSError) -> UsageError:
    """Return the error that says that ``folder`` cannot be written."""
    return UsageError("PTD-241", f"cannot be written ({error.strerror})", "give a folder you may write to", folder)
