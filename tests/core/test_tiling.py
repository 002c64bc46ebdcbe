from __future__ import annotations

import itertools
import json
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pentad.core.errors import CaseError, UsageError
from pentad.core.tiling import gaussian_map, predict_slabs, predict_tiled, window_starts

REFERENCE = json.loads((Path(__file__).parents[1] / "reference/tiling.json").read_text())


def plain_blend(predict, image, tile, step):
    """Every window at once: the formula, without streaming."""
    weights = gaussian_map(tile).double()
    corners = list(itertools.product(*window_starts(image.shape[1:], tile, step)))
    sums, norm = 0.0, torch.zeros(image.shape[1:], dtype=torch.float64)
    for corner in corners:
        place = tuple(slice(first, first + length) for first, length in zip(corner, tile, strict=True))
        logits = predict(image[(slice(None), *place)][None])[0].double()
        whole = torch.zeros((logits.shape[0], *image.shape[1:]), dtype=torch.float64)
        whole[(slice(None), *place)] = logits * weights
        sums, norm[place] = sums + whole, norm[place] + weights
    return sums / norm


def position_dependent(windows):
    """A "model" whose output depends on the place in the window, so that blending matters."""
    ramp = torch.linspace(-1, 1, windows[0, 0].numel()).reshape(windows.shape[2:])
    return torch.cat([windows * ramp, windows.sum(1, keepdim=True) + ramp], 1)


@pytest.mark.parametrize("known", REFERENCE["sliding_window"], ids=lambda known: str(known["image"]))
def test_window_starts_are_the_published_ones(known):
    assert window_starts(known["image"], known["tile"], known["step"]) == known["starts"]


@pytest.mark.parametrize("known", REFERENCE["gaussian"], ids=lambda known: str(known["tile"]))
def test_gaussian_map_is_the_published_one(known):
    weights = gaussian_map(known["tile"], known["sigma_scale"], known["value_scaling_factor"])
    values = weights.flatten()[known["map"]["index"]].numpy()
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(values, known["map"]["value"], rtol=2e-6)
    assert float(weights.min()) == pytest.approx(known["min_value"], rel=2e-6)
    assert float(weights.double().std(correction=0)) == pytest.approx(known["map"]["std"], rel=1e-6)


def test_a_narrow_gaussian_is_positive_to_the_corners():
    weights = gaussian_map((33,), sigma_scale=0.05)
    assert float(weights.min()) > 0
    assert weights[0] == weights.min()


@pytest.mark.parametrize(
    ("shape", "tile", "step", "batch"),
    [
        ((2, 103), (16,), 0.5, 4),
        ((1, 40, 37), (16, 12), 0.5, 3),
        ((2, 21, 19, 25), (8, 8, 10), 0.5, 5),
        ((1, 21, 19, 25), (8, 19, 10), 0.25, 1),
        ((1, 9, 9, 9), (8, 8, 8), 1.0, 2),
    ],
)
def test_streaming_equals_blending_all_windows_at_once(shape, tile, step, batch):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    streamed = predict_tiled(position_dependent, image, tile, step=step, batch_size=batch)
    plain = plain_blend(position_dependent, image, tile, step)
    assert streamed.dtype == torch.float32
    torch.testing.assert_close(streamed.double(), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 50), (3, 5, 60), (1, 5, 30, 7), (2, 64, 9, 33), (1, 1, 1, 1)])
def test_an_identity_gives_the_image_back_at_any_size(shape):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = predict_tiled(lambda windows: windows, image, (16, 12, 10)[: len(shape) - 1])
    torch.testing.assert_close(result, image, rtol=1e-6, atol=1e-6)


def test_a_small_image_stands_in_the_middle_of_a_zero_tile():
    seen = []
    predict_tiled(lambda windows: seen.append(windows) or windows, torch.ones(1, 3, 4), (6, 4))
    assert seen[0][0, 0].tolist() == [[0] * 4] + [[1] * 4] * 3 + [[0] * 4] * 2


def test_slabs_follow_each_other_without_a_gap():
    image = torch.randn(1, 53, 20)
    parts = list(predict_slabs(lambda windows: windows, image, (16, 16)))
    ends = list(itertools.accumulate(slab.shape[1] for _, slab in parts))
    assert [start for start, _ in parts] == [0, *ends[:-1]]
    assert len(parts) > 3
    torch.testing.assert_close(torch.cat([slab for _, slab in parts], 1), image)


@pytest.mark.parametrize("tile", [8, 64])
def test_slabs_from_a_row_on_are_those_of_a_run_from_the_top_and_skip_windows_above_it(tile):
    image = torch.randn(1, 37, 20, generator=torch.Generator().manual_seed(0))
    seen = Counter()

    def blurred(windows):
        seen["windows"] += 1
        return torch.nn.functional.avg_pool2d(windows, 3, 1, 1)

    whole = list(predict_slabs(blurred, image, (tile, tile)))
    for number, (first, _) in enumerate(whole):
        seen.clear()
        part = list(predict_slabs(blurred, image, (tile, tile), first=first))
        assert [start for start, _ in part] == [start for start, _ in whole[number:]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(part, whole[number:], strict=True))
        rows, columns = window_starts((37, 20), (tile, tile))
        assert seen["windows"] == sum(start + tile > first for start in rows) * len(columns)


