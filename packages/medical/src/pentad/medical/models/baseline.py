"""The baseline beside every result: a plain nnU-Net-style U-Net, MONAI's DynUNet built from the same plan.

Two convolutions with instance norm and LeakyReLU a stage, strided convolutions down, transposed convolutions up
(Isensee et al., Nature Methods 2021). Tensors have the names, the first values and the order of MONAI's, which a test
compares with its network, and weights go into that by `pentad medical models export`. It is built here because to
import MONAI's takes seconds and hundreds of megabytes in every process that predicts.

Deviation: MONAI enlarges all supervised outputs to full resolution; here they stay at their own, which is what the loss
wants, and without training they are not computed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pentad.core.bundle import PublishedModel
from pentad.core.errors import ModelError
from pentad.medical.models.convolution import CONVOLUTION, TRANSPOSED, joined
from pentad.medical.models.norms import NORM, activated

SLOPE = 0.01


@dataclass(frozen=True)
class DynUNetConfig:
    """What decides the network's tensors. Axes are (y, x) or (z, y, x)."""

    input_channels: int
    """Channels of the image."""
    classes: int
    """Classes with the background."""
    features: tuple[int, ...]
    """Channels of each stage, from full resolution to the bottleneck; at least 3 stages."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """Kernel of each stage, odd."""
    strides: tuple[tuple[int, ...], ...]
    """Stride on entering each stage; the first is 1."""
    deep_supervision: bool = True
    """In training, return the logits of every decoder stage."""

    def __post_init__(self) -> None:
        for field in ("kernel_sizes", "strides"):  # from JSON, sequences arrive as lists
            object.__setattr__(self, field, tuple(tuple(entry) for entry in getattr(self, field)))
        object.__setattr__(self, "features", tuple(self.features))
        stages, axes = len(self.features), len(self.kernel_sizes[0]) if self.kernel_sizes else 0
        rules = {
            "features has at least 3 stages": stages >= 3,
            "kernel_sizes and strides have one entry a stage": len(self.kernel_sizes) == len(self.strides) == stages,
            "kernel_sizes and strides have 2 or 3 axes": axes in (2, 3)
            and all(len(entry) == axes for entry in (*self.kernel_sizes, *self.strides)),
            "kernel_sizes are odd": all(size % 2 for kernel in self.kernel_sizes for size in kernel),
            "the first stride is 1": self.strides[:1] == ((1,) * axes,),
            "channels and classes are above 0": min(self.input_channels, self.classes, *self.features, 1) > 0,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ModelError("PTD-294", f"a DynUNet needs that {rule}", "correct the model's configuration")


def monai_arguments(config: DynUNetConfig) -> dict[str, Any]:
    """Return the arguments of MONAI's DynUNet for a configuration."""
    return {
        "spatial_dims": len(config.strides[0]),
        "in_channels": config.input_channels,
        "out_channels": config.classes,
        "kernel_size": config.kernel_sizes,
        "strides": config.strides,
        "upsample_kernel_size": config.strides[1:],
        "filters": config.features,
        "norm_name": ("INSTANCE", {"affine": True}),
        "act_name": ("leakyrelu", {"inplace": True, "negative_slope": SLOPE}),
        "deep_supervision": True,
        "deep_supr_num": len(config.features) - 2,
        "trans_bias": True,
    }


def _named(layer: nn.Module) -> nn.Sequential:
    """The layer one level down, where MONAI's names have it."""
    return nn.Sequential(OrderedDict(conv=layer))


