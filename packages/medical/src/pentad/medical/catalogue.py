"""What can be said of a model without running it: the architectures there are, and what a bundle holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch

from pentad.core.bundle import CONFIG, read_manifest
from pentad.core.config import from_mapping
from pentad.core.errors import ModelError, PentadError
from pentad.medical.models import MODELS, PRESETS

TASK = "segmentation"
_PLANNED = {"u_mamba_bot": 41_945_000, "u_mamba_enc": 42_843_000, "dynunet": 30_765_000}
"""Parameters for the published plan of abdominal CT; README.md says how they were counted."""


def architectures() -> list[dict[str, Any]]:
    """Return name, summary, task, axes, input, parameters at the published size and importability of each model."""
    entries = []
    for name, (_, cls) in MODELS.items():
        slices = name in PRESETS
        entries.append(
            {
                "name": name,
                "summary": (cls.__doc__ or "").partition("\n")[0],
                "task": TASK,
                "axes": "2-D" if slices else "2-D, 3-D",
                "input": "slices of any size" if slices else "patches of the plan",
                "parameters": _count(name, PRESETS[name](9)) if slices else _PLANNED[name],
                "licences": {"code": "Apache-2.0", "weights": "none come with pentad", "data": "none come with pentad"},
                "imports_checkpoints": name != "dynunet",
            }
        )
    return entries


def _count(name: str, config: Any) -> int:
    with torch.device("meta"):
        model = MODELS[name][1](config)
    return sum(parameter.numel() for parameter in model.parameters())


def describe(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of itself, and its number of parameters; its weights are not loaded.

    Raises:
        ModelError: There is no bundle, or one of an architecture or settings that this version does not know.
    """
    manifest = read_manifest(bundle)
    name, settings = str(manifest["model"]), manifest["settings"]
    try:
        values = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
        config = from_mapping(get_type_hints(MODELS[name][1].__init__)["config"], values, str(bundle / CONFIG))
        grid = settings["preprocessing"]
        return {
            "model": name,
            "task": TASK,
            "classes": settings["classes"],
            "input": {
                "axes": f"{len(settings['patch_size'])}-D",
                "patch_size": settings["patch_size"],
                "spacing_mm": None if grid.get("slice_size") else grid["spacing"],
                "slice_size": grid.get("slice_size"),
                "normalisation": grid["normalisation"]["scheme"],
            },
            "parameters": _count(name, config),
            "licences": manifest["licences"],
            "digest": manifest["digest"],
            "settings": settings,
            "provenance": manifest["provenance"],
        }
    except (PentadError, OSError, ValueError, KeyError, TypeError) as error:
        problem = f"its settings or configuration cannot be understood ({' '.join(str(error).split()).rstrip('.')})"
        raise ModelError("PTD-389", problem, "install the version that made it", bundle) from None


def as_text(told: Mapping[str, Any]) -> str:
    """Return a description as lines for people."""
    taken = told["input"]
    size = " x ".join(map(str, taken["patch_size"]))
    scaled = (
        "whole slices resized to it"
        if taken["slice_size"]
        else f"at {' x '.join(f'{value:g}' for value in taken['spacing_mm'])} mm"
    )
    lines = {
        "model": told["model"],
        "task": told["task"],
        "classes": ", ".join(f"{value} {name}" for name, value in told["classes"].items()),
        "input": f"{taken['axes']}, {size} voxels, {scaled}, normalisation {taken['normalisation']}",
        "parameters": f"{told['parameters']:,}",
        **{f"licence of {kind}": words for kind, words in told["licences"].items()},
        "digest": told["digest"],
    }
    return "\n".join(f"{name:<20} {value}" for name, value in lines.items())
