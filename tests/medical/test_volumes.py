from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pentad.core.errors import CaseError
from pentad.medical.volumes import (
    Volume,
    as_labels,
    canonical,
    check_hounsfield,
    check_same_grid,
    grid_distance,
    read_grid,
    read_label,
    read_nifti,
    restore,
    write_nifti,
)

TURNS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1.0, -1.0), repeat=3)
]


def turned(order: tuple[int, ...], signs: tuple[float, ...]) -> Volume:
    """A volume whose voxel axes x, y, z run along the world axes in ``order`` with these signs."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (world, sign, size) in enumerate(zip(order, signs, (0.8, 1.5, 4.0), strict=True)):
        affine[world, column] = sign * size
    affine[:3, 3] = (-31.0, 17.0, 240.0)
    return Volume(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5), affine)


def places(volume: Volume) -> dict[int, tuple[float, ...]]:
    """World place of every voxel, by its value."""
    found = {}
    for (z, y, x), value in np.ndenumerate(volume.array):
        found[int(value)] = tuple(np.round((volume.affine @ (x, y, z, 1))[:3], 6))
    return found


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0]) if affine is None else affine).to_filename(path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CaseError) as caught:
        read_nifti(path)
    assert str(path.parent) not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_canonical_keeps_every_voxel_in_its_place(order, signs):
    volume = turned(order, signs)
    upright, _ = canonical(volume)
    assert places(upright) == places(volume)
    assert (np.diag(upright.affine)[:3] > 0).all()


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_restore_undoes_canonical(order, signs):
    volume = turned(order, signs)
    upright, how = canonical(volume)
    assert np.array_equal(restore(upright.array, how), volume.array)


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_nifti_round_trip_keeps_values_and_grid(order, signs, tmp_path):
    volume = turned(order, signs)
    write_nifti(tmp_path / "a.nii.gz", volume)
    again = read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(again.array, volume.array)
    assert grid_distance(again, volume) < 1e-4


def test_an_oblique_volume_is_turned_but_not_resampled(tmp_path):
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -2.0]])
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine)
    write_nifti(tmp_path / "a.nii", volume)
    upright, _ = canonical(read_nifti(tmp_path / "a.nii"))
    near = places(upright)
    for value, place in places(volume).items():
        assert np.allclose(near[value], place, atol=1e-4)


def test_world_axes_are_those_of_itk(tmp_path):
    SimpleITK = pytest.importorskip("SimpleITK")
    volume = turned((1, 2, 0), (1.0, -1.0, -1.0))
    write_nifti(tmp_path / "a.nii", volume)
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii"))
    assert np.allclose(image.TransformIndexToPhysicalPoint((4, 3, 2)), (volume.affine @ (4, 3, 2, 1))[:3], atol=1e-4)


def test_equal_volumes_give_equal_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, turned((0, 1, 2), (1.0, 1.0, 1.0)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_spacing_is_given_from_the_slices_inwards():
    assert turned((0, 1, 2), (1.0, 1.0, 1.0)).spacing == pytest.approx((4.0, 1.5, 0.8))
    assert turned((0, 1, 2), (1.0, 1.0, 1.0)).voxel_ml == pytest.approx(0.0048)


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1), (4, 4, 4, 3)])
def test_what_is_no_volume_is_refused(shape, tmp_path):
    assert refused(save(tmp_path / "a.nii", np.zeros(shape, np.float32))) == "PTD-351"


def test_a_fourth_axis_of_one_is_dropped(tmp_path):
    assert read_nifti(save(tmp_path / "a.nii", np.zeros((4, 5, 6, 1), np.int16))).array.shape == (6, 5, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    array = np.zeros((4, 4, 4), np.float32)
    array[1, 2, 3] = value
    assert refused(save(tmp_path / "a.nii", array)) == "PTD-352"


@pytest.mark.parametrize("size", [0.0, -1.0, 1e-4, 400.0, np.nan])
def test_an_absurd_spacing_is_refused(size, tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16))
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(size).tobytes()  # pixdim[1]
    path.write_bytes(content)
    assert refused(path) == "PTD-353"


def test_two_spacings_in_one_header_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((4, 4, 4), np.int16))
    content = bytearray(path.read_bytes())
    content[88:92] = np.float32(5.0).tobytes()  # pixdim[3]; the sform still says 2
    path.write_bytes(content)
    assert refused(path) == "PTD-353"


def test_a_sheared_or_singular_affine_is_refused(tmp_path):
    sheared = np.array([[1, 0.2, 0, 0], [0, np.sqrt(0.96), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), None)
    for name, affine in (
        ("sheared", sheared),
        ("singular", np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    ):
        image.set_sform(affine, code=1)
        image.to_filename(tmp_path / f"{name}.nii")
        assert refused(tmp_path / f"{name}.nii") == "PTD-354"


def test_an_image_that_does_not_say_how_the_patient_lies_is_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.set_sform(np.eye(4), code=0)
    image.set_qform(np.eye(4), code=0)
    image.to_filename(tmp_path / "a.nii")
    assert refused(tmp_path / "a.nii") == "PTD-354"


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_a_truncated_file_is_refused(keep, tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((9, 9, 9), np.int16))
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(path) == "PTD-350"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_promises_more_than_its_file_holds_takes_no_memory(tmp_path, name):
    content = bytearray(save(tmp_path / "small.nii", np.zeros((9, 9, 9), np.int16)).read_bytes())
    content[40:48] = np.array([3, 2000, 2000, 2500], "<i2").tobytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(CaseError, match=rf"PTD-350 {name}: its header promises 200000003\d\d bytes"):
        read_grid(tmp_path / name)


def test_a_text_file_is_no_nifti(tmp_path):
    (tmp_path / "a.nii.gz").write_text("hello")
    assert refused(tmp_path / "a.nii.gz") == "PTD-350"


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0, np.inf])
def test_label_values_must_be_whole_and_fit_a_byte(value):
    array = np.zeros((3, 3, 3), np.float64)
    array[0, 0, 0] = value
    with pytest.raises(CaseError, match="PTD-355"):
        as_labels(array, "a")


def test_labels_stored_as_floats_are_read_as_bytes(tmp_path):
    label = read_label(save(tmp_path / "a.nii", np.full((3, 3, 3), 2.0, np.float32)))
    assert label.array.dtype == np.uint8
    assert (label.array == 2).all()


def test_a_label_of_another_shape_is_refused():
    image = turned((0, 1, 2), (1.0, 1.0, 1.0))
    with pytest.raises(CaseError, match="PTD-356"):
        check_same_grid(image, Volume(image.array[:2], image.affine), "case")


def test_a_label_on_another_grid_is_refused():
    image = turned((0, 1, 2), (1.0, 1.0, 1.0))
    moved = image.affine.copy()
    moved[2, 3] += 4.0
    with pytest.raises(CaseError, match=r"PTD-357 .* 4 mm"):
        check_same_grid(image, Volume(image.array, moved), "case")


def test_the_grid_alone_is_read_from_the_header(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((4, 5, 6), np.int16))
    assert grid_distance(read_grid(path), read_nifti(path)) == 0


def test_values_without_air_or_fat_are_no_hounsfield_units():
    with pytest.raises(CaseError, match="PTD-358"):
        check_hounsfield(np.arange(8, dtype=np.int16), "a")
