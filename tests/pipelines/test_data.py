"""``data.dvc`` pins every domain's samples, and nothing but ``pentad samples`` writes them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DATASETS = {
    "audio/sounds",
    "medical/liver",
    "nlp/entities",
    "nlp/posts",
    "point_clouds/streets",
    "remote_sensing/building_change",
}


@pytest.fixture(scope="session")
def data():
    subprocess.run([sys.executable, "-m", "pentad.core", "samples", str(ROOT / "data")], check=True, cwd=ROOT)
    return ROOT / "data"


def test_the_pin_counts_the_files_that_are_there(data):
    pin = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]
    files = [path for dataset in DATASETS for path in (data / dataset).rglob("*") if path.is_file()]
    assert pin["path"] == "data"
    assert pin["nfiles"] == len(files)
    assert pin["size"] == sum(path.stat().st_size for path in files)


def test_every_dataset_is_there(data):
    assert all((data / dataset).is_dir() for dataset in DATASETS)


def test_the_samples_are_the_pinned_bytes(data):
    if {path.relative_to(data).as_posix() for path in data.glob("*/*")} != DATASETS:
        pytest.skip("data/ holds a user's datasets beside the samples, so its digest is the user's")
    state = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "data.dvc"], capture_output=True, text=True, cwd=ROOT
    )
    assert "up to date" in state.stdout, state.stdout + state.stderr
