"""The page of a batch run: a row a case, worst first, with links to what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pentad.core.batch.folder import CASES, INDEX, RunState
from pentad.core.batch.journal import CaseRecord
from pentad.core.batch.worklist import worst_first

if TYPE_CHECKING:
    from pentad.core.report import Cell


def write_index(folder: Path, records: Sequence[CaseRecord], state: RunState) -> None:
    """Write ``index.html`` from the records: failed, rejected, not reached, flagged, then the rest.

    Args:
        folder: The run's folder.
        records: As in the worklist.
        state: What run.json says; its option ``notice`` stands framed on top.

    Raises:
        OSError: It cannot be written.
    """
    from pentad.core.report import Block, Notice, Table, Text, write_page  # loads matplotlib, which runs do not need

    ordered = worst_first(records)
    own = dict.fromkeys(name for record in sorted(ordered, key=lambda record: record.case) for name in record.row)
    blocks: list[Block] = []
    if notice := str(state.options.get("notice", "")):
        title, _, text = notice.partition(": ")
        blocks.append(Notice(title, text))
    counts = ", ".join(f"{count} {name}" for name, count in state.cases.items())
    blocks.append(Text(paragraphs=[f"{counts}. Run {state.status}."]))
    columns = ["case", "status", "flags", "reason", "seconds", *own]
    rows = [[*_fixed(record), *(_own(record, name) for name in own)] for record in ordered]
    if rows:
        blocks.append(Table(columns, rows))
    write_page(folder / INDEX, f"Run {state.run}", blocks, {**state.identity, "installed": state.code})


def _fixed(record: CaseRecord) -> list[Cell]:
    from pentad.core.report import Link

    page = f"{CASES}/{record.case}/page.html"
    name = Link(record.case, page) if "page.html" in record.files else record.case
    flags = ", ".join(record.flags)
    reason = f"{record.code} {record.reason}".strip()
    return [name, record.status, flags, reason, round(record.seconds, 1) if record.seconds else None]


def _own(record: CaseRecord, name: str) -> Cell:
    """A cell of the domain; the path of a file that the case wrote becomes a link."""
    from pentad.core.report import Link

    value = record.row.get(name)
    file = str(value).removeprefix(f"{CASES}/{record.case}/")
    return Link(file, str(value)) if file in record.files else value
