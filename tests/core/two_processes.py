"""A script run by two processes that meet over gloo, as torchrun and accelerate launch start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def start_two(script: str, *arguments: object) -> list[subprocess.Popen[str]]:
    """Start a script of the tests twice, as ranks 0 and 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    base = {**os.environ, **meeting, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, script, *map(str, arguments)]
    return [
        subprocess.Popen(command, env={**base, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]


def join(started: list[subprocess.Popen[str]]) -> None:
    """Wait for both to end well."""
    ends = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
