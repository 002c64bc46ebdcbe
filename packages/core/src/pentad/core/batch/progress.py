"""What a batch run tells while it works: events.jsonl, and a bar, plain lines or JSON lines for whoever watches."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pentad.core.batch.folder import utc_now
from pentad.core.batch.journal import CaseRecord, LineFile
from pentad.core.batch.worker import Log

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

log = logging.getLogger(__name__)

_INTERVAL = 30.0


class Progress:
    """Writes events and shows how far the run is.

    On a terminal the standard error shows a bar; elsewhere a plain line every half minute. Sentences about
    failed cases go there too. With ``json_lines`` the events also go to the standard output.

    Args:
        events: The events file.
        total: Number of cases to work on.
        quiet: Show nothing but what ends the run.
        json_lines: Print the events.
    """

    def __init__(self, events: Path, total: int, *, quiet: bool, json_lines: bool) -> None:
        self._events = LineFile(events, sync=False)
        self._total = total
        self._quiet = quiet
        self._json_lines = json_lines
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        if not quiet and total and sys.stderr is not None and sys.stderr.isatty():
            self._bar = _make_bar(total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._events.close()

    def event(self, name: str, *, level: str = "info", **fields: Any) -> None:
        """Record an event: ``t``, ``level``, ``event`` and the given fields."""
        line = json.dumps({"t": utc_now(), "level": level, "event": name, **fields}, ensure_ascii=False)
        try:
            self._events.append(line)
        except OSError:
            # The events are a convenience: where the disk is full, the journal decides how the run ends.
            log.debug("an event could not be written")
        if self._json_lines:
            self._echo(line, to_error=False)

    def log(self, message: Log) -> None:
        """Record what the packages' own code logged in a worker."""
        self.event("log", level=logging.getLevelName(message.level).lower(), logger=message.name, text=message.text)

    def case_done(self, record: CaseRecord, frames: tuple[str, ...]) -> None:
        """Record a case's end and show it."""
        fields: dict[str, Any] = {"case": record.case, "status": record.status, "flags": record.flags}
        fields |= {"s": round(record.seconds, 3), "code": record.code or 0}
        if record.status == "failed":
            fields |= {"reason": record.reason, **({"frames": list(frames)} if frames else {})}
            self.say(f"{record.code} {record.case}: {record.reason}")
        self.event("case.done", level="error" if record.status == "failed" else "info", **fields)
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def case_sent(self, record: CaseRecord, destination: str) -> None:
        """Record that a case was handed on, or why not, and show the latter."""
        answers = record.sent[destination]
        level = "error" if record.code else "info"
        self.event("case.sent", level=level, case=record.case, to=destination, files=answers, code=record.code or 0)
        if record.code:
            self.say(f"{record.code} {record.case}: {record.reason}")

    def tick(self, under_way: float = 0.0) -> None:
        """Move the bar, or show a plain line if there is none and the last line is long ago.

        Args:
            under_way: Sum of what is done of the cases in hand, in cases.
        """
        now = time.monotonic()
        done = self._done + under_way
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        if self._bar is None and not self._quiet and now - self._last_line >= _INTERVAL:
            self._last_line = now
            left = (now - self._start) / done * (self._total - done) if done else None
            outlook = f", about {left / 60:.0f} min left" if left is not None else ""
            part = f" and {under_way:.0%} of the next" if under_way else ""
            self._echo(f"{self._done} of {self._total} cases{part} after {now - self._start:.0f} s{outlook}")

    def say(self, sentence: str, *, always: bool = False) -> None:
        """Show a sentence on the standard error, above the bar; ``always`` even if the run is quiet."""
        if self._quiet and not always:
            return
        if self._bar is not None:
            self._bar.console.print(sentence, markup=False, highlight=False)
        else:
            self._echo(sentence)

    def _echo(self, line: str, *, to_error: bool = True) -> None:
        import typer

        try:
            typer.echo(line, err=to_error)
        except OSError:
            # Whoever listened has gone (a closed pipe); the run goes on without.
            self._quiet, self._json_lines = self._quiet or to_error, self._json_lines and to_error


def _make_bar(total: int) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True))
    bar.add_task("cases", total=total)
    return bar
