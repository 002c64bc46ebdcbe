"""One case of a batch run: its input's digest, its processing, and the sentence that says why it failed."""

from __future__ import annotations

import errno
import math
import numbers
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pentad.core.batch.worklist import COLUMNS
from pentad.core.cases import Case, input_digest, unreadable
from pentad.core.errors import CaseError, PentadError
from pentad.core.files import digest_file

UNEXPECTED = "PTD-300"
DISK_FULL = "PTD-301"
OUT_OF_MEMORY = "PTD-302"
DIED = "PTD-303"
TIMED_OUT = "PTD-304"
WRONG_RESULT = "PTD-306"
NOT_STORED = "PTD-307"

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_PROBE_BYTES = 1 << 16
_DEEPEST_FRAMES = 30


@dataclass
class CaseResult:
    """What processing a case gives beside the files it wrote.

    Attributes:
        row: The case's worklist columns; finite numbers and texts. What is undefined is left out.
        flags: Findings that a person should look at, such as ``cut_by_field_of_view``.
    """

    row: dict[str, str | float | int] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


Process = Callable[[Case, Path], CaseResult]


@dataclass(frozen=True)
class Outcome:
    """How a case ended: without a code it is done, else ``reason`` is one sentence.

    Attributes:
        code: ``PTD-nnn``, or empty.
        reason: The sentence that goes with the code; never an unexpected exception's own message, which may
            quote the data.
        row: The checked worklist columns.
        flags: The checked flags.
        files: Relative name to SHA-256 of every file written.
        input: SHA-256 of the input, empty if it could not be read.
        seconds: Duration by the monotonic clock.
        frames: Where an unexpected exception came from: ``module:line function``, outermost first.
    """

    code: str = ""
    reason: str = ""
    row: dict[str, str | int | float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    input: str = ""
    seconds: float = 0.0
    frames: tuple[str, ...] = ()


def work_on(process: Process, case: Case, folder: Path) -> Outcome:
    """Process one case into ``folder``, which is made here, and return how it ended; nothing is raised.

    The files are on the disk when a good outcome is returned.
    """
    start = time.monotonic()
    digest = ""
    try:
        folder.mkdir(parents=True)
        digest = input_digest(case)
        row, flags = _check_result(process(case, folder))
        return Outcome(row=row, flags=flags, files=_seal(folder), input=digest, seconds=time.monotonic() - start)
    except BaseException as error:  # a library that calls sys.exit must not end the run either
        code, reason, frames = explain(error, case, folder)
        return Outcome(code, _clean(reason), input=digest, seconds=time.monotonic() - start, frames=frames)


def _check_result(result: CaseResult) -> tuple[dict[str, str | int | float], list[str]]:
    if not isinstance(result, CaseResult):
        raise _wrong(f"the result is a {type(result).__name__}, not a CaseResult")
    for name in result.row:
        if not isinstance(name, str) or name in COLUMNS:
            raise _wrong(f"the column name {name!r} is taken by the worklist itself or is no text")
    if not all(isinstance(flag, str) for flag in result.flags):
        raise _wrong("a flag is no text")
    row = {_clean(name): _check_cell(name, value) for name, value in result.row.items()}
    return row, [_clean(flag) for flag in result.flags]


def _check_cell(name: str, value: object) -> str | int | float:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        raise _wrong(f"the column '{name}' holds a {type(value).__name__}, not a text or a number")
    if not math.isfinite(value):
        raise _wrong(f"the column '{name}' is not a finite number")
    return float(value)


def _wrong(problem: str) -> CaseError:
    return CaseError(WRONG_RESULT, problem, "report this as a defect of the model's program")


def _seal(folder: Path) -> dict[str, str]:
    """Bring every file below ``folder`` to the disk and return relative name to SHA-256."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise _wrong("a result file is a link, which a copy of the run would lose")
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            digests[path.relative_to(folder).as_posix()] = digest_file(path)
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync_folder(inner)
    return digests


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException) -> bool:
    """Return whether the system reported a full disk, a quota or a file-size limit."""
    return isinstance(error, OSError) and error.errno in _FULL


def explain(
    error: BaseException, case: Case | None = None, folder: Path | None = None
) -> tuple[str, str, tuple[str, ...]]:
    """Return code, sentence and frames of a failure; only a `PentadError` speaks for itself.

    Args:
        error: What was raised.
        case: The case in hand, if any, to recognise its input files.
        folder: Where the case writes, if it does, to see whether there is room.
    """
    chain = list(_chain(error))
    if any(is_full(link) for link in chain):
        return DISK_FULL, "the disk is full or a file exceeds the size allowed; make room, then resume the run.", ()
    if isinstance(error, PentadError):
        place = f"{error.where}: " if error.where else ""
        return error.code, f"{place}{error.problem}; {error.remedy}.", ()
    if any(_tells_lack_of_memory(link) for link in chain):
        reason = "the memory did not suffice; use fewer --workers or a machine with more memory, then resume the run."
        return OUT_OF_MEMORY, reason, _frames(chain)
    role = next((role for link in chain if case and (role := _role_of(link, case))), "")
    if role and isinstance(error, OSError):
        missing = unreadable(role, error)
        return missing.code, f"{missing.problem}; {missing.remedy}.", ()
    if folder and not isinstance(error, OSError) and _no_room(folder):
        return DISK_FULL, "the disk is full; make room, then resume the run.", _frames(chain)
    names = " from ".join(type(link).__name__ for link in chain)
    return UNEXPECTED, f"unexpected {names}; see events.jsonl for the place and report it as a defect.", _frames(chain)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _tells_lack_of_memory(error: BaseException) -> bool:
    # torch's own class is not imported here, and its allocator on the CPU raises a bare RuntimeError.
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def _role_of(error: BaseException, case: Case) -> str:
    """The role of the input file that an operating system's error names, or an empty string."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return ""
    named = Path(error.filename)
    return next((role for role, path in case.files.items() if named.is_relative_to(path)), "")


def _no_room(folder: Path) -> bool:
    # Writers of images and layers report a full disk, a quota or a limit as an error of their own, without its number.
    try:
        with tempfile.TemporaryFile(dir=folder.parent) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return is_full(error)
    return False


def _frames(chain: list[BaseException]) -> tuple[str, ...]:
    found = []
    for link in reversed(chain):
        for frame, line in traceback.walk_tb(link.__traceback__):
            found.append(f"{frame.f_globals.get('__name__', '?')}:{line} {frame.f_code.co_name}")
    return tuple(found[-_DEEPEST_FRAMES:])


def _clean(text: str) -> str:
    """The text without what UTF-8 cannot hold and without line breaks."""
    return " ".join(text.encode("utf-8", "replace").decode().splitlines())
