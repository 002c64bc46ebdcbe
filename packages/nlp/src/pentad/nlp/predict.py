"""The predictor: documents in; entities on the original characters, or calibrated classes, out.

Windows of all documents are sorted by length and batched by their number of pieces, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import CaseError
from pentad.nlp.calibration import log_softmax, softmax
from pentad.nlp.dataset import TextConfig, Window, pad, pieces_of, windows_of
from pentad.nlp.documents import Document
from pentad.nlp.models.char_tfidf import CharTfidf
from pentad.nlp.models.crf import Crf
from pentad.nlp.tags import entities, repair
from pentad.nlp.text import check_length, normalise, snap
from pentad.nlp.tokenizer import PieceTokenizer

_PIECES_A_BATCH = 4096
_WINDOWS_A_BATCH = 64

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What a bundle says of its use beside the weights.

    Attributes:
        task: ``entities`` or ``classes``.
        labels: Tags or classes in the order of the outputs.
        text: How texts are read.
        temperature: Divides the logits; fitted on validation.
        abstain_below: A document whose confidence is lower is left to a person.
    """

    task: str
    labels: tuple[str, ...]
    text: TextConfig = field(default_factory=TextConfig)
    temperature: float = 1.0
    abstain_below: float = 0.0

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings that a bundle holds.

        Raises:
            UsageError: They do not fit this version.
        """
        return from_mapping(cls, values, "settings")

    def to_mapping(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return to_mapping(self)


@dataclass(frozen=True)
class Entity:
    """A named entity: code points ``start`` to ``end`` of the original text, its type, and how sure the model is.

    The score is the smallest calibrated probability among the tags of its words.
    """

    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """What was found in one document.

    Attributes:
        confidence: Of the class; of the least sure word for entities.
        abstained: Whether that is below the bundle's `abstain_below`.
        label: The class with the largest score.
        scores: Class to calibrated probability.
        tags: IOB2 tag of each word.
        found: Entities in order.
        logits: ``(words, tags)`` or ``(classes)``, uncalibrated.
    """

    confidence: float
    abstained: bool
    label: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    found: tuple[Entity, ...] = ()
    logits: Array = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)


def predict_documents(
    model: nn.Module,
    tokenizer: PieceTokenizer | None,
    settings: Settings,
    documents: Sequence[Document],
    device: torch.device | None = None,
) -> list[Prediction]:
    """Return a prediction for each document, in their order.

    Args:
        model: In evaluation mode.
        tokenizer: Of the encoder; None for a baseline.
        settings: The bundle's.
        documents: Texts of any length up to a million characters.
        device: Where to compute; the CPU by default.

    Raises:
        CaseError: A text is too long, or a model's output is not finite.
    """
    device = device or torch.device("cpu")
    for document in documents:
        check_length(document.text, document.id)
    if settings.task == "entities":
        found = _tag(model, tokenizer, settings, documents, device)
        return [_entities(document, *one, settings) for document, one in zip(documents, found, strict=True)]
    logits = _classify(model, tokenizer, settings, documents, device)
    if not np.isfinite(logits).all():
        raise CaseError("PTD-792", "the model's output is not finite", "train it anew with a lower learning rate")
    return [_classes(row, settings) for row in logits]


def _classes(logits: Array, settings: Settings) -> Prediction:
    probabilities = softmax(logits, settings.temperature)
    best = int(probabilities.argmax())
    scores = {name: float(value) for name, value in zip(settings.labels, probabilities, strict=True)}
    confidence = float(probabilities[best])
    return Prediction(
        confidence, confidence < settings.abstain_below, label=settings.labels[best], scores=scores, logits=logits
    )


def _entities(document: Document, logits: Array, tags: Sequence[str], settings: Settings) -> Prediction:
    spans = document.spans()
    index = {name: place for place, name in enumerate(settings.labels)}
    probabilities = softmax(logits, settings.temperature)
    sure = probabilities[np.arange(len(tags)), [index[tag] for tag in tags]] if tags else np.ones(1)
    found = []
    for first, after, kind in entities(tags, "iob2"):
        start, end = snap(document.text, spans[first][0], spans[after - 1][1])
        found.append(Entity(start, end, kind, float(sure[first:after].min())))
    confidence = float(sure.min())
    return Prediction(
        confidence, confidence < settings.abstain_below, tags=tuple(tags), found=tuple(found), logits=logits
    )


def _classify(
    model: nn.Module,
    tokenizer: PieceTokenizer | None,
    settings: Settings,
    documents: Sequence[Document],
    device: torch.device,
) -> Array:
    """Logits (documents, classes); of a long text the logarithm of the mean probability over its windows."""
    if isinstance(model, CharTfidf) or tokenizer is None:
        texts = [normalise(document.text, settings.text.normalisation).text for document in documents]
        return model.score(texts) if isinstance(model, CharTfidf) and texts else np.zeros((0, len(settings.labels)))
    pieces = pieces_of(documents, tokenizer, settings.text, by_word=False)
    windows = windows_of(pieces, tokenizer, settings.text)
    sums, counts = np.zeros((len(documents), len(settings.labels))), np.zeros((len(documents), 1))
    first = np.zeros_like(sums)
    for batch, logits in _forward(model, windows, tokenizer, device):
        for window, row in zip(batch, logits, strict=True):
            sums[window.document] += softmax(row)
            counts[window.document] += 1
            first[window.document] = row
    # One window keeps its logits, which no rounding of exp and log has touched.
    return np.where(counts == 1, first, np.log(np.maximum(sums, 1e-300) / np.maximum(counts, 1)))


def _tag(
    model: nn.Module,
    tokenizer: PieceTokenizer | None,
    settings: Settings,
    documents: Sequence[Document],
    device: torch.device,
) -> list[tuple[Array, list[str]]]:
    """Log-probabilities (words, tags) and the best valid tags of each document."""
    if isinstance(model, Crf) or tokenizer is None:
        found = []
        for document in documents:
            words = [
                normalise(document.text[start:end], settings.text.normalisation).text for start, end in document.spans()
            ]
            tags, marginals = model.tag(words)  # type: ignore[operator]
            found.append((np.log(np.maximum(marginals, 1e-12)), repair(tags)))
        return found
    pieces = pieces_of(documents, tokenizer, settings.text, by_word=True)
    windows = windows_of(pieces, tokenizer, settings.text)
    tables = [np.zeros((len(document.spans()), len(settings.labels))) for document in documents]
    margins = [np.full(len(table), -1) for table in tables]
    for batch, logits in _forward(model, windows, tokenizer, device):
        for window, rows in zip(batch, logits, strict=True):
            _keep_best(window, rows, tables[window.document], margins[window.document])
    for document, table in zip(documents, tables, strict=True):
        if not np.isfinite(table).all():
            problem = "the model's output is not finite"
            raise CaseError("PTD-792", problem, "train it anew with a lower learning rate", document.id)
    return [(table, best_tags(table, settings.labels)) for table in map(_log, tables)]


def _log(table: Array) -> Array:
    return log_softmax(table) if len(table) else table


def _keep_best(window: Window, rows: Array, table: Array, margins: NDArray[np.int64]) -> None:
    """Give each word the logits of the window in which it has most context, of its first piece there."""
    before, last = window.cut, len(window.words) - 1
    for place, word in enumerate(window.words):
        if word in (-1, before):
            continue
        before = word
        margin = min(place, last - place)
        if margin > margins[word]:
            table[word], margins[word] = rows[place], margin


def best_tags(log_probabilities: Array, labels: Sequence[str]) -> list[str]:
    """Return the most probable sequence of tags in which every I continues an entity of its type (Viterbi)."""
    if not len(log_probabilities):
        return []
    allowed = _transitions(tuple(labels))
    begins = np.array([-np.inf if name.startswith("I-") else 0.0 for name in labels])
    score = log_probabilities[0] + begins
    back = []
    for row in log_probabilities[1:]:
        paths = score[:, None] + allowed
        back.append(paths.argmax(0))
        score = paths.max(0) + row
    place = int(score.argmax())
    chosen = [place]
    for pointers in reversed(back):
        place = int(pointers[place])
        chosen.append(place)
    return [labels[number] for number in reversed(chosen)]


def _transitions(labels: tuple[str, ...]) -> Array:
    """0 where the column's tag may follow the row's, else minus infinity."""
    table = np.zeros((len(labels), len(labels)))
    for row, before in enumerate(labels):
        for column, after in enumerate(labels):
            if after.startswith("I-") and before[2:] != after[2:]:
                table[row, column] = -np.inf
    return table


def _forward(
    model: nn.Module, windows: Sequence[Window], tokenizer: PieceTokenizer, device: torch.device
) -> Iterator[tuple[list[Window], Array]]:
    for batch in batches(windows):
        ids, mask = pad([window.ids for window in batch], tokenizer.pad)
        with torch.inference_mode():
            logits = model(ids.to(device), mask.to(device))
        yield batch, logits.double().cpu().numpy()


def batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Yield batches of windows of like length, the longest first, so that a lack of memory shows at once."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        if batch and (len(batch) == _WINDOWS_A_BATCH or len(batch[0].ids) * (len(batch) + 1) > _PIECES_A_BATCH):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
