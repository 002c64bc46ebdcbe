"""ChangeMamba: what has changed between two images of one place (BCD), into what (SCD), and how badly (BDA).

Paper: Chen et al., "ChangeMamba: Remote Sensing Change Detection With Spatiotemporal State Space Model", IEEE TGRS 62,
2024, arXiv 2404.03425; published code: ChenHongruixuan/ChangeMamba (Apache-2.0). Tensor names are those of the present
published code; `official_state` takes checkpoints with these and with the names used before 30 March 2026, which the
published task checkpoints have. Deviations: none known in the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import rename
from pentad.core.errors import ModelError, UsageError
from pentad.remote_sensing.models.vmamba import ChannelsFirst, ChannelsLast, VMamba, VMambaConfig, VSSBlock


@dataclass(frozen=True)
class ChangeMambaConfig:
    """A network's sizes; which heads there are is the model's."""

    encoder: VMambaConfig = field(default_factory=VMambaConfig)
    """The encoder of both images."""
    hidden: int = 128
    """Channels of the decoders."""
    decoder_drop_path: float = 0.1
    """Chance to leave out a decoder block's branches in training."""
    classes: int = 2
    """Classes of the change head; of the damage head in MambaBDA, published with 5."""
    semantic_classes: int = 7
    """Classes of the land-cover head (MambaSCD) or of the building head (MambaBDA, published with 2)."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.classes, self.semantic_classes) < 1 or not 0 <= self.decoder_drop_path < 1:
            found = f"{self.hidden} channels, {self.classes} and {self.semantic_classes} classes"
            remedy = "give positive numbers, and a decoder_drop_path in [0, 1)"
            raise ModelError("PTD-841", f"no ChangeMamba has {found}, drop path {self.decoder_drop_path}", remedy)


class PixelConv(nn.Conv2d):
    """A 1x1 convolution with bias, taken as a linear layer of each pixel: fast where its channels lie side by side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (b, out, h, w) for ``x`` (b, channels, h, w), with the channels of each pixel side by side."""
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Block(nn.Sequential):
    """A 1x1 convolution (or none) and a VSS block, (b, c, h, w) to (b, hidden, h, w)."""

    def __init__(self, channels: int | None, config: ChangeMambaConfig) -> None:
        entry = [] if channels is None else [PixelConv(channels, config.hidden)]
        scan = VSSBlock(config.hidden, _block_config(config), config.decoder_drop_path)
        super().__init__(*entry, ChannelsLast(), scan, ChannelsFirst())


def _block_config(config: ChangeMambaConfig) -> VMambaConfig:
    return replace(config.encoder, states=1, expand=2.0, mlp_ratio=4.0)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with batch norms beside a residual path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (b, c, h, w)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(x + self.bn2(self.conv2(y)))


def _projected(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(PixelConv(channels, hidden), nn.BatchNorm2d(hidden), nn.ReLU())


def _up(x: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def interleaved(pre: Tensor, post: Tensor) -> Tensor:
    """Return a map (b, c, h, 2 w) whose even columns are ``pre`` and whose odd columns are ``post``, (b, c, h, w)."""
    pixels = [date.permute(0, 2, 3, 1) for date in (pre, post)]
    return torch.stack(pixels, dim=3).flatten(2, 3).permute(0, 3, 1, 2)


class ChangeStage(nn.Module):
    """The three arrangements of two dates, each through a block of its own."""

    def __init__(self, channels: int, config: ChangeMambaConfig) -> None:
        super().__init__()
        self.cat = Block(2 * channels, config)
        self.interleave = Block(channels, config)
        self.split = Block(channels, config)

    def forward(self, pre: Tensor, post: Tensor) -> Tensor:
        """Return (b, 5 hidden, h, w): the parallel map, then the two dates' parts of the crossed and sequential ones.

        Args:
            pre: Features of the first date, (b, c, h, w).
            post: Features of the second, same shape.
        """
        parallel = self.cat(torch.cat([pre, post], dim=1))
        crossed = self.interleave(interleaved(pre, post))
        sequential = self.split(torch.cat([pre, post], dim=3))
        width = pre.shape[3]
        halves = sequential[..., :width], sequential[..., width:]
        return torch.cat([parallel, crossed[..., ::2], crossed[..., 1::2], *halves], dim=1)


class ChangeDecoder(nn.Module):
    """Feature maps of two dates to one map of what differs, of the finest map's size."""

    def __init__(self, config: ChangeMambaConfig) -> None:
        super().__init__()
        widths = config.encoder.widths[::-1]
        self.stage_blocks = nn.ModuleList(ChangeStage(width, config) for width in widths)
        self.fuse_layers = nn.ModuleList(_projected(5 * config.hidden, config.hidden) for _ in widths)
        self.smooth_layers = nn.ModuleList(ResBlock(config.hidden) for _ in widths[1:])

    def forward(self, pre: Sequence[Tensor], post: Sequence[Tensor]) -> Tensor:
        """Return (b, hidden, h, w) from the encoder's maps of both dates, finest first."""
        deepest_first = zip(pre[::-1], post[::-1], strict=True)
        found: Tensor | None = None
        for number, (before, after) in enumerate(deepest_first):
            fused = self.fuse_layers[number](self.stage_blocks[number](before, after))
            found = fused if found is None else self.smooth_layers[number - 1](fused + _up(found, fused.shape[2:]))
        assert found is not None
        return found


