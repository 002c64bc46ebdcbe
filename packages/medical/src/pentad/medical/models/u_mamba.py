"""U-Mamba: a residual U-Net whose bottleneck (Bot) or encoder stages (Enc) end in a Mamba layer, in 2-D and 3-D.

Paper: Ma, Li and Wang, "U-Mamba", arXiv 2401.04722. Published code: bowang-lab/U-Mamba at 28459e3 (Apache-2.0), the
residual block from dynamic-network-architectures, the Mamba block from state-spaces/mamba. Tensor names are the
published ones; `official_state` takes a published checkpoint, `config_from_official` a published plan.

What the published code does and the paper does not say is kept, because weights depend on it: upsampling is nearest
neighbour and a 1x1 convolution; the Mamba layer replaces its map, without a residual connection; the last decoder
stage has a skip in 3-D and none in 2-D; Enc has a Mamba layer at every stage in 3-D and at every second one in 2-D.

Deviations: maps are upsampled to the skip's size instead of by the stride, so sizes that the strides do not divide
work too (equal where they do); the Mamba layer turns bfloat16 as well as float16 into float32 in 2-D too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.bundle import PublishedModel
from pentad.core.checkpoint import find_aliases, rename, resolve_aliases
from pentad.core.errors import ModelError
from pentad.core.layers.mamba import Mamba
from pentad.medical.models.convolution import CONVOLUTION
from pentad.medical.models.norms import NORM, activated

SLOPE = 0.01


@dataclass(frozen=True)
class UMambaConfig:
    """Everything that decides a U-Mamba's tensors, as an nnU-Net plan gives it. Axes are (y, x) or (z, y, x)."""

    input_channels: int
    """Channels of the image."""
    classes: int
    """Classes with the background."""
    patch_size: tuple[int, ...]
    """Voxels of a training patch; Enc may be tied to it."""
    features: tuple[int, ...]
    """Channels of each stage, from full resolution to the bottleneck."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """Kernel of each stage, odd."""
    strides: tuple[tuple[int, ...], ...]
    """Stride on entering each stage; the first is 1."""
    encoder_blocks: tuple[int, ...]
    """Residual blocks of each encoder stage, before `effective_blocks` cuts them."""
    decoder_blocks: tuple[int, ...]
    """Residual blocks of each decoder stage, deepest first, before the cut."""
    deep_supervision: bool = True
    """In training, return the logits of every decoder stage."""
    d_state: int = 16
    """States per channel of the Mamba layers."""
    d_conv: int = 4
    """Taps of their causal convolution."""
    expand: int = 2
    """Their inner channels per feature."""

    def __post_init__(self) -> None:
        for field in fields(self):  # from JSON, sequences arrive as lists
            object.__setattr__(self, field.name, _as_tuples(getattr(self, field.name)))
        stages, axes = len(self.features), len(self.patch_size)
        shapes = {
            "patch_size has 2 or 3 axes": axes in CONVOLUTION,
            "features has at least 2 stages": stages >= 2,
            "kernel_sizes has one entry a stage": len(self.kernel_sizes) == stages,
            "strides has one entry a stage": len(self.strides) == stages,
            "kernel_sizes and strides have one value an axis": all(
                len(entry) == axes for entry in (*self.kernel_sizes, *self.strides)
            ),
            "kernel_sizes are odd": all(size % 2 for kernel in self.kernel_sizes for size in kernel),
            "the first stride is 1": self.strides[:1] == ((1,) * axes,),
            "encoder_blocks has one entry a stage": len(self.encoder_blocks) == stages,
            "decoder_blocks has one entry less than features": len(self.decoder_blocks) == stages - 1,
            "all numbers are above 0": min(_numbers(self)) > 0,
        }
        for rule, holds in shapes.items():
            if not holds:
                raise ModelError("PTD-290", f"a U-Mamba needs that {rule}", "correct the model's configuration")

    @property
    def axes(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def map_sizes(self) -> list[tuple[int, ...]]:
        """Size of the map at each stage for a training patch, by integer division as published."""
        sizes, size = [], self.patch_size
        for stride in self.strides:
            size = tuple(length // step for length, step in zip(size, stride, strict=True))
            sizes.append(size)
        return sizes


def effective_blocks(config: UMambaConfig) -> tuple[list[int], list[int]]:
    """Return the residual blocks that are really built, of encoder and decoder stages.

    The published code cuts the deeper half of the encoder to one block a stage and, as its decoder list starts at
    the bottleneck, the shallower half of the decoder.
    """
    stages = len(config.features)
    encoder_cut, decoder_cut = math.ceil(stages / 2), math.ceil((stages - 1) / 2 + 0.5)
    encoder = [blocks if stage < encoder_cut else 1 for stage, blocks in enumerate(config.encoder_blocks)]
    decoder = [blocks if stage < decoder_cut else 1 for stage, blocks in enumerate(config.decoder_blocks)]
    return encoder, decoder


class BasicResBlock(nn.Module):
    """Two convolutions and a 1x1 convolution around them: changes channels and resolution. (b, in, …) → (b, out, …)."""

    def __init__(self, channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        inputs, outputs = channels
        convolution, norm = CONVOLUTION[len(kernel)], NORM[len(kernel)]
        padding = tuple(size // 2 for size in kernel)
        self.conv1 = convolution(inputs, outputs, tuple(kernel), tuple(stride), padding)
        self.norm1 = norm(outputs, affine=True)
        self.conv2 = convolution(outputs, outputs, tuple(kernel), 1, padding)
        self.norm2 = norm(outputs, affine=True)
        self.conv3 = convolution(inputs, outputs, 1, tuple(stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return norm(conv(act(norm(conv(x))))) + 1x1 conv(x), activated."""
        y = activated(self.norm1, self.conv1(x), SLOPE)
        y = self.norm2(self.conv2(y))
        return functional.leaky_relu(y + self.conv3(x), SLOPE)


