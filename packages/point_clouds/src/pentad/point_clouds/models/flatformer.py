"""FlatFormer: attention between the pillars of a sweep, in groups of equal size instead of windows of equal shape.

Paper: Liu et al., "FlatFormer: Flattened Window Attention for Efficient Point Cloud Transformer", CVPR 2023, arXiv
2301.08739; published code: mit-han-lab/flatformer (no licence file; written afresh from the paper and from figures).
Deviations, none of which changes a number where the published code is right: samples are kept apart by a sufficient
offset in the sort keys; a sample of fewer pillars than a group attends to its own pillars only, under a mask, where the
published code fails or borrows from the sample before; samples may be empty; features are not changed in place. The
published behaviours are settings of `sort_key` and `group_places`, for comparison alone. And training begins from other
weights: the last ones of every residual path are a tenth of the published start, so that a layer begins as little more
than a norm; from the full ones a short training from scratch hardly learns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pentad.core.checkpoint import rename
from pentad.core.errors import ModelError, nearest
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models.bev import BackboneConfig
from pentad.point_clouds.models.center_head import HeadConfig
from pentad.point_clouds.models.detector import Detector
from pentad.point_clouds.models.pillars import Pillars

_START = 0.1  # of a residual path's last weights, beside the published ones

ORDERS = ("x", "x_shift", "y", "y_shift")
"""Ways to flatten the plane: along windows in x or in y, with the windows as they are or moved by half their side."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the attention between pillars."""

    blocks: int = 2
    """Blocks; each has a layer per order."""
    orders: tuple[str, ...] = ORDERS
    """The order of each layer of a block, names of `ORDERS`."""
    heads: int = 8
    """Attention heads."""
    hidden: int = 256
    """Channels inside the feed-forward part."""
    window: tuple[int, int] = (13, 13)
    """Cells of a window along x and y."""
    group: int = 144
    """Pillars that attend to each other."""
    temperature: float = 10000.0
    """Longest wave of the position code, in cells and over 2 pi."""
    norm_eps: float = 1e-5
    """Added to variances in the layer norms."""

    def __post_init__(self) -> None:
        if min(self.heads, self.hidden, *self.window, self.group) < 1 or self.blocks < 0 or not self.orders:
            raise ModelError("PTD-881", f"no FlatFormer has the sizes {self}", "give positive numbers")
        for order in self.orders:
            if order not in ORDERS:
                problem = f"'{order}' is no order of pillars{nearest(order, ORDERS)}"
                raise ModelError("PTD-881", problem, f"use {', '.join(ORDERS)}")


@dataclass(frozen=True)
class FlatFormerConfig:
    """A network's sizes; the defaults are the published ones for Waymo."""

    grid: GridConfig = field(default_factory=GridConfig)
    """The cells."""
    columns: int = 5
    """Numbers per point."""
    pillar_widths: tuple[int, ...] = (64, 128)
    """Channels of the pillar encoder's layers; the last is the encoder's width, a multiple of 4 and of the heads."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The attention between pillars."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The convolutions."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The head."""

    def __post_init__(self) -> None:
        width = self.pillar_widths[-1] if self.pillar_widths else 0
        if width < 1 or width % 4 or width % self.encoder.heads:
            problem = f"{width} channels cannot carry a position code and {self.encoder.heads} heads"
            raise ModelError("PTD-881", problem, "make the last of pillar_widths a multiple of 4 and of the heads")


