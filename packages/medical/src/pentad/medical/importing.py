"""Published checkpoints turned into bundles: Swin-UNet, HiFormer, and U-Mamba as nnU-Net saves it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from pentad.core.bundle import check_target, save_bundle
from pentad.core.checkpoint import load_strict, read_checkpoint
from pentad.core.config import to_mapping
from pentad.core.errors import ModelError, UsageError, nearest
from pentad.core.files import digest_file, digest_json
from pentad.core.run import provenance
from pentad.medical.fingerprint import Intensity
from pentad.medical.models import MODELS, PRESETS, known
from pentad.medical.models import hiformer as hiformer_model
from pentad.medical.models import swin_unet as swin_unet_model
from pentad.medical.models import u_mamba as u_mamba_model
from pentad.medical.models.hiformer import Fusion, HiFormerConfig
from pentad.medical.models.swin_unet import PATCH, SwinUNetConfig
from pentad.medical.nnunet_files import read_training_folder
from pentad.medical.plan import Normalisation
from pentad.medical.predict import Settings
from pentad.medical.preprocess import Preprocessing
from pentad.medical.pretrained import read_weights

log = logging.getLogger(__name__)

SYNAPSE = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
"""Classes 1 to 8 of the multi-organ data on which Swin-UNet and HiFormer were published."""
_WINDOW_HU = (-125.0, 275.0)


@dataclass(frozen=True)
class ImportRequest:
    """Which checkpoint becomes which bundle.

    Attributes:
        checkpoint: File of weights; for U-Mamba with plans.json and dataset.json beside it or one folder above.
        architecture: Name in `pentad.medical.models.MODELS`.
        out: The bundle's folder.
        classes: Names of the classes from 1 upwards; of nine classes they are Synapse's unless given. U-Mamba's
            dataset.json names its own.
        fusion: For HiFormer, which code trained it; empty finds out, or asks.
        configuration: For U-Mamba, the plan's configuration; empty takes it from the folder's name.
        settings: JSON file with a bundle's settings, for a Swin-UNet or HiFormer that was not trained on slices
            prepared as Synapse's.
        licence: Of the weights, in words.
        overwrite: Replace a bundle at ``out``.
    """

    checkpoint: Path
    architecture: str
    out: Path
    classes: tuple[str, ...] = ()
    fusion: str = ""
    configuration: str = ""
    settings: Path | None = None
    licence: str = "not stated"
    overwrite: bool = False


def import_checkpoint(request: ImportRequest) -> str:
    """Write the bundle of a published checkpoint and return a one-line summary.

    Raises:
        ModelError: The file needs code to be read, is of another model, or misses, adds or misshapes a tensor; the
            sentence names every such tensor.
        UsageError: The bundle's folder is taken, or classes or settings do not fit.
    """
    check_target(request.out, overwrite=request.overwrite)
    if known(request.architecture) in PRESETS:
        model, settings = _slice_model(request)
    elif request.architecture in ("u_mamba_bot", "u_mamba_enc"):
        model, settings = _u_mamba(request)
    else:
        problem = f"there are no published checkpoints of {request.architecture}"
        choice = [name for name in MODELS if name in PRESETS or name.startswith("u_mamba")]
        raise ModelError("PTD-536", problem, f"choose one of {', '.join(choice)}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    digest = save_bundle(
        request.out,
        model,
        domain="medical",
        name=request.architecture,
        settings=settings.to_mapping(),
        card=_card(request, settings, parameters),
        provenance=provenance(
            "medical",
            checkpoint=digest_file(request.checkpoint),
            config=digest_json(to_mapping(getattr(model, "config"))),  # noqa: B009
        ),
        licences={"code": "Apache-2.0", "weights": request.licence, "data": "not stated"},
        overwrite=request.overwrite,
    )
    return f"{request.architecture}: {parameters / 1e6:.2f} M parameters, digest {digest[:12]}"


def _slice_model(request: ImportRequest) -> tuple[nn.Module, Settings]:
    raw = read_weights(request.checkpoint)
    config: SwinUNetConfig | HiFormerConfig
    if request.architecture == "swin_unet":
        state = swin_unet_model.official_state(raw)
        config = swin_unet_model.config_from_state(state)
        image = _trained_size(raw, config)
    else:
        state = hiformer_model.official_state(raw)
        preset = PRESETS[request.architecture](len(SYNAPSE) + 1)
        assert isinstance(preset, HiFormerConfig)
        config = hiformer_model.config_from_state(state, preset, "fused")
        image = config.image_size
    model = MODELS[request.architecture][1](config)
    _load(model, state, request.checkpoint)
    if isinstance(config, HiFormerConfig):
        # Only now: whether the fusion was trained is a question for weights that fit.
        model = MODELS[request.architecture][1](replace(config, fusion=_fusion(request, state)))
        _load(model, state, request.checkpoint)
    return model.eval(), _settings(request, config.classes, image)


def _u_mamba(request: ImportRequest) -> tuple[nn.Module, Settings]:
    config, settings = read_training_folder(request.checkpoint, request.configuration)
    model = MODELS[request.architecture][1](config)
    _load(
        model,
        u_mamba_model.official_state(read_checkpoint(request.checkpoint, entry="network_weights")),
        request.checkpoint,
    )
    if request.classes:
        settings = replace(settings, classes=_named(request, len(settings.classes) + 1))
    return model.eval(), settings


def _load(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    load_strict(model, state, where=path)
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        problem = f"tensors that are not finite: {', '.join(broken)}"
        raise ModelError("PTD-537", problem, "take a checkpoint from before the training diverged", path)


def _trained_size(raw: Mapping[str, Tensor], config: SwinUNetConfig) -> tuple[int, int]:
    """The slices' size, which the mask of the first shifted block tells: it has one entry a window."""
    masks = [tensor for name, tensor in raw.items() if name.endswith("layers.0.blocks.1.attn_mask")]
    side = math.isqrt(len(masks[0])) * config.windows[0] * PATCH if masks and masks[0].ndim == 3 else 224
    return side, side


