"""Pieces of words: a vocabulary learned from the training texts, or a pretrained encoder's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from pentad.core.errors import ModelError

Kind = Literal["wordpiece", "unigram"]
FILE = "tokenizer.json"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unknown": ("[UNK]", "<unk>"),
    "first": ("[CLS]", "<s>"),
    "last": ("[SEP]", "</s>"),
}
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

    def _complete(self, ids: Sequence[int], places: Sequence[int], count: int) -> Pieces:
        if len(set(places)) == count:
            return Pieces(tuple(ids), tuple(places))
        by_word: list[list[int]] = [[] for _ in range(count)]
        for number, place in zip(ids, places, strict=True):
            by_word[place].append(number)
        filled = [inner or [self.unknown] for inner in by_word]
        pairs = [(number, place) for place, inner in enumerate(filled) for number in inner]
        return Pieces(tuple(number for number, _ in pairs), tuple(place for _, place in pairs))


def learn(texts: Sequence[str], kind: Kind, size: int) -> str:
    """Return the JSON of a tokenizer learned from texts: cased, nothing stripped, so that vowel signs stay.

    Args:
        texts: Training texts, normalised as a model will read them.
        kind: WordPiece (Schuster and Nakajima, 2012) or Unigram (Kudo, 2018).
        size: Pieces to learn at most, special ones included.
    """
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD))
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=_SPECIAL, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=_SPECIAL, unk_token="[UNK]", show_progress=False
        )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())
