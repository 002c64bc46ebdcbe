"""Bundles in other projects' formats: whole and proven to give the same numbers, or not written at all."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import ModelError, PentadError, UsageError, nearest

REPORT = "parity.json"
TOLERANCE = 1e-4
"""Largest error as a share of the largest logit: float32 sums in another order stay well below."""

ONNX = ("onnx", "onnxruntime", "onnxscript")
_AGREEMENT = 0.999


def check_format(kind: str, formats: Sequence[str]) -> None:
    """Refuse a format that a domain does not write.

    Raises:
        UsageError: It is none of ``formats``.
    """
    if kind not in formats:
        problem = f"'{kind}' is no format{nearest(kind, formats)}"
        raise UsageError("PTD-590", problem, f"give one of {', '.join(formats)} to --format")


def check_libraries(names: Sequence[str], how: str) -> None:
    """Refuse to begin where an optional library is missing.

    Args:
        names: Modules that the export imports.
        how: The command that installs them.

    Raises:
        UsageError: One is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError("PTD-591", "the optional library is not installed", f"install it with {how}", name)


@contextlib.contextmanager
def export_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Lend a folder that takes the name ``out`` if the block ends well, and vanishes if it does not.

    Raises:
        UsageError: Something is there, or with ``overwrite`` something that is no export.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not overwrite:
            raise UsageError("PTD-592", "the folder holds something already", "choose another, or say --overwrite", out)
        if not (out / REPORT).is_file():
            raise UsageError("PTD-592", "there is something that is no export", "choose another folder", out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".part-") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        yield folder
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def not_exportable(problem: str, remedy: str, where: Path | None = None) -> ModelError:
    """Return the error to raise for a model that has no form in a format."""
    return ModelError("PTD-594", problem, remedy, where)


@contextlib.contextmanager
def exporter(name: str, kind: str, where: Path) -> Iterator[None]:
    """Keep an exporter's chatter from the user's screen, and say in one sentence that it failed.

    Args:
        name: Of the model.
        kind: The format.
        where: The bundle.

    Raises:
        ModelError: The block raised anything; the project's own errors pass as they are.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except PentadError:
        raise
    except Exception as error:  # exporters fail in as many ways as there are operators
        problem = f"{name} cannot be written as {kind} ({type(error).__name__})"
        raise not_exportable(problem, "use another format or model", where) from error
    finally:
        logging.disable(before)


def compare(
    found: Sequence[NDArray[np.float32]],
    wanted: Sequence[NDArray[np.float32]],
    *,
    where: Path,
    tolerance: float = TOLERANCE,
    axis: int = 1,
) -> dict[str, Any]:
    """Return how near the exported model's outputs are, or refuse what gives other numbers.

    Args:
        found: Outputs of the exported model.
        wanted: Outputs of the bundle's, of the same shapes.
        where: The bundle.
        tolerance: Largest error allowed, as a share of the largest output.
        axis: Of the classes, over which both must mostly choose alike.

    Raises:
        ModelError: They differ by more.
    """
    errors = [float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)]
    largest = max(float(np.abs(output).max()) for output in wanted)
    same = [float((a.argmax(axis) == b.argmax(axis)).mean()) for a, b in zip(found, wanted, strict=True)]
    if not max(errors) <= tolerance * largest or min(same) < _AGREEMENT:  # so put, NaN is refused too
        problem = f"the exported model differs by {max(errors):.1e} of {largest:.1e}, {min(same):.2%} of classes agree"
        raise ModelError("PTD-593", problem, "report this as a defect; nothing was written", where)
    return {
        "largest_error": max(errors),
        "largest_logit": largest,
        "tolerance": tolerance,
        "agreement": min(same),
    }
