"""A bundle as ONNX, compared with the model it was made from before it is handed over.

It holds the network on one window of fixed size. What surrounds it (scaling, windows, blending) is the reader's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.bundle import CARD, Bundle, load_bundle
from pentad.core.config import from_mapping
from pentad.core.export import TOLERANCE, compare, exporter, new_export, write_onnx, write_report
from pentad.core.layers.selective_scan import preferred_backend
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.predict import Settings
from pentad.remote_sensing.tasks import heads_of

FORMATS = ("onnx",)
Outputs = list[NDArray[np.float32]]


def export(
    source: str, kind: str, out: Path, *, side: int = 0, tolerance: float = TOLERANCE, overwrite: bool = False
) -> str:
    """Write a bundle in another format, whole and proven or not at all, and return a one-line summary.

    Args:
        source: Folder or hub id of the bundle.
        kind: One of `FORMATS`.
        out: Folder to make; ``parity.json`` in it says how near the result is.
        side: Rows and columns of the window; 0 takes the bundle's own.
        tolerance: Largest error allowed, as a share of the largest logit.
        overwrite: Replace an earlier export.

    Raises:
        UsageError: Unknown format, a missing library, or a target that is taken.
        ModelError: There is no such bundle, its model cannot be written so, or gives other numbers there.
    """
    with new_export(out, kind, FORMATS, "remote_sensing", overwrite=overwrite) as folder:
        bundle = load_bundle(source, "remote_sensing", {name: cls for name, (_, cls) in MODELS.items()})
        settings = from_mapping(Settings, bundle.settings, source)
        side = side or settings.tiles.side
        draw = torch.Generator().manual_seed(0)
        pairs = [torch.randn(2, 1, len(settings.scaling.mean), side, side, generator=draw) for _ in range(2)]
        with exporter(bundle.name, kind, bundle.folder):
            again = _write(bundle, pairs[0], folder)
            found = [output for pair in pairs for output in again(pair)]
        wanted = [output for pair in pairs for output in _run(bundle.model, pair)]
        near = compare(found, wanted, where=bundle.folder, tolerance=tolerance)
        shutil.copyfile(bundle.folder / CARD, folder / CARD)
        about = {
            "input_shape": list(pairs[0][0].shape),
            **near,
            "compared_on": f"{len(pairs)} generated pairs, float32, CPU",
            "settings": settings.to_mapping(),
        }
        write_report(folder, bundle, kind, "remote_sensing", about)
    return f"{out}: largest error {near['largest_error']:.1e}, classes agree in {near['agreement']:.2%} of pixels"


def _run(model: nn.Module, pair: Tensor) -> Outputs:
    with torch.inference_mode():
        return [logits.numpy() for logits in heads_of(model(pair[0], pair[1]))]


def _write(bundle: Bundle, pair: Tensor, folder: Path) -> Callable[[Tensor], Outputs]:
    """Write ``model.onnx`` and return what runs it."""
    names = [f"logits_{number}" for number in range(len(_run(bundle.model, pair)))]
    # ONNX has no scan of ours; the doubling one is written in plain operations.
    with preferred_backend("doubling"):
        run = write_onnx(
            bundle.model,
            {"before": pair[0], "after": pair[1]},
            names,
            folder,
            told={"model": bundle.name, "digest": bundle.digest},
        )
    return lambda pair: run(*pair)
