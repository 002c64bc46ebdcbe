"""The predictor: orientation, resampling, tiling and post-processing around models whose answer is known."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from pentad.core.errors import CaseError, ModelError, UsageError
from pentad.medical.plan import Intensity, Normalisation
from pentad.medical.postprocess import PostProcessing, holes, postprocess
from pentad.medical.predict import Settings, predict_volume
from pentad.medical.preprocess import Preprocessing
from pentad.medical.volumes import Volume

CT = Normalisation("ct", intensity=Intensity(0, 100, 0, -1000, 1000, low=-1000, high=1000))
ONE = {"liver": 1}
CLASSES = {"liver": 1, "lesion": 2}
SPACING = (3.0, 1.5, 1.0)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


class Threshold(nn.Module):
    """Class 1 above intensity 0, class 2 above 2."""

    def forward(self, x):
        return torch.cat([-20 * x, 20 * x, 40 * (x - 1)], dim=1)


class Octants(nn.Module):
    """One class for bright voxels of each octant of the window, so that a turned or mirrored scan shows."""

    def forward(self, x):
        place = torch.zeros_like(x)
        for axis in range(2, x.ndim):
            shape = [-1 if other == axis else 1 for other in range(x.ndim)]
            place = 2 * place + (torch.arange(x.shape[axis]) >= x.shape[axis] // 2).reshape(shape)
        return torch.cat([x <= 0, *[(x > 0) & (place == value) for value in range(2 ** (x.ndim - 2))]], dim=1).float()


class Recorder(nn.Module):
    """Class 1 everywhere; remembers the shapes it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return torch.cat([torch.zeros_like(x), torch.ones_like(x)], dim=1)


def settings(patch, spacing=SPACING, classes=CLASSES, transpose=(0, 1, 2), **rest):
    rules = rest.pop("postprocessing", PostProcessing())
    return Settings(classes, Preprocessing(spacing, transpose, CT), patch, rules, **rest)


def upright(array, spacing=SPACING):
    """A volume whose axes run along S, P and L."""
    return Volume(np.asarray(array, np.float32), np.diag([*spacing[::-1], 1.0]))


