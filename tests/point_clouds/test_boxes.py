import math
import random
from fractions import Fraction

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pentad.core.errors import UsageError
from pentad.point_clouds.boxes import (
    bev_overlap,
    corners,
    corners_bev,
    from_clockwise,
    iou_3d,
    iou_bev,
    nms_rotated,
    paired_bev_overlap,
    paired_iou_3d,
    points_in_boxes,
    to_clockwise,
    wrap,
)


def random_boxes(count, seed, spread=6.0, columns=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, columns, generator=generator, dtype=torch.float64)
    low = torch.tensor([-spread, -spread, -1, 0.3, 0.3, 0.5, -4, -3, -3], dtype=torch.float64)[:columns]
    high = torch.tensor([spread, spread, 1, 6, 3, 3, 4, 3, 3], dtype=torch.float64)[:columns]
    return (low + rows * (high - low)).to(dtype)


def polygons(boxes):
    """The boxes seen from above, by Shapely alone."""
    made = []
    for x, y, _, dx, dy, _, yaw in boxes[:, :7].tolist():
        flat = shapely.box(-dx / 2, -dy / 2, dx / 2, dy / 2)
        made.append(
            shapely.affinity.translate(shapely.affinity.rotate(flat, yaw, origin=(0, 0), use_radians=True), x, y)
        )
    return np.array(made)


def areas(a, b):
    return torch.from_numpy(shapely.area(shapely.intersection(polygons(a)[:, None], polygons(b)[None])))


def test_a_box_heading_left_has_its_length_along_y():
    box = torch.tensor([[10.0, 5.0, 1.0, 4.0, 2.0, 1.5, math.pi / 2]])
    expected = torch.tensor([[9.0, 7.0], [9.0, 3.0], [11.0, 3.0], [11.0, 7.0]])
    torch.testing.assert_close(corners_bev(box)[0], expected)
    torch.testing.assert_close(corners(box)[0, :, 2], torch.tensor([0.25] * 4 + [1.75] * 4))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_shared_areas_are_shapelys(dtype, tolerance):
    a, b = random_boxes(60, 0), random_boxes(50, 1)
    found = bev_overlap(a.to(dtype), b.to(dtype)).double()
    torch.testing.assert_close(found, areas(a, b), rtol=0, atol=tolerance)
    assert (found > 0).sum() > 200


ANGLES = [0, 1e-17, 1e-12, 1e-9, 1e-6, 1e-3, math.pi / 4, math.pi / 2, math.pi, -math.pi, 0.3]


@pytest.mark.parametrize("turn", ANGLES)
@pytest.mark.parametrize("place", [(0.0, 0.0), (70.0, -70.0)])
def test_touching_and_coinciding_edges_count_once(turn, place):
    base = torch.tensor([[*place, 0, 4.0, 2.0, 1.5, 0.7]], dtype=torch.float64)
    others = base.repeat(6, 1)
    others[1, 3] = 2  # the middle half: two edges on the first's
    others[2, 4] = 6
    others[3, :2] += torch.tensor([math.cos(0.7), math.sin(0.7)]) * 4  # one edge in common
    others[4, :2] += torch.tensor([math.cos(0.7), math.sin(0.7)]) * 1  # shifted along the heading
    others[5, :2] += torch.tensor([-math.sin(0.7), math.cos(0.7)]) * 0.5
    others[:, 6] += turn
    torch.testing.assert_close(bev_overlap(base, others), areas(base, others), rtol=0, atol=1e-11)
    torch.testing.assert_close(bev_overlap(others, base).T, areas(base, others), rtol=0, atol=1e-11)


def exact_area(a, b):
    """The shared area of two boxes' corners in rational numbers, by cutting the one along the other's edges."""
    ring, cutter = ([tuple(map(Fraction, corner)) for corner in corners_bev(box)[0].tolist()] for box in (a, b))

    def side(start, end, point):
        return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])

    for start, end in zip(cutter, cutter[1:] + cutter[:1], strict=True):
        cut = []
        for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
            one, two = side(start, end, here), side(start, end, there)
            if one >= 0:
                cut.append(here)
            if one * two < 0:
                cut.append(tuple(p + (q - p) * one / (one - two) for p, q in zip(here, there, strict=True)))
        ring = cut
    return float(sum(p[0] * q[1] - p[1] * q[0] for p, q in zip(ring, ring[1:] + ring[:1], strict=True)) / 2)


