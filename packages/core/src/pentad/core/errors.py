"""The four ways a run can go wrong, each saying what, where and what to do in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar


class PentadError(Exception):
    """A mistake the user can mend, with a stable code and the command's exit code.

    Args:
        code: Stable identifier, ``PTD-nnn``; the packages' READMEs list them.
        problem: What is wrong, as a clause without a full stop, with the value received.
        remedy: What to do about it, as a clause without a full stop.
        where: The file, case or setting at fault.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, problem: str, remedy: str, where: str | Path | None = None) -> None:
        self.code = code
        self.problem = problem
        self.remedy = remedy
        self.where = None if where is None else str(where)
        place = "" if where is None else f"{where}: "
        super().__init__(f"{code} {place}{problem}; {remedy}.")

    def __reduce__(self) -> tuple[type[PentadError], tuple[str, str, str, str | None]]:
        return type(self), (self.code, self.problem, self.remedy, self.where)


class UsageError(PentadError):
    """The call, the configuration or the output folder is wrong: nothing was started."""

    exit_code = 2


class CaseError(PentadError):
    """One case cannot be used; the others go on."""

    exit_code = 3


class NoInputError(PentadError):
    """There is no usable case in what was given."""

    exit_code = 4


class ModelError(PentadError):
    """The model is missing, damaged, of another kind, or not the one named."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""
