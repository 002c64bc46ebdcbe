"""Files of any size in pieces: planned in one pass in constant memory, each read alone, none cut inside a document.

A piece is a case of the batch runner. It carries its place in the file and the SHA-256 of its bytes, so that a resumed
run goes on in the middle of a file and does again only what changed.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pentad.core.cases import Case, Rejection
from pentad.core.errors import CaseError, UsageError, as_text, nearest
from pentad.nlp.conll import TagReading, blocks, to_document
from pentad.nlp.documents import Document
from pentad.nlp.reading import bounded_lines, check_mark, decode, find_files, kind_of, stream_lines
from pentad.nlp.tables import column, csv_rows, header_names, json_row
from pentad.nlp.text import check_length

KINDS = ("txt", "csv", "tsv", "jsonl", "conll")
STDIN = "stdin"
"""What documents of standard input are named after."""


@dataclass(frozen=True)
class StreamConfig:
    """How inputs are read.

    Attributes:
        text: Column of the text in CSV, TSV and JSONL.
        quoting: Whether quotes hold the fields of CSV and TSV together.
        whole: Take a TXT file as one document, not each of its lines.
        chunk_bytes: Bytes of a file that make one case, up to the end of a document.
    """

    text: str = "text"
    quoting: bool = True
    whole: bool = False
    chunk_bytes: int = 1 << 20


@dataclass(frozen=True)
class Unreadable:
    """A document of a piece that cannot be used: where, and why in one sentence."""

    id: str
    code: str
    problem: str
    remedy: str

    @property
    def reason(self) -> str:
        """Problem and remedy in one sentence."""
        return f"{self.problem}; {self.remedy}."


def find_chunks(inputs: Sequence[Path], config: StreamConfig) -> tuple[list[Case], list[Rejection]]:
    """Return a case for every piece of every file below the inputs, and why other files were refused.

    Raises:
        UsageError: An input does not exist.
    """
    cases: list[Case] = []
    refused: list[Rejection] = []
    taken: dict[str, int] = {}
    for root in inputs:
        if not root.exists():
            raise UsageError("PTD-777", "there is nothing here", "correct the path of the input", root)
        for path in find_files(root):
            name = path.relative_to(root).as_posix() if root.is_dir() else path.name
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:80] or "file"
            taken[stem] = taken.get(stem, 0) + 1
            prefix = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
            try:
                cases += _chunks(path, prefix, config)
            except CaseError as error:
                refused.append(Rejection(where=name, code=error.code, reason=f"{error.problem}; {error.remedy}."))
    return cases, refused


def _chunks(path: Path, prefix: str, config: StreamConfig) -> list[Case]:
    kind = kind_of(path)
    if kind not in KINDS or path.suffix == ".gz":
        problem = f"files of the format '{path.suffix.lstrip('.')}' cannot be read in pieces"
        raise CaseError("PTD-799", problem, f"give {', '.join(KINDS)}, unpacked", path.name)
    check_mark(path)
    header = _header(path) if kind in ("csv", "tsv") else b""
    lines = bounded_lines(path, len(header))
    target = {"path": str(path.resolve()), "kind": kind, "header": decode(header, path.name)}
    found: list[Case] = []
    for number, piece in enumerate(_pieces(lines, kind, config, 2 if header else 1, path.name), 1):
        place = {"start": piece.start, "size": len(piece.content), "line": piece.line}
        digest = hashlib.sha256(piece.content).hexdigest()
        found.append(Case(id=f"{prefix}-{number:06d}", target={**target, **place, "sha256": digest}))
    if not found:
        raise CaseError("PTD-800", "there is no document in it", "leave it out", path.name)
    return found


def _header(path: Path) -> bytes:
    return next(bounded_lines(path), (0, b""))[1]


@dataclass(frozen=True)
class _Piece:
    """Whole documents that follow each other in a file: offset, number of the first line, and bytes."""

    start: int
    line: int
    content: bytes


def _pieces(
    lines: Iterator[tuple[int, bytes]], kind: str, config: StreamConfig, first_line: int, name: str
) -> Iterator[_Piece]:
    """Yield pieces of at least ``chunk_bytes``, each up to the end of a document; white space alone is none."""
    held: list[bytes] = []
    begin, size, open_quote = -1, 0, False
    for number, (position, content) in enumerate(lines, first_line):
        begin = position if not held else begin
        held.append(content)
        size += len(content)
        if kind in ("csv", "tsv") and config.quoting:
            open_quote ^= content.count(b'"') % 2 == 1
        ends = not open_quote and (kind != "conll" or not content.strip())
        if size >= config.chunk_bytes and ends and not (kind == "txt" and config.whole):
            yield from _piece(begin, number + 1 - len(held), held)
            held, size = [], 0
        if size > 64 * max(config.chunk_bytes, 1 << 20):
            problem = f"no document ends within {size} bytes from line {number + 1 - len(held)} on"
            raise CaseError("PTD-801", problem, "look for a quote without its pair, or say --no-quoting", name)
    if held:
        yield from _piece(begin, number + 1 - len(held), held)


def _piece(start: int, line: int, held: Sequence[bytes]) -> Iterator[_Piece]:
    content = b"".join(held)
    if content.strip():
        yield _Piece(start, line, content)


def read_stream(stream: BinaryIO, kind: str, config: StreamConfig) -> Iterator[list[Document | Unreadable]]:
    """Yield the documents of an open stream, a piece at a time as soon as it is whole, in constant memory.

    Args:
        stream: Of bytes, standard input for instance; read once, from where it stands.
        kind: One of `KINDS`.
        config: How to read it.

    Raises:
        UsageError: The kind is none.
        CaseError: A line or document is too long, or a piece is not UTF-8 as a whole.
    """
    if kind not in KINDS:
        problem = f"'{kind}' is no format{nearest(kind, KINDS)}"
        raise UsageError("PTD-810", problem, f"give one of {', '.join(KINDS)} to --format")
    lines, name = stream_lines(stream, STDIN), STDIN
    header = next(lines, (0, b""))[1] if kind in ("csv", "tsv") else b""
    for piece in _pieces(lines, kind, config, 2 if header else 1, name):
        yield _parse(piece.content, kind, name, piece.line, decode(header, name), config)


def read_chunk(case: Case, config: StreamConfig) -> list[Document | Unreadable]:
    """Return the documents of a piece in order; one that cannot be used says why.

    Raises:
        CaseError: The file changed since it was planned, or the piece is not UTF-8 as a whole.
    """
    held: Any = case.target
    path, start, size = Path(str(held["path"])), int(held["start"]), int(held["size"])
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(size)
    except OSError as error:
        problem = f"the file cannot be read ({error.strerror})"
        raise CaseError("PTD-767", problem, "check it and its rights", path.name) from None
    if hashlib.sha256(content).hexdigest() != held["sha256"]:
        raise CaseError("PTD-802", "the file changed while it was read", "resume the run", path.name)
    return _parse(content, str(held["kind"]), as_text(path.name), int(held["line"]), str(held["header"]), config)


def _parse(
    content: bytes, kind: str, name: str, first_line: int, header: str, config: StreamConfig
) -> list[Document | Unreadable]:
    if kind in ("txt", "jsonl"):
        return _by_line(content, kind, name, first_line, config)
    text = decode(content, f"{name}, from line {first_line} on")
    if kind == "conll":
        return _sentences(text, name, first_line)
    delimiter = "\t" if kind == "tsv" else ","
    names = _names(header, delimiter, config, name)
    rows = csv_rows(text, name, delimiter, quoting=config.quoting, header=names, first_line=first_line)
    return [_document(where, row, config) for where, row in rows]


def _names(header: str, delimiter: str, config: StreamConfig, where: str) -> list[str]:
    style: Any = csv.QUOTE_MINIMAL if config.quoting else csv.QUOTE_NONE
    return header_names(next(csv.reader([header], delimiter=delimiter, quoting=style), []), where)


def _by_line(
    content: bytes, kind: str, name: str, first_line: int, config: StreamConfig
) -> list[Document | Unreadable]:
    if kind == "txt" and config.whole:
        return [_checked(name, lambda: decode(content, name))]
    found: list[Document | Unreadable] = []
    for number, line in enumerate(content.split(b"\n"), first_line):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        if kind == "txt":
            found.append(_checked(where, lambda line=line, where=where: decode(line, where).rstrip("\r")))
        else:
            try:
                row = json_row(decode(line, where), where)
            except CaseError as error:
                row = error
            found.append(_document(where, row, config))
    return found


def _document(where: str, row: dict[str, Any] | CaseError, config: StreamConfig) -> Document | Unreadable:
    if isinstance(row, CaseError):
        return _refused(where, row)
    return _checked(where, lambda: column(row, config.text, where))


def _checked(where: str, make: Any) -> Document | Unreadable:
    try:
        text = make()
        check_length(text, where)
        return Document(where, text)
    except CaseError as error:
        return _refused(where, error)


def _refused(where: str, error: CaseError) -> Unreadable:
    return Unreadable(where, error.code, error.problem, error.remedy)


def _sentences(text: str, name: str, first_line: int) -> list[Document | Unreadable]:
    found: list[Document | Unreadable] = []
    for block in blocks(text):
        where = f"{name}, line {first_line + block.line - 1}"
        try:
            found.append(to_document(block, where, TagReading(labelled=False), name))
        except CaseError as error:
            found.append(_refused(where, error))
    return found
