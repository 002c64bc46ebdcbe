import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pentad.core.checkpoint import load_strict
from pentad.core.errors import ModelError, UsageError
from pentad.remote_sensing import parity
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.models.change_mamba import (
    ChangeMambaConfig,
    MambaBCD,
    MambaBDA,
    MambaSCD,
    base,
    interleaved,
    official_name,
    official_state,
    small,
    tiny,
)
from pentad.remote_sensing.models.vmamba import DropPath, VMambaConfig

REFERENCE = Path(__file__).parents[1] / "reference"
LITTLE = ChangeMambaConfig(VMambaConfig(widths=(8, 16), depths=(1, 1)), hidden=8)


def spec(name):
    return json.loads((REFERENCE / f"changemamba.{name}.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "count"), [("bcd_tiny", 19), ("scd_tiny", 25), ("losses_metrics", 36)])
def test_published_network_losses_and_metrics_are_reproduced(name, count, dtype):
    rows = parity.changemamba(spec(name), dtype)
    assert len(rows) == count
    assert [row for row in rows if not row[1] <= row[2]] == []


@pytest.mark.parametrize("name", ["bcd_tiny", "scd_tiny"])
def test_both_naming_schemes_give_one_set_of_names(name):
    content = spec(name)
    for old in content["tensors"]:
        present = old
        for prefix, other in content["rename"].items():
            present = other + old.removeprefix(prefix) if old.startswith(prefix) else present
        assert official_name(old) == official_name(f"module.{present}") == present


@pytest.mark.parametrize(
    ("model", "preset", "millions"),
    [
        (MambaBCD, tiny(), 32.61),
        (MambaBCD, small(), 54.00),
        (MambaBCD, base(), 92.40),
        (MambaSCD, tiny(), 37.13),
        (MambaSCD, small(), 58.51),
        (MambaSCD, base(), 97.03),
        (MambaBDA, tiny(classes=5, semantic_classes=2), 34.87),
        (MambaBDA, small(classes=5, semantic_classes=2), 56.26),
        (MambaBDA, base(classes=5, semantic_classes=2), 94.72),
    ],
)
def test_presets_have_the_published_number_of_parameters(model, preset, millions):
    with torch.device("meta"):
        network = model(preset)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("mamba")])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (33, 16)])
def test_every_size_of_image_gives_logits_of_that_size(name, size):
    torch.manual_seed(0)
    model = MODELS[name][1](LITTLE).eval()
    outputs = model(*torch.randn(2, 2, 3, *size))
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    assert {tuple(out.shape[2:]) for out in outputs} == {size}
    assert all(out.isfinite().all() for out in outputs)


@pytest.mark.parametrize(("stride", "side"), [(4, 9), (2, 17), (1, 33)])
def test_the_stem_decides_the_finest_map_and_no_tensor(stride, side):
    config = replace(LITTLE, encoder=replace(LITTLE.encoder, stem_stride=stride))
    model = MambaBCD(config).eval()
    load_strict(model, MambaBCD(LITTLE).state_dict())
    with torch.no_grad():
        features = model.encoder(torch.randn(1, 3, 33, 33))
    assert features[0].shape[2:] == (side, side)


def test_swapping_the_dates_swaps_the_land_covers_of_one_decoder():
    torch.manual_seed(0)
    model = MambaSCD(LITTLE).double().eval()
    model.decoder_T2.load_state_dict(model.decoder_T1.state_dict())
    pre, post = torch.randn(2, 1, 3, 12, 20, dtype=torch.float64)
    _, before, after = model(pre, post)
    _, swapped_before, swapped_after = model(post, pre)
    torch.testing.assert_close((swapped_after, swapped_before), (before, after))


def test_crossing_puts_the_dates_into_even_and_odd_columns():
    pre, post = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
    assert interleaved(pre, post)[0, 0].tolist() == [[0, 1, 0, 1, 0, 1]] * 2


def test_a_network_learns_a_change_it_can_see():
    torch.manual_seed(0)
    model, images = MambaBCD(LITTLE).train(), torch.randn(2, 1, 3, 16, 16)
    label = torch.zeros(1, 16, 16, dtype=torch.long)
    label[:, 4:12, 4:12] = 1
    images[1, :, :, 4:12, 4:12] += 3
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(*images), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_left_out_branches_keep_their_mean():
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(4000, 1))
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert out.mean() == pytest.approx(1, abs=0.05)


def test_an_encoders_checkpoint_is_no_networks():
    model = MambaBCD(LITTLE)
    state = {name: x for name, x in model.state_dict().items() if name.startswith("encoder.")}
    with pytest.raises(ModelError, match=r"PTD-843.*near random"):
        official_state(state)


def test_a_checkpoint_without_batch_counters_loads_and_one_without_weights_does_not():
    model = MambaBCD(LITTLE)
    state = {name: x for name, x in model.state_dict().items() if "num_batches" not in name}
    load_strict(MambaBCD(LITTLE), official_state(state))
    del state["main_clf.weight"]
    with pytest.raises(ModelError, match=r"PTD-516.*main_clf\.weight"):
        load_strict(MambaBCD(LITTLE), official_state(state))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: VMambaConfig(widths=(8, 16), depths=(1,)), "PTD-840.*as many widths as depths"),
        (lambda: VMambaConfig(drop_path=1.0), "PTD-840.*drop_path"),
        (lambda: VMambaConfig(stem_stride=3), "PTD-840.*stem_stride 3"),
        (lambda: ChangeMambaConfig(hidden=0), "PTD-841"),
    ],
)
def test_impossible_sizes_are_refused(make, match):
    with pytest.raises(ModelError, match=match):
        make()


def test_images_of_two_shapes_are_refused():
    with pytest.raises(UsageError, match=r"PTD-842.*\(1, 3, 8, 8\) and \(1, 3, 8, 9\)"):
        MambaBCD(LITTLE)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))


def test_figures_of_another_network_are_refused():
    content = spec("bcd_tiny")
    content["tensors"] = {f"x{name}": shape for name, shape in content["tensors"].items()}
    with pytest.raises(UsageError, match="PTD-844"):
        parity.changemamba(content, torch.float64)
