"""HiFormer: a ResNet and Swin stages side by side, fused at two levels, for slices of any size.

Paper: Heidari et al., "HiFormer", arXiv 2207.08518 (WACV 2023). Published code: amirhossein-kz/HiFormer at 6726d284
(MIT). `official_state` takes a published checkpoint; the ResNet has torchvision's tensor names.

The paper fuses its two levels by exchanging class tokens and attending once more. The published code does not: since
19 October 2022 it throws the attended patch tokens away, and before that it attended first and exchanged afterwards,
which reaches no patch token either. All three have the same tensors, so `HiFormerConfig.fusion` says which is meant:
``fused`` is the paper's and the default, ``dropped`` and ``release_2022_07`` are for checkpoints of the published code.

Deviations: slices of any size are taken (zeros are added below and on the right up to a multiple of 16 pixels, and cut
off the logits again; maps that the windows do not fill are padded within the attention; position embeddings are
interpolated); a slice of one channel is repeated, which the published scripts do outside the model; batch norms do not
count their batches, as nothing reads the count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import find_aliases, rename, resolve_aliases
from pentad.core.errors import ModelError
from pentad.core.layers.window_attention import Mlp, PatchMerging, drop_path_rates, initialise, swin_blocks
from pentad.medical.models.swin_unet import as_channels, official_windows, padded

Fusion = Literal["fused", "dropped", "release_2022_07"]

BACKBONES = {"resnet18": (2, 2, 2), "resnet34": (3, 4, 6), "resnet50": (3, 4, 6), "resnet101": (3, 4, 23)}
"""Blocks of the three stages that are used; from resnet50 on they are bottlenecks."""
DIVISOR = 16
STEM = 64
_FINE, _COARSE = 4, 16  # pixels along each side of a token of the two levels


@dataclass(frozen=True)
class HiFormerConfig:
    """Everything that decides a HiFormer's tensors, what becomes of its fusion, and its stochastic depth."""

    classes: int
    """Classes with the background."""
    input_channels: int = 3
    """Channels of the first convolution; an image of one channel is repeated to as many."""
    image_size: tuple[int, int] = (224, 224)
    """Pixels (y, x) that the position embeddings are made for, multiples of 16."""
    backbone: str = "resnet50"
    """ResNet without its last stage, one of `BACKBONES`."""
    embed_dim: int = 96
    """Channels of the first Swin stage; the second has twice, the third four times as many."""
    depths: tuple[int, ...] = (2, 2, 6)
    """Swin blocks of the three stages."""
    heads: tuple[int, ...] = (3, 6, 12)
    """Their attention heads."""
    windows: tuple[int, ...] = (7, 7, 7)
    """Side of their windows, tokens; published: the map's where that is smaller."""
    mlp_ratio: float = 4.0
    """Hidden channels of their MLPs per channel."""
    qkv_bias: bool = True
    """Biases for query, key and value, here and in the fusion."""
    fusion: Fusion = "fused"
    """What the fusion does to the patch tokens: see the module's text."""
    fusion_depths: tuple[tuple[int, ...], ...] = ((1, 2),)
    """Attention blocks of the fine and the coarse level, for each fusion module."""
    fusion_heads: tuple[int, ...] = (6, 12)
    """Attention heads of the two levels."""
    fusion_mlp_ratios: tuple[float, ...] = (2.0, 2.0)
    """Hidden channels of their MLPs per channel."""
    decoder_channels: int = 128
    """Channels in which the levels are added up; groups of norms divide them."""
    decoder_groups: int = 32
    """Groups of the decoder's norms."""
    prediction_channels: int = 16
    """Channels at full resolution."""
    drop_path: float = 0.1
    """Rate of stochastic depth of the last Swin block, rising from 0; the fusion has none."""

    def __post_init__(self) -> None:
        for name in ("image_size", "depths", "heads", "windows", "fusion_heads", "fusion_mlp_ratios"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # from JSON, sequences arrive as lists
        object.__setattr__(self, "fusion_depths", tuple(tuple(entry) for entry in self.fusion_depths))
        depths = [depth for entry in self.fusion_depths for depth in entry]
        counts = (self.classes, self.input_channels, self.embed_dim, self.decoder_channels, self.decoder_groups)
        lists = (*self.depths, *self.heads, *self.windows, *self.fusion_heads, *self.fusion_mlp_ratios, *depths)
        rules = {
            "backbone is one of " + ", ".join(BACKBONES): self.backbone in BACKBONES,
            "fusion is fused, dropped or release_2022_07": self.fusion in ("fused", "dropped", "release_2022_07"),
            "depths, heads and windows have three entries": all(
                len(entry) == 3 for entry in (self.depths, self.heads, self.windows)
            ),
            "fusion_depths, fusion_heads and fusion_mlp_ratios have two entries": all(
                len(entry) == 2 for entry in (self.fusion_heads, self.fusion_mlp_ratios, *self.fusion_depths)
            ),
            "all numbers are above 0": min((*counts, *lists, self.mlp_ratio, self.prediction_channels)) > 0,
            "image_size has two multiples of 16": len(self.image_size) == 2
            and all(length > 0 and length % DIVISOR == 0 for length in self.image_size),
            "heads divide the channels": all(
                width % heads == 0
                for width, heads in zip(
                    (*self.widths, self.widths[0], self.widths[2]), (*self.heads, *self.fusion_heads), strict=False
                )
                if heads
            ),
            "decoder_groups divide decoder_channels": self.decoder_channels % max(self.decoder_groups, 1) == 0,
            "drop_path is from 0 to below 1": 0 <= self.drop_path < 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ModelError("PTD-532", f"a HiFormer needs that {rule}", "correct the model's configuration")

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the Swin stages."""
        return self.embed_dim, 2 * self.embed_dim, 4 * self.embed_dim

    @property
    def levels(self) -> tuple[int, int]:
        """Channels of the fine and the coarse level."""
        return self.widths[0], self.widths[2]


def hiformer_s(classes: int) -> HiFormerConfig:
    """Return the small size, 23.25 M parameters at 9 classes."""
    return HiFormerConfig(
        classes=classes,
        backbone="resnet34",
        fusion_depths=((1, 1),),
        fusion_heads=(3, 3),
        fusion_mlp_ratios=(1.0, 1.0),
    )


def hiformer_b(classes: int) -> HiFormerConfig:
    """Return the base size, 25.51 M parameters at 9 classes."""
    return HiFormerConfig(classes=classes)


def hiformer_l(classes: int) -> HiFormerConfig:
    """Return the large size, 29.52 M parameters at 9 classes."""
    return HiFormerConfig(
        classes=classes,
        backbone="resnet34",
        fusion_depths=((1, 4),),
        fusion_heads=(6, 6),
        fusion_mlp_ratios=(4.0, 4.0),
    )


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm that does not count its batches: published weights are the same with and without."""
    norm = nn.BatchNorm2d(channels)
    norm.num_batches_tracked = None
    return norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ResNet-18 and -34. (b, inputs, y, x) to (b, width, y / stride, …)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = batch_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = batch_norm(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: ResNet-50 and -101. Channels become four times the width."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = batch_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = batch_norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = batch_norm(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + self.downsample(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return what leads around a block: nothing, or a 1x1 convolution and its norm where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), batch_norm(outputs))


class ResNet(nn.Module):
    """A ResNet's stem and first three stages (He et al., arXiv 1512.03385), with torchvision's names."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if name in ("resnet18", "resnet34") else Bottleneck
        self.conv1 = nn.Conv2d(channels, STEM, 7, 2, 3, bias=False)
        self.bn1 = batch_norm(STEM)
        self.outputs = [block.expansion * (STEM << stage) for stage in range(3)]
        stages = []
        for stage, count in enumerate(BACKBONES[name]):
            first = block(self.outputs[stage - 1] if stage else STEM, STEM << stage, 2 if stage else 1)
            more = (block(self.outputs[stage], STEM << stage, 1) for _ in range(count - 1))
            stages.append(nn.Sequential(first, *more))
        self.layer1, self.layer2, self.layer3 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps at a quarter, an eighth and a sixteenth of the resolution."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        fine: Tensor = self.layer1(x)
        middle: Tensor = self.layer2(fine)
        coarse: Tensor = self.layer3(middle)
        return fine, middle, coarse


class Pyramid(nn.Module):
    """ResNet maps joined to Swin maps at three resolutions; the finest and the coarsest go on as token sequences."""

    def __init__(self, config: HiFormerConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.widths
        self.cnn = ResNet(config.backbone, config.input_channels)
        rates = drop_path_rates(config.depths, config.drop_path)
        self.swin = nn.ModuleList(
            swin_blocks(
                width,
                config.heads[stage],
                config.windows[stage],
                rates[stage],
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
            )
            for stage, width in enumerate(config.widths)
        )
        self.p1_ch = nn.Conv2d(self.cnn.outputs[0], fine, 1)
        self.p2_ch = nn.Conv2d(self.cnn.outputs[1], middle, 1)
        self.p3_ch = nn.Conv2d(self.cnn.outputs[2], coarse, 1)
        self.p1_pm = PatchMerging(fine)
        self.p2_pm = PatchMerging(middle)
        self.norm_1 = nn.LayerNorm(fine)
        self.norm_2 = nn.LayerNorm(coarse)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the fine and the coarse level, (b, 1 + tokens, c), the first token being the class token."""
        first, second, third = self.cnn(x)
        a1 = as_tokens(self.p1_ch(first))  # (b, y / 4, x / 4, c)
        a1 = a1 + self.swin[0](a1)
        a2 = as_tokens(self.p2_ch(second)) + self.swin[1](self.p1_pm(a1))
        a3 = as_tokens(self.p3_ch(third)) + self.swin[2](self.p2_pm(a2))  # (b, y / 16, x / 16, 4 c)
        return [with_class_token(a1, self.norm_1), with_class_token(a3, self.norm_2)]


def as_tokens(x: Tensor) -> Tensor:
    """Return a map (b, c, y, x) with its channels last."""
    return x.permute(0, 2, 3, 1)


def with_class_token(x: Tensor, norm: nn.Module) -> Tensor:
    """Return a map (b, y, x, c) as a sequence (b, 1 + y x, c) behind the mean of its normalised tokens."""
    tokens = x.flatten(1, 2)
    return torch.cat([norm(tokens).mean(1, keepdim=True), tokens], dim=1)


class SelfAttention(nn.Module):
    """Multi-head attention of all tokens to all, (b, tokens, c) to the same."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens."""
        split = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind()  # each (b, heads, tokens, channels)
        attended: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return attended


class ViTBlock(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)), over a whole sequence."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, bias)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's tokens."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class CrossAttention(nn.Module):
    """Attention of a sequence's first token to all of it, (b, tokens, c) to (b, 1, c)."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.wq = nn.Linear(width, width, bias=bias)
        self.wk = nn.Linear(width, width, bias=bias)
        self.wv = nn.Linear(width, width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended first token."""
        q, k, v = (
            linear(part).reshape(len(x), part.shape[1], self.heads, -1).transpose(1, 2)
            for linear, part in ((self.wq, x[:, :1]), (self.wk, x), (self.wv, x))
        )
        attended: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return attended


class CrossAttentionBlock(nn.Module):
    """The first token plus what it attends to in its normalised sequence; there is no MLP."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = CrossAttention(width, heads, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new first token (b, 1, c) of a sequence."""
        token: Tensor = x[:, :1] + self.attn(self.norm1(x))
        return token


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """Return what carries a class token from one level's width to the other's."""
    return nn.Sequential(nn.LayerNorm(inputs), nn.GELU(), nn.Linear(inputs, outputs))


class DoubleLevelFusion(nn.Module):
    """The double-level fusion: class tokens visit the other level, and each level attends to itself.

    Args:
        config: Of the model.
        depths: Attention blocks of the fine and the coarse level.
    """

    def __init__(self, config: HiFormerConfig, depths: Sequence[int]) -> None:
        super().__init__()
        self.fusion_kind = config.fusion
        widths, heads, ratios, bias = config.levels, config.fusion_heads, config.fusion_mlp_ratios, config.qkv_bias
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ViTBlock(widths[level], heads[level], ratios[level], bias) for _ in range(depth)))
            for level, depth in enumerate(depths)
        )
        self.projs = nn.ModuleList(projection(widths[level], widths[1 - level]) for level in (0, 1))
        # A level's class token visits the other one: its width and its heads.
        self.fusion = nn.ModuleList(CrossAttentionBlock(widths[1 - level], heads[1 - level], bias) for level in (0, 1))
        self.revert_projs = nn.ModuleList(projection(widths[1 - level], widths[level]) for level in (0, 1))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return both levels (b, 1 + tokens, c), fused as the configuration says."""
        if self.fusion_kind == "fused":
            return self.attend(self.exchange(levels))
        if self.fusion_kind == "release_2022_07":
            return self.exchange(self.attend(levels))
        return self.exchange(levels)  # the published code also attends, and drops the result

    def attend(self, levels: list[Tensor]) -> list[Tensor]:
        """Return both levels after their own attention blocks."""
        return [blocks(level) for blocks, level in zip(self.blocks, levels, strict=True)]

    def exchange(self, levels: list[Tensor]) -> list[Tensor]:
        """Return both levels with class tokens that have attended to the other level's patches."""
        exchanged = []
        for level, tokens in enumerate(levels):
            visitor = self.projs[level](tokens[:, :1])
            visitor = self.fusion[level](torch.cat([visitor, levels[1 - level][:, 1:]], dim=1))
            exchanged.append(torch.cat([self.revert_projs[level](visitor), tokens[:, 1:]], dim=1))
        return exchanged


