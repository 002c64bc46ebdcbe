"""What can be said of a model without running it: the architectures there are, and what a bundle holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pentad.core.bundle import CONFIG, read_manifest
from pentad.core.config import from_mapping
from pentad.core.errors import ModelError, PentadError
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.models.change_mamba import tiny
from pentad.remote_sensing.models.fc_siam import FCSiamConfig
from pentad.remote_sensing.predict import Settings
from pentad.remote_sensing.tasks import TASKS, task_named

_PUBLISHED = {"mamba_bcd": tiny(), "mamba_scd": tiny(), "mamba_bda": tiny(classes=5, semantic_classes=2)}


def architectures() -> list[dict[str, Any]]:
    """Return name, summary, tasks, parameters at the published (tiny) or default size and importability of each."""
    return [
        {
            "name": name,
            "summary": (cls.__doc__ or "").partition("\n")[0],
            "tasks": [task.name for task in TASKS.values() if name in task.models],
            "parameters": _count(name, _PUBLISHED.get(name, FCSiamConfig())),
            "licences": {"code": "Apache-2.0", "weights": "none come with pentad", "data": "none come with pentad"},
            "imports_checkpoints": name in _PUBLISHED,
        }
        for name, (_, cls) in MODELS.items()
    ]


def _count(name: str, config: Any) -> int:
    with torch.device("meta"):
        model = MODELS[name][1](config)
    return sum(parameter.numel() for parameter in model.parameters())


def describe(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of itself, and its number of parameters; its weights are not loaded.

    Raises:
        ModelError: There is no bundle, or one of an architecture or settings that this version does not know (PTD-877).
    """
    manifest = read_manifest(bundle)
    name = str(manifest["model"])
    try:
        values = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
        config = from_mapping(MODELS[name][0], values, str(bundle / CONFIG))
        settings = from_mapping(Settings, manifest["settings"], str(bundle))
        task = task_named(settings.task)
        parameters = _count(name, config)
    except (PentadError, OSError, ValueError, KeyError, TypeError) as error:
        problem = f"its settings or configuration cannot be understood ({' '.join(str(error).split()).rstrip('.')})"
        raise ModelError("PTD-877", problem, "install the version that made it", bundle) from None
    return {
        "model": name,
        "task": task.name,
        "maps": list(task.maps),
        "classes": dict(zip(task.layers, map(list, settings.classes), strict=False)),
        "input": {
            "bands": len(settings.scaling.mean),
            "mean": list(settings.scaling.mean),
            "deviation": list(settings.scaling.std),
            "window": settings.tiles.side,
        },
        "parameters": parameters,
        "licences": manifest["licences"],
        "digest": manifest["digest"],
        "settings": manifest["settings"],
        "provenance": manifest["provenance"],
    }


def as_text(told: Mapping[str, Any]) -> str:
    """Return a description as lines for people."""
    taken = told["input"]
    lines = {
        "model": told["model"],
        "task": told["task"],
        "maps": ", ".join(told["maps"]),
        **{f"classes of {layer}": ", ".join(names) for layer, names in told["classes"].items()},
        "input": f"two dates, {taken['bands']} bands, windows of {taken['window']} x {taken['window']} pixels",
        "parameters": f"{told['parameters']:,}",
        **{f"licence of {kind}": words for kind, words in told["licences"].items()},
        "digest": told["digest"],
    }
    return "\n".join(f"{name:<24} {value}" for name, value in lines.items())
