"""The baseline beside every result: a plain nnU-Net-style U-Net, MONAI's DynUNet built from the same plan.

Two convolutions with instance norm and LeakyReLU a stage, strided convolutions down, transposed convolutions up
(Isensee et al., Nature Methods 2021). MONAI enlarges all supervised outputs to full resolution; here they stay at their
own, which is what the loss wants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from monai.networks.blocks.dynunet_block import UnetBasicBlock
from monai.networks.nets import dynunet
from torch import Tensor

from pentad.core.bundle import PublishedModel
from pentad.core.errors import ModelError
from pentad.medical.models.convolution import replace_convolutions
from pentad.medical.models.norms import activated, replace_norms

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


class Block(UnetBasicBlock):
    """MONAI's two convolutions with norm and rectifier, these in one go where the model only predicts."""

    def forward(self, inp: Tensor) -> Tensor:
        """Return act(norm(conv(act(norm(conv(x))))))."""
        x = activated(self.norm1, self.conv1(inp), SLOPE)
        return activated(self.norm2, self.conv2(x), SLOPE)


class DynUNet(PublishedModel):
    """MONAI's DynUNet behind the interface that all models here share."""

    def __init__(self, config: DynUNetConfig) -> None:
        super().__init__(config)
        self.divisor = tuple(math.prod(steps) for steps in zip(*config.strides, strict=True))
        self.network = dynunet.DynUNet(**monai_arguments(config))
        replace_norms(self.network, len(config.strides[0]))
        replace_convolutions(self.network)
        for module in self.network.modules():
            if type(module) is UnetBasicBlock:
                module.__class__ = Block

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
        last = self.network.skip_layers(x) if every_head else _without_heads(self.network.skip_layers, x)
        logits: Tensor = self.network.output_block(last)
        return [logits, *self.network.heads] if every_head else logits


def _without_heads(layer: Any, x: Tensor) -> Tensor:
    """What MONAI's nested layers return, without the logits of the decoder's stages that they compute beside it."""
    if not isinstance(layer, dynunet.DynUNetSkipLayer):
        bottom: Tensor = layer(x)
        return bottom
    skip = layer.downsample(x)
    up: Tensor = layer.upsample(_without_heads(layer.next_layer, skip), skip)
    return up
