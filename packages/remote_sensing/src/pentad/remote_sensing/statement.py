"""What a prepared set of pairs is: its name and licence, its task and the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass

from pentad.core import statement


@dataclass(frozen=True)
class Statement(statement.Statement):
    """A data set's own words and what its labels are for."""

    task: str = "bcd"
    """In `pentad.remote_sensing.tasks.TASKS`."""
    classes: tuple[tuple[str, ...], ...] = ()
    """Of each layer of the task, the names of its classes from 1 on."""
