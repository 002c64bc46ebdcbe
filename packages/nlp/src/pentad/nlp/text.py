"""Words, normal forms and offsets: every span that is reported lies on the original characters.

Offsets count Unicode code points of the original text, as Python's strings do, and every span begins and ends where a
grapheme cluster (a character as people see it) begins and ends: no vowel sign is cut from its consonant and no emoji
sequence is torn apart.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import regex

from pentad.core.errors import CaseError

MAX_CHARACTERS = 1_000_000
"""Longest text of one document; a file without line breaks is more often damaged than meant."""

# Words are built of whole clusters (\X), so that no alternative can end inside one.
_CLUSTER = r"(?:(?=[\p{L}\p{N}\p{M}_])\X)"
_WORDS = regex.compile(
    rf"(?:(?:https?|ftp)://|www\.)(?:(?!\s)\X)+|(?:(?=[@\#])\X)?{_CLUSTER}+(?:(?=['\u2019])\X{_CLUSTER}+)*|\X"
)
_LINK = regex.compile(r"(?:(?:https?|ftp)://|www\.)(?:(?!\s)\X)+")
_MENTION = regex.compile(rf"(?<![\p{{L}}\p{{N}}\p{{M}}_])(?=@)\X{_CLUSTER}+")
_CLUSTERS = regex.compile(r"\X")
_SURROGATE = regex.compile(r"[\ud800-\udfff]")

Offsets = tuple[int, int]


@dataclass(frozen=True)
class Normalisation:
    """How a text is changed before a model reads it; the original is never altered.

    Attributes:
        form: Unicode normal form, or none. NFC joins what belongs together and is safe for Devanagari; NFKC also
            folds look-alikes (full-width letters, ligatures). No form strips vowel signs, and joiners stay, which
            Marathi needs for the eyelash ra.
        links: Put ``HTTPURL`` for every link.
        mentions: Put ``@USER`` for every user name.
    """

    form: Literal["none", "NFC", "NFKC"] = "NFC"
    links: bool = False
    mentions: bool = False


@dataclass(frozen=True)
class Mapped:
    """A normalised text and where its characters come from.

    Attributes:
        text: What a model reads.
        starts: Start of each segment in ``text``, rising.
        sources: Start and end of each segment in the original.
    """

    text: str
    starts: tuple[int, ...]
    sources: tuple[Offsets, ...]

    def original(self, start: int, end: int) -> Offsets:
        """Return the span of the original that the characters ``start`` to ``end`` of the text come from."""
        if start >= end:
            raise ValueError(f"an empty span {start} to {end}")
        first = bisect_right(self.starts, start) - 1
        last = bisect_right(self.starts, end - 1) - 1
        return self.sources[first][0], self.sources[last][1]


def sanitise(text: str) -> str:
    """Return the text with lone surrogates, which no encoder can read, replaced one for one by U+FFFD."""
    return str(_SURROGATE.sub("\ufffd", text))


def check_length(text: str, where: str = "") -> None:
    """Refuse a text that no person wrote in one piece.

    Raises:
        CaseError: It is longer than `MAX_CHARACTERS`.
    """
    if len(text) > MAX_CHARACTERS:
        problem = f"a text of {len(text)} characters, more than {MAX_CHARACTERS}"
        raise CaseError("PTD-760", problem, "break it into documents, a line each", where or None)


def normalise(text: str, how: Normalisation) -> Mapped:
    """Return the text as a model reads it, with the way back to the original.

    Segments are grapheme clusters, and links and user names where they are replaced.
    """
    text = sanitise(text)
    pieces, starts, sources, length = [], [], [], 0
    for start, end, replacement in _segments(text, how):
        piece = replacement or text[start:end]
        if not replacement and how.form != "none":
            piece = unicodedata.normalize(how.form, piece)
        if not piece:
            continue
        pieces.append(piece)
        starts.append(length)
        sources.append((start, end))
        length += len(piece)
    return Mapped("".join(pieces), tuple(starts), tuple(sources))


def _segments(text: str, how: Normalisation) -> list[tuple[int, int, str]]:
    replaced: list[tuple[int, int, str]] = []
    if how.links:
        replaced += [(*match.span(), "HTTPURL") for match in _LINK.finditer(text)]
    if how.mentions:
        replaced += [(*match.span(), "@USER") for match in _MENTION.finditer(text)]
    segments: list[tuple[int, int, str]] = []
    position = 0
    for start, end, word in sorted(replaced):
        if start < position:  # a mention inside a link
            continue
        segments += [(*match.span(), "") for match in _CLUSTERS.finditer(text, position, start)]
        segments.append((start, end, word))
        position = end
    return segments + [(*match.span(), "") for match in _CLUSTERS.finditer(text, position)]


def split_words(text: str) -> list[Offsets]:
    """Return the spans of the words of a text: letters and digits with their marks, links, and single other signs.

    Every sign that is not white space lies in exactly one word, and every word consists of whole clusters.
    """
    return [match.span() for match in _WORDS.finditer(text) if not match.group().isspace()]


def snap(text: str, start: int, end: int) -> Offsets:
    """Return the span widened to the borders of the clusters it touches."""
    low, high = start, end
    for match in _CLUSTERS.finditer(text, max(0, start - 64), min(len(text), end + 64)):
        if match.start() < start < match.end():
            low = match.start()
        if match.start() < end < match.end():
            high = match.end()
    return low, high
