"""Near-duplicates across splits: texts that a model would meet again where it is scored.

Two texts are near if their sets of character 5-grams, after folding case and dropping links, user names and all that is
neither letter nor digit, have a Jaccard similarity of at least the threshold. Candidates come from MinHash signatures
(Broder, 1997) of 64 values in 16 bands of 4: a pair at similarity 0.8 is met with probability above 0.999, one at 0.5
with about 0.64; each candidate is then compared exactly.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex

from pentad.nlp.documents import Document

_LEFT_OUT = regex.compile(r"(?:https?://|www\.)\S+|@\w+|HTTPURL|[^\p{L}\p{M}\p{N}]+")
_VALUES, _BANDS, _GRAM = 64, 16, 5
_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class Overlap:
    """A pair of near texts on two sides of a split.

    Attributes:
        id: Document of the split that is scored.
        other: Document of the split trained on.
        splits: Their splits.
        similarity: Jaccard similarity of their 5-grams.
    """

    id: str
    other: str
    splits: tuple[str, str]
    similarity: float


def find_overlaps(documents: Sequence[Document], threshold: float = 0.8) -> list[Overlap]:
    """Return every pair of near texts whose documents stand in different splits, the most alike first."""
    grams = [_grams(document.text) for document in documents]
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for place, signature in enumerate(map(_signature, grams)):
        if signature is not None:
            for band, part in enumerate(np.split(signature, _BANDS)):
                buckets[band, part.tobytes()].append(place)
    pairs = set()
    for members in buckets.values():
        for position, first in enumerate(members):
            split = documents[first].split
            pairs |= {(first, second) for second in members[position + 1 :] if documents[second].split != split}
    found = []
    for first, second in sorted(pairs):
        a, b = documents[first], documents[second]
        similarity = len(grams[first] & grams[second]) / len(grams[first] | grams[second])
        if similarity >= threshold:
            scored, trained = (a, b) if b.split == "train" else (b, a)
            found.append(Overlap(scored.id, trained.id, (scored.split, trained.split), round(similarity, 3)))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.id, pair.other))


def _grams(text: str) -> frozenset[int]:
    plain = _LEFT_OUT.sub(" ", text.casefold()).strip()
    if not plain:
        return frozenset()
    ends = range(max(1, len(plain) - _GRAM + 1))
    return frozenset(zlib.crc32(plain[start : start + _GRAM].encode("utf-8", "replace")) for start in ends)


_DRAW = np.random.default_rng(0)
_FACTORS = _DRAW.integers(1, _PRIME, _VALUES, dtype=np.int64)[:, None]
_SHIFTS = _DRAW.integers(0, _PRIME, _VALUES, dtype=np.int64)[:, None]


def _signature(grams: frozenset[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    if not grams:
        return None
    values = np.fromiter(grams, np.int64)[None] % _PRIME
    return np.asarray(((_FACTORS * values + _SHIFTS) % _PRIME).min(axis=1))
