"""Golden figures of Swin-UNet and HiFormer against this package, for ``pentad parity``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pentad.core import recipe
from pentad.core.checkpoint import load_strict
from pentad.medical.models import hiformer as hiformer_model
from pentad.medical.models import swin_unet as swin_unet_model
from pentad.medical.models.hiformer import Fusion, HiFormer
from pentad.medical.models.swin_unet import SwinUNet

Rows = list[tuple[str, float, float]]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}


def swin_unet(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of Swin-UNet; errors are shares of the standard deviation.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the working precision.
    """
    model = SwinUNet(swin_unet_model.config_from_official(spec["hyperparameters"]))
    load_strict(model, swin_unet_model.official_state(official_tensors(spec)))
    x = _input(spec, dtype)
    rows = _rows(model.to(dtype), x, spec, {name: (name, None) for name in spec["expected"].get("stages", {})})
    for name, figures in spec["expected"].get("variants", {}).items():
        if name != "single_channel":
            raise ValueError(f"the variant '{name}' is not known")
        rows.append((name, _error(_run(model, x[:, :1]), figures), TOLERANCE[dtype]))
    return rows


def hiformer(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of HiFormer, under each behaviour of its fusion that it knows.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the working precision.
    """
    config = hiformer_model.config_from_official(spec["hyperparameters"])
    model = HiFormer(config)
    load_strict(model, hiformer_model.official_state(official_tensors(spec)))
    x = _input(spec, dtype)
    places = {name: _place(name, len(model.blocks)) for name in spec["expected"].get("stages", {})}
    rows = _rows(model.to(dtype), x, spec, places)
    for name, figures in spec["expected"].get("variants", {}).items():
        if name not in get_args(Fusion):
            raise ValueError(f"the variant '{name}' is not known")
        other = HiFormer(replace(config, fusion=name))
        load_strict(other, model.state_dict())
        rows.append((name, _error(_run(other.to(dtype).eval(), x), figures), TOLERANCE[dtype]))
    return rows


def official_tensors(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a complete checkpoint of the published code as the recipe fills it, buffers and second names included."""
    state = {name: torch.from_numpy(value) for name, value in recipe.state_dict(spec["tensors"]).items()}
    buffers = [*spec.get("fixed_buffers", ()), *spec.get("integer_buffers", ())]
    state |= {name: torch.zeros(1) for name in buffers}
    return state | {alias: state[name] for alias, name in spec.get("aliases", {}).items()}


_PLACES = {"fm": "pyramid.cnn.layer{}", "ConvUp_l": "up_fine", "ConvUp_s": "up_coarse"}


def _place(stage: str, fusions: int) -> tuple[str, str | None]:
    """The module behind a stage of HiFormer's file, and what is taken of its output."""
    if match := re.fullmatch(r"(pyramid|dlf|encoder)(\.cls)?\.([01])", stage):
        group, token, level = match.groups()
        module = {"pyramid": "pyramid", "dlf": f"blocks.{fusions - 1}", "encoder": f"norm.{level}"}[group]
        return module, f"{'' if group == 'encoder' else level}{token or ''}"
    if match := re.fullmatch(r"fm([123])", stage):
        return f"pyramid.cnn.layer{match[1]}", None
    if match := re.fullmatch(r"sw([123])", stage):
        return f"pyramid.swin.{int(match[1]) - 1}", None
    if re.fullmatch(r"p\d_(ch|pm)", stage):
        return f"pyramid.{stage}", None
    return _PLACES.get(stage, stage), None


def _input(spec: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(recipe.array(spec["input"]["key"], spec["input"]["shape"])).to(dtype)


def _rows(model: nn.Module, x: Tensor, spec: Mapping[str, Any], places: Mapping[str, tuple[str, str | None]]) -> Rows:
    expected = spec["expected"]
    found: dict[str, Tensor] = {}
    hooks = []
    for stage, (module, part) in places.items():
        hooks.append(model.get_submodule(module).register_forward_hook(_record(found, stage, part)))
    found["output"] = _run(model.eval(), x)
    for hook in hooks:
        hook.remove()
    wanted = {**expected.get("stages", {}), "output": expected["output"]}
    rows = [(stage, _error(found[stage], figures), TOLERANCE[x.dtype]) for stage, figures in wanted.items()]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return [*rows, ("parameters", float(abs(parameters - spec.get("parameters", parameters))), 0.0)]


def _record(found: dict[str, Tensor], stage: str, part: str | None) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        value = output[int(part[0])] if part and part[0].isdigit() else output
        found[stage] = value[:, 0] if part and part.endswith("cls") else value

    return hook


def _run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits


def _error(found: Tensor, figures: Mapping[str, Any]) -> float:
    # The published models keep their maps as token sequences.
    tokens = found.ndim == 4 and len(figures["shape"]) == 3
    return recipe.compare((found.flatten(1, 2) if tokens else found).numpy(), figures)
