"""Boxes in LiDAR frames: corners, rotated overlap and suppression in plain torch, on any device.

Convention of the whole package, unless a name says otherwise: a box is a row of 7 numbers, or 9 with velocity:
x, y, z, dx, dy, dz, yaw[, vx, vy]. Metres, radians, metres a second; the frame is right-handed with x forward, y left
and z up; x, y, z is the centre of the box, not of its bottom face; dx is the length along the heading, dy the width,
dz the height; yaw turns counter-clockwise seen from above and is 0 where the heading is +x.

The published FlatFormer, as MMDetection3D before 1.0, writes the bottom face's centre, the width before the length, and
a yaw that turns clockwise and is 0 where the heading is -y: `to_clockwise` and `from_clockwise` convert.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pentad.core.errors import UsageError

# A corner on the other box's edge belongs to what they share; so many rounding errors decide what is on it.
_SLACK_ROUNDINGS = 4


def corners_bev(boxes: Tensor) -> Tensor:
    """Return the corners seen from above, counter-clockwise from the front left one, (n, 4, 2)."""
    _check(boxes)
    sides = boxes.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    return boxes[:, None, :2] + turned(sides * boxes[:, None, 3:5], boxes[:, 6:7])


def corners(boxes: Tensor) -> Tensor:
    """Return the corners of the bottom face, then those of the top face in the same order, (n, 8, 3)."""
    flat = corners_bev(boxes)
    half = boxes[:, None, 5:6] / 2
    heights = [(boxes[:, None, 2:3] + side * half).expand(-1, 4, 1) for side in (-1, 1)]
    return torch.cat([torch.cat([flat, height], dim=2) for height in heights], dim=1)


def turned(xy: Tensor, yaw: Tensor) -> Tensor:
    """Return vectors (…, 2) turned counter-clockwise by angles (…) in radians."""
    cos, sin = torch.cos(yaw), torch.sin(yaw)
    x, y = xy[..., 0], xy[..., 1]
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)


def wrap(yaw: Tensor) -> Tensor:
    """Return the same directions in [-pi, pi)."""
    return torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return which points lie in which boxes, faces included, as bool (points, boxes).

    Args:
        points: x, y, z first, (p, 3 or more).
        boxes: (n, 7 or 9).
    """
    _check(boxes)
    offset = points[:, None, :3] - boxes[None, :, :3]
    flat = turned(offset[..., :2], -boxes[None, :, 6]).abs()
    within = (flat <= boxes[None, :, 3:5] / 2).all(dim=2)
    return within & (offset[..., 2].abs() <= boxes[None, :, 5] / 2)


def to_clockwise(boxes: Tensor) -> Tensor:
    """Return the boxes as the published FlatFormer writes them: bottom face, width first, clockwise yaw from -y."""
    _check(boxes)
    x, y, z, dx, dy, dz, yaw = boxes[:, :7].unbind(dim=1)
    made = torch.stack([x, y, z - dz / 2, dy, dx, dz, wrap(-yaw - math.pi / 2)], dim=1)
    return torch.cat([made, boxes[:, 7:]], dim=1)


def from_clockwise(boxes: Tensor) -> Tensor:
    """Return boxes of the published FlatFormer in the package's convention; undoes `to_clockwise`."""
    _check(boxes)
    x, y, z, dx, dy, dz, yaw = boxes[:, :7].unbind(dim=1)
    made = torch.stack([x, y, z + dz / 2, dy, dx, dz, wrap(-yaw - math.pi / 2)], dim=1)
    return torch.cat([made, boxes[:, 7:]], dim=1)


def bev_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the area in m² that each box of ``a`` shares with each of ``b`` seen from above, (n, m); differentiable.

    Args:
        a: (n, 7 or 9).
        b: (m, 7 or 9), same precision and device.
    """
    _check(a)
    _check(b)
    first, second = _near(a, b)
    area = paired_bev_overlap(a[first], b[second])
    return a.new_zeros(len(a), len(b)).index_put((first, second), area)


def iou_bev(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union seen from above, (n, m) in 0 … 1; 0 where neither box has an area."""
    shared = bev_overlap(a, b)
    return _share(shared, _area(a)[:, None] + _area(b)[None] - shared)


def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union of the volumes, (n, m) in 0 … 1; 0 where neither box has a volume."""
    shared = bev_overlap(a, b) * _shared_height(a[:, None], b[None])
    volumes = (_area(a) * a[:, 5])[:, None] + (_area(b) * b[:, 5])[None]
    return _share(shared, volumes - shared)


def paired_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Return intersection over union of the volumes of row i of ``a`` and row i of ``b``, (n,)."""
    shared = paired_bev_overlap(a, b) * _shared_height(a, b)
    return _share(shared, _area(a) * a[:, 5] + _area(b) * b[:, 5] - shared)


