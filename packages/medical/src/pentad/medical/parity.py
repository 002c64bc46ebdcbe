"""Golden figures of the published medical models, planner and losses against this package, for ``pentad parity``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pentad.core import recipe
from pentad.core.checkpoint import load_strict
from pentad.core.tiling import gaussian_map, window_starts
from pentad.medical.losses import deep_supervision_weights, dice_ce_loss, segmentation_loss
from pentad.medical.models.u_mamba import UMambaBot, UMambaEnc, config_from_official, official_state
from pentad.medical.plan import Fingerprint, Plan, PlanOptions, plan_all

Rows = list[tuple[str, float, float]]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_LOSS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_NORMALISATION = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}


def u_mamba(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for a file of U-Mamba: a network, planner cases, or the loss.

    Errors of outputs and gradients are shares of the expected standard deviation; planner rows count differing entries.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the working precision.
    """
    if "loss" in spec:
        return [row for number, case in enumerate(spec["cases"]) for row in _loss_rows(number, case, spec, dtype)]
    if "model" not in spec:
        return _planner_rows(spec)
    return _network_rows(spec, dtype)


def network(spec: Mapping[str, Any]) -> UMambaBot | UMambaEnc:
    """Return the network that a file of golden figures describes, its recipe weights loaded as a checkpoint is.

    Raises:
        ModelError: The file's tensors are not the network's.
    """
    hyper = spec["hyperparameters"]
    config = config_from_official(hyper["plan"], deep_supervision=bool(hyper.get("deep_supervision", True)))
    mamba = hyper.get("mamba", {})
    config = replace(config, **{name: mamba[name] for name in ("d_state", "d_conv", "expand") if name in mamba})
    if list(hyper.get("features_per_stage", config.features)) != list(config.features):
        raise ValueError(f"features_per_stage is {hyper['features_per_stage']}, the plan gives {list(config.features)}")
    model = _variant(spec)(config)
    state = {name: torch.from_numpy(value) for name, value in recipe.state_dict(spec["tensors"]).items()}
    state |= {alias: state[name] for alias, name in spec.get("aliases", {}).items()}
    load_strict(model, official_state(state))
    return model


def _variant(spec: Mapping[str, Any]) -> type[UMambaBot] | type[UMambaEnc]:
    """Bot holds one Mamba layer beside the encoder; Enc has its layers inside it."""
    return UMambaEnc if any(name.startswith("encoder.mamba_layers.") for name in spec["tensors"]) else UMambaBot


