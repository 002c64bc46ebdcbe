"""Tagging schemes, converted explicitly and checked: IOB1, IOB2, BIOES, plain, and the one inside, IOB2.

IOB2 begins every entity with B. IOB1 uses B only between two touching entities of one type. BIOES (or BILOU) marks
last and single words too. Plain tags carry the type alone, so touching entities of one type become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pentad.core.errors import CaseError

Scheme = Literal["iob1", "iob2", "bioes", "plain"]
SCHEMES: tuple[Scheme, ...] = ("iob1", "iob2", "bioes", "plain")
OUTSIDE = "O"

Entity = tuple[int, int, str]
"""First word, word after the last, type."""

_BILOU = {"U": "S", "L": "E"}


def split_tag(tag: str, where: str = "") -> tuple[str, str]:
    """Return prefix and type of a tag: ('B', 'PER') for 'B-PER', ('O', '') for 'O'.

    Raises:
        CaseError: The tag has no prefix of any scheme.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag.partition("-")
    prefix = _BILOU.get(prefix, prefix)
    if not dash or prefix not in ("B", "I", "E", "S") or not kind:
        problem = f"the tag '{tag}' is not of the form B-TYPE"
        raise CaseError("PTD-761", problem, "name the file's scheme (prepare.scheme) or correct the tag", where or None)
    return prefix, kind


def hyphenate(tag: str, kinds: Sequence[str]) -> str:
    """Return 'B-NEP' for MahaNER's 'BNEP', and any other tag as it is; its 'BED' is a begin and the type ED.

    Args:
        tag: A tag with or without hyphen.
        kinds: The types that the data may hold.
    """
    return f"{tag[0]}-{tag[1:]}" if tag[:1] in ("B", "I") and tag[1:] in kinds else tag


def entities(tags: Sequence[str], scheme: Scheme, where: str = "") -> list[Entity]:
    """Return the entities of a tagged sentence.

    Args:
        tags: A tag a word.
        scheme: How to read them.
        where: File and line named in the error.

    Raises:
        CaseError: The tags break the scheme: an I that continues nothing (IOB2), an unclosed or unopened entity
            (BIOES), a word of another type in the middle.
    """
    if scheme == "plain":
        return _runs([("I", tag) if tag != OUTSIDE else (OUTSIDE, "") for tag in tags])
    parts = [split_tag(tag, where) for tag in tags]
    if scheme != "bioes" and any(prefix in ("E", "S") for prefix, _ in parts):
        raise CaseError(
            "PTD-762", f"E or S tags in what is said to be {scheme}", "set prepare.scheme to bioes", where or None
        )
    if scheme == "iob2":
        _check_iob2(parts, where)
    if scheme == "bioes":
        _check_bioes(parts, where)
    return _runs(parts)


def _check_iob2(parts: Sequence[tuple[str, str]], where: str) -> None:
    before = (OUTSIDE, "")
    for place, (prefix, kind) in enumerate(parts, 1):
        if prefix == "I" and before[1] != kind:
            problem = f"word {place} continues an entity '{kind}' that nothing began"
            raise CaseError("PTD-762", problem, "set prepare.scheme to iob1, or prepare.repair to true", where or None)
        before = (prefix, kind)


def _check_bioes(parts: Sequence[tuple[str, str]], where: str) -> None:
    opened = ""
    for place, (prefix, kind) in enumerate([*parts, (OUTSIDE, "")], 1):
        if (prefix in ("I", "E")) != bool(opened) or (opened and kind != opened):
            problem = f"word {min(place, len(parts))} leaves an entity without its begin or end"
            raise CaseError("PTD-762", problem, "set prepare.scheme to iob2, or correct the tags", where or None)
        opened = kind if prefix in ("B", "I") else ""


def _runs(parts: Sequence[tuple[str, str]]) -> list[Entity]:
    found: list[Entity] = []
    open_at, open_kind = -1, ""
    for place, (prefix, kind) in enumerate([*parts, (OUTSIDE, "")]):
        continues = prefix in ("I", "E") and kind == open_kind
        if open_kind and not continues:
            found.append((open_at, place, open_kind))
            open_kind = ""
        if prefix != OUTSIDE and not continues:
            open_at, open_kind = place, kind
        if prefix in ("E", "S"):
            found.append((open_at, place + 1, open_kind))
            open_kind = ""
    return found


def to_tags(found: Sequence[Entity], length: int, scheme: Scheme = "iob2") -> list[str]:
    """Return the tags of a sentence of ``length`` words; the inverse of `entities` but for what plain tags lose.

    Raises:
        CaseError: Entities overlap or lie outside the sentence.
    """
    tags = [OUTSIDE] * length
    for start, end, kind in sorted(found):
        if not 0 <= start < end <= length or any(tag != OUTSIDE for tag in tags[start:end]):
            raise CaseError("PTD-763", f"the entity from word {start} to {end} overlaps or lies outside", "correct it")
        touches = scheme == "iob1" and start > 0 and tags[start - 1].partition("-")[2] == kind
        for place in range(start, end):
            tags[place] = _tag(scheme, kind, place == start, place == end - 1, touches)
    return tags


def _tag(scheme: Scheme, kind: str, first: bool, last: bool, touches: bool) -> str:
    if scheme == "plain":
        return kind
    if scheme == "iob1":
        return f"B-{kind}" if first and touches else f"I-{kind}"
    if scheme == "bioes" and last:
        return f"S-{kind}" if first else f"E-{kind}"
    return f"B-{kind}" if first else f"I-{kind}"


def convert(tags: Sequence[str], source: Scheme, target: Scheme) -> list[str]:
    """Return the tags of one scheme in another.

    Raises:
        CaseError: The tags break the source's scheme.
    """
    return to_tags(entities(tags, source), len(tags), target)


def repair(tags: Sequence[str]) -> list[str]:
    """Return IOB2 tags in which an I that continues nothing begins an entity, as conlleval reads it."""
    return to_tags(_runs([split_tag(tag) for tag in tags]), len(tags))


def tag_names(kinds: Sequence[str]) -> list[str]:
    """Return the IOB2 tags of the types: O first, then B and I of each, so that index 0 is outside."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in ("B", "I"))]
