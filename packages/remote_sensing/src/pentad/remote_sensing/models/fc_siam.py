"""FC-Siam-diff and FC-Siam-conc: a small U-Net shared by both dates, whose skips carry the features of both.

The first carries their absolute difference, which tells that something changed; the second both of them side by side,
which also tells into what.

Paper: Daudt, Le Saux and Boulch, "Fully convolutional Siamese networks for change detection", ICIP 2018,
arXiv 1810.08462. A baseline, written from the paper; deviations: bilinear upsampling in place of transposed
convolutions, widths and depth are settings, and there may be more heads than one.
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
    heads: tuple[int, ...] = (2,)
    """Classes of each head."""

    def __post_init__(self) -> None:
        if not self.widths or not self.heads or min(*self.widths, self.bands, *self.heads) < 1:
            found = f"widths {self.widths}, {self.bands} bands, heads of {self.heads} classes"
            raise ModelError("PTD-863", f"no FC-Siam network has {found}", "give positive numbers")


def _convolutions(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for entry in (channels, width):
        layers += [nn.Conv2d(entry, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class _FCSiam(PublishedModel):
    """What both networks share: one encoder for both dates, and a decoder with skips."""

    config: FCSiamConfig
    carried = 1
    """How many times the encoder's channels a skip has."""

    def __init__(self, config: FCSiamConfig) -> None:
        super().__init__(config)
        widths = config.widths
        self.down = nn.ModuleList(
            _convolutions(entry, width) for entry, width in zip((config.bands, *widths), widths, strict=False)
        )
        entries = [self.carried * widths[-1], *widths[-2:0:-1]]
        self.up = nn.ModuleList(
            _convolutions(deep + self.carried * width, width)
            for deep, width in zip(entries, widths[-2::-1], strict=False)
        )
        last = widths[0] if len(widths) > 1 else self.carried * widths[0]
        self.head = nn.Conv2d(last, sum(config.heads), 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the features of one date, finest first."""
        features = []
        for number, level in enumerate(self.down):
            image = level(functional.max_pool2d(image, 2, ceil_mode=True) if number else image)
            features.append(image)
        return features

    def join(self, before: Tensor, after: Tensor) -> Tensor:
        """Return what a skip carries of the features of both dates, (b, carried c, h, w)."""
        raise NotImplementedError

    def forward(self, pre: Tensor, post: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits (b, classes, h, w), one tensor a head, for normalised images (b, bands, h, w) of two dates.

        Raises:
            UsageError: The images differ in shape or have not the network's bands (PTD-864).
        """
        if pre.shape != post.shape or pre.dim() != 4 or pre.shape[1] != self.config.bands:
            found = f"the two images have shapes {tuple(pre.shape)} and {tuple(post.shape)}"
            raise UsageError("PTD-864", found, f"give two of one shape (batch, {self.config.bands}, height, width)")
        skips = [self.join(a, b) for a, b in zip(self.encode(pre), self.encode(post), strict=True)]
        deep = skips[-1]
        for level, skip in zip(self.up, skips[-2::-1], strict=True):
            larger = functional.interpolate(deep, size=skip.shape[2:], mode="bilinear", align_corners=False)
            deep = level(torch.cat([larger, skip], dim=1))
        logits: tuple[Tensor, ...] = torch.split(self.head(deep), list(self.config.heads), dim=1)
        return logits if len(logits) > 1 else logits[0]


class FCSiamDiff(_FCSiam):
    """Change detection without any scan, from the difference of the dates' features."""

    def join(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the absolute difference, (b, c, h, w)."""
        return (before - after).abs()


class FCSiamConc(_FCSiam):
    """Change detection without any scan, from the dates' features side by side."""

    carried = 2

    def join(self, before: Tensor, after: Tensor) -> Tensor:
        """Return both, (b, 2 c, h, w)."""
        return torch.cat([before, after], dim=1)
