"""The patch dataset: ordinals, foreground, padding, slices, and the cache."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pentad.core.cases import Case
from pentad.core.errors import CaseError, UsageError
from pentad.medical.augment import AugmentConfig
from pentad.medical.dataset import PatchConfig, PatchDataset, PreparedCase, foreground_positions, prepare_case
from pentad.medical.plan import Normalisation
from pentad.medical.preprocess import Preprocessing
from pentad.medical.volumes import Volume, write_nifti

SETTINGS = Preprocessing((2.0, 1.0, 1.0), (0, 1, 2), Normalisation("none"))


def prepared(shape, name="a", seed=0, lesion=True):
    """Values count the voxels from 1, so that a patch tells where it was cut; a box of liver, a corner of lesion."""
    image = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1e6 * seed
    label = np.zeros(shape, np.int8)
    label[tuple(slice(n // 3, max(2 * n // 3, n // 3 + 1)) for n in shape)] = 1
    if lesion:
        label[0, :2, :2] = 2
    return PreparedCase(name, image, label, foreground_positions(label))


def dataset(cases, patch=(8, 16, 16), augmentation=None, **changes):
    return PatchDataset(cases, PatchConfig(patch, augmentation=augmentation or AugmentConfig.off(), **changes))


def files(folder, name="case_00", shape=(10, 20, 20)):
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=shape).astype(np.float32), np.zeros(shape, np.uint8)
    label[2:5, 4:9, 4:9] = 1
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    write_nifti(folder / "image.nii", Volume(image, affine))
    write_nifti(folder / "label.nii", Volume(label, affine))
    return Case(id=name, files={"image": str(folder / "image.nii"), "label": str(folder / "label.nii")}), image, label


@pytest.mark.parametrize("patch", [(8, 16, 16), (16, 12)])
def test_sample_i_depends_on_seed_and_i_alone(patch):
    cases = [prepared((20, 40, 40)), prepared((12, 30, 50), "b", 1)]
    one, two = (dataset(cases, patch, AugmentConfig(), seed=4) for _ in range(2))
    backwards = [two[number] for number in reversed(range(8))][::-1]
    for number in range(8):
        assert torch.equal(one[number]["image"], backwards[number]["image"])
        assert torch.equal(one[number]["label"], backwards[number]["label"])
    other = dataset(cases, patch, AugmentConfig(), seed=5)
    assert any(not torch.equal(one[number]["image"], other[number]["image"]) for number in range(8))


def test_workers_give_the_same_samples(tmp_path):
    case, _, _ = files(tmp_path)
    patches = dataset([prepare_case(case, SETTINGS, tmp_path / "cache")], (4, 8, 8), AugmentConfig())
    loader = DataLoader(patches, sampler=range(6), batch_size=2, num_workers=2)
    for first, batch in zip(range(0, 6, 2), loader, strict=True):
        for place in range(2):
            assert torch.equal(batch["image"][place], patches[first + place]["image"])
            assert torch.equal(batch["label"][place], patches[first + place]["label"])


@pytest.mark.parametrize("patch", [(8, 16, 16), (16, 16)])
def test_samples_have_the_promised_types_and_shapes(patch):
    sample = dataset([prepared((20, 40, 40))], patch, AugmentConfig())[0]
    assert sample["image"].shape == sample["label"].shape == (1, *patch)
    assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize(("batch_size", "forced"), [(2, [1]), (3, [2]), (12, [8, 9, 10, 11])])
def test_the_last_third_of_every_batch_holds_foreground(batch_size, forced):
    """A patch of one voxel shows exactly what was aimed at."""
    patches = dataset([prepared((20, 40, 40))], (1, 1, 1), batch_size=batch_size)
    for batch in range(10):
        for place in forced:
            assert patches[batch * batch_size + place]["label"].item() > 0


def test_a_forced_class_is_drawn_evenly_among_those_present():
    """Four voxels of lesion are aimed at as often as thousands of liver."""
    patches = dataset([prepared((20, 40, 40))], (1, 1, 1), batch_size=2)
    drawn = [patches[number]["label"].item() for number in range(1, 1201, 2)]
    assert drawn.count(1) + drawn.count(2) == 600
    assert drawn.count(2) == pytest.approx(300, abs=50)  # four standard deviations


def test_a_batch_of_one_is_forced_by_chance():
    patches = dataset([prepared((30, 40, 40))], (1, 1, 1), batch_size=1, foreground=0.33)
    share = np.mean([patches[number]["label"].item() > 0 for number in range(1500)])
    by_chance = (10 * 14 * 14 + 4) / (30 * 40 * 40)  # of the volume, what is foreground
    assert share == pytest.approx(0.33 + 0.67 * by_chance, abs=0.05)


def test_patches_reach_every_voxel_and_stay_inside():
    patches = dataset([prepared((6, 7, 5), lesion=False)], (4, 4, 4), batch_size=3)
    seen = set()
    for number in range(600):
        values = patches[number]["image"].numpy()
        assert values.min() >= 1
        seen |= set(values.ravel().tolist())
    assert seen == {float(value) for value in range(1, 6 * 7 * 5 + 1)}


def test_cases_are_drawn_with_replacement_in_equal_shares():
    patches = dataset([prepared((6, 6, 6), str(seed), seed) for seed in range(3)], (2, 2, 2))
    drawn = [int(patches[number]["image"].max() // 1e6) for number in range(600)]
    assert all(drawn.count(case) == pytest.approx(200, abs=50) for case in range(3))


@pytest.mark.parametrize(
    ("shape", "before"), [((1, 20, 20), (3, 2, 2)), ((3, 5, 24), (2, 9, 0)), ((1, 1, 1), (3, 11, 11))]
)
def test_volumes_smaller_than_the_patch_stand_in_its_middle_among_zeros(shape, before):
    case = prepared(shape, lesion=False)
    around = [(first, want - have - first) for first, have, want in zip(before, shape, (8, 24, 24), strict=True)]
    for number in range(2):
        sample = dataset([case], (8, 24, 24))[number]
        assert np.array_equal(sample["image"][0], np.pad(case.image, around))
        assert np.array_equal(sample["label"][0], np.pad(case.label, around))


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 5, 30), (1, 1, 1)])
def test_tiny_volumes_survive_the_whole_augmentation(shape):
    patches = dataset([prepared(shape)], (8, 24, 24), AugmentConfig(*[1.0] * 10))
    for number in range(4):
        assert torch.isfinite(patches[number]["image"]).all()
        assert patches[number]["label"].min() >= 0


def test_a_2d_configuration_draws_slices_and_forces_them_through_foreground():
    case = prepared((9, 30, 30), lesion=False)
    patches = dataset([case], (12, 12), batch_size=2)
    slices = {int((patches[number]["image"].min() - 1) // 900) for number in range(0, 200, 2)}
    assert slices == set(range(9))
    for number in range(1, 40, 2):
        assert patches[number]["label"].any()


def test_outside_a_masked_image_stays_zero_past_the_edge_too():
    case = prepared((4, 8, 8))
    masked = PreparedCase("a", case.image, case.label, case.foreground, masked=True)
    noisy = AugmentConfig(*[0, 0, 1.0, *[0] * 7])
    assert not dataset([masked], (8, 8, 8), noisy)[0]["image"][0, :2].any()
    assert dataset([case], (8, 8, 8), noisy)[0]["image"][0, :2].any()


def test_positions_cover_every_class_up_to_their_number():
    label = np.zeros((30, 40, 40), np.int8)
    label[:, :, :30] = 1
    label[0, 0, :3] = 3
    rows = foreground_positions(label)
    assert [int((rows[:, 0] == value).sum()) for value in (1, 2, 3)] == [10_000, 0, 3]
    assert np.array_equal(label[tuple(rows[:, 1:].T)], rows[:, 0])


def test_a_case_without_foreground_gives_patches_all_the_same():
    image = np.ones((5, 6, 7), np.float32)
    case = PreparedCase("a", image, np.zeros(image.shape, np.int8), foreground_positions(np.zeros((5, 6, 7), np.int8)))
    assert not dataset([case], (4, 4, 4))[1]["label"].any()


def test_the_cache_gives_what_memory_gives_and_is_used_again(tmp_path):
    case, image, label = files(tmp_path)
    first, again = (prepare_case(case, SETTINGS, tmp_path / "cache") for _ in range(2))
    kept = prepare_case(case, SETTINGS)
    assert first.image == again.image
    for prepared_case in (first, kept):
        stored_image, stored_label = prepared_case.arrays()
        assert np.array_equal(stored_image, image)
        assert np.array_equal(stored_label, label)
    assert np.array_equal(first.foreground, kept.foreground)
    assert isinstance(first.arrays()[0], np.memmap)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_cache_tells_settings_and_inputs_apart(tmp_path):
    case, _, _ = files(tmp_path)
    coarse = Preprocessing((2.0, 2.0, 2.0), (0, 1, 2), Normalisation("none"))
    folders = {prepare_case(case, settings, tmp_path / "cache").image.parent for settings in (SETTINGS, coarse)}
    files(tmp_path, shape=(9, 20, 20))
    folders.add(prepare_case(case, SETTINGS, tmp_path / "cache").image.parent)
    assert len(folders) == 3


def test_a_broken_store_leaves_nothing_behind(tmp_path, monkeypatch):
    case, _, _ = files(tmp_path)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(UsageError, match=r"PTD-387 .*No space left on device"):
        prepare_case(case, SETTINGS, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_case_without_a_label_or_with_another_shape_is_named(tmp_path):
    case, _, _ = files(tmp_path)
    with pytest.raises(CaseError, match="PTD-386 b: the case has no file 'label'"):
        prepare_case(Case(id="b", files={"image": case.files["image"]}), SETTINGS)
    write_nifti(tmp_path / "label.nii", Volume(np.zeros((3, 20, 20), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])))
    with pytest.raises(CaseError, match="PTD-356 case_00: the label has 3 x 20 x 20 voxels"):
        prepare_case(case, SETTINGS)


def test_no_cases_are_refused():
    with pytest.raises(UsageError, match="PTD-385"):
        dataset([])
