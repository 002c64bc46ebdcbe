"""A batch run in a process of its own, for tests that kill it or take its disk away."""

from __future__ import annotations

import argparse
import logging
import resource
import sys
from functools import partial
from pathlib import Path

from core import batch_processors

from pentad.core.batch import BatchOptions, run_batch
from pentad.core.cases import read_cases
from pentad.core.errors import PentadError


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processor", default="doubling")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--run", default="")
    parser.add_argument("--resume", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--file-limit", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if options.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, resource.RLIM_INFINITY))
    setup = getattr(batch_processors, options.processor)
    if options.processor == "doubling":
        setup = partial(setup, options.table.parent / "seen.txt", options.delay)
    batch = BatchOptions(
        options.out,
        run=options.run,
        resume=options.resume,
        workers=options.workers,
        engine=options.engine,
        json_lines=options.json,
    )
    try:
        return run_batch(read_cases(options.table), setup, batch, {"model": "m1"})
    except PentadError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
