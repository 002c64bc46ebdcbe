"""Stage train: prepared cases and a plan in, a bundle out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from pentad.core.bundle import check_target, save_bundle
from pentad.core.cases import data_digest, read_cases
from pentad.core.config import load_params, to_mapping
from pentad.core.files import digest_file, digest_files, digest_json
from pentad.core.optimization import TrainConfig
from pentad.core.run import provenance, seed_everything
from pentad.core.statement import Statement, read_statement
from pentad.core.trainer import fit
from pentad.medical.augment import AugmentConfig
from pentad.medical.dataset import PatchConfig, PatchDataset, prepare_case
from pentad.medical.losses import segmentation_loss
from pentad.medical.models import build, fitted, known
from pentad.medical.plan import Plan, read_plan
from pentad.medical.postprocess import PostProcessing
from pentad.medical.predict import Settings
from pentad.medical.pretrained import load_pretrained


@dataclass(frozen=True)
class PredictConfig:
    """How a trained model is applied, section ``predict`` of params.yaml.

    Attributes:
        step: Largest distance between windows as a share of the patch.
        mirror: Average over mirrored windows.
        postprocessing: Rules for the label map.
    """

    step: float = 0.5
    mirror: bool = False
    postprocessing: PostProcessing = field(default_factory=lambda: PostProcessing("liver", "lesion"))


@dataclass(frozen=True)
class SamplingConfig:
    """How patches are drawn, section ``sampling`` of params.yaml.

    Attributes:
        foreground: Share of every batch forced to hold foreground, of a class drawn from those the case has; the
            published share is a third, a short training on small lesions wants more.
    """

    foreground: float = 0.33


@dataclass(frozen=True)
class NetworkTraining(TrainConfig):
    """Section ``train`` of params.yaml: core's settings, and where the weights begin."""

    pretrained: str | tuple[str, ...] | dict[str, str | tuple[str, ...]] = ()
    """ImageNet weights for the encoder: a file or several, or for each model of a pipeline its own; a Swin-T for
    Swin-UNet, a Swin-T, a ResNet or both for HiFormer."""
    pretrained_as_published: bool = False
    """Keep of a HiFormer's Swin-T only the position-bias tables, as its published code does."""

    def pretrained_files(self, model: str) -> tuple[Path, ...]:
        """Return the files for a model.

        Raises:
            ModelError: The setting names a model that there is not.
        """
        given = self.pretrained
        if isinstance(given, dict):
            given = {known(name): files for name, files in given.items()}.get(model, ())
        return tuple(Path(name) for name in ((given,) if isinstance(given, str) else given))


@dataclass(frozen=True)
class TrainRequest:
    """What to train, from what, and where to.

    Batch and patch come from the plan, so that every model of a pipeline has the same budget.

    Attributes:
        table: Case table; its split ``train`` is used.
        plan: The plan's file.
        model: Name in `pentad.medical.models.MODELS`.
        out: The bundle's folder.
        run: Folder of the history and, until the run is over, of checkpoints.
        params: With the sections ``train``, ``sampling``, ``augment`` and ``predict``.
        overrides: Changes to the section ``train``.
        resume: Go on from the checkpoint in ``run``, if there is one of the same settings.
        overwrite: Replace a bundle at ``out``.
    """

    table: Path
    plan: Path
    model: str
    out: Path
    run: Path
    params: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    overwrite: bool = False


def train(request: TrainRequest) -> str:
    """Train one model, write its bundle and return a one-line summary."""
    check_target(request.out, overwrite=request.overwrite)
    made, said = fitted(request.model, read_plan(request.plan)), read_statement(request.table, Statement)
    config = load_params(request.params, "train", NetworkTraining, request.overrides)
    config = replace(config, batch_size=made.batch_size)
    augmentation = load_params(request.params, "augment", AugmentConfig)
    sampling = load_params(request.params, "sampling", SamplingConfig)
    applied = load_params(request.params, "predict", PredictConfig)
    cases = read_cases(request.table, "train")
    settings = Settings.from_plan(made, applied.postprocessing, step=applied.step, mirror=applied.mirror)
    seed_everything(config.seed)
    model = build(request.model, made)
    weights = config.pretrained_files(request.model)
    if weights:
        load_pretrained(model, weights, bias_tables_only=config.pretrained_as_published)
    prepared = [prepare_case(case, settings.preprocessing, request.run.parent / "cache") for case in cases]
    data = data_digest(cases, ("image", "label"))
    drawing = PatchConfig(made.patch_size, config.batch_size, sampling.foreground, config.seed, augmentation)

    def objective(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return segmentation_loss(network(batch["image"]), batch["label"], batch_dice=made.batch_dice)

    result = fit(model, PatchDataset(prepared, drawing), objective, config, request.run, resume=request.resume)
    statement = provenance(
        "medical",
        seed=config.seed,
        data=data,
        plan=digest_file(request.plan),
        config=digest_json([to_mapping(part) for part in (config, sampling, augmentation, applied)]),
        **({"pretrained": digest_files(weights)} if weights else {}),
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    save_bundle(
        request.out,
        model.cpu(),
        domain="medical",
        name=request.model,
        settings=settings.to_mapping(),
        card=_card(request.model, made, config, len(cases), parameters),
        provenance=statement,
        # What a licence of data says of models trained on them is for the user to judge.
        licences={"code": "Apache-2.0", "weights": _weights_licence(said.licence, weights), "data": said.licence},
        overwrite=request.overwrite,
    )
    shutil.rmtree(request.run / "checkpoint", ignore_errors=True)  # the run is over: a repetition starts afresh
    return f"{request.model}: {parameters / 1e6:.2f} M parameters, {result.steps} steps in {result.seconds:.0f} s"


def _weights_licence(data: str, begun_from: Sequence[Path]) -> str:
    words = f"as the training data: {data}"
    return words + (
        f"; and as {', '.join(path.name for path in begun_from)}, from which they began" if begun_from else ""
    )


def _card(name: str, made: Plan, config: NetworkTraining, cases: int, parameters: int) -> str:
    start = "from ImageNet's weights in the encoder" if config.pretrained_files(name) else "from scratch"
    return f"""# {name}

Segments {", ".join(made.labels[1:])} in {", ".join(made.channels)} images. Research use only; not a medical device.

- Input: {made.configuration}, patch {made.patch_size} voxels, spacing {made.spacing} mm, axes order {made.transpose}.
- Trained {start} on {cases} cases: {config.steps} steps of batch {config.batch_size}, {config.optimizer},
  learning rate {config.learning_rate}, schedule {config.schedule}, seed {config.seed}.
- {parameters:,} parameters. `bundle.json` states the code, the data's digest and the settings.
"""
