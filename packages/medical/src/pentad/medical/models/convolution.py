"""Convolutions of few channels, and the norms between them, at more than torch's speed on a CPU.

oneDNN, which torch calls, works on sixteen channels at a time: 12 or 24 leave lanes empty, and every map is reordered
on its way in and out, which costs transposed convolutions most of their time. `convolution_loops` has positions in the
lanes instead and takes maps as they lie. It is used to predict alone (evaluation, no gradients, float32) and on
processors whose registers hold sixteen values; elsewhere, and where all blocks of sixteen channels are full, torch
computes. Training is torch's in any case, so that a model's weights do not hang on which of the two is quicker; only
the last bits of a prediction do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pentad.core.layers import machine_code
from pentad.medical.models.convolution_layout import Layout, Size, layout, memory, offsets

_BLOCK = 16  # channels that oneDNN takes at a time
_LARGEST = 1 << 20  # float32 values of a task's memory beyond which its input leaves the caches
_WIDEST = 128  # channels up to which a transposed convolution is quicker here
_WORTH_THREADS = 1 << 20  # products, below which no other thread is woken


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`; narrow ones predict by the compiled loops."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of maps (b, c, y, x)."""
        return convolve(input, self.weight, self.bias) if _suits(self, input) else super().forward(input)


class Conv3d(nn.Conv3d):
    """The same of maps (b, c, z, y, x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of maps (b, c, z, y, x)."""
        if _suits(self, input):
            return convolve(input, self.weight, self.bias)
        # torch leaves oneDNN for small maps in a batch of one, and takes up to fifteen times as long.
        if len(input) == 1 and _predicts(self, input) and _has_onednn():
            plan: Any = (self.padding, self.stride, self.dilation, self.groups)
            return torch.mkldnn_convolution(input, self.weight, self.bias, *plan)
        return super().forward(input)


