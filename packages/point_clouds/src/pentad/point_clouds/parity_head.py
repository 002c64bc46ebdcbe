"""Golden figures of the published head, beside the networks: targets, losses, decoding, rotated overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pentad.core import recipe
from pentad.point_clouds.boxes import from_clockwise, iou_bev, nms_rotated, to_clockwise
from pentad.point_clouds.decoding import DecodeConfig, Detections, candidates, decode
from pentad.point_clouds.grid import GridConfig, MapGrid
from pentad.point_clouds.losses import LossConfig, detection_losses
from pentad.point_clouds.targets import TargetConfig, Targets, make_targets

Rows = list[tuple[str, float, float]]

# The figures were made in float32, some of them as differences of larger numbers: closer agreement means nothing.
TOLERANCE = 2e-5
_EXACT = 1e-6
_LOSSES = {"loss_heatmap": "heatmap", "loss_bbox": "box", "loss_iou": "iou"}
_RESTATED = {"heatmap": "heatmap", "bbox": "box"}


def rows(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (name, error, tolerance); errors are differences, of counts and choices how many differ.

    Args:
        spec: The file's content.
        dtype: The working precision.
    """
    hyper = spec["hyperparameters"]
    r, cell = tuple(map(float, hyper["point_cloud_range"])), hyper["voxel_size"]
    grid = MapGrid(GridConfig((r[0], r[1], r[2], r[3], r[4], r[5]), (cell[0], cell[1])), hyper["out_size_factor"])
    maps = _maps(spec["maps"], dtype)
    classes = maps["heatmap"].shape[1]
    targets = _targets(spec, grid, classes, dtype)
    found = _target_rows(spec, targets)
    found += _loss_rows(spec, maps, targets, grid)
    found += _decoding_rows(spec, maps, grid)
    return found + _overlap_rows(spec["rotated_iou"], dtype)


