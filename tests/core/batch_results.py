"""What a batch run left, in a form that two runs can be compared in."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from pentad.core.files import digest_bytes, digest_file


def results(run: Path) -> dict[str, str]:
    """Digest of every file of every case by its name, and the worklist's rows without times."""
    files = [path for path in sorted((run / "cases").rglob("*")) if path.is_file()]
    with (run / "worklist.csv").open(encoding="utf-8", newline="") as stream:
        rows = [{name: value for name, value in row.items() if not _is_time(name)} for row in csv.DictReader(stream)]
    return {**{str(path.relative_to(run)): _digest(path) for path in files}, "worklist": json.dumps(rows)}


def _digest(path: Path) -> str:
    if path.suffix != ".gpkg":
        return digest_file(path)
    with closing(sqlite3.connect(path)) as layers:  # GeoPackage states when a layer was last changed
        return digest_bytes(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "", "\n".join(layers.iterdump())).encode())


def _is_time(column: str) -> bool:
    return column == "seconds" or column.endswith("_ms")
