"""Volumes of a few thousand voxels with a liver and a lesion, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pentad.medical.volumes import Volume, write_nifti

SHAPE = (12, 24, 24)
GRID = np.diag([2.0, 2.0, 4.0, 1.0])

PARAMS = """
prepare: {split: {train: 0.5, test: 0.5}, seed: 1}
plan: {configuration: 3d_fullres, base_features: 4, max_features: 8, patch_size: [8, 16, 16], batch_size: 2}
train: {steps: 2, checkpoint_every: 1, seed: 3, device: cpu}
augment: {}
sampling: {}
predict: {step: 0.5}
evaluate: {seed: 4}
"""


def tiny_ct(seed: int) -> np.ndarray:
    """HU (z, y, x): air, a body of 40 HU, a liver of 110 HU and a lesion of 60 HU, with noise."""
    values = np.full(SHAPE, -1000.0)
    values[:, 3:21, 3:21] = 40
    values[tiny_labels(seed) == 1] = 110
    values[tiny_labels(seed) == 2] = 60
    return (values + np.random.default_rng(seed).normal(0, 8, SHAPE)).astype(np.int16)


def tiny_labels(seed: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:10, 5:15, 5 : 15 + seed % 3] = 1
    labels[4:7, 7:11, 7:11] = 2
    return labels


def write_pair(folder: Path, name: str, seed: int = 0, *, labels: np.ndarray | None = None) -> None:
    write_nifti(folder / f"{name}_image.nii", Volume(tiny_ct(seed), GRID))
    write_nifti(folder / f"{name}_label.nii", Volume(tiny_labels(seed) if labels is None else labels, GRID))