def blob(shape):
    """A smooth lop-sided shape: positive inside, negative outside."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return 100 * (0.7 - (z - 0.1) ** 2 - (y + 0.2) ** 2 - 1.5 * (x - 0.15) ** 2 + 0.4 * x * y * (1 + z))


def octants(image):
    """What `Octants` says of an upright scan in one window."""
    place = np.zeros(image.shape, int)
    for axis, size in enumerate(image.shape):
        shape = [-1 if other == axis else 1 for other in range(3)]
        place = 2 * place + (np.arange(size) >= size // 2).reshape(shape)
    return np.where(image > 0, place + 1, 0)


def turned(array, spacing, axes, signs):
    """An upright array and its affine, stored along other axes: as seen by whoever reads the file."""
    stored = np.flip(array.transpose(axes), [axis for axis in range(3) if signs[axis] < 0])
    affine = np.eye(4)
    for axis in range(3):  # column of x, y, z is stored axis 2, 1, 0; row of L, P, S is upright axis 2, 1, 0
        upright_axis = axes[axis]
        column = np.zeros(4)
        column[2 - upright_axis] = signs[axis] * spacing[upright_axis]
        affine[:, 2 - axis] = column
        if signs[axis] < 0:
            affine[2 - upright_axis, 3] = (array.shape[upright_axis] - 1) * spacing[upright_axis]
    return np.ascontiguousarray(stored, dtype=np.float32), affine


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_shape_is_found_and_told_left_from_right_in_every_orientation(axes, signs):
    image = blob((10, 14, 18))
    eight = {str(value): value for value in range(1, 9)}
    array, affine = turned(image, SPACING, axes, signs)
    found = predict_volume(Octants(), settings(image.shape, classes=eight), Volume(array, affine))
    expected, _ = turned(octants(image), SPACING, axes, signs)
    assert found.label.dtype == np.uint8
    assert np.array_equal(found.label, expected)
    assert set(np.unique(found.label)) == set(range(9))


@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
def test_a_plans_order_of_axes_is_undone(transpose):
    image = blob((10, 14, 18))
    chosen = settings((8, 8, 8), tuple(SPACING[axis] for axis in transpose), transpose=transpose)
    found = predict_volume(Threshold(), chosen, upright(image)).label
    assert np.array_equal(found, np.where(image > 200, 2, np.where(image > 0, 1, 0)))


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (5.0, 1.0, 1.0), (1.0, 3.0, 0.8)])
@pytest.mark.parametrize("patch", [(12, 16, 16), (16, 16)])
def test_a_shape_survives_resampling(spacing, patch):
    """Thresholding a smooth image commutes with resampling, but for a rim of a fraction of a voxel."""
    image = blob((24, 40, 60))
    found = predict_volume(Threshold(), settings(patch, spacing[-len(patch) :]), upright(image)).label
    wrong = (found > 0) != (image > 0)
    whole_slices = len(patch) == 3 and max(spacing) > 3 * min(spacing)
    assert wrong.sum() < (0.08 if whole_slices else 0.03) * (image > 0).sum()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("patch", [(8, 10, 12), (10, 12), (40, 40, 40), (64, 64)])
def test_windows_smaller_or_larger_than_the_scan_change_nothing(patch, mirror):
    image = blob((20, 22, 24))
    chosen = settings(patch, SPACING[-len(patch) :], mirror=mirror)
    assert np.array_equal(predict_volume(Threshold(), chosen, upright(image)).label > 0, image > 0)


def test_slices_of_a_2d_model_keep_their_places():
    """Every slice has another answer; nineteen slices fill four batches and a rest."""
    image = np.full((19, 12, 12), -50.0)
    for z in range(19):
        image[z, z % 10 :, : 2 + z % 7] = 50
    chosen = settings((8, 8), SPACING[1:])
    assert np.array_equal(predict_volume(Threshold(), chosen, upright(image)).label, image > 0)


def test_batches_change_nothing_but_their_size():
    image, model = blob((20, 22, 24)), Recorder()
    predict_volume(model, settings((8, 8, 8), classes=ONE), upright(image), batch_size=5)
    assert max(shape[0] for shape in model.seen) == 5
    one, five = (predict_volume(Threshold(), settings((8, 8, 8)), upright(image), batch_size=n).label for n in (1, 5))
    assert np.array_equal(one, five)


@pytest.mark.parametrize(("patch", "passes"), [((20, 22, 24), 8), ((22, 24), 4)])
def test_mirroring_averages_every_combination_of_axes(patch, passes):
    plain, mirrored = Recorder(), Recorder()
    predict_volume(plain, settings(patch, SPACING[-len(patch) :], ONE), upright(blob((20, 22, 24))))
    predict_volume(mirrored, settings(patch, SPACING[-len(patch) :], ONE, mirror=True), upright(blob((20, 22, 24))))
    assert sum(shape[0] for shape in mirrored.seen) == passes * sum(shape[0] for shape in plain.seen)


@pytest.mark.parametrize(("limit", "copies"), [(1, [1] * 8), (3 * 8**3, [3, 3, 2]), (10**6, [8])])
def test_mirrored_copies_share_a_pass_up_to_a_number_of_voxels(limit, copies, monkeypatch):
    monkeypatch.setattr("pentad.medical.predict._PASS", limit)
    model = Recorder()
    predict_volume(model, settings((8, 8, 8), classes=ONE, mirror=True), upright(blob((8, 8, 8))))
    assert [shape[0] for shape in model.seen] == copies


def test_the_passes_that_copies_share_change_no_label(monkeypatch):
    torch.manual_seed(0)
    model, chosen = nn.Conv3d(1, 3, 3, padding=1), settings((8, 8, 8), mirror=True)
    together = predict_volume(model, chosen, upright(blob((12, 13, 14))))
    monkeypatch.setattr("pentad.medical.predict._PASS", 1)
    alone = predict_volume(model, chosen, upright(blob((12, 13, 14))))
    assert np.array_equal(together.label, alone.label)
    assert together.agreement == alone.agreement


def test_mirroring_evens_out_a_model_that_leans_to_one_side():
    class Leaning(nn.Module):
        def forward(self, x):
            ramp = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
            return torch.cat([torch.zeros_like(x), ramp + 0.01 * torch.sign(x)], dim=1)

    image = blob((8, 8, 16))
    sides = predict_volume(Leaning(), settings(image.shape, classes=ONE), upright(image)).label
    even = predict_volume(Leaning(), settings(image.shape, classes=ONE, mirror=True), upright(image)).label
    assert np.array_equal(even, image > 0)
    assert not np.array_equal(sides, image > 0)


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1)])
def test_the_input_and_the_models_mode_are_left_as_they_were(signs):
    array, affine = turned(blob((8, 9, 10)), SPACING, (0, 1, 2), signs)
    before, model = array.copy(), Threshold().train()
    first, again = (predict_volume(model, settings((8, 8, 8)), Volume(array, affine)).label for _ in range(2))
    assert model.training
    assert np.array_equal(array, before)
    assert np.array_equal(first, again)


def test_integers_and_read_only_scans_are_taken_too():
    image = blob((8, 9, 10)).round()
    array = image.astype(np.int16)
    array.setflags(write=False)
    found = predict_volume(Threshold(), settings((8, 8, 8)), Volume(array, upright(image).affine)).label
    assert np.array_equal(found > 0, array > 0)


def test_an_oblique_scan_is_segmented_on_its_own_grid():
    """A gantry turned by 20 degrees about the long axis changes nothing in the voxels."""
    image, turn = blob((8, 14, 18)), np.radians(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    oblique = Volume(image.astype(np.float32), rotation @ upright(image).affine)
    assert np.array_equal(predict_volume(Threshold(), settings((8, 8, 8)), oblique).label > 0, image > 0)


def test_outside_the_non_zero_box_there_is_background():
    image = np.zeros((12, 16, 16))
    image[3:9, 4:12, 5:13] = 60
    image[4, 5, 6] = -60
    assert np.array_equal(
        predict_volume(Recorder(), settings((8, 8, 8), classes=ONE), upright(image)).label, image != 0
    )


def test_settings_go_through_json_unchanged():
    chosen = settings((8, 8), SPACING[1:], mirror=True, postprocessing=PostProcessing("liver", "lesion"))
    assert Settings.from_mapping(json.loads(json.dumps(chosen.to_mapping()))) == chosen


def test_settings_that_contradict_themselves_are_refused():
    mapping = settings((8, 8), SPACING[1:]).to_mapping()
    for change in ({"patch_size": [8, 8, 8]}, {"classes": {"liver": 2}}, {"mirrors": True}):
        with pytest.raises(UsageError, match="PTD-21"):
            Settings.from_mapping({**mapping, **change})


def test_a_model_of_another_number_of_classes_is_refused():
    with pytest.raises(ModelError, match="PTD-380 the model gives 3 maps for 1 classes"):
        predict_volume(Threshold(), settings((8, 8, 8), classes=ONE), upright(blob((8, 8, 8))))


def test_a_scan_with_nan_is_refused_before_the_model_runs():
    image, model = blob((8, 8, 8)), Recorder()
    image[1, 2, 3] = np.nan
    with pytest.raises(CaseError, match="PTD-371"):
        predict_volume(model, settings((8, 8, 8), classes=ONE), upright(image))
    assert not model.seen


def findings():
    """A liver with a hole and two lesions, a smaller second part, and a lesion far from both."""
    label = np.zeros((12, 30, 30), np.uint8)
    label[2:10, 2:18, 2:18] = 1
    label[5:7, 5:7, 5:7] = 0  # enclosed
    label[4:8, 10:14, 10:14] = 2  # 64 voxels
    label[8, 4, 4] = 2  # 1 voxel
    label[2:4, 20:24, 2:6] = 1
    label[9:11, 24:28, 24:28] = 2
    return label


def applied(**rules):
    off = {"largest_component": False, "fill_holes": False, "lesions_inside": False}
    return postprocess(findings(), CLASSES, SPACING, PostProcessing("liver", "lesion", **{**off, **rules}))


HOLE = (slice(5, 7), slice(5, 7), slice(5, 7))
SECOND_PART = (slice(2, 4), slice(20, 24), slice(2, 6))
FAR_LESION = (slice(9, 11), slice(24, 28), slice(24, 28))


@pytest.mark.parametrize(
    ("rules", "changes"),
    [
        ({}, []),
        ({"largest_component": True}, [(SECOND_PART, 0), (FAR_LESION, 0)]),
        ({"fill_holes": True}, [(HOLE, 1)]),
        ({"lesions_inside": True}, [(FAR_LESION, 0)]),
        ({"smallest_lesion_ml": 0.0046}, [((8, 4, 4), 1)]),
        ({"smallest_lesion_ml": 0.0045}, []),  # one voxel is 3 x 1.5 x 1 mm
    ],
)
def test_each_rule_does_its_own_and_no_more(rules, changes):
    expected = findings()
    for place, value in changes:
        expected[place] = value
    assert np.array_equal(applied(**rules), expected)


def test_the_largest_part_is_one_with_liver_in_it():
    label = np.zeros((6, 20, 20), np.uint8)
    label[1:5, 1:10, 1:10] = 2
    label[1:3, 14:18, 14:18] = 1
    kept = postprocess(label.copy(), CLASSES, SPACING, PostProcessing("liver", "lesion"))
    assert np.array_equal(kept, np.where(label == 1, 1, 0))


def test_an_open_bay_is_no_hole():
    mask = np.ones((5, 5, 5), bool)
    mask[2, 2, 2:] = False
    assert not holes(mask).any()
    mask[2, 2, 4] = True
    assert np.argwhere(holes(mask)).tolist() == [[2, 2, 2], [2, 2, 3]]


def test_without_an_organ_or_without_findings_nothing_changes():
    assert np.array_equal(postprocess(findings(), CLASSES, SPACING, PostProcessing()), findings())
    empty = np.zeros((3, 4, 5), np.uint8)
    assert not postprocess(empty, CLASSES, SPACING, PostProcessing("liver", "lesion")).any()


def test_rules_for_an_unknown_class_name_the_nearest():
    with pytest.raises(UsageError, match=r"PTD-378 .*'lesions' \(did you mean 'lesion'\?\)"):
        postprocess(findings(), CLASSES, SPACING, PostProcessing("liver", "lesions"))


def test_rules_reach_the_prediction():
    image = np.full((10, 20, 20), -50.0)
    image[2:8, 2:12, 2:12], image[4, 5, 5], image[2:4, 15:18, 15:18] = 50, -50, 50
    rules = PostProcessing("liver", "lesion")
    found = predict_volume(Threshold(), settings((8, 8, 8), postprocessing=rules), upright(image)).label
    expected = np.zeros(image.shape)
    expected[2:8, 2:12, 2:12] = 1
    assert np.array_equal(found, expected)


def test_memory_follows_the_scan_and_not_the_classes(monkeypatch):
    """NumPy's own peak: two float32 volumes and slabs as thick as the patch, where all logits would take ten."""

    class Twelve(nn.Module):
        def forward(self, x):
            return torch.cat([x * value for value in range(12)], dim=1)

    monkeypatch.setattr("pentad.medical.preprocess._SLAB_BYTES", 2**20)
    classes = {str(value): value for value in range(1, 12)}
    volume = upright(np.random.default_rng(0).normal(size=(240, 96, 96)))
    tracemalloc.start()
    predict_volume(Twelve(), settings((16, 80, 80), (3.5, 1.6, 1.1), classes, step=1.0), volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * volume.array.nbytes
