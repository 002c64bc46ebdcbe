"""A predictor by name or bundle: the same function for evaluation and batch inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pentad.core.errors import ModelError, UsageError
from pentad.core.files import digest_bytes, digest_json
from pentad.core.run import code_version, pick_device
from pentad.medical.training_range import TrainingRange

if TYPE_CHECKING:  # batch inference asks for the names alone before its workers load a model
    from pentad.core.bundle import Bundle
    from pentad.medical.fingerprint import Intensity
    from pentad.medical.postprocess import PostProcessing
    from pentad.medical.predict import Prediction, Settings

BASELINES = ("threshold",)
"""Predictors without weights."""


@dataclass(frozen=True)
class Predictor:
    """A function from a scan to its labels, and what must be said of it.

    Attributes:
        name: Architecture or baseline; of an ensemble all names.
        digest: SHA-256 of the bundle; of the code's version for a baseline without weights; of the list of digests
            for an ensemble.
        classes: Name to label value.
        licences: Of code, weights and data.
        run: Scan in, labels on the scan's own grid out.
        training: What the training scans were like, where the bundle says it.
        intensity: Statistics of the training scans' foreground, where intensities are normalised by them.
        rules: Post-processing that `run` applies; with rules, it takes ``keep_raw`` too. None without.
    """

    name: str
    digest: str
    classes: dict[str, int]
    licences: dict[str, Any]
    run: Callable[..., Prediction]
    training: TrainingRange | None = None
    intensity: Intensity | None = None
    rules: PostProcessing | None = None


def baseline_digest() -> str:
    """Return what stands for the digest of a predictor without weights: that of the code."""
    return digest_bytes(code_version("medical")["source"].encode())


def sources_of(source: str) -> list[str]:
    """Return the models that ``source`` names: one, or several divided by commas."""
    if source in BASELINES or Path(source).exists():
        return [source]
    return [part.strip() for part in source.split(",") if part.strip()] or [source]


def joint_digest(digests: Sequence[str]) -> str:
    """Return the digest of a predictor of these bundles: that of one alone, else that of the list."""
    return digests[0] if len(digests) == 1 else digest_json(list(digests))


def load_predictor(
    source: str, device: str = "auto", *, offline: bool = False, mirror: bool | None = None
) -> Predictor:
    """Return the predictor of a bundle's folder or hub id, of several divided by commas, or of a baseline.

    Args:
        source: What to load; several bundles answer together by their mean probability.
        device: auto, cpu, cuda or cuda:N.
        offline: Never ask the network.
        mirror: Average over mirrored windows or not; None for what each bundle says.

    Raises:
        ModelError: There is no such bundle, or it is damaged.
        UsageError: The device is not there, or the bundles cannot answer together.
    """
    if source in BASELINES:
        from pentad.medical.threshold import predict_threshold

        classes, licences = {"liver": 1, "lesion": 2}, {"code": "Apache-2.0"}
        return Predictor(source, baseline_digest(), classes, licences, predict_threshold)
    from pentad.core.bundle import load_bundle
    from pentad.medical.models import MODELS
    from pentad.medical.predict import check_members, predict_ensemble

    sources = _bundles_of(source)
    known = {name: cls for name, (_, cls) in MODELS.items()}
    bundles = [load_bundle(item, "medical", known, offline=offline) for item in sources]
    settings = [_settings(bundle.settings, item, mirror) for bundle, item in zip(bundles, sources, strict=True)]
    check_members(settings)
    members = [(bundle.model, each) for bundle, each in zip(bundles, settings, strict=True)]
    first = settings[0]
    return Predictor(
        name=" + ".join(bundle.name for bundle in bundles),
        digest=joint_digest([bundle.digest for bundle in bundles]),
        classes=first.classes,
        licences=_joint_licences(bundles),
        run=partial(predict_ensemble, members, device=pick_device(device)),
        training=first.training,
        intensity=first.preprocessing.normalisation.intensity,
        rules=first.postprocessing,
    )


def check_predictor(source: str, *, offline: bool = False) -> None:
    """See that `load_predictor` will find what it needs, from manifests, settings and digests, without any weights.

    A model on the hub that has not been fetched is not looked for: a dry run asks no network. With ``offline`` it must
    have been fetched before.

    Raises:
        ModelError: As `load_predictor`, but for weights that do not fit the model.
        UsageError: The bundles cannot answer together.
    """
    if source in BASELINES:
        return
    from pentad.core.bundle import check_bundle
    from pentad.medical.models import MODELS
    from pentad.medical.predict import check_members

    here = [item for item in _bundles_of(source) if offline or Path(item).exists()]
    manifests = [check_bundle(item, "medical", MODELS, offline=offline)[1] for item in here]
    settings = [_settings(found["settings"], item, None) for found, item in zip(manifests, here, strict=True)]
    if settings:
        check_members(settings)


def _bundles_of(source: str) -> list[str]:
    """The bundles that ``source`` names, of which none may be a baseline."""
    sources = sources_of(source)
    if baseline := next((name for name in sources if name in BASELINES), ""):
        problem = f"'{baseline}' has no probabilities to average"
        raise UsageError("PTD-555", problem, "combine bundles only", source)
    return sources


def _settings(mapping: Mapping[str, Any], source: str, mirror: bool | None) -> Settings:
    from pentad.medical.predict import Settings

    try:
        settings = Settings.from_mapping(mapping)
    except UsageError as error:
        problem = f"its settings do not fit: {error.problem}"
        raise ModelError("PTD-389", problem, "install the version that made it", source) from None
    return settings if mirror is None else replace(settings, mirror=mirror)


def _joint_licences(bundles: Sequence[Bundle]) -> dict[str, str]:
    """Every licence of every bundle, each named once."""
    return {kind: "; ".join(dict.fromkeys(bundle.licences[kind] for bundle in bundles)) for kind in bundles[0].licences}