class Block(nn.Module):
    """Two convolutions with norm and rectifier, the first with the stride. (b, in, …) → (b, out, …)."""

    def __init__(self, channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        inputs, outputs = channels
        axes, steps, ones = len(kernel), tuple(stride), (1,) * len(kernel)
        convolution, norm = CONVOLUTION[axes], NORM[axes]
        paddings = [tuple((k - s + 1) // 2 for k, s in zip(kernel, step, strict=True)) for step in (steps, ones)]
        self.conv1 = _named(convolution(inputs, outputs, tuple(kernel), steps, paddings[0], bias=False))
        self.conv2 = _named(convolution(outputs, outputs, tuple(kernel), 1, paddings[1], bias=False))
        self.norm1 = norm(outputs, affine=True)
        self.norm2 = norm(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return act(norm(conv(act(norm(conv(x))))))."""
        x = activated(self.norm1, self.conv1(x), SLOPE)
        return activated(self.norm2, self.conv2(x), SLOPE)


class UpBlock(nn.Module):
    """A transposed convolution, and a block on its result and the skip."""

    def __init__(self, channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.transp_conv = _named(TRANSPOSED[len(kernel)](*channels, tuple(stride), tuple(stride)))
        self.conv_block = Block((2 * channels[1], channels[1]), kernel, (1,) * len(kernel))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the map at the skip's resolution."""
        mixed: Tensor = self.conv_block(joined(self.transp_conv[0], x, skip))
        return mixed


class Head(nn.Module):
    """A 1x1 convolution to logits."""

    def __init__(self, channels: int, config: DynUNetConfig) -> None:
        super().__init__()
        self.conv = _named(CONVOLUTION[len(config.strides[0])](channels, config.classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (b, classes, …)."""
        logits: Tensor = self.conv(x)
        return logits


class UNet(nn.Module):
    """Stages down and up; in the order in which MONAI's network draws its first weights."""

    def __init__(self, config: DynUNetConfig) -> None:
        super().__init__()
        f, kernels, strides = config.features, config.kernel_sizes, config.strides
        self.input_block = Block((config.input_channels, f[0]), kernels[0], strides[0])
        below = [Block((f[s - 1], f[s]), kernels[s], strides[s]) for s in range(1, len(f))]
        self.downsamples, self.bottleneck = nn.ModuleList(below[:-1]), below[-1]
        up = reversed(range(1, len(f)))
        self.upsamples = nn.ModuleList(UpBlock((f[s], f[s - 1]), kernels[s], strides[s]) for s in up)
        self.output_block = Head(f[0], config)
        torch.rand(1)  # MONAI draws a number here, and the weights that follow would be others without it
        self.deep_supervision_heads = nn.ModuleList(Head(f[s], config) for s in range(1, len(f) - 1))

    def forward(self, x: Tensor, every_head: bool) -> list[Tensor]:
        """Return logits from full resolution to the coarsest stage but one; only the first without ``every_head``."""
        skips = [self.input_block(x)]
        for stage in self.downsamples:
            skips.append(stage(skips[-1]))
        x, maps = self.bottleneck(skips[-1]), list[Tensor]()
        for stage, skip in zip(self.upsamples, reversed(skips), strict=True):
            x = stage(x, skip)
            maps.insert(0, x)
        heads = zip(self.deep_supervision_heads, maps[1:], strict=True) if every_head else ()
        return [self.output_block(x), *(head(each) for head, each in heads)]


def initialise(module: nn.Module) -> None:
    """Draw convolutions from Kaiming's normal distribution, biases 0; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DynUNet(PublishedModel):
    """The network behind the interface that all models here share."""

    def __init__(self, config: DynUNetConfig) -> None:
        super().__init__(config)
        self.divisor = tuple(math.prod(steps) for steps in zip(*config.strides, strict=True))
        self.network = UNet(config)
        self.network.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits; in training with deep supervision a list from full resolution to the coarsest.

        Args:
            x: Normalised image patches (b, input_channels, …), of a size that the product of the strides divides.

        Raises:
            ModelError: The strides do not divide the size.
        """
        if any(length % step for length, step in zip(x.shape[2:], self.divisor, strict=True)):
            size, divisor = (" x ".join(map(str, numbers)) for numbers in (x.shape[2:], self.divisor))
            raise ModelError(
                "PTD-295", f"this DynUNet takes multiples of {divisor}, not {size}", "predict in tiles of the plan"
            )
        every_head = self.training and self.config.deep_supervision
        heads: list[Tensor] = self.network(x, every_head)
        return heads if every_head else heads[0]
