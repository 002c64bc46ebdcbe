"""A bundle as a folder that transformers loads, or as ONNX, compared with the model it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pentad.core.bundle import CARD, Bundle, load_bundle
from pentad.core.export import TOLERANCE, compare, exporter, new_export, not_exportable, write_onnx, write_report
from pentad.core.files import write_text
from pentad.nlp.models import BASELINES, CLASSES
from pentad.nlp.models.bert_cnn import BertCnn
from pentad.nlp.models.encoder import quiet
from pentad.nlp.predict import Settings
from pentad.nlp.tokenizer import FILE, PieceTokenizer

FORMATS = ("transformers", "onnx")
Again = Callable[[Tensor, Tensor], NDArray[np.float32]]


def export(
    source: str, kind: str, out: Path, *, tolerance: float = TOLERANCE, overwrite: bool = False, offline: bool = False
) -> str:
    """Write a bundle in another format, whole and proven or not at all, and return a one-line summary.

    ``transformers`` gives config.json, model.safetensors and the tokenizer's files, as ``encoder.source`` and
    transformers' auto classes take them; of a BERT-CNN, which transformers does not know, the encoder alone. ``onnx``
    gives the whole network with any number of texts and pieces.

    Args:
        source: Folder or hub id of the bundle.
        kind: One of `FORMATS`.
        out: Folder to make; ``parity.json`` in it says how near the result is.
        tolerance: Largest error allowed, as a share of the largest output.
        overwrite: Replace an earlier export.
        offline: Never ask the network for the bundle.

    Raises:
        UsageError: Unknown format, a missing library, or a target that is taken.
        ModelError: There is no such bundle, it holds a baseline without a network, or gives other numbers there.
    """
    with new_export(out, kind, FORMATS, "nlp", overwrite=overwrite) as folder:
        bundle = load_bundle(source, "nlp", CLASSES, offline=offline)
        if bundle.name in BASELINES:
            problem = f"{bundle.name} is a baseline without a network"
            raise not_exportable(problem, "use it with pentad nlp predict", bundle.folder)
        settings = Settings.from_mapping(bundle.settings)
        pieces = PieceTokenizer((bundle.folder / FILE).read_text(encoding="utf-8"))
        write = _write_onnx if kind == "onnx" else _write_transformers
        with exporter(bundle.name, kind, bundle.folder), quiet():
            model, again = write(bundle, settings, pieces, folder)
            report = _compare(bundle, model, again, pieces, settings.text.max_length, tolerance)
        shutil.copyfile(bundle.folder / CARD, folder / CARD)
        write_report(folder, bundle, kind, "nlp", {**report, "settings": settings.to_mapping()})
    return f"{out}: {report['what']}, largest error {report['largest_error']:.1e} of {report['largest_logit']:.1e}"


def _compare(
    bundle: Bundle, model: nn.Module, again: Again, pieces: PieceTokenizer, longest: int, tolerance: float
) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    found, wanted = [], []
    shapes = [(1, 3), (4, max(3, longest // 3)), (2, longest)]
    for texts, width in shapes:
        ids = torch.randint(0, pieces.size, (texts, width), generator=draw)
        mask = torch.ones_like(ids)
        mask[-1, width // 2 :] = 0  # the last is half padding
        with torch.inference_mode():
            outputs = again(ids, mask), model(ids, mask).float().numpy()
        # What stands on padding is nobody's.
        shown = mask[..., None].numpy() if outputs[1].ndim == 3 else 1
        found.append(outputs[0] * shown)
        wanted.append(outputs[1] * shown)
    near = compare(found, wanted, where=bundle.folder, tolerance=tolerance, axis=-1)
    return {
        "what": "the whole network" if model is bundle.model else "the encoder alone",
        **near,
        "compared_on": f"batches of random pieces, texts and lengths {shapes}, with padding, float32, CPU",
    }


class _LastHidden(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


def _write_transformers(
    bundle: Bundle, settings: Settings, pieces: PieceTokenizer, folder: Path
) -> tuple[nn.Module, Again]:
    import transformers

    network: Any = bundle.model.encoder if isinstance(bundle.model, BertCnn) else bundle.model.network
    if not isinstance(bundle.model, BertCnn):
        network.config.id2label = dict(enumerate(settings.labels))
        network.config.label2id = {name: place for place, name in enumerate(settings.labels)}
    network.save_pretrained(folder)
    pieces.as_transformers(settings.text.max_length).save_pretrained(folder)
    again = getattr(transformers, type(network).__name__).from_pretrained(folder, local_files_only=True).eval()
    if isinstance(bundle.model, BertCnn):
        return _LastHidden(network), _runs(_LastHidden(again))
    return bundle.model, _runs(lambda ids, mask: again(input_ids=ids, attention_mask=mask).logits)


def _runs(call: Callable[[Tensor, Tensor], Tensor]) -> Again:
    def again(ids: Tensor, mask: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            output: NDArray[np.float32] = call(ids, mask).float().numpy()
        return output

    return again


def _write_onnx(bundle: Bundle, settings: Settings, pieces: PieceTokenizer, folder: Path) -> tuple[nn.Module, Again]:
    ids = torch.full((2, 16), pieces.unknown)
    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("pieces")}
    run = write_onnx(
        bundle.model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        ["logits"],
        folder,
        told={"model": bundle.name, "digest": bundle.digest, "labels": ", ".join(settings.labels)},
        dynamic_shapes=(axes, axes),
    )
    write_text(folder / FILE, pieces.text)
    return bundle.model, lambda ids, mask: run(ids, mask)[0]
