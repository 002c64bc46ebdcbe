"""The baseline beside every result: a small convolutional network in the manner of PANNs (Kong et al., TASLP 2020).

Blocks of two 3 by 3 convolutions with batch norm and ReLU, average pooling between them, the mean over frequency, a
linear layer on every step. Deviations from CNN14: fewer and narrower blocks, and scores over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pentad.audio.models.pooling import pool
from pentad.audio.models.scores import Scores
from pentad.core.bundle import PublishedModel
from pentad.core.errors import ModelError


@dataclass(frozen=True)
class CNNConfig:
    """What decides the network's tensors."""

    classes: int = 527
    """Logits."""
    mel_bins: int = 64
    """Height of the spectrogram."""
    channels: tuple[int, ...] = (32, 64, 128, 256)
    """Of each block."""
    time_pooling: int = 8
    """Frames that one step of the frame-wise output stands for: a power of 2, reached in the first blocks."""
    pooling: Literal["mean", "linear_softmax"] = "linear_softmax"
    """From frames to clip; see `pooling.pool`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        halvings = self.time_pooling.bit_length() - 1
        fits = min(self.classes, self.mel_bins, *self.channels) > 0 and len(self.channels) > 0
        if not fits or 2**halvings != self.time_pooling or halvings > len(self.channels):
            remedy = "give positive sizes and a time_pooling of 1, 2, 4 …, at most a factor of 2 a block"
            raise ModelError("PTD-708", f"no CNN can be made of {self}", remedy)


class CNN(PublishedModel):
    """Small convolutional network, the baseline: any length, scores over time."""

    longest = 0  # no limit

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        self.bn0 = nn.BatchNorm1d(config.mel_bins)
        halvings = config.time_pooling.bit_length() - 1
        blocks: list[nn.Module] = []
        before, height = 1, config.mel_bins
        for number, width in enumerate(config.channels):
            across = 2 if height > 1 else 1
            blocks += [_convolution(before, width), _convolution(width, width)]
            blocks.append(nn.AvgPool2d((2 if number < halvings else 1, across)))
            before, height = width, height // across
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, config.classes)

    def forward(self, features: Tensor) -> Scores:
        """Return clip and frame logits and the mean over time of what they are computed from.

        Args:
            features: Log-mel (batch, frames, mel bins), at least ``time_pooling`` frames.

        Raises:
            ModelError: They are fewer, or of other mel bins.
        """
        if features.shape[2] != self.config.mel_bins or features.shape[1] < self.config.time_pooling:
            problem = f"this CNN takes {self.config.mel_bins} mel bins and {self.config.time_pooling} frames or more"
            raise ModelError("PTD-703", f"{problem}, not {tuple(features.shape[1:])}", "use the model's own front-end")
        normal = self.bn0(features.transpose(1, 2)).transpose(1, 2)
        steps = self.blocks(normal[:, None]).mean(3).transpose(1, 2)  # (batch, steps, channels)
        frames = self.head(steps)
        return Scores(pool(frames, self.config.pooling), frames, steps.mean(1))


def _convolution(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
