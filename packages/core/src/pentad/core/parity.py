"""Compare models with figures recorded from the published code: the body of ``pentad parity``.

A file of golden figures names its model or operator; the package that implements it has registered a function for that
name in the entry-point group ``pentad.parity``: ``function(spec, dtype) -> [(stage, error, tolerance), …]``, with the
file's content, a torch dtype, and errors as shares of the expected output's standard deviation. Core knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pentad.core.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

Row = tuple[str, float, float]
Check = Callable[[Mapping[str, Any], "torch.dtype"], list[Row]]

GROUP = "pentad.parity"
DTYPES = ("float64", "float32")


def check(files: Sequence[Path], dtype: str = "float64") -> int:
    """Print the largest error of every stage of every file, and return the exit code: 0, or 1 above a tolerance.

    Args:
        files: Files of golden figures.
        dtype: ``float64`` or ``float32``, the working precision.

    Raises:
        UsageError: A file is no file of golden figures, or its model is not installed; nothing is computed then.
        ModelError: The tensors that a file lists are not those of the model it names.
    """
    import torch

    if dtype not in DTYPES:
        raise UsageError("PTD-270", f"'{dtype}' is no precision{nearest(dtype, DTYPES)}", "give float64 or float32")
    if not files:
        raise UsageError("PTD-270", "no file of golden figures", "name at least one")
    jobs = [(path, *_prepare(path)) for path in files]
    missed = 0
    lines: list[tuple[str, ...]] = []
    for path, spec, function in jobs:
        for stage, error, tolerance in _rows(path, spec, function, getattr(torch, dtype)):
            # A NaN is no pass, hence not `error > tolerance`.
            passed = error <= tolerance
            missed += not passed
            lines.append((path.name, stage, f"{error:.1e}", f"{tolerance:.0e}", "ok" if passed else "TOO LARGE"))
    for line in _columns([("file", "stage", "largest error", "tolerance", "result"), *lines]):
        typer.echo(line)
    verdict = "all within tolerance" if not missed else f"{missed} above tolerance"
    typer.echo(f"{len(lines)} stages of {len(files)} files in {dtype}: {verdict}")
    return 1 if missed else 0


def _prepare(path: Path) -> tuple[dict[str, Any], Check]:
    """The file's content and the function registered for it."""
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("PTD-271", f"cannot be read ({error.strerror})", "correct the path", path) from None
    except ValueError:
        raise UsageError("PTD-271", "not valid JSON", "give a file of golden figures", path) from None
    if not isinstance(spec, dict):
        raise UsageError("PTD-271", "not a JSON object", "give a file of golden figures", path)
    kind = _kind(path, spec)
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if kind in installed:
        return spec, _load(installed[kind], path)
    raise UsageError(
        "PTD-273",
        f"no installed package checks '{kind}'{nearest(kind, installed)}",
        f"install the pentad package that has it, or give a file of one of {', '.join(sorted(installed))}",
        path,
    )


def _kind(path: Path, spec: Mapping[str, Any]) -> str:
    """The model or operator; rule files (planner, losses) name it in their file's name alone, ``NAME.CONFIG.json``."""
    for key in ("model", "op", "frontend"):
        if isinstance(spec.get(key), str):
            return str(spec[key])
    name = path.name.split(".")[0]
    if len(path.suffixes) >= 2 and "cases" in spec:
        return name
    raise UsageError("PTD-274", "neither 'model' nor 'op' is named in it", "give a file of golden figures", path)


def _load(point: EntryPoint, path: Path) -> Check:
    try:
        function: Check = point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else "the package"
        problem = f"the check of '{point.name}' cannot be imported ({error})"
        raise UsageError("PTD-275", problem, f"install {package} again", path) from error
    return function


def _rows(path: Path, spec: Mapping[str, Any], function: Check, dtype: torch.dtype) -> list[Row]:
    """What the function finds; a file that lacks an entry or holds one of the wrong kind is the user's to mend."""
    try:
        rows = function(spec, dtype)
    except KeyError as error:
        problem = f"the entry {error} is missing"
        raise UsageError("PTD-276", problem, "give a complete file of golden figures", path) from error
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        problem = " ".join(str(error).split()).rstrip(".")
        raise UsageError("PTD-277", f"does not fit its model ({problem})", "correct the file", path) from error
    if not rows:
        raise UsageError("PTD-278", "holds nothing to compare", "give a complete file of golden figures", path)
    return rows


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
