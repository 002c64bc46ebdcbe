"""Scans and label maps as arrays with their place in space, and NIfTI files read with suspicion.

Arrays have axes (z, y, x). World coordinates are DICOM's and ITK's: millimetres towards the patient's left, back and
head (LPS). NIfTI counts towards right, front and head, so its first two world axes change sign on the way.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import CaseError
from pentad.core.files import atomic

SPACING_MM = (0.05, 25.0)
"""Voxel edges outside this range are no measurement of a person."""

_nibabel: Any = nibabel  # half of its functions carry no types
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it mends headers aloud; we read what they state
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SQUARE = 1e-3  # largest cosine between two axes: rounding of a stored quaternion stays below, a shear does not
_MAX_LABEL = 255
_DEFLATE_AT_MOST = 1032  # bytes that one compressed byte can stand for
_HIGHEST_MINIMUM_HU = -100.0


@dataclass(frozen=True)
class Volume:
    """A 3-D image with its place in space.

    Attributes:
        array: Values (z, y, x).
        affine: Voxel index (x, y, z, 1) to LPS millimetres, (4, 4) float64.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges along z, y, x in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True)
class Orientation:
    """How an array became canonical, so that the way back is exact.

    Attributes:
        axes: For each canonical axis (z, y, x) the axis of the original array.
        flips: Whether that axis was reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


def canonical(volume: Volume) -> tuple[Volume, Orientation]:
    """Return the volume with axes increasing towards head, back and left, and how it was turned.

    Axes are permuted and reversed, never resampled: an oblique volume keeps its grid, with each axis next to the
    direction it is closest to. Every voxel keeps its place in the world. The array shares the memory of the given one.
    """
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    # columns[i] is the voxel axis (x, y, z) that runs along world axis i (L, P, S)
    columns = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(directions[world, order[world]]) for world in range(3)),
    )
    flips = [bool(directions[world, columns[world]] < 0) for world in range(3)]
    affine = np.eye(4)
    affine[:3, 3] = volume.affine[:3, 3]
    for world, (column, flip) in enumerate(zip(columns, flips, strict=True)):
        step = volume.affine[:3, column]
        affine[:3, world] = -step if flip else step
        if flip:
            affine[:3, 3] += step * (volume.array.shape[2 - column] - 1)
    how = Orientation((2 - columns[2], 2 - columns[1], 2 - columns[0]), (flips[2], flips[1], flips[0]))
    turned = _flipped(volume.array.transpose(how.axes), how.flips)
    return Volume(turned, affine), how


def restore(array: NDArray[Any], how: Orientation) -> NDArray[Any]:
    """Return a canonical array (z, y, x) in the axes order and directions of the volume it came from."""
    back = _flipped(array, how.flips).transpose(np.argsort(how.axes))
    return np.ascontiguousarray(back)


def _flipped(array: NDArray[Any], flips: tuple[bool, bool, bool]) -> NDArray[Any]:
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def grid_distance(one: Volume, other: Volume) -> float:
    """Return how far apart the grids' corner voxels lie at most, in mm; infinity for different shapes."""
    if one.array.shape != other.array.shape:
        return float("inf")
    ends = [(0, size - 1) for size in reversed(one.array.shape)]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], dtype=np.float64)
    apart = corners @ (one.affine - other.affine).T
    return float(np.linalg.norm(apart[:, :3], axis=1).max())


def check_same_grid(image: Volume, label: Volume, where: str) -> None:
    """Refuse a label that does not lie on the image's voxels, to a twentieth of the smallest voxel edge.

    Raises:
        CaseError: Another shape (PTD-356) or another place (PTD-357).
    """
    if image.array.shape != label.array.shape:
        problem = f"the label has {_times(label.array.shape)} voxels, the image {_times(image.array.shape)} (z, y, x)"
        raise CaseError("PTD-356", problem, "give the label that belongs to this image", where)
    apart = grid_distance(image, label)
    if apart > 0.05 * min(image.spacing):
        problem = f"the label's grid lies up to {apart:.3g} mm beside the image's"
        raise CaseError("PTD-357", problem, "resample the label onto the image", where)


def read_nifti(path: Path) -> Volume:
    """Return a NIfTI image; integers stay integers, other values become float32.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        CaseError: It cannot be read (PTD-350), is no volume (PTD-351), holds NaN or infinity (PTD-352), has a spacing
            no scanner makes (PTD-353), or axes that are singular, sheared or unknown (PTD-354).
    """
    header = read_grid(path)
    try:
        array = np.asanyarray(_nibabel.load(path).dataobj)
    except Exception as error:
        raise _unreadable(path, error) from None
    # NIfTI stores x fastest; reversed axes give (z, y, x) without a copy.
    array = array.reshape(array.shape[:3]).T
    if not np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.float32)
        bad = int(array.size - np.isfinite(array).sum())
        if bad:
            problem = f"{bad} voxels are NaN or infinite"
            raise CaseError("PTD-352", problem, "export the image again or replace them", path.name)
    return Volume(np.ascontiguousarray(array), header.affine)