class ConvNorm(nn.Module):
    """A convolution that keeps the size, and its norm."""

    def __init__(self, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        padding = tuple((size - 1) // 2 for size in kernel)
        self.conv = CONVOLUTION[len(kernel)](channels, channels, tuple(kernel), 1, padding)
        self.norm = NORM[len(kernel)](channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return norm(conv(x))."""
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


class BasicBlockD(nn.Module):
    """Two convolutions with an identity shortcut: the further blocks of a stage. (b, c, …) → (b, c, …)."""

    def __init__(self, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, kernel)
        self.conv2 = ConvNorm(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return conv2(act(conv1(x))) + x, activated."""
        y = self.conv2(activated(self.conv1.norm, self.conv1.conv(x), SLOPE))
        return functional.leaky_relu(y + x, SLOPE)


def residual_stage(
    channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int], blocks: int
) -> nn.Sequential:
    """Return one `BasicResBlock` that changes channels and resolution, and ``blocks - 1`` that change neither."""
    more = (BasicBlockD(channels[1], kernel) for _ in range(blocks - 1))
    return nn.Sequential(BasicResBlock(channels, kernel, stride), *more)


class MambaLayer(nn.Module):
    """Layer norm and Mamba over a map read as a sequence; the output replaces the map. (b, c, …) → (b, c, …).

    Args:
        width: Features of a token: the channels, or with ``channel_tokens`` the positions of the map.
        config: Sizes of the Mamba block.
        channel_tokens: Channels are the tokens and the flattened map is the feature vector, instead of the reverse.
    """

    def __init__(self, width: int, config: UMambaConfig, channel_tokens: bool = False) -> None:
        super().__init__()
        self.channel_tokens = channel_tokens
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, config.d_state, config.d_conv, config.expand)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new map, in float32 or wider whatever autocast says: the recurrence loses too much in half."""
        with torch.autocast(x.device.type, enabled=False):
            if x.dtype in (torch.float16, torch.bfloat16):
                x = x.float()
            tokens = x.flatten(2)  # (b, c, positions), positions row-major over (z, y, x)
            if not self.channel_tokens:
                tokens = tokens.transpose(1, 2)  # (b, positions, c)
            tokens = self.mamba(self.norm(tokens))
            if not self.channel_tokens:
                tokens = tokens.transpose(1, 2)  # (b, c, positions)
            # Copied to rows of positions: as it lies it counts as channels-last, and torch 2.11's backward pass of the
            # next stage's strided 1x1 convolution then writes past its memory on CPUs.
            mapped: Tensor = tokens.reshape(x.shape).contiguous()
            return mapped


def encoder_mamba_layers(config: UMambaConfig) -> nn.ModuleList:
    """Return the layer that follows each encoder stage of Enc; in 2-D every second one is an identity.

    Where a map has no more positions than channels, the roles of tokens and features are swapped.
    """
    last = len(config.features) - 1
    layers: list[nn.Module] = []
    for stage, (features, size) in enumerate(zip(config.features, config.map_sizes, strict=True)):
        positions = math.prod(size)
        if config.axes == 2 and (last - stage) % 2:
            layers.append(nn.Identity())
        elif positions <= features:
            layers.append(MambaLayer(positions, config, channel_tokens=True))
        else:
            layers.append(MambaLayer(features, config))
    return nn.ModuleList(layers)


class Encoder(nn.Module):
    """Stem and residual stages, each stage's map (after its Mamba layer, where there is one) being a skip.

    Args:
        config: The model's configuration.
        mamba: Follow the stages with Mamba layers (Enc).
    """

    mamba_layers: nn.ModuleList | None

    def __init__(self, config: UMambaConfig, *, mamba: bool) -> None:
        super().__init__()
        first, blocks = config.features[0], effective_blocks(config)[0]
        self.stem = residual_stage((config.input_channels, first), config.kernel_sizes[0], config.strides[0], blocks[0])
        before = (first, *config.features[:-1])
        self.stages = nn.ModuleList(
            residual_stage((before[stage], config.features[stage]), config.kernel_sizes[stage], stride, blocks[stage])
            for stage, stride in enumerate(config.strides)
        )
        self.mamba_layers = encoder_mamba_layers(config) if mamba else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the skips, (b, features[s], …) from full resolution to the bottleneck."""
        x = self.stem(x)
        skips = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if self.mamba_layers is not None:
                x = self.mamba_layers[number](x)
            skips.append(x)
        return skips


class UpsampleLayer(nn.Module):
    """Nearest-neighbour upsampling to a given size, then a 1x1 convolution. (b, in, …) → (b, out, *size)."""

    def __init__(self, inputs: int, outputs: int, axes: int) -> None:
        super().__init__()
        self.conv = CONVOLUTION[axes](inputs, outputs, 1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Return the map upsampled to ``size``."""
        larger: Tensor = self.conv(functional.interpolate(x, size=size, mode="nearest"))
        return larger


class Decoder(nn.Module):
    """Residual stages from the bottleneck up, each with a head. Numbered deepest first, as in the checkpoints."""

    def __init__(self, config: UMambaConfig) -> None:
        super().__init__()
        blocks = effective_blocks(config)[1]
        self.skipless_end = config.axes == 2
        self.stages, self.upsample_layers, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for number, count in enumerate(blocks):
            target = len(config.features) - 2 - number
            below, here = config.features[target + 1], config.features[target]
            joined = here if self.skipless_end and target == 0 else 2 * here
            kernel = config.kernel_sizes[target]
            self.upsample_layers.append(UpsampleLayer(below, here, config.axes))
            self.stages.append(residual_stage((joined, here), kernel, (1,) * config.axes, count))
            self.seg_layers.append(CONVOLUTION[config.axes](here, config.classes, 1))

    def forward(self, skips: Sequence[Tensor], every_head: bool) -> list[Tensor]:
        """Return logits (b, classes, …) from full resolution to the coarsest; only the first without ``every_head``."""
        x, heads = skips[-1], []
        for number, stage in enumerate(self.stages):
            skip = skips[-2 - number]
            last = number == len(self.stages) - 1
            x = self.upsample_layers[number](x, skip.shape[2:])
            x = stage(x if self.skipless_end and last else torch.cat([x, skip], dim=1))
            if every_head or last:
                heads.append(self.seg_layers[number](x))
        return heads[::-1]


def initialise(module: nn.Module) -> None:
    """Draw convolutions of maps from Kaiming's normal distribution, biases 0; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class UMambaBot(PublishedModel):
    """U-Mamba with one Mamba layer at the bottleneck."""

    def __init__(self, config: UMambaConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, mamba=False)
        self.mamba_layer = MambaLayer(config.features[-1], config)
        self.decoder = Decoder(config)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits; in training with deep supervision a list from full resolution to the coarsest.

        Args:
            x: Normalised image patches (b, input_channels, …) of any size.
        """
        skips = self.encoder(x)  # (b, features[s], size / strides[0..s]) for each stage s
        skips[-1] = self.mamba_layer(skips[-1])
        return _as_trained(self, self.decoder(skips, every_head=_supervised(self)))


class UMambaEnc(PublishedModel):
    """U-Mamba with Mamba layers in the encoder.

    Where a stage's map of the training patch has no more positions than channels, the weights hold the patch size:
    the network then takes patches of exactly that size and refuses others.
    """

    def __init__(self, config: UMambaConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, mamba=True)
        self.decoder = Decoder(config)
        self.tied_to_patch = any(isinstance(layer, MambaLayer) and layer.channel_tokens for layer in self.modules())
        divisor = [math.prod(steps) for steps in zip(*config.strides, strict=True)]
        remainders = [length % step for length, step in zip(config.patch_size, divisor, strict=True)]
        if self.tied_to_patch and any(remainders):
            raise ModelError(
                "PTD-291",
                f"U-Mamba Enc cannot be built for patches of {_times(config.patch_size)}, as its strides divide "
                f"multiples of {_times(divisor)} only",
                "choose such a patch size, or U-Mamba Bot",
            )
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits; in training with deep supervision a list from full resolution to the coarsest.

        Args:
            x: Normalised image patches (b, input_channels, …), of the training patch's size where weights hold it.

        Raises:
            ModelError: The weights hold another patch size.
        """
        if self.tied_to_patch and tuple(x.shape[2:]) != self.config.patch_size:
            raise ModelError(
                "PTD-292",
                f"this U-Mamba Enc takes patches of {_times(self.config.patch_size)}, not {_times(x.shape[2:])}",
                "predict in tiles of that size, or train U-Mamba Bot",
            )
        skips = self.encoder(x)  # (b, features[s], size / strides[0..s]) for each stage s
        return _as_trained(self, self.decoder(skips, every_head=_supervised(self)))


def _supervised(model: UMambaBot | UMambaEnc) -> bool:
    return model.training and model.config.deep_supervision


def _as_trained(model: UMambaBot | UMambaEnc, heads: list[Tensor]) -> Tensor | list[Tensor]:
    return heads if _supervised(model) else heads[0]


def _times(size: Iterable[int]) -> str:
    return " x ".join(str(length) for length in size)


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> list[int]:
    """All integers of a configuration, however deep."""
    if isinstance(value, UMambaConfig):
        return [number for field in fields(value) for number in _numbers(getattr(value, field.name))]
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [] if isinstance(value, bool) else [value]


# Published checkpoints: every encoder tensor stands a second time below the decoder, and convolution and norm of a
# BasicBlockD a second time as parts of a sequence (`all_modules`).
PREFIX = [(r"^module\.", "")]  # left by data-parallel wrappers
DUPLICATES = [
    (r"^decoder\.encoder\.", "encoder."),
    (r"\.all_modules\.0\.", ".conv."),
    (r"\.all_modules\.1\.", ".norm."),
]


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors by our names, each once.

    Raises:
        ModelError: Two names of one tensor disagree, or the weights are of the first public version (January 2024),
            which is another network.
    """
    if any("transpconvs" in name for name in state):
        raise ModelError(
            "PTD-293",
            "these are weights of U-Mamba's first public version (before 27 March 2024), another network",
            "take weights trained with the later version",
        )
    renamed = rename(state, PREFIX)
    return resolve_aliases(renamed, find_aliases(renamed, DUPLICATES))


def config_from_official(plan: Mapping[str, Any], *, deep_supervision: bool = True) -> UMambaConfig:
    """Return the configuration for one published plan.

    Args:
        plan: One entry of ``configurations`` of nnU-Net's ``plans.json``, with ``num_input_channels`` and
            ``num_classes`` of the data set added.
        deep_supervision: Return every head in training.

    Raises:
        KeyError: An entry is missing.
    """
    base, most = int(plan["UNet_base_num_features"]), int(plan["unet_max_num_features"])
    stages = len(plan["pool_op_kernel_sizes"])
    encoder, decoder = plan["n_conv_per_stage_encoder"], plan["n_conv_per_stage_decoder"]
    return UMambaConfig(
        input_channels=int(plan["num_input_channels"]),
        classes=int(plan["num_classes"]),
        patch_size=plan["patch_size"],
        features=tuple(min(base * 2**stage, most) for stage in range(stages)),
        kernel_sizes=plan["conv_kernel_sizes"],
        strides=plan["pool_op_kernel_sizes"],
        encoder_blocks=(encoder,) * stages if isinstance(encoder, int) else encoder,
        decoder_blocks=(decoder,) * (stages - 1) if isinstance(decoder, int) else decoder,
        deep_supervision=deep_supervision,
    )
