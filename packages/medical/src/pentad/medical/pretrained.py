"""Encoders that begin with ImageNet's weights, as Swin-UNet and HiFormer are trained.

Two kinds of file are told apart by their tensors: the official Swin-T classifier (microsoft/Swin-Transformer, tensors
under ``model``) and a torchvision ResNet. What a model takes from a file must be there in full and fit; what it does
not take (the classifier, blocks beyond its depth) is left. All else keeps its random start, and is named in the log.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pentad.core.checkpoint import read_checkpoint
from pentad.core.errors import ModelError
from pentad.medical.models.hiformer import HiFormer
from pentad.medical.models.swin_unet import SwinUNet

log = logging.getLogger(__name__)

_SWIN_MARK, _RESNET_MARK = "layers.0.blocks.0.attn.qkv.weight", "layer1.0.conv1.weight"


def load_pretrained(model: nn.Module, paths: Sequence[Path], *, bias_tables_only: bool = False) -> dict[str, int]:
    """Fill the model's encoders from ImageNet checkpoints, each whole or not at all.

    Args:
        model: A Swin-UNet (takes a Swin-T, and copies it into the decoder) or a HiFormer (a Swin-T, a ResNet or both).
        paths: The files.
        bias_tables_only: Of a HiFormer's Swin-T only the position-bias tables stay, as in the published code, whose
            initialiser overwrites everything else.

    Returns:
        Tensors of the model that each file filled, by the file's name.

    Raises:
        ModelError: A file cannot be read or is of neither kind, the model takes no such weights, or tensors are
            missing or misshapen, each of them named.
    """
    own, filled = model.state_dict(), {}
    taken: dict[str, Tensor] = {}
    for path in paths:
        state = read_weights(path)
        wanted = _sources(model, state, path, bias_tables_only)
        taken |= _fitting(own, wanted, state, path)
        filled[path.name] = len(wanted)
    model.load_state_dict(taken, strict=False)
    random = [name for name in own if name not in taken]
    log.info("%d tensors from ImageNet, %d at their random start: %s", len(taken), len(random), ", ".join(random))
    return filled


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that holds nothing else, or holds them under ``model`` or ``state_dict``.

    Raises:
        ModelError: The file cannot be read, or holds its tensors elsewhere.
    """
    try:
        return read_checkpoint(path)
    except ModelError as error:
        for entry in ("model", "state_dict"):
            with contextlib.suppress(ModelError):
                return read_checkpoint(path, entry=entry)
        raise error


def _sources(model: nn.Module, state: Mapping[str, Tensor], path: Path, tables_only: bool) -> dict[str, str]:
    """The name in the file for each tensor of the model that the file fills."""
    names = [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]
    if isinstance(model, SwinUNet) and _SWIN_MARK in state:
        return {name: source for name in names if (source := _swin_unet_source(name, len(model.layers)))}
    if isinstance(model, HiFormer) and _SWIN_MARK in state:
        sources = {name: source for name in names if (source := _hiformer_source(name))}
        return {name: source for name, source in sources.items() if not tables_only or source.endswith("bias_table")}
    if isinstance(model, HiFormer) and _RESNET_MARK in state:
        return {name: name.removeprefix("pyramid.cnn.") for name in names if name.startswith("pyramid.cnn.")}
    kinds = {SwinUNet: "the official Swin-T", HiFormer: "the official Swin-T and a torchvision ResNet"}
    if type(model) not in kinds:
        problem, remedy = f"{type(model).__name__} starts from no ImageNet weights", "remove 'pretrained'"
        raise ModelError("PTD-534", problem, remedy, path)
    problem = f"these are no ImageNet weights for a {type(model).__name__}"
    raise ModelError("PTD-534", problem, f"give the file of {kinds[type(model)]}", path)


def _swin_unet_source(name: str, stages: int) -> str:
    """Encoder tensors have the classifier's names; a decoder's blocks are those of the encoder at its resolution."""
    if re.match(r"(patch_embed|norm|layers)\.", name):
        return name
    if match := re.match(r"layers_up\.(\d+)\.(blocks\..*)", name):
        return f"layers.{stages - 1 - int(match[1])}.{match[2]}"
    return ""


def _hiformer_source(name: str) -> str:
    if match := re.match(r"pyramid\.swin\.(\d+)\.(.*)", name):
        return f"layers.{match[1]}.blocks.{match[2]}"
    if match := re.match(r"pyramid\.p([12])_pm\.(.*)", name):
        return f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
    return ""


def _fitting(
    own: Mapping[str, Tensor], wanted: Mapping[str, str], state: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    missing = sorted({source for source in wanted.values() if source not in state})
    misshapen = [
        f"{source} {tuple(state[source].shape)} instead of {tuple(own[name].shape)}"
        for name, source in wanted.items()
        if source in state and state[source].shape != own[name].shape
    ]
    found = {"missing": missing, "misshapen": list(dict.fromkeys(misshapen))}
    if any(found.values()):
        problem = ", and ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
        remedy = "give the checkpoint of the model's own width, channels and backbone"
        raise ModelError("PTD-535", f"the weights do not fit the encoder, {problem}", remedy, path)
    return {name: state[source].to(torch.float32) for name, source in wanted.items()}
