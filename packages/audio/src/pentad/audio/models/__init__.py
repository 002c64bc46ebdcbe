"""The models by name; their modules are imported when one is built, for the library behind them is slow to load."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from pentad.core.config import from_mapping
from pentad.core.errors import ModelError, nearest

MODELS: dict[str, tuple[str, str, str]] = {
    "ast": ("ASTConfig", "AST", "Audio Spectrogram Transformer: overlapping patches under one global attention."),
    "hts_at": ("HTSATConfig", "HTSAT", "HTS-AT: Swin stages on a folded spectrogram, scores over time."),
    "passt": ("PaSSTConfig", "PaSST", "PaSST: AST's blocks, separate time and frequency positions, patchout."),
    "cnn": ("CNNConfig", "CNN", "Small convolutional network in the manner of PANNs, the baseline."),
}
"""Name, which is also its module's, to configuration, class and one line."""
PUBLISHED = ("ast", "hts_at", "passt")
"""Those with official checkpoints to import."""


def check_name(name: str) -> None:
    """Refuse an unknown model.

    Raises:
        ModelError: There is no such model.
    """
    if name not in MODELS:
        raise ModelError(
            "PTD-709", f"there is no model '{name}'{nearest(name, MODELS)}", f"choose one of {', '.join(MODELS)}"
        )


def load_class(name: str) -> tuple[type[Any], type[nn.Module]]:
    """Return the configuration and the class of a model.

    Raises:
        ModelError: There is no such model.
    """
    check_name(name)
    module = import_module(f"pentad.audio.models.{name}")
    return getattr(module, MODELS[name][0]), getattr(module, MODELS[name][1])


def classes_of(names: Any = None) -> dict[str, type[nn.Module]]:
    """Return name to class, of all models or of some."""
    return {name: load_class(name)[1] for name in names or MODELS}


def build(name: str, settings: Mapping[str, Any], *, classes: int, mel_bins: int, frames: int) -> nn.Module:
    """Return an untrained model; seed torch first to repeat its weights.

    Args:
        name: Name of a model.
        settings: Fields of its configuration, as in a params.yaml; those below are set here.
        classes: Number of classes.
        mel_bins: Of the front-end.
        frames: Of a window, for the models that are made for one length.

    Raises:
        ModelError: There is no such model, or the settings do not fit it.
    """
    config_class, cls = load_class(name)
    given: dict[str, Any] = {"classes": classes, "mel_bins": mel_bins}
    if name in ("ast", "passt"):
        given["frames"] = frames
    config = from_mapping(config_class, {**settings, **given}, f"networks.{name}")
    if name == "hts_at" and config.frames < frames:
        problem = f"its image holds {config.frames} frames, a window has {frames}"
        raise ModelError("PTD-710", problem, "enlarge networks.hts_at.image, or shorten predict.window_s", name)
    return cls(config)
