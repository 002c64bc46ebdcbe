"""Worker processes as the batch run sees them: a crash, a kill or a time limit costs one case, never the run."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import connection as pipes
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from pentad.core.batch.casework import DIED, OUT_OF_MEMORY, TIMED_OUT, Outcome, Process
from pentad.core.batch.worker import Log, Ready, Refused, Share, Task, worker_main
from pentad.core.cases import Case
from pentad.core.errors import PentadError

_START_ATTEMPTS = 3
_PATIENCE = 10.0  # seconds that idle workers get to leave before they are killed

Ended = tuple[Case, Path, Outcome]


class SetupError(Exception):
    """No worker can be set up; ``cause`` is the error of ours that the set-up raised, if it was one."""

    def __init__(self, sentence: str, cause: PentadError | None = None) -> None:
        super().__init__(sentence)
        self.cause = cause


@dataclass(frozen=True)
class Limits:
    """How much the workers may take: their ``count``, and ``timeout`` seconds a case (0: no limit)."""

    count: int = 1
    timeout: float = 0.0


class Life(Protocol):
    """A worker process as a process object of Python shows it."""

    @property
    def exitcode(self) -> int | None:
        """Exit status, negative for a signal; None while it lives or where nothing is known."""

    def is_alive(self) -> bool:
        """Return whether it may still answer."""

    def kill(self) -> None:
        """End it at once."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


class Line(Protocol):
    """Both ways to a worker, as a pipe's end of Python has them; what has ended raises EOFError or OSError."""

    def poll(self) -> bool:
        """Return whether `recv` has something at once."""

    def recv(self) -> Any:
        """Return the next message."""

    def send(self, obj: Any, /) -> None:
        """Give a case and its folder, or None: no more will come."""

    def close(self) -> None:
        """Give up this end."""


class Engine(Protocol):
    """Where worker processes come from."""

    def start(self, task: Task, name: str) -> tuple[Life, Line]:
        """Start a worker and return it with the line to it."""

    def wait(self, workers: Sequence[tuple[Life, Line]], wake: int, seconds: float) -> None:
        """Return when a worker has something to say or has ended, ``wake`` becomes readable, or the time is over."""

    def close(self) -> None:
        """Give back what the engine holds."""


