"""Prototype."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.layers import lanes, machine_code
from pentad.medical.models.convolution_layout import Layout, layout, memory, offsets

_SHARED = ("convolution_loops", "convolution_layout")


@functools.cache
def _kernel(name: str) -> Callable[..., None]:
    sources = [str(Path(__file__).with_name(f"{n}.py")) for n in _SHARED] + [str(lanes.__file__)]
    return machine_code.load("pentad.medical.models.convolution_loops", f"{name}_task", "float32", sources)


@functools.lru_cache(maxsize=256)
def _told(channels, size, kernel):
    s = layout(channels, size, kernel)
    return s, torch.tensor([*s, *offsets(s)])


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    size, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
    if len(size) == 2:
        size, kernel = (size[0], 1, size[1]), (kernel[0], 1, kernel[1])
    s, numbers = _told((weight.shape[1], weight.shape[0]), size, kernel)
    blocks = -(-s.outputs // s.block)
    rows = weight.new_zeros(blocks * s.block, weight[0].numel() + 1)
    rows[: s.outputs, 1:] = weight.flatten(1)
    if bias is not None:
        rows[: s.outputs, 0] = bias
    packed = rows.view(blocks, s.block, -1).transpose(1, 2).contiguous()
    x = x.contiguous()
    out = x.new_empty(x.shape[0], s.outputs, *x.shape[2:])
    k = _kernel("convolve")
    work = torch.empty(memory(s))
    for index in range(x.shape[0] * s.parts):
        k(x.data_ptr(), packed.data_ptr(), out.data_ptr(), work.data_ptr(), numbers.data_ptr(), index)
    return out


def normalise(x: Tensor, weight, bias, eps, slope) -> Tensor:
    maps, channels, count = x.shape[0] * x.shape[1], x.shape[1], x[0, 0].numel()
    numbers = torch.tensor([maps, maps, channels, count])
    affine = torch.cat([weight, bias])
    constants = torch.tensor([eps, slope])
    work = torch.empty(64)
    _kernel("normalise")(x.data_ptr(), affine.data_ptr(), constants.data_ptr(), work.data_ptr(), numbers.data_ptr(), 0)
    return x
