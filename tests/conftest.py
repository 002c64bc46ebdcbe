from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real samples: PENTAD_REAL_DATA, or shared/data beside the checkout."""
    named = os.environ.get("PENTAD_REAL_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real samples at {folder}; set PENTAD_REAL_DATA to their folder")
    return folder
