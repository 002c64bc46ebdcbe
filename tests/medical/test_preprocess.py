"""Preprocessing and its way back: geometry, normalisation, and agreement with SciPy and SimpleITK."""

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from pentad.core.errors import CaseError, UsageError
from pentad.medical.plan import Intensity, Normalisation, Plan
from pentad.medical.preprocess import (
    Preprocessing,
    nearest_indices,
    normalise,
    preprocess,
    preprocess_label,
    resize,
    resize_labels,
    restore_labels,
    separate_axis,
)

CT = Normalisation("ct", intensity=Intensity(100, 20, 100, -50, 300, low=40, high=180))
PLAIN = Normalisation("none")
SPACINGS = [(5.0, 0.7, 0.7), (2.5, 0.81, 0.93), (1.0, 1.0, 1.0), (0.9, 1.7, 2.0), (3.0, 0.6, 2.2)]


def smooth(shape=(30, 60, 50), seed=0):
    noise = np.random.default_rng(seed).standard_normal(shape)
    image = ndimage.gaussian_filter(noise, 2)
    return (image / image.std()).astype(np.float32)


def ellipsoids(shape, spacing):
    """A large organ (1) with a lesion (2) in it, of the same size in mm on any grid of 90 x 120 x 120 mm."""
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    label = (((z - 45) / 30) ** 2 + ((y - 60) / 40) ** 2 + ((x - 60) / 45) ** 2 < 1).astype(np.uint8)
    label[((z - 50) / 11) ** 2 + ((y - 50) / 10) ** 2 + ((x - 70) / 12) ** 2 < 1] = 2
    return label


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def logits_of(label, classes=3):
    return torch.from_numpy(np.stack([(label == value) for value in range(classes)]).astype(np.float32))


