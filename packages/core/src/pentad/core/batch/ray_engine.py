"""Worker processes of a Ray cluster: Ray places them and carries cases and outcomes, all else stays the batch run's.

Workers read the inputs and write into the run's folder themselves, so on a cluster of several machines both must lie
under the same paths everywhere, and every machine needs the same packages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from pentad.core.batch.casework import Process, work_on
from pentad.core.batch.worker import Sender, Task, begin
from pentad.core.batch.workers import Life, Line, SetupError
from pentad.core.cases import Case

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
import ray

_GLANCE = 0.2  # longest wait in seconds: Ray cannot be woken by a signal
_ATTEMPTS = 2  # on a machine with much to do, Ray's own patience ends before its processes have started
_OBJECTS = 80 << 20  # bytes; nothing but cases and outcomes is sent


class _Actor:
    """What runs in a worker process of Ray."""

    def __init__(self) -> None:
        self._said: list[object] = []
        self._process: Process | None = None

    def begin(self, task: Task, path: list[str]) -> list[object]:
        """Set the model up, with the driver's search path for modules, and return what is to be said about it."""
        sys.path += [folder for folder in path if folder not in sys.path]
        self._process = begin(task, Sender(self._said.append))
        return self._take()

    def work(self, case: Case, folder: Path) -> list[object]:
        """Process a case and return what was logged and, last, the outcome."""
        assert self._process is not None
        self._said.append(work_on(self._process, case, folder))
        return self._take()

    def _take(self) -> list[object]:
        said, self._said[:] = list(self._said), []
        return said


class _Peer:
    """An actor as a worker process and, in one, the line to it."""

    exitcode: int | None = None  # Ray does not tell

    def __init__(self, actor: Any, task: Task) -> None:
        self._actor = actor
        self._said: deque[object] = deque()
        self._alive = True
        self.answer: Any = actor.begin.remote(task, sys.path)

    def is_alive(self) -> bool:
        return self._alive

    def kill(self) -> None:
        ray.kill(self._actor)

    def join(self, timeout: float | None = None) -> None:
        """Nothing to wait for: an actor has no state after its end."""

    def poll(self) -> bool:
        return bool(self._said or (self.answer is not None and ray.wait([self.answer], timeout=0)[0]))

    def recv(self) -> object:
        if not self._said:
            answer, self.answer = self.answer, None
            try:
                self._said.extend(ray.get(answer))
            except ray.exceptions.RayError as error:
                self._alive = False
                raise EOFError from error
        return self._said.popleft()

    def send(self, obj: tuple[Case, Path] | None, /) -> None:
        if obj is not None:
            self.answer = self._actor.work.remote(*obj)

    def close(self) -> None:
        """Nothing is held."""


class RayEngine:
    """Workers of the cluster that RAY_ADDRESS names, else of one on this machine for as long as the run lasts.

    Args:
        count: How many workers there will be; each gets an equal share of the processors and graphics cards.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._cluster = contextlib.ExitStack()
        self._kind: Any = None

    def start(self, task: Task, name: str) -> tuple[Life, Line]:
        """Start a worker and return it with the line to it.

        Raises:
            SetupError: No cluster answers or can be started.
        """
        if self._kind is None:
            self._cluster.enter_context(connected())
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            cards = sum(node.get("GPU", 0) for node in nodes)
            self._kind = ray.remote(_Actor).options(
                num_cpus=share([node.get("CPU", 0) for node in nodes], self._count),
                num_gpus=1 / ceil(self._count / cards) if cards else 0,
                max_restarts=0,
                max_task_retries=0,
            )
        peer = _Peer(self._kind.remote(), task)
        return peer, peer

    def wait(self, workers: Sequence[tuple[Any, Any]], wake: int, seconds: float) -> None:
        """Return when a worker has something to say or has ended, and after a fifth of a second at the latest."""
        answers = [peer.answer for peer, _ in workers if peer.answer is not None]
        if answers:
            ray.wait(answers, timeout=min(_GLANCE, seconds))

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        self._cluster.close()


def share(processors: Sequence[float], count: int) -> int:
    """Return the most processors a worker can have if machines of so many are to hold ``count`` workers; at least 1."""
    most = int(max(processors, default=1))
    return next((size for size in range(most, 1, -1) if sum(int(n // size) for n in processors) >= count), 1)


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Be connected to a cluster while the block runs: the one in use, the one of RAY_ADDRESS or one made here."""
    if ray.is_initialized():
        yield
        return
    # Ray sets a handler of its own for SIGTERM, which would end the run without a word.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # a worker's end is the run's to report
    folder = tempfile.mkdtemp(prefix="pentad-ray-")
    try:
        _connect(folder)
        with contextlib.suppress(ValueError):  # outside the main thread Ray has set none either
            for number, handler in handlers.items():
                signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _connect(folder: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if os.environ.get("RAY_ADDRESS"):
        attempts, arguments = 1, quiet
    else:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        here = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False, "_temp_dir": folder}
        attempts, arguments = _ATTEMPTS, {**quiet, **here, "num_cpus": usable, "object_store_memory": _OBJECTS}
    for left in reversed(range(attempts)):
        try:
            ray.init(**arguments)
            return
        except Exception as error:  # Ray raises bare exceptions here
            ray.shutdown()
            if not left:
                reason = " ".join(str(error).split())
                raise SetupError(f"no Ray cluster answers or can be started ({reason})") from error
