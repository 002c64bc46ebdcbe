"""Ctrl-C and a cluster's SIGTERM as something to look at, instead of an exception at any line."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; the second acts as it did before.

    Outside the main thread, where Python allows no handlers, nothing is ever requested.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}
        self._read, self._write = os.pipe()

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable with the first signal."""
        return self._read

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        os.write(self._write, b"!")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
