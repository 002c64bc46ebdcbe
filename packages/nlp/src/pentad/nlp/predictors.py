"""A predictor from a bundle: the same function for evaluation and batch inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pentad.core.bundle import load_bundle
from pentad.core.errors import ModelError, UsageError
from pentad.core.run import pick_device
from pentad.nlp.documents import Document
from pentad.nlp.models import BASELINES, CLASSES
from pentad.nlp.predict import Prediction, Settings, predict_documents
from pentad.nlp.tokenizer import FILE, PieceTokenizer


@dataclass(frozen=True)
class Predictor:
    """A model with all it needs.

    Attributes:
        name: Architecture or baseline.
        digest: SHA-256 of the bundle.
        settings: The bundle's.
        licences: Of code, weights and data.
        model: In evaluation mode, on its device.
        tokenizer: None for a baseline.
        device: Where it computes.
    """

    name: str
    digest: str
    settings: Settings
    licences: dict[str, Any]
    model: nn.Module
    tokenizer: PieceTokenizer | None
    device: torch.device

    def run(self, documents: Sequence[Document]) -> list[Prediction]:
        """Return a prediction for each document."""
        return predict_documents(self.model, self.tokenizer, self.settings, documents, self.device)


def load_predictor(source: str, device: str = "auto", *, offline: bool = False) -> Predictor:
    """Return the predictor of a bundle's folder or hub id.

    Raises:
        ModelError: There is no such bundle, it is damaged, or its tokenizer is missing.
        UsageError: The device is not there.
    """
    bundle = load_bundle(source, "nlp", CLASSES, offline=offline)
    try:
        settings = Settings.from_mapping(bundle.settings)
    except UsageError as error:
        problem = f"its settings do not fit: {error.problem}"
        raise ModelError("PTD-793", problem, "install the version that made it", source) from None
    place = pick_device(device)
    tokenizer = None
    if bundle.name not in BASELINES:
        file = bundle.folder / FILE
        if not file.is_file():
            raise ModelError("PTD-794", f"{FILE} is missing", "fetch the bundle again", bundle.folder)
        tokenizer = PieceTokenizer(file.read_text(encoding="utf-8"))
    model = bundle.model if bundle.name in BASELINES else bundle.model.to(place)
    return Predictor(bundle.name, bundle.digest, settings, bundle.licences, model, tokenizer, place)
