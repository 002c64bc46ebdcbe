"""What runs inside a worker process of a batch run: set the model up once, then one case after the other."""

from __future__ import annotations

import faulthandler
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection as pipes
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from pentad.core import errors
from pentad.core.batch.casework import OUT_OF_MEMORY, Process, work_on
from pentad.core.errors import PentadError


@dataclass(frozen=True)
class Task:
    """How a worker process works.

    Attributes:
        setup: The pickled set-up of our own parent process, unpickled in the worker so that a failure gets a sentence.
        directory: The working folder, from which relative paths count.
        threads: Threads for numeric libraries, 0 to leave them alone.
        note: File for the Python frames of a native crash.
        talkative: Whether libraries may write to standard error; else they are silenced, because what they
            write may quote the data.
    """

    setup: bytes
    directory: Path
    threads: int
    note: Path
    talkative: bool


@dataclass(frozen=True)
class Ready:
    """The worker has its model."""


@dataclass(frozen=True)
class Refused:
    """The set-up raised: ``error`` if it was one of our own, else ``sentence`` alone."""

    sentence: str
    error: PentadError | None


@dataclass(frozen=True)
class Log:
    """A message that the packages' own code logged in a worker."""

    level: int
    name: str
    text: str


@dataclass(frozen=True)
class Share:
    """How much of the case in hand is done, from 0 to 1."""

    done: float


class Sender(logging.Handler):
    """Sends messages and log records one at a time, whichever thread they come from.

    Args:
        deliver: Takes one message.
    """

    def __init__(self, deliver: Callable[[object], None]) -> None:
        super().__init__(logging.WARNING)
        self._deliver = deliver

    def send(self, message: object) -> None:
        """Deliver a message."""
        self.acquire()
        try:
            self._deliver(message)
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record as a message."""
        self.send(Log(record.levelno, record.name, record.getMessage()))


_senders: list[Sender] = []
_SHARE_EVERY = 0.5  # seconds between two shares sent
_told = [0.0]


def tell_share(done: float) -> None:
    """Say how much of the case in hand is done, from 0 to 1; outside a worker of a batch run nothing happens."""
    now = time.monotonic()
    if _senders and now - _told[0] >= _SHARE_EVERY:
        _told[0] = now
        _senders[0].send(Share(done))


def worker_main(pipe: pipes.Connection[Any, Any], task: Task) -> None:
    """Process the cases that come through ``pipe`` until ``None`` or its end comes.

    Args:
        pipe: Both ways to the parent.
        task: How to work.
    """
    # The parent decides when to stop: Ctrl-C and a cluster's SIGTERM reach the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sender = Sender(pipe.send)
    process = begin(task, sender)
    if process is None:
        return
    try:
        while (given := pipe.recv()) is not None:
            outcome = work_on(process, *given)
            sender.send(outcome)
            if outcome.code == OUT_OF_MEMORY:  # what the failed case left behind would fail the next one
                return
    except EOFError:
        return


def begin(task: Task, sender: Sender) -> Process | None:
    """Make this process a worker: send `Ready` and return what processes a case, or send `Refused`."""
    _detach(task)
    _senders[:] = [sender]
    logging.getLogger("pentad").addHandler(sender)
    try:
        os.chdir(task.directory)
        process: Process = pickle.loads(task.setup)()
    except BaseException as error:
        sender.send(_refusal(error))
        return None
    sender.send(Ready())
    return process


def _refusal(error: BaseException) -> Refused:
    if not isinstance(error, PentadError):
        # The set-up has seen no case, so its message quotes no data.
        return Refused(f"the model's set-up raised {type(error).__name__}: {' '.join(str(error).split())}", None)
    # A domain's own subclass may live in a heavy module, which the parent must not import.
    known = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return Refused(str(error), known(error.code, error.problem, error.remedy, error.where))


def _detach(task: Task) -> None:
    if not task.talkative:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)  # the parent's standard output holds nothing but its own events
    try:
        faulthandler.enable(task.note.open("w"))
    except OSError:
        faulthandler.disable()
    if task.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ.setdefault(name, str(task.threads))


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        pipes.wait([parent.sentinel])
        os._exit(1)
