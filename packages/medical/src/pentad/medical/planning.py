"""Stage plan: the training cases in, plan.json out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pentad.core.cases import read_cases
from pentad.core.config import load_params
from pentad.core.errors import UsageError
from pentad.medical.fingerprint import fingerprint
from pentad.medical.plan import PlanOptions, plan


def write_plan(table: Path, out: Path, params: Path, overrides: Sequence[str]) -> str:
    """Write the plan of the training cases and return a one-line summary.

    Raises:
        UsageError: There is no training case, or the data give no such configuration.
    """
    options = load_params(params, "plan", PlanOptions, overrides)
    cases = read_cases(table, "train")
    if not cases:
        raise UsageError("PTD-289", "no case of the split 'train'", "run prepare with other shares", table)
    made = plan(fingerprint(cases), options)
    made.save(out)
    sizes = " x ".join(map(str, made.patch_size))
    return (
        f"{made.configuration}: patch {sizes}, batch {made.batch_size}, {made.stages} stages, spacing {made.spacing} mm"
    )
