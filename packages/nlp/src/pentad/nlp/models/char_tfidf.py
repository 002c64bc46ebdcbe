"""The baseline without a network: TF-IDF of character n-grams with logistic regression, its numbers as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pentad.core.bundle import PublishedModel


@dataclass(frozen=True)
class CharTfidfConfig:
    """What decides the tensors of the baseline."""

    labels: tuple[str, ...]
    """Classes in the order of the outputs."""
    features: int
    """N-grams in the vocabulary."""
    letters: int
    """Bytes of all n-grams together in UTF-8."""
    shortest: int = 2
    """Characters of the shortest n-gram."""
    longest: int = 5
    """Characters of the longest n-gram."""


class CharTfidf(PublishedModel):
    """Character n-grams, TF-IDF weighted, through logistic regression (scikit-learn); no network."""

    letters: Tensor
    lengths: Tensor
    idf: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: CharTfidfConfig) -> None:
        super().__init__(config)
        self.register_buffer("letters", torch.zeros(config.letters, dtype=torch.uint8))
        self.register_buffer("lengths", torch.zeros(config.features, dtype=torch.int16))
        self.register_buffer("idf", torch.zeros(config.features, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros(len(config.labels), config.features))
        self.register_buffer("bias", torch.zeros(len(config.labels)))

    @cached_property
    def _vectorizer(self) -> Any:
        content, grams, position = self.letters.numpy().tobytes(), [], 0
        for length in self.lengths.tolist():
            grams.append(content[position : position + length].decode("utf-8"))
            position += length
        found = _new_vectorizer(self.config, {gram: place for place, gram in enumerate(grams)})
        found.idf_ = self.idf.numpy()
        return found

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return logits (texts, classes)."""
        features = self._vectorizer.transform(texts)
        return np.asarray(features @ self.weight.numpy().astype(np.float64).T + self.bias.numpy())


def _new_vectorizer(config: CharTfidfConfig, vocabulary: dict[str, int] | None = None, **more: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char",
        ngram_range=(config.shortest, config.longest),
        sublinear_tf=True,
        lowercase=True,
        vocabulary=vocabulary,
        **more,
    )


def fit_char_tfidf(
    texts: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    strength: float,
    features: int,
    balanced: bool,
) -> CharTfidf:
    """Return the baseline learned from texts.

    Args:
        texts: As a model reads them.
        labels: The class of each.
        classes: All classes in order.
        strength: Inverse of the regularisation, scikit-learn's C.
        features: Most n-grams to keep, the most frequent first.
        balanced: Weight classes by the inverse of their frequency.
    """
    from sklearn.linear_model import LogisticRegression

    blank = CharTfidfConfig(tuple(classes), 1, 1)
    vectorizer = _new_vectorizer(blank, max_features=features, min_df=2)
    matrix = vectorizer.fit_transform(texts)
    weights = "balanced" if balanced else None
    regression = LogisticRegression(C=strength, max_iter=1000, class_weight=weights)
    regression.fit(matrix, np.array([classes.index(label) for label in labels]))
    grams = [gram.encode() for gram in vectorizer.get_feature_names_out()]
    model = CharTfidf(CharTfidfConfig(tuple(classes), len(grams), sum(map(len, grams))))
    model.letters = torch.frombuffer(bytearray(b"".join(grams)), dtype=torch.uint8)
    model.lengths = torch.tensor([len(gram) for gram in grams], dtype=torch.int16)
    model.idf = torch.from_numpy(np.array(vectorizer.idf_))
    model.weight, model.bias = _by_class(regression, len(classes))
    return model


def _by_class(regression: Any, classes: int) -> tuple[Tensor, Tensor]:
    """A row of weights for each class; one that the training texts lack gets a bias that never wins."""
    weight, bias = np.zeros((classes, regression.coef_.shape[1])), np.full(classes, -30.0)
    if len(regression.classes_) == 2:  # one row stands for two classes
        low, high = regression.classes_
        weight[low], weight[high] = -regression.coef_[0] / 2, regression.coef_[0] / 2
        bias[low], bias[high] = -regression.intercept_[0] / 2, regression.intercept_[0] / 2
    else:
        weight[regression.classes_], bias[regression.classes_] = regression.coef_, regression.intercept_
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
