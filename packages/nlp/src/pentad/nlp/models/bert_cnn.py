"""BERT-CNN: convolutions of several widths over the last four hidden layers of BERT, taken as channels.

Paper: Safaya, Abdullatif, Yuret, "KUISAIL at SemEval-2020 Task 12: BERT-CNN for Offensive Speech Identification in
Social Media", arXiv 2007.13184; code published under github.com/alisafaya/OffensEval2020.

The form, from the paper and checked against the published `models.py` and `bert-cnn.py` (read as facts, not copied):
the outputs of the last four hidden layers are four channels of one picture with a row a piece and a column a feature;
five kernels in parallel, one, two, three, four and five pieces wide and as wide as the encoder, 32 filters each; ReLU;
the maximum over all places; dropout of 0.1; the 160 values, concatenated, through one dense layer and a sigmoid for two
classes. Texts are cut at 64 pieces and padded to them; AdamW at 2e-5 for six epochs, falling linearly.

Deviations: any number of classes by one logit each (softmax outside), for which the paper's sigmoid is the case of two.
Padding is zero before the convolutions and no place that touches it wins the maximum, so a text's logits do not depend
on its batch; the published code pools over padding too. Texts shorter than a kernel are padded with zeros to its width.
Long texts are read in windows. The published code splits hashtags into words first; here that is the user's to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.bundle import PublishedModel
from pentad.core.errors import ModelError
from pentad.nlp.models.encoder import EncoderConfig, Pretrained, built, hugging_config


@dataclass(frozen=True)
class BertCnnConfig(EncoderConfig):
    """What decides the tensors of a BERT-CNN."""

    widths: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Pieces that each kernel spans."""
    filters: int = 32
    """Of each width."""
    layers: int = 4
    """Hidden layers, counted from the last, that become channels."""
    dropout: float = 0.1
    """Share of the pooled values left out in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or min(*self.widths, self.filters, self.layers) < 1 or not 0 <= self.dropout < 1:
            raise ModelError(
                "PTD-787", "widths, filters, layers or dropout of a BERT-CNN are impossible", "correct them"
            )


class BertCnn(PublishedModel):
    """BERT's last hidden layers through parallel convolutions and a maximum over places (KUISAIL, 2020)."""

    def __init__(self, config: BertCnnConfig) -> None:
        from transformers import AutoModel

        super().__init__(config)
        found = hugging_config(config)
        # The embedding layer's output counts, as in BERT's own features, so n layers give n + 1 pictures.
        if config.layers > found.num_hidden_layers + 1:
            problem = f"{config.layers} hidden layers asked of an encoder of {found.num_hidden_layers}"
            raise ModelError("PTD-787", problem, "lower layers or take a deeper encoder")
        self.encoder = built(AutoModel, config)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(config.layers, config.filters, (width, found.hidden_size)) for width in config.widths
        )
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(config.filters * len(config.widths), len(config.labels))

    def start_from(self, source: Pretrained) -> None:
        """Take the encoder's weights from a pretrained one; convolutions and dense layer stay random."""
        from transformers import AutoModel

        self.encoder = source.load(AutoModel)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits (batch, classes) for piece numbers (batch, pieces) and their mask."""
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        picture = torch.stack(hidden[-self.config.layers :], dim=1)  # (batch, layers, pieces, features)
        picture = picture * attention_mask[:, None, :, None].to(picture.dtype)
        pooled = [self._pool(convolution, picture, attention_mask) for convolution in self.convolutions]
        logits: Tensor = self.dense(self.dropout(torch.cat(pooled, dim=1)))
        return logits

    def _pool(self, convolution: nn.Module, picture: Tensor, mask: Tensor) -> Tensor:
        """The largest answer of each filter over the places that lie wholly in the text: (batch, filters)."""
        width = int(convolution.kernel_size[0])  # type: ignore[index]
        short = max(0, width - picture.shape[2])
        answers = functional.relu(convolution(functional.pad(picture, (0, 0, 0, short)))).squeeze(3)
        places = torch.arange(answers.shape[2], device=mask.device)
        # A text shorter than the kernel keeps its first place.
        last = (mask.sum(1) - width).clamp(min=0)
        answers = answers.masked_fill(places[None, None] > last[:, None, None], torch.finfo(answers.dtype).min)
        return answers.amax(2)
