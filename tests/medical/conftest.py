from __future__ import annotations

from pathlib import Path

import pytest
from command import call
from medical.tiny_cases import PARAMS, write_pair


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder in which four tiny cases were prepared, planned for and trained on for two steps."""
    work = tmp_path_factory.mktemp("trained")
    for seed in range(4):
        write_pair(work / "raw", f"case{seed}", seed)
    (work / "params.yaml").write_text(PARAMS)
    settings = ("--params", work / "params.yaml")
    table = work / "prepared" / "cases.jsonl"
    for stage in (
        ("prepare", work / "raw", "-o", work / "prepared"),
        ("plan", table, "-o", work / "plan.json"),
        (
            "train",
            table,
            "--model",
            "u_mamba_bot",
            "--plan",
            work / "plan.json",
            "-o",
            work / "bundle",
            "--run",
            work / "runs" / "u",
        ),
    ):
        done = call("medical", *stage, *settings)
        assert done.code == 0, done.err
    return work
