"""Swin-UNet: a U-Net of shifted-window attention alone, for slices of any size.

Paper: Cao et al., "Swin-Unet", arXiv 2105.05537 (ECCV 2022 workshops). Published code: HuCaoFighting/Swin-Unet at
f48f623e, without a licence; nothing of it is here. Tensor names are the published ones less their prefix;
`official_state` takes a published checkpoint, `config_from_state` finds the configuration that it was trained with.

What the published code does and the paper does not say is kept, because weights depend on it: a skip is what enters an
encoder stage, not what leaves it, so the finest has seen no attention; the coarsest decoder stage is a bare patch
expansion; the other decoder stages are as deep as the encoder's, whatever its settings say.

Deviations: slices of any size are taken (zeros are added below and on the right up to a multiple of 32 pixels, and cut
off the logits again; maps that the windows do not fill are padded within the attention); the training size is no part
of the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import rename
from pentad.core.errors import ModelError
from pentad.core.layers.window_attention import PatchEmbedding, SwinStage, drop_path_rates, initialise, swin_blocks

PATCH = 4
"""Pixels along each side of a token of the first stage."""


@dataclass(frozen=True)
class SwinUNetConfig:
    """Everything that decides a Swin-UNet's tensors, and its stochastic depth."""

    classes: int
    """Classes with the background."""
    input_channels: int = 3
    """Channels of the first convolution; an image of one channel is repeated to as many."""
    embed_dim: int = 96
    """Channels of the first stage; each further stage has twice as many."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each encoder stage; the decoder's stage of the same resolution has as many, the coarsest none."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    windows: tuple[int, ...] = (7, 7, 7, 7)
    """Side of each stage's windows, tokens; published: the map's where that is smaller."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLPs per channel."""
    qkv_bias: bool = True
    """Biases for query, key and value."""
    drop_path: float = 0.2
    """Rate of stochastic depth of the last encoder block; it rises from 0 and is mirrored in the decoder."""

    def __post_init__(self) -> None:
        for name in ("depths", "heads", "windows"):  # from JSON, sequences arrive as lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        stages = len(self.depths)
        counts = (self.classes, self.input_channels, self.embed_dim, *self.depths, *self.heads, *self.windows)
        rules = {
            "depths, heads and windows have one entry a stage": len(self.heads) == len(self.windows) == stages,
            "there are at least 2 stages": stages >= 2,
            "all numbers are above 0": min(counts) > 0 and self.mlp_ratio > 0,
            "embed_dim is even": self.embed_dim % 2 == 0,
            "heads divide each stage's channels": all(
                heads and (self.embed_dim << stage) % heads == 0 for stage, heads in enumerate(self.heads)
            ),
            "drop_path is from 0 to below 1": 0 <= self.drop_path < 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ModelError("PTD-530", f"a Swin-UNet needs that {rule}", "correct the model's configuration")

    @property
    def divisor(self) -> int:
        """Slices are padded up to multiples of this many pixels."""
        return PATCH << (len(self.depths) - 1)


def swin_unet_tiny(classes: int, input_channels: int = 3) -> SwinUNetConfig:
    """Return the published size: Swin-T's width with two blocks in every stage, 27.17 M parameters at 9 classes."""
    return SwinUNetConfig(classes=classes, input_channels=input_channels)


class PatchExpanding(nn.Module):
    """``scale`` times the resolution: (b, y, x, c) to (b, scale y, scale x, width).

    A linear layer makes the values of the scale² pixels of each token, in row-major order.
    """

    def __init__(self, inputs: int, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(inputs, scale**2 * width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the expanded map."""
        b, rows, columns = x.shape[:3]
        pixels = self.expand(x).reshape(b, rows, columns, self.scale, self.scale, -1)  # (b, y, x, p, q, width)
        pixels = pixels.transpose(2, 3).reshape(b, self.scale * rows, self.scale * columns, -1)
        expanded: Tensor = self.norm(pixels)
        return expanded


class DecoderStage(nn.Module):
    """Blocks, then an expansion to twice the resolution where a finer stage follows."""

    upsample: PatchExpanding | None

    def __init__(self, blocks: nn.Sequential, expanded: int = 0) -> None:
        super().__init__()
        self.blocks = blocks
        self.upsample = PatchExpanding(expanded, expanded // 2, 2) if expanded else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map that the next stage takes."""
        x = self.blocks(x)
        return x if self.upsample is None else self.upsample(x)


class SwinUNet(PublishedModel):
    """Swin-UNet, a U-Net of shifted-window attention without convolutions; 2-D."""

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__(config)
        last = len(config.depths) - 1
        widths = [config.embed_dim << stage for stage in range(last + 1)]
        rates = drop_path_rates(config.depths, config.drop_path)

        def blocks(stage: int) -> nn.Sequential:
            return swin_blocks(
                widths[stage],
                config.heads[stage],
                config.windows[stage],
                rates[stage],
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
            )

        self.patch_embed = PatchEmbedding(config.input_channels, config.embed_dim, PATCH)
        self.layers = nn.ModuleList(
            SwinStage(blocks(stage), widths[stage] if stage < last else 0) for stage in range(last + 1)
        )
        self.norm = nn.LayerNorm(widths[last])
        # Numbered from coarse to fine, as in the checkpoints; the coarsest stage only expands.
        self.layers_up = nn.ModuleList([PatchExpanding(widths[last], widths[last] // 2, 2)])
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        for stage in reversed(range(last)):
            self.layers_up.append(DecoderStage(blocks(stage), widths[stage] if stage else 0))
            self.concat_back_dim.append(nn.Linear(2 * widths[stage], widths[stage]))
        self.norm_up = nn.LayerNorm(config.embed_dim)
        self.up = PatchExpanding(config.embed_dim, config.embed_dim, PATCH)
        self.output = nn.Conv2d(config.embed_dim, config.classes, 1, bias=False)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (b, classes, y, x).

        Args:
            x: Normalised slices (b, input_channels or 1, y, x) of any size.

        Raises:
            ModelError: The slices have another number of channels.
        """
        size = x.shape[2:]
        x = padded(as_channels(x, self.config.input_channels), self.config.divisor)
        x = self.patch_embed(x)  # (b, y / 4, x / 4, c)
        skips = []
        for stage in self.layers:
            skips.append(x)
            x = stage(x)  # half the resolution, twice the channels, but for the last
        x = self.norm(x)
        for number, stage in enumerate(self.layers_up):
            if number:
                x = self.concat_back_dim[number](torch.cat([x, skips[-1 - number]], dim=-1))
            x = stage(x)  # twice the resolution, half the channels, but for the last
        x = self.up(self.norm_up(x))  # (b, y, x, c)
        logits: Tensor = self.output(x.permute(0, 3, 1, 2))
        return logits[..., : size[0], : size[1]]


def as_channels(x: Tensor, channels: int) -> Tensor:
    """Return slices (b, c, y, x) with ``channels`` channels: as they are, or one channel repeated.

    Raises:
        ModelError: The slices have another number of channels.
    """
    if x.shape[1] not in (1, channels):
        problem = f"slices of {x.shape[1]} channels for a model of {channels}"
        raise ModelError("PTD-531", problem, "give as many channels as the model was built for, or one")
    return x.expand(-1, channels, -1, -1)


def padded(x: Tensor, divisor: int) -> Tensor:
    """Return slices (b, c, y, x) with zeros below and on the right, up to multiples of ``divisor``."""
    below, right = (-length % divisor for length in x.shape[2:])
    return functional.pad(x, (0, right, 0, below)) if below or right else x


# Published checkpoints: data-parallel training puts `module.` in front, and what the code computes for its one size,
# masks and indices, lies among the weights.
RULES: list[tuple[str, str | None]] = [
    (r"^module\.", ""),
    (r"^swin_unet\.", ""),
    (r"\.(attn_mask|relative_position_index)$", None),
]


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors by our names."""
    return rename(state, RULES)


def config_from_official(settings: Mapping[str, Any]) -> SwinUNetConfig:
    """Return the configuration for the constructor values of the published code.

    Raises:
        KeyError: A value is missing.
        ValueError: A value asks for what no published checkpoint has.
    """
    fixed = {"patch_size": PATCH, "ape": False, "patch_norm": True, "final_upsample": "expand_first", "qk_scale": None}
    for name, value in fixed.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} is {settings[name]}, and only {value} is built")
    depths = settings["depths"]
    return SwinUNetConfig(
        classes=settings["num_classes"],
        input_channels=settings["in_chans"],
        embed_dim=settings["embed_dim"],
        depths=depths,
        heads=settings["num_heads"],
        windows=official_windows(settings["img_size"], settings["window_size"], len(depths)),
        mlp_ratio=settings["mlp_ratio"],
        qkv_bias=settings["qkv_bias"],
        drop_path=settings["drop_path_rate"],
    )


def official_windows(image: int, window: int, stages: int) -> tuple[int, ...]:
    """Return each stage's window as published: the map's side where the image leaves no larger one."""
    return tuple(min(window, image // PATCH >> stage) for stage in range(stages))


def config_from_state(state: Mapping[str, Tensor]) -> SwinUNetConfig:
    """Return the configuration that the tensors' shapes tell of, by our names; gaps are left to the strict loading.

    What the tensors do not tell is taken as published.
    """

    def shape(name: str, *published: int) -> tuple[int, ...]:
        found = tuple(state[name].shape) if name in state else ()
        return found if len(found) == len(published) and min(found) > 0 else published

    numbers = [re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name) for name in state]
    found = [(int(match[1]), int(match[2])) for match in numbers if match]
    stages = 1 + max((stage for stage, _ in found), default=3)
    width, channels = shape("patch_embed.proj.weight", 96, 3, PATCH, PATCH)[:2]
    blocks = [f"layers.{stage}.blocks.0" for stage in range(stages)]
    tables = [
        shape(f"{block}.attn.relative_position_bias_table", 13**2, 3 << stage) for stage, block in enumerate(blocks)
    ]
    return SwinUNetConfig(
        classes=shape("output.weight", 9, width, 1, 1)[0],
        input_channels=channels,
        embed_dim=width,
        depths=tuple(1 + max((block for at, block in found if at == stage), default=1) for stage in range(stages)),
        heads=tuple(table[1] for table in tables),
        windows=tuple((math.isqrt(table[0]) + 1) // 2 for table in tables),
        mlp_ratio=shape("layers.0.blocks.0.mlp.fc1.weight", 4 * width, width)[0] / width,
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in state or not found,
    )