class SemanticDecoder(nn.Module):
    """Feature maps of one date to one map, of the finest one's size."""

    def __init__(self, config: ChangeMambaConfig) -> None:
        super().__init__()
        deepest, *others = config.encoder.widths[::-1]
        blocks = [Block(deepest, config), *(Block(None, config) for _ in others)]
        self.stage_blocks = nn.ModuleList(blocks)
        self.transition_layers = nn.ModuleList(_projected(width, config.hidden) for width in others)
        self.smooth_layers = nn.ModuleList(ResBlock(config.hidden) for _ in (deepest, *others))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (b, hidden, h, w) from the encoder's maps of one date, finest first."""
        found: Tensor = self.stage_blocks[0](features[-1])
        for number, feature in enumerate(features[-2::-1]):
            skip = self.transition_layers[number](feature)
            found = self.stage_blocks[number + 1](self.smooth_layers[number](skip + _up(found, skip.shape[2:])))
        out: Tensor = self.smooth_layers[-1](found)
        return out


class _Network(PublishedModel):
    """What the three networks share: one encoder for both images."""

    config: ChangeMambaConfig

    def __init__(self, config: ChangeMambaConfig) -> None:
        super().__init__(config)
        self.encoder = VMamba(config.encoder)

    def encode(self, pre: Tensor, post: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the encoder's maps of both images.

        Raises:
            UsageError: The images differ in shape or are no images of the network's bands (PTD-842).
        """
        bands = self.config.encoder.input_channels
        if pre.shape != post.shape or pre.dim() != 4 or pre.shape[1] != bands or min(pre.shape) < 1:
            found = f"the two images have shapes {tuple(pre.shape)} and {tuple(post.shape)}"
            raise UsageError("PTD-842", found, f"give two of one shape (batch, {bands}, height, width)")
        both = [feature.chunk(2) for feature in self.encoder(torch.cat([pre, post]))]  # weights are read once
        return [feature[0] for feature in both], [feature[1] for feature in both]


class MambaBCD(_Network):
    """Binary change detection."""

    def __init__(self, config: ChangeMambaConfig) -> None:
        super().__init__(config)
        self.decoder = ChangeDecoder(config)
        self.main_clf = PixelConv(config.hidden, config.classes)

    def forward(self, pre: Tensor, post: Tensor) -> Tensor:
        """Return logits of change (b, classes, h, w) for normalised images (b, bands, h, w) of two dates."""
        return _up(self.main_clf(self.decoder(*self.encode(pre, post))), pre.shape[2:])


class MambaSCD(_Network):
    """Semantic change detection: what has changed, and the land cover of both dates."""

    def __init__(self, config: ChangeMambaConfig) -> None:
        super().__init__(config)
        self.decoder_bcd = ChangeDecoder(config)
        self.decoder_T1 = SemanticDecoder(config)
        self.decoder_T2 = SemanticDecoder(config)
        self.main_clf_cd = PixelConv(config.hidden, config.classes)
        self.aux_clf = PixelConv(config.hidden, config.semantic_classes)

    def forward(self, pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of change and of the land cover before and after, each (b, classes, h, w)."""
        before, after = self.encode(pre, post)
        change = self.main_clf_cd(self.decoder_bcd(before, after))
        covers = self.aux_clf(self.decoder_T1(before)), self.aux_clf(self.decoder_T2(after))
        size = pre.shape[2:]
        return _up(change, size), _up(covers[0], size), _up(covers[1], size)


class MambaBDA(_Network):
    """Building damage assessment: the buildings before, and the damage after."""

    def __init__(self, config: ChangeMambaConfig) -> None:
        super().__init__(config)
        self.decoder_damage = ChangeDecoder(config)
        self.decoder_building = SemanticDecoder(config)
        self.main_clf = PixelConv(config.hidden, config.classes)
        self.aux_clf = PixelConv(config.hidden, config.semantic_classes)

    def forward(self, pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of buildings and of damage, each (b, classes, h, w)."""
        before, after = self.encode(pre, post)
        building, damage = (
            self.aux_clf(self.decoder_building(before)),
            self.main_clf(self.decoder_damage(before, after)),
        )
        return _up(building, pre.shape[2:]), _up(damage, pre.shape[2:])


def tiny(**settings: Any) -> ChangeMambaConfig:
    """Return the published tiny configuration, with other ``settings`` of `ChangeMambaConfig` where given."""
    return ChangeMambaConfig(VMambaConfig(), **settings)


def small(**settings: Any) -> ChangeMambaConfig:
    """Return the published small configuration, with other ``settings`` of `ChangeMambaConfig` where given."""
    return ChangeMambaConfig(VMambaConfig(depths=(2, 2, 15, 2), drop_path=0.3), **settings)


def base(**settings: Any) -> ChangeMambaConfig:
    """Return the published base configuration, with other ``settings`` of `ChangeMambaConfig` where given."""
    encoder = VMambaConfig(widths=(128, 256, 512, 1024), depths=(2, 2, 15, 2), drop_path=0.6)
    return ChangeMambaConfig(encoder, **settings)


# The names before 30 March 2026 count stages from the deepest, 4, to 1, and smoothing layers from 3; ours from 0.
_RULES = [
    (r"^(?:module\.|model\.)+", ""),
    *(
        (rf"\bst_block_{stage}{number}\b", f"stage_blocks.{4 - stage}.{part}")
        for stage in range(1, 5)
        for number, part in enumerate(("cat", "interleave", "split"), start=1)
    ),
    *((rf"\bst_block_{stage}_semantic\b", f"stage_blocks.{4 - stage}") for stage in range(1, 5)),
    *((rf"\bfuse_layer_{stage}\b", f"fuse_layers.{4 - stage}") for stage in range(1, 5)),
    *((rf"\btrans_layer_{stage}\b", f"transition_layers.{3 - stage}") for stage in range(1, 4)),
    *((rf"\bsmooth_layer_{stage}(?:_semantic)?\b", f"smooth_layers.{3 - stage}") for stage in range(4)),
]


def official_name(name: str) -> str:
    """Return our name of a tensor or module of the published code, in either of its naming schemes."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published task checkpoint's tensors under our names, ready for `load_strict`.

    Args:
        state: Tensors by name, in either naming scheme, with or without ``module.`` or ``model.`` before them.

    Raises:
        ModelError: It is an encoder's checkpoint, not a whole network's (PTD-843), or two tensors get one name.
    """
    made = rename(state, _RULES)
    if not any(name.startswith("decoder") for name in made):
        found = "no decoder among the checkpoint's tensors, so that predictions would be near random"
        raise ModelError("PTD-843", found, "give the task's checkpoint; this one holds at most an encoder")
    counters = {f"{name.removesuffix('running_mean')}num_batches_tracked" for name in made if "running_mean" in name}
    return made | {name: torch.zeros((), dtype=torch.long) for name in counters - made.keys()}
