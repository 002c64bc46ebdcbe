"""A document: the text that a model reads, its words where it has them, and what is known of it.

Documents are short, so they stand in the case table itself, as the target of their case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pentad.core.cases import Case
from pentad.core.errors import CaseError
from pentad.nlp.text import Offsets, sanitise, split_words


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        id: Its name, unique in its file or table.
        text: As it was given.
        words: Spans of its words; empty where it came as running text.
        tags: IOB2 tag of each word; empty if not labelled.
        label: Its class; empty if not labelled.
        group: Documents of one group stay on one side of a split.
        split: The split it came with, or empty.
    """

    id: str
    text: str
    words: tuple[Offsets, ...] = ()
    tags: tuple[str, ...] = ()
    label: str = ""
    group: str = ""
    split: str = ""

    def spans(self) -> tuple[Offsets, ...]:
        """Return the spans of the words, found by `pentad.nlp.text.split_words` where they were not given."""
        return self.words or tuple(split_words(sanitise(self.text)))


def from_words(name: str, words: Sequence[str], tags: Sequence[str] = (), group: str = "") -> Document:
    """Return a document of words, its text the words with a blank between them."""
    spans, position = [], 0
    for word in words:
        spans.append((position, position + len(word)))
        position += len(word) + 1
    return Document(name, " ".join(words), tuple(spans), tuple(tags), group=group)


def to_case(document: Document) -> Case:
    """Return the case of a labelled document."""
    target: dict[str, Any] = {
        "text": document.text,
        "words": [list(span) for span in document.words],
        "tags": list(document.tags),
    }
    kept: dict[str, Any] = {name: value for name, value in {**target, "label": document.label}.items() if value}
    return Case(id=document.id, target=kept, group=document.group, split=document.split)


def from_case(case: Case) -> Document:
    """Return the document of a case.

    Raises:
        CaseError: The case holds no text, or words that are no spans.
    """
    held: Any = case.target
    if not isinstance(held, dict) or not isinstance(held.get("text"), str):
        raise CaseError("PTD-764", "the case holds no text", "write the table with pentad nlp prepare", case.id)
    try:
        words = tuple((int(start), int(end)) for start, end in held.get("words", ()))
    except (TypeError, ValueError):
        problem = "its words are no pairs of numbers"
        raise CaseError("PTD-764", problem, "write the table with pentad nlp prepare", case.id) from None
    tags = tuple(str(tag) for tag in held.get("tags", ()))
    return Document(case.id, str(held["text"]), words, tags, str(held.get("label", "")), case.group, case.split)
