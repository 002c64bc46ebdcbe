"""One start of a batch run, from the journal it finds to the worklist it leaves."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from pentad.core.batch.casework import DISK_FULL, NOT_STORED, Outcome, Process, explain, is_full, sync_folder
from pentad.core.batch.delivery import Deliveries, Destination, not_sent
from pentad.core.batch.folder import (
    CASES,
    JOURNAL,
    KEPT,
    REJECTED,
    RUN,
    SCRATCH,
    WORKLIST,
    RunState,
    clear_leavings,
    read_state,
    utc_now,
    write_state,
)
from pentad.core.batch.index import write_index
from pentad.core.batch.journal import CaseRecord, LineFile, read_journal, write_record
from pentad.core.batch.kept import forget
from pentad.core.batch.options import BatchOptions
from pentad.core.batch.progress import Progress
from pentad.core.batch.resuming import DONE, reasons_to_do
from pentad.core.batch.shards import Shard
from pentad.core.batch.workers import Ended, Engine, Limits, LocalEngine, SetupError, Workers
from pentad.core.batch.worklist import worst_first, write_worklist
from pentad.core.cases import Case, Rejection, write_rejections
from pentad.core.errors import NoInputError, PentadError
from pentad.core.interrupt import Interrupt
from pentad.core.run import code_version, environment

Setup = Callable[[], Process]
Finish = Callable[[Path, list[CaseRecord]], None]

NO_WORKER = "PTD-309"

_TICK = 1.0
_WORKLIST_EVERY = 5.0


class BatchRun:
    """A locked run folder and what one start does in it.

    Args:
        folder: The run's folder.
        options: How to run.
        identity: Digests of what makes the results.
        interrupt: Asked between cases whether to stop.
        destination: Where a case's results go once it is done.
    """

    def __init__(
        self,
        folder: Path,
        options: BatchOptions,
        identity: dict[str, str],
        interrupt: Interrupt,
        destination: Destination | None = None,
    ) -> None:
        self.folder = folder
        self.destination = destination
        self.options = options
        self.identity = identity
        self.interrupt = interrupt
        self.to_do: list[Case] = []
        self.reasons: dict[str, str] = {}
        self.records: dict[str, CaseRecord] = {}
        self.others: list[CaseRecord] = []
        self.given = 0
        self.state = RunState(folder.name)
        self.next_worklist = 0.0

    def plan(self, shard: Shard, cases: Sequence[Case], rejections: Sequence[Rejection]) -> None:
        """Find out what is done and what to do, and say so in the folder."""
        self.given = len(cases)
        if self.options.resume and (self.folder / RUN).is_file():
            self.state = read_state(self.folder)
        known = read_journal(self.folder / JOURNAL)
        mine = shard.select(cases, lambda case: case.id)
        self.reasons = reasons_to_do(self.folder, mine, known, self.identity, lambda: not self.interrupt.requested)
        self.to_do = [case for case in mine if self.reasons.get(case.id) != DONE]
        waiting = {case.id for case in self.to_do}
        for case in mine:
            pending = CaseRecord(case=case.id, status="pending")
            self.records[case.id] = pending if case.id in waiting else known[case.id]
        refused = shard.select(rejections, lambda rejection: rejection.where)
        self.others = [
            CaseRecord(case=item.where, status="rejected", code=item.code, reason=item.reason) for item in refused
        ]
        for name in sorted(known.keys() - self.records.keys()):
            flags = [*known[name].flags, "not_in_input"]
            self.others.append(known[name].model_copy(update={"flags": flags}))
        clear_leavings(self.folder)
        (self.folder / CASES).mkdir(exist_ok=True)
        write_rejections(self.folder / REJECTED, refused)
        self._begin(shard)

    def _begin(self, shard: Shard) -> None:
        kept = ("workers", "engine", "strict", "max_failures", "case_timeout", "overwrite", "notice")
        self.state = dataclasses.replace(
            self.state,
            status="running",
            exit_code=None,
            started=self.state.started or utc_now(),
            ended="",
            starts=self.state.starts + 1,
            shard=str(shard),
            identity=self.identity,
            options={name: getattr(self.options, name) for name in kept},
            code=code_version(),
            environment=environment(),
            cases=self._count(),
        )
        write_state(self.folder, self.state)
        write_worklist(self.folder / WORKLIST, self.all_records())

    def all_records(self) -> list[CaseRecord]:
        """Every case of this part, every rejected input, and cases of earlier starts that are no longer given."""
        return [*self.records.values(), *self.others]

    def _count(self) -> dict[str, int]:
        found = Counter(record.status for record in self.records.values())
        flagged = sum(record.status == "ok" and bool(record.flags) for record in self.records.values())
        rejected = sum(record.status == "rejected" for record in self.others)
        counts = {name: found[name] for name in ("ok", "failed", "pending")}
        name = self.destination.name if self.destination else ""
        unsent = sum(not_sent(record, name) for record in self.records.values())
        return {"total": len(self.records), **counts, "flagged": flagged, "rejected": rejected, "not_sent": unsent}

    def run(self, setup: Setup, shown: Progress, finish: Finish | None) -> int:
        """Process what is to do, close the folder and return the exit code."""
        start = time.monotonic()
        done = len(self.records) - len(self.to_do)
        shown.event("run.start", run=self.folder.name, cases=len(self.to_do), done_before=done, shard=self.state.shard)
        for name, reason in self.reasons.items():
            if reason not in (DONE, "new"):
                shown.event("case.redo", case=name, reason=reason)
        code = 0
        try:
            status = self._work(setup, shown)
        except SetupError as error:
            status, code = "stopped", error.cause.exit_code if error.cause else 1
            shown.say(str(error.cause or f"{NO_WORKER} {error}."), always=True)
        except BaseException as error:
            impatient = isinstance(error, KeyboardInterrupt)  # a second Ctrl-C
            self._end("interrupted" if impatient else "crashed", 130 if impatient else 1, start)
            raise
        code = code or self._finish(status, shown, finish) or self._exit_code(status)
        self._sum_up(self._end(status, code, start), shown)
        return self.state.exit_code or 0

    def _work(self, setup: Setup, shown: Progress) -> str:
        if self.interrupt.requested:
            return "interrupted"
        options = self.options
        limits = Limits(options.workers, options.case_timeout)
        workers = Workers(setup, limits, self.folder / SCRATCH, shown.log, self._engine())
        deliveries = Deliveries(self.destination, self.folder, lambda: self.interrupt.requested)
        with (
            LineFile(self.folder / JOURNAL, sync=True) as journal,
            closing(deliveries),
            closing(workers.process(self.to_do, self.interrupt.fileno(), _TICK)) as ends,
        ):
            for record in self.records.values():
                deliveries.add(record)
            for ended in ends:
                if ended is not None:
                    record = self._settle(ended, journal)
                    shown.case_done(record, ended[2].frames)
                    deliveries.add(record)
                    if record.code in (DISK_FULL, NOT_STORED) or 0 < options.max_failures <= self._count()["failed"]:
                        return "stopped"
                if self.interrupt.requested:
                    return "interrupted"
                self._take_receipts(deliveries.ended(), journal, shown)
                shown.tick(workers.under_way())
                self._refresh_worklist()
            self._take_receipts(deliveries.ended(to_the_last=True), journal, shown)
        return "interrupted" if self.interrupt.requested and self._count()["not_sent"] else "finished"

    def _engine(self) -> Engine:
        if self.options.engine == "local":
            return LocalEngine()
        from pentad.core.batch.ray_engine import RayEngine

        return RayEngine(self.options.workers)

    def _take_receipts(self, records: Iterator[CaseRecord], journal: LineFile, shown: Progress) -> None:
        for record in records:
            self.records[record.case] = record
            with suppress(OSError):  # without room for the line, resuming sends the case again
                write_record(journal, record)
            shown.case_sent(record, self.destination.name if self.destination else "")

    def _settle(self, ended: Ended, journal: LineFile) -> CaseRecord:
        """Put a case's files into place and its record into the journal, or neither."""
        case, folder, outcome = ended
        target = self.folder / CASES / case.id
        try:
            record = self._record(case, outcome)
            # An earlier result goes before the new one is known to be good: none may ever pass for today's.
            _remove(target)
            if record.status == "ok":
                folder.rename(target)
                sync_folder(target.parent)
            write_record(journal, record)
        except OSError as error:
            _remove(target)
            record = self._record(case, _not_stored(error, outcome))
            with suppress(OSError):  # no room even for a line: then the case counts as not reached on resume
                write_record(journal, record)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        forget(self.folder, case.id, record.code)
        self.records[case.id] = record
        return record

    def _record(self, case: Case, outcome: Outcome) -> CaseRecord:
        return CaseRecord(
            case=case.id,
            status="failed" if outcome.code else "ok",
            code=outcome.code,
            reason=outcome.reason,
            flags=outcome.flags,
            row=outcome.row,
            seconds=round(outcome.seconds, 3),
            input=outcome.input,
            identity=self.identity,
            files=outcome.files,
            time=utc_now(),
        )

    def _refresh_worklist(self) -> None:
        now = time.monotonic()
        if now < self.next_worklist:
            return
        with suppress(OSError):  # a full disk shows itself with the next case or at the end
            write_worklist(self.folder / WORKLIST, self.all_records())
        taken = time.monotonic() - now
        self.next_worklist = now + max(_WORKLIST_EVERY, 50 * taken)

    def _finish(self, status: str, shown: Progress, finish: Finish | None) -> int:
        """Exit code of the caller's closing work, 0 if it went well."""
        if finish is None or status == "interrupted":
            return 0
        try:
            finish(self.folder, worst_first(self.all_records()))
        except PentadError as error:
            shown.say(str(error), always=True)
            return error.exit_code
        except Exception as error:
            code, reason, frames = explain(error)
            shown.event("finish.failed", level="error", code=code, reason=reason, frames=list(frames))
            shown.say(f"{code} {self.folder.name}: after the last case, {reason}", always=True)
            return 3 if code == DISK_FULL else 1
        return 0

    def _exit_code(self, status: str) -> int:
        count = self._count()
        if status == "interrupted":
            return 130
        if not self.given:
            return NoInputError.exit_code
        wrong = count["failed"] + count["rejected"] + count["pending"] + count["not_sent"]
        return 3 if wrong or (self.options.strict and count["flagged"]) else 0

    def _end(self, status: str, code: int, start: float) -> list[str]:
        """Write the closing state; return sentences about what could not be written."""
        seconds = round(self.state.seconds + time.monotonic() - start, 3)
        self.state = dataclasses.replace(
            self.state, status=status, exit_code=code, ended=utc_now(), seconds=seconds, cases=self._count()
        )
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        with suppress(OSError):  # a case that was cut short keeps what it has got
            (self.folder / KEPT).rmdir()
        try:
            write_worklist(self.folder / WORKLIST, self.all_records())
            write_index(self.folder, self.all_records(), self.state)
            write_state(self.folder, self.state)
        except OSError as error:
            self.state.exit_code = code or 3
            return [
                f"{NOT_STORED} {self.folder.name}: the worklist could not be written ({error.strerror}); {_RESUME}."
            ]
        return []

    def _sum_up(self, troubles: list[str], shown: Progress) -> None:
        count = self._count()
        shown.event("run.end", status=self.state.status, s=self.state.seconds, code=self.state.exit_code, cases=count)
        for sentence in troubles:
            shown.say(sentence, always=True)
        if not self.given:
            remedy = f"see {REJECTED} for what was found, or correct the path"
            shown.say(str(NoInputError("PTD-400", "no usable case in the input", remedy, self.folder)), always=True)
        parts = [f"{count['ok']} of {count['total']} cases done"]
        kinds = ("flagged", "failed", "rejected", "pending", "not_sent")
        parts += [f"{count[name]} {name.replace('_', ' ')}" for name in kinds if count[name]]
        if self.state.status != "finished":
            parts.append(f"{self.state.status}, go on with --resume {self.folder.name}")
        shown.say(f"{', '.join(parts)}: {self.folder / WORKLIST}")


_RESUME = "make room, then resume the run"


def _not_stored(error: OSError, outcome: Outcome) -> Outcome:
    problem = "the disk is full" if is_full(error) else f"the result cannot be put into place ({error.strerror})"
    code = DISK_FULL if is_full(error) else NOT_STORED
    return Outcome(code, f"{problem}; {_RESUME}.", input=outcome.input, seconds=outcome.seconds)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():  # never what it points to
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
