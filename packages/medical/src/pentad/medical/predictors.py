"""A predictor by name or bundle: the same function for evaluation and batch inference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pentad.core.errors import ModelError, UsageError
from pentad.core.files import digest_bytes
from pentad.core.run import code_version, pick_device

if TYPE_CHECKING:  # batch inference asks for the names alone before its workers load a model
    from pentad.medical.postprocess import PostProcessing
    from pentad.medical.predict import Prediction

BASELINES = ("threshold",)
"""Predictors without weights."""


@dataclass(frozen=True)
class Predictor:
    """A function from a scan to its labels, and what must be said of it.

    Attributes:
        name: Architecture or baseline.
        digest: SHA-256 of the bundle; of the code's version for a baseline without weights.
        classes: Name to label value.
        licences: Of code, weights and data.
        run: Scan in, labels on the scan's own grid out.
        rules: Post-processing that `run` applies; with rules, it takes ``keep_raw`` too. None without.
    """

    name: str
    digest: str
    classes: dict[str, int]
    licences: dict[str, Any]
    run: Callable[..., Prediction]
    rules: PostProcessing | None = None


def baseline_digest() -> str:
    """Return what stands for the digest of a predictor without weights: that of the code."""
    return digest_bytes(code_version()["source"].encode())


def load_predictor(source: str, device: str = "auto", *, offline: bool = False) -> Predictor:
    """Return the predictor of a bundle's folder or hub id, or of a baseline without weights.

    Raises:
        ModelError: There is no such bundle, or it is damaged.
        UsageError: The device is not there.
    """
    if source in BASELINES:
        from pentad.medical.threshold import predict_threshold

        return Predictor(
            source, baseline_digest(), {"liver": 1, "lesion": 2}, {"code": "Apache-2.0"}, predict_threshold
        )
    from pentad.core.bundle import load_bundle
    from pentad.medical.models import MODELS
    from pentad.medical.predict import Settings, predict_volume

    bundle = load_bundle(source, "medical", {name: cls for name, (_, cls) in MODELS.items()}, offline=offline)
    try:
        settings = Settings.from_mapping(bundle.settings)
    except UsageError as error:
        problem = f"its settings do not fit: {error.problem}"
        raise ModelError("PTD-389", problem, "install the version that made it", source) from None
    run = partial(predict_volume, bundle.model, settings, device=pick_device(device))
    return Predictor(bundle.name, bundle.digest, settings.classes, bundle.licences, run, settings.postprocessing)
