"""A bundle as a folder that transformers loads, or as ONNX, compared with the model it was made from.

``transformers`` takes from waveform to logits, with AST's feature extractor. ``onnx`` holds the network on features:
what stands before it, the front-end's settings, lies beside it in ``parity.json``.
"""

from __future__ import annotations

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
from pentad.core.export import (
    ONNX,
    REPORT,
    TOLERANCE,
    check_format,
    check_libraries,
    compare,
    export_folder,
    exporter,
    not_exportable,
)
from pentad.core.files import write_json, write_text
from pentad.core.run import provenance

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
    check_format(kind, FORMATS)
    check_libraries(ONNX if kind == "onnx" else (), "pip install 'pentad-audio[onnx]'")
    with export_folder(out, overwrite=overwrite) as folder:
        bundle = load_bundle(source, "audio", classes_of(), offline=offline)
        settings = Settings.from_mapping(bundle.settings)
        if kind == "transformers":
            _check_known_to_transformers(bundle, settings)
        with exporter(bundle.name, kind, bundle.folder):
            again = (_write_onnx if kind == "onnx" else _write_transformers)(bundle, settings, folder)
            report = _report(bundle, settings, again, tolerance)
        write_text(folder / CARD, (bundle.folder / CARD).read_text(encoding="utf-8"))
        write_json(folder / REPORT, {"format": kind, **report, "settings": settings.to_mapping()})
    return f"{out}: largest error {report['largest_error']:.1e} of {report['largest_logit']:.1e}"


def _report(bundle: Bundle, settings: Settings, again: Again, tolerance: float) -> dict[str, Any]:
    waves = 0.1 * torch.randn(2, settings.window, generator=torch.Generator().manual_seed(0))
    waves[1] *= torch.linspace(0, 1, settings.window).square()
    with torch.inference_mode():
        wanted = [part.numpy() for part in _outputs(bundle.model(_features(settings, waves)))]
    found = again(waves)
    near = compare(found, wanted[: len(found)], where=bundle.folder, tolerance=tolerance, axis=-1)
    return {
        "model": bundle.name,
        **near,
        "compared_on": "two generated windows, from the waveform, float32, CPU",
        "licences": bundle.licences,
        "provenance": provenance("audio", model=bundle.digest),
    }


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
    import onnxruntime

    features = _features(settings, torch.zeros(2, settings.window))
    steps = ["step_logits"] if bundle.model(features).frames is not None else []
    program = torch.onnx.export(
        _Logits(bundle.model).eval(),
        (features,),
        input_names=["features"],
        output_names=["logits", *steps, "embedding"],
        dynamic_shapes=({0: torch.export.Dim("windows")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("no program")
    told = {"model": bundle.name, "digest": bundle.digest, "classes": ", ".join(settings.classes)}
    program.model.metadata_props.update({f"pentad.{name}": value for name, value in told.items()})
    program.save(str(folder / "model.onnx"))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def again(waves: Tensor) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = session.run(None, {"features": _features(settings, waves).numpy()})
        return outputs[:-1]

    return again
