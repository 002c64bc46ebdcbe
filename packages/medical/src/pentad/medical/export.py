"""A bundle as a MONAI bundle or as ONNX, compared with the model it was made from before it is handed over.

Both hold the network on one patch. What surrounds it (resampling, tiling, post-processing) is the reader's: the MONAI
bundle describes it in MONAI's own transforms, which are near ours but not the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.bundle import CARD, Bundle, load_bundle
from pentad.core.export import (
    TOLERANCE,
    compare,
    exporter,
    new_export,
    not_exportable,
    write_onnx,
    write_report,
)
from pentad.core.layers.mamba import Mamba
from pentad.core.layers.selective_scan import preferred_backend
from pentad.medical.models import MODELS
from pentad.medical.predict import Settings

FORMATS = ("monai", "onnx")
_USE = "research use only; not a medical device"
_LARGEST_SCAN = 1 << 27  # values of one Mamba layer's states over a patch, half a gigabyte in float32


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        bundle: The loaded bundle.
        settings: Its settings.
        patches: Inputs to compare on, each (1, 1, *patch), normalised as the network sees them.
        logits: What the model makes of them, each (1, classes + 1, *patch).
    """

    bundle: Bundle
    settings: Settings
    patches: tuple[Tensor, ...]
    logits: tuple[NDArray[np.float32], ...]


Again = Callable[[Tensor], NDArray[np.float32]]


def export(
    source: str, kind: str, out: Path, *, tolerance: float = TOLERANCE, overwrite: bool = False, offline: bool = False
) -> str:
    """Write a bundle in another format, whole and proven or not at all, and return a one-line summary.

    Args:
        source: Folder or hub id of the bundle.
        kind: One of `FORMATS`.
        out: Folder to make; ``parity.json`` in it says how near the result is.
        tolerance: Largest error allowed, as a share of the largest logit.
        overwrite: Replace an earlier export.
        offline: Never ask the network for the bundle.

    Raises:
        UsageError: Unknown format (PTD-590), a missing library (PTD-591), or a target that is taken (PTD-592).
        ModelError: There is no such bundle, its model cannot be written so (PTD-594), or gives other numbers there
            (PTD-593).
    """
    with new_export(out, kind, FORMATS, "medical", overwrite=overwrite) as folder:
        subject = _subject(
            load_bundle(source, "medical", {name: cls for name, (_, cls) in MODELS.items()}, offline=offline)
        )
        again = _write(subject, kind, folder)
        report = _compare(subject, again, kind, tolerance)
        write_report(folder, subject.bundle, kind, "medical", report)
    agreement = f"classes agree in {report['agreement']:.2%} of voxels"
    return f"{out.absolute()}: largest error {report['largest_error']:.1e}, {agreement}"


def _subject(bundle: Bundle) -> Subject:
    settings = Settings.from_mapping(bundle.settings)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, *settings.patch_size, generator=generator)
    pool = nn.functional.avg_pool3d if len(settings.patch_size) == 3 else nn.functional.avg_pool2d
    patches = (noise, 4 * pool(noise, 3, stride=1, padding=1))  # rough, and smooth like an image
    return Subject(bundle, settings, patches, tuple(_run(bundle.model, patch) for patch in patches))


def _run(model: nn.Module, patch: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        output = model(patch)
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    logits: NDArray[np.float32] = first.float().numpy()
    return logits


def _write(subject: Subject, kind: str, folder: Path) -> Again:
    """Write the format's files and return what runs them."""
    with exporter(subject.bundle.name, kind, subject.bundle.folder):
        if kind == "onnx":
            return _write_onnx(subject, folder)
        from pentad.medical.export_monai import write_monai

        write_monai(subject.bundle, subject.settings, folder)
        return _monai_again(folder)


def _compare(subject: Subject, again: Again, kind: str, tolerance: float) -> dict[str, Any]:
    """Return the parity report, or refuse what gives other numbers."""
    with exporter(subject.bundle.name, kind, subject.bundle.folder):
        found = [again(patch) for patch in subject.patches]
    near = compare(found, subject.logits, where=subject.bundle.folder, tolerance=tolerance)
    shape = list(subject.patches[0].shape)
    return {
        "input_shape": shape,
        "shape": f"fixed: give patches of exactly {shape}"
        if kind == "onnx"
        else "as the model allows; compared on this",
        **near,
        "compared_on": f"{len(found)} generated patches, float32, CPU",
        "intended_use": _USE,
    }


class _FirstOutput(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        output = self.model(image)
        first: Tensor = output if isinstance(output, Tensor) else output[0]
        return first


def _write_onnx(subject: Subject, folder: Path) -> Again:
    model, patch = subject.bundle.model, subject.patches[0]
    _check_scans(model, patch)
    with preferred_backend("doubling"):
        run = write_onnx(_FirstOutput(model), {"image": patch}, ["logits"], folder, told=_properties(subject))
    shutil.copyfile(subject.bundle.folder / CARD, folder / CARD)
    return lambda patch: run(patch)[0]


def _properties(subject: Subject) -> dict[str, str]:
    return {
        "model": subject.bundle.name,
        "digest": subject.bundle.digest,
        "classes": ", ".join(f"{value} {name}" for name, value in subject.settings.classes.items()),
        "spacing_mm": " x ".join(f"{part:g}" for part in subject.settings.preprocessing.spacing),
        "use": _USE,
    }


def _check_scans(model: nn.Module, patch: Tensor) -> None:
    """ONNX has no scan of ours: written out in plain operations it must fit into memory."""
    sizes: list[int] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Mamba)
        sizes.append(inputs[0].shape[0] * inputs[0].shape[1] * layer.d_inner * layer.d_state)

    hooks = [layer.register_forward_pre_hook(note) for layer in model.modules() if isinstance(layer, Mamba)]
    try:
        if hooks:
            _run(model, patch)
    finally:
        for hook in hooks:
            hook.remove()
    if max(sizes, default=0) > _LARGEST_SCAN:
        problem = f"a Mamba layer's states over one patch are {max(sizes):,} values, too many to write the scan out"
        raise not_exportable(problem, "export it to MONAI, which runs the layer itself")


def _monai_again(folder: Path) -> Again:
    """MONAI's own loader, from the local folder."""
    from monai.bundle.scripts import load

    model = load(folder.name, bundle_dir=folder.parent, workflow_type="inference", device="cpu")
    if not isinstance(model, nn.Module):
        raise TypeError("no model")
    model.eval()
    return lambda patch: _run(model, patch)
