"""Golden figures of the published ChangeMamba against this package, for ``pentad parity``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pentad.core import recipe
from pentad.core.checkpoint import load_strict
from pentad.core.errors import UsageError
from pentad.remote_sensing import parity_rules
from pentad.remote_sensing.models.change_mamba import (
    ChangeMambaConfig,
    MambaBCD,
    MambaBDA,
    MambaSCD,
    official_name,
    official_state,
)
from pentad.remote_sensing.models.vmamba import VMambaConfig

Rows = list[tuple[str, float, float]]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}
# Forward types that are the same mathematics.
_FORWARD_TYPES = ("v3noz", "v05_noz")


def changemamba(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of ChangeMamba: a network, or losses and metrics.

    A network's errors are shares of the expected standard deviation, the others are differences.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the working precision.

    Raises:
        UsageError: The file is of another kind of ChangeMamba, or of none (PTD-844).
        ModelError: The file's tensors are not the network's.
    """
    if "tensors" not in spec:
        return parity_rules.rows(spec, dtype)
    model = network(spec).to(dtype).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = _rows(model, spec, dtype, "")
    for extra in spec.get("extra") or ():
        rows += _rows(model, extra, dtype, f"{tuple(extra['input']['shape'][3:])} ")
    return [*rows, ("parameters", float(abs(parameters - spec.get("parameters", parameters))), 0.0)]


def network(spec: Mapping[str, Any]) -> MambaBCD | MambaSCD | MambaBDA:
    """Return the network that a file of golden figures describes, its recipe weights loaded as a checkpoint is.

    Raises:
        UsageError: The file is of a kind of ChangeMamba that is not built here (PTD-844).
        ModelError: The file's tensors are not the network's.
    """
    tensors = {official_name(name): shape for name, shape in spec["tensors"].items()}
    kind = _kind(tensors)
    main = tensors["main_clf_cd.weight" if kind is MambaSCD else "main_clf.weight"]
    semantic = {} if kind is MambaBCD else {"semantic_classes": tensors["aux_clf.weight"][0]}
    hyper = spec["hyperparameters"]
    config = ChangeMambaConfig(
        _encoder_config(hyper),
        hidden=hyper.get("decoder_hidden", main[1]),
        decoder_drop_path=hyper.get("decoder_drop_path", 0.1),
        classes=main[0],
        **semantic,
    )
    model = kind(config)
    weights = {name: torch.from_numpy(value) for name, value in recipe.state_dict(spec["tensors"]).items()}
    load_strict(model, official_state(weights))
    return model


def _kind(tensors: Mapping[str, Any]) -> type[MambaBCD] | type[MambaSCD] | type[MambaBDA]:
    kinds: dict[str, type[MambaBCD] | type[MambaSCD] | type[MambaBDA]] = {
        "decoder": MambaBCD,
        "decoder_bcd": MambaSCD,
        "decoder_damage": MambaBDA,
    }
    for prefix, kind in kinds.items():
        if any(name.startswith(f"{prefix}.") for name in tensors) and "encoder.patch_embed.0.weight" in tensors:
            return kind
    raise UsageError("PTD-844", "neither MambaBCD, MambaSCD nor MambaBDA", "give a file of one of these networks")


def _encoder_config(hyper: Mapping[str, Any]) -> VMambaConfig:
    if hyper.get("forward_type", "v3noz") not in _FORWARD_TYPES:
        found = f"forward type '{hyper['forward_type']}' of the encoder"
        raise UsageError("PTD-844", found, f"give a file with one of {', '.join(_FORWARD_TYPES)}")
    dims, depths = hyper["dims"], hyper["depths"]
    widths = [dims * 2**stage for stage in range(len(depths))] if isinstance(dims, int) else dims
    return VMambaConfig(
        widths=tuple(widths),
        depths=tuple(depths),
        input_channels=hyper.get("in_chans", 3),
        states=hyper.get("ssm_d_state", 1),
        expand=hyper.get("ssm_ratio", 2.0),
        mlp_ratio=hyper.get("mlp_ratio", 4.0),
        drop_path=hyper.get("drop_path_rate", 0.0),
    )


def _rows(model: nn.Module, part: Mapping[str, Any], dtype: torch.dtype, prefix: str) -> Rows:
    """Compare the network on one input: its outputs and, where the figures have them, its stages."""
    expected = part["expected"]
    calls: dict[str, list[Tensor]] = {}
    stages = {name: re.sub(r"\((?:pre|post)\)$", "", name) for name in expected.get("stages", {})}
    hooks = []
    for module in {official_name(name) for name in stages.values() if not name.startswith("output.")}:
        hooks.append(model.get_submodule(module).register_forward_hook(_record(calls, module)))
    pre, post = torch.from_numpy(recipe.array(part["input"]["key"], part["input"]["shape"])).to(dtype)
    with torch.no_grad():
        outputs = _named(model(pre, post))
    for hook in hooks:
        hook.remove()
    found = {"output": outputs[expected.get("output_name") or next(iter(outputs))]}
    for stage, module in stages.items():
        if module.startswith("output."):
            found[stage] = outputs[module.removeprefix("output.")]
        else:
            out = calls[official_name(module)][0]
            if stage != module:  # the encoder takes both images as one batch
                out = out.chunk(2)[stage.endswith("(post)")]
            # The published code records what leaves the encoder, channels first; our norms have the channels last.
            found[stage] = out.permute(0, 3, 1, 2) if ".outnorm" in module else out
    wanted = {"output": expected["output"], **expected.get("stages", {})}
    return [(prefix + name, recipe.compare(found[name].numpy(), wanted[name]), TOLERANCE[dtype]) for name in wanted]


def _named(output: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    if isinstance(output, Tensor):
        return {"change": output}
    names = ("change", "semantic_t1", "semantic_t2") if len(output) == 3 else ("building", "damage")
    return dict(zip(names, output, strict=True))


def _record(calls: dict[str, list[Tensor]], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.setdefault(name, []).append(output)

    return hook