def paired_bev_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the area in m² that row i of ``a`` shares with row i of ``b`` seen from above, (n,); differentiable.

    The corners of what two convex shapes share are the corners of either that lie in the other, and the crossings of
    their edges. Sorted by angle around their mean they give the area.
    """
    _check(a)
    _check(b)
    # Near the origin nothing of the coordinates' size is lost to rounding.
    middle = ((a[:, :2] + b[:, :2]) / 2).detach()
    a, b = (torch.cat([box[:, :2] - middle, box[:, 2:7]], dim=1) for box in (a, b))
    corners_a, corners_b = corners_bev(a), corners_bev(b)
    crossings, crossed = _crossings(corners_a, corners_b)
    # Edges that are all but parallel meet anywhere on `a`'s: such a point is good where it lies in `b` too.
    crossed = crossed & _within(crossings, b)
    points = torch.cat([corners_a, corners_b, crossings], dim=1)
    return _area_around(points, torch.cat([_within(corners_a, b), _within(corners_b, a), crossed], dim=1))


def nms_rotated(
    boxes: Tensor, scores: Tensor, threshold: float, *, before: int | None = None, after: int | None = None
) -> Tensor:
    """Return the indices of boxes that no better box covers, by falling score; equal scores keep their order.

    Args:
        boxes: (n, 7 or 9).
        scores: (n,).
        threshold: A box is dropped where its overlap with a kept one, as intersection over union seen from above, is
            greater than this.
        before: Only so many of the best boxes are looked at.
        after: At most so many are returned.
    """
    order = torch.argsort(scores, descending=True, stable=True)[:before]
    covered = torch.triu(iou_bev(boxes[order], boxes[order]) > threshold, diagonal=1).cpu().numpy()
    free = np.ones(len(order), dtype=bool)
    for place in range(len(order)):
        if free[place]:
            free &= ~covered[place]
    kept = order[torch.from_numpy(free).to(order.device)]
    return kept[:after]


def _within(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether the points (n, k, 2) of row i lie in box i seen from above, edges included."""
    local = turned(points - boxes[:, None, :2], -boxes[:, 6:7]).detach().abs()
    slack = _SLACK_ROUNDINGS * torch.finfo(points.dtype).eps * (local.amax(dim=(1, 2)) + boxes[:, 3] + boxes[:, 4])
    return (local <= boxes[:, None, 3:5] / 2 + slack[:, None, None]).all(dim=2)


def _crossings(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Where each edge of ``one`` meets each of ``two`` (both corners (n, 4, 2)), (n, 16, 2), and whether it does."""
    step_one, step_two = (torch.roll(corner, -1, dims=1) - corner for corner in (one, two))
    start, step_one, step_two = one[:, :, None], step_one[:, :, None], step_two[:, None]
    offset = two[:, None] - start
    divisor = _cross(step_one, step_two)
    lengths = torch.linalg.vector_norm(step_one, dim=-1) * torch.linalg.vector_norm(step_two, dim=-1)
    parallel = divisor.detach().abs() <= torch.finfo(one.dtype).eps * lengths.detach()
    divisor = torch.where(parallel, torch.ones_like(divisor), divisor)
    along_one, along_two = _cross(offset, step_two) / divisor, _cross(offset, step_one) / divisor
    crossed = ~parallel & (along_one >= 0) & (along_one <= 1) & (along_two >= 0) & (along_two <= 1)
    points = start + along_one.clamp(0, 1).unsqueeze(-1) * step_one
    return points.flatten(1, 2), crossed.flatten(1)


def _area_around(points: Tensor, valid: Tensor) -> Tensor:
    """The area of the convex shape whose corners are the valid ones of (n, k, 2), in any order and repeated or not."""
    counted = valid.unsqueeze(-1)
    mean = (points * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    offset = points - mean.detach().unsqueeze(1)
    angle = torch.atan2(offset[..., 1], offset[..., 0]).detach()
    order = torch.where(valid, angle, torch.full_like(angle, math.inf)).argsort(dim=1)
    ring = offset.gather(1, order.unsqueeze(-1).expand_as(offset))
    ring = torch.where(valid.gather(1, order).unsqueeze(-1), ring, ring[:, :1])  # a point again adds no area
    return (_cross(ring, torch.roll(ring, -1, dims=1)).sum(dim=1) / 2).clamp(min=0)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _near(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the pairs whose circumscribed circles meet."""
    reach_a, reach_b = (torch.linalg.vector_norm(box[:, 3:5].detach(), dim=1) / 2 for box in (a, b))
    apart = torch.cdist(a[:, :2].detach(), b[:, :2].detach(), compute_mode="donot_use_mm_for_euclid_dist")
    first, second = torch.nonzero(apart <= reach_a[:, None] + reach_b[None], as_tuple=True)
    return first, second


def _area(boxes: Tensor) -> Tensor:
    return boxes[:, 3] * boxes[:, 4]


def _shared_height(a: Tensor, b: Tensor) -> Tensor:
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    return (top - bottom).clamp(min=0)


def _share(shared: Tensor, united: Tensor) -> Tensor:
    """The quotient, 0 where there is nothing to divide by, also for gradients."""
    empty = united <= 0
    return torch.where(empty, torch.zeros_like(shared), shared / torch.where(empty, torch.ones_like(united), united))


def _check(boxes: Tensor) -> None:
    if boxes.dim() != 2 or boxes.shape[1] not in (7, 9) or not boxes.is_floating_point():
        found = f"an array of shape {tuple(boxes.shape)} and type {boxes.dtype}"
        remedy = "give (n, 7) or, with velocities, (n, 9) floating-point numbers"
        raise UsageError("PTD-880", f"{found} where boxes are expected", remedy)
