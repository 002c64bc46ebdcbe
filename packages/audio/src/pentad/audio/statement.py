"""What a prepared set of recordings is: its name and licence, its classes and kind of labels."""

from __future__ import annotations

from dataclasses import dataclass

from pentad.core import statement


@dataclass(frozen=True)
class Statement(statement.Statement):
    """A data set's own words and what its labels are."""

    classes: tuple[str, ...] = ()
    """Labels by number."""
    exclusive: bool = False
    """Every recording has exactly one label."""
    strong: bool = False
    """Some recordings have onsets and offsets."""
