"""The settings of a training beside core's: the encoder, the loss, the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pentad.nlp.tokenizer import Kind


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder, section ``encoder`` of params.yaml.

    Attributes:
        source: Folder or hub id of a pretrained one; empty trains a small BERT from scratch.
        keep_layers: Layers of a pretrained one to keep, from the first; 0 keeps all. Half of them halve the time.
        trim: Keep only the pieces of a pretrained one that the training texts use, and single signs of their scripts:
            a multilingual vocabulary shrinks to a tenth, and its embeddings can be learned at little cost.
        vocabulary: Pieces to learn, from scratch only, as all below.
        pieces: How words are cut into them.
        hidden: Width.
        layers: Number of them.
        heads: Attention heads.
        inner: Width of the feed-forward layers.
        dropout: Of hidden values and attention.
    """

    source: str = ""
    keep_layers: int = 0
    trim: bool = False
    vocabulary: int = 4000
    pieces: Kind = "wordpiece"
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    inner: int = 256
    dropout: float = 0.1

    def values(self, size: int, longest: int, padding: int) -> dict[str, Any]:
        """Return a small BERT's configuration for a vocabulary of ``size`` and windows of ``longest`` pieces."""
        return {
            "model_type": "bert",
            "vocab_size": size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "max_position_embeddings": longest,
            "pad_token_id": padding,
        }


@dataclass(frozen=True)
class LearnConfig:
    """What is learned how, section ``learning`` of params.yaml.

    Attributes:
        class_weights: Weight classes by the inverse of their frequency, or not.
        focal: Exponent of the focal loss; 0 is cross-entropy.
        layer_decay: Each layer learns at this times the rate of the one above.
        head_rate: What is no part of the encoder learns at this times the learning rate.
        freeze_embeddings: Leave the word embeddings as they are, which spares memory and time with large vocabularies.
        mask: Share of the pieces hidden from the model in training.
        abstain_below: A document of lower confidence is left to a person.
    """

    class_weights: Literal["none", "balanced"] = "none"
    focal: float = 0.0
    layer_decay: float = 1.0
    head_rate: float = 1.0
    freeze_embeddings: bool = False
    mask: float = 0.0
    abstain_below: float = 0.5


@dataclass(frozen=True)
class BaselineConfig:
    """The baselines, section ``baseline`` of params.yaml.

    Attributes:
        strength: Inverse of the regularisation of the logistic regression.
        features: N-grams at most.
        l1: Penalty of the CRF.
        l2: Penalty of the CRF.
        rounds: Iterations of the CRF at most.
    """

    strength: float = 10.0
    features: int = 200_000
    l1: float = 0.05
    l2: float = 0.05
    rounds: int = 100


@dataclass(frozen=True)
class ModelConfig:
    """What a BERT-CNN has beside its encoder, section ``bert_cnn`` of params.yaml; the defaults are the paper's."""

    widths: tuple[int, ...] = (1, 2, 3, 4, 5)
    filters: int = 32
    layers: int = 4
    dropout: float = 0.1
