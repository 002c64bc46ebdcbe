"""The baseline for entities: a linear-chain CRF on words, affixes and neighbours (CRFsuite), its file as a tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from numpy.typing import NDArray
from torch import Tensor

from pentad.core.bundle import PublishedModel


@dataclass(frozen=True)
class CrfConfig:
    """What decides the tensors of the baseline."""

    labels: tuple[str, ...]
    """IOB2 tags, O first."""
    size: int
    """Bytes of CRFsuite's model."""


class Crf(PublishedModel):
    """A conditional random field on words, affixes and neighbours within two words (CRFsuite); no network."""

    content: Tensor

    def __init__(self, config: CrfConfig) -> None:
        super().__init__(config)
        self.register_buffer("content", torch.zeros(config.size, dtype=torch.uint8))

    @cached_property
    def _file(self) -> bytes:
        return self.content.numpy().tobytes()

    @cached_property
    def _tagger(self) -> Any:
        import pycrfsuite

        tagger = pycrfsuite.Tagger()
        # CRFsuite reads the bytes where they lie and does not keep them alive.
        tagger.open_inmemory(self._file)
        return tagger

    def tag(self, words: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
        """Return the best sequence of tags and the marginal probabilities (words, tags)."""
        if not words:
            return [], np.zeros((0, len(self.config.labels)))
        tags = list(self._tagger.tag(features(words)))
        known = set(self._tagger.labels())
        marginals = np.full((len(words), len(self.config.labels)), 1e-12)
        for column, name in enumerate(self.config.labels):
            if name in known:
                marginals[:, column] = [self._tagger.marginal(name, place) for place in range(len(words))]
        return tags, marginals / marginals.sum(1, keepdims=True)


def features(words: Sequence[str]) -> list[list[str]]:
    """Return the features of each word: itself, its affixes and shape, and its neighbours within two words."""
    lower = [word.lower() for word in words]
    shapes = [_shape(word) for word in words]
    found = []
    for place, word in enumerate(words):
        own = [f"w={lower[place]}", f"s={shapes[place]}", "bias"]
        own += [f"-{size}={lower[place][-size:]}" for size in (1, 2, 3, 4) if len(word) > size]
        own += [f"+{size}={lower[place][:size]}" for size in (1, 2, 3) if len(word) > size]
        for step in (-2, -1, 1, 2):
            near = place + step
            inside = 0 <= near < len(words)
            own.append(f"{step}w={lower[near] if inside else '<edge>'}")
            if abs(step) == 1 and inside:
                own += [f"{step}s={shapes[near]}", f"{step}-3={lower[near][-3:]}"]
        found.append(own)
    return found


def _shape(word: str) -> str:
    """'Xx' for 'Pune', '9' for '2024', '@x' for a user name: kinds of letters with repetitions left out."""
    kinds = regex.sub(r"\p{Lu}", "X", word)
    kinds = regex.sub(r"[^\P{L}X]", "x", kinds)
    kinds = regex.sub(r"\p{M}", "", regex.sub(r"\p{N}", "9", kinds))
    return str(regex.sub(r"(.)\1+", r"\1", kinds))[:8]


def fit_crf(
    sentences: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    labels: Sequence[str],
    *,
    l1: float,
    l2: float,
    rounds: int,
) -> Crf:
    """Return the baseline learned from tagged sentences by L-BFGS.

    Args:
        sentences: Words.
        tags: IOB2 tag of each.
        labels: All tags in order.
        l1: Strength of the L1 penalty.
        l2: Strength of the L2 penalty.
        rounds: Most iterations.
    """
    import pycrfsuite

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": l1, "c2": l2, "max_iterations": rounds, "feature.possible_transitions": True})
    for words, own in zip(sentences, tags, strict=True):
        trainer.append(features(words), list(own))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model.crfsuite"
        trainer.train(str(file))
        content = file.read_bytes()
    model = Crf(CrfConfig(tuple(labels), len(content)))
    model.content = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return model