def _network_rows(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    expected = spec["expected"]
    model = network(spec).to(dtype).train()
    found: dict[str, Tensor] = {}
    for name in expected.get("stages", {}):
        model.get_submodule(name).register_forward_hook(_record(found, name))
    x = torch.from_numpy(recipe.array(spec["input"]["key"], spec["input"]["shape"])).to(dtype)
    with torch.no_grad():
        heads = model(x)
    heads = heads if isinstance(heads, list) else [heads]
    wanted = dict(expected.get("stages", {}))
    for number, figures in enumerate(expected.get("heads", [])[: len(heads)]):
        found[f"head {number}"], wanted[f"head {number}"] = heads[number], figures
    found["output"], wanted["output"] = heads[0], expected["output"]
    rows = [(name, recipe.compare(found[name].numpy(), wanted[name]), TOLERANCE[dtype]) for name in wanted]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return [*rows, ("parameters", float(abs(parameters - spec.get("parameters", parameters))), 0.0)]


def _record(found: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = output

    return hook


def _loss_rows(number: int, case: Mapping[str, Any], spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    heads, targets = loss_inputs(spec["shapes"], case["ignore_label"], dtype)
    settings = {"batch_dice": case["batch_dice"], "ignore_label": case["ignore_label"]}
    singles = [dice_ce_loss(head, truth, **settings).item() for head, truth in zip(heads, targets, strict=True)]
    total = segmentation_loss(heads, targets, **settings)
    total.backward()  # type: ignore[no-untyped-call]
    tolerance, prefix = _LOSS_TOLERANCE[dtype], f"case {number}"
    weights = np.subtract(deep_supervision_weights(len(heads)), case["weights"])
    rows = [
        (f"{prefix} weights", float(np.abs(weights).max()), 1e-12),
        (f"{prefix} per head", float(np.abs(np.subtract(singles, case["per_head"])).max()), tolerance),
        (f"{prefix} total", abs(total.item() - case["total"]), tolerance),
    ]
    for level, (head, figures) in enumerate(zip(heads, case["grads"], strict=False)):
        gradient = torch.zeros_like(head) if head.grad is None else head.grad
        rows.append((f"{prefix} grad {level}", recipe.compare(gradient.numpy(), figures), tolerance))
    return rows


def loss_inputs(
    shapes: list[list[int]], ignore_label: int | None, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the loss file's logits (requiring gradients) and targets (b, 1, …), one of each a head."""
    heads, targets = [], []
    for number, (batch, classes, *spatial) in enumerate(shapes):
        logits = torch.from_numpy(recipe.array(f"input:u_mamba/loss/head{number}", (batch, classes, *spatial)))
        heads.append(logits.to(dtype).requires_grad_())
        drawn = (batch, classes if ignore_label is None else classes + 1, *spatial)
        scores = torch.from_numpy(recipe.array(f"input:u_mamba/loss/target{number}", drawn))
        target = scores.argmax(dim=1, keepdim=True)
        targets.append(torch.where(target == classes - 1, 0, target))  # so that the last class is absent
    return heads, targets


def _planner_rows(spec: Mapping[str, Any]) -> Rows:
    rows: Rows = []
    for case in spec["cases"]:
        for options in (PlanOptions(rules="2.1.1"), PlanOptions(rules="2.8.1")):
            expected = case.get(f"expected_{options.rules.replace('.', '_')}")
            expected = case["expected_2_1_1"] if expected == "same" else expected
            if expected is not None:
                plans = plan_all(made_fingerprint(case["fingerprint"]), options)
                rows.append((f"{case['name']} {options.rules}", float(len(differences(plans, expected))), 0.0))
    for case in spec.get("sliding_window", []):
        starts = window_starts(case["image"], case["tile"], case["step"])
        rows.append((f"windows {case['image']}", float(starts != case["starts"]), 0.0))
    for case in spec.get("gaussian", []):
        weights = gaussian_map(case["tile"], case["sigma_scale"], case["value_scaling_factor"])
        rows.append((f"gaussian {case['tile']}", recipe.compare(weights.numpy(), case["map"]), 1e-6))
    return rows


def made_fingerprint(made: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint that a planner case describes by a spacing, a shape and a jitter over its cases."""
    count, (dz, dy, dx), (nz, ny, nx) = made["cases"], made["spacing"], made["shape"]
    factors = [1 + made["jitter"] * (2 * ((i * 7919) % count) / max(count - 1, 1) - 1) for i in range(count)]

    def voxels(length: int, factor: float) -> int:
        return 1 if length == 1 else round(length / factor)

    return Fingerprint(
        spacings=tuple((round(dz * f, 6), round(dy * f, 6), round(dx * f, 6)) for f in factors),
        shapes=tuple((voxels(nz, f), voxels(ny, f), voxels(nx, f)) for f in factors),
        relative_sizes=(made["median_relative_size_after_crop"],) * count,
        channels=tuple(made["channels"]),
        labels=tuple(str(label) for label in range(made["labels_incl_background"])),
    )


def differences(plans: Mapping[str, Plan], expected: Mapping[str, Any]) -> list[str]:
    """Return the entries in which the plans of all configurations differ from the published planner's."""
    wanted = {name: entry for name, entry in expected["configurations"].items() if "inherits_from" not in entry}
    cascade = "3d_cascade_fullres" in expected["configurations"]
    found = [] if set(plans) == set(wanted) else [f"configurations {sorted(plans)}"]
    found += ["cascade"] if cascade != ("3d_lowres" in plans) else []
    for name in plans.keys() & wanted.keys():
        ours, theirs = _published_form(plans[name]), wanted[name]
        found += [f"{name}.{key}: {ours[key]}, not {theirs[key]}" for key in theirs if ours[key] != theirs[key]]
        if list(plans[name].transpose) != expected["transpose_forward"]:
            found.append(f"{name}.transpose: {plans[name].transpose}")
    return found


def _published_form(plan: Plan) -> dict[str, Any]:
    schemes = {ours: theirs for theirs, ours in _NORMALISATION.items()}
    return {
        "patch_size": list(plan.patch_size),
        "batch_size": plan.batch_size,
        "spacing": [float(f"{value:.9g}") for value in plan.spacing],  # the file carries nine digits
        "median_shape": list(plan.median_shape),
        "normalization": [schemes[entry.scheme] for entry in plan.normalisation],
        "use_mask_for_norm": [entry.inside_mask for entry in plan.normalisation],
        "strides": [list(stride) for stride in plan.strides],
        "kernel_sizes": [list(kernel) for kernel in plan.kernel_sizes],
        "batch_dice": plan.batch_dice,
    }
