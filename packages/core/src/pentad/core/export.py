"""Bundles in other projects' formats: whole and proven to give the same numbers, or not written at all."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.bundle import Bundle
from pentad.core.errors import ModelError, PentadError, UsageError, nearest
from pentad.core.files import write_json
from pentad.core.run import provenance

REPORT = "parity.json"
TOLERANCE = 1e-4
"""Largest error as a share of the largest logit: float32 sums in another order stay well below."""

ONNX = ("onnx", "onnxruntime", "onnxscript")
_AGREEMENT = 0.999


@contextlib.contextmanager
def new_export(out: Path, kind: str, formats: Sequence[str], domain: str, *, overwrite: bool) -> Iterator[Path]:
    """Lend the folder of an export, as `export_folder` does, in a format that the domain and its libraries can write.

    Args:
        out: Folder to make.
        kind: The format.
        formats: Those that the domain writes.
        domain: The package that asks, for instance 'point_clouds'.
        overwrite: Replace an earlier export.

    Raises:
        UsageError: Unknown format (PTD-590), a missing library (PTD-591), or a target that is taken (PTD-592).
    """
    check_format(kind, formats)
    check_libraries(ONNX if kind == "onnx" else (), f"pip install 'pentad-{domain.replace('_', '-')}[onnx]'")
    with export_folder(out, overwrite=overwrite) as folder:
        yield folder


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


def write_onnx(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    folder: Path,
    *,
    told: Mapping[str, str],
    dynamic_shapes: Any = None,
) -> Callable[..., list[NDArray[np.float32]]]:
    """Write ``model.onnx`` and return what runs it: tensors in the order of the inputs to arrays.

    Args:
        model: In evaluation mode; returns a tensor or a tuple of them.
        inputs: Examples by name, in the order of the model's parameters.
        outputs: Names of what it returns.
        folder: Where.
        told: What the file says of itself, each name after 'pentad.'.
        dynamic_shapes: Which axes may have another length, as torch.onnx.export takes it; none by default.
    """
    import onnxruntime

    with torch.inference_mode():
        program = torch.onnx.export(
            model,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("no program")
    program.model.metadata_props.update({f"pentad.{name}": text for name, text in told.items()})
    program.save(str(folder / "model.onnx"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def again(*given: Tensor) -> list[NDArray[np.float32]]:
        named = {name: tensor.numpy() for name, tensor in zip(inputs, given, strict=True)}
        found: list[NDArray[np.float32]] = session.run(None, named)
        return found

    return again


def write_report(folder: Path, bundle: Bundle, kind: str, domain: str, about: Mapping[str, Any]) -> None:
    """Write ``parity.json``: what was exported, what `compare` found and what else a reader must know.

    Args:
        folder: The export's.
        bundle: What was exported.
        kind: The format.
        domain: The package that exports.
        about: What `compare` returned, and more.
    """
    report = {
        "format": kind,
        "model": bundle.name,
        **about,
        "licences": bundle.licences,
        "provenance": provenance(domain, model=bundle.digest),
    }
    write_json(folder / REPORT, report)
