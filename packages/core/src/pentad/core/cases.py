"""The case table: one unit of work a line (a scan, a recording, a document), as every stage exchanges it."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Collection, Container, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from pentad.core.errors import CaseError, UsageError, as_text
from pentad.core.files import digest_file, digest_json, read_lines, write_text

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_safe_id(name: str) -> bool:
    """Return whether the name can be a case's id, and so that of its result folder."""
    return bool(_SAFE_ID.fullmatch(name))


def safe_id(name: str) -> str:
    """Return the name with all but letters, digits, ``.``, ``_`` and ``-`` replaced by ``_``, at most 120 long."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-120:].lstrip("._-") or "case"


def free_id(wanted: str, taken: Container[str]) -> str:
    """Return the id, with a number behind it where it is taken."""
    number, free = 1, wanted
    while free in taken:
        number += 1
        free = f"{wanted}-{number}"
    return free


class Case(BaseModel):
    """One unit of work.

    Attributes:
        id: Name of the case and of its result folder: letters, digits, ``.``, ``_`` and ``-`` only.
        files: Role (``image``, ``label``, ``source`` …) to path. In a table, paths are relative to the
            table's folder; in memory, after `read_cases`, they are absolute.
        target: What a model should find, where it is not a file: a class, a list of classes, spans.
        group: Cases of one group (a patient, a recording session) never stand on two sides of a split.
        split: ``train``, ``val``, ``test`` or empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    files: dict[str, str] = Field(default_factory=dict)
    target: JsonValue = None
    group: str = ""
    split: str = ""

    @field_validator("id")
    @classmethod
    def _id_is_a_safe_name(cls, value: str) -> str:
        if not is_safe_id(value):
            raise ValueError(f"id {value!r} must be 1 to 128 letters, digits, '.', '_' or '-', the first no sign")
        return value

    @field_validator("files")
    @classmethod
    def _paths_can_be_opened(cls, value: dict[str, str]) -> dict[str, str]:
        if any("\0" in path for path in value.values()):
            raise ValueError("a path holds the character 0, which no file's name can")
        return value


def read_cases(table: Path, split: str = "") -> list[Case]:
    """Read a case table (JSON Lines) and make its paths absolute.

    Args:
        table: The table's file.
        split: Only cases of this split; empty for all.

    Raises:
        UsageError: The table is missing, a line is no case, or an id stands twice.
    """
    if not table.is_file():
        raise UsageError("PTD-201", "no case table here", "run the prepare command first or correct the path", table)
    try:
        lines = read_lines(table)
    except UnicodeDecodeError:
        raise UsageError("PTD-202", "not UTF-8 text", "write the table with the prepare command", table) from None
    cases: dict[str, Case] = {}
    for number, line in lines:
        where = f"{table}, line {number}"
        try:
            case = Case.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"not a case: {'.'.join(map(str, first['loc']))} {first['msg']}".rstrip(".")
            raise UsageError("PTD-202", problem, "write the table with the prepare command", where) from None
        if case.id in cases:
            raise UsageError("PTD-203", f"the id '{case.id}' stands twice", "give every case its own id", where)
        files = {role: os.path.realpath(table.parent / path) for role, path in case.files.items()}
        cases[case.id] = case.model_copy(update={"files": files})
    return [case for case in cases.values() if not split or case.split == split]


def input_digest(case: Case) -> str:
    """Return the SHA-256 over what a case consists of: its target and, by role, its files' contents.

    A role may point to a folder: then all files beneath it count, with their names relative to it.

    Raises:
        CaseError: A file is missing or cannot be read.
    """
    files = {role: _digest_role(role, Path(path)) for role, path in case.files.items()}
    return digest_json({"target": case.target, "files": files})


def _digest_role(role: str, path: Path) -> str:
    try:
        if not path.is_dir():
            return digest_file(path)
        beneath = sorted(inner for inner in path.rglob("*") if not inner.is_dir())
        return digest_json([(inner.relative_to(path).as_posix(), digest_file(inner)) for inner in beneath])
    except OSError as error:
        raise unreadable(role, error) from None


