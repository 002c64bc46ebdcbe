"""Pieces of words: a vocabulary learned from the training texts, or a pretrained encoder's own."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pentad.core.errors import ModelError
from pentad.nlp.unigram import learn_parts

FILE = "tokenizer.json"
Kind = Literal["wordpiece", "unigram"]
_BEGIN = "▁"  # of a word, as SentencePiece writes it
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unknown": ("[UNK]", "<unk>"),
    "first": ("[CLS]", "<s>"),
    "last": ("[SEP]", "</s>"),
}
_RAREST = 2  # a pair seen once is learned by heart, not a piece of words
_LONGEST_WORD = 100  # characters; WordPiece takes a longer one for unknown


@dataclass(frozen=True)
class Pieces:
    """The pieces of one text.

    Attributes:
        ids: Numbers of the pieces, special ones left out.
        words: The word that each piece is of; empty for running text.
    """

    ids: tuple[int, ...]
    words: tuple[int, ...] = ()


class PieceTokenizer:
    """A tokenizer with the numbers of its special pieces.

    Args:
        text: Content of a tokenizer.json.

    Raises:
        ModelError: It is none, or lacks a special piece that every encoder here needs.
    """

    def __init__(self, text: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises a bare Exception
            problem = f"no readable {FILE} ({' '.join(str(error).split())[:120]})"
            raise ModelError("PTD-789", problem, "fetch the model again") from None
        # A published file may cut at 128 pieces or pad to them.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.text = self._tokenizer.to_str()
        found = {
            role: next((number for name in names if (number := self._tokenizer.token_to_id(name)) is not None), None)
            for role, names in _NAMES.items()
        }
        absent = [_NAMES[role][0] for role, number in found.items() if number is None]
        if absent:
            raise ModelError("PTD-789", f"{FILE} lacks {', '.join(absent)}", "take the encoder's own tokenizer")
        numbers = {role: int(number or 0) for role, number in found.items()}
        self.pad, self.unknown, self.first, self.last = (numbers[role] for role in _NAMES)
        self.size = self._tokenizer.get_vocab_size()

    def texts(self, texts: Sequence[str]) -> list[Pieces]:
        """Return the pieces of running texts."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [Pieces(tuple(item.ids)) for item in found]

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """Return the pieces of words; a word that has none (a control character, say) becomes the unknown piece."""
        found = self._tokenizer.encode_batch([list(words) for words in sentences], True, False)
        return [
            self._complete(item.ids, item.word_ids, len(words)) for item, words in zip(found, sentences, strict=True)
        ]

    def as_transformers(self, longest: int) -> Any:
        """Return transformers' own tokenizer with these pieces, which sets the special pieces around a text.

        Args:
            longest: Pieces that the model takes, the two special ones included.
        """
        import transformers

        made = Tokenizer.from_str(self.text)
        names = [made.id_to_token(number) for number in (self.first, self.last)]
        made.post_processor = processors.TemplateProcessing(
            single=f"{names[0]} $A {names[1]}",
            pair=f"{names[0]} $A {names[1]} $B:1 {names[1]}:1",
            special_tokens=list(zip(names, (self.first, self.last), strict=True)),
        )
        fast: Any = transformers.PreTrainedTokenizerFast
        return fast(
            tokenizer_object=made,
            pad_token=made.id_to_token(self.pad),
            unk_token=made.id_to_token(self.unknown),
            cls_token=names[0],
            sep_token=names[1],
            model_input_names=["input_ids", "attention_mask"],
            model_max_length=longest,
        )

    def _complete(self, ids: Sequence[int], places: Sequence[int | None], count: int) -> Pieces:
        if len(set(places)) == count:
            return Pieces(tuple(ids), tuple(int(place or 0) for place in places))
        by_word: list[list[int]] = [[] for _ in range(count)]
        for number, place in zip(ids, places, strict=True):
            by_word[place or 0].append(number)
        filled = [inner or [self.unknown] for inner in by_word]
        pairs = [(number, place) for place, inner in enumerate(filled) for number in inner]
        return Pieces(tuple(number for number, _ in pairs), tuple(place for _, place in pairs))


