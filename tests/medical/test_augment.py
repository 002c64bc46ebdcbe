"""Augmentation: repeatable, aligned, and each group does what it says."""

import dataclasses

import numpy as np
import pytest
import torch

from pentad.medical.augment import AugmentConfig, augment, loaded_size

GROUPS = [field.name for field in dataclasses.fields(AugmentConfig)]


def only(group: str) -> AugmentConfig:
    return dataclasses.replace(AugmentConfig.off(), **{group: 1.0})


def blobs(size, seed=0):
    """An image whose values are its label's classes, 0 to 2, in patches of several voxels."""
    coarse = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, [1, 1, *[-(-n // 8) for n in size]]))
    label = torch.nn.functional.interpolate(coarse.float(), size=list(size), mode="nearest")[0]
    return label.clone(), label.to(torch.int8)


@pytest.mark.parametrize("size", [(48, 40), (16, 40, 40), (8, 40, 48)])
def test_equal_seeds_give_equal_bits_and_others_differ(size):
    config = AugmentConfig()
    image, label = blobs(loaded_size(size, config))
    seen = set()
    for number in range(20):
        first, again = (augment(image, label, (1, number), config, size) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        seen.add(first[0].numpy().tobytes())
    assert len(seen) >= 15  # two samples in which only the same mirroring was drawn are alike


def test_the_global_random_state_is_neither_read_nor_changed():
    image, label = blobs((24, 24, 24))
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    augment(image, label, 3, AugmentConfig(*[1.0] * 10))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_changes_the_image(group):
    image, label = blobs((24, 32, 32))
    image = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    changed = [not torch.equal(augment(image, label, seed, only(group))[0], image) for seed in range(8)]
    # Blur and low resolution take a channel with chance one half.
    assert sum(changed) >= (2 if group in ("blur", "low_resolution") else 8)


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("rotation", "scaling", "mirroring")])
def test_intensity_groups_leave_the_label_alone(group):
    image, label = blobs((12, 32, 32))
    for seed in range(4):
        assert torch.equal(augment(image, label, seed, only(group))[1], label)


@pytest.mark.parametrize("size", [(64, 64), (64, 32), (24, 48, 48), (8, 48, 48)])
@pytest.mark.parametrize("group", ["rotation", "scaling", "mirroring"])
def test_image_and_label_move_together(size, group):
    config = only(group)
    _, label = blobs(loaded_size(size, config))
    binary, mask = (label == 2).float(), (label == 2).to(torch.int8)
    for seed in range(5):
        moved, moved_label = augment(binary, mask, seed, config, size)
        assert torch.equal(moved >= 0.5, moved_label == 1)
        assert set(moved_label.unique().tolist()) <= {0, 1}


def test_nothing_is_changed_when_all_is_off_but_the_middle_is_cut_out():
    image, label = blobs((20, 30, 30))
    cut, cut_label = augment(image, label, 0, AugmentConfig.off(), (10, 20, 30))
    assert torch.equal(cut, image[:, 5:15, 5:25])
    assert torch.equal(cut_label, label[:, 5:15, 5:25])


def test_scaling_keeps_the_centre_and_stays_within_its_range():
    axis = torch.arange(65) - 32.0
    image = (axis[:, None].abs().clamp(min=0) + 0 * axis[None, :])[None]
    factors = []
    for seed in range(60):
        scaled, _ = augment(image, torch.zeros(image.shape, dtype=torch.int8), seed, only("scaling"))
        assert scaled[0, 32, 32] == pytest.approx(0, abs=1e-4)
        factors.append(float(scaled[0, 42, 32]) / 10)
    assert 0.7 <= min(factors) < 0.8
    assert 1.3 < max(factors) <= 1.4
    assert sum(factor < 1 for factor in factors) == pytest.approx(30, abs=12)


def test_rotation_of_a_flat_patch_stays_in_the_plane():
    """A patch more than three times as wide as deep keeps the first axis: slices of one value stay so."""
    image = torch.arange(8.0)[None, :, None, None].expand(1, 8, 60, 60).contiguous()
    rotated, _ = augment(image, torch.zeros(image.shape, dtype=torch.int8), 2, only("rotation"), (8, 40, 40))
    assert torch.allclose(rotated, image[:, :, :40, :40], atol=1e-4)


@pytest.mark.parametrize("size", [(40, 40), (32, 80, 80), (20, 160, 160), (64, 64, 64)])
def test_a_rotated_patch_finds_image_wherever_the_loaded_region_promises_it(size):
    """In the plane the promise is exact; three turns at once may reach outside in the corners."""
    config = only("rotation")
    image = torch.ones(1, *loaded_size(size, config))
    label = torch.zeros(image.shape, dtype=torch.int8)
    inside = [float(augment(image, label, seed, config, size)[0].gt(0.99).float().mean()) for seed in range(6)]
    assert min(inside) >= (0.999 if len(size) == 2 or size[1] / size[0] > 3 else 0.9)


def test_contrast_and_gamma_keep_what_they_promise():
    image = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(1))
    label = torch.zeros(image.shape, dtype=torch.int8)
    for seed in range(6):
        contrast, _ = augment(image, label, seed, only("contrast"))
        assert contrast.min() >= image.min()
        assert contrast.max() <= image.max()
        for group in ("gamma", "gamma_inverted"):
            gamma, _ = augment(image, label, seed, only(group))
            assert float(gamma.mean()) == pytest.approx(float(image.mean()), abs=1e-4)
            assert float(gamma.std()) == pytest.approx(float(image.std()), abs=1e-4)


def test_blur_does_not_darken_the_edges():
    image, label = torch.ones(1, 12, 12, 12), torch.zeros(1, 12, 12, 12, dtype=torch.int8)
    for seed in range(4):
        assert torch.allclose(augment(image, label, seed, only("blur"))[0], image, atol=1e-4)


def test_outside_the_mask_the_image_stays_zero_and_the_label_becomes_background():
    image, label = blobs((24, 24, 24))
    label[:, :12] = -1
    image[:, :12] = 0
    changed, changed_label = augment(image, label, 0, dataclasses.replace(only("noise"), brightness=1.0))
    assert not changed[:, :12].any()
    assert changed_label.min() == 0
    assert changed[:, 12:].any()


def test_a_mask_turns_with_its_image():
    image, label = torch.ones(1, 40, 40), torch.full((1, 40, 40), -1, dtype=torch.int8)
    label[:, 10:30, 15:25] = 1
    for seed in range(4):
        changed, changed_label = augment(image, label, seed, only("rotation"))
        assert torch.equal(changed != 0, changed_label == 1)
        assert int(changed_label.sum()) == pytest.approx(200, rel=0.1)


def test_probabilities_are_kept_over_many_draws():
    image, label = torch.randn(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int8)
    config = dataclasses.replace(AugmentConfig.off(), brightness=0.15)
    changed = sum(not torch.equal(augment(image, label, (5, seed), config)[0], image) for seed in range(1000))
    assert changed == pytest.approx(150, abs=45)  # four standard deviations


def test_a_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match="noise must be a probability"):
        AugmentConfig(noise=1.5)
