"""A Unigram vocabulary learned from words (Kudo, "Subword Regularization", 2018), the same on every machine.

Begin with every frequent part of a word; give each a probability by expectation and maximisation over all ways to put
the words together; drop the parts whose loss costs the likelihood least; repeat until few enough are left. Every letter
stays. The library's own trainer depends on a hash drawn anew in every process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

_LONGEST = 12  # characters of a part
_SEEDS = 8  # parts to begin with, for each to end with
_ROUNDS = 2  # of expectation and maximisation between two cuts
_KEPT = 0.75  # share of the parts that a cut leaves
_LEAST = 0.5  # expected count below which a part is dropped at once


def learn_parts(counts: Mapping[str, int], size: int) -> list[tuple[str, float]]:
    """Return the parts and the logarithm of the probability of each, the most probable first.

    Args:
        counts: How often each word occurs.
        size: Parts at most; all letters stay even if they are more.
    """
    letters = Counter({letter: 0 for word in counts for letter in word})
    for word, count in counts.items():
        letters.update({letter: count * word.count(letter) for letter in set(word)})
    scores = _logarithms({**letters, **_seeds(counts, _SEEDS * size)})
    while True:
        for _ in range(_ROUNDS):
            expected = expected_counts(counts, scores)
            scores = _logarithms(
                {part: max(expected[part], 1e-3) for part in scores if part in letters or expected[part] >= _LEAST}
            )
        if len(scores) <= max(size, len(letters)):
            return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        scores = _cut(counts, scores, set(letters), max(size, int(_KEPT * len(scores))))


def _seeds(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """The parts of words that cover the most text, each seen twice or more."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for start in range(len(word)):
            for end in range(start + 2, min(start + _LONGEST, len(word)) + 1):
                found[word[start:end]] += count
    often = [(part, count) for part, count in found.items() if count > 1]
    return dict(sorted(often, key=lambda item: (-item[1] * len(item[0]), item[0]))[:most])


def _logarithms(weights: Mapping[str, float]) -> dict[str, float]:
    total = math.log(sum(weights.values()))
    return {part: math.log(weight) - total for part, weight in weights.items() if weight > 0}


def expected_counts(counts: Mapping[str, int], scores: Mapping[str, float]) -> dict[str, float]:
    """Return how often each part is expected, over all ways to put each word together (forward and backward sums)."""
    expected = dict.fromkeys(scores, 0.0)
    for word, count in counts.items():
        parts = _parts(word, scores)
        forward = [0.0] + [-math.inf] * len(word)
        for start, end, score in parts:
            forward[end] = _add(forward[end], forward[start] + score)
        backward = [-math.inf] * len(word) + [0.0]
        for start, end, score in reversed(parts):
            backward[start] = _add(backward[start], backward[end] + score)
        for start, end, score in parts:
            share = forward[start] + score + backward[end] - forward[-1]
            if share > -30:
                expected[word[start:end]] += count * math.exp(share)
    return expected


def _parts(word: str, scores: Mapping[str, float]) -> list[tuple[int, int, float]]:
    """Start, end and score of every known part of a word, by start."""
    return [
        (start, end, scores[word[start:end]])
        for start in range(len(word))
        for end in range(start + 1, min(start + _LONGEST, len(word)) + 1)
        if word[start:end] in scores
    ]


def _add(a: float, b: float) -> float:
    """The logarithm of the sum of two numbers given by their logarithms."""
    low, high = (a, b) if a < b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _cut(counts: Mapping[str, int], scores: Mapping[str, float], letters: set[str], size: int) -> dict[str, float]:
    """Keep the letters and, of the other parts, those whose loss would cost the likelihood most."""
    used: Counter[str] = Counter()
    for word, count in counts.items():
        for part in _best(word, scores, ""):
            used[part] += count
    costs = {
        part: used[part] * (score - sum(scores[other] for other in _best(part, scores, part)))
        for part, score in scores.items()
        if part not in letters
    }
    room = max(0, size - len(letters))
    kept = sorted(costs, key=lambda part: (-costs[part], part))[:room]
    return {part: scores[part] for part in [*sorted(letters & set(scores)), *kept]}


def _best(word: str, scores: Mapping[str, float], without: str) -> list[str]:
    """The most probable way to put a word together, one part left out."""
    best = [0.0] + [-math.inf] * len(word)
    back = [0] * (len(word) + 1)
    for start, end, score in _parts(word, scores):
        if word[start:end] != without and best[start] + score > best[end]:
            best[end], back[end] = best[start] + score, start
    parts, end = [], len(word)
    while end:
        parts.append(word[back[end] : end])
        end = back[end]
    return parts[::-1]
