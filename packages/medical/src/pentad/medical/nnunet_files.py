"""What an nnU-Net training folder says beside its weights: the plan and the data set, as a model's configuration.

The layout is that of nnU-Net 2.1.1, which U-Mamba was published with:
``<trainer>__<plans>__<configuration>/{plans.json,dataset.json}`` and, below it, ``fold_<n>/checkpoint_final.pth``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pentad.core.errors import ModelError, UsageError, nearest
from pentad.medical.fingerprint import Intensity
from pentad.medical.models.u_mamba import UMambaConfig, config_from_official
from pentad.medical.plan import Normalisation, Scheme
from pentad.medical.predict import Settings
from pentad.medical.preprocess import Preprocessing

SCHEMES: dict[str, Scheme] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
"""nnU-Net's names of normalisations."""

_INTENSITY = {
    "mean": "mean",
    "std": "std",
    "median": "median",
    "minimum": "min",
    "maximum": "max",
    "low": "percentile_00_5",
    "high": "percentile_99_5",
}


def read_training_folder(checkpoint: Path, configuration: str = "") -> tuple[UMambaConfig, Settings]:
    """Return network and prediction settings for a checkpoint, from plans.json and dataset.json beside or above it.

    Args:
        checkpoint: The weights' file.
        configuration: ``2d``, ``3d_fullres`` or another of the plan; empty takes it from the folder's name.

    Raises:
        ModelError: A file is missing or incomplete, or describes what cannot be predicted here.
        UsageError: There is no such configuration, or the images have several channels.
    """
    plans, dataset = (_read(checkpoint, name) for name in ("plans.json", "dataset.json"))
    try:
        classes = _classes(dataset, checkpoint)
        plan = _configuration(plans, configuration or _named(checkpoint), checkpoint)
        channels = len(dataset.get("channel_names") or dataset["modality"])
        if channels != 1:
            problem = f"the images have {channels} channels"
            raise UsageError("PTD-377", problem, "import a network of one image a case", checkpoint)
        network = {**plan, "num_input_channels": channels, "num_classes": len(classes) + 1}
        preprocessing = Preprocessing(
            spacing=tuple(plan["spacing"]),
            transpose=tuple(plans["transpose_forward"]),
            normalisation=_normalisation(plans, plan),
        )
        settings = Settings(classes, preprocessing, tuple(plan["patch_size"]))
        return config_from_official(network), settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"plans.json or dataset.json lacks or spoils {error}"
        remedy = "give a checkpoint with the files that its training wrote"
        raise ModelError("PTD-538", problem, remedy, checkpoint) from None


def _read(checkpoint: Path, name: str) -> dict[str, Any]:
    for folder in (checkpoint.parent, checkpoint.absolute().parent.parent):
        if (folder / name).is_file():
            try:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                content = None
            if isinstance(content, dict):
                return content
            raise ModelError("PTD-538", "no readable JSON mapping", "fetch it again", folder / name)
    problem = f"no {name} beside the checkpoint or in the folder above"
    raise ModelError("PTD-538", problem, "keep the training's folder as nnU-Net wrote it", checkpoint)


def _named(checkpoint: Path) -> str:
    """The configuration in the training folder's name, TRAINER__PLANS__CONFIGURATION."""
    for folder in (checkpoint.absolute().parent, checkpoint.absolute().parent.parent):
        parts = folder.name.split("__")
        if len(parts) == 3:
            return parts[2]
    return ""


def _configuration(plans: Mapping[str, Any], name: str, checkpoint: Path) -> dict[str, Any]:
    known = plans["configurations"]
    if name not in known:
        problem = f"no configuration '{name}' in plans.json{nearest(name, known)}"
        raise UsageError("PTD-539", problem, f"give one of {', '.join(known)} to --configuration", checkpoint)
    entry = dict(known[name])
    parent = entry.pop("inherits_from", None)
    return {**_configuration(plans, parent, checkpoint), **entry} if parent else entry


def _classes(dataset: Mapping[str, Any], checkpoint: Path) -> dict[str, int]:
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if any(not isinstance(value, int) for value in labels.values()):
        problem = "its labels are regions that may overlap, and a label map has one class a voxel"
        raise ModelError("PTD-538", problem, "import a network trained on plain labels", checkpoint)
    classes = {name: value for name, value in sorted(labels.items(), key=lambda item: item[1]) if value}
    if list(classes.values()) != list(range(1, len(classes) + 1)):
        raise ValueError(f"labels {labels}")
    return classes


def _normalisation(plans: Mapping[str, Any], plan: Mapping[str, Any]) -> Normalisation:
    scheme = SCHEMES[plan["normalization_schemes"][0]]
    intensity = None
    if scheme == "ct":
        found = plans["foreground_intensity_properties_per_channel"]["0"]
        intensity = Intensity(**{ours: float(found[theirs]) for ours, theirs in _INTENSITY.items()})
    return Normalisation(scheme, inside_mask=bool(plan["use_mask_for_norm"][0]), intensity=intensity)