def read_grid(path: Path) -> Volume:
    """Return the grid of a NIfTI file from its header alone: an array of zeros that takes no memory, and the affine.

    Raises:
        CaseError: As for `read_nifti`, save what only the voxels tell.
    """
    try:
        image = _nibabel.load(path)
        pixdim = _stated_spacing(path, type(image.header))
        codes = int(image.header["qform_code"]) + int(image.header["sform_code"])
        affine = np.asarray(image.affine, dtype=np.float64)
        shape, kind = tuple(int(size) for size in image.shape), image.get_data_dtype()
        needed = int(image.dataobj.offset) + math.prod(shape) * kind.itemsize
    except Exception as error:
        raise _unreadable(path, error) from None
    if kind.fields is not None or np.issubdtype(kind, np.complexfloating):
        raise CaseError(
            "PTD-350", "the voxels are colours or complex numbers", "give one real number a voxel", path.name
        )
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 2:
        raise CaseError("PTD-351", f"an image of {_times(shape)} voxels is no volume", "give a 3-D image", path.name)
    _check_length(path, needed)
    _check_affine(affine, pixdim, codes, path.name)
    return Volume(np.broadcast_to(np.uint8(0), shape[::-1]), _LPS_FROM_RAS @ affine)


def _check_length(path: Path, needed: int) -> None:
    """Refuse a file that cannot hold its voxels: nibabel takes memory for all of them before it reads."""
    size = path.stat().st_size * (_DEFLATE_AT_MOST if path.suffix.lower() == ".gz" else 1)
    if size < needed:
        problem = f"its header promises {needed} bytes, of which it can hold {size}"
        raise CaseError("PTD-350", problem, "check that the file is complete", path.name)


def _stated_spacing(path: Path, header: Any) -> list[float]:
    """Edges as the file states them: nibabel turns 0 into 1 and drops signs when it loads an image."""
    with _nibabel.openers.ImageOpener(path) as stream:
        return [float(size) for size in header.from_fileobj(stream, check=False)["pixdim"][1:4]]


def _check_affine(affine: NDArray[np.float64], pixdim: list[float], codes: int, where: str) -> None:
    low, high = SPACING_MM
    if not all(low <= size <= high for size in pixdim):
        problem = f"a voxel spacing of {_times(pixdim)} mm is not between {low} and {high}"
        raise CaseError("PTD-353", problem, "correct the header (pixdim)", where)
    if codes <= 0:
        raise CaseError(
            "PTD-354", "neither qform nor sform says how the patient lies", "set one in the header and its code", where
        )
    # Readers differ in which of two disagreeing statements they believe: refuse rather than guess.
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise CaseError("PTD-354", "the affine is singular or not finite", "correct the header (sform, qform)", where)
    if np.abs(lengths / pixdim - 1).max() > 0.01:
        problem = f"the header gives two spacings: {_times(pixdim)} and {_times(lengths.tolist())} mm"
        raise CaseError("PTD-353", problem, "make pixdim and sform agree", where)
    cosines = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths) - np.eye(3)
    if np.abs(cosines).max() > _SQUARE:
        problem = f"the axes are sheared by {np.degrees(np.arcsin(np.abs(cosines).max())):.2f} degrees"
        raise CaseError("PTD-354", problem, "resample the image onto a rectangular grid", where)


def read_label(path: Path) -> Volume:
    """Return a label map as uint8.

    Raises:
        CaseError: As for `read_nifti`, and values that are not whole numbers from 0 to 255 (PTD-355).
    """
    volume = read_nifti(path)
    return Volume(as_labels(volume.array, path.name), volume.affine)


def as_labels(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return the values as uint8, or refuse what is not whole or not from 0 to 255.

    Raises:
        CaseError: PTD-355, with the first such value.
    """
    whole = array if np.issubdtype(array.dtype, np.integer) else np.rint(array)
    wrong = (whole != array) | (whole < 0) | (whole > _MAX_LABEL)
    if wrong.any():
        problem = f"the label value {array[wrong][0]:g} is not a whole number from 0 to {_MAX_LABEL}"
        raise CaseError("PTD-355", problem, "give classes as integers, not probabilities or resampled values", where)
    return whole.astype(np.uint8)


def check_hounsfield(array: NDArray[Any], where: str) -> None:
    """Refuse an image without any value below -100: CT always shows air or fat, MR and 8-bit pictures do not.

    Raises:
        CaseError: PTD-358.
    """
    lowest = float(array.min())
    if lowest > _HIGHEST_MINIMUM_HU:
        problem = f"its smallest value is {lowest:g}, so the values are no Hounsfield units"
        raise CaseError("PTD-358", problem, "give CT in HU", where)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI, whole or not at all; equal volumes give equal bytes.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        volume: Any real type that NIfTI knows; booleans are written as uint8. The grid is kept to 1e-4 mm.
    """
    array = volume.array.astype(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    affine = _LPS_FROM_RAS @ volume.affine
    image = _nibabel.Nifti1Image(array.T, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    with atomic(path) as temporary:
        image.to_filename(temporary)


def _unreadable(path: Path, error: Exception) -> CaseError:
    # Readers' messages may carry the whole path; the kind of the error says enough.
    problem = f"cannot be read as NIfTI ({type(error).__name__})"
    return CaseError("PTD-350", problem, "check that the file is complete", path.name)


def _times(sizes: Any) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
