"""VMamba, the visual state-space encoder, as ChangeMamba uses it.

Paper: Liu et al., "VMamba: Visual State Space Model", arXiv 2401.10166; published code: MzeroMiko/VMamba (MIT), with
the settings of ChenHongruixuan/ChangeMamba (Apache-2.0): forward type ``v3noz``, downsampling v3, patch embedding v2.
Tensor names and shapes are the published ones. Deviations: `cross_selective_scan` adds the four skips at once; there is
no classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.errors import ModelError
from pentad.core.layers.cross_scan import ROUTES, cross_selective_scan
from pentad.core.layers.window_attention import Mlp

_STEP_RANGE = (1e-3, 1e-1)
_STEP_FLOOR = 1e-4
_STEM_STRIDES = {4: (2, 2), 2: (2, 1), 1: (1, 1)}
"""Strides of the stem's two convolutions by what they make together."""


@dataclass(frozen=True)
class VMambaConfig:
    """Sizes of the encoder."""

    widths: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of each stage."""
    depths: tuple[int, ...] = (2, 2, 4, 2)
    """Blocks of each stage."""
    input_channels: int = 3
    """Bands of the image."""
    states: int = 1
    """States per channel of the scan (N)."""
    expand: float = 2.0
    """Channels of the scan per channel of its block."""
    mlp_ratio: float = 4.0
    """Hidden channels of the multilayer perceptron per channel of its block."""
    drop_path: float = 0.2
    """Chance to leave out the last block in training; rises from 0 at the first."""
    stem_stride: int = 4
    """Image pixels per side of a pixel of the first map: 4 as published; 2 or 1 keep what is small, at 4 or 16 times
    the cost. The tensors are the same."""

    def __post_init__(self) -> None:
        sizes = (*self.widths, *self.depths, self.input_channels, self.states)
        if len(self.widths) != len(self.depths) or not self.widths or min(sizes) < 1 or self.widths[0] % 2:
            found = f"widths {self.widths}, depths {self.depths}, {self.input_channels} bands, {self.states} states"
            raise ModelError("PTD-840", f"no VMamba has {found}", "give as many widths as depths, the first width even")
        if min(self.expand, self.mlp_ratio) <= 0 or not 0 <= self.drop_path < 1:
            found = f"expand {self.expand}, mlp_ratio {self.mlp_ratio}, drop_path {self.drop_path}"
            raise ModelError("PTD-840", f"no VMamba has {found}", "give ratios above 0 and a drop_path in [0, 1)")
        if self.stem_stride not in _STEM_STRIDES:
            raise ModelError("PTD-840", f"no VMamba has stem_stride {self.stem_stride}", "give 4, 2 or 1")


class ChannelsLast(nn.Module):
    """(b, c, h, w) to (b, h, w, c)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view with the channels last."""
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """(b, h, w, c) to (b, c, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view with the channels first."""
        return x.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Leaves out a residual branch for whole samples in training, and scales it for the others."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (b, …), or in training zeros for some samples."""
        if not self.training or not self.chance:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.chance)
        return x * kept / (1 - self.chance)


class SS2D(nn.Module):
    """The four-route scan between two projections, (b, h, w, c) to the same shape."""

    def __init__(self, width: int, states: int = 1, expand: float = 2.0) -> None:
        super().__init__()
        inner, rank = int(expand * width), math.ceil(width / 16)
        self.x_proj_weight = nn.Parameter(torch.empty(ROUTES, rank + 2 * states, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(ROUTES, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(ROUTES, inner))
        self.A_logs = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(ROUTES * inner, 1))
        self.Ds = nn.Parameter(torch.ones(ROUTES * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.in_proj = nn.Linear(width, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self._start()

    def _start(self) -> None:
        """Start with steps log-uniform in [1e-3, 0.1] and every projection as a linear layer starts."""
        for weight in self.x_proj_weight:
            nn.init.kaiming_uniform_(weight.data, a=math.sqrt(5))
        rank = self.dt_projs_weight.shape[2]
        nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
        low, high = map(math.log, _STEP_RANGE)
        step = torch.exp(torch.rand_like(self.dt_projs_bias) * (high - low) + low).clamp(min=_STEP_FLOOR)
        with torch.no_grad():
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for ``x`` (b, h, w, c)."""
        x = self.in_proj(x).permute(0, 3, 1, 2)
        x = functional.silu(self.conv2d(x))
        A = -torch.exp(self.A_logs.float() if self.A_logs.dtype != torch.float64 else self.A_logs)
        y = cross_selective_scan(x, self.x_proj_weight, self.dt_projs_weight, self.dt_projs_bias, A, self.Ds)
        out: Tensor = self.out_proj(self.out_norm(y.permute(0, 2, 3, 1)))
        return out


class VSSBlock(nn.Module):
    """The scan and the perceptron, each behind a norm and beside a residual path, on (b, h, w, c)."""

    def __init__(self, width: int, config: VMambaConfig, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.op = SS2D(width, config.states, config.expand)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(config.mlp_ratio * width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x`` (b, h, w, c)."""
        x = x + self.drop_path(self.op(self.norm(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Stage(nn.Module):
    """Blocks of one width and, but for the last stage, the step to the next."""

    def __init__(self, config: VMambaConfig, number: int, chances: Sequence[float]) -> None:
        super().__init__()
        width = config.widths[number]
        self.blocks = nn.Sequential(*(VSSBlock(width, config, chance) for chance in chances))
        self.downsample: nn.Module = nn.Identity()
        if number + 1 < len(config.widths):
            following = config.widths[number + 1]
            conv = nn.Conv2d(width, following, 3, stride=2, padding=1)
            self.downsample = nn.Sequential(ChannelsFirst(), conv, ChannelsLast(), nn.LayerNorm(following))


class VMamba(nn.Module):
    """The encoder: an image to one feature map a stage, the first by the stem's stride smaller, then half each time."""

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        first, strides = config.widths[0], _STEM_STRIDES[config.stem_stride]
        self.patch_embed = nn.Sequential(
            nn.Conv2d(config.input_channels, first // 2, 3, stride=strides[0], padding=1),
            ChannelsLast(),
            nn.LayerNorm(first // 2),
            ChannelsFirst(),
            nn.GELU(),
            nn.Conv2d(first // 2, first, 3, stride=strides[1], padding=1),
            ChannelsLast(),
            nn.LayerNorm(first),
        )
        blocks = sum(config.depths)
        chances = [config.drop_path * block / max(blocks - 1, 1) for block in range(blocks)]
        ends = [sum(config.depths[: k + 1]) for k in range(len(config.depths))]
        starts = zip(ends, config.depths, strict=True)
        self.layers = nn.ModuleList(
            Stage(config, k, chances[end - depth : end]) for k, (end, depth) in enumerate(starts)
        )
        for number, width in enumerate(config.widths):
            self.add_module(f"outnorm{number}", nn.LayerNorm(width))
        self.apply(_start_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the normalised feature map of each stage, (b, width, h, w), each side rounded up.

        Args:
            image: Normalised, (b, bands, h, w), any sides.
        """
        x = self.patch_embed(image)
        features = []
        for number, stage in enumerate(self.layers):
            x = stage.get_submodule("blocks")(x)
            features.append(self.get_submodule(f"outnorm{number}")(x).permute(0, 3, 1, 2))
            x = stage.get_submodule("downsample")(x)
        return features


def _start_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
