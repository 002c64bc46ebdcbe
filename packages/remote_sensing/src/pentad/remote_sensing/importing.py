"""Published checkpoints of ChangeMamba as bundles: read without running their code, checked tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pentad.core.bundle import check_target, save_bundle
from pentad.core.checkpoint import load_strict, read_checkpoint
from pentad.core.config import to_mapping
from pentad.core.errors import ModelError
from pentad.core.files import digest_file, digest_json
from pentad.core.run import provenance
from pentad.remote_sensing.dataset import Scaling
from pentad.remote_sensing.ingest import SECOND
from pentad.remote_sensing.models import MODELS
from pentad.remote_sensing.models.change_mamba import ChangeMambaConfig, official_state
from pentad.remote_sensing.models.vmamba import VMambaConfig
from pentad.remote_sensing.predict import Settings, TileConfig
from pentad.remote_sensing.raster import PairConfig
from pentad.remote_sensing.tasks import GRADES

PUBLISHED_SCALING = Scaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Of 8-bit red, green and blue, as the published code normalises them."""
_DECODERS = {"decoder": "mamba_bcd", "decoder_bcd": "mamba_scd", "decoder_damage": "mamba_bda"}
_TASKS = {"mamba_bcd": "bcd", "mamba_scd": "scd", "mamba_bda": "bda"}


@dataclass(frozen=True)
class ImportRequest:
    """Which checkpoint becomes which bundle.

    Attributes:
        checkpoint: File of a whole network's weights, in either naming scheme.
        out: The bundle's folder.
        side: Rows and columns of the windows it will predict with.
        licence: Of the weights, in words.
        overwrite: Replace a bundle at ``out``.
    """

    checkpoint: Path
    out: Path
    side: int = 256
    licence: str = "not stated"
    overwrite: bool = False


def import_checkpoint(request: ImportRequest) -> str:
    """Write the bundle of a published checkpoint and return a one-line summary.

    Which of the three networks it is, and its sizes, are told by the tensors.

    Raises:
        ModelError: The file needs code to be read, holds an encoder alone or no ChangeMamba (PTD-843), or misses, adds
            or misshapes a tensor; the sentence names every such tensor.
        UsageError: The bundle's folder is taken.
    """
    check_target(request.out, overwrite=request.overwrite)
    state = official_state(_read(request.checkpoint))
    name, config = described(state, request.checkpoint)
    model: nn.Module = MODELS[name][1](config)
    load_strict(model, state, where=request.checkpoint)
    classes = {"bcd": (), "scd": (tuple(SECOND),) * 2, "bda": (GRADES,)}[_TASKS[name]]
    settings = Settings(PUBLISHED_SCALING, TileConfig(side=request.side), PairConfig(), _TASKS[name], classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    digest = save_bundle(
        request.out,
        model.eval(),
        domain="remote_sensing",
        name=name,
        settings=settings.to_mapping(),
        card=_card(name, request.checkpoint.name, parameters),
        provenance=provenance(
            "remote_sensing", checkpoint=digest_file(request.checkpoint), config=digest_json(to_mapping(config))
        ),
        licences={"code": "Apache-2.0", "weights": request.licence, "data": "not stated"},
        overwrite=request.overwrite,
    )
    return f"{name}: {parameters / 1e6:.2f} M parameters, digest {digest[:12]}"


def described(state: Mapping[str, Tensor], where: Path) -> tuple[str, ChangeMambaConfig]:
    """Return the network's name and sizes that tensors under our names tell.

    Raises:
        ModelError: They are no ChangeMamba's (PTD-843).
    """
    try:
        name = next(name for prefix, name in _DECODERS.items() if any(key.startswith(f"{prefix}.") for key in state))
        main = state["main_clf_cd.weight" if name == "mamba_scd" else "main_clf.weight"]
        other = {} if name == "mamba_bcd" else {"semantic_classes": len(state["aux_clf.weight"])}
        return name, ChangeMambaConfig(_encoder(state), hidden=main.shape[1], classes=len(main), **other)
    except (KeyError, StopIteration, IndexError):
        problem = "its tensors are those of no ChangeMamba network"
        raise ModelError("PTD-843", problem, "give a checkpoint of MambaBCD, MambaSCD or MambaBDA", where) from None


def _encoder(state: Mapping[str, Tensor]) -> VMambaConfig:
    depths: list[int] = []
    while f"encoder.layers.{len(depths)}.blocks.0.norm.weight" in state:
        stage, depth = len(depths), 0
        while f"encoder.layers.{stage}.blocks.{depth}.norm.weight" in state:
            depth += 1
        depths.append(depth)
    blocks = [f"encoder.layers.{stage}.blocks.0" for stage in range(len(depths))]
    widths = tuple(len(state[f"{block}.norm.weight"]) for block in blocks)
    first = blocks[0]
    return VMambaConfig(
        widths=widths,
        depths=tuple(depths),
        input_channels=state["encoder.patch_embed.0.weight"].shape[1],
        states=state[f"{first}.op.A_logs"].shape[1],
        expand=len(state[f"{first}.op.out_norm.weight"]) / widths[0],
        mlp_ratio=len(state[f"{first}.mlp.fc1.weight"]) / widths[0],
        drop_path=0.0,
    )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors, which lie at the top of older files and under ``model`` in newer ones."""
    try:
        return read_checkpoint(path, entry="model")
    except ModelError:
        return read_checkpoint(path)


def _card(name: str, file: str, parameters: int) -> str:
    return f"""# {name}

Imported from a checkpoint of the published code, {file}; its digest is in `bundle.json`.

- Input: two registered images of 8-bit red, green and blue, normalised as in the published code.
- {parameters:,} parameters. What it was trained on and how well it does is for its authors to say; nothing was measured
  here.
"""
