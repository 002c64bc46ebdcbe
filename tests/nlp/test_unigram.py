"""A Unigram vocabulary: its size, its letters, and what it finds in words whose parts are known."""

from __future__ import annotations

import itertools
import math

import pytest

from pentad.nlp.unigram import expected_counts, learn_parts

STEMS = ("pani", "ghar", "raja", "kam", "nadi", "pustak", "mul", "shala", "gav", "dukan")
ENDINGS = ("ala", "ne", "sathi", "che", "madhe", "varun")
COUNTS = {stem + ending: 5 + place % 3 for place, (stem, ending) in enumerate(itertools.product(STEMS, ENDINGS))}


@pytest.mark.parametrize("size", [24, 40, 80])
def test_it_has_the_size_that_was_asked_for_and_every_letter(size):
    learned = learn_parts(COUNTS, size)
    letters = set("".join(COUNTS))
    assert len(learned) <= max(size, len(letters))
    assert letters <= {part for part, _ in learned}
    assert math.fsum(math.exp(score) for _, score in learned) == pytest.approx(1, abs=0.05)
    assert [score for _, score in learned] == sorted((score for _, score in learned), reverse=True)


def test_stems_and_endings_outlive_the_parts_that_cut_across_them():
    learned = {part for part, _ in learn_parts(COUNTS, len(set("".join(COUNTS))) + 16)}
    assert len(learned & {*STEMS, *ENDINGS}) >= 12


def test_letters_stay_even_where_there_is_no_room():
    assert {part for part, _ in learn_parts({"abc": 3, "bcd": 2}, 1)} == set("abcd")


def test_expected_counts_are_those_of_all_ways_to_put_a_word_together():
    scores = {"a": math.log(0.2), "b": math.log(0.3), "ab": math.log(0.5)}
    ways = {("ab",): 0.5, ("a", "b"): 0.06}
    total = sum(ways.values())
    found = expected_counts({"ab": 7}, scores)
    wanted = {
        part: 7 * sum(share * way.count(part) for way, share in ways.items()) / total for part in ("a", "b", "ab")
    }
    assert found == pytest.approx(wanted, rel=1e-12)
