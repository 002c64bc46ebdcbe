"""Golden figures of the published FlatFormer against this package, for ``pentad parity``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pentad.core import recipe
from pentad.core.checkpoint import load_strict
from pentad.core.errors import UsageError
from pentad.point_clouds import parity_head
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models.bev import BackboneConfig, scatter_bev
from pentad.point_clouds.models.center_head import HeadConfig
from pentad.point_clouds.models.flatformer import (
    ORDERS,
    Encoder,
    EncoderConfig,
    FlatFormer,
    FlatFormerConfig,
    group_places,
    make_routes,
    official_state,
    position_code,
    sort_key,
)
from pentad.point_clouds.models.pillars import Pillars, point_features

Rows = list[tuple[str, float, float]]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
# What the published code may be set to and the network here is built as.
_FIXED = {
    "activation": ("gelu (erf)", "gelu"),
    "norm": ("post",),
    "normalize_pos": (False,),
    "with_cluster_center": (True,),
    "with_voxel_center": (True,),
    "with_distance": (False,),
    "mode": ("max",),
    "linear_bias": (False,),
    "conv_bias": (False,),
    "norm_eps": (1e-3,),
    "shared_norm_eps": (1e-3,),
    "head_norm_eps": (1e-5,),
    "final_kernel": (3,),
}


def flatformer(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of FlatFormer: network, encoder, mapping or head.

    A network's errors are shares of the expected standard deviation; of whole numbers, how many differ.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the working precision.

    Raises:
        UsageError: The file is of a kind, or has a setting, that is not built here (PTD-883).
        ModelError: The file's tensors are not the network's.
    """
    if "cases" in spec:
        return _mapping(spec)
    if "targets" in spec:
        return parity_head.rows(spec, dtype)
    if "tensors" not in spec:
        raise UsageError("PTD-883", "neither tensors, cases nor targets", "give a file of FlatFormer's figures")
    with torch.no_grad():
        return _network(spec, dtype) if "vfe" in spec["hyperparameters"] else _encoder(spec, dtype)


def network(spec: Mapping[str, Any]) -> FlatFormer:
    """Return the network that a file describes, its recipe weights loaded as a checkpoint is.

    Raises:
        UsageError: It has a setting that is not built here (PTD-883).
        ModelError: The file's tensors are not the network's.
    """
    hyper = spec["hyperparameters"]
    vfe, second, neck, head = (_fixed(hyper[part]) for part in ("vfe", "second", "neck", "head"))
    r = tuple(map(float, hyper["point_cloud_range"]))
    grid = GridConfig((r[0], r[1], r[2], r[3], r[4], r[5]), (hyper["voxel_size"][0], hyper["voxel_size"][1]))
    strides = tuple(second["layer_strides"])
    upsampling = [math.prod(strides[1 : stage + 1]) for stage in range(len(strides))]
    if list(neck["upsample_strides"]) != upsampling:
        problem = f"upsampling by {neck['upsample_strides']} after strides {second['layer_strides']}"
        raise UsageError("PTD-883", problem, f"give a file with {upsampling}")
    branches = head["heads"]
    backbone = BackboneConfig(
        tuple(second["out_channels"]),
        tuple(second["layer_nums"]),
        strides,
        tuple(neck["out_channels"]),
        second["residual"],
    )
    made = HeadConfig(
        branches["heatmap"][0],
        head["share_conv_channel"],
        head["head_conv"],
        branches["heatmap"][1],
        "vel" in branches,
        "iou" in branches,
    )
    encoder = _encoder_config(hyper["encoder"])
    model = FlatFormer(FlatFormerConfig(grid, vfe["in_channels"], tuple(vfe["feat_channels"]), encoder, backbone, made))
    load_strict(model, official_state(_weights(spec)))
    return model.eval()


def _weights(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in recipe.state_dict(spec["tensors"]).items()}


