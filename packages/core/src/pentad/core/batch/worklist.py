"""The table a person reads after a batch run: a row per case, problems first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from pentad.core.batch.journal import CaseRecord
from pentad.core.files import write_text

COLUMNS = ("id", "status", "code", "reason", "flags", "seconds")

_ORDER = {"failed": 0, "rejected": 1, "pending": 2, "ok": 4}


def worst_first(records: Iterable[CaseRecord]) -> list[CaseRecord]:
    """Return the records as failed, rejected, pending, flagged, fine; by name within each."""

    def rank(record: CaseRecord) -> tuple[int, str]:
        attention = record.status == "ok" and (record.flags or record.code)
        return (3 if attention else _ORDER[record.status], record.case)

    return sorted(records, key=rank)


def write_worklist(path: Path, records: Iterable[CaseRecord]) -> None:
    """Write the worklist as CSV, whole or not at all.

    After the fixed `COLUMNS` come the union of the cases' own columns, in the order in which they first stand
    in the cases sorted by id, so that the header depends on the results alone. Flags are joined by ``;``. Texts are
    made `harmless`.
    """
    ordered = worst_first(records)
    own = dict.fromkeys(name for record in sorted(ordered, key=lambda record: record.case) for name in record.row)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *map(harmless, own)])
    for record in ordered:
        seconds = f"{record.seconds:.3f}" if record.status in ("ok", "failed") else ""
        fixed = (record.case, record.status, record.code, record.reason, ";".join(record.flags), seconds)
        table.writerow([*map(harmless, fixed), *(harmless(record.row.get(name, "")) for name in own)])
    write_text(path, text.getvalue())


def harmless(cell: str | float) -> str | float:
    """Return the cell, a text that a spreadsheet would run as a formula with an apostrophe before it."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
