"""Where a voxel lies, as our files say it to other readers: every orientation of the axes, and oblique ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medical.dicom_series import Scan, dataset, index_folder, value_at, write_series

from pentad.medical.dicom import read_series
from pentad.medical.seg import LIVER_SEGMENTS, Algorithm, write_seg
from pentad.medical.volumes import Volume, read_nifti, write_nifti

MODEL = Algorithm("u_mamba_bot", "1.2.0", "ab" * 32, "cd" * 32)
SHAPE = (5, 6, 7)
SPACING = (3.0, 2.0, 1.25)
ORIGIN = np.array([-20.5, 10.25, -100.75])
MM = 1e-4
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])

SIGNED_AXES = [
    np.array([np.eye(3)[axis] * sign for axis, sign in zip(order, signs, strict=True)])
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


def rotation(seed: int) -> np.ndarray:
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes.T


def tilted(degrees: float, about: int) -> np.ndarray:
    """Rows, columns and slices of an axial scan turned a little."""
    angle, (one, two) = np.radians(degrees), [axis for axis in range(3) if axis != about]
    axes = np.eye(3)
    axes[one, one] = axes[two, two] = np.cos(angle)
    axes[one, two], axes[two, one] = -np.sin(angle), np.sin(angle)
    return axes


OBLIQUE = [*(rotation(seed) for seed in range(6)), *(tilted(12.5, about) for about in range(3)), tilted(44.9, 0)]
DIRECTIONS = [*SIGNED_AXES, *OBLIQUE]


def places(indices: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """LPS mm of voxels (slice, row, column) of a series whose file order runs along ``axes[2]``."""
    return ORIGIN + (indices * np.array(SPACING)) @ axes[[2, 1, 0]]


def write(folder: Path, axes: np.ndarray) -> None:
    """A series with columns along ``axes[0]``, rows along ``axes[1]`` and files in order along ``axes[2]``.

    Half of the orientations are left-handed: their files run against the normal of their own rows and columns.
    """
    row, column = (tuple(float(part) for part in axis) for axis in axes[:2])
    backwards = np.cross(axes[0], axes[1]) @ axes[2] < 0
    origin = ORIGIN + (SHAPE[0] - 1) * SPACING[0] * axes[2] if backwards else ORIGIN
    scan = Scan(shape=SHAPE, row=row, column=column, spacing=SPACING, origin=tuple(origin))
    write_series(folder, scan)


@pytest.fixture(params=DIRECTIONS, ids=lambda axes: " ".join(f"{part:.2g}" for part in axes.ravel()))
def written(request, tmp_path):
    """Axes, the series as we index it, and a finding of ours on its grid: three voxels and their places."""
    write(tmp_path / "in", request.param)
    series = index_folder(tmp_path / "in")[0][0]
    volume = read_series(series)
    label = np.zeros(volume.array.shape, np.uint8)
    # Three voxels that no turn or reflection maps onto each other, found by their place in the world.
    wanted = places(np.array([[0, 1, 5], [4, 2, 1], [3, 5, 6]]), request.param)
    index = np.linalg.solve(volume.affine[:3, :3], (wanted - volume.affine[:3, 3]).T).T
    assert np.abs(index - np.rint(index)).max() < 1e-3
    for (x, y, z), value in zip(np.rint(index).astype(int), (1, 1, 2), strict=True):
        label[z, y, x] = value
    return series, volume, label, wanted


def sorted_rows(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 2).T)]


def assert_same_places(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(sorted_rows(found) - sorted_rows(wanted)).max() < MM


def test_the_scan_is_read_with_every_voxel_in_its_place(written):
    _, volume, _, _ = written
    index = np.indices(volume.array.shape).reshape(3, -1)[::-1]
    world = (volume.affine[:3, :3] @ index).T + volume.affine[:3, 3]
    assert np.abs(np.rint(value_at(world)) - volume.array.ravel()).max() <= 1  # values are rounded in the file


def test_a_nifti_label_lies_in_its_place_for_nibabel_and_simpleitk(written, tmp_path):
    _, volume, label, wanted = written
    write_nifti(tmp_path / "label.nii.gz", Volume(label, volume.affine))
    image = nibabel.load(tmp_path / "label.nii.gz")
    index = np.argwhere(np.asanyarray(image.dataobj) > 0)
    assert_same_places(nibabel.affines.apply_affine(image.affine, index) @ LPS_FROM_RAS, wanted)
    itk = sitk.ReadImage(str(tmp_path / "label.nii.gz"))
    index = np.argwhere(sitk.GetArrayFromImage(itk) > 0)[:, ::-1]
    found = np.array([itk.TransformIndexToPhysicalPoint([int(part) for part in voxel]) for voxel in index])
    assert_same_places(found, wanted)
    assert np.abs(read_nifti(tmp_path / "label.nii.gz").affine - volume.affine).max() < MM


def test_a_segmentation_lies_in_its_place_for_highdicom(written, tmp_path):
    series, _, label, wanted = written
    write_seg(tmp_path / "seg.dcm", label, series, LIVER_SEGMENTS, MODEL)
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    index = np.argwhere(volume.array > 0)
    assert_same_places(volume.map_indices_to_reference(index), wanted)


def test_the_segmentation_lies_in_its_place_for_simpleitk_reading_the_images(written):
    series, _, label, wanted = written
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series.files[0].parent)))
    images = reader.Execute()
    found = []
    for z, y, x in np.argwhere(label > 0):
        plane = series.planes[z]
        names = [Path(name).name for name in reader.GetFileNames()]
        found.append(images.TransformIndexToPhysicalPoint([int(x), int(y), names.index(plane.path.name)]))
    assert_same_places(np.array(found), wanted)


def test_all_orientations_of_the_axes_are_tried():
    assert len({tuple(axes.ravel()) for axes in SIGNED_AXES}) == 48
    assert sum(np.linalg.det(axes) < 0 for axes in SIGNED_AXES) == 24


def test_a_slice_says_the_place_that_this_test_computes():
    scan = Scan(shape=SHAPE, spacing=SPACING, origin=tuple(ORIGIN))
    assert np.allclose([float(part) for part in dataset(scan, 2, 1).ImagePositionPatient], places([2, 0, 0], np.eye(3)))
