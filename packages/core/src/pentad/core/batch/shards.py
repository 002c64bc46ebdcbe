"""Which part of the cases one of several machines works on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pentad.core.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of ``count`` equal parts, numbered from 1."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def select(self, items: Sequence[T], key: Callable[[T], str]) -> list[T]:
        """Return this part's items in the order of their keys.

        The parts depend on the keys alone, not on the order given, and together hold every item once.
        """
        return sorted(items, key=key)[self.index - 1 :: self.count]

    def name(self, run: str) -> str:
        """Return the folder name of this part of ``run``: parts run at the same time, each in its own folder."""
        suffix = f"-{self.index}of{self.count}"
        return run if self.count == 1 or run.endswith(suffix) else run + suffix


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard named ``i/n``, or this task's of a Slurm job array for ``slurm``.

    Args:
        text: ``i/n`` with 1 ≤ i ≤ n, or ``slurm``.
        environment: Where ``SLURM_ARRAY_TASK_ID``, ``_COUNT``, ``_MIN`` and ``_STEP`` are looked up.

    Raises:
        UsageError: The text is no shard, or the Slurm variables are missing or do not form a regular array.
    """
    if text == "slurm":
        return _slurm_shard(environment)
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError("PTD-246", f"'{text}' is no shard", "give i/n with i from 1 to n, or slurm, to --shard")
    return Shard(int(match[1]), int(match[2]))


def _slurm_shard(environment: Mapping[str, str]) -> Shard:
    try:
        task = int(environment["SLURM_ARRAY_TASK_ID"])
        count = int(environment["SLURM_ARRAY_TASK_COUNT"])
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
    except (KeyError, ValueError):
        problem = "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT are not set to whole numbers"
        raise UsageError("PTD-247", problem, "start it with sbatch --array or give --shard i/n") from None
    index, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= index < count:
        problem = f"task {task} is not one of {count} counted from {first} in steps of {step}"
        raise UsageError("PTD-247", problem, "use an array without gaps, such as --array=1-8, or give --shard i/n")
    return Shard(index + 1, count)