BOX = st.tuples(*[st.floats(-3, 3)] * 2, *[st.floats(0.01, 6)] * 2, st.floats(-7, 7))


@settings(max_examples=60, deadline=None)
@given(BOX, BOX)
def test_any_two_boxes_share_what_rational_numbers_say_whichever_is_first(one, two):
    a, b = (torch.tensor([[x, y, 0, dx, dy, 1, yaw]], dtype=torch.float64) for x, y, dx, dy, yaw in (one, two))
    assert bev_overlap(a, b).item() == pytest.approx(exact_area(a, b), abs=1e-9)
    assert bev_overlap(b, a).item() == pytest.approx(exact_area(b, a), abs=1e-9)


def all_but_coinciding(count):
    """Pairs of boxes that share centres, sides or edges but for differences around the rounding error and above."""
    draw = random.Random(0)
    pairs = []
    for _ in range(count):
        differences = [draw.choice([0, 0, 1e-16, 1e-14, 1e-12, 1e-8, 1e-3]) * draw.choice([1, -1]) for _ in range(3)]
        one = [draw.choice([0, -60.3]), draw.choice([0, 1.7]), 0, 4, draw.choice([2, 0.5]), 1, draw.choice([0, 0.3, 2])]
        two = [
            one[0] + differences[0],
            one[1] + differences[1],
            0,
            draw.choice([4, 0.5]),
            draw.choice([2, 5]),
            1,
            one[6],
        ]
        two[6] += differences[2] + draw.choice([0, math.pi / 2, -math.pi])
        if draw.random() < 0.4:  # one edge on the other's
            two[0] += one[3] * math.cos(one[6])
            two[1] += one[3] * math.sin(one[6])
        pairs.append((one, two))
    return torch.tensor(pairs, dtype=torch.float64).unbind(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_boxes_that_all_but_coincide_share_what_rational_numbers_say(dtype, tolerance):
    a, b = (rows.to(dtype) for rows in all_but_coinciding(400))
    expected = torch.tensor(
        [exact_area(a[row : row + 1], b[row : row + 1]) for row in range(len(a))], dtype=torch.float64
    )
    torch.testing.assert_close(paired_bev_overlap(a, b).double(), expected, rtol=0, atol=tolerance)


def test_intersection_over_union_of_a_box_with_itself_is_1():
    boxes = random_boxes(40, 2)
    torch.testing.assert_close(iou_bev(boxes, boxes).diagonal(), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(iou_3d(boxes, boxes).diagonal(), torch.ones(40, dtype=torch.float64))


def test_volumes_overlap_by_height_too():
    box = torch.tensor([[0, 0, 0, 4.0, 2.0, 2.0, 0.3]])
    raised = box + torch.tensor([[0, 0, 0.5, 0, 0, 0, 0]])
    assert iou_3d(box, raised).item() == pytest.approx(1.5 / 2.5, abs=1e-6)
    assert iou_3d(box, raised + torch.tensor([[0, 0, 2.0, 0, 0, 0, 0]])).item() == 0


def test_pairs_agree_with_the_matrix():
    a, b = random_boxes(30, 3, spread=2), random_boxes(30, 4, spread=2)
    torch.testing.assert_close(paired_bev_overlap(a, b), bev_overlap(a, b).diagonal())
    torch.testing.assert_close(paired_iou_3d(a, b), iou_3d(a, b).diagonal())


def test_overlap_has_the_gradient_of_its_differences():
    a, b = random_boxes(6, 5, spread=1).requires_grad_(), random_boxes(6, 6, spread=1).requires_grad_()
    assert torch.autograd.gradcheck(iou_3d, (a, b), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("other", [[0.0, 0, 0, 4, 2, 1.5, 0], [0.0, 0, 0, 0, 0, 0, 0], [9.0, 9, 9, 1, 1, 1, 1]])
def test_gradients_are_finite_where_boxes_coincide_vanish_or_miss(other):
    a = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0], [0.0, 0, 0, 0, 0, 0, 0]], requires_grad=True)
    iou_3d(a, torch.tensor([other])).sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5, 0.8])