def test_the_batch_size_changes_no_bit_of_an_elementwise_prediction():
    image = torch.randn(1, 30, 30, generator=torch.Generator().manual_seed(2))
    one, many = (predict_tiled(position_dependent, image, (8, 8), batch_size=size) for size in (1, 7))
    assert torch.equal(one, many)


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors alive that operations inside the block made, and the largest count seen."""

    def __init__(self):
        super().__init__()
        self.users, self.now, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._count(storage.data_ptr(), storage.nbytes(), 1)
                weakref.finalize(tensor, self._count, storage.data_ptr(), storage.nbytes(), -1)
        return result

    def _count(self, key, size, change):
        before = self.users[key]
        self.users[key] += change
        self.now += size * ((before + change > 0) - (before > 0))
        self.peak = max(self.peak, self.now)


def peak_bytes(image, step):
    with LiveMemory() as memory:
        for _ in predict_slabs(lambda windows: windows.repeat(1, 4, 1, 1, 1), image, (8, 16, 16), step=step):
            pass
    return memory.peak


def test_peak_memory_does_not_grow_with_overlap():
    image = torch.randn(1, 32, 48, 48)
    few, many = peak_bytes(image, 1.0), peak_bytes(image, 0.25)
    assert few > 4 * 8 * 48 * 48 * 4  # the sums of four classes over one slab were seen at all
    assert many <= few


def test_peak_memory_does_not_grow_with_the_first_axis():
    short, long = (peak_bytes(torch.randn(1, length, 48, 48), 0.5) for length in (16, 64))
    assert long <= short


def test_a_prediction_that_is_not_finite_fails_the_case():
    with pytest.raises(CaseError, match=r"PTD-310 .*not finite"):
        predict_tiled(lambda windows: windows / 0, torch.zeros(1, 8, 8), (4, 4))


@pytest.mark.parametrize(
    ("tile", "options", "code"),
    [
        ((4, 4), {"step": 0.0}, "PTD-260"),
        ((4, 4), {"step": 1.5}, "PTD-260"),
        ((4, 4, 4), {}, "PTD-261"),
        ((0, 4), {}, "PTD-261"),
        ((4, 4), {"batch_size": 0}, "PTD-262"),
    ],
)
def test_a_tiling_that_does_not_fit_the_image_is_refused(tile, options, code):
    with pytest.raises(UsageError, match=code):
        predict_tiled(lambda windows: windows, torch.zeros(1, 8, 8), tile, **options)


def test_a_model_that_shrinks_its_windows_is_refused():
    with pytest.raises(UsageError, match=r"PTD-263 .*\(1, 1, 4, 4\) into \(1, 1, 2, 4\)"):
        predict_tiled(lambda windows: windows[:, :, ::2], torch.zeros(1, 8, 8), (4, 4))


class Read:
    """An image that counts how much of it is ever asked for at once."""

    def __init__(self, image):
        self.image, self.largest = image, 0

    shape = property(lambda self: self.image.shape)
    device = property(lambda self: self.image.device)

    def __getitem__(self, place):
        window = self.image[place]
        self.largest = max(self.largest, window[0].numel())
        return window


def test_an_image_read_window_by_window_gives_the_same_and_is_never_asked_for_more():
    image = Read(torch.randn(2, 40, 60, generator=torch.Generator().manual_seed(0)))
    predict = lambda x: x * 2  # noqa: E731
    slabs = [slab for _, slab in predict_slabs(predict, image, (16, 16))]
    assert torch.equal(torch.cat(slabs, 1), predict_tiled(predict, image.image, (16, 16)))
    assert image.largest == 256


def test_windows_overlap_by_half_and_weights_are_nnu_nets_unless_told():
    assert window_starts((40,), (16,)) == window_starts((40,), (16,), 0.5) != window_starts((40,), (16,), 0.8)
    assert torch.equal(gaussian_map((9, 5)), gaussian_map((9, 5), sigma_scale=0.125, peak=10.0))
    assert float(gaussian_map((9,)).max()) == 10.0
    image = torch.randn(1, 50, generator=torch.Generator().manual_seed(3))
    assert torch.equal(
        predict_tiled(position_dependent, image, (16,)), predict_tiled(position_dependent, image, (16,), step=0.5)
    )


def test_a_step_may_be_the_whole_tile():
    assert window_starts((32,), (16,), 1.0) == [[0, 16]]


def test_windows_go_through_the_model_one_by_one_unless_told():
    seen = []
    image = torch.zeros(1, 40)
    predict_tiled(lambda windows: seen.append(len(windows)) or windows, image, (16,))
    assert seen == [1] * len(window_starts((40,), (16,))[0])
    list(predict_slabs(lambda windows: seen.append(len(windows)) or windows, image, (16,)))
    assert set(seen) == {1}
