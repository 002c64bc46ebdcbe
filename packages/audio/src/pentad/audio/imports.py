"""Official checkpoints as bundles: read without running their code, checked tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from pentad.audio.frontends import FrontEndConfig, kaldi_fbank, log_mel, preemphasis_mel
from pentad.audio.models import PUBLISHED, load_class
from pentad.audio.predict import Settings, WindowConfig
from pentad.core.bundle import check_target, save_bundle
from pentad.core.checkpoint import read_checkpoint
from pentad.core.config import from_mapping
from pentad.core.errors import ModelError, UsageError, nearest
from pentad.core.files import digest_file
from pentad.core.run import provenance

FRONT_ENDS = {"ast": kaldi_fbank, "hts_at": log_mel, "passt": preemphasis_mel}
_ENTRIES = {"hts_at": "state_dict"}
_CODE = {"ast": "BSD-3-Clause", "hts_at": "MIT", "passt": "Apache-2.0"}


@dataclass(frozen=True)
class ImportRequest:
    """Which checkpoint becomes which bundle."""

    checkpoint: Path
    model: str
    """ast, hts_at or passt."""
    out: Path
    classes: Path | None = None
    """File with one class a line, in the checkpoint's order; numbers stand in for names otherwise."""
    settings: tuple[str, ...] = ()
    """What the tensors do not tell: ``strides=[10,10]``, ``frames=1024``; for AST ``mean`` and ``std`` of its data."""
    entry: str = ""
    """Where the tensors lie in the file; by default the official place."""
    overwrite: bool = False


def import_checkpoint(request: ImportRequest) -> str:
    """Write a bundle of an official checkpoint and return a one-line summary.

    Raises:
        ModelError: The checkpoint is not one of this architecture and these settings.
        UsageError: The list of classes or a setting does not fit.
    """
    if request.model not in PUBLISHED:
        problem = f"'{request.model}' has no official checkpoints{nearest(request.model, PUBLISHED)}"
        raise ModelError("PTD-744", problem, f"give one of {', '.join(PUBLISHED)}")
    check_target(request.out, overwrite=request.overwrite)
    state = _read(request)
    module = import_module(f"pentad.audio.models.{request.model}")
    given = _given(request.settings)
    front = _front_end(request.model, given)
    try:
        told = module.config_from_state(state)
    except (KeyError, ValueError, IndexError) as error:
        problem = f"no official checkpoint of {request.model} ({error} is missing)"
        raise ModelError("PTD-745", problem, "name its architecture, and --entry", request.checkpoint) from None
    config = from_mapping(load_class(request.model)[0], {**told, **given}, "--set")
    model = module.import_official(state, config)
    names = _names(request.classes, config.classes)
    window_s = _window_s(request.model, config, front)
    windows = WindowConfig(window_s=window_s, hop_s=window_s / 2, short="pad" if request.model == "ast" else "as_is")
    save_bundle(
        request.out,
        model,
        domain="audio",
        name=request.model,
        settings=Settings(front, names, windows).to_mapping(),
        card=f"# {request.model}\n\nImported from `{request.checkpoint.name}`, with its published front-end.",
        provenance=provenance("audio", checkpoint=digest_file(request.checkpoint)),
        licences={"code": f"Apache-2.0; official code {_CODE[request.model]}", "weights": "as the checkpoint's"},
        overwrite=request.overwrite,
    )
    return f"{request.model}: {config.classes} classes, windows of {window_s:g} s, in {request.out}"


def _read(request: ImportRequest) -> Mapping[str, Tensor]:
    entry = request.entry or _ENTRIES.get(request.model, "")
    try:
        return read_checkpoint(request.checkpoint, entry=entry)
    except ModelError:
        if request.entry or not entry:
            raise
        return read_checkpoint(request.checkpoint)  # the tensors alone, saved again without their entry


def _given(settings: Sequence[str]) -> dict[str, Any]:
    given = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError("PTD-746", f"'{setting}' is no setting", "write name=value after --set")
        given[key] = yaml.safe_load(text)
    return given


def _front_end(model: str, given: dict[str, Any]) -> FrontEndConfig:
    if model == "ast" and ("mean" in given or "std" in given):
        preset = kaldi_fbank()
        return kaldi_fbank(float(given.pop("mean", preset.mean)), float(given.pop("std", preset.std)))
    return FRONT_ENDS[model]()


def _names(file: Path | None, count: int) -> tuple[str, ...]:
    if file is None:
        return tuple(f"class_{number}" for number in range(count))
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError):
        raise UsageError("PTD-747", "cannot be read", "give a text file with one class a line", file) from None
    if len(names) != count or len(set(names)) != count:
        problem = f"{len(set(names))} different names for {count} classes"
        raise UsageError("PTD-747", problem, "give one name a class, in the checkpoint's order", file)
    return names


def _window_s(model: str, config: Any, front: FrontEndConfig) -> float:
    """Seconds of the longest window that the model takes, in whole tenths."""
    frames = config.frames
    samples = (frames - 1) * front.hop if model != "ast" else (frames - 1) * front.hop + front.window
    return max(0.1, int(samples / front.sample_rate * 10) / 10)
