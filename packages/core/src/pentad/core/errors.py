"""The four ways a run can go wrong, each saying what, where and what to do in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

# Line breaks of every kind, terminals' escapes, halves of characters, and marks that turn the reading direction.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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
        self.problem = as_text(problem)
        self.remedy = as_text(remedy)
        self.where = None if where is None else as_text(str(where))
        place = "" if where is None else f"{self.where}: "
        super().__init__(f"{code} {place}{self.problem}; {self.remedy}.")

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


def as_text(name: str) -> str:
    """Return a name from outside as text that can be written and shown.

    Bytes that are no UTF-8, line breaks, control characters and marks of reading direction become escapes, so that no
    file's name breaks a table, steers a terminal or reads as another.
    """
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), name)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``name``, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""
