"""Stage train: prepared pairs in, a bundle out."""

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
from pentad.core.statement import read_statement
from pentad.core.trainer import fit
from pentad.remote_sensing.dataset import PatchConfig, Patches, measure
from pentad.remote_sensing.ingest import PrepareConfig
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.predict import Settings, TileConfig
from pentad.remote_sensing.statement import Statement
from pentad.remote_sensing.tasks import Task, heads_of, task_named

_FINDS = {
    "bcd": "building change",
    "scd": "changed land cover, and what it was and is,",
    "bda": "buildings and the damage done to them",
}


@dataclass(frozen=True)
class TrainRequest:
    """What to train, from what, and where to.

    Attributes:
        table: Case table; its split ``train`` is used.
        model: A network for the table's task; its sizes stand in the section ``networks``.
        out: The bundle's folder.
        run: Folder of the history and, until the run is over, of checkpoints.
        params: With the sections ``train``, ``patches``, ``tiles``, ``networks`` and ``prepare``.
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


def build(name: str, task: Task, bands: int, sizes: Mapping[str, Any], where: str) -> nn.Module:
    """Return a network for a task and images of so many bands.

    Raises:
        UsageError: There is no such network for the task (PTD-869), or a size is unknown.
    """
    if name not in task.models:
        problem = f"'{name}' cannot be trained for the task '{task.name}'{nearest(name, task.models)}"
        raise UsageError("PTD-869", problem, f"use {' or '.join(task.models)}")
    own, heads = dict(sizes), task.heads
    if name.startswith("fc_siam"):
        own |= {"bands": bands, "heads": list(heads)}
    else:
        own["encoder"] = {**own.get("encoder", {}), "input_channels": bands}
        # The published heads: the main one is that of change or damage, the other that of land cover or buildings.
        main, other = {"bcd": (heads[0], 1), "scd": heads[:2], "bda": heads[::-1]}[task.name]
        own |= {"classes": main, **({} if task.name == "bcd" else {"semantic_classes": other})}
    config, network = MODELS[name]
    return network(from_mapping(config, own, where))


def train(request: TrainRequest) -> str:
    """Train one model, write its bundle and return a one-line summary."""
    check_target(request.out, overwrite=request.overwrite)
    config = load_params(request.params, "train", TrainConfig, request.overrides)
    patches = load_params(request.params, "patches", PatchConfig)
    tiles = load_params(request.params, "tiles", TileConfig)
    pair = load_params(request.params, "prepare", PrepareConfig).pair
    sizes = dict(read_params(request.params).get("networks") or {}).get(request.model) or {}
    about = read_statement(request.table, Statement)
    task = task_named(about.task)
    cases = [case for case in read_cases(request.table, "train") if set(task.roles) <= case.files.keys()]
    if not cases:
        raise NoInputError("PTD-870", "no labelled pair of the split 'train'", "prepare pairs with labels")
    settings = Settings(measure(cases, pair), tiles, pair, task.name, about.classes)
    seed_everything(config.seed)
    model = build(request.model, task, len(settings.scaling.mean), sizes, f"{request.params}, networks")
    samples = Patches(cases, task.roles, settings.scaling, patches, pair, config.seed)

    def objective(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return task.loss(heads_of(network(batch["before"], batch["after"])), batch["labels"])

    result = fit(model, samples, objective, config, request.run, resume=request.resume)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    save_bundle(
        request.out,
        model.cpu(),
        domain="remote_sensing",
        name=request.model,
        settings=settings.to_mapping(),
        card=_card(request.model, task, config, len(cases), parameters, synthetic=about.synthetic),
        provenance=provenance(
            "remote_sensing",
            seed=config.seed,
            data=data_digest(cases, ("before", "after", *task.roles)),
            config=digest_json([to_mapping(config), to_mapping(patches), sizes]),
        ),
        licences={"code": "Apache-2.0", "weights": f"as the training data: {about.licence}", "data": about.licence},
        overwrite=request.overwrite,
    )
    shutil.rmtree(request.run / "checkpoint", ignore_errors=True)  # the run is over: a repetition starts afresh
    return f"{request.model}: {parameters / 1e6:.2f} M parameters, {result.steps} steps in {result.seconds:.0f} s"


def _card(name: str, task: Task, config: TrainConfig, pairs: int, parameters: int, *, synthetic: bool) -> str:
    kind = "synthetic, so nothing is known of real images" if synthetic else "real"
    return f"""# {name}

Finds {_FINDS[task.name]} between two images of one place. The training data are {kind}.

- Trained from scratch on {pairs} pairs: {config.steps} steps of batch {config.batch_size}, {config.optimizer},
  learning rate {config.learning_rate}, schedule {config.schedule}, seed {config.seed}.
- {parameters:,} parameters. `bundle.json` states the code, the data's digest and the settings.
"""
