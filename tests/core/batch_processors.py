"""Processors for the tests of the batch runner; at module level, so that spawned workers can import them."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pentad.core.batch import CaseResult, kept_folder, tell_share
from pentad.core.cases import Case
from pentad.core.errors import CaseError, ModelError


def _double(case: Case, folder: Path, *, seen: Path, delay: float) -> CaseResult:
    """The plain good case: reads a number, writes twice as much, and leaves a mark that it ran."""
    number = int(Path(case.files["image"]).read_text())
    time.sleep(delay)
    (folder / "answer.txt").write_text(str(2 * number))
    (folder / "deep").mkdir()
    (folder / "deep" / "more.bin").write_bytes(bytes(1000))
    with seen.open("a") as marks:
        marks.write(f"{case.id}\n")
    return CaseResult(row={"twice": 2 * number}, flags=["odd"] if number % 2 else [])


def doubling(seen: Path, delay: float = 0.0) -> Callable[[Case, Path], CaseResult]:
    return partial(_double, seen=seen, delay=delay)


def _tell(case: Case, folder: Path) -> CaseResult:
    tell_share(0.25)
    time.sleep(1.5)
    return CaseResult()


def telling() -> Callable[[Case, Path], CaseResult]:
    """The case that says how far it is before it takes its time."""
    return _tell


def _count_on(case: Case, folder: Path, *, key: str, until: int) -> CaseResult:
    """A long case: it keeps a file a step and dies after two; ``until`` steps are enough."""
    kept = kept_folder(folder, case, key)
    before = len(list(kept.iterdir()))
    for step in range(before, until):
        if step == before + 2:
            os.kill(os.getpid(), 9)
        (kept / str(step)).touch()
    return CaseResult(row={"before": before})


def counting(key: str, until: int = 3) -> Callable[[Case, Path], CaseResult]:
    return partial(_count_on, key=key, until=until)


def _raise(error: BaseException) -> None:
    raise error


def _vanish(case: Case) -> None:
    Path(case.files["image"]).unlink()
    Path(case.files["image"]).read_text()


def _writer_fails_on_a_full_disk() -> None:
    raise RuntimeError("writer failed") from OSError(errno.ENOSPC, "No space left on device")


_DEEDS: dict[str, Callable[[Case, Path], object]] = {
    "sigkill": lambda case, folder: os.kill(os.getpid(), 9),
    "segfault": lambda case, folder: os.kill(os.getpid(), 11),
    "exit": lambda case, folder: os._exit(7),
    "sys.exit": lambda case, folder: sys.exit(0),
    "hang": lambda case, folder: time.sleep(600),
    "raise": lambda case, folder: _raise(ValueError("the patient DOE^JANE is odd")),
    "memory": lambda case, folder: _raise(MemoryError()),
    "case error": lambda case, folder: _raise(
        CaseError("PTD-777", "slices are missing", "send the study again", "s1/0003.dcm")
    ),
    "link": lambda case, folder: (folder / "link").symlink_to(folder / "nowhere"),
    "vanish": lambda case, folder: _vanish(case),
    "disk": lambda case, folder: _writer_fails_on_a_full_disk(),
    "fill": lambda case, folder: (folder / "large.bin").write_bytes(bytes(1 << 20)),
    "good": lambda case, folder: None,
}
_ROWS: dict[str, object] = {
    "wrong type": None,
    "nan": CaseResult(row={"volume": float("nan")}),
    "own column": CaseResult(row={"status": "fine"}),
}


def _misbehave(case: Case, folder: Path) -> object:
    """Does what the case's target says."""
    os.write(1, b"chatter of a library about DOE^JANE")
    os.write(2, b"a warning about DOE^JANE")
    if case.target in _ROWS:
        return _ROWS[str(case.target)]
    _DEEDS[str(case.target)](case, folder)
    logging.getLogger("pentad.medical").warning("slices were sorted")
    (folder / "pid.txt").write_text(str(os.getpid()))
    return CaseResult(row={"pid": os.getpid()})


def misbehaving() -> Callable[[Case, Path], object]:
    return _misbehave


def refusing() -> Callable[[Case, Path], CaseResult]:
    raise ModelError("PTD-501", "no bundle.json here", "give a bundle", "nowhere")


def broken() -> Callable[[Case, Path], CaseResult]:
    raise KeyError("weights")


def dying() -> Callable[[Case, Path], CaseResult]:
    os._exit(9)