def _fusion(request: ImportRequest, state: Mapping[str, Tensor]) -> Fusion:
    choice: tuple[Fusion, ...] = get_args(Fusion)
    for name in choice:
        if request.fusion == name:
            return name
    if request.fusion:
        problem = f"'{request.fusion}' is no behaviour of the fusion{nearest(request.fusion, choice)}"
        raise UsageError("PTD-540", problem, f"give one of {', '.join(choice)} to --fusion")
    if hiformer_model.fusion_was_trained(state):
        problem = "its fusion was trained, which today's published code never does"
        remedy = "say --fusion release_2022_07 for the code of July 2022, or --fusion fused for the paper's"
        raise UsageError("PTD-540", problem, remedy, request.checkpoint)
    log.info("the fusion's tensors are as they began: trained under the published code since October 2022")
    return "dropped"


def _settings(request: ImportRequest, classes: int, image: tuple[int, int]) -> Settings:
    """What the request's file says, or how the published code prepares slices of CT."""
    if request.settings is not None:
        return _given_settings(request, classes)
    names = _named(request, classes)
    low, high = _WINDOW_HU
    # Clipped to the window and scaled to 0 … 1: a mean of -125 and a standard deviation of 400 do just that.
    window = Intensity(mean=low, std=high - low, median=low, minimum=low, maximum=high, low=low, high=high)
    preprocessing = Preprocessing((1.0, 1.0), (0, 1, 2), Normalisation("ct", intensity=window), slice_size=image)
    return Settings(names, preprocessing, image)


def _given_settings(request: ImportRequest, classes: int) -> Settings:
    assert request.settings is not None
    try:
        given = json.loads(request.settings.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"no readable JSON ({' '.join(str(error).split())})"
        raise UsageError("PTD-541", problem, "give the settings of a bundle.json", request.settings) from None
    settings = Settings.from_mapping(given, str(request.settings))
    if request.classes:
        return replace(settings, classes=_named(request, classes))
    if len(settings.classes) + 1 != classes:
        problem = f"{len(settings.classes)} classes are named, and the checkpoint has {classes - 1} beside background"
        raise UsageError("PTD-541", problem, "name them all, in their order", request.settings)
    return settings


def _named(request: ImportRequest, classes: int) -> dict[str, int]:
    names = request.classes or (SYNAPSE if classes == len(SYNAPSE) + 1 else ())
    if len(names) != classes - 1 or len(set(names)) != len(names):
        problem = f"the checkpoint has {classes - 1} classes beside background, and {len(names)} names are known"
        raise UsageError("PTD-541", problem, "name each once with --classes, in their order", request.checkpoint)
    return {name: value for value, name in enumerate(names, start=1)}


def _card(request: ImportRequest, settings: Settings, parameters: int) -> str:
    grid = settings.preprocessing
    size = " x ".join(map(str, settings.patch_size))
    seen = f"slices resized to {size} pixels" if grid.slice_size else f"patches of {size} at {grid.spacing} mm"
    return f"""# {request.architecture}

Segments {", ".join(settings.classes)}. Research use only; not a medical device.

- Imported from a checkpoint of the published code, {request.checkpoint.name}; its digest is in `bundle.json`.
- Input: {seen}, normalised by '{grid.normalisation.scheme}'.
- {parameters:,} parameters. What it was trained on and how well it does is for its authors to say; nothing was
  measured here.
"""