def enlargement(channels: int, config: HiFormerConfig, doublings: int) -> nn.Sequential:
    """Return the convolutions that bring a level to the decoder's width, doubling the resolution after each."""
    layers: list[nn.Module] = []
    for number in range(max(doublings, 1)):
        inputs = config.decoder_channels if number else channels
        layers.append(nn.Conv2d(inputs, config.decoder_channels, 3, padding=1, bias=False))
        layers += [nn.GroupNorm(config.decoder_groups, config.decoder_channels), nn.ReLU()]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


class HiFormer(PublishedModel):
    """HiFormer, a ResNet and Swin stages fused at a fine and a coarse level; 2-D."""

    def __init__(self, config: HiFormerConfig) -> None:
        super().__init__(config)
        self.grids = [tuple(length // side for length in config.image_size) for side in (_FINE, _COARSE)]
        self.pyramid = Pyramid(config)
        self.pos_embed = nn.ParameterList(
            torch.empty(1, 1 + math.prod(grid), width) for grid, width in zip(self.grids, config.levels, strict=True)
        )
        self.blocks = nn.ModuleList(DoubleLevelFusion(config, depths) for depths in config.fusion_depths)
        self.norm = nn.ModuleList(nn.LayerNorm(width) for width in config.levels)
        self.up_fine = enlargement(config.levels[0], config, doublings=0)
        self.up_coarse = enlargement(config.levels[1], config, doublings=2)
        self.conv_pred = nn.Sequential(
            nn.Conv2d(config.decoder_channels, config.prediction_channels, 1),
            nn.ReLU(),
            nn.Upsample(scale_factor=_FINE, mode="bilinear", align_corners=False),
        )
        self.segmentation_head = nn.Conv2d(config.prediction_channels, config.classes, 3, padding=1)
        self.apply(initialise)
        for embedding in self.pos_embed:
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (b, classes, y, x).

        Args:
            x: Normalised slices (b, input_channels or 1, y, x) of any size.

        Raises:
            ModelError: The slices have another number of channels.
        """
        size = x.shape[2:]
        x = padded(as_channels(x, self.config.input_channels), DIVISOR)
        grids = [(x.shape[2] // side, x.shape[3] // side) for side in (_FINE, _COARSE)]
        levels: list[Tensor] = self.pyramid(x)  # (b, 1 + tokens, c) of both levels
        levels = [
            tokens + resized(embedding, before, now)
            for tokens, embedding, before, now in zip(levels, self.pos_embed, self.grids, grids, strict=True)
        ]
        for block in self.blocks:
            levels = block(levels)
        levels = [norm(tokens) for norm, tokens in zip(self.norm, levels, strict=True)]
        fine, coarse = (
            tokens[:, 1:].transpose(1, 2).reshape(len(x), -1, *grid) for tokens, grid in zip(levels, grids, strict=True)
        )  # (b, c, y / 4, x / 4) and (b, 4 c, y / 16, x / 16)
        logits: Tensor = self.segmentation_head(self.conv_pred(self.up_fine(fine) + self.up_coarse(coarse)))
        return logits[..., : size[0], : size[1]]


def resized(embedding: Tensor, before: Sequence[int], now: Sequence[int]) -> Tensor:
    """Return position embeddings (1, 1 + tokens, c) for another grid, bicubic; the class token keeps its own."""
    if tuple(before) == tuple(now):
        return embedding
    grid = embedding[:, 1:].transpose(1, 2).reshape(1, -1, *before)
    grid = functional.interpolate(grid, size=tuple(now), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


# Published checkpoints: two ResNet stages and the decoder's convolutions stand in them twice, and what the code
# computes for its one size, masks and indices, lies among the weights.
DUPLICATES = [
    (r"^All2Cross\.pyramid\.p2\.", "All2Cross.pyramid.resnet_layers.5."),
    (r"^All2Cross\.pyramid\.p3\.", "All2Cross.pyramid.resnet_layers.6."),
    (r"^(ConvUp_[sl])\.convs_level\.", r"\1.conv_tower."),
]
RULES: list[tuple[str, str | None]] = [
    (r"\.(attn_mask|relative_position_index|num_batches_tracked)$", None),
    (r"^All2Cross\.", ""),
    (r"^pyramid\.resnet_layers\.0\.", "pyramid.cnn.conv1."),
    (r"^pyramid\.resnet_layers\.1\.", "pyramid.cnn.bn1."),
    (r"^pyramid\.resnet_layers\.4\.", "pyramid.cnn.layer1."),
    (r"^pyramid\.resnet_layers\.5\.", "pyramid.cnn.layer2."),
    (r"^pyramid\.resnet_layers\.6\.", "pyramid.cnn.layer3."),
    (r"^pyramid\.swin_transformer\.layers\.(\d+)\.blocks\.", r"pyramid.swin.\1."),
    (r"^ConvUp_l\.conv_tower\.", "up_fine."),
    (r"^ConvUp_s\.conv_tower\.", "up_coarse."),
    (r"^segmentation_head\.0\.", "segmentation_head."),
]


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors by our names, each once.

    Raises:
        ModelError: Two names of one tensor disagree.
    """
    plain = rename(state, [(r"^module\.", "")])
    return rename(resolve_aliases(plain, find_aliases(plain, DUPLICATES)), RULES)


def config_from_official(settings: Mapping[str, Any], fusion: Fusion = "dropped") -> HiFormerConfig:
    """Return the configuration for the constructor values of the published code.

    Args:
        settings: The values, as the files of golden figures name them.
        fusion: What the code did to the patch tokens; today's drops the fusion's result.

    Raises:
        KeyError: A value is missing.
        ValueError: A value asks for what no published checkpoint has.
    """
    swin, inner, decoder = settings["swin"], settings["dlf"], settings["decoder"]
    wanted: dict[str, tuple[Any, Any]] = {
        "patch_sizes": (list(settings["patch_sizes"]), [_FINE, _COARSE]),
        "swin.patch_size": (swin["patch_size"], _FINE),
        "swin.ape": (swin.get("ape", False), False),
        "swin.dims": (list(swin["dims"]), [swin["embed_dim"] << stage for stage in range(3)]),
        "dlf.qkv_bias": (inner["qkv_bias"], swin["qkv_bias"]),
        "dlf.qk_scale": (inner.get("qk_scale"), None),
        "dlf.cross_pos_embed": (inner.get("cross_pos_embed", True), True),
        "decoder.head_kernel": (decoder["head_kernel"], 3),
    }
    for name, (value, only) in wanted.items():
        if value != only:
            raise ValueError(f"{name} is {value}, and only {only} is built")
    image = settings["img_size"]
    return HiFormerConfig(
        classes=settings["num_classes"],
        input_channels=settings["in_chans"],
        image_size=(image, image),
        backbone=settings["cnn_backbone"],
        embed_dim=swin["embed_dim"],
        depths=swin["depths"],
        heads=swin["num_heads"],
        windows=official_windows(image, swin["window_size"], 3),
        mlp_ratio=swin["mlp_ratio"],
        qkv_bias=swin["qkv_bias"],
        fusion=fusion,
        fusion_depths=tuple(tuple(entry[:2]) for entry in inner["depth"]),  # what follows has no effect
        fusion_heads=inner["num_heads"][:2],
        fusion_mlp_ratios=inner["mlp_ratio"][:2],
        decoder_channels=decoder["channels"],
        decoder_groups=decoder["group_norm_groups"],
        prediction_channels=decoder["prediction_channels"],
        drop_path=swin["drop_path_rate"],
    )


def config_from_state(state: Mapping[str, Tensor], preset: HiFormerConfig, fusion: Fusion) -> HiFormerConfig:
    """Return a preset with the classes, channels and image size that a checkpoint's tensors tell of, by our names.

    Heads leave no trace in the shapes, so the size must be known; gaps are left to the strict loading.
    """

    def shape(name: str, *published: int) -> tuple[int, ...]:
        found = tuple(state[name].shape) if name in state else ()
        return found if len(found) == len(published) and min(found) > 0 else published

    tokens = shape("pos_embed.1", 1, 197, 384)[1] - 1
    image = _COARSE * math.isqrt(max(tokens, 1))
    tables = [
        shape(f"pyramid.swin.{stage}.0.attn.relative_position_bias_table", 13**2, heads)
        for stage, heads in enumerate(preset.heads)
    ]
    return replace(
        preset,
        classes=shape("segmentation_head.weight", preset.classes, 16, 3, 3)[0],
        input_channels=shape("pyramid.cnn.conv1.weight", STEM, preset.input_channels, 7, 7)[1],
        image_size=(image, image),
        windows=tuple((math.isqrt(table[0]) + 1) // 2 for table in tables),
        fusion=fusion,
    )


def fusion_was_trained(state: Mapping[str, Tensor]) -> bool:
    """Return whether the fusion's tensors, by our names, have left their start: norms of exactly 1 and 0.

    Under today's published code they get no gradient and stay there.
    """
    norms = [(name, tensor) for name, tensor in state.items() if re.match(r"blocks\.\d+\..*norm\d\.", name)]
    return any(bool((tensor != float(name.endswith("weight"))).any()) for name, tensor in norms)
