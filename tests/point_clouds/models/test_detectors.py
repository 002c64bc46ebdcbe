import pytest
import torch

from pentad.core.config import from_mapping, to_mapping
from pentad.core.errors import UsageError
from pentad.point_clouds.boxes import iou_3d, turned
from pentad.point_clouds.decoding import DecodeConfig, decode
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.losses import detection_losses
from pentad.point_clouds.models import MODELS
from pentad.point_clouds.models.bev import BackboneConfig
from pentad.point_clouds.models.center_head import HeadConfig
from pentad.point_clouds.models.flatformer import EncoderConfig
from pentad.point_clouds.models.pillars import find_pillars, pillar_maximum, point_features
from pentad.point_clouds.targets import make_targets

GRID = GridConfig((-4.0, -6.4, -2.0, 4.0, 6.4, 2.0), (0.4, 0.4))  # 20 x 32 cells: y is the longer side
ENCODER = EncoderConfig(blocks=1, heads=2, hidden=32, window=(5, 5), group=24)
SIZES = {
    "flatformer": {"encoder": ENCODER, "backbone": BackboneConfig((16, 16), (1, 1), (1, 2), (16, 16))},
    "point_pillars": {"backbone": BackboneConfig((16, 16), (1, 1), (2, 2), (16, 16), residual=False)},
}


def build(name, columns=4, classes=2, grid=GRID):
    torch.manual_seed(0)
    config, model = MODELS[name]
    return model(config(grid, columns, (16, 16), head=HeadConfig(classes, 16, 16), **SIZES[name]))


