"""Documents to tensors: windows over long texts, labels on the first piece of each word, batches of like length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pentad.core.errors import UsageError
from pentad.nlp.documents import Document
from pentad.nlp.text import Normalisation, normalise
from pentad.nlp.tokenizer import Pieces, PieceTokenizer

IGNORED = -100
"""Label of a piece that no loss looks at: special pieces, padding, and all but the first piece of a word."""

_POOL = 32  # batches that are sorted by length together; more wastes less padding, fewer mix better


@dataclass(frozen=True)
class TextConfig:
    """How texts are read, section ``text`` of params.yaml.

    Attributes:
        normalisation: What is changed before a model reads a text.
        max_length: Pieces of a window, the two special ones included.
        stride: Pieces that neighbouring windows of a long text share.
    """

    normalisation: Normalisation = field(default_factory=Normalisation)
    max_length: int = 128
    stride: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.stride < self.max_length - 2:
            problem = f"stride {self.stride} does not fit max_length {self.max_length}"
            raise UsageError("PTD-790", problem, "give 0 ≤ stride < max_length - 2")


@dataclass(frozen=True)
class Window:
    """A stretch of a document.

    Attributes:
        document: Place of its document in the list.
        ids: Piece numbers with the special ones.
        words: The word of each piece, -1 for special ones; empty for running text.
        labels: Of each piece, or one for the whole.
        cut: The word that its first piece goes on with, -1 if it begins one.
    """

    document: int
    ids: tuple[int, ...]
    words: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    cut: int = -1


def pieces_of(
    documents: Sequence[Document], tokenizer: PieceTokenizer, text: TextConfig, *, by_word: bool
) -> list[Pieces]:
    """Return the pieces of every document, of its words for entities and of its running text for classes."""
    how = text.normalisation
    if by_word:
        # Words of white space alone or of nothing after normalising still need a piece each.
        sentences = [
            [normalise(document.text[start:end], how).text for start, end in document.spans()] for document in documents
        ]
        return tokenizer.words(sentences)
    return tokenizer.texts([normalise(document.text, how).text for document in documents])


def windows_of(pieces: Sequence[Pieces], tokenizer: PieceTokenizer, text: TextConfig) -> list[Window]:
    """Return the windows of all documents: one each, several overlapping ones where a text is too long."""
    room, found = text.max_length - 2, []
    for place, piece in enumerate(pieces):
        for start in window_starts(len(piece.ids), room, text.stride):
            ids = (tokenizer.first, *piece.ids[start : start + room], tokenizer.last)
            words = (-1, *piece.words[start : start + room], -1) if piece.words else ()
            cut = piece.words[start - 1] if start and piece.words else -1
            found.append(Window(place, ids, words, cut=cut))
    return found


def window_starts(length: int, room: int, stride: int) -> list[int]:
    """Return where windows of ``room`` pieces begin that share ``stride`` with their neighbours and cover all."""
    starts = [0]
    while starts[-1] + room < length:
        starts.append(min(starts[-1] + room - stride, length - room))
    return starts


def align(window: Window, tags: Sequence[int]) -> Window:
    """Return the window with the tag of each word on its first piece.

    A word that the window's begin cuts has its first piece in the window before, and carries no label here.
    """
    labels, before = [], window.cut
    for word in window.words:
        labels.append(IGNORED if word in (-1, before) else tags[word])
        before = word if word >= 0 else before
    return replace(window, labels=tuple(labels))


class Batches(Dataset[Mapping[str, Any]]):
    """Windows by ordinal number, in batches of like length that are shuffled anew in every epoch.

    Sample n depends on the seed and n alone, as the trainer's resuming asks for.

    Args:
        windows: With their labels.
        batch_size: The trainer's, of all its processes together.
        seed: Of the order and of the masking.
        mask: Share of the pieces replaced by the unknown one, so that a model learns from the context too.
        tokenizer: Knows the special pieces.
    """

    def __init__(
        self, windows: Sequence[Window], batch_size: int, seed: int, mask: float, tokenizer: PieceTokenizer
    ) -> None:
        if not windows:
            raise UsageError("PTD-791", "no document to train on", "prepare a split named train")
        self.windows, self.batch_size, self.seed, self.mask = windows, batch_size, seed, mask
        self.pad, self.unknown = tokenizer.pad, tokenizer.unknown
        self._lengths = np.array([len(window.ids) for window in windows])
        self._epoch: tuple[int, Any] = (-1, None)

    def __getitem__(self, ordinal: int) -> Mapping[str, Any]:
        count = -(-len(self.windows) // self.batch_size) * self.batch_size
        epoch, place = divmod(ordinal, count)
        window = self.windows[self._order(epoch, count)[place]]
        ids = np.array(window.ids)
        if self.mask:
            draw = np.random.default_rng((self.seed, ordinal)).random(len(ids)) < self.mask
            draw[[0, -1]] = False
            ids[draw] = self.unknown
        return {"ids": ids, "labels": window.labels}

    def _order(self, epoch: int, count: int) -> Any:
        if self._epoch[0] != epoch:
            draw = np.random.default_rng((self.seed, 1, epoch))
            order = draw.permutation(len(self.windows))
            order = np.resize(order, count)  # the last batch is filled from the start
            pools = [
                pool[np.argsort(self._lengths[pool], kind="stable")]
                for pool in np.split(order, range(_POOL * self.batch_size, count, _POOL * self.batch_size))
            ]
            batches = np.concatenate(pools).reshape(-1, self.batch_size)
            self._epoch = (epoch, batches[draw.permutation(len(batches))].reshape(-1))
        return self._epoch[1]

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch, padded to its longest window."""
        ids, mask = pad([sample["ids"] for sample in samples], self.pad)
        width = ids.shape[1]
        first = samples[0]["labels"]
        if len(first) == 1:
            labels = torch.tensor([sample["labels"][0] for sample in samples])
        else:
            rows = [[*sample["labels"], *[IGNORED] * (width - len(sample["labels"]))] for sample in samples]
            labels = torch.tensor(rows)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def pad(rows: Sequence[Any], filler: int) -> tuple[Tensor, Tensor]:
    """Return piece numbers (rows, longest) filled with ``filler``, and the mask of what is no filling."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), filler, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
