"""Stage train: prepared cases in, a bundle out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pentad.audio.dataset import AugmentConfig, ClipConfig, Clips
from pentad.audio.frontends import FrontEnd, FrontEndConfig
from pentad.audio.losses import sound_loss
from pentad.audio.models import build
from pentad.audio.predict import Settings, WindowConfig
from pentad.audio.statement import Statement
from pentad.audio.waveform import read
from pentad.core.bundle import check_target, save_bundle
from pentad.core.cases import Case, data_digest, read_cases
from pentad.core.config import load_params, read_params, to_mapping
from pentad.core.errors import UsageError
from pentad.core.files import digest_json
from pentad.core.optimization import TrainConfig
from pentad.core.run import provenance, seed_everything
from pentad.core.statement import read_statement
from pentad.core.trainer import fit

_MEASURED = 200


@dataclass(frozen=True)
class LossConfig:
    """Section ``loss`` of params.yaml."""

    over_time: float = 1.0
    """Weight of the scores over time, for models that have them and clips whose events are marked."""


@dataclass(frozen=True)
class TrainRequest:
    """What to train, from what, and where to."""

    table: Path
    """Case table; its split ``train`` is used."""
    model: str
    """Name in `pentad.audio.models.MODELS`."""
    out: Path
    """The bundle's folder."""
    run: Path
    """Folder of the history and, until the run is over, of checkpoints."""
    params: Path
    """With the sections frontend, networks, train, loss, augment and predict."""
    overrides: tuple[str, ...] = ()
    """Changes to the section train."""
    resume: bool = False
    """Go on from the checkpoint in ``run``, if there is one of the same settings."""
    overwrite: bool = False
    """Replace a bundle at ``out``."""


def train(request: TrainRequest) -> str:
    """Train one model, write its bundle and return a one-line summary."""
    check_target(request.out, overwrite=request.overwrite)
    said, cases = read_statement(request.table, Statement), read_cases(request.table, "train")
    config = load_params(request.params, "train", TrainConfig, request.overrides)
    loss, augmentation = (
        load_params(request.params, "loss", LossConfig),
        load_params(request.params, "augment", AugmentConfig),
    )
    settings = Settings(
        front_end_for(load_params(request.params, "frontend", FrontEndConfig), cases),
        said.classes,
        load_params(request.params, "predict", WindowConfig),
        said.exclusive,
    )
    seed_everything(config.seed)
    model, shape = network_for(request.model, request.params, settings)
    clips = Clips(
        cases,
        ClipConfig(
            settings.classes,
            settings.frontend.sample_rate,
            settings.window,
            settings.exclusive,
            config.seed,
            augmentation,
        ),
    )
    front_end = FrontEnd(settings.frontend)

    def objective(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return sound_loss(
            network,
            front_end.to(batch["wave"].device),
            batch,
            augmentation,
            exclusive=settings.exclusive,
            over_time=loss.over_time,
        )

    result = fit(model, clips, objective, config, request.run, resume=request.resume)
    parts = [to_mapping(part) for part in (config, loss, augmentation, settings)]
    save_bundle(
        request.out,
        model.cpu(),
        domain="audio",
        name=request.model,
        settings=settings.to_mapping(),
        card=_card(request.model, said, settings, config, len(cases)),
        provenance=provenance(
            "audio", seed=config.seed, data=data_digest(cases, ("audio",)), config=digest_json([*parts, shape])
        ),
        # What a licence of data says of models trained on them is for the user to judge.
        licences={"code": "Apache-2.0", "weights": f"as the training data: {said.licence}", "data": said.licence},
        overwrite=request.overwrite,
    )
    shutil.rmtree(request.run / "checkpoint", ignore_errors=True)  # the run is over: a repetition starts afresh
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{request.model}: {parameters / 1e6:.2f} M parameters, {result.steps} steps in {result.seconds:.0f} s"


def network_for(name: str, params: Path, settings: Settings) -> tuple[nn.Module, Mapping[str, Any]]:
    """Return the untrained model of the section ``networks`` and its settings there."""
    networks = read_params(params).get("networks") or {}
    shape = networks.get(name) or {}
    if not isinstance(shape, Mapping):
        raise UsageError("PTD-736", f"networks.{name} is no mapping of settings", "write 'name: value' lines", params)
    frames = settings.frontend.frames(settings.window)
    return build(name, shape, classes=len(settings.classes), mel_bins=settings.frontend.mel_bins, frames=frames), shape


def front_end_for(config: FrontEndConfig, cases: Sequence[Case]) -> FrontEndConfig:
    """Return a Kaldi front-end with mean and spread of up to 200 training recordings; others as they are.

    The published values hold for their data sets alone; settings other than the defaults are kept.
    """
    if config.kind != "kaldi_fbank" or (config.mean, config.std) != (0.0, 0.5):
        return config
    import torch

    plain = FrontEnd(config)
    chosen = cases[:: max(1, len(cases) // _MEASURED)]
    sums = np.zeros(3)
    for case in chosen:
        _, wave = read(Path(case.files["audio"]), config.sample_rate)
        mel = plain.log_mel(torch.from_numpy(wave)[None]).double()
        sums += (mel.numel(), float(mel.sum()), float(mel.square().sum()))
    mean = sums[1] / sums[0]
    return replace(config, mean=round(mean, 6), std=round(float(np.sqrt(sums[2] / sums[0] - mean**2)), 6))


def _card(name: str, said: Statement, settings: Settings, config: TrainConfig, cases: int) -> str:
    front, kind = settings.frontend, "one class a recording" if settings.exclusive else "any number of classes at once"
    warning = "\n**Trained on generated sounds: it has never heard a real one.**\n" if said.synthetic else ""
    return f"""# {name}

Names {", ".join(settings.classes)} in recordings: {kind}.
{warning}
- Input: mono at {front.sample_rate} Hz, {front.kind} with {front.mel_bins} mel bins, windows of
  {settings.windows.window_s:g} s.
- Trained from scratch on {cases} recordings of {said.name}: {config.steps} steps of batch {config.batch_size},
  {config.optimizer}, learning rate {config.learning_rate}, schedule {config.schedule}, seed {config.seed}.
- `bundle.json` states the code, the data's digest and the settings.
"""
