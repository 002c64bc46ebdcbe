"""A pipeline's row of the results table, made from its metrics so that no number is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path

from pentad.core.errors import UsageError
from pentad.core.evaluation import from_entry
from pentad.core.files import write_text


def write_row(pipeline: Path, out: Path) -> None:
    """Write the rows of one pipeline as a Markdown table: a line a model, a column a headline metric.

    Args:
        pipeline: Folder with ``metrics.json``: ``{"data": …, "headline": "metric, metric", "models": {name: {metric:
            …}}}``.
        out: The Markdown file.

    Raises:
        UsageError: The pipeline has no metrics yet, or they are not of this form.
    """
    source = pipeline / "metrics.json"
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        headline, models = content["headline"].split(", "), content["models"]
        rows = []
        for name, metrics in models.items():
            cells = [pipeline.resolve().name, content["data"], name]
            cells += [str(metrics[headline[0]]["n"]), *(from_entry(metrics[metric]).format() for metric in headline)]
            rows.append(f"| {' | '.join(cells)} |")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            "PTD-223", "no metrics of a finished pipeline here", f"run dvc repro {pipeline.as_posix()} first", source
        ) from None
    heads = " | ".join(metric.replace("_", " ") for metric in headline)
    table = [f"| pipeline | data | model | n | {heads} |", "|---|---|---|---|" + "---|" * len(headline), *rows]
    write_text(out, "\n".join(table) + "\n")
