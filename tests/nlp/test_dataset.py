"""Windows, labels and batches."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from pentad.nlp.dataset import IGNORED, Batches, TextConfig, align, pieces_of, window_starts, windows_of
from pentad.nlp.documents import from_words
from pentad.nlp.tokenizer import PieceTokenizer, learn
from pentad.nlp.unigram import expected_counts, learn_parts

TEXT = TextConfig(max_length=8, stride=2)


@pytest.fixture(scope="module")
def tokenizer():
    return PieceTokenizer(learn(["नदी काठी गाव वसले", "abc abd abe"] * 20, 24))


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_tokenizer_learned_in_two_processes_is_the_same(kind):
    texts = "[f'नदी काठी गाव {n} वसले' for n in range(50)]"
    code = f"from pentad.nlp.tokenizer import learn; print(learn({texts}, 120, {kind!r}))"
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert "काठी" in first


def test_pieces_are_joined_by_frequency_and_then_by_the_alphabet():
    found = json.loads(learn(["ab ab ab", "cd cd", "ef ef"], 13))["model"]["vocab"]
    assert [piece for piece in sorted(found, key=found.get) if len(piece.strip("#")) > 1 and piece[0] != "["] == [
        "ab",
        "cd",
    ]


def test_the_expected_counts_of_parts_are_those_over_all_ways_to_put_a_word_together():
    scores = {part: math.log(p) for part, p in {"a": 0.2, "b": 0.3, "ab": 0.4, "ba": 0.1}.items()}
    ways = {("a", "b", "a"): 0.2 * 0.3 * 0.2, ("ab", "a"): 0.4 * 0.2, ("a", "ba"): 0.2 * 0.1}
    total = sum(ways.values())
    wanted = {part: 5 * sum(p * way.count(part) for way, p in ways.items()) / total for part in ("a", "b", "ab", "ba")}
    assert expected_counts({"aba": 5}, scores) == pytest.approx(wanted)


def test_a_unigram_vocabulary_holds_every_letter_and_the_most_useful_parts_and_is_as_small_as_asked():
    words = {"_walking": 30, "_walked": 30, "_talking": 30, "_talked": 30, "_x": 1}
    parts = dict(learn_parts(words, 16))
    letters = {letter for word in words for letter in word}
    assert len(parts) == 16
    assert letters <= set(parts)
    assert {"_walking", "_walked", "_talking", "_talked"} <= set(parts)
    assert sum(map(math.exp, parts.values())) == pytest.approx(1.0)


def test_unigram_pieces_give_the_words_back_and_know_their_place():
    tokenizer = PieceTokenizer(learn(["नदी काठी गाव वसले!", "abc abd abe"] * 20, 40, "unigram"))
    vocabulary = json.loads(tokenizer.text)["model"]["vocab"]
    pieces = tokenizer.words([["काठी", "abd", "zz"]])[0]
    texts = ["", "", ""]
    for number, word in zip(pieces.ids, pieces.words, strict=True):
        texts[word] += vocabulary[number][0]
    assert texts[:2] == ["▁काठी", "▁abd"]
    assert tokenizer.unknown in pieces.ids


def test_vowel_signs_survive_the_tokenizer(tokenizer):
    first, second = tokenizer.words([["नदी"], ["नद"]])
    assert first.ids != second.ids


def test_windows_overlap_by_the_stride_and_cover_everything():
    for length in range(1, 60):
        starts = window_starts(length, 10, 4)
        assert set(range(length)) <= {place for start in starts for place in range(start, start + 10)}
        assert all(after - before <= 6 for before, after in itertools.pairwise(starts))


def test_each_word_carries_its_label_once_in_a_window_and_on_its_first_piece(tokenizer):
    words = ["abc", "काठी", "zzzzzz", "वसले", "abd"]
    document = from_words("x", words)
    pieces = pieces_of([document], tokenizer, TEXT, by_word=True)
    windows = [align(window, [10, 11, 12, 13, 14]) for window in windows_of(pieces, tokenizer, TEXT)]
    assert len(windows) > 1
    for window in windows:
        kept = [label for label in window.labels if label != IGNORED]
        assert len(kept) == len(set(kept))
        assert window.labels[0] == window.labels[-1] == IGNORED
    assert {label for window in windows for label in window.labels} == {IGNORED, 10, 11, 12, 13, 14}


def test_a_word_without_pieces_becomes_the_unknown_piece(tokenizer):
    pieces = tokenizer.words([["abc", "\u0000", "abd"]])[0]
    assert sorted(set(pieces.words)) == [0, 1, 2]


def test_batches_depend_on_seed_and_number_alone_and_hold_like_lengths(tokenizer):
    documents = [from_words(str(n), ["abc"] * (1 + n % 5)) for n in range(40)]
    text = TextConfig(max_length=32, stride=2)
    windows = [
        align(window, [1] * 9)
        for window in windows_of(pieces_of(documents, tokenizer, text, by_word=True), tokenizer, text)
    ]
    first, second = (Batches(windows, 4, 3, 0.2, tokenizer) for _ in range(2))
    second[100]
    assert all(np.array_equal(first[n]["ids"], second[n]["ids"]) for n in (0, 7, 55, 41))
    seen = [len(first[n]["ids"]) for n in range(40)]
    assert sum(max(seen[start : start + 4]) for start in range(0, 40, 4)) * 4 <= sum(seen) * 1.15
    batch = first.collate([first[n] for n in range(4)])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
