"""FC-Siam-diff: a small U-Net shared by both dates, whose skips carry the absolute difference of the features.

Paper: Daudt, Le Saux and Boulch, "Fully convolutional Siamese networks for change detection", ICIP 2018,
arXiv 1810.08462. A baseline, written from the paper; deviations: bilinear upsampling in place of transposed
convolutions, and widths and depth are settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.bundle import PublishedModel
from pentad.core.errors import ModelError, UsageError


@dataclass(frozen=True)
class FCSiamConfig:
    """A network's sizes."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each level; each level has half the side of the one before."""
    bands: int = 3
    """Bands of the image."""
    classes: int = 2
    """Classes of the output."""

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.bands, self.classes) < 1:
            found = f"widths {self.widths}, {self.bands} bands, {self.classes} classes"
            raise ModelError("PTD-863", f"no FC-Siam-diff has {found}", "give positive numbers")


def _convolutions(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for entry in (channels, width):
        layers += [nn.Conv2d(entry, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class FCSiamDiff(PublishedModel):
    """Binary change detection without any scan: what convolutions alone reach."""

    config: FCSiamConfig

    def __init__(self, config: FCSiamConfig) -> None:
        super().__init__(config)
        widths = config.widths
        self.down = nn.ModuleList(
            _convolutions(entry, width) for entry, width in zip((config.bands, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            _convolutions(deep + width, width) for deep, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], config.classes, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of one date, finest first."""
        features = []
        for number, level in enumerate(self.down):
            image = level(functional.max_pool2d(image, 2, ceil_mode=True) if number else image)
            features.append(image)
        return features

    def forward(self, pre: Tensor, post: Tensor) -> Tensor:
        """Return logits of change (b, classes, h, w) for normalised images (b, bands, h, w) of two dates.

        Raises:
            UsageError: The images differ in shape or have not the network's bands (PTD-864).
        """
        if pre.shape != post.shape or pre.dim() != 4 or pre.shape[1] != self.config.bands:
            found = f"the two images have shapes {tuple(pre.shape)} and {tuple(post.shape)}"
            raise UsageError("PTD-864", found, f"give two of one shape (batch, {self.config.bands}, height, width)")
        differences = [(a - b).abs() for a, b in zip(self.encode(pre), self.encode(post), strict=True)]
        deep = differences[-1]
        for level, skip in zip(self.up, differences[-2::-1], strict=True):
            larger = functional.interpolate(deep, size=skip.shape[2:], mode="bilinear", align_corners=False)
            deep = level(torch.cat([larger, skip], dim=1))
        logits: Tensor = self.head(deep)
        return logits
