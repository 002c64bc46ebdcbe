"""Small streets, their settings and an untrained bundle for the tests of this package."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pentad.core.bundle import save_bundle
from pentad.core.run import provenance
from pentad.point_clouds.decoding import DecodeConfig
from pentad.point_clouds.frames import PointConfig
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.predict import Settings
from pentad.point_clouds.samples import write_frame
from pentad.point_clouds.train import build

TINY = {
    "flatformer": {
        "pillar_widths": [4, 8],
        "encoder": {"blocks": 1, "heads": 2, "hidden": 8, "window": [4, 4], "group": 16},
        "backbone": {"widths": [4, 8], "depths": [0, 0], "strides": [2, 2], "neck_widths": [4, 4]},
        "head": {"width": 8, "branch_width": 4, "velocity": False, "iou": False},
    },
    "point_pillars": {
        "pillar_widths": [8],
        "backbone": {"widths": [4, 8], "depths": [0, 0], "strides": [2, 2], "neck_widths": [4, 4]},
        "head": {"width": 8, "branch_width": 4, "velocity": False, "iou": False},
    },
}
PARAMS = {
    "classes": ["car", "pedestrian", "cyclist"],
    "prepare": {"split": {"train": 0.5, "test": 0.5}, "seed": 1},
    "grid": {"range_m": [-16, -16, -4, 16, 16, 2.4], "cell_m": [1, 1]},
    "networks": TINY,
    "points": {"sweeps": 1},
    "augment": {"paste": {"pedestrian": 4}},
    "losses": {},
    "train": {"steps": 2, "batch_size": 2, "optimizer": "adamw", "learning_rate": 0.001},
    "decode": {"min_score": 0.01, "candidates": 40, "overlap": [0.2], "before": [40], "after": [20]},
    "evaluate": {"resamples": 20, "bins": [0, 10, 32]},
}


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """Six streets, the last with earlier sweeps."""
    root = tmp_path_factory.mktemp("streets")
    for number in (1, 2, 3, 4, 5, 8):
        write_frame(root, number)
    (root / "dataset.json").write_text('{"name": "Streets", "synthetic": true, "licence": "CC0-1.0"}')
    return root


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS))
    return path


def write_bundle(folder: Path, name: str = "point_pillars", sweeps: int = 1) -> Path:
    torch.manual_seed(0)
    grid = GridConfig((-32, -32, -4, 32, 32, 2.4), (2.0, 2.0))
    model = build(name, TINY[name], grid, 3, "test")
    decode = DecodeConfig(min_score=0.01, candidates=40, overlap=(0.2,), before=(40,), after=(10,))
    settings = Settings(("car", "pedestrian", "cyclist"), PointConfig(sweeps=sweeps), decode)
    save_bundle(
        folder,
        model,
        domain="point_clouds",
        name=name,
        settings=settings.to_mapping(),
        card="Untrained.",
        provenance=provenance("point_clouds"),
    )
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b")


def copy_sweep(streets, folder, name, number=1):
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(streets / "points" / f"street-{number:03d}.bin", folder / name)
