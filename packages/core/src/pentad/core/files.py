"""Write whole files or nothing, and tell files apart by their SHA-256."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target`` that takes its place when the block ends without an error.

    The bytes are on the disk before the rename, so a crash or a full disk leaves the old file or none.
    The temporary name keeps the target's suffixes, which image writers read the format from.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-", suffix="".join(target.suffixes[-2:]))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # read once: the call is not safe among threads


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text to ``target``, whole or not at all."""
    with atomic(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with keys in the given order; NaN and infinity are refused."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of each line of a UTF-8 file that holds anything, as JSON Lines has them.

    Only a newline ends one: `str.splitlines` also breaks at signs that JSON's strings hold as they are, such as U+2028.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def most_unpacked(path: Path) -> int:
    """Return how many bytes a packed file may hold at most: a hundred times its own, but never less than 256 MiB.

    Real texts, sheets and arrays stay far below; what is above was made to fill the memory.
    """
    return max(1 << 28, 100 * path.stat().st_size)


def is_results(folder: Path) -> bool:
    """Return whether a folder is that of a batch run."""
    return all((folder / name).is_file() for name in ("run.json", "worklist.csv"))


def outside_results(paths: Iterable[Path], root: Path) -> Iterator[Path]:
    """Leave out and log what lies in the folder of a batch run below ``root``: results are no inputs.

    Args:
        paths: Below ``root``.
        root: A folder; if it is a run's itself, that was meant.
    """
    known = {root: False}

    def inside(folder: Path) -> bool:
        if folder not in known:
            known[folder] = inside(folder.parent)
            if not known[folder] and is_results(folder):
                log.warning("left out, the results of a run: %s", folder.relative_to(root))
                known[folder] = True
        return known[folder]

    return (path for path in paths if not inside(path.parent))


def digest_bytes(content: bytes) -> str:
    """Return the SHA-256 of ``content`` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode("utf-8", "surrogatepass"))  # a file's name may be bytes that are no UTF-8


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, read in pieces.

    Raises:
        OSError: It cannot be read, or is a pipe or a device, which may have no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """Return one SHA-256 over the contents of all files, independent of their names and order."""
    return digest_bytes("\n".join(sorted(digest_file(path) for path in paths)).encode())
