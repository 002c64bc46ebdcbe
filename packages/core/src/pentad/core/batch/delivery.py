"""Results handed on, case by case, to where they belong, such as an archive; a case stays done where that fails."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pentad.core.batch.casework import explain
from pentad.core.batch.folder import (
    CASES,
    EVENTS,
    JOURNAL,
    REJECTED,
    WORKLIST,
    RunState,
    old_run,
    read_state,
    write_state,
)
from pentad.core.batch.journal import CaseRecord, LineFile, read_journal, write_record
from pentad.core.batch.progress import Progress
from pentad.core.batch.resuming import files_match
from pentad.core.batch.worklist import write_worklist
from pentad.core.cases import Rejection
from pentad.core.errors import NoInputError, UsageError
from pentad.core.files import read_lines
from pentad.core.interrupt import Interrupt

SENT = "sent"
_FAILED = "PTD-"
_TICK = 1.0


@dataclass(frozen=True)
class Destination:
    """Where results go once their case is done.

    Attributes:
        name: How records and events call it; never with credentials.
        pattern: Which of a case's files are handed on, such as ``*.dcm``.
        deliver: Called in a thread of its own with paths and a function that says whether to stop trying. Returns for
            each path's name what the receiver answered, or ``PTD-nnn`` and a sentence why it did not get the file.
    """

    name: str
    pattern: str
    deliver: Callable[[list[Path], Callable[[], bool]], Mapping[str, str]]

    def files(self, record: CaseRecord) -> list[str]:
        """Return the case's files to hand on."""
        return [name for name in sorted(record.files) if fnmatch(name, self.pattern)]


def not_sent(record: CaseRecord, destination: str = "") -> bool:
    """Return whether something of a done case was to be handed on and was not.

    Args:
        record: The case's record.
        destination: Where it is to go now; empty where nothing more is to go: then its last attempt counts.
    """
    if record.status != "ok":
        return False
    if not destination:
        return bool(record.code)
    return destination not in record.sent or bool(_failures(record.sent[destination]))


def _failures(answers: Mapping[str, str]) -> list[str]:
    return [answer for answer in answers.values() if answer.startswith(_FAILED)]


class Deliveries:
    """Hands cases on in a thread of its own, so that a slow receiver holds up no worker.

    Args:
        destination: Where to; None does nothing at all.
        folder: The run's folder.
        stopped: Says whether the run is being interrupted.
    """

    def __init__(self, destination: Destination | None, folder: Path, stopped: Callable[[], bool]) -> None:
        self._destination = destination
        self._folder = folder
        self._stopped = stopped
        self._thread = ThreadPoolExecutor(1)
        self._under_way: dict[Future[Mapping[str, str]], CaseRecord] = {}

    def add(self, record: CaseRecord) -> None:
        """Take up a case, unless it is not done or all of it has been handed on before."""
        if self._destination is not None and not_sent(record, self._destination.name):
            self._under_way[self._thread.submit(self._hand_on, record)] = record

    def ended(self, *, to_the_last: bool = False) -> Iterator[CaseRecord]:
        """Yield the new record of every case handed on since, or, waiting, of all that were taken up."""
        while self._under_way:
            done, _ = wait(self._under_way, _TICK if to_the_last else 0, FIRST_COMPLETED)
            for future in done:
                yield self._receipt(self._under_way.pop(future), future.result())
            if self._stopped() or not (done or to_the_last):
                return

    def close(self) -> None:
        """Give up what is not under way."""
        self._thread.shutdown(cancel_futures=True)

    def _hand_on(self, record: CaseRecord) -> Mapping[str, str]:
        assert self._destination is not None
        names = self._destination.files(record)
        folder = self._folder / CASES / record.case
        if not files_match(folder, {name: record.files[name] for name in names}):
            sentence = "the file is not as it was written; resume the run to make it anew."
            return dict.fromkeys(names, f"PTD-586 {sentence}")
        try:
            return self._destination.deliver([folder / name for name in names], self._stopped) if names else {}
        except Exception as error:  # a transport's own oddities must not end the run
            code, reason, _ = explain(error)
            return dict.fromkeys(names, f"{code} {reason}")

    def _receipt(self, record: CaseRecord, answers: Mapping[str, str]) -> CaseRecord:
        assert self._destination is not None
        sent = {**record.sent, self._destination.name: dict(answers)}
        failures = _failures(answers)
        code, _, reason = failures[0].partition(" ") if failures else ("", "", "")
        row = {**record.row, SENT: len(answers) - len(failures)}
        changes = {"sent": sent, "code": code, "reason": reason, "row": row}
        return record.model_copy(update=changes)


def deliver_run(run: Path, destination: Destination, *, quiet: bool = False, json_lines: bool = False) -> int:
    """Hand on what of an existing run was not handed on to this destination yet, and return the exit code.

    Args:
        run: The run's folder.
        destination: Where to.
        quiet: Show nothing but what was not handed on.
        json_lines: Print the events.

    Returns:
        0 all of it; 3 some not; 130 interrupted.

    Raises:
        UsageError: It is no run, or another process works in it.
        NoInputError: No case of it has such files.
    """
    run = run.absolute()
    with old_run(run.parent, run.name) as folder, Interrupt() as interrupt:
        state = read_state(folder)
        records = read_journal(folder / JOURNAL)
        if not any(record.status == "ok" and destination.files(record) for record in records.values()):
            raise NoInputError("PTD-587", f"no case with {destination.pattern}", "predict with such outputs", folder)
        others = _not_in_journal(folder)
        deliveries = Deliveries(destination, folder, lambda: interrupt.requested)
        for record in records.values():
            deliveries.add(record)
        with (
            Progress(folder / EVENTS, len(records), quiet=quiet, json_lines=json_lines) as shown,
            LineFile(folder / JOURNAL, sync=True) as journal,
        ):
            try:
                for record in deliveries.ended(to_the_last=True):
                    write_record(journal, record)
                    records[record.case] = record
                    shown.case_sent(record, destination.name)
            finally:
                deliveries.close()
                _restate(folder, state, [*records.values(), *others], destination.name)
            good = [record for record in records.values() if record.status == "ok"]
            left = sum(not_sent(record, destination.name) for record in good)
            shown.say(f"{len(good) - left} of {len(good)} cases sent to {destination.name}", always=bool(left))
    return 130 if interrupt.requested else 3 if left else 0


def _restate(folder: Path, state: RunState, records: list[CaseRecord], destination: str) -> None:
    """Let worklist, index page and run.json say what is sent by now."""
    from pentad.core.batch.index import write_index

    state.cases["not_sent"] = sum(not_sent(record, destination) for record in records)
    write_worklist(folder / WORKLIST, records)
    write_index(folder, records, state)
    write_state(folder, state)


def _not_in_journal(folder: Path) -> list[CaseRecord]:
    """What stands in the worklist without ever having been processed: rejected inputs, and cases not reached."""
    try:
        refused = [Rejection.model_validate_json(line) for _, line in read_lines(folder / REJECTED)]
        with (folder / WORKLIST).open(encoding="utf-8", newline="") as stream:
            pending = [row["id"] for row in csv.DictReader(stream) if row["status"] == "pending"]
    except (OSError, ValueError, KeyError):
        raise UsageError("PTD-253", "its worklist cannot be read", "resume the run to write it anew", folder) from None
    rejected = [CaseRecord(case=item.where, status="rejected", code=item.code, reason=item.reason) for item in refused]
    return [*rejected, *(CaseRecord(case=name, status="pending") for name in pending)]
