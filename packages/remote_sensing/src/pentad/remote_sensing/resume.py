"""Strips of a pair kept on the disk as soon as they are found, so that an interrupted scene goes on where it was.

A strip is the part of the maps that one row of windows finishes. Each is written whole or not at all, below a folder
named by all that decides it: model, settings, code and input.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pentad.core.errors import CaseError
from pentad.core.files import atomic
from pentad.remote_sensing.maps import Drawn
from pentad.remote_sensing.predict import Strips
from pentad.remote_sensing.raster import Pair
from pentad.remote_sensing.strips import Strip

log = logging.getLogger(__name__)

_LOCK = ".lock"


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[Path | None]:
    """Lend a folder for a pair's strips, or none where another run works on the same pair.

    It goes when all went well, and when the pair itself cannot be used; what was interrupted stays.

    Args:
        folder: Below the output; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        try:
            yield folder
        except CaseError:
            _remove(folder)
            raise
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # the last of them takes their parent along
        folder.parent.rmdir()


def drawn_strips(
    strips: Strips,
    pair: Pair,
    draw: Callable[[Strip], Drawn],
    folder: Path | None,
    tell: Callable[[float], None] = lambda share: None,
) -> Iterator[Drawn]:
    """Yield the maps' strips from top to bottom: kept ones first, then found ones, which are kept in turn.

    Args:
        strips: Finds them.
        pair: An open pair.
        draw: Makes a strip's part of the maps.
        folder: Of `kept`.
        tell: Called with the share of rows that are done.
    """
    row, height = 0, pair.shape[0]
    for drawn in _read(folder):
        row = drawn.start + drawn.rows
        yield drawn
        tell(row / height)
    if row:
        log.info("going on at row %d of %d", row, height)
    for strip in strips(pair, row) if row < height else ():
        drawn = draw(strip)
        if folder is not None:
            with atomic(folder / f"{drawn.start:09d}.npz") as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, **drawn.maps)  # type: ignore[arg-type]
        yield drawn
        tell((drawn.start + drawn.rows) / height)


def _read(folder: Path | None) -> Iterator[Drawn]:
    """The strips in the folder, as far as they follow each other from the top without a gap."""
    row = 0
    while folder is not None and (path := folder / f"{row:09d}.npz").is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                drawn = Drawn(row, {name: stored[name] for name in stored.files})
        except (OSError, ValueError, zipfile.BadZipFile):
            return
        yield drawn
        row += drawn.rows
