import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pentad.core.checkpoint import load_strict, read_checkpoint
from pentad.core.errors import ModelError
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models.bev import BackboneConfig
from pentad.point_clouds.models.center_head import HeadConfig
from pentad.point_clouds.models.flatformer import (
    ORDERS,
    Encoder,
    EncoderConfig,
    FlatFormer,
    FlatFormerConfig,
    config_from_state,
    group_places,
    make_routes,
    official_state,
    position_code,
    sort_key,
)


def snake(order, window, shape):
    """All cells of a grid in an order, walked as the paper draws it: window by window, to and fro, and inside each."""
    n, m = window
    moved = (n // 2, m // 2) if order.endswith("_shift") else (0, 0)
    cells = {}
    for y, x in itertools.product(range(shape[0]), range(shape[1])):
        place = (x + moved[0], y + moved[1])
        cells.setdefault((place[0] // n, place[1] // m), []).append((place[0] % n, place[1] % m, y, x))
    rows = 1 if order.startswith("x") else 0  # the axis along which a row of windows lies still
    walked = []
    for row in sorted({window[rows] for window in cells}):
        line = sorted((key for key in cells if key[rows] == row), key=lambda key: key[1 - rows], reverse=row % 2 == 1)
        for key in line:
            inner = sorted(cells[key], key=lambda c: (c[1 - rows], -c[rows] if c[1 - rows] % 2 else c[rows]))
            walked += [(y, x) for _, _, y, x in (reversed(inner) if row % 2 else inner)]
    return walked


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ORDERS),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.integers(1, 3),
)
def test_sorting_by_key_is_the_walk_through_windows_sample_by_sample(order, window, shape, samples):
    every = itertools.product(range(samples), range(shape[0]), range(shape[1]))
    cells = torch.tensor(list(every))
    sequence = torch.argsort(sort_key(cells, order, window, shape))
    expected = [[sample, y, x] for sample in range(samples) for y, x in snake(order, window, shape)]
    assert cells[sequence].tolist() == expected


def slow_groups(counts, size):
    """The groups' sorted positions, one sample and one place after another; None where there is no pillar."""
    groups, start = [], 0
    for count in counts:
        for first in range(0, count, size):
            own = list(range(start + first, start + min(first + size, count)))
            before = list(range(start + max(count - size, 0), own[0]))[: size - len(own)]
            groups.append(own + before + [None] * (size - len(own) - len(before)))
        start += count
    return groups


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5), st.integers(1, 12))
def test_groups_are_those_of_a_slow_walk(counts, size):
    found = group_places(torch.tensor(counts, dtype=torch.long), size)
    source, expected = found.source.view(-1, size).tolist(), slow_groups(counts, size)
    short = dict(zip(found.short.tolist(), found.present.tolist(), strict=True))
    assert len(source) == len(expected)
    for number, (row, wanted) in enumerate(zip(source, expected, strict=True)):
        present = short.get(number, [True] * size)
        assert [place if here else None for place, here in zip(row, present, strict=True)] == wanted
    # Each pillar is read back from a place that it fills itself.
    assert found.source[found.place].tolist() == list(range(sum(counts)))


LITTLE = EncoderConfig(blocks=1, heads=2, hidden=16, window=(3, 4), group=7)