def to_itk(array, spacing):
    """With its corner, not its first voxel's centre, at the origin: so grids of one field of view coincide."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetOrigin([float(s) / 2 for s in spacing[::-1]])
    return image


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(30, 60, 50), (45, 33, 50), (17, 80, 91), (1, 7, 200)])
def test_resizing_equals_scipys_zoom(order, shape):
    image = smooth()
    factors = np.array(shape) / image.shape
    expected = ndimage.zoom(image.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    expected = np.clip(expected, image.min(), image.max())
    assert np.abs(resize(image, shape, order=order) - expected).max() < 1e-5


@pytest.mark.parametrize(("order", "method"), [(1, sitk.sitkLinear), (3, sitk.sitkBSpline)])
def test_resizing_agrees_with_simpleitk(order, method):
    """Linear everywhere; cubic away from the edges, where ITK continues the image by reflection instead."""
    image, spacing, target = smooth(), (2.0, 1.0, 1.2), (40, 45, 75)
    new = [s * a / b for s, a, b in zip(spacing, image.shape, target, strict=True)]
    reference = to_itk(np.zeros(target, np.float32), new)
    expected = sitk.GetArrayFromImage(sitk.Resample(to_itk(image, spacing), reference, sitk.Transform(), method))
    inner = slice(None) if order == 1 else slice(8, -8)
    difference = (resize(image, target, order=order) - expected)[inner, inner, inner]
    assert np.abs(difference).max() < 1e-4


def test_labels_agree_with_simpleitk_class_by_class():
    label, spacing, target = ellipsoids((36, 80, 80), (2.5, 1.5, 1.5)), (2.5, 1.5, 1.5), (50, 64, 96)
    new = [s * a / b for s, a, b in zip(spacing, label.shape, target, strict=True)]
    reference = to_itk(np.zeros(target, np.float32), new)
    resized = resize_labels(label.astype(np.int8), target)
    for value in (1, 2):
        one_hot = to_itk((label == value).astype(np.float32), spacing)
        share = sitk.GetArrayFromImage(sitk.Resample(one_hot, reference, sitk.Transform(), sitk.sitkLinear))
        sure = np.abs(share - 0.5) > 1e-5
        assert np.array_equal((resized == value)[sure], (share >= 0.5)[sure])


@pytest.mark.parametrize("source", SPACINGS)
@pytest.mark.parametrize("target", [(2.5, 0.8, 0.8), (1.5, 1.5, 1.5), (5.0, 1.0, 1.0)])
def test_a_label_there_and_back_agrees(source, target):
    shape = tuple(round(size / s) for size, s in zip((90, 120, 120), source, strict=True))
    label = ellipsoids(shape, source)
    settings = Preprocessing(target, (0, 1, 2), PLAIN)
    _, grid, _ = preprocess(label + 1.0, source, settings)
    there = preprocess_label(label, grid)
    back = restore_labels(logits_of(there).split(7, dim=1), grid)
    assert back.shape == label.shape
    # Slices of 5 mm taken by nearest neighbour cost more than linear resampling does.
    organ, lesion = (0.96, 0.90) if max(*source, *target) >= 5 else (0.98, 0.95)
    assert dice(back == 1, label == 1) > organ
    assert dice(back == 2, label == 2) > lesion


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_equal_spacing_is_exact_both_ways(transpose):
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=(9, 14, 11)).astype(np.float32), rng.integers(0, 4, (9, 14, 11)).astype(np.uint8)
    image[:2], image[:, :, -3:] = 0, 0
    label[:2], label[:, :, -3:] = 0, 0
    spacing = (3.0, 1.0, 1.5)
    settings = Preprocessing(tuple(spacing[axis] for axis in transpose), transpose, PLAIN)
    moved, grid, _ = preprocess(image, spacing, settings)
    assert np.array_equal(moved, image[2:, :, :-3].transpose(transpose))
    there = preprocess_label(label, grid)
    assert np.array_equal(restore_labels([logits_of(there, 4)], grid), label)


def test_slabs_of_any_thickness_give_the_same_labels():
    _, grid, _ = preprocess(smooth((40, 50, 45)), (2.0, 1.0, 1.0), Preprocessing((1.3, 1.4, 0.9), (0, 1, 2), PLAIN))
    logits = torch.randn(4, *grid.network_shape, generator=torch.Generator().manual_seed(0))
    whole = restore_labels([logits], grid)
    assert whole.max() == 3
    for thickness in (1, 5, 32):
        assert np.array_equal(restore_labels(logits.split(thickness, dim=1), grid), whole)


def test_logits_go_back_as_torch_interpolates_them():
    _, grid, _ = preprocess(smooth((25, 40, 30)), (2.0, 1.0, 1.0), Preprocessing((1.3, 1.4, 0.9), (0, 1, 2), PLAIN))
    logits = torch.randn(3, *grid.network_shape, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(logits[None], size=grid.cropped_shape, mode="trilinear")[0]
    top = expected.topk(2, dim=0).values
    sure = (top[0] - top[1]).numpy() > 1e-4
    assert sure.mean() > 0.99
    assert np.array_equal(restore_labels([logits], grid)[sure], expected.argmax(0).numpy()[sure])


@pytest.mark.parametrize(
    ("old", "new", "axis"),
    [
        ((5, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (5, 1, 1), 0),
        ((3, 1, 1), (3, 1, 1), None),  # a ratio of exactly 3 is not above it
        ((1, 4, 4), (1, 1, 1), None),  # two coarsest axes
        ((1, 1, 4), (6, 1, 1), 2),  # the old spacing decides first
    ],
)
def test_the_coarsest_axis_stands_apart_above_a_ratio_of_three(old, new, axis):
    assert separate_axis(old, new) == axis


def test_an_anisotropic_axis_takes_whole_slices():
    image = smooth((6, 20, 20))
    moved, grid, _ = preprocess(image, (5.0, 1.0, 1.0), Preprocessing((2.0, 1.0, 1.0), (0, 1, 2), PLAIN))
    assert grid.network_shape == (15, 20, 20)
    # Slice i lies at (i + 0.5) * 6 / 15 - 0.5 of the source.
    assert np.array_equal(moved, image[[0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5]])


def test_a_separate_axis_goes_back_by_whole_slices():
    _, grid, _ = preprocess(smooth((6, 20, 20)), (5.0, 1.0, 1.0), Preprocessing((2.0, 1.0, 1.0), (0, 1, 2), PLAIN))
    # The network's spacing is isotropic enough, the scan's is not: the first axis is separate on the way back too.
    there = np.random.default_rng(0).integers(0, 3, grid.network_shape).astype(np.int8)
    back = restore_labels(logits_of(there).split(4, dim=1), grid)
    assert np.array_equal(back, there[nearest_indices(15, 6)])


def test_a_2d_network_keeps_every_slice():
    moved, grid, _ = preprocess(smooth((9, 30, 40)), (4.0, 1.0, 1.0), Preprocessing((1.5, 2.0), (0, 1, 2), PLAIN))
    assert moved.shape == (9, 20, 20)
    assert grid.network_spacing == (4.0, 1.5, 2.0)


def test_ct_is_clipped_and_standardised_by_the_foreground():
    image = np.array([-1000, 40, 100, 120, 3000], dtype=np.float32).reshape(5, 1, 1)
    assert normalise(image, CT).ravel().tolist() == [-3, -3, 0, 1, 4]
    assert image.max() == 3000


def test_z_scores_have_mean_zero_and_deviation_one():
    image = normalise(smooth() * 7 + 30, Normalisation("zscore"))
    assert float(image.mean()) == pytest.approx(0, abs=1e-5)
    assert float(image.std()) == pytest.approx(1, abs=1e-5)


def test_a_masked_z_score_ignores_the_outside_and_marks_it_in_the_label():
    image = np.zeros((8, 12, 12), np.float32)
    image[1:-1, 2:-2, 2:-2] = smooth((6, 8, 8)) * 3 + 50
    image[1, 2:4, 2:4] = 0  # a corner outside
    image[4, 6, 6] = 0  # a hole, which is filled
    settings = Preprocessing((1.0, 1.0, 1.0), (0, 1, 2), Normalisation("zscore", inside_mask=True))
    moved, grid, mask = preprocess(image, (1, 1, 1), settings)
    label = preprocess_label(np.zeros(image.shape, np.uint8), grid, mask)
    assert moved.shape == (6, 8, 8)
    assert np.array_equal(np.argwhere(label == -1), [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]])
    assert not moved[label == -1].any()
    assert float(moved[mask].mean()) == pytest.approx(0, abs=1e-5)
    assert moved[3, 4, 4] < -3


@pytest.mark.parametrize(
    ("array", "spacing", "code"),
    [
        (np.zeros((4, 4)), (1, 1, 1), "PTD-370"),
        (np.full((2, 2, 2), np.nan), (1, 1, 1), "PTD-371"),
        (np.full((4, 4, 4), 7.0), (1, 1, 1), "PTD-372"),
        (smooth((4, 4, 4)), (1, 0, 1), "PTD-373"),
        (smooth((4, 4, 4)), (1, float("inf"), 1), "PTD-373"),
        (smooth((4, 4, 4)), (1e6, 1000, 1000), "PTD-376"),
    ],
)
def test_unusable_scans_are_refused_in_one_sentence(array, spacing, code):
    with pytest.raises(CaseError, match=f"^{code} .*; .*[.]$"):
        preprocess(array, spacing, Preprocessing((1.0, 1.0, 1.0), (0, 1, 2), PLAIN))


@pytest.mark.parametrize("kind", [np.float32, np.int16])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [(1.7, 1.9), (2.6, 1.7, 1.9), (0.6, 0.4, 0.5), (9.0, 1.7, 1.9), (2.0, 0.8, 0.8)])
def test_a_scan_normalised_plane_by_plane_is_that_of_the_whole_to_the_bit(spacing, transpose, kind):
    image = (smooth((20, 70, 60)) * 90 + 100).astype(kind)[:, ::-1]
    moved, grid, _ = preprocess(image, (2.0, 0.8, 0.8), Preprocessing(spacing, transpose, CT))
    whole = normalise(image.transpose(transpose)[grid.crop], CT)
    axis = separate_axis(grid.spacing, grid.network_spacing)
    assert np.array_equal(moved, resize(whole, grid.network_shape, order=3, nearest_axis=axis))


def test_no_normalised_copy_of_the_scans_size_is_made():
    image = smooth((40, 128, 128)) * 90 + 100
    chosen = Preprocessing((1.6, 1.6), (0, 1, 2), CT)
    preprocess(image, (2.0, 0.8, 0.8), chosen)  # the splines' weights stay for the next scan
    tracemalloc.start()
    preprocess(image, (2.0, 0.8, 0.8), chosen)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes / 2


def test_labels_that_do_not_fit_are_refused():
    _, grid, _ = preprocess(smooth((4, 5, 6)), (1, 1, 1), Preprocessing((1.0, 1.0, 1.0), (0, 1, 2), PLAIN))
    with pytest.raises(CaseError, match="PTD-374 the label map has 4 x 5 x 5 voxels, the image 4 x 5 x 6"):
        preprocess_label(np.zeros((4, 5, 5)), grid)
    for wrong in (0.5, -1, 200):
        with pytest.raises(CaseError, match="PTD-375"):
            preprocess_label(np.full((4, 5, 6), wrong), grid)


def test_a_plan_of_one_channel_says_all_and_one_of_two_is_refused():
    names = ("median_shape", "patch_size", "features", "kernel_sizes", "strides", "encoder_blocks", "decoder_blocks")
    rest = {name: () for name in names} | {"configuration": "3d_fullres", "batch_size": 2, "batch_dice": True}
    shared = {"labels": ("background", "liver"), "transpose": (1, 0, 2), "spacing": (2.0, 1.0, 1.5), **rest}
    one = Plan(channels=("CT",), normalisation=(CT,), **shared)
    assert Preprocessing.from_plan(one) == Preprocessing((2.0, 1.0, 1.5), (1, 0, 2), CT)
    with pytest.raises(UsageError, match="PTD-377 the plan has 2 channels"):
        Preprocessing.from_plan(Plan(channels=("CT", "MR"), normalisation=(CT, PLAIN), **shared))
