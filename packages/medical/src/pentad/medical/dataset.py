"""Training patches by ordinal number: sample i is a function of the seed and i, and of nothing else.

The rules are nnU-Net's: cases drawn with replacement, the last third of every batch forced to hold foreground.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pentad.core.cases import Case
from pentad.core.config import to_mapping
from pentad.core.errors import CaseError, UsageError
from pentad.core.files import digest_file, digest_json
from pentad.medical.augment import AugmentConfig, augment, loaded_size
from pentad.medical.preprocess import Labels, Preprocessing, preprocess, preprocess_label
from pentad.medical.volumes import canonical, check_same_grid, read_label, read_nifti

log = logging.getLogger(__name__)

_FORMAT = 1  # of the cache: raise it when what `preprocess` returns for equal settings changes
_STORED = 10_000
_STORED_SHARE = 0.01
_POSITIONS_SEED = 1234


@dataclass(frozen=True)
class PreparedCase:
    """A case on the network's grid.

    Attributes:
        id: Name of the case.
        image: Intensities (z, y, x) float32, or the .npy file that holds them.
        label: Classes (z, y, x) int8, -1 outside the masked image, or their .npy file.
        foreground: Rows of class, z, y, x: up to 10,000 positions (at least 1 %) of every class that is present.
        masked: The image counts only inside its mask: what lies outside stays 0 whatever is changed.
    """

    id: str
    image: NDArray[np.float32] | Path
    label: Labels | Path
    foreground: NDArray[np.int32]
    masked: bool = False

    def arrays(self) -> tuple[NDArray[np.float32], Labels]:
        """Return image and label; those in files are mapped, so that only what is used is read."""
        return _opened(self.image), _opened(self.label)


@dataclass(frozen=True)
class PatchConfig:
    """How patches are drawn.

    Attributes:
        patch_size: Voxels; two values draw slices of the first axis.
        batch_size: Samples of a batch; forcing goes by a sample's place in its batch.
        foreground: Share of every batch that is forced to hold foreground, rounded as nnU-Net does (one of two,
            one of three, four of twelve); in batches of one it is the chance of each sample.
        seed: Of everything drawn.
        augmentation: Probabilities of the random changes.
    """

    patch_size: tuple[int, ...]
    batch_size: int = 2
    foreground: float = 0.33
    seed: int = 0
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if len(self.patch_size) not in (2, 3) or min(self.patch_size) < 1:
            raise ValueError(f"patch_size must be 2 or 3 lengths of at least 1, not {self.patch_size}")
        if self.batch_size < 1 or not 0 <= self.foreground <= 1:
            problem = f"batch_size is {self.batch_size}, foreground {self.foreground}"
            raise UsageError("PTD-388", problem, "give at least 1, and a share from 0 to 1")


class PatchDataset(Dataset[dict[str, Tensor]]):
    """Patches without end: item 0, 1, 2 and so on.

    Every item holds ``image`` (1, *patch_size) float32 and ``label`` (1, *patch_size) int64. Past the scan's edge
    the image is 0 (the mean of what `preprocess` standardised) and the label 0.

    Args:
        cases: Where patches come from.
        config: How they are drawn.

    Raises:
        UsageError: There is no case.
    """

    def __init__(self, cases: Sequence[PreparedCase], config: PatchConfig) -> None:
        if not cases:
            raise UsageError("PTD-385", "there is no case to train on", "give the case table a split 'train'")
        self.cases = tuple(cases)
        self.config = config
        self.loaded = loaded_size(config.patch_size, config.augmentation)

    def __getitem__(self, ordinal: int) -> dict[str, Tensor]:
        """Return the sample of this number."""
        config = self.config
        rng = np.random.default_rng((config.seed, ordinal))
        case = self.cases[int(rng.integers(len(self.cases)))]
        image, label = case.arrays()
        centre = self._foreground_voxel(case, ordinal, rng)
        if len(config.patch_size) == 2:
            slice_number = int(rng.integers(len(image))) if centre is None else centre[0]
            image, label = image[slice_number], label[slice_number]
            centre = None if centre is None else centre[1:]
        starts = [
            _start(length, patch, rng, None if centre is None else centre[axis])
            for axis, (length, patch) in enumerate(zip(image.shape, config.patch_size, strict=True))
        ]
        # The patch lies in the middle of what is read, as `augment` will cut it out again.
        origin = [
            start - (loaded - patch) // 2
            for start, loaded, patch in zip(starts, self.loaded, config.patch_size, strict=True)
        ]
        patch_image, patch_label = augment(
            torch.from_numpy(_region(image, origin, self.loaded))[None],
            torch.from_numpy(_region(label, origin, self.loaded, -1 if case.masked else 0))[None],
            (config.seed, ordinal, 1),  # another stream than the one that chose the place
            config.augmentation,
            config.patch_size,
        )
        return {"image": patch_image, "label": patch_label.long()}

    def _foreground_voxel(self, case: PreparedCase, ordinal: int, rng: np.random.Generator) -> list[int] | None:
        """A random stored voxel of a random class that is present, where this sample is forced to foreground."""
        size, share = self.config.batch_size, self.config.foreground
        forced = ordinal % size >= round(size * (1 - share)) if size > 1 else rng.random() < share
        if not forced or not len(case.foreground):
            return None
        wanted = rng.choice(np.unique(case.foreground[:, 0]))
        rows = np.flatnonzero(case.foreground[:, 0] == wanted)
        return [int(value) for value in case.foreground[rng.choice(rows), 1:]]


def prepare_case(case: Case, settings: Preprocessing, cache: Path | None = None) -> PreparedCase:
    """Return the case on the network's grid, in memory or from the cache folder, which is filled at first use.

    Args:
        case: With the NIfTI files ``image`` and ``label``.
        settings: What the plan says of preprocessing.
        cache: Folder of mapped arrays, named by the digests of settings and files; None keeps them in memory.

    Raises:
        CaseError: A file is missing, or image or label cannot be used.
        UsageError: The cache folder cannot be written.
    """
    missing = [role for role in ("image", "label") if role not in case.files]
    if missing:
        raise CaseError("PTD-386", f"the case has no file '{missing[0]}'", "prepare the data again", case.id)
    try:
        if cache is None:
            return PreparedCase(case.id, *_prepared(case, settings), settings.masked)
        digests = [digest_file(Path(case.files[role])) for role in ("image", "label")]
        key = digest_json({"format": _FORMAT, "settings": to_mapping(settings), "files": digests})
        folder = cache / key[:32]
        if not folder.is_dir():
            _store(folder, _prepared(case, settings))
        foreground = np.load(folder / "foreground.npy", allow_pickle=False)
        return PreparedCase(case.id, folder / "image.npy", folder / "label.npy", foreground, settings.masked)
    except CaseError as error:
        raise CaseError(error.code, error.problem, error.remedy, error.where or case.id) from None


def _prepared(case: Case, settings: Preprocessing) -> tuple[NDArray[np.float32], Labels, NDArray[np.int32]]:
    scan, classes = read_nifti(Path(case.files["image"])), read_label(Path(case.files["label"]))
    check_same_grid(scan, classes, case.id)
    upright, _ = canonical(scan)
    image, grid, mask = preprocess(upright.array, upright.spacing, settings)
    label = preprocess_label(canonical(classes)[0].array, grid, mask)
    log.info("case %s: %s voxels", case.id, " x ".join(map(str, image.shape)))
    return image, label, foreground_positions(label)


def foreground_positions(label: Labels) -> NDArray[np.int32]:
    """Return rows of class, z, y, x: of every class above 0, up to 10,000 voxels or 1 %, drawn by a fixed seed."""
    rng = np.random.default_rng(_POSITIONS_SEED)
    found = [np.zeros((0, 4), dtype=np.int32)]
    for value in range(1, int(label.max()) + 1):
        voxels = np.flatnonzero(label == value)
        count = min(len(voxels), max(_STORED, round(len(voxels) * _STORED_SHARE)))
        drawn = rng.choice(voxels, count, replace=False) if count else voxels
        places = np.stack([np.full(count, value), *np.unravel_index(drawn, label.shape)], axis=1)
        found.append(places.astype(np.int32))
    return np.concatenate(found)


def _store(folder: Path, arrays: tuple[NDArray[Any], ...]) -> None:
    """Write the arrays so that the folder is there with all of them or not at all."""
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        for name, array in zip(("image", "label", "foreground"), arrays, strict=True):
            with (part / f"{name}.npy").open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
                # On the disk before the folder gets its name: after a crash a named folder is a whole one.
                stream.flush()
                os.fsync(stream.fileno())
        part.rename(folder)
    except OSError as error:
        # Another process may have stored the same case in the meantime; anything else is a real failure.
        if not folder.is_dir():
            problem = f"prepared cases cannot be stored ({error.strerror})"
            raise UsageError("PTD-387", problem, "free space or choose another folder", folder.parent) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _opened(array: NDArray[Any] | Path) -> NDArray[Any]:
    if isinstance(array, Path):
        mapped: NDArray[Any] = np.load(array, mmap_mode="r", allow_pickle=False)
        return mapped
    return array


def _start(length: int, patch: int, rng: np.random.Generator, centre: int | None) -> int:
    """Where a patch begins along one axis: about ``centre`` or anywhere inside; short axes stand in its middle."""
    room = length - patch
    # The same middle as the tiling's padding, so that training and prediction see a short scan alike.
    if room <= 0:
        return -(-room // 2)
    drawn = int(rng.integers(room + 1)) if centre is None else centre - patch // 2
    return min(max(drawn, 0), room)


def _region(array: NDArray[Any], origin: Sequence[int], size: Sequence[int], past: int = 0) -> NDArray[Any]:
    """A copy of the region, ``past`` the array's edges."""
    region = np.full(tuple(size), past, dtype=array.dtype)
    source, target = [], []
    for start, length, extent in zip(origin, size, array.shape, strict=True):
        first, last = max(start, 0), min(start + length, extent)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    region[tuple(target)] = array[tuple(source)]
    return region
