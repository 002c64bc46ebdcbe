"""Rows with named columns: CSV and TSV, JSON Lines, Parquet and XLSX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pentad.core.errors import CaseError, nearest
from pentad.core.files import most_unpacked
from pentad.nlp.reading import kind_of, read_text
from pentad.nlp.text import sanitise

Row = dict[str, Any]

_MOST_COLUMNS = 1000  # of a sheet
_LONGEST_FIELD = 1 << 30  # no limit of csv's: a text that is too long is refused as such, and the next row is read


def rows(path: Path, *, quoting: bool = True) -> Iterator[tuple[str, Row | CaseError]]:
    """Yield where each row stands and its values by column, or why the row cannot be used.

    Args:
        path: A file of any of the formats, by its name.
        quoting: Whether quotes in CSV and TSV hold fields together; OLID's are literal.

    Raises:
        CaseError: The whole file cannot be used.
    """
    kind = kind_of(path)
    if kind == "jsonl":
        yield from _json_rows(read_text(path), path.name)
    elif kind == "parquet":
        yield from _parquet_rows(path)
    elif kind == "xlsx":
        yield from _sheet_rows(path)
    else:
        yield from csv_rows(read_text(path), path.name, "\t" if kind == "tsv" else ",", quoting=quoting)


def column(row: Row, name: str, where: str) -> str:
    """Return a column's text.

    Raises:
        CaseError: There is no such column, it is empty, or holds no text.
    """
    if name not in row:
        problem = f"no column '{name}'{nearest(name, row)}"
        raise CaseError("PTD-772", problem, f"name one of: {', '.join(map(str, row))[:200]}", where)
    value = row[name]
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN differs from itself
        raise CaseError("PTD-773", f"the column '{name}' is empty", "fill it, or leave the row out", where)
    if isinstance(value, (bytes, dict, list)):
        problem = f"the column '{name}' holds a {type(value).__name__}, no text"
        raise CaseError("PTD-815", problem, "write a string, or name another column", where)
    # A spreadsheet holds 1 as 1.0.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if sanitise(text) != text:
        problem = f"the column '{name}' holds half a character (a lone surrogate)"
        raise CaseError("PTD-815", problem, "write the text again from its source", where)
    return text


def header_names(cells: Sequence[str], where: str) -> list[str]:
    """Return the names of the columns.

    Raises:
        CaseError: Two have one name, and nobody could tell which is meant.
    """
    names = [cell.strip() for cell in cells]
    if twice := next((name for place, name in enumerate(names) if name and name in names[:place]), ""):
        raise CaseError("PTD-816", f"two columns are named '{twice[:40]}'", "rename one of them", where)
    return names


def csv_rows(
    text: str,
    where: str,
    delimiter: str = ",",
    *,
    quoting: bool = True,
    header: Sequence[str] = (),
    first_line: int = 1,
) -> Iterator[tuple[str, Row | CaseError]]:
    """Yield the rows of CSV text, as `rows` does.

    Args:
        text: The lines.
        where: The file's name.
        delimiter: Between fields.
        quoting: Whether quotes hold fields together.
        header: The columns where the text begins behind them.
        first_line: Number of the text's first line in its file.

    Raises:
        CaseError: Two columns of the header have one name.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    style: Any = csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=style, strict=quoting)
    names = list(header)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            place = f"{where}, line {first_line + reader.line_num - 1}"
            yield place, CaseError("PTD-774", f"not CSV ({error})", "correct the quotes of the row", place)
            continue
        place = f"{where}, line {first_line + reader.line_num - 1}"
        if not names:
            names = header_names(cells, where)
        elif cells and len(cells) != len(names):
            problem = f"{len(cells)} fields where the header has {len(names)}"
            yield place, CaseError("PTD-770", problem, "quote fields that hold the separator", place)
        elif cells:
            yield place, dict(zip(names, cells, strict=True))


def json_row(line: str, where: str) -> Row | CaseError:
    """Return the object of one line of JSON, or why it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return CaseError("PTD-775", "not JSON", "write one JSON object a line", where)
    if not isinstance(value, dict):
        return CaseError("PTD-775", f"a {type(value).__name__}, no JSON object", "write one JSON object a line", where)
    return value


def _json_rows(text: str, where: str) -> Iterator[tuple[str, Row | CaseError]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{where}, line {number}"
            yield place, json_row(line, place)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row | CaseError]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path.name}, row {number}", row
    except (pyarrow.ArrowException, OSError):
        raise CaseError("PTD-776", "no readable Parquet file", "write it again", path.name) from None


def _sheet_rows(path: Path) -> Iterator[tuple[str, Row | CaseError]]:
    # A damaged sheet comes to light anywhere in openpyxl and the XML library below it.
    try:
        yield from _first_sheet(path)
    except CaseError:
        raise
    except Exception as error:
        problem = f"no readable XLSX file ({type(error).__name__})"
        raise CaseError("PTD-776", problem, "save the sheet again", path.name) from None


def _first_sheet(path: Path) -> Iterator[tuple[str, Row | CaseError]]:
    import zipfile

    import openpyxl

    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > most_unpacked(path):
        raise CaseError("PTD-776", f"it unpacks to {size} bytes", "save the sheet again", path.name)
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheet = book.worksheets[0]
        first = next(sheet.iter_rows(max_row=1, max_col=_MOST_COLUMNS, values_only=True), ())
        names = header_names(["" if cell is None else str(cell) for cell in first], path.name)
        while names and not names[-1]:  # a stray cell far to the right widens every row
            names.pop()
        rows = sheet.iter_rows(min_row=2, max_col=len(names), values_only=True) if names else ()
        for number, row in enumerate(rows, 2):
            if any(cell is not None for cell in row):
                yield f"{path.name}, row {number}", dict(zip(names, row, strict=False))
    finally:
        book.close()