def unreadable(role: str, error: OSError) -> CaseError:
    """Return the error of a case whose file of this role cannot be read."""
    problem = f"the input '{role}' cannot be read ({error.strerror or type(error).__name__})"
    return CaseError("PTD-305", problem, "check the file and its permissions, then resume the run")


def data_digest(cases: Sequence[Case], roles: Collection[str] = ()) -> str:
    """Return one SHA-256 over the ids, targets and files' contents of all cases, in any order.

    Args:
        cases: The cases.
        roles: Only these files of a case, such as those that a stage has read; all by default.

    Raises:
        CaseError: A file is missing or cannot be read.
    """
    if roles:
        used = [{role: path for role, path in case.files.items() if role in roles} for case in cases]
        cases = [case.model_copy(update={"files": files}) for case, files in zip(cases, used, strict=True)]
    return digest_json(sorted([case.id, input_digest(case)] for case in cases))


def write_cases(table: Path, cases: Sequence[Case]) -> None:
    """Write cases as JSON Lines, with absolute paths made relative to the table's folder."""
    folder = table.parent.resolve()
    lines = []
    for case in cases:
        files = {
            role: os.path.relpath(path, folder) if Path(path).is_absolute() else path
            for role, path in case.files.items()
        }
        lines.append(case.model_copy(update={"files": files}).model_dump_json(exclude_defaults=True))
    write_text(table, "".join(line + "\n" for line in lines))


def shuffled_groups(cases: Sequence[Case], seed: int) -> list[list[int]]:
    """Positions of the cases of each group, the groups in an order fixed by the seed and their names."""
    groups: dict[str, list[int]] = {}
    for position, case in enumerate(cases):
        groups.setdefault(case.group or case.id, []).append(position)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    return [groups[name] for name in names]


def assign_splits(cases: Sequence[Case], fractions: Mapping[str, float], seed: int) -> list[Case]:
    """Give every case without a split one, keeping groups together.

    Groups are taken in an order fixed by ``seed``; each goes to the split that lacks most cases.

    Args:
        cases: Cases; those that carry a split keep it.
        fractions: Split name to its share; the shares must sum to 1.
        seed: Seed of the order.

    Raises:
        UsageError: The shares do not sum to 1, or a group carries two splits.
    """
    if not fractions or not abs(sum(fractions.values()) - 1) <= 1e-6 or min(fractions.values()) < 0:
        raise UsageError("PTD-204", f"split shares {dict(fractions)} do not sum to 1", "correct them in params.yaml")
    split = [case.split for case in cases]
    missing = {name: share * len(cases) for name, share in fractions.items()}
    for name in split:
        if name in missing:
            missing[name] -= 1
    for positions in shuffled_groups(cases, seed):
        given = {split[position] for position in positions} - {""}
        if len(given) > 1:
            group = cases[positions[0]].group
            raise UsageError(
                "PTD-205",
                f"the group '{group}' stands in the splits {sorted(given)}",
                "keep every group in one split",
            )
        open_positions = [position for position in positions if not split[position]]
        chosen = given.pop() if given else max(missing, key=lambda name: missing[name])
        for position in open_positions:
            split[position] = chosen
        if chosen in missing:
            missing[chosen] -= len(open_positions)
    return [case.model_copy(update={"split": name}) for case, name in zip(cases, split, strict=True)]


class Rejection(BaseModel):
    """Something found in the input that does not become a case, and why.

    Attributes:
        where: The file or folder, relative to the input.
        code: Stable code, ``PTD-nnn``.
        reason: One sentence.
        files: Every file it speaks of, relative to the input, where they are more than ``where``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: str
    code: str
    reason: str
    files: tuple[str, ...] = ()

    @field_validator("where", "reason", "files")
    @classmethod
    def _names_are_text(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        # A file's name may be bytes that are no UTF-8; no table or page could be written with it.
        return as_text(value) if isinstance(value, str) else tuple(map(as_text, value))


def write_rejections(path: Path, rejections: Sequence[Rejection]) -> None:
    """Write rejections as JSON Lines; an empty list leaves an empty file, so that 'none' is a statement."""
    write_text(path, "".join(rejection.model_dump_json() + "\n" for rejection in rejections))