def test_suppression_keeps_the_boxes_that_a_loop_with_shapely_keeps(threshold):
    boxes = random_boxes(150, 7, spread=12)
    scores = torch.rand(150, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    shapes, kept = polygons(boxes), []
    for row in scores.argsort(descending=True).tolist():
        shared = shapely.area(shapely.intersection(shapes[row], shapes[kept]))
        united = shapely.area(shapes[row]) + shapely.area(shapes[kept]) - shared
        if not (shared / united > threshold).any():
            kept.append(row)
    assert nms_rotated(boxes, scores, threshold).tolist() == kept
    assert nms_rotated(boxes, scores, threshold, after=5).tolist() == kept[:5]
    assert nms_rotated(boxes, scores, threshold, before=1).tolist() == kept[:1]


def test_suppression_of_no_boxes_keeps_none_and_equal_scores_keep_their_order():
    assert nms_rotated(torch.zeros(0, 7), torch.zeros(0), 0.5).tolist() == []
    apart = torch.tensor([[10.0 * row, 0, 0, 4, 2, 1.5, 0] for row in range(4)])
    assert nms_rotated(apart, torch.full((4,), 0.5), 0.5).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("columns", [7, 9])
def test_the_published_convention_and_back_is_the_same_box(columns):
    boxes = random_boxes(20, 9, columns=columns)
    boxes[:, 6] = wrap(boxes[:, 6])
    torch.testing.assert_close(from_clockwise(to_clockwise(boxes)), boxes)


def test_the_published_convention_turns_corners_clockwise_from_minus_y():
    boxes = random_boxes(20, 10)
    published = to_clockwise(boxes)
    x, y, _, dx, dy, _, yaw = (column[:, None] for column in published.unbind(1))
    # The front is at -dy: front left looking along -y is at +dx.
    local_x, local_y = dx * torch.tensor([1, 1, -1, -1]) / 2, dy * torch.tensor([-1, 1, 1, -1]) / 2
    turned_x = x + local_x * torch.cos(yaw) + local_y * torch.sin(yaw)
    turned_y = y - local_x * torch.sin(yaw) + local_y * torch.cos(yaw)
    torch.testing.assert_close(torch.stack([turned_x, turned_y], dim=2), corners_bev(boxes))
    torch.testing.assert_close(published[:, 2], boxes[:, 2] - boxes[:, 5] / 2)


def test_points_are_found_in_their_boxes():
    boxes = torch.tensor([[10.0, 5, 1, 4, 2, 1.5, math.pi / 2], [0, 0, 0, 1, 1, 1, 0]])
    points = torch.tensor([[10.9, 6.9, 1.7, 0.5], [12.0, 5, 1, 0], [0.5, 0.5, 0.5, 0], [10, 5, 1.8, 0]])
    found = points_in_boxes(points, boxes)
    assert found.tolist() == [[True, False], [False, False], [False, True], [False, False]]


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 8), torch.zeros(2, 7, dtype=torch.long)])
def test_what_is_no_box_is_refused(wrong):
    with pytest.raises(UsageError, match="PTD-880"):
        bev_overlap(wrong, torch.zeros(1, 7))


def test_directions_are_wrapped_into_one_turn():
    yaw = torch.tensor([math.pi, -math.pi, 3 * math.pi / 2, 0.1, 40.0])
    wrapped = wrap(yaw)
    assert (wrapped >= -math.pi).all()
    assert (wrapped < math.pi).all()
    torch.testing.assert_close(torch.cos(wrapped), torch.cos(yaw), atol=1e-5, rtol=0)