def cells_of(counts, shape=(9, 11), seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for sample, count in enumerate(counts):
        place = torch.randperm(shape[0] * shape[1], generator=generator)[:count].sort().values
        rows.append(torch.stack([torch.full_like(place, sample), place // shape[1], place % shape[1]], dim=1))
    return torch.cat(rows)


def encoder_output(encoder, cells, counts, features):
    with torch.no_grad():
        return encoder(features, cells, torch.tensor(counts))


@pytest.mark.parametrize("counts", [(20, 3, 0, 14), (3, 2), (0, 1), (7, 7), (30,)])
def test_a_sample_is_encoded_alike_alone_and_beside_any_others(counts):
    torch.manual_seed(0)
    encoder = Encoder(8, LITTLE, (9, 11)).double().eval()
    cells, features = cells_of(counts), torch.randn(sum(counts), 8, dtype=torch.float64)
    together = encoder_output(encoder, cells, counts, features)
    for sample, count in enumerate(counts):
        own = cells[:, 0] == sample
        alone = cells[own].clone()
        alone[:, 0] = 0
        torch.testing.assert_close(encoder_output(encoder, alone, [count], features[own]), together[own])


def test_few_pillars_attend_to_each_other_as_by_the_formula():
    torch.manual_seed(0)
    encoder = Encoder(8, EncoderConfig(blocks=1, orders=("x",), heads=2, hidden=16, group=50), (9, 11)).double()
    counts, (_, layer) = [5], next(encoder.layers())
    cells, x = cells_of(counts), torch.randn(5, 8, dtype=torch.float64)
    attention, position = layer.attn, position_code(cells, 8).double()
    q, k, v = ((x + add) @ w.T + b for add, w, b in zip(
        (position, position, 0), attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
    ))  # fmt: skip
    heads = [torch.softmax(q[:, h] @ k[:, h].T / 2, dim=1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
    expected = layer.mix(x, attention.out_proj(torch.cat(heads, dim=1)))
    torch.testing.assert_close(encoder_output(encoder, cells, counts, x), expected)


def test_every_pillar_reaches_a_group_and_comes_back_by_every_order():
    counts = torch.tensor([20, 3, 0, 14])
    cells = cells_of(counts.tolist())
    for route in make_routes(cells, counts, LITTLE, (9, 11)).values():
        assert route.gather[route.back].tolist() == list(range(len(cells)))


def test_features_given_are_not_changed():
    encoder, features = Encoder(8, LITTLE, (9, 11)), torch.randn(20, 8)
    kept = features.clone()
    encoder_output(encoder, cells_of([20]), [20], features)
    assert torch.equal(features, kept)


def published(model):
    """The model's tensors under the names of the published training."""
    made = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("bbox_head.branches.", "bbox_head.task_heads.0.").replace(".attn.", ".attn.attn.")
        if name.startswith("middle_encoder.block_list."):
            _, _, block, layer, rest = name.split(".", 4)
            name = f"middle_encoder.block_list.{block}.block.{layer}.{rest}"
        made[name] = torch.randn_like(tensor) if tensor.is_floating_point() else tensor
    return made


GRID = GridConfig((-3.2, -3.2, -2, 3.2, 3.2, 4))


def test_a_checkpoint_of_the_published_training_loads_and_lacking_tensors_are_named(tmp_path):
    backbone = BackboneConfig((8,), (1,), (1,), (8,))
    config = FlatFormerConfig(GRID, 5, (8, 8), LITTLE, backbone, HeadConfig(2, 8, 8))
    model, file = FlatFormer(config), tmp_path / "epoch_24.pth"
    tensors = published(model)
    torch.save({"meta": {"epoch": 24, "iter": 9}, "state_dict": tensors, "optimizer": {"state": {}}}, file)
    load_strict(model, official_state(read_checkpoint(file, entry="state_dict")))
    assert torch.equal(model.bbox_head.branches["heatmap"][1].bias, tensors["bbox_head.task_heads.0.heatmap.1.bias"])
    del tensors["middle_encoder.block_list.0.block.3.fc2.weight"]
    with pytest.raises(ModelError, match=r"PTD-516.*missing: middle_encoder\.block_list\.0\.3\.fc2\.weight"):
        load_strict(model, official_state(tensors))


@pytest.mark.parametrize(
    "config",
    [
        FlatFormerConfig(GRID),
        FlatFormerConfig(
            GRID, 4, (16,), LITTLE, BackboneConfig((8,), (0,), (2,), (12,)), HeadConfig(1, 8, convolutions=1, iou=False)
        ),
        FlatFormerConfig(
            GRID,
            6,
            (8, 16, 24),
            EncoderConfig(blocks=3, heads=4, hidden=40),
            BackboneConfig((8, 12, 16), (1, 2, 0), (1, 2, 2), (4, 8, 12)),
            HeadConfig(5, 16, 8, 3, velocity=False),
        ),
    ],
)
def test_a_checkpoint_tells_the_sizes_of_its_network(config):
    told = replace(FlatFormerConfig(GRID), encoder=replace(config.encoder, blocks=7, hidden=1))
    told = replace(told, backbone=replace(told.backbone, strides=(config.backbone.strides[0], 9)))
    with torch.device("meta"):
        state = official_state(published(FlatFormer(config)))
    assert config_from_state(state, told) == config


def test_what_is_no_flatformer_is_told_apart():
    with pytest.raises(ModelError, match="PTD-885"):
        config_from_state({"conv.weight": torch.zeros(1)}, FlatFormerConfig(GRID))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EncoderConfig(orders=("x", "shift_y")), "PTD-881.*no order"),
        (lambda: EncoderConfig(group=0), "PTD-881"),
        (lambda: FlatFormerConfig(pillar_widths=(64, 66)), "PTD-881.*66 channels"),
        (lambda: GridConfig((0, 0, 0, 1, 1, 1), (0.3, 0.5)), "PTD-881.*whole number of cells"),
        (lambda: GridConfig((0, 0, 0, -1, 1, 1)), "PTD-881"),
        (lambda: BackboneConfig(widths=(64,)), "PTD-881"),
        (lambda: HeadConfig(classes=0), "PTD-881"),
    ],
)
def test_impossible_sizes_are_refused(make, match):
    with pytest.raises(ModelError, match=match):
        make()


def test_training_begins_from_layers_that_are_little_more_than_norms():
    torch.manual_seed(0)
    config = EncoderConfig(blocks=1, heads=4, hidden=64, window=(4, 4), group=16)
    encoder = Encoder(32, config, (20, 20)).eval()
    cells = torch.nonzero(torch.ones(1, 20, 20))[torch.randperm(400)[:90].sort().values]
    features = torch.randn(90, 32)
    with torch.no_grad():
        found = encoder(features, cells, torch.tensor([90]))
    normed = torch.nn.functional.layer_norm(features, (32,))
    assert 0.01 < float((found - normed).square().mean()) < 0.2
