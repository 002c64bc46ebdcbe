"""A pipeline's row of the results table, made from its metrics so that no number is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pentad.core.errors import UsageError
from pentad.core.files import write_text


def format_interval(entry: dict[str, Any], digits: int = 3) -> str:
    """Return ``0.953 [0.941, 0.964]`` for a metric with a bootstrap interval."""
    if entry["value"] is None:
        return "none"
    if entry.get("low") is None:
        return f"{entry['value']:.{digits}f}"
    return f"{entry['value']:.{digits}f} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def write_row(pipeline: Path, out: Path) -> None:
    """Write the rows of one pipeline as a Markdown table: a line a model, a column a headline metric.

    Args:
        pipeline: Folder with ``metrics.json``: ``{"data": …, "headline": [metric…], "models": {name: {metric: …}}}``.
        out: The Markdown file.

    Raises:
        UsageError: The pipeline has no metrics yet, or they are not of this form.
    """
    source = pipeline / "metrics.json"
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        headline, models = content["headline"], content["models"]
        rows = []
        for name, metrics in models.items():
            cells = [f"[{pipeline.name}](pipelines/{pipeline.name})", content["data"], name]
            cells += [str(metrics[headline[0]]["n"]), *(format_interval(metrics[metric]) for metric in headline)]
            rows.append(f"| {' | '.join(cells)} |")
    except (OSError, ValueError, KeyError):
        raise UsageError(
            "PTD-223", "no metrics of a finished pipeline here", f"run dvc repro {pipeline.as_posix()} first", source
        ) from None
    heads = " | ".join(metric.replace("_", " ") for metric in headline)
    table = [f"| pipeline | data | model | n | {heads} |", "|---|---|---|---|" + "---|" * len(headline), *rows]
    write_text(out, "\n".join(table) + "\n")
