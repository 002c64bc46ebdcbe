"""Write the generated tables of the root README, results of all pipelines and benchmarks, and benchmarks/README.md.

    python scripts/readme_tables.py [--check]

Results come from ``pipelines/<name>/metrics.json`` (the default data, synthetic), ``metrics.<data>.json`` beside it
(measured on real data, with the settings of ``params.<data>.yaml``; the same form) and ``published.json`` (figures of
others: ``[{"model", "data", "metric", "value", "source"}]``). Benchmarks come from ``benchmarks/results.json``. With
``--check`` nothing is written, and the exit code is 1 where a README differs from what would be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pentad.core.evaluation import from_entry
from pentad.core.files import write_text

ROOT = Path(__file__).resolve().parents[1]
SHOWN = 2
"""Headline metrics of a data set in the README; `results.md` and the README of the pipeline have the others."""
INTRODUCTION = """# Benchmarks

What others take for the same work, as a multiple of ours, measured side by side in one run: above 1, pentad is faster
or smaller. Each script says what it compares and how, and writes its .json and .md beside itself; `make bench` runs all
of them, with the peers of `peers.txt` in a folder of their own. This page is written by `scripts/readme_tables.py` from
`results.json`.

"""
BREAK = "<br>"
HEADS = ("pipeline", "data", "n", "metric", "here", "published, of other data or splits")


def pipelines(root: Path) -> list[Path]:
    """Return the folders of the pipelines, by name."""
    return sorted(file.parent for file in (root / "pipelines").glob("*/dvc.yaml"))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def synthetic(root: Path) -> str:
    """Return the table of the pipelines as they are, on generated data."""
    rows = []
    for folder in pipelines(root):
        if (folder / "metrics.json").is_file():
            rows.append((link(folder), *measured(folder / "metrics.json")))
    return table(HEADS[:-1], rows)


def real(root: Path) -> str:
    """Return the table of what was measured on real data, published figures beside it."""
    rows = []
    for folder in pipelines(root):
        beside = published(folder)
        found = [measured(file) for file in sorted(folder.glob("metrics.*.json"))]
        for row in found or [("none measured", "", "", "")]:
            rows.append((link(folder), *row, beside))
            beside = ""
    return table(HEADS, rows)


def link(folder: Path) -> str:
    """Return a pipeline's name, leading to its README."""
    return f"[{folder.name}](pipelines/{folder.name}/README.md)"


def measured(file: Path) -> tuple[str, str, str, str]:
    """Return data, number of cases, the first headline metrics, and of each a line with the value of every model."""
    content = json.loads(file.read_text(encoding="utf-8"))
    metrics = content["headline"].split(", ")[:SHOWN]
    lines, counts = [], []
    for metric in metrics:
        entries = {name: from_entry(found[metric]) for name, found in content["models"].items()}
        lines.append("; ".join(f"{name} {entry.format()}" for name, entry in entries.items()))
        counts.append(max(entry.n for entry in entries.values()))
    return content["data"], str(max(counts)), BREAK.join(metrics).replace("_", " "), BREAK.join(lines)


def published(folder: Path) -> str:
    """Return what others report, each figure with its source."""
    file = folder / "published.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return "; ".join(f"[{e['model']}]({e['source']}) {e['metric']} {e['value']} ({e['data']})" for e in entries)


def results(root: Path) -> str:
    """Return the README's results: synthetic and real data apart."""
    heads = ("Synthetic samples, written by `pentad samples`:", "Real data, not in this repository:")
    return f"{heads[0]}\n\n{synthetic(root)}\n{heads[1]}\n\n{real(root)}"


def comparisons(root: Path) -> list[dict[str, Any]]:
    """Return every side-by-side measurement."""
    rows: list[dict[str, Any]] = json.loads((root / "benchmarks/results.json").read_text(encoding="utf-8"))
    return rows


def speed(rows: Iterable[dict[str, Any]]) -> str:
    """Return a table of comparisons."""
    shown = []
    for row in rows:
        memory = "—" if row["memory"] is None else f"{row['memory']:.2f} x"
        shown.append((row["what"], row["peer"], f"{row['time']:.2f} x", memory, row["machine"]))
    return table(("what", "compared with", "its time", "its peak memory", "machine"), shown)


def benchmarks(root: Path) -> str:
    """Return the README's table of side-by-side measurements: those against other projects' code."""
    return speed(row for row in comparisons(root) if row["foreign"])


def benchmarks_readme(root: Path) -> str:
    """Return the README of benchmarks/, with every comparison."""
    rows = comparisons(root)
    foreign, plain = ([row for row in rows if row["foreign"] is wanted] for wanted in (True, False))
    return f"{INTRODUCTION}Other projects' code:\n\n{speed(foreign)}\nOur own plain formulas:\n\n{speed(plain)}"


def insert(text: str, mark: str, table: str) -> str:
    """Return ``text`` with ``table`` between the two comments that name ``mark``."""
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"README.md has no comments {begin.strip()} and {end}")
    return f"{before}{begin}{table}{end}{after}"


def main() -> None:
    """Write the tables, or say whether they are as they would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where a README is not current")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    now = readme.read_text(encoding="utf-8")
    wanted = insert(insert(now, "results", results(ROOT)), "benchmarks", benchmarks(ROOT))
    beside, page = ROOT / "benchmarks/README.md", benchmarks_readme(ROOT)
    if check:
        current = wanted == now and beside.is_file() and beside.read_text(encoding="utf-8") == page
        sys.exit(0 if current else "a README is not current; run python scripts/readme_tables.py")
    write_text(readme, wanted)
    write_text(beside, page)


if __name__ == "__main__":
    main()