CONVOLUTION: dict[int, Any] = {2: Conv2d, 3: Conv3d}
"""Class by number of spatial axes."""


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`; one that enlarges by whole steps predicts by the compiled loops."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the enlarged maps (b, c, y, x)."""
        return enlarge(input, self) if _enlarges(self, input) else super().forward(input, output_size)


class ConvTranspose3d(nn.ConvTranspose3d):
    """The same of maps (b, c, z, y, x)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the enlarged maps (b, c, z, y, x)."""
        return enlarge(input, self) if _enlarges(self, input) else super().forward(input, output_size)


TRANSPOSED: dict[int, Any] = {2: ConvTranspose2d, 3: ConvTranspose3d}
"""Class by number of spatial axes."""


def joined(layer: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    """Return the maps that a transposed convolution makes of ``x`` and, behind them, those of ``skip``."""
    if isinstance(layer, ConvTranspose2d | ConvTranspose3d) and _enlarges(layer, x):
        return enlarge(x, layer, skip)
    return torch.cat([layer(x), skip], dim=1)


def predicts(x: Tensor) -> bool:
    """Return whether the compiled loops may take ``x``: plain float32 values on a wide CPU, nobody looking on."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None  # exports and counters of operations see torch's
        and _wide_lanes()
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution at stride 1 with borders of zeros, (b, outputs, …) of the size of ``x``.

    Args:
        x: Maps (b, inputs, y, x) or (b, inputs, z, y, x), float32, on the CPU.
        weight: Kernel (outputs, inputs, …), odd along every axis.
        bias: One value an output.
    """
    s, numbers = _told((weight.shape[1], weight.shape[0]), _three(x.shape[2:]), _three(weight.shape[2:]))
    out = x.new_empty(x.shape[0], s.outputs, *x.shape[2:])
    _convolve(x, _packed(weight.detach().flatten(1), bias, s.block), out, s, numbers)
    return out


def enlarge(x: Tensor, layer: nn.ConvTranspose2d | nn.ConvTranspose3d, skip: Tensor | None = None) -> Tensor:
    """Return the transposed convolution whose stride is its kernel, each position of which sees one of ``x``.

    Args:
        x: Maps (b, inputs, …), float32, on the CPU.
        layer: The transposed convolution.
        skip: Maps of the larger size that follow in the result.
    """
    more, steps = 0 if skip is None else skip.shape[1], _three(layer.kernel_size)
    outputs, positions = layer.out_channels, math.prod(steps)
    s, numbers = _told((layer.in_channels, outputs * positions), _three(x.shape[2:]), (1, 1, 1), steps, more)
    size = [length * step for length, step in zip(x.shape[2:], layer.kernel_size, strict=True)]
    out = x.new_empty(x.shape[0], s.maps, *size)
    if skip is not None:
        out[:, outputs:] = skip
    bias = None if layer.bias is None else layer.bias.detach().repeat_interleave(positions)
    _convolve(x, _packed(layer.weight.detach().flatten(1).t(), bias, s.block), out, s, numbers)
    return out


def _packed(weight: Tensor, bias: Tensor | None, block: int) -> Tensor:
    """Weights (outputs, taps) by blocks of outputs, each after its biases, as the loops read them."""
    blocks = -(-len(weight) // block)
    rows = weight.new_zeros(blocks * block, weight.shape[1] + 1)
    rows[: len(weight), 1:] = weight
    if bias is not None:
        rows[: len(weight), 0] = bias.detach()
    return rows.view(blocks, block, -1).transpose(1, 2).contiguous()


def _convolve(x: Tensor, packed: Tensor, out: Tensor, s: Layout, numbers: Tensor) -> None:
    x = x.contiguous()
    products = x[:, 0].numel() * packed.numel()
    _run("convolve", (x, packed, out), memory(s), numbers, x.shape[0] * s.parts, products)


def normalise_(x: Tensor, norm: nn.InstanceNorm2d | nn.InstanceNorm3d, slope: float) -> Tensor:
    """Give every map of ``x`` mean 0, variance 1, the norm's weight and bias, and a leaky rectifier, in place.

    Args:
        x: Maps (b, c, …), float32, contiguous, on the CPU.
        norm: An affine norm.
        slope: Of the rectifier below 0; 1 for none.
    """
    maps, count = x.shape[0] * x.shape[1], x[0, 0].numel()
    share = -(-maps // min(maps, 4 * torch.get_num_threads()))
    affine = torch.cat([norm.weight.detach(), norm.bias.detach()])
    numbers, constants = torch.tensor([maps, share, x.shape[1], count]), torch.tensor([norm.eps, slope])
    _run("normalise", (x, affine, constants), 2 * _BLOCK, numbers, -(-maps // share), 4 * x.numel())
    return x


def _predicts(module: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether the convolution is a plain one of a model that predicts."""
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return plain and not module.training and x.ndim == len(module.kernel_size) + 2 and x.numel() > 0 and predicts(x)


def _suits(module: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether the convolution is one that `convolve` computes, and sooner than torch."""
    kernel, axes = module.kernel_size, len(module.kernel_size)
    channels = module.in_channels, module.out_channels
    return (
        module.stride == module.dilation == (1,) * axes
        and module.padding == tuple(size // 2 for size in kernel)
        and all(size % 2 for size in kernel)
        and module.groups == 1
        and any(count % _BLOCK for count in channels)
        and _predicts(module, x)
        and memory(_told(channels, _three(x.shape[2:]), _three(kernel))[0]) <= _LARGEST
    )


def _enlarges(module: nn.ConvTranspose2d | nn.ConvTranspose3d, x: Tensor) -> bool:
    """Whether the transposed convolution is one that `enlarge` computes, and sooner than torch."""
    kernel, axes = module.kernel_size, len(module.kernel_size)
    if module.training or x.ndim != axes + 2 or x.numel() == 0 or module.stride != kernel or module.groups != 1:
        return False
    # Of deep, small maps oneDNN is quicker, as its blocks are full and the weights outweigh the maps.
    if not x[0, 0].numel() >= module.in_channels <= _WIDEST:
        return False
    plain = module.padding == module.output_padding == (0,) * axes and module.dilation == (1,) * axes
    channels = module.in_channels, module.out_channels * math.prod(kernel)
    told = _told(channels, _three(x.shape[2:]), (1, 1, 1), _three(kernel))
    return plain and predicts(x) and memory(told[0]) <= _LARGEST


def _three(size: Sequence[int]) -> Size:
    """The size as (z, y, x); of two axes the first becomes z, along which the loops part their work."""
    return (size[0], 1, size[1]) if len(size) == 2 else (size[0], size[1], size[2])


@functools.lru_cache(maxsize=1024)
def _told(
    channels: tuple[int, int], size: Size, kernel: Size, steps: Size = (1, 1, 1), more: int = 0
) -> tuple[Layout, Tensor]:
    s = layout(channels, size, kernel, steps, more)
    return s, torch.tensor([*s, *offsets(s)])


@functools.cache
def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@functools.cache
def _wide_lanes() -> bool:
    return machine_code.has_wide_lanes()


@functools.cache
def _kernel(name: str) -> Callable[..., None]:
    here = Path(__file__)
    own = [here.with_name(f"convolution_{part}.py") for part in ("loops", "layout")]
    lanes = Path(machine_code.__file__).with_name("lanes.py")
    module = "pentad.medical.models.convolution_loops"
    return machine_code.load(module, f"{name}_task", "float32", [str(path) for path in (*own, lanes)])


def _run(name: str, tensors: Sequence[Tensor], size: int, numbers: Tensor, tasks: int, products: int) -> None:
    """Call the loops for every task, each thread with memory of its own, on as many threads as torch may use."""
    kernel, todo = _kernel(name), iter(range(tasks))
    addresses = [tensor.data_ptr() for tensor in tensors]

    def work() -> None:
        space = torch.empty(size)
        for index in todo:
            kernel(*addresses, space.data_ptr(), numbers.data_ptr(), index)

    workers = min(torch.get_num_threads(), tasks)
    machine_code.on_threads(work, workers if products >= _WORTH_THREADS else 1)
