"""The Swin Transformer's block: attention within windows that shift from block to block, with the published names.

Paper: Liu et al., arXiv 2103.14030, section 3.2; Swin-UNet, HiFormer and HTS-AT are built of it. Maps are
channels-last, (batch, rows, columns, channels), so a block takes any size without being told. At the published sizes
nothing is padded; beyond them:

- a map shorter than the window along an axis has one window of the map's length there, and is not shifted along it;
- a map that windows do not fill is padded below and on the right after the first norm, and no real token sees the
  padding (a classifier's Swin cannot take such maps; a detector's lets tokens see the padding).

Masks and indices are made anew in each call, so that no buffer ties the weights to one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Size = tuple[int, int]

_BLOCKED = -100.0  # the published stand-in for minus infinity


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample's branch is left out with probability ``rate``, else scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch (batch, …)."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, on the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return fc2(gelu(fc1(x)))."""
        projected: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return projected


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each relative position.

    Args:
        width: Channels; ``heads`` divides them.
        heads: Attention heads.
        window: Tokens along each side of a window.
        shifted: Windows begin half a window further on, and tokens that the shift makes neighbours across the map's
            edge do not see each other.
        qkv_bias: The first linear layer has a bias.
    """

    def __init__(self, width: int, heads: int, window: int, *, shifted: bool = False, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, window // 2 if shifted else 0
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended map (b, rows, columns, width)."""
        size: Size = (x.shape[1], x.shape[2])
        window: Size = (min(self.window, size[0]), min(self.window, size[1]))
        shift: Size = (self._shift(size[0]), self._shift(size[1]))
        padded: Size = (-(-size[0] // window[0]) * window[0], -(-size[1] // window[1]) * window[1])
        if padded != size:
            x = functional.pad(x, (0, 0, 0, padded[1] - size[1], 0, padded[0] - size[0]))
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        tokens = partition(x, window)  # (b, windows, tokens, width)
        bias = self._bias(window)  # (heads, tokens, tokens)
        if any(shift) or padded != size:
            blocked = blocked_pairs(size, padded, window, shift, x.device)
            bias = bias + _BLOCKED * blocked[:, None].to(bias)  # (windows, heads, tokens, tokens)
        else:
            bias = bias.expand(tokens.shape[1], -1, -1, -1)
        x = reverse(self._attend(tokens, bias), padded, window)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, : size[0], : size[1]]

    def _shift(self, length: int) -> int:
        return self.shift if length > self.window else 0

    def _bias(self, window: Size) -> Tensor:
        index = relative_positions(window, self.window, self.relative_position_bias_table.device)
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def _attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        b, windows, length, width = tokens.shape
        split = self.qkv(tokens).reshape(b, windows, length, 3, self.heads, width // self.heads)
        # Windows join the heads' axis, so that one bias serves the whole batch and the fused kernels, which take
        # four axes, apply.
        q, k, v = split.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind()  # each (b, windows x heads, tokens, channels)
        mask = bias.flatten(0, 1)[None].to(q.dtype)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        merged = attended.reshape(b, windows, self.heads, length, -1).transpose(2, 3)
        projected: Tensor = self.proj(merged.reshape(b, windows, length, width))
        return projected


def partition(x: Tensor, window: Size) -> Tensor:
    """Return a map (b, rows, columns, c) as windows (b, windows, tokens, c), both row by row."""
    b, rows, columns, c = x.shape
    tiles = x.reshape(b, rows // window[0], window[0], columns // window[1], window[1], c)
    return tiles.transpose(2, 3).reshape(b, -1, window[0] * window[1], c)


def reverse(windows: Tensor, size: Size, window: Size) -> Tensor:
    """Return the map (b, rows, columns, c) of ``size`` that `partition` made ``windows`` of."""
    c = windows.shape[-1]
    grid = windows.reshape(-1, size[0] // window[0], size[1] // window[1], *window, c)
    return grid.transpose(2, 3).reshape(-1, *size, c)


def relative_positions(window: Size, table: int, device: torch.device) -> Tensor:
    """Return the row of the bias table for each pair of a window's tokens, (query, key).

    The row is (r - r' + table - 1) (2 table - 1) + (c - c' + table - 1) for a table of windows of ``table`` tokens.
    """
    rows, columns = (torch.arange(length, device=device) for length in window)
    down = rows[:, None] - rows + table - 1
    along = columns[:, None] - columns + table - 1
    index = down[:, None, :, None] * (2 * table - 1) + along[None, :, None, :]
    return index.reshape(window[0] * window[1], -1)


def blocked_pairs(size: Size, padded: Size, window: Size, shift: Size, device: torch.device) -> Tensor:
    """Return which pairs of a window's tokens do not see each other, (windows, tokens, tokens).

    Those that only the cyclic shift made neighbours, and those of which one is padding.
    """
    rows, columns = (_regions(size[axis], padded[axis], window[axis], shift[axis], device) for axis in (0, 1))
    regions = partition((4 * rows[:, None] + columns)[None, :, :, None], window)[0, :, :, 0]
    return regions[:, None] != regions[:, :, None]


def _regions(length: int, padded: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Along an axis of the shifted map: 0 to 2 for parts that lay together before the shift, 3 for padding."""
    place = torch.arange(padded, device=device)
    wrapped = (place >= padded - window).long() + (place >= padded - shift).long() if shift else torch.zeros_like(place)
    return torch.where((place + shift) % padded < length, wrapped, 3)


class SwinBlock(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)); maps (b, rows, columns, width) to the same.

    Args:
        width: Channels.
        heads: Attention heads.
        window: Tokens along each side of a window.
        shifted: Of the attention.
        mlp_ratio: Hidden channels of the MLP per channel.
        qkv_bias: Of the attention.
        drop_path: Rate of stochastic depth of both branches.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        *,
        shifted: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, shifted=shifted, qkv_bias=qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


def swin_blocks(
    width: int, heads: int, window: int, drop_paths: Sequence[float], *, mlp_ratio: float = 4.0, qkv_bias: bool = True
) -> nn.Sequential:
    """Return a stage's blocks, every second one shifted: one for each rate of stochastic depth."""
    return nn.Sequential(
        *(
            SwinBlock(
                width,
                heads,
                window,
                shifted=bool(number % 2),
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=rate,
            )
            for number, rate in enumerate(drop_paths)
        )
    )


def drop_path_rates(depths: Sequence[int], most: float) -> list[list[float]]:
    """Return the rate of every block of every stage, rising in equal steps from 0 to ``most``."""
    blocks = sum(depths)
    rates = [most * number / max(blocks - 1, 1) for number in range(blocks)]
    starts = [0, *accumulate(depths)]
    return [rates[start:end] for start, end in pairwise(starts)]


class PatchMerging(nn.Module):
    """Half the resolution, twice the channels: (b, rows, columns, c) to (b, rows / 2, columns / 2, 2 c), rounded up.

    The four pixels are taken in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column); a map of odd length is
    padded below and on the right with zeros.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the merged map."""
        rows, columns = x.shape[1:3]
        if rows % 2 or columns % 2:
            x = functional.pad(x, (0, 0, 0, columns % 2, 0, rows % 2))
        joined = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
        merged: Tensor = self.reduction(self.norm(joined))
        return merged


class PatchEmbedding(nn.Module):
    """A token for each patch: (b, channels, y, x) to (b, y / patch, x / patch, width)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised tokens."""
        tokens: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return tokens


class SwinStage(nn.Module):
    """Blocks, then a merging of patches of ``merged`` channels where a coarser stage follows."""

    downsample: PatchMerging | None

    def __init__(self, blocks: nn.Sequential, merged: int = 0) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = PatchMerging(merged) if merged else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map that the next stage takes."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


def initialise(module: nn.Module) -> None:
    """Draw linear layers from a truncated normal of std 0.02, biases 0; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
