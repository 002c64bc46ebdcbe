"""Stage train: prepared frames in, a bundle out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pentad.core.bundle import check_target, save_bundle
from pentad.core.cases import data_digest, read_cases
from pentad.core.config import from_mapping, load_params, read_params, to_mapping
from pentad.core.errors import NoInputError, UsageError, nearest
from pentad.core.files import digest_json
from pentad.core.optimization import TrainConfig
from pentad.core.run import provenance, seed_everything
from pentad.core.statement import Statement, read_statement
from pentad.core.trainer import fit
from pentad.point_clouds.dataset import AugmentConfig, Frames
from pentad.point_clouds.decoding import DecodeConfig
from pentad.point_clouds.frames import PointConfig
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.losses import LossConfig, detection_losses
from pentad.point_clouds.models import MODELS
from pentad.point_clouds.models.detector import Detector
from pentad.point_clouds.predict import Settings
from pentad.point_clouds.targets import make_targets


@dataclass(frozen=True)
class TrainRequest:
    """What to train, from what, and where to.

    Attributes:
        table: Case table; its split ``train`` is used.
        model: ``flatformer`` or ``point_pillars``; its sizes stand in the section ``networks``.
        out: The bundle's folder.
        run: Folder of the history and, until the run is over, of checkpoints.
        params: With the sections ``train``, ``classes``, ``grid``, ``networks``, ``points``, ``augment``, ``losses``
            and ``decode``.
        overrides: Changes to the section ``train``.
        resume: Go on from the checkpoint in ``run``, if there is one of the same settings.
        overwrite: Replace a bundle at ``out``.
    """

    table: Path
    model: str
    out: Path
    run: Path
    params: Path
    overrides: tuple[str, ...] = field(default=())
    resume: bool = False
    overwrite: bool = False


def check_name(name: str) -> None:
    """Refuse a model that there is not (PTD-924)."""
    if name not in MODELS:
        raise UsageError("PTD-924", f"there is no model '{name}'{nearest(name, MODELS)}", f"use {' or '.join(MODELS)}")


def build(name: str, sizes: Mapping[str, Any], grid: GridConfig, classes: int, where: str) -> Detector:
    """Return a network for so many classes on a grid.

    Raises:
        UsageError: There is no such network (PTD-924), or a size is unknown.
    """
    check_name(name)
    config, network = MODELS[name]
    own = {**sizes, "grid": to_mapping(grid), "head": {**(sizes.get("head") or {}), "classes": classes}}
    model = network(from_mapping(config, own, where))
    assert isinstance(model, Detector)
    return model


def read_settings(params: Path) -> Settings:
    """Return classes, points and decoding of a params.yaml."""
    classes = read_params(params).get("classes") or ()
    if not classes or not all(isinstance(name, str) for name in classes):
        raise UsageError("PTD-925", "no list of classes", "name the classes to be found", f"{params}, classes")
    points, decoding = load_params(params, "points", PointConfig), load_params(params, "decode", DecodeConfig)
    return Settings(tuple(classes), points, decoding)


def train(request: TrainRequest) -> str:
    """Train one model, write its bundle and return a one-line summary."""
    check_target(request.out, overwrite=request.overwrite)
    params = request.params
    config = load_params(params, "train", TrainConfig, request.overrides)
    settings, grid = read_settings(params), load_params(params, "grid", GridConfig)
    augment, weights = load_params(params, "augment", AugmentConfig), load_params(params, "losses", LossConfig)
    sizes = dict(read_params(params).get("networks") or {}).get(request.model) or {}
    cases = [case for case in read_cases(request.table, "train") if _labelled(case.target)]
    if not cases:
        raise NoInputError("PTD-926", "no labelled frame of the split 'train'", "prepare frames with labels")
    seed_everything(config.seed)
    model = build(request.model, sizes, grid, len(settings.classes), f"{params}, networks")
    samples = Frames(cases, settings.classes, settings.points, grid.range_m, augment, config.seed)

    def objective(network: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        maps: dict[str, Tensor] = network(batch["points"], batch["counts"])
        targets = make_targets(batch["boxes"], batch["labels"], model.map_grid, len(settings.classes))
        losses = detection_losses(maps, targets, model.map_grid, weights)
        return sum(losses.values(), start=maps["heatmap"].new_zeros(()))

    result = fit(model, samples, objective, config, request.run, resume=request.resume)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    about = read_statement(request.table, Statement)
    licence = about.licence
    roles = [role for role in cases[0].files if role.startswith("points")]
    save_bundle(
        request.out,
        model.cpu(),
        domain="point_clouds",
        name=request.model,
        settings=settings.to_mapping(),
        card=_card(request.model, config, settings, (len(cases), parameters), synthetic=about.synthetic),
        provenance=provenance(
            "point_clouds",
            seed=config.seed,
            data=data_digest(cases, ("frame", *roles)),
            config=digest_json([to_mapping(entry) for entry in (config, grid, augment, weights)] + [sizes]),
        ),
        licences={"code": "Apache-2.0", "weights": f"as the training data: {licence}", "data": licence},
        overwrite=request.overwrite,
    )
    shutil.rmtree(request.run / "checkpoint", ignore_errors=True)  # the run is over: a repetition starts afresh
    return f"{request.model}: {parameters / 1e6:.2f} M parameters, {result.steps} steps in {result.seconds:.0f} s"


def _labelled(target: Any) -> bool:
    return isinstance(target, dict) and "objects" in target


def _card(name: str, config: TrainConfig, settings: Settings, sizes: tuple[int, int], *, synthetic: bool) -> str:
    kind = "synthetic, so nothing is known of real sweeps" if synthetic else "real"
    return f"""# {name}

Finds {", ".join(settings.classes)} in LiDAR sweeps. The training data are {kind}.

- Trained from scratch on {sizes[0]} frames: {config.steps} steps of batch {config.batch_size}, {config.optimizer},
  learning rate {config.learning_rate}, schedule {config.schedule}, seed {config.seed}.
- {sizes[1]:,} parameters. `bundle.json` states the code, the data's digest and the settings.
"""
