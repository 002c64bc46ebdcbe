"""Bias by identity terms: does naming a group change how posts are scored?

Three areas under the ROC curve for every group (Borkan et al., "Nuanced Metrics for Measuring Unintended Bias with Real
Data for Text Classification", arXiv 1903.04561, section 3):

- **subgroup**: only documents that name the group. Low: the two classes are mixed up inside the group.
- **BPSN** (background positive, subgroup negative): low where harmless posts that name the group score above harmful
  posts that do not, so that the group is silenced.
- **BNSP** (background negative, subgroup positive): low where harmful posts that name the group score below harmless
  ones that do not, so that the group is left unprotected.

They are summarised by the generalised power mean with p = -5, which leans towards the worst group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from pentad.core.evaluation import to_entry
from pentad.core.metrics import Interval, bootstrap_interval
from pentad.nlp.metrics import area

Array = NDArray[np.float64]
POWER = -5.0


@dataclass(frozen=True)
class BiasConfig:
    """What to look for, section ``evaluate.bias`` of params.yaml.

    Attributes:
        terms: Group to the words that name it; a word is found with the letters that follow it (case endings).
        smallest: Documents of either class that a group needs; smaller groups are shown and never ranked.
    """

    terms: dict[str, list[str]]
    smallest: int = 20


def members(texts: Sequence[str], words: Sequence[str]) -> NDArray[np.bool_]:
    """Return which texts name a group: one of its words at the begin of a word of the text, in any case."""
    pattern = _pattern(words)
    return np.array([bool(pattern.search(text)) for text in texts], dtype=bool)


def _pattern(words: Sequence[str]) -> regex.Pattern[str]:
    # A vowel sign is part of a word, as the standard library's \w does not know.
    either = "|".join(map(regex.escape, sorted(words, key=len, reverse=True)))
    return regex.compile(rf"(?<![\p{{L}}\p{{M}}\p{{N}}_])(?:{either})", regex.IGNORECASE)


def power_mean(values: Sequence[float], power: float = POWER) -> float:
    """Return the generalised mean (Σ v^p / n)^(1/p) of the values that are there; NaN without any."""
    known = np.array([value for value in values if not math.isnan(value)])
    return float((known**power).mean() ** (1 / power)) if len(known) else math.nan


def bias_report(
    texts: Sequence[str], score: Array, harmful: NDArray[np.bool_], config: BiasConfig, seed: int
) -> dict[str, Any]:
    """Return the three areas of every group with sizes and intervals, and their power means.

    Args:
        texts: Of the documents.
        score: Probability of being harmful.
        harmful: Which documents are.
        config: Groups.
        seed: Of the intervals.

    Returns:
        ``groups``: name to ``subgroup``, ``bpsn``, ``bnsp``, ``positives``, ``negatives``, ``ranked``, and the gaps of
        the rates at 0.5 to all others; ``power_mean``: over the ranked groups; ``overall``: the area over all.
    """
    groups: dict[str, Any] = {}
    for name, words in config.terms.items():
        inside = members(texts, words)
        sizes = {"positives": int((inside & harmful).sum()), "negatives": int((inside & ~harmful).sum())}
        chosen = {
            "subgroup": inside,
            "bpsn": (inside & ~harmful) | (~inside & harmful),
            "bnsp": (inside & harmful) | (~inside & ~harmful),
        }
        areas = {kind: area(score[mask], harmful[mask], seed=seed) for kind, mask in chosen.items()}
        groups[name] = {
            **{kind: to_entry(value) for kind, value in areas.items()},
            **sizes,
            "ranked": min(sizes.values()) >= config.smallest,
            "false_alarm_gap": _gap(score, ~harmful, inside),
            "hit_gap": _gap(score, harmful, inside),
        }
    ranked = [group for group in groups.values() if group["ranked"]]
    means = {
        kind: power_mean([math.nan if group[kind]["value"] is None else group[kind]["value"] for group in ranked])
        for kind in ("subgroup", "bpsn", "bnsp")
    }
    return {
        "overall": to_entry(area(score, harmful, seed=seed)),
        "groups": groups,
        "power_mean": {kind: _rounded(value) for kind, value in means.items()},
        "power": POWER,
        "groups_ranked": len(ranked),
    }


def _gap(score: Array, among: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float | None:
    """Share above 0.5 in the group less that outside, among documents of one class."""
    ours, others = among & inside, among & ~inside
    if not ours.any() or not others.any():
        return None
    return _rounded(float((score[ours] > 0.5).mean() - (score[others] > 0.5).mean()))


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def swap_test(
    texts: Sequence[str], run: Callable[[Sequence[str]], Array], config: BiasConfig, seed: int, most: int = 200
) -> dict[str, Any]:
    """Return how far the score moves when one group's word takes another's place and nothing else changes.

    Args:
        texts: Those without any group's word are passed over.
        run: Texts to the probability of being harmful.
        config: Groups; the first word of each stands for it.
        seed: Of the interval.
        most: Texts at most, the first of them.

    Returns:
        ``moved``: the mean over texts of the range of the score over all groups; ``flipped``: the share of texts whose
        decision at 0.5 depends on the group; ``by_group``: the mean score with each group's word.
    """
    anything = _pattern([word for words in config.terms.values() for word in words])
    chosen = [text for text in texts if anything.search(text)][:most]
    if not chosen or len(config.terms) < 2:
        return {"moved": to_entry(Interval(math.nan, math.nan, math.nan, 0)), "texts": 0}
    variants = [_swapped(text, anything, words[0]) for words in config.terms.values() for text in chosen]
    table = run(variants).reshape(len(config.terms), len(chosen))
    ranges = table.max(0) - table.min(0)
    flips = (table > 0.5).any(0) & ~(table > 0.5).all(0)
    by_group: Mapping[str, float] = dict(zip(config.terms, table.mean(1).round(6).tolist(), strict=True))
    return {
        "moved": to_entry(bootstrap_interval(ranges, seed=seed)),
        "flipped": to_entry(bootstrap_interval(flips.astype(float), seed=seed)),
        "by_group": dict(by_group),
        "texts": len(chosen),
    }


def _swapped(text: str, anything: regex.Pattern[str], word: str) -> str:
    return str(anything.sub(lambda _: word, text))
