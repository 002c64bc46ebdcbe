"""A copy of the project in which a pipeline may be run, and DVC in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ("metrics.json", "dvc.lock", "plan.json", "report")


def copy_project(place: Path, target: str, *, leftovers: tuple[str, ...] = RESULTS) -> Path:
    """Copy what git tracks or would track, the tests left out, without the results of one pipeline."""
    call = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "packages/")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    for leftover in leftovers:
        path = place / target / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(ROOT / "packages", place / "packages", ignore=shutil.ignore_patterns("*.pyc"))
    subprocess.run(["git", "init", "-q"], cwd=place, check=True)
    return place


def copy_with_samples(place: Path, target: str, settings: Mapping[str, Any]) -> Path:
    """Copy the project and the sample data, and change a pipeline's settings."""
    if not (ROOT / "data").is_dir():
        pytest.skip("no sample data here; write it with pentad samples")
    copy_project(place, target)
    shutil.copytree(ROOT / "data", place / "data", copy_function=shutil.copy)
    change(place, target, settings)
    return place


def change(place: Path, target: str, settings: Mapping[str, Any]) -> None:
    """Replace sections of a pipeline's params.yaml."""
    params = place / target / "params.yaml"
    params.write_text(yaml.safe_dump({**yaml.safe_load(params.read_text()), **settings}))


def dvc(place: Path, *words: str, commands: Path = Path(sys.executable).parent) -> str:
    """Return what DVC says, after a check that it ended well; the stages' `pentad` is the one in ``commands``."""
    path = f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    call = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(call, cwd=place, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