class LocalEngine:
    """Spawned processes of this machine."""

    def start(self, task: Task, name: str) -> tuple[Life, Line]:
        """Start a worker and return it with the line to it."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=worker_main, args=(theirs, task), name=name)
        process.start()
        theirs.close()  # else the worker's end would not end the pipe
        return process, ours

    def wait(self, workers: Sequence[tuple[Any, Any]], wake: int, seconds: float) -> None:
        """Return when a worker has something to say or has ended, ``wake`` becomes readable, or the time is over."""
        sources: list[Any] = [source for life, line in workers for source in (line, life.sentinel)]
        pipes.wait([*sources, wake], seconds)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Worker:
    process: Life
    pipe: Line
    note: Path
    ready: bool = False
    case: Case | None = None
    folder: Path = Path()
    start: float = 0.0
    share: float = 0.0


class Workers:
    """Processes a sequence of cases in spawned processes, each of which sets the model up once.

    Args:
        setup: Picklable; called once in each worker, returns the function that processes a case.
        limits: Number of workers and time limit.
        scratch: Folder in which each case gets a folder of its own.
        on_log: Receives what the packages' code logs in the workers.
        engine: Where the processes come from; this machine by default.
    """

    def __init__(
        self,
        setup: Callable[[], Process],
        limits: Limits,
        scratch: Path,
        on_log: Callable[[Log], None],
        engine: Engine | None = None,
    ) -> None:
        self._engine: Engine = engine or LocalEngine()
        self._setup = pickle.dumps(setup)
        self._limits = limits
        self._scratch = scratch
        self._on_log = on_log
        self._workers: list[_Worker] = []
        self._queue: deque[Case] = deque()
        self._numbers = iter(range(1, 1 << 62))
        self._failed_starts = 0
        self._last_words = ""

    def process(self, cases: Sequence[Case], wake: int, tick: float) -> Generator[Ended | None, None, None]:
        """Yield each case with its folder and outcome as it ends, and ``None`` now and then.

        Closing the iterator kills the workers.

        Args:
            cases: Taken in this order.
            wake: A file descriptor; becoming readable it makes the iterator yield at once.
            tick: Longest time between two yields, in seconds.

        Raises:
            SetupError: The set-up raised, or no worker lives as far as its first case.
        """
        self._queue.extend(cases)
        try:
            while self._queue or any(worker.case for worker in self._workers):
                self._hire()
                self._wait(wake, tick)
                yield None
                for worker in list(self._workers):
                    ended = self._attend(worker)
                    if ended is not None:
                        yield ended
            self._dismiss()
        finally:
            for worker in list(self._workers):
                self._remove(worker)
            self._engine.close()

    def under_way(self) -> float:
        """Return the sum of what is done of the cases in hand, as far as they tell."""
        return sum(worker.share for worker in self._workers if worker.case is not None)

    def _hire(self) -> None:
        busy = sum(worker.case is not None for worker in self._workers)
        wanted = min(self._limits.count, len(self._queue) + busy)
        while len(self._workers) < wanted and self._failed_starts < _START_ATTEMPTS:
            self._workers.append(self._start())
        if not self._workers:
            raise SetupError(
                f"workers end before their first case ({self._last_words}); check the memory, and in a script of "
                "your own make this call beneath if __name__ == '__main__'"
            )

    def _start(self) -> _Worker:
        number = next(self._numbers)
        note = self._scratch / f"crash-{number}.txt"
        talkative = logging.getLogger("pentad").isEnabledFor(logging.DEBUG)
        task = Task(self._setup, Path.cwd(), self._threads(), note, talkative)
        process, pipe = self._engine.start(task, f"pentad-worker-{number}")
        return _Worker(process, pipe, note)

    def _threads(self) -> int:
        """A worker's share of the processors; one worker alone keeps the libraries' own choice."""
        if self._limits.count == 1:
            return 0
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, usable // self._limits.count)

    def _wait(self, wake: int, tick: float) -> None:
        now = time.monotonic()
        limit = self._limits.timeout
        remaining = [worker.start + limit - now for worker in self._workers if worker.case and limit]
        peers = [(worker.process, worker.pipe) for worker in self._workers]
        self._engine.wait(peers, wake, max(0.0, min([tick, *remaining])))

    def _attend(self, worker: _Worker) -> Ended | None:
        """Read what a worker sent, see whether it lives, and give it a case if it has none."""
        alive = worker.process.is_alive()  # asked first, so that what it sent before its end is still read
        outcome, broken = self._read(worker)
        alive = alive and not broken
        if outcome is None and not alive:
            outcome = self._death(worker)
        elif outcome is None and self._overdue(worker):
            reason = f"not done after {self._limits.timeout:g} s; raise --case-timeout or leave the case out."
            outcome, alive = Outcome(TIMED_OUT, reason, seconds=time.monotonic() - worker.start), False
        ended = None
        if worker.case is not None and outcome is not None:
            ended = (worker.case, worker.folder, outcome)
            worker.case = None
            self._failed_starts = 0
            alive = alive and outcome.code != OUT_OF_MEMORY
        if not alive:
            self._remove(worker)
        elif worker.ready and worker.case is None and self._queue:
            self._give(worker)
        return ended

    def _read(self, worker: _Worker) -> tuple[Outcome | None, bool]:
        """The outcome the worker sent, if any, and whether its pipe has ended."""
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Outcome):
                    return message, False
                if isinstance(message, Refused):
                    raise SetupError(message.sentence, message.error)
                if isinstance(message, Log):
                    self._on_log(message)
                if isinstance(message, Share):
                    worker.share = message.done
                worker.ready = worker.ready or isinstance(message, Ready)
        except (EOFError, OSError):
            return None, True
        return None, False

    def _overdue(self, worker: _Worker) -> bool:
        limit = self._limits.timeout
        return worker.case is not None and limit > 0 and time.monotonic() - worker.start >= limit

    def _give(self, worker: _Worker) -> None:
        case = self._queue.popleft()
        folder = self._scratch / f"case-{next(self._numbers)}"
        try:
            worker.pipe.send((case, folder))
        except OSError:  # it has just died; another worker takes the case
            self._queue.appendleft(case)
            return
        worker.case, worker.folder, worker.start, worker.share = case, folder, time.monotonic(), 0.0

    def _death(self, worker: _Worker) -> Outcome:
        """What is known of a worker's end; without a case in hand it counts as a failed start."""
        worker.process.join(1.0)
        end = _describe_end(worker.process.exitcode)
        if worker.case is None:
            self._failed_starts += 1
            self._last_words = end
        reason = f"the worker process {end}; check the memory and the input, then resume the run."
        return Outcome(DIED, reason, seconds=time.monotonic() - worker.start, frames=_crash_frames(worker.note))

    def _remove(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        worker.note.unlink(missing_ok=True)
        self._workers.remove(worker)

    def _dismiss(self) -> None:
        for worker in self._workers:
            try:
                worker.pipe.send(None)
            except OSError:
                continue
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))


def _describe_end(status: int | None) -> str:
    if status is None:
        return "closed its connection"
    if status >= 0:
        return f"ended by itself with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


def _crash_frames(note: Path) -> tuple[str, ...]:
    """Python frames of a native crash, outermost first, with file names but no folders."""
    try:
        text = note.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    current = text.partition("Current thread")[2].partition("\n\n")[0] or text
    found = re.findall(r'File "(?:.*/)?([^"/]+)", line (\d+) in (\S+)', current)
    return tuple(f"{file}:{line} {function}" for file, line, function in reversed(found))
