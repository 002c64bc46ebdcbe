"""Bytes to text, strictly: UTF-8 or one sentence, no guessing, no line without end."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pentad.core.errors import CaseError
from pentad.core.files import most_unpacked, outside_results

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 16_000_000
"""Longest line of a file, its break included."""

_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def decode(content: bytes, where: str) -> str:
    """Return the text of UTF-8 bytes, without a byte order mark.

    Raises:
        CaseError: The bytes are of another encoding; the sentence says at which byte.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = _MARKS.get(content[:2], "not UTF-8")
        problem = f"{found} (byte {error.start} of it)"
        raise CaseError("PTD-766", problem, "save it as UTF-8, for instance with iconv -t UTF-8", where) from None


def check_mark(path: Path) -> None:
    """Refuse a file whose byte order mark says UTF-16, before its lines are torn apart at bytes.

    Raises:
        CaseError: It is, or it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror})"
        raise CaseError("PTD-767", problem, "check it and its rights", path.name) from None
    if start in _MARKS:
        decode(start, path.name)


def read_text(path: Path) -> str:
    """Return a whole file's text; .gz files are unpacked.

    Raises:
        CaseError: The file cannot be read, is damaged, or is not UTF-8.
    """
    try:
        content = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "damaged"
        raise CaseError("PTD-767", f"the file cannot be read ({reason})", "fetch it again", path.name) from None
    return decode(content, path.name)


def _unpacked(path: Path) -> bytes:
    most = most_unpacked(path)
    with gzip.open(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise CaseError("PTD-767", f"it unpacks to more than {most} bytes", "unpack it and look into it", path.name)
    return content


def kind_of(path: Path) -> str:
    """Return the format that a file's name stands for: 'csv' for 'posts.csv.gz'; empty where it is none of ours."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return _KINDS.get(suffixes[-1] if suffixes else "", "")


_KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".txt": "txt",
}


_BESIDE = ("README", "LICENSE", "LICENCE", "PROVENANCE", "SHA256SUMS", "dataset")  # lie beside data and are none


def find_files(root: Path) -> list[Path]:
    """Return the data files below a folder in order of their names, or the file itself; what is left out is logged."""
    if root.is_file():
        return [root]
    # A link to nowhere is kept, to be refused by name when it is read.
    found = outside_results(root.rglob("*"), root)
    inner = (path for path in found if path.is_file() or (path.is_symlink() and not path.exists()))
    shown = sorted(path for path in inner if not any(part.startswith(".") for part in path.relative_to(root).parts))
    others = [path.name for path in shown if not kind_of(path) and path.name.split(".")[0] not in _BESIDE]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        log.warning("left out, of another format: %s%s", ", ".join(others[:5]), more)
    return [path for path in shown if kind_of(path)]


def bounded_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and bytes of each line of a file, in constant memory.

    Raises:
        CaseError: A line is longer than `MAX_LINE_BYTES`, or the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            yield from stream_lines(stream, path.name, start)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror})"
        raise CaseError("PTD-767", problem, "check it and its rights", path.name) from None


def stream_lines(stream: BinaryIO, name: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and bytes of each line of an open stream, the first of which is at ``start``.

    Raises:
        CaseError: A line is longer than `MAX_LINE_BYTES`.
    """
    position = start
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
            problem = f"the line at byte {position} is longer than {MAX_LINE_BYTES} bytes"
            raise CaseError("PTD-768", problem, "break it into documents, a line each", name)
        yield position, line
        position += len(line)