def sort_key(
    cells: Tensor, order: str, window: tuple[int, int], shape: tuple[int, int], *, sample_offset: int | None = None
) -> Tensor:
    """Return the number by which pillars are sorted: a snake through the windows and, inside each, through its cells.

    Args:
        cells: Sample, y, x, int64 (n, 3).
        order: One of `ORDERS`.
        window: Cells of a window along x and y.
        shape: Cells of the grid along y and x.
        sample_offset: Added per sample; by default more than any two keys of one sample differ by. The published code
            adds 10 times the grid's cells, which mixes the samples of some small grids.

    Returns:
        int64 (n,), distinct for distinct cells.
    """
    n, m = window
    moved_x, moved_y = (n // 2, m // 2) if order.endswith("_shift") else (0, 0)
    x, y = cells[:, 2] + moved_x, cells[:, 1] + moved_y
    windows_x, windows_y = 2 * (-(-shape[1] // n) + 1), 2 * (-(-shape[0] // m) + 1)
    major, minor, across = (y, x, windows_x) if order.startswith("x") else (x, y, windows_y)
    major_side, minor_side = (m, n) if order.startswith("x") else (n, m)
    row, column = major // major_side, minor // minor_side
    turn = _sign(row)
    i, j = minor - column * minor_side, major - row * major_side
    key = (across * row + turn * column) * 4 * n * m + turn * (2 * major_side * i + _sign(i) * j)
    if sample_offset is None:
        sample_offset = 2 * (windows_x + 1) * (windows_y + 1) * 4 * n * m
    return key + cells[:, 0] * sample_offset


def _sign(number: Tensor) -> Tensor:
    return 1 - 2 * (number & 1)


class Grouping(NamedTuple):
    """How a sorted sequence of all samples' pillars is cut into groups of equal size.

    Attributes:
        source: For each place in the groups, the sorted position that fills it, int64 (groups * size,).
        place: For each sorted position, the place from which its result is read, int64 (n,).
        short: Numbers of the groups of samples that have fewer pillars than a group, int64 (s,).
        present: Which places of these groups hold a pillar of their own, bool (s, size).
    """

    source: Tensor
    place: Tensor
    short: Tensor
    present: Tensor


def group_places(counts: Tensor, size: int, *, borrow: bool = False) -> Grouping:
    """Return the groups of a batch: each sample's pillars in turn, its last group being its last ``size`` pillars.

    That group holds the remainder first and then, again, the pillars before it.

    Args:
        counts: Pillars of each sample, int64 (b,).
        size: Pillars of a group.
        borrow: Fill up a sample of less than a group from the sample before, as the published code does; positions
            before the first sample are negative.
    """
    device = counts.device
    starts = counts.cumsum(0) - counts
    groups = (counts + size - 1) // size
    padded = groups * size
    sample = torch.repeat_interleave(torch.arange(len(counts), device=device), padded)
    offset = torch.arange(len(sample), device=device) - (padded.cumsum(0) - padded)[sample]
    count, start = counts[sample], starts[sample]
    source = start + torch.where(offset < count, offset, offset - size)
    place = torch.nonzero(offset < count).squeeze(1)
    lacking = (counts > 0) & (counts < size)
    short = (groups.cumsum(0) - groups)[lacking]
    present = torch.arange(size, device=device)[None] < counts[lacking][:, None]
    return Grouping(source if borrow else torch.maximum(source, start), place, short, present)


class Route(NamedTuple):
    """A layer's way from pillars, in whatever order they are given, to groups and back.

    Attributes:
        gather: For each place in the groups, the pillar that fills it, int64 (groups * size,).
        back: For each pillar, the place from which its result is read, int64 (n,).
        short: As in `Grouping`.
        present: As in `Grouping`.
    """

    gather: Tensor
    back: Tensor
    short: Tensor
    present: Tensor


def make_routes(cells: Tensor, counts: Tensor, config: EncoderConfig, shape: tuple[int, int]) -> dict[str, Route]:
    """Return the route of each order that the encoder uses.

    Args:
        cells: Sample, y, x of each pillar, samples one after another, int64 (n, 3).
        counts: Pillars of each sample, int64 (b,).
        config: The encoder's sizes.
        shape: Cells of the grid along y and x.
    """
    grouping = group_places(counts, config.group)
    routes = {}
    for order in dict.fromkeys(config.orders):
        sequence = torch.argsort(sort_key(cells, order, config.window, shape))
        back = torch.empty_like(sequence)
        back[sequence] = grouping.place
        routes[order] = Route(sequence[grouping.source], back, grouping.short, grouping.present)
    return routes


def position_code(cells: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """Return sines and cosines of each pillar's x, then of its y, in cells from the grid's corner, float32 (n, width).

    Args:
        cells: Sample, y, x, int64 (n, 3).
        width: A multiple of 4.
        temperature: The longest wave.
    """
    half = width // 2
    number = torch.arange(half, dtype=torch.float32, device=cells.device)
    wave = temperature ** (2 * (number // 2) / half)
    largest = int(cells[:, 1:].max()) + 1 if len(cells) else 0
    angle = torch.arange(largest, dtype=torch.float32, device=cells.device)[:, None] / wave
    code = torch.where(number % 2 == 0, torch.sin(angle), torch.cos(angle))
    return torch.cat([code[cells[:, 2]], code[cells[:, 1]]], dim=1)


class GroupAttention(nn.Module):
    """Attention inside groups; positions count for what is looked for and at, not for what is passed on."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, placed: Tensor, route: Route, size: int) -> Tensor:
        """Return the attention's result at each place in the groups, (groups * size, width).

        Args:
            x: Features of the pillars, (n, width).
            placed: The same plus their position codes.
            route: From pillars to groups.
            size: Pillars of a group.
        """
        width = x.shape[1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        looking = functional.linear(placed, weight[: 2 * width], bias[: 2 * width])
        passed = functional.linear(x, weight[2 * width :], bias[2 * width :])
        grouped = torch.cat([looking, passed], dim=1)[route.gather]
        heads = grouped.view(-1, size, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        if len(route.short):
            # The few groups that hold places without a pillar once more, under a mask: it would slow all the others.
            few, mask = route.short, route.present[:, None, None]
            masked = functional.scaled_dot_product_attention(q[few], k[few], v[few], attn_mask=mask)
            out = out.index_copy(0, route.short, masked)
        projected: Tensor = self.out_proj(out.transpose(1, 2).reshape(-1, width))
        return projected


class Layer(nn.Module):
    """Attention inside groups and a feed-forward part, each beside a residual path and before a norm."""

    def __init__(self, width: int, config: EncoderConfig) -> None:
        super().__init__()
        self.size = config.group
        self.attn = GroupAttention(width, config.heads)
        self.fc1 = nn.Linear(width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, width)
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)

    def attend(self, x: Tensor, position: Tensor, route: Route) -> Tensor:
        """Return the attention's result at each place in the groups; arguments as in `forward`."""
        return self.attn(x, x + position, route, self.size)  # type: ignore[no-any-return]

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the layer's output from its input and the attention's result, both (n, width)."""
        x = self.norm1(x + attended)
        out: Tensor = self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))
        return out

    def forward(self, x: Tensor, position: Tensor, route: Route) -> Tensor:
        """Return the pillars' features after the layer.

        Args:
            x: Features, (n, width).
            position: Position codes, (n, width).
            route: From pillars to groups.
        """
        # What a pillar's second place yields is dropped before all that is done pillar by pillar.
        return self.mix(x, self.attend(x, position, route)[route.back])


class Encoder(nn.Module):
    """Attention between the pillars of each sample."""

    def __init__(self, width: int, config: EncoderConfig, shape: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.block_list = nn.ModuleList(
            nn.ModuleList(Layer(width, config) for _ in config.orders) for _ in range(config.blocks)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        with torch.no_grad():
            for _, layer in self.layers():
                for last in (layer.attn.out_proj, layer.fc2):
                    last.weight.mul_(_START)

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield each layer with its order, first to last."""
        for block in self.block_list:
            assert isinstance(block, nn.ModuleList)
            for order, layer in zip(self.config.orders, block, strict=True):
                assert isinstance(layer, Layer)
                yield order, layer

    def forward(self, features: Tensor, cells: Tensor, counts: Tensor) -> Tensor:
        """Return the pillars' features after all layers, (n, width), in the order given.

        Args:
            features: (n, width).
            cells: Sample, y, x of each pillar, samples one after another, int64 (n, 3).
            counts: Pillars of each sample, int64 (b,).
        """
        if not len(features):
            return features
        routes = make_routes(cells, counts, self.config, self.shape)
        position = position_code(cells, features.shape[1], self.config.temperature).to(features.dtype)
        for order, layer in self.layers():
            features = layer(features, position, routes[order])
        return features


class FlatFormer(Detector):
    """Detection with attention between pillars."""

    config: FlatFormerConfig

    def __init__(self, config: FlatFormerConfig) -> None:
        super().__init__(config)
        self.middle_encoder = Encoder(config.pillar_widths[-1], config.encoder, config.grid.shape)

    def encode(self, features: Tensor, pillars: Pillars) -> Tensor:
        """Return the pillars' features (n, c) after attention."""
        attended: Tensor = self.middle_encoder(features, pillars.cells, pillars.counts)
        return attended


_RULES: list[tuple[str, str | None]] = [
    (r"^module\.", ""),
    (r"^(middle_encoder\.block_list\.\d+)\.block\.(\d+)\.", r"\1.\2."),
    (r"\.attn\.attn\.", ".attn."),
    (r"^bbox_head\.task_heads\.0\.", "bbox_head.branches."),
]


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published checkpoint's tensors under our names, ready for `load_strict`.

    Args:
        state: Tensors by the published code's names, with or without ``module.`` before them.

    Raises:
        ModelError: Two tensors get one name.
    """
    made = rename(state, _RULES)
    counters = {f"{name.removesuffix('running_mean')}num_batches_tracked" for name in made if "running_mean" in name}
    return made | {name: torch.zeros((), dtype=torch.long) for name in counters - made.keys()}


def config_from_state(state: Mapping[str, Tensor], told: FlatFormerConfig) -> FlatFormerConfig:
    """Return the sizes of the network that a checkpoint holds.

    Args:
        state: Tensors under our names.
        told: What tensors do not tell is taken from it: the grid, heads, orders, windows and groups, the first stride,
            and whether the backbone is residual.

    Raises:
        ModelError: Tensors that every FlatFormer has are missing, or the rest does not fit what was told (PTD-885).
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    widths = tuple(shape[0] for shape in _series(shapes, "voxel_encoder.vfe_layers.{}.linear.weight"))
    stages = _series(shapes, "backbone.blocks.{}.0.0.weight")
    necks = _series(shapes, "neck.deblocks.{}.0.weight")
    heatmaps = _series(shapes, "bbox_head.branches.heatmap.{}.conv.weight")
    try:
        factors = [shape[2] for shape in necks]
        strides = [told.backbone.strides[0], *(two // one for one, two in itertools.pairwise(factors))]
        blocks = len(_series(shapes, "middle_encoder.block_list.{}.0.fc1.weight"))
        hidden = shapes["middle_encoder.block_list.0.0.fc1.weight"][0] if blocks else told.encoder.hidden
        last = shapes[f"bbox_head.branches.heatmap.{len(heatmaps)}.weight"]
        depths = tuple(
            len(_series(shapes, f"backbone.blocks.{stage}.{{}}.0.weight")) - 1 for stage in range(len(stages))
        )
        backbone = replace(
            told.backbone,
            widths=tuple(shape[0] for shape in stages),
            depths=depths,
            strides=tuple(strides),
            neck_widths=tuple(shape[1] for shape in necks),
        )
        head = HeadConfig(
            classes=last[0],
            width=shapes["bbox_head.shared_conv.conv.weight"][0],
            branch_width=heatmaps[0][0] if heatmaps else told.head.branch_width,
            convolutions=len(heatmaps) + 1,
            velocity=any(name.startswith("bbox_head.branches.vel.") for name in shapes),
            iou=any(name.startswith("bbox_head.branches.iou.") for name in shapes),
        )
        columns = shapes["voxel_encoder.vfe_layers.0.linear.weight"][1] - 6
    except (KeyError, IndexError) as error:
        problem = f"no FlatFormer's checkpoint ({error.args[0]} is missing)"
        raise ModelError("PTD-885", problem, "give a checkpoint of mit-han-lab/flatformer's training") from None
    encoder = replace(told.encoder, blocks=blocks, hidden=hidden)
    return replace(told, columns=columns, pillar_widths=widths, encoder=encoder, backbone=backbone, head=head)


def _series(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> list[tuple[int, ...]]:
    """Shapes of the tensors whose names follow the pattern, from 0 on."""
    found: list[tuple[int, ...]] = []
    while pattern.format(len(found)) in shapes:
        found.append(shapes[pattern.format(len(found))])
    return found
