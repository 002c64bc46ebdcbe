"""Runs a command and measures what it takes with all its children: seconds and peak memory."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: Wall clock, start of the interpreter included.
        peak_mb: Largest memory of all its processes together at one time, looked up 20 times a second, MB of 2^20
            bytes; libraries that they share count once.
        code: Exit code.
        output: Standard output and error.
        cpu_seconds: Processor time of it and of all children that were waited for: with one thread, what the wall
            clock would say on a quiet machine.
    """

    seconds: float
    peak_mb: float
    code: int
    output: str
    cpu_seconds: float = 0.0


def run(call: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = 3600) -> Measured:
    """Run ``call`` to its end, or kill it at ``timeout`` seconds, and return what it took."""
    began, spent, peak = time.perf_counter(), _children_seconds(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        # A file, not a pipe: nobody reads while we measure, and a full pipe would stop the command.
        process = subprocess.Popen(
            list(call), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        while process.poll() is None:
            peak = max(peak, _memory_mb(process.pid))
            if time.perf_counter() - began > timeout:
                process.kill()
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        output.seek(0)
        return Measured(seconds, peak, process.returncode, output.read(), _children_seconds() - spent)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(root: int) -> list[int]:
    """The process and everything below it."""
    found, open_ = [], [root]
    while open_:
        pid = open_.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                open_ += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended meanwhile
    return found


def _memory_mb(root: int) -> float:
    """What the processes hold: memory of their own added up, mapped files (the same libraries) of the largest."""
    own, files, shared = 0, 0, 0
    for pid in _tree(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue  # it has ended meanwhile
        sizes = {name: int(size) for name, size in re.findall(r"^(Rss\w+):\s+(\d+) kB", status, re.MULTILINE)}
        own += sizes.get("RssAnon", 0)
        files = max(files, sizes.get("RssFile", 0))
        shared = max(shared, sizes.get("RssShmem", 0))
    return (own + files + shared) / 1024
