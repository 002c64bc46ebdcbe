"""What can be said of a model without running it: the architectures there are, and what a bundle holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pentad.audio.models import MODELS, PUBLISHED, load_class
from pentad.audio.predict import Settings
from pentad.core.bundle import CONFIG, read_manifest
from pentad.core.config import from_mapping
from pentad.core.errors import ModelError, PentadError


def architectures() -> list[dict[str, Any]]:
    """Return name, summary, parameters at the published size (the CNN's at its defaults) and importability of each."""
    return [
        {
            "name": name,
            "summary": summary,
            "parameters": _count(name, load_class(name)[0]()),
            "imports_checkpoints": name in PUBLISHED,
        }
        for name, (_, _, summary) in MODELS.items()
    ]


def _count(name: str, config: Any) -> int:
    with torch.device("meta"):
        model = load_class(name)[1](config)
    return sum(parameter.numel() for parameter in model.parameters())


def describe(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of itself, and its number of parameters; its weights are not loaded.

    Raises:
        ModelError: There is no bundle, or one of an architecture or settings that this version does not know.
    """
    manifest = read_manifest(bundle)
    name = str(manifest["model"])
    try:
        values = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
        config = from_mapping(load_class(name)[0], values, str(bundle / CONFIG))
        settings = Settings.from_mapping(manifest["settings"])
        return {
            "model": name,
            "classes": list(settings.classes),
            "exclusive": settings.exclusive,
            "parameters": _count(name, config),
            "licences": manifest["licences"],
            "digest": manifest["digest"],
            "settings": settings.to_mapping(),
            "provenance": manifest["provenance"],
        }
    except (PentadError, OSError, ValueError) as error:
        problem = f"its settings or configuration cannot be understood ({' '.join(str(error).split()).rstrip('.')})"
        raise ModelError("PTD-749", problem, "install the version that made it", bundle) from None


def as_text(told: Mapping[str, Any]) -> str:
    """Return a description as lines for people."""
    front, windows = told["settings"]["frontend"], told["settings"]["windows"]
    kind = "one class a recording" if told["exclusive"] else "any number of classes at once"
    lines = {
        "model": told["model"],
        "classes": f"{len(told['classes'])}, {kind}: {', '.join(told['classes'])}",
        "input": f"mono at {front['sample_rate']} Hz, {front['kind']} with {front['mel_bins']} mel bins",
        "windows": f"{windows['window_s']:g} s every {windows['hop_s']:g} s",
        "parameters": f"{told['parameters']:,}",
        **{f"licence of {what}": words for what, words in told["licences"].items()},
        "digest": told["digest"],
    }
    return "\n".join(f"{name:<20} {value}" for name, value in lines.items())
