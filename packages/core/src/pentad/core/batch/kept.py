"""What a long case has got so far: it outlives a killed start, and goes once the case has ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from pentad.core.batch.casework import DIED, DISK_FULL, OUT_OF_MEMORY, TIMED_OUT
from pentad.core.batch.folder import KEPT
from pentad.core.cases import Case

_CUT_SHORT = (DIED, DISK_FULL, OUT_OF_MEMORY, TIMED_OUT)


def kept_folder(folder: Path, case: Case, key: str) -> Path:
    """Return the folder in which a case keeps what the next start shall not compute again.

    What lies there must be whole whenever it is there, as `pentad.core.files.atomic` leaves it.

    Args:
        folder: The folder that `casework.Process` was given.
        case: The case.
        key: Digest of all that the content depends on: input, model, settings, code. What was kept under another key
            is removed.
    """
    place = folder.parent.parent / KEPT / case.id
    mine = place / key[:32]
    for other in place.iterdir() if place.is_dir() else ():
        if other != mine:
            shutil.rmtree(other)
    mine.mkdir(parents=True, exist_ok=True)
    return mine


def forget(run: Path, name: str, code: str) -> None:
    """Remove what a case kept, unless its end ``code`` says that it was cut short and may go on."""
    if code not in _CUT_SHORT:
        shutil.rmtree(run / KEPT / name, ignore_errors=True)
