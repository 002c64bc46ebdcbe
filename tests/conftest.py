from __future__ import annotations

import os
from pathlib import Path

import coverage
import pytest

CHECKOUT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no worker is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_sessionfinish() -> None:
    """Keep what coverage measured in a worker of xdist, which is given ten seconds to end and then killed."""
    if measuring := coverage.Coverage.current():
        measuring.save()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real samples: PENTAD_REAL_DATA, or shared/data beside the checkout."""
    named = os.environ.get("PENTAD_REAL_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set PENTAD_REAL_DATA to their folder")
    return folder
