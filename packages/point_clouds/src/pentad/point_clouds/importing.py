"""Checkpoints of the published FlatFormer's training code as bundles: read without running code, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pentad.core.bundle import check_target, save_bundle
from pentad.core.checkpoint import load_strict, read_checkpoint
from pentad.core.config import from_mapping, load_params, read_params, to_mapping
from pentad.core.errors import ModelError, UsageError
from pentad.core.files import digest_file, digest_json
from pentad.core.run import provenance
from pentad.point_clouds.decoding import DecodeConfig
from pentad.point_clouds.frames import PointConfig
from pentad.point_clouds.grid import GridConfig
from pentad.point_clouds.models.flatformer import FlatFormer, FlatFormerConfig, config_from_state, official_state
from pentad.point_clouds.predict import Settings

WAYMO = ("car", "pedestrian", "cyclist")


@dataclass(frozen=True)
class ImportRequest:
    """Which checkpoint becomes which bundle.

    Attributes:
        checkpoint: Written by MMCV's runner: ``state_dict`` with the network's tensors.
        out: The bundle's folder.
        classes: In the heatmap's order; those of Waymo by default.
        params: A params.yaml whose sections ``grid`` and ``decode``, and ``flatformer`` under ``networks``, replace
            what was published and tensors do not tell: cells, suppression, windows, group, heads.
        sweeps: Turns that the network was trained on.
        licence: Of the weights, in words.
        overwrite: Replace a bundle at ``out``.
    """

    checkpoint: Path
    out: Path
    classes: Sequence[str] = WAYMO
    params: Path | None = None
    sweeps: int = 1
    licence: str = "not stated"
    overwrite: bool = False


def import_checkpoint(request: ImportRequest) -> str:
    """Write the bundle of a checkpoint and return a one-line summary.

    Raises:
        ModelError: The file needs code to be read, holds no FlatFormer (PTD-885), misses, adds or misshapes a tensor,
            or holds numbers that are not finite (PTD-887); the sentence names every such tensor.
        UsageError: The bundle's folder is taken, or the classes are not as many as the heatmap's (PTD-935).
    """
    check_target(request.out, overwrite=request.overwrite)
    told, decoding = _told(request.params, len(request.classes))
    state = official_state(read_checkpoint(request.checkpoint, entry="state_dict"))
    config = config_from_state(state, told)
    if len(request.classes) != config.head.classes:
        problem = f"{len(request.classes)} classes for a network of {config.head.classes}"
        raise UsageError("PTD-935", problem, "name its classes in their order with --classes", request.checkpoint)
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        problem = f"tensors that are not finite: {', '.join(broken)}"
        remedy = "take a checkpoint from before the training diverged"
        raise ModelError("PTD-887", problem, remedy, request.checkpoint)
    model = FlatFormer(config)
    load_strict(model, state, where=request.checkpoint)
    points = PointConfig(sweeps=request.sweeps, near=5.0 if request.sweeps > 1 else 0.0, tanh=True)
    settings = Settings(tuple(request.classes), points, decoding)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    digest = save_bundle(
        request.out,
        model.eval(),
        domain="point_clouds",
        name="flatformer",
        settings=settings.to_mapping(),
        card=_card(request, parameters),
        provenance=provenance(
            "point_clouds", checkpoint=digest_file(request.checkpoint), config=digest_json(to_mapping(config))
        ),
        licences={"code": "Apache-2.0", "weights": request.licence, "data": "not stated"},
        overwrite=request.overwrite,
    )
    return f"flatformer: {parameters / 1e6:.2f} M parameters, digest {digest[:12]}"


def _told(params: Path | None, classes: int) -> tuple[FlatFormerConfig, DecodeConfig]:
    """What tensors do not tell of the network, and how its boxes are chosen."""
    config, decoding = FlatFormerConfig(), DecodeConfig()
    if classes != len(WAYMO):
        decoding = DecodeConfig(overlap=decoding.overlap[1:2], before=decoding.before[1:2], after=decoding.after[1:2])
    if params is None:
        return config, decoding
    sections = read_params(params)
    if sizes := dict(sections.get("networks") or {}).get("flatformer"):
        config = from_mapping(FlatFormerConfig, sizes, f"{params}, networks.flatformer")
    if "grid" in sections:
        config = replace(config, grid=load_params(params, "grid", GridConfig))
    return config, load_params(params, "decode", DecodeConfig) if "decode" in sections else decoding


def _card(request: ImportRequest, parameters: int) -> str:
    return f"""# flatformer

Imported from {request.checkpoint.name}, a checkpoint of the published training code; its digest is in `bundle.json`.

- Finds {", ".join(request.classes)}. Intensity and elongation enter as their hyperbolic tangents, in Waymo's scale.
- {parameters:,} parameters. What it was trained on and how well it does is for its owner to say; nothing was measured
  here.
"""
