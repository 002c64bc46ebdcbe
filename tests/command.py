"""The command `pentad` as a user calls it: in a process of its own, or in this one where speed asks for it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pentad.core.cli import main

SENTENCE = re.compile(r"PTD-\d{3} .*\.$")


@dataclass(frozen=True)
class Result:
    """Exit code, standard output and standard error of one call."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The only line on standard error that carries a code, after a check that there is one and no traceback."""
        assert "Traceback" not in self.out + self.err
        found = [line for line in self.err.splitlines() if "PTD-" in line]
        assert len(found) == 1, self.err
        assert SENTENCE.fullmatch(found[0]), found[0]
        return found[0]


def run(*arguments: object, largest_file: int = 0, timeout: float = 300, **environment: str) -> Result:
    """Call the command in a process of its own, which may write files of at most ``largest_file`` bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**(unmeasured() if largest_file else os.environ), **environment},
        preexec_fn=limit if largest_file else None,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def unmeasured() -> dict[str, str]:
    """The environment without what coverage starts by: its file would meet a limit too, its start would be timed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pentad.core", *map(str, arguments)]


def call(*arguments: object) -> Result:
    """Call the command in this process: exit codes stay real, imports are paid once."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["pentad", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def everything_written(folder: Path) -> str:
    """All texts below a folder, names included."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join(f"{path}\n{path.read_bytes().decode('utf-8', 'replace')}" for path in files)