def _maps(about: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    a = torch.from_numpy(recipe.array(about["key"], about["shape"])).to(dtype)
    reg, height, dim, rot, vel, iou, heatmap = torch.split(a, [2, 1, 3, 2, 2, 1, a.shape[1] - 11], dim=1)
    rot = torch.stack([0.1 * rot[:, 0], 1 + 0.1 * rot[:, 1]], dim=1)
    maps = {"reg": 0.5 + 0.3 * reg, "height": -0.8 + 0.5 * height, "dim": 1.4 + 0.1 * dim, "rot": rot, "vel": vel}
    return maps | {"iou": 0.4 + 0.3 * iou, "heatmap": 1.5 * heatmap - 5.5}


def _targets(spec: Mapping[str, Any], grid: MapGrid, classes: int, dtype: torch.dtype) -> Targets:
    samples = [torch.tensor(sample, dtype=torch.float64).view(-1, 8) for sample in spec["objects"]["samples"]]
    boxes = [from_clockwise(sample[:, :7].to(dtype)) for sample in samples]
    hyper = spec["hyperparameters"]
    config = TargetConfig(hyper["gaussian_overlap"], hyper["min_radius"], hyper["max_objs"])
    return make_targets(boxes, [sample[:, 7].long() for sample in samples], grid, classes, config)


def _target_rows(spec: Mapping[str, Any], targets: Targets) -> Rows:
    wanted = spec["targets"]
    sample, place = (torch.tensor([row[key] for row in wanted["rows"]]) for key in ("sample", "object"))
    masks = targets.mask[sample, place].long() - torch.tensor([row["mask"] for row in wanted["rows"]])
    indices = targets.index[sample, place] - torch.tensor([row["index"] for row in wanted["rows"]])
    said = targets.rows[sample, place].double()
    largest = (said - torch.tensor([row["target"] for row in wanted["rows"]], dtype=torch.float64)).abs().max()
    radii = 0
    for number, objects in enumerate(spec["objects"]["samples"]):
        # The file lists radii as it lists objects, the targets take the classes in turn.
        order = torch.argsort(torch.tensor([row[7] for row in objects]), stable=True).tolist()
        for row, original in enumerate(order):
            if targets.mask[number, row]:
                radii += int(targets.radius[number, row]) != wanted["radius"][number][original]
    heatmap, patch = targets.heatmap, wanted["heatmap_patch"]
    rows, cols = slice(*patch["rows"]), slice(*patch["cols"])
    difference = heatmap[patch["sample"], patch["class"], rows, cols] - torch.tensor(patch["value"]).to(heatmap)
    nonzero = torch.count_nonzero(heatmap.flatten(1), dim=1).tolist()
    sums = heatmap.double().flatten(1).sum(dim=1) - torch.tensor(wanted["heatmap_sum"], dtype=torch.float64)
    return [
        ("targets.mask", float(torch.count_nonzero(masks)), 0.0),
        ("targets.index", float(torch.count_nonzero(indices)), 0.0),
        ("targets.rows", float(largest), TOLERANCE),
        ("targets.radius", float(radii), 0.0),
        ("targets.heatmap", recipe.compare(heatmap.numpy(), wanted["heatmap"]), TOLERANCE),
        ("targets.heatmap_patch", float(difference.abs().max()), _EXACT),
        ("targets.heatmap_sum", float(sums.abs().max()), TOLERANCE),
        ("targets.heatmap_nonzero", float(nonzero != wanted["heatmap_nonzero"]), 0.0),
        ("targets.heatmap_ones", float(abs(int((heatmap == 1).sum()) - wanted["heatmap_ones"])), 0.0),
    ]


def _loss_rows(spec: Mapping[str, Any], maps: Mapping[str, Tensor], targets: Targets, grid: MapGrid) -> Rows:
    hyper = spec["hyperparameters"]
    weights = tuple(map(float, hyper["code_weights"]))
    config = LossConfig(hyper["loss_bbox_weight"], hyper["iou_weight"], weights, published_heights=True)
    found = detection_losses(maps, targets, grid, config)
    pairs = [(name, _LOSSES[name.split(".")[-1]], value) for name, value in spec["losses"].items()]
    restated = spec.get("losses_float64_restatement", {})
    pairs += [(f"restated.{name}", _RESTATED[name], value) for name, value in restated.items()]
    return [(f"losses.{name}", abs(float(found[key]) / value - 1), TOLERANCE) for name, key, value in pairs]


def _decoding_rows(spec: Mapping[str, Any], maps: Mapping[str, Tensor], grid: MapGrid) -> Rows:
    hyper = spec["hyperparameters"]
    low_high = tuple(map(float, hyper["post_center_range"]))
    config = DecodeConfig(
        hyper["score_threshold"],
        hyper["iou_pow"],
        hyper["max_num"],
        tuple(hyper["nms_thr"]),
        tuple(hyper["pre_max_size"]),
        tuple(hyper["post_max_size"]),
        (low_high[0], low_high[1], low_high[2], low_high[3], low_high[4], low_high[5]),
    )
    rows: Rows = []
    before = candidates(maps, grid, config)
    for kind, samples in (("decoded_before_nms", before), ("detections", decode(maps, grid, config))):
        for number, (found, wanted) in enumerate(zip(samples, spec[kind], strict=True)):
            rows += _detection_rows(f"{kind}.{number}", found, wanted)
    return rows


def _detection_rows(name: str, found: Detections, wanted: Mapping[str, Any]) -> Rows:
    per_class = torch.bincount(found.labels, minlength=len(wanted["per_class"])).tolist()
    rows = [(f"{name}.count", float(per_class != wanted["per_class"]), 0.0)]
    if len(found.labels) != wanted["count"]:
        return rows
    boxes = to_clockwise(found.boxes)
    if "boxes_gravity_centre" in wanted:
        boxes = torch.cat([boxes[:, :2], found.boxes[:, 2:3], boxes[:, 3:]], dim=1)
    key = "boxes" if "boxes" in wanted else "boxes_gravity_centre"
    rows.append((f"{name}.boxes", recipe.compare(boxes.numpy(), wanted[key]), TOLERANCE))
    rows.append((f"{name}.scores", recipe.compare(found.scores.numpy(), wanted["scores"]), TOLERANCE))
    if "labels_sha256_int64_le" in wanted:
        digest = hashlib.sha256(found.labels.numpy().astype("<i8").tobytes()).hexdigest()
        rows.append((f"{name}.labels", float(digest != wanted["labels_sha256_int64_le"]), 0.0))
    if "first_rows" in wanted:
        first = torch.tensor(wanted["first_rows"]).to(boxes)
        rows.append((f"{name}.first_rows", float((boxes[: len(first)] - first).abs().max()), TOLERANCE))
    return rows


def _overlap_rows(about: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    given = torch.tensor(about["boxes"], dtype=torch.float64).to(dtype)
    zero, one = torch.zeros_like(given[:, :1]), torch.ones_like(given[:, :1])
    # Clockwise from the x axis: with the sides as they are, the angle alone changes its sign.
    boxes = torch.cat([given[:, :2], zero, given[:, 2:4], one, -given[:, 4:]], dim=1)
    wanted = torch.tensor(about["iou"], dtype=torch.float64)
    tolerance = _EXACT if dtype == torch.float64 else TOLERANCE
    rows = [("rotated_iou", float((iou_bev(boxes, boxes).double() - wanted).abs().max()), tolerance)]
    scores = torch.tensor(about["scores"], dtype=dtype)
    for threshold, keep in about["keep"].items():
        kept = nms_rotated(boxes, scores, float(threshold)).tolist()
        rows.append((f"rotated_nms.{threshold}", float(kept != list(keep)), 0.0))
    return rows
