"""The settings of a batch run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pentad.core.errors import UsageError, nearest

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class BatchOptions:
    """How a batch run works; nothing here changes a result.

    Attributes:
        out: Folder in which the run's own folder is made.
        run: Name of a new run; empty for one made from the time, or from the Slurm array job.
        resume: Name of an earlier run to go on with.
        overwrite: Empty an earlier run of the same name first.
        workers: Number of worker processes.
        shard: The part of the cases to do, ``i/n`` or ``slurm``; with n > 1 the run's folder is ``<run>-iofn``.
        strict: Let flagged cases count as failed in the exit code.
        max_failures: Stop as soon as so many cases have failed; 0 for no limit.
        case_timeout: Seconds that a case may take; 0 for no limit.
        quiet: Show nothing but what ends the run.
        json_lines: Print the events as JSON lines.
        engine: Where the worker processes run: ``local``, or ``ray`` for those of a Ray cluster.
        notice: What every reader of the run must know, ``title: text``; stands in run.json and on the index page.
    """

    out: Path
    run: str = ""
    resume: str = ""
    overwrite: bool = False
    workers: int = 1
    shard: str = "1/1"
    strict: bool = False
    max_failures: int = 0
    case_timeout: float = 0.0
    quiet: bool = False
    json_lines: bool = False
    engine: str = "local"
    notice: str = ""

    def __post_init__(self) -> None:
        least = {"workers": 1, "max_failures": 0, "case_timeout": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not value >= bound:  # so put, NaN is refused too
                flag = f"--{name.replace('_', '-')}"
                raise UsageError("PTD-248", f"{flag} is {value}", f"give at least {bound}")
        if self.engine not in ENGINES:
            problem = f"'{self.engine}' is no engine{nearest(self.engine, ENGINES)}"
            raise UsageError("PTD-237", problem, f"give one of {', '.join(ENGINES)} to --engine")
        if self.engine == "ray" and importlib.util.find_spec("ray") is None:
            remedy = "install it with pip install 'pentad-core[ray]', or use --engine local"
            raise UsageError("PTD-238", "Ray is not installed", remedy)
        if self.resume and (self.overwrite or self.run not in ("", self.resume)):
            raise UsageError("PTD-244", "--resume stands with --overwrite or another --run", "give one of them")
