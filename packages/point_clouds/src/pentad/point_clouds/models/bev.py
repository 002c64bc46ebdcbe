"""From pillars to a map seen from above, and the convolutions on it: a SECOND-style backbone and its neck.

Papers: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018; Lang et al., PointPillars, arXiv
1812.05784; the residual paths are FlatFormer's (mit-han-lab/flatformer, no licence file). Deviation: maps whose sides a
stride does not divide are cut to the first stage's size after upsampling, where the published code fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pentad.core.errors import ModelError

_EPS = 1e-3


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of the convolutional backbone and its neck."""

    widths: tuple[int, ...] = (64, 128)
    """Channels of each stage."""
    depths: tuple[int, ...] = (3, 3)
    """Convolutions of each stage after its first."""
    strides: tuple[int, ...] = (1, 2)
    """Stride of each stage's first convolution."""
    neck_widths: tuple[int, ...] = (128, 128)
    """Channels to which each stage is brought before they are joined at the first stage's resolution."""
    residual: bool = True
    """Add a layer's input to its output where their shapes agree."""

    def __post_init__(self) -> None:
        lists = (self.widths, self.depths, self.strides, self.neck_widths)
        wrong = len({len(values) for values in lists}) > 1 or not self.widths
        if wrong or min(*self.widths, *self.strides, *self.neck_widths) < 1 or min(self.depths) < 0:
            found = ", ".join(map(str, lists))
            remedy = "give as many widths, depths, strides and neck_widths, all positive"
            raise ModelError("PTD-881", f"no backbone has the sizes {found}", remedy)


def scatter_bev(features: Tensor, cells: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return a map with each pillar's feature in its cell and 0 elsewhere, (b, c, ny, nx).

    Args:
        features: (n, c).
        cells: Sample, y, x, each cell once, int64 (n, 3).
        shape: Samples, cells along y, cells along x.
    """
    samples, ny, nx = shape
    place = (cells[:, 0] * ny + cells[:, 1]) * nx + cells[:, 2]
    canvas = features.new_zeros(samples * ny * nx, features.shape[1]).index_copy(0, place, features)
    return canvas.view(samples, ny, nx, -1).permute(0, 3, 1, 2)


def _convolution(channels: int, width: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width, eps=_EPS), nn.ReLU())


class Second(nn.Module):
    """Stages of 3x3 convolutions, (b, c, ny, nx) to one map a stage."""

    def __init__(self, channels: int, config: BackboneConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.blocks = nn.ModuleList()
        for width, depth, stride in zip(config.widths, config.depths, config.strides, strict=True):
            layers = [_convolution(channels, width, stride), *(_convolution(width, width, 1) for _ in range(depth))]
            self.blocks.append(nn.ModuleList(layers))
            channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the map of each stage, finest first."""
        maps = []
        for stage in self.blocks:
            assert isinstance(stage, nn.ModuleList)
            for layer in stage:
                out = layer(x)
                # After the ReLU, as published.
                x = out + x if self.residual and out.shape == x.shape else out
            maps.append(x)
        return maps


class Neck(nn.Module):
    """All stages brought to the first one's resolution and joined, (b, sum of neck widths, h, w)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.deblocks = nn.ModuleList()
        factor = 1
        for number, (width, out) in enumerate(zip(config.widths, config.neck_widths, strict=True)):
            factor *= config.strides[number] if number else 1
            conv = nn.ConvTranspose2d(width, out, factor, stride=factor, bias=False)
            self.deblocks.append(nn.Sequential(conv, nn.BatchNorm2d(out, eps=_EPS), nn.ReLU()))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the joined map for the stages' ``maps``, finest first."""
        height, width = maps[0].shape[2:]
        raised = [block(stage)[..., :height, :width] for block, stage in zip(self.deblocks, maps, strict=True)]
        return torch.cat(raised, dim=1)