def trimmed(text: str, texts: Sequence[str]) -> tuple[str, tuple[int, ...]]:
    """Return a tokenizer's JSON with only the pieces that texts use, and the old number of each piece that stays.

    Special pieces stay, and so do single signs of the blocks of 128 code points that the texts touch, so that a word
    not met before falls apart into letters instead of becoming unknown (after Abdaoui et al., 2020).

    Raises:
        ModelError: It is neither WordPiece nor Unigram.
    """
    held = json.loads(PieceTokenizer(text).text)
    model = held["model"]
    if model["type"] not in ("WordPiece", "Unigram"):
        problem = f"a tokenizer of the kind {model['type']} cannot be trimmed"
        raise ModelError("PTD-809", problem, "set encoder.trim to false")
    unigram = model["type"] == "Unigram"
    names = [name for name, _ in model["vocab"]] if unigram else sorted(model["vocab"], key=model["vocab"].get)
    numbers = range(len(names)) if unigram else sorted(model["vocab"].values())
    used = {number for piece in PieceTokenizer(text).texts(texts) for number in piece.ids}
    used |= {item["id"] for item in held["added_tokens"]}
    blocks = {ord(letter) >> 7 for line in texts for letter in line}
    for number, name in zip(numbers, names, strict=True):
        bare = name.removeprefix("##").removeprefix(_BEGIN)
        if name in (_BEGIN, *itertools.chain(*_NAMES.values())) or (len(bare) == 1 and ord(bare) >> 7 in blocks):
            used.add(number)
    kept = [(number, name) for number, name in zip(numbers, names, strict=True) if number in used]
    place = {number: new for new, (number, _) in enumerate(kept)}
    if unigram:
        model["vocab"] = [model["vocab"][number] for number, _ in kept]
        model["unk_id"] = place[model["unk_id"]]
    else:
        model["vocab"] = {name: place[number] for number, name in kept}
    held["added_tokens"] = [{**item, "id": place[item["id"]]} for item in held["added_tokens"]]
    held["post_processor"] = _renumbered(held.get("post_processor"), place)
    return json.dumps(held, ensure_ascii=False), tuple(number for number, _ in kept)


def _renumbered(value: Any, place: Mapping[int, int]) -> Any:
    """What a tokenizer's JSON says of special pieces, with their new numbers."""
    if isinstance(value, dict):
        return {
            key: [place[number] for number in inner] if key == "ids" else _renumbered(inner, place)
            for key, inner in value.items()
        }
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int):
        return [value[0], place[value[1]]]
    return [_renumbered(inner, place) for inner in value] if isinstance(value, list) else value


def learn(texts: Iterable[str], size: int, kind: Kind = "wordpiece") -> str:
    """Return the JSON of a tokenizer learned from texts: cased, nothing stripped, so that vowel signs stay.

    WordPiece joins pieces pair by pair, the most frequent first (as in byte-pair encoding; Sennrich et al., 2016);
    Unigram is `pentad.nlp.unigram`. Equal counts are settled by the alphabet, so that the same texts always give the
    same pieces. The library's own trainers do not promise that: their order depends on a hash drawn anew in every
    process.

    Args:
        texts: Training texts, normalised as a model will read them.
        size: Pieces to learn at most, special ones included.
        kind: How words are put together.
    """
    cleaner = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    splitter: Any = pre_tokenizers.BertPreTokenizer()
    if kind == "unigram":
        begin = pre_tokenizers.Metaspace(replacement=_BEGIN, prepend_scheme="always")
        splitter = pre_tokenizers.Sequence([splitter, begin])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(cleaner.normalize_str(text)))
    ordered, room = {word: counts[word] for word in sorted(counts)}, size - len(_SPECIAL)
    if kind == "unigram":
        parts = [(name, 0.0) for name in _SPECIAL] + learn_parts(ordered, room)
        model: Any = models.Unigram(parts, _SPECIAL.index("[UNK]"), False)
    else:
        vocabulary = {piece: number for number, piece in enumerate([*_SPECIAL, *_learned(ordered, room)])}
        model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = cleaner, splitter
    tokenizer.add_special_tokens(_SPECIAL)
    return str(tokenizer.to_str())


def _learned(counts: Mapping[str, int], size: int) -> list[str]:
    """The most frequent letters, then pieces in the order in which they were joined."""
    words = [[word[0], *(f"##{letter}" for letter in word[1:])] for word in counts]
    weights = list(counts.values())
    letters: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    for place, (word, weight) in enumerate(zip(words, weights, strict=True)):
        for letter in word:
            letters[letter] += weight
        _count(pairs, places, word, weight, place)
    learned = dict.fromkeys(sorted(letters, key=lambda letter: (-letters[letter], letter))[:size])
    queue = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(queue)
    while queue and len(learned) < size:
        count, pair = heapq.heappop(queue)
        if -count != pairs[pair]:  # it changed since it was queued
            if pairs[pair] > 1:
                heapq.heappush(queue, (-pairs[pair], pair))
            continue
        if -count < _RAREST:
            break
        joined = pair[0] + pair[1].removeprefix("##")
        learned[joined] = None
        touched: set[tuple[str, str]] = set()
        for place in sorted(places.pop(pair)):
            _count(pairs, places, words[place], -weights[place], place)
            words[place] = _joined(words[place], pair, joined)
            touched |= _count(pairs, places, words[place], weights[place], place)
        for other in sorted(touched):
            heapq.heappush(queue, (-pairs[other], other))
    return list(learned)


def _count(
    pairs: Counter[tuple[str, str]],
    places: dict[tuple[str, str], set[int]],
    word: list[str],
    weight: int,
    place: int,
) -> set[tuple[str, str]]:
    """Add a word's neighbouring pieces to the counts, or take them away where the weight is negative."""
    found = set()
    for pair in itertools.pairwise(word):
        pairs[pair] += weight
        found.add(pair)
        if weight > 0:
            places[pair].add(place)
    return found


def _joined(word: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    made, place = [], 0
    while place < len(word):
        if tuple(word[place : place + 2]) == pair:
            made.append(joined)
            place += 2
        else:
            made.append(word[place])
            place += 1
    return made
