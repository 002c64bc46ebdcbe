"""A bundle as a folder that transformers loads, or as ONNX, compared with the model it was made from.

``transformers`` takes from waveform to logits, with AST's feature extractor. ``onnx`` holds the network on features:
what stands before it, the front-end's settings, lies beside it in ``parity.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.audio.frontends import FrontEnd, kaldi_fbank
from pentad.audio.models import classes_of
from pentad.audio.models.scores import Scores
from pentad.audio.predict import Settings
from pentad.core.bundle import CARD, Bundle, load_bundle
from pentad.core.export import TOLERANCE, compare, exporter, new_export, not_exportable, write_onnx, write_report

FORMATS = ("transformers", "onnx")
Again = Callable[[Tensor], list[NDArray[np.float32]]]
"""Waveforms (recordings, samples) to the exported model's outputs."""


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
        UsageError: Unknown format, a missing library, or a target that is taken.
        ModelError: There is no such bundle, it cannot be written so, or gives other numbers there.
    """
    with new_export(out, kind, FORMATS, "audio", overwrite=overwrite) as folder:
        bundle = load_bundle(source, "audio", classes_of(), offline=offline)
        settings = Settings.from_mapping(bundle.settings)
        if kind == "transformers":
            _check_known_to_transformers(bundle, settings)
        with exporter(bundle.name, kind, bundle.folder):
            again = (_write_onnx if kind == "onnx" else _write_transformers)(bundle, settings, folder)
            near = _compare(bundle, settings, again, tolerance)
        shutil.copyfile(bundle.folder / CARD, folder / CARD)
        compared = "two generated windows, from the waveform, float32, CPU"
        about = {**near, "compared_on": compared, "settings": settings.to_mapping()}
        write_report(folder, bundle, kind, "audio", about)
    return f"{out}: largest error {near['largest_error']:.1e} of {near['largest_logit']:.1e}"


def _compare(bundle: Bundle, settings: Settings, again: Again, tolerance: float) -> dict[str, Any]:
    waves = 0.1 * torch.randn(2, settings.window, generator=torch.Generator().manual_seed(0))
    waves[1] *= torch.linspace(0, 1, settings.window).square()
    with torch.inference_mode():
        wanted = [part.numpy() for part in _outputs(bundle.model(_features(settings, waves)))]
    found = again(waves)
    return compare(found, wanted[: len(found)], where=bundle.folder, tolerance=tolerance, axis=-1)


def _features(settings: Settings, waves: Tensor) -> Tensor:
    """What the predictor gives the network for whole windows."""
    features: Tensor = FrontEnd(settings.frontend)(waves)
    return features


def _outputs(scores: Scores) -> list[Tensor]:
    """Logits of the window and, where the model has them, over time."""
    return [scores.clip] if scores.frames is None else [scores.clip, scores.frames]


def _check_known_to_transformers(bundle: Bundle, settings: Settings) -> None:
    """See that transformers has the network and can compute its features.

    Raises:
        ModelError: It has not, or cannot.
    """
    front = settings.frontend
    if bundle.name != "ast":
        problem, remedy = f"transformers has no {bundle.name}", "export an AST, or give --format onnx"
        raise not_exportable(problem, remedy, bundle.folder)
    known = kaldi_fbank(front.mean, front.std)
    sizes = (front.kind, front.sample_rate, front.n_fft, front.window, front.hop, front.fmin, front.fmax)
    if sizes != (known.kind, known.sample_rate, known.n_fft, known.window, known.hop, known.fmin, known.fmax):
        problem = "transformers computes AST's published front-end alone, and this model was trained on another"
        raise not_exportable(problem, "give --format onnx", bundle.folder)


def _write_transformers(bundle: Bundle, settings: Settings, folder: Path) -> Again:
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    network: Any = bundle.model.network
    network.config.id2label = dict(enumerate(settings.classes))
    network.config.label2id = {name: number for number, name in enumerate(settings.classes)}
    kind = "single_label_classification" if settings.exclusive else "multi_label_classification"
    network.config.problem_type = kind
    network.save_pretrained(folder)
    front = settings.frontend
    made: Any = ASTFeatureExtractor
    made(
        sampling_rate=front.sample_rate,
        num_mel_bins=front.mel_bins,
        max_length=network.config.max_length,
        mean=front.mean,
        std=front.std,
    ).save_pretrained(folder)
    extractor = made.from_pretrained(folder, local_files_only=True)
    loaded: Any = ASTForAudioClassification.from_pretrained(folder, local_files_only=True)
    model = loaded.eval()

    def again(waves: Tensor) -> list[NDArray[np.float32]]:
        given = extractor(list(waves.numpy()), sampling_rate=front.sample_rate, return_tensors="pt")
        with torch.inference_mode():
            return [model(**given).logits.numpy()]

    return again


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        scores: Scores = self.model(features)
        return (*_outputs(scores), scores.embedding)


def _write_onnx(bundle: Bundle, settings: Settings, folder: Path) -> Again:
    features = _features(settings, torch.zeros(2, settings.window))
    steps = ["step_logits"] if bundle.model(features).frames is not None else []
    run = write_onnx(
        _Logits(bundle.model).eval(),
        {"features": features},
        ["logits", *steps, "embedding"],
        folder,
        told={"model": bundle.name, "digest": bundle.digest, "classes": ", ".join(settings.classes)},
        dynamic_shapes=({0: torch.export.Dim("windows")},),
    )
    return lambda waves: run(_features(settings, waves))[:-1]