def _fixed(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part, once it is seen to have no setting that is not built here."""
    for name, allowed in _FIXED.items():
        if name in part and part[name] not in allowed:
            problem = f"the setting {name} is {part[name]!r}"
            raise UsageError("PTD-883", problem, f"give a file with {' or '.join(map(repr, allowed))}")
    return part


def _encoder_config(hyper: Mapping[str, Any]) -> EncoderConfig:
    _fixed(hyper)
    return EncoderConfig(
        blocks=hyper["num_blocks"],
        orders=tuple(hyper["layer_order"]),
        heads=hyper["num_heads"],
        hidden=hyper["ffn"],
        window=(hyper["window_shape"][0], hyper["window_shape"][1]),
        group=hyper["group_size"],
        temperature=float(hyper["pos_temperature"]),
        norm_eps=hyper["layer_norm_eps"],
    )


def _points(spec: Mapping[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The batch that a network's file describes: points away from all borders of cells, and counts."""
    hyper, given = spec["hyperparameters"], spec["input"]
    low = np.asarray(hyper["point_cloud_range"][:3], dtype=np.float64)
    high = np.asarray(hyper["point_cloud_range"][3:], dtype=np.float64)
    cell, grid = np.asarray(hyper["voxel_size"][:2]), np.asarray(hyper["grid_xy"])
    samples = []
    for key, shape, sigma in zip(given["key"], given["shape"], given["sigma"], strict=True):
        a = recipe.array(key, shape).astype(np.float64)
        points = np.concatenate([a[:, :2] * sigma, 0.9 * a[:, 2:3], np.tanh(a[:, 3:])], axis=1).astype(np.float32)
        uv = (points[:, :2].astype(np.float64) - low[:2]) / cell
        inner = np.abs(uv - np.floor(uv) - 0.5) < 0.49
        within = ((uv > 0) & (uv < grid) & inner).all(axis=1)
        z = points[:, 2].astype(np.float64)
        samples.append(points[within & (z > low[2] + 0.1) & (z < high[2] - 0.1)])
    return torch.from_numpy(np.concatenate(samples)).to(dtype), torch.tensor([len(points) for points in samples])


def _network(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    model = network(spec).to(dtype)
    points, counts = _points(spec, dtype)
    expected, variant = spec["expected"], spec.get("variant_first_pillar_dropped")
    pillars = model.voxel_encoder.find(points, counts)
    rows = [("input.points_per_sample", _differing(counts, spec["input"]["points_per_sample"]), 0.0)]
    rows += _pillar_rows(model, pillars, spec["pillars"], "")
    wanted = {**expected.get("stages", {}), "output": expected["output"]}
    rows += _compared(_stages(model, pillars), wanted, dtype, "")
    if variant:
        name = "first_pillar_dropped."
        fewer = pillars.without_first()
        rows += _pillar_rows(model, fewer, variant["pillars"], name)
        wanted = {stage: variant[stage] for stage in (*variant.get("stages", ()), "bev", "output") if stage in variant}
        rows += _compared(_stages(model, fewer), wanted, dtype, name)
    return [*rows, *_parameter_rows(model, spec)]


def _compared(found: Mapping[str, Tensor], wanted: Mapping[str, Any], dtype: torch.dtype, prefix: str) -> Rows:
    unknown = [stage for stage in wanted if stage not in found]
    if unknown:
        raise UsageError("PTD-883", f"the stage '{unknown[0]}' is not known", f"use {', '.join(found)}")
    return [
        (prefix + stage, recipe.compare(found[stage].numpy(), probe), TOLERANCE[dtype])
        for stage, probe in wanted.items()
    ]


def _stages(model: FlatFormer, pillars: Pillars) -> dict[str, Tensor]:
    """Every stage of the network by the name that a file gives it."""
    encoder, features = model.middle_encoder, model.voxel_encoder(pillars)
    found = {"vfe.point_input": point_features(pillars, model.grid), "vfe.pillar_features": features}
    stages, features = _encoder_stages(encoder, features, pillars.cells, pillars.counts)
    found |= {f"encoder.{name}": value for name, value in stages.items()}
    found["bev"] = model.bev(features, pillars)
    maps = model.backbone(found["bev"])
    found |= {f"second.{number}": value for number, value in enumerate(maps)}
    found["neck"] = model.neck(maps)
    answers = model.bbox_head(found["neck"])
    found |= {f"head.{name}": value for name, value in answers.items()}
    found["output"] = torch.cat(list(answers.values()), dim=1)
    return found


def _encoder_stages(
    encoder: Encoder, features: Tensor, cells: Tensor, counts: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Every stage of the encoder, and its output."""
    config = encoder.config
    routes = make_routes(cells, counts, config, encoder.shape)
    position = position_code(cells, features.shape[1], config.temperature).to(features.dtype)
    found = {"position": position}
    for number, (order, layer) in enumerate(encoder.layers()):
        block, place = divmod(number, len(config.orders))
        route, name = routes[order], f"block{block}.layer{place}"
        # The published layer goes on with all places of the groups and drops the second ones at its end.
        groups = layer.mix(features[route.gather], layer.attend(features, position, route))
        found[f"{name}_sorted_groups"] = groups
        features = layer(features, position, route)
        found[f"{name}_sorted"] = features[_sequence(cells, order, encoder)]
        found[f"block{block}"] = features
    return found, features


def _sequence(cells: Tensor, order: str, encoder: Encoder) -> Tensor:
    return torch.argsort(sort_key(cells, order, encoder.config.window, encoder.shape))


def _pillar_rows(model: FlatFormer, pillars: Pillars, wanted: Mapping[str, Any], prefix: str) -> Rows:
    cells = torch.cat([pillars.cells[:, :1], torch.zeros_like(pillars.cells[:, :1]), pillars.cells[:, 1:]], dim=1)
    rows = [
        (f"{prefix}pillars.count_per_sample", _differing(pillars.counts, wanted["count_per_sample"]), 0.0),
        (f"{prefix}pillars.cells", _digest_differs(cells, wanted["sha256_int64_le"]), 0.0),
    ]
    encoder = model.middle_encoder
    digests = wanted["mapping_sha256_int64_le"]
    return rows + _digest_rows(pillars.cells, pillars.counts, encoder.config, encoder.shape, digests, prefix)


def _digest_rows(
    cells: Tensor,
    counts: Tensor,
    config: EncoderConfig,
    shape: tuple[int, int],
    digests: Mapping[str, str],
    prefix: str,
) -> Rows:
    orders = {order: torch.argsort(sort_key(cells, order, config.window, shape)) for order in ORDERS}
    grouping = group_places(counts, config.group)
    found = {**orders, "flat2win": grouping.source, "win2flat": grouping.place}
    return [(f"{prefix}mapping.{name}", _digest_differs(found[name], wanted), 0.0) for name, wanted in digests.items()]


def _parameter_rows(model: nn.Module, spec: Mapping[str, Any]) -> Rows:
    count = sum(parameter.numel() for parameter in model.parameters())
    return [("parameters", float(abs(count - spec["parameters"])), 0.0)] if "parameters" in spec else []


class _Wrapped(nn.Module):
    """The encoder alone under the name that it has in a whole network."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.middle_encoder = encoder


def _encoder(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    hyper, given = spec["hyperparameters"], spec["input"]
    nx, ny = hyper["sparse_shape"][:2]
    encoder = Encoder(hyper["in_channels"], _encoder_config(hyper), (ny, nx))
    wrapped = _Wrapped(encoder)
    load_strict(wrapped, official_state(_weights(spec)))
    wrapped.to(dtype).eval()
    cells, counts = _cells(given["coords"], (nx, ny))
    features = torch.from_numpy(recipe.array(given["key"][0], given["shape"])).to(dtype)
    full = torch.cat([cells[:, :1], torch.zeros_like(cells[:, :1]), cells[:, 1:]], dim=1)
    rows = [("coords", _digest_differs(full, given["coords"]["sha256_int64_le"]), 0.0)]
    rows += _digest_rows(cells, counts, encoder.config, encoder.shape, spec["mapping"]["sha256_int64_le"], "")
    found, out = _encoder_stages(encoder, features, cells, counts)
    found["bev"] = scatter_bev(out, cells, (len(counts), *reversed(hyper["output_shape"])))
    found["output"] = encoder(features, cells, counts)
    expected = spec["expected"]
    rows += _compared(found, {**expected.get("stages", {}), "output": expected["output"]}, dtype, "")
    return [*rows, *_parameter_rows(wrapped, spec)]


def _cells(coords: Mapping[str, Any], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Distinct cells around the grid's middle, (n, 3), and how many each sample has."""
    samples, sides = [], np.asarray(grid)
    for number, (key, shape, sigma) in enumerate(zip(coords["key"], coords["shape"], coords["sigma"], strict=True)):
        a = recipe.array(key, shape).astype(np.float64)
        xy = np.clip(np.floor(sides / 2 + sigma * a), 0, sides - 1).astype(np.int64)
        place = np.unique(xy[:, 1] * grid[0] + xy[:, 0])
        samples.append(np.stack([np.full_like(place, number), place // grid[0], place % grid[0]], axis=1))
    return torch.from_numpy(np.concatenate(samples)), torch.tensor([len(cells) for cells in samples])


def _mapping(spec: Mapping[str, Any]) -> Rows:
    rows: Rows = []
    for case in spec["cases"]:
        cells = torch.tensor(case["coords"], dtype=torch.long).view(-1, 4)[:, [0, 2, 3]]
        n, m = case["window_xy"]
        nx, ny = case["grid_xy"]
        counts = torch.tensor(case["counts"])
        # Where the published code mixes samples, it is followed there; the network here does not.
        faulty = bool(case.get("groups_mix_samples")) or min(case["counts"]) < case["group_size"]
        offset = 10 * nx * ny if faulty else None
        grouping = group_places(counts, case["group_size"], borrow=faulty)
        found = {
            order: torch.argsort(sort_key(cells, order, (n, m), (ny, nx), sample_offset=offset)) for order in ORDERS
        }
        found |= {"flat2win": grouping.source, "win2flat": grouping.place}
        for name, wanted in case["expected"].items():
            rows.append((f"{case['name']}.{name}", _differing(found[name], wanted), 0.0))
    return rows


def _differing(found: Tensor, wanted: Sequence[int]) -> float:
    """How many whole numbers differ, or the larger length where the lengths do."""
    if len(found) != len(wanted):
        return float(max(len(found), len(wanted)))
    return float((found != torch.tensor(wanted)).sum())


def _digest_differs(found: Tensor, wanted: str) -> float:
    return float(hashlib.sha256(found.numpy().astype("<i8").tobytes()).hexdigest() != wanted)
