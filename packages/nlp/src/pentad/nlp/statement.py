"""What a prepared set of texts is: its name and licence, its task and labels."""

from __future__ import annotations

from dataclasses import dataclass

from pentad.core import statement
from pentad.nlp.licences import forbids_commerce


@dataclass(frozen=True)
class Statement(statement.Statement):
    """A data set's own words and what its labels are."""

    task: str = ""
    """``entities`` or ``classes``; found by prepare."""
    labels: tuple[str, ...] = ()
    """Entity types or classes in order; found by prepare."""

    @property
    def non_commercial(self) -> bool:
        """Whether the licence's own name forbids commercial use."""
        return forbids_commerce(self.licence)
