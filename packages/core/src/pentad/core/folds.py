"""A case table cut into folds for cross-validation: every case is tested exactly once, groups stay together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pentad.core import statement
from pentad.core.cases import Case, read_cases, shuffled_groups, write_cases
from pentad.core.errors import UsageError

TABLE = "cases.jsonl"


def assign_folds(cases: Sequence[Case], count: int, seed: int) -> list[list[Case]]:
    """Return one table a fold, all with every case: its own part has the split ``test``, the rest ``train``.

    Groups are taken in an order fixed by ``seed``; each goes to the fold with fewest cases, the first of equals.

    Args:
        cases: Cases; the splits they carry are not looked at.
        count: Number of folds, from 2 to the number of groups.
        seed: Seed of the order.

    Raises:
        UsageError: There are fewer than two folds, or fewer groups than folds.
    """
    groups = shuffled_groups(cases, seed)
    if not 2 <= count <= len(groups):
        problem = f"{count} folds of {len(cases)} cases in {len(groups)} groups"
        raise UsageError("PTD-600", problem, "ask for at least 2 folds and at most as many as there are groups")
    sizes, fold_of = [0] * count, [0] * len(cases)
    for positions in groups:
        chosen = sizes.index(min(sizes))
        sizes[chosen] += len(positions)
        for position in positions:
            fold_of[position] = chosen
    return [
        [
            case.model_copy(update={"split": "test" if own == fold else "train"})
            for case, own in zip(cases, fold_of, strict=True)
        ]
        for fold in range(count)
    ]


def write_folds(table: Path, out: Path, count: int, seed: int) -> str:
    """Write ``out/<fold>/cases.jsonl`` for each fold and return a one-line summary.

    Raises:
        UsageError: The table cannot be read, or does not give so many folds.
    """
    folds = assign_folds(read_cases(table), count, seed)
    for fold, cases in enumerate(folds):
        write_cases(out / str(fold) / TABLE, cases)
        if (table.parent / statement.FILE).is_file():
            shutil.copyfile(table.parent / statement.FILE, out / str(fold) / statement.FILE)
    tested = ", ".join(str(sum(case.split == "test" for case in cases)) for cases in folds)
    return f"{len(folds[0])} cases in {count} folds, {tested} tested in each"
