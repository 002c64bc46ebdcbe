"""What a batch run left, in a form that two runs can be compared in."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from pentad.core.files import digest_file


def results(run: Path) -> dict[str, str]:
    """Digest of every file of every case by its name, and the worklist's rows without the seconds."""
    files = [path for path in sorted((run / "cases").rglob("*")) if path.is_file()]
    with (run / "worklist.csv").open(encoding="utf-8", newline="") as stream:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(stream)]
    return {**{str(path.relative_to(run)): digest_file(path) for path in files}, "worklist": json.dumps(rows)}
