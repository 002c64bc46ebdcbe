"""Training samples: draws that repeat, boxes that follow their points, pasted objects that touch nothing."""

import numpy as np
import pytest
import torch

from pentad.core.cases import Case
from pentad.core.errors import UsageError
from pentad.point_clouds.boxes import iou_bev, points_in_boxes
from pentad.point_clouds.dataset import AugmentConfig, Frames, vary
from pentad.point_clouds.frames import PointConfig

SPAN = (-32, -32, -4, 32, 32, 2.4)
CLASSES = ("car", "pedestrian", "cyclist")


@pytest.fixture(scope="module")
def cases(streets):
    return [Case(id=path.stem, files={"frame": str(path)}) for path in sorted((streets / "frames").iterdir())]


def frames(cases, **settings):
    return Frames(cases, CLASSES, PointConfig(), SPAN, AugmentConfig(**settings), 1)


def test_a_sample_is_fixed_by_its_number(cases):
    first, again, other = (frames(cases, paste={"cyclist": 5})[number] for number in (7, 7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["points"].shape != other["points"].shape
    assert first["points"].dtype == first["boxes"].dtype == torch.float32


@pytest.mark.parametrize("seed", range(6))
def test_boxes_hold_the_same_points_after_mirroring_turning_and_scaling(cases, seed):
    sample = frames(cases, flip=0, rotation=0, scale=(1, 1))[3]
    boxes = sample["boxes"].double().numpy()
    boxes[:, 3:6] *= 1.001  # a point on a face stays inside
    points, varied = vary(np.random.default_rng(seed), sample["points"].numpy(), boxes, AugmentConfig())
    before = points_in_boxes(sample["points"].double(), torch.from_numpy(boxes)).sum(dim=0)
    after = points_in_boxes(torch.from_numpy(points).double(), torch.from_numpy(varied)).sum(dim=0)
    assert (before - after).abs().max() <= 1
    assert before.sum() > 100
    # What drives along its heading still does.
    moving = np.hypot(varied[:, 7], varied[:, 8]) > 1
    gap = np.arctan2(varied[moving, 8], varied[moving, 7]) - varied[moving, 6]
    assert np.abs(np.sin(gap)).max() < 0.01
    assert np.cos(gap).min() > 0.99


def test_pasted_objects_touch_nothing_and_bring_their_points(cases):
    still = {"flip": 0, "rotation": 0, "scale": (1, 1)}
    bare, filled = frames(cases, **still)[5], frames(cases, **still, paste={"cyclist": 9, "car": 14})[5]
    added = len(filled["boxes"]) - len(bare["boxes"])
    assert added >= 3
    boxes = filled["boxes"].double()
    overlap = iou_bev(boxes, boxes) - torch.eye(len(boxes))
    assert overlap.abs().max() < 1e-6
    counts = points_in_boxes(filled["points"].double(), boxes)[:, len(bare["boxes"]) :].sum(dim=0)
    assert (counts >= 4).all()
    # They stand on the ground that is there.
    low = filled["points"][:, 2].quantile(0.001)
    bottoms = boxes[-added:, 2] - boxes[-added:, 5] / 2
    assert ((bottoms > low - 0.5) & (bottoms < 0)).all()


def test_a_batch_joins_points_and_says_whose_they_are(cases):
    samples = [frames(cases)[number] for number in (0, 1)]
    batch = Frames.collate(samples)
    assert batch["counts"].tolist() == [len(sample["points"]) for sample in samples]
    assert len(batch["points"]) == int(batch["counts"].sum())


@pytest.mark.parametrize("settings", [{"flip": 2}, {"scale": (1.2, 1)}, {"rotation": -1}])
def test_impossible_augmentation_is_refused(settings):
    with pytest.raises(UsageError, match="PTD-922"):
        AugmentConfig(**settings)


def test_a_class_that_cannot_be_pasted_is_named(cases):
    with pytest.raises(UsageError, match="PTD-922 there is no class 'tram' to paste"):
        frames(cases, paste={"tram": 2})
