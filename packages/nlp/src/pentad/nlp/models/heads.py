"""BERT token and sequence classification: transformers' own networks behind one signature, as publishable models."""

from __future__ import annotations

from torch import Tensor

from pentad.core.bundle import PublishedModel
from pentad.nlp.models.encoder import EncoderConfig, Pretrained, built


class BertTokens(PublishedModel):
    """An encoder with a linear layer on every piece (Devlin et al., 2019, section 5.3): named entities."""

    def __init__(self, config: EncoderConfig) -> None:
        from transformers import AutoModelForTokenClassification

        super().__init__(config)
        self.network = built(AutoModelForTokenClassification, config)

    def start_from(self, source: Pretrained) -> None:
        """Take the encoder's weights from a pretrained one; the head stays random."""
        from transformers import AutoModelForTokenClassification

        self.network = source.load(AutoModelForTokenClassification, num_labels=len(self.config.labels))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (batch, pieces, tags) for piece numbers (batch, pieces) and their mask."""
        logits: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class BertSequence(PublishedModel):
    """An encoder with a classifier on its first piece (Devlin et al., 2019, section 4.1): one class a text."""

    def __init__(self, config: EncoderConfig) -> None:
        from transformers import AutoModelForSequenceClassification

        super().__init__(config)
        self.network = built(AutoModelForSequenceClassification, config)

    def start_from(self, source: Pretrained) -> None:
        """Take the encoder's weights from a pretrained one; the head stays random."""
        from transformers import AutoModelForSequenceClassification

        self.network = source.load(AutoModelForSequenceClassification, num_labels=len(self.config.labels))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (batch, classes) for piece numbers (batch, pieces) and their mask."""
        logits: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits
