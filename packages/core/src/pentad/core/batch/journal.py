"""The record of every case of a batch run, one checked line each, and files of whole lines that survive a crash."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pentad.core.cases import is_safe_id
from pentad.core.files import digest_json

log = logging.getLogger(__name__)


class CaseRecord(BaseModel):
    """What a batch run states about one case, or about one rejected input.

    Attributes:
        case: The case's id; of a rejected input its place, relative to the input.
        status: ``ok``, ``failed``, ``rejected`` (never became a case) or ``pending`` (not reached yet).
        code: Stable code, ``PTD-nnn``, where the case failed or was rejected, or is done but could not be handed on.
        reason: One sentence, where there is a code.
        flags: Findings that a person should look at.
        row: The case's own worklist columns.
        seconds: Duration by the monotonic clock, in seconds.
        input: SHA-256 over the case's input.
        identity: Digests of model, configuration, code … that made the result.
        files: Result file, relative to the case's folder, to its SHA-256.
        time: When the case ended, in UTC; never used in a calculation.
        sent: Destination to which results were handed on, to each file's answer from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    status: Literal["ok", "failed", "rejected", "pending"]
    code: str = ""
    reason: str = ""
    flags: list[str] = Field(default_factory=list)
    row: dict[str, str | int | float] = Field(default_factory=dict)
    seconds: float = 0.0
    input: str = ""
    identity: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    time: str = ""
    sent: dict[str, dict[str, str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _stay_inside(self) -> Self:
        # A run's folder may come from elsewhere, and what its journal names is linked, sent and removed.
        if self.status != "rejected" and not is_safe_id(self.case):
            raise ValueError("a case's id that is none")
        for name in map(PurePosixPath, self.files):
            if name.is_absolute() or ".." in name.parts or not name.parts:
                raise ValueError("a file outside the case's folder")
        return self


class LineFile:
    """A file to which whole lines are appended; a line that cannot be written whole is taken back.

    Opening it cuts off an unfinished last line, which only a crash in mid-write can leave.

    Args:
        path: The file; made if absent.
        sync: Whether every line must be on the disk before `append` returns.
    """

    def __init__(self, path: Path, *, sync: bool) -> None:
        self._sync = sync
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._size = _whole_length(path)
        os.ftruncate(self._descriptor, self._size)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, line: str) -> None:
        """Append ``line`` and a newline, or nothing.

        Raises:
            OSError: The disk is full or failed; the file is as before.
        """
        content = line.encode() + b"\n"
        written = 0
        try:
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
            if self._sync:
                os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _whole_length(path: Path) -> int:
    """Length in bytes up to and with the last newline."""
    return path.read_bytes().rfind(b"\n") + 1


def write_record(journal: LineFile, record: CaseRecord) -> None:
    """Append a record with a check sum over its content.

    Raises:
        OSError: The disk is full or failed; the journal is as before.
    """
    content = record.model_dump(mode="json")
    journal.append(json.dumps({**content, "check": digest_json(content)[:16]}, ensure_ascii=False, allow_nan=False))


def read_journal(path: Path) -> dict[str, CaseRecord]:
    """Return the last whole record of every case; torn or damaged lines are logged and left out.

    Args:
        path: The journal; an absent file is an empty one.
    """
    return {record.case: record for record in _whole_records(path)} if path.is_file() else {}


def _whole_records(path: Path) -> Iterator[CaseRecord]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            content = json.loads(line)
            check = content.pop("check")
            record = CaseRecord.model_validate(content)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError, ValidationError):
            log.warning("line %d of %s is damaged and left out: its case counts as not done", number, path.name)
            continue
        if digest_json(content)[:16] == check:
            yield record
        else:
            log.warning("line %d of %s fails its check sum and is left out", number, path.name)
