"""A case's page as PDF, on A4, drawn by matplotlib: it needs no library of the system and repeats its bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure as Drawing

from pentad.core.files import atomic
from pentad.medical.page import (
    FINDING_COLUMNS,
    USE,
    VOLUME_COLUMNS,
    ShownCase,
    drawings,
    finding_rows,
    volume_rows,
)

_A4 = (8.27, 11.69)
_LINES, _WIDTH = 78, 96
_FOOT = f"{USE}; not a medical device"


def write_case_pdf(path: Path, shown: ShownCase) -> None:
    """Write the text and the figures of a case's page as PDF, whole or not at all; equal cases give equal bytes."""
    lines = _lines(shown)
    with atomic(path) as temporary, PdfPages(temporary, metadata={"CreationDate": None, "Title": USE}) as pdf:
        for start in range(0, len(lines), _LINES):
            pdf.savefig(_text_page(f"Case {shown.case}", lines[start : start + _LINES]))
        for drawing, _, caption in drawings(shown):
            drawing.suptitle(f"Case {shown.case}. {caption}", fontsize=8)
            drawing.supxlabel(_FOOT, fontsize=7)
            pdf.savefig(drawing)


def _lines(shown: ShownCase) -> list[str]:
    lines = [f"{_FOOT}; labels were drawn by a model.", ""]
    for sentence in shown.quality.flags.values():
        lines += textwrap.wrap(f"To be looked at: {sentence}", _WIDTH)
    lines += ["", *_table(VOLUME_COLUMNS, volume_rows(shown)), ""]
    lines += [*_table(FINDING_COLUMNS, finding_rows(shown)), ""]
    for name, value in _flat(shown.provenance):
        lines += textwrap.wrap(f"{name}: {value}", _WIDTH)
    return lines


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name} / ") if isinstance(value, Mapping) else [(f"{prefix}{name}", str(value))]
        found += inner
    return found


def _text_page(title: str, lines: Sequence[str]) -> Drawing:
    page = Drawing(figsize=_A4)
    # Matplotlib would read dollar signs as formulae.
    page.text(0.08, 0.95, title, fontsize=14, va="top", parse_math=False)
    page.text(0.08, 0.92, "\n".join(lines), fontsize=8, va="top", family="monospace", parse_math=False)
    page.text(0.08, 0.03, _FOOT, fontsize=7)
    return page
