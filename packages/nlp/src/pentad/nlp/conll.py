"""Word-per-line files: blank lines between sentences, or L3Cube's table with a sentence number on every line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pentad.core.errors import CaseError
from pentad.nlp.documents import Document, from_words
from pentad.nlp.tags import Scheme, entities, hyphenate, repair, to_tags

_SKIPPED = ("-DOCSTART-", "# ")


@dataclass(frozen=True)
class TagReading:
    """How tags are read.

    Attributes:
        scheme: Of the file.
        repair: Take an I that continues nothing for a begin instead of refusing the sentence.
        types: Entity types that are known; empty takes any. MahaNER's tags without hyphen need them.
        labelled: Whether every line must hold a tag.
    """

    scheme: Scheme = "iob2"
    repair: bool = False
    types: tuple[str, ...] = ()
    labelled: bool = True


@dataclass(frozen=True)
class Block:
    """The lines of one sentence: number of the first, and the cells of each."""

    line: int
    rows: tuple[tuple[str, ...], ...]


def blocks(text: str) -> Iterator[Block]:
    """Yield the sentences of a file in either layout, as cells by line."""
    lines = text.split("\n")
    header = tuple(lines[0].rstrip("\r").split("\t")) if lines else ()
    numbered = len(header) > 2 and header[2].strip().lower().startswith("sentence")
    rows: list[tuple[str, ...]] = []
    first, sentence = 1, ""
    for number, raw in enumerate(lines, 1):
        cells = _cells(raw.rstrip("\r"))
        if not cells or (numbered and number == 1):
            if rows:
                yield Block(first, tuple(rows))
                rows = []
            continue
        if numbered and len(cells) > 2 and cells[2] != sentence:
            if rows:
                yield Block(first, tuple(rows))
                rows = []
            sentence = cells[2]
        if not rows:
            first = number
        rows.append(cells[:2] if numbered else cells)
    if rows:
        yield Block(first, tuple(rows))


def _cells(line: str) -> tuple[str, ...]:
    if not line.strip() or line.startswith(_SKIPPED):
        return ()
    return tuple(line.split("\t")) if "\t" in line else tuple(line.split())


def to_document(block: Block, name: str, reading: TagReading, where: str) -> Document:
    """Return the document of a sentence, its tags in IOB2; the word stands first on a line and the tag last.

    Raises:
        CaseError: A line lacks a word or tag, holds another number of columns than the first, or a tag is unknown.
    """
    place = f"{where}, line {block.line}"
    width = len(block.rows[0])
    for offset, row in enumerate(block.rows):
        at = f"{where}, line {block.line + offset}"
        if not row[0].strip():
            raise CaseError("PTD-769", "a tag without a word", "correct the line", at)
        if len(row) != width:
            raise CaseError("PTD-770", f"{len(row)} columns where {width} were before", "correct the line", at)
        if reading.labelled and (width < 2 or not row[-1].strip()):
            raise CaseError("PTD-769", "a word without a tag", "give every word a tag, O outside", at)
    # White space inside a cell would make two words of one.
    words = [" ".join(row[0].split()) for row in block.rows]
    if not reading.labelled:
        return from_words(name, words)
    tags = [hyphenate(row[-1].strip(), reading.types) for row in block.rows]
    return from_words(name, words, _iob2(tags, reading, place))


def _iob2(tags: Sequence[str], reading: TagReading, where: str) -> list[str]:
    if reading.repair and reading.scheme == "iob2":
        tags = repair(tags)
    found = entities(tags, reading.scheme, where)
    for _, _, kind in found:
        if reading.types and kind not in reading.types:
            remedy = f"known are {', '.join(reading.types)}: correct it or prepare.labels"
            raise CaseError("PTD-771", f"the type '{kind}' is unknown", remedy, where)
    return to_tags(found, len(tags))