def sweep(count, seed, columns=4):
    points = torch.rand(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points[:, :3] = points[:, :3] * torch.tensor([8, 12.8, 3.9]) - torch.tensor([4, 6.4, 1.9])
    return points


@pytest.mark.parametrize("name", MODELS)
def test_maps_have_the_shape_that_the_map_grid_says(name):
    for ny, nx in ((32, 20), (33, 21), (1, 3)):
        grid = GridConfig((0.0, -1.0, -2.0, nx * 0.4, ny * 0.4 - 1, 2.0), (0.4, 0.4))
        model = build(name, grid=grid).eval()
        with torch.no_grad():
            maps = model(torch.rand(5, 4), torch.tensor([2, 3]))
        assert {value.shape[2:] for value in maps.values()} == {model.map_grid.shape}
        assert {key: value.shape[1] for key, value in maps.items()} == model.config.head.branches


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("counts", [(300, 5, 0, 700), (0, 0), (1,), (2, 2)])
def test_a_sweep_gives_the_same_maps_alone_and_in_any_batch(name, counts):
    model = build(name).double().eval()
    sweeps = [sweep(count, number) for number, count in enumerate(counts)]
    with torch.no_grad():
        together = model(torch.cat(sweeps), torch.tensor(counts))
        for number, points in enumerate(sweeps):
            alone = model(points, torch.tensor([len(points)]))
            for key, value in alone.items():
                torch.testing.assert_close(value[0], together[key][number])


def test_points_out_of_range_or_without_a_number_change_nothing():
    model, points = build("flatformer").double().eval(), sweep(200, 0)
    stray = torch.tensor([[9.0, 0, 0, 1], [0, -7, 0, 1], [0, 0, 2.5, 1], [float("nan"), 0, 0, 1]], dtype=torch.float64)
    with torch.no_grad():
        clean, mixed = model(points, torch.tensor([200])), model(torch.cat([stray, points]), torch.tensor([204]))
    for key, value in clean.items():
        torch.testing.assert_close(value, mixed[key], rtol=0, atol=0)


def test_pillars_and_their_points_are_those_of_a_slow_walk():
    points, counts = torch.cat([sweep(60, 0), sweep(90, 1)]), torch.tensor([60, 90])
    pillars = find_pillars(points, counts, GRID)
    owners = {}
    for row, point in enumerate(points.tolist()):
        cell = (int(row >= 60), int((point[1] + 6.4) / 0.4), int((point[0] + 4) / 0.4))
        owners.setdefault(cell, []).append(row)
    assert [tuple(cell) for cell in pillars.cells.tolist()] == sorted(owners)
    assert pillars.counts.tolist() == [sum(cell[0] == sample for cell in owners) for sample in (0, 1)]
    features, highest = point_features(pillars, GRID), pillar_maximum(points, pillars.owner, len(pillars.cells))
    for number, cell in enumerate(sorted(owners)):
        own = points[owners[cell]]
        centre = torch.tensor([cell[2] * 0.4 - 3.8, cell[1] * 0.4 - 6.2, 0.0], dtype=torch.float64)
        expected = torch.cat([own, own[:, :3] - own[:, :3].mean(0), own[:, :3] - centre], dim=1)
        torch.testing.assert_close(features[pillars.owner == number], expected)
        torch.testing.assert_close(highest[number], own.amax(0))


def test_the_published_scatter_loses_the_first_pillar_of_each_sample():
    pillars = find_pillars(torch.cat([sweep(60, 0), sweep(1, 1)]), torch.tensor([60, 1, 0]), GRID)
    fewer = pillars.without_first()
    assert fewer.cells.tolist() == pillars.cells[1:-1].tolist()
    assert fewer.counts.tolist() == [int(pillars.counts[0]) - 1, 0, 0]
    for number in range(len(fewer.cells)):
        torch.testing.assert_close(fewer.points[fewer.owner == number], pillars.points[pillars.owner == number + 1])


@pytest.mark.parametrize(
    ("points", "counts"), [(torch.zeros(3, 5), [3]), (torch.zeros(3, 4), [2]), (torch.zeros(4), [1])]
)
def test_points_that_do_not_fit_are_refused(points, counts):
    with pytest.raises(UsageError, match="PTD-882"):
        build("flatformer")(points, torch.tensor(counts))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_saved_with_its_configuration(name, tmp_path):
    model = build(name).eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config == model.config == from_mapping(MODELS[name][0], to_mapping(model.config), "config")
    points, counts = sweep(50, 0).float(), torch.tensor([50])
    with torch.no_grad():
        assert torch.equal(again(points, counts)["heatmap"], model(points, counts)["heatmap"])


def scenes():
    """Two sweeps of boxes whose surfaces hold the points, over a floor."""
    boxes = [
        torch.tensor([[-2.0, -3, 0, 2.2, 1, 1, 0.5], [2, 3.5, 0, 0.8, 0.6, 1.6, 0], [1, -1, 0, 2.4, 1.1, 1.2, 2.0]]),
        torch.tensor([[2.0, -4, 0, 2.2, 1, 1, -2.5], [-2.5, 2, 0, 0.8, 0.6, 1.6, 0]]),
    ]
    labels = [torch.tensor([0, 1, 0]), torch.tensor([0, 1])]
    sweeps = []
    for number, scene in enumerate(boxes):
        floor = sweep(400, number).float()
        floor[:, 2] = -1
        parts = [floor]
        for row in scene:
            inner = torch.rand(80, 4, generator=torch.Generator().manual_seed(number)) - 0.5
            inner[:, :2] = turned(inner[:, :2] * row[3:5], row[6]) + row[:2]
            inner[:, 2] *= row[5]
            parts.append(inner)
        sweeps.append(torch.cat(parts))
    return sweeps, boxes, labels


@pytest.mark.parametrize("name", MODELS)
def test_a_detector_learns_the_boxes_of_two_scenes(name):
    model = build(name).train()
    sweeps, boxes, labels = scenes()
    points, counts = torch.cat(sweeps), torch.tensor([len(part) for part in sweeps])
    targets = make_targets(boxes, labels, model.map_grid, 2)
    optimiser = torch.optim.AdamW(model.parameters(), 4e-3)
    for step in range(160):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / 160)
        loss = sum(detection_losses(model(points, counts), targets, model.map_grid).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    config = DecodeConfig(overlap=(0.2,), before=(100,), after=(50,))
    with torch.no_grad():
        found = decode(model(points, counts), model.map_grid, config)
    for one, scene, label in zip(found, boxes, labels, strict=True):
        best = iou_3d(scene, one.boxes[:, :7]) * (label[:, None] == one.labels)
        assert best.amax(dim=1).min() > 0.5


def test_equal_maxima_share_the_gradient_as_torchs_own_maximum_lets_them():
    values = torch.tensor([[1.0, 2], [3, 2], [3, -1], [-2, 5], [-2, 5], [-2, 4]], dtype=torch.float64)
    owner, upstream = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([[6.0, 1], [3, 2]], dtype=torch.float64)
    ours, torchs = values.clone().requires_grad_(), values.clone().requires_grad_()
    index = owner.unsqueeze(1).expand_as(values)
    theirs = torchs.new_zeros(2, 2).scatter_reduce(0, index, torchs, "amax", include_self=False)
    theirs.backward(upstream)
    found = pillar_maximum(ours, owner, 2)
    found.backward(upstream)
    torch.testing.assert_close(found, theirs, rtol=1e-15, atol=0)
    torch.testing.assert_close(ours.grad, torchs.grad)
