"""Golden figures of the selective scan and the Mamba block against this package, for ``pentad parity``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pentad.core import recipe
from pentad.core.errors import UsageError
from pentad.core.layers.mamba import Mamba
from pentad.core.layers.selective_scan import selective_scan as scan

Rows = list[tuple[str, float, float]]

_SCAN_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4}
_BLOCK_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


def selective_scan(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (case/stage, error, tolerance) for every case of a selective-scan file, gradients included.

    Args:
        spec: The file's content.
        dtype: float64 or float32, the working precision.
    """
    return [row for case in spec["cases"] for row in _scan_case(case, dtype)]


def mamba_block(spec: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    """Return (stage, error, tolerance) for the Mamba block a file describes, gradients included.

    Raises:
        UsageError: The file's tensors or sizes are not those of the block its hyperparameters name (PTD-124).
    """
    block = _block(spec).to(dtype)
    x = _tensor("array", spec["input"], dtype).requires_grad_()
    stages = block.stages(x)
    torch.autograd.backward(stages["output"], _tensor("array", spec["upstream"], dtype))
    expected = spec["expected"]
    found = {"output": stages["output"], **{name: stages[name] for name in expected.get("stages", {})}}
    wanted = {"output": expected["output"], **expected.get("stages", {})}
    leaves = {"input": x, **dict(block.named_parameters())}
    for name, figures in expected.get("grads", {}).items():
        found[f"grad {name}"], wanted[f"grad {name}"] = _gradient(leaves[name]), figures
    return _rows("", found, wanted, _BLOCK_TOLERANCE[dtype])


def _block(spec: Mapping[str, Any]) -> Mamba:
    sizes = spec["hyperparameters"]
    block = Mamba(sizes["d_model"], sizes["d_state"], sizes["d_conv"], sizes["expand"])
    ours = {name: list(value.shape) for name, value in block.state_dict().items()}
    differing = sorted(set(ours) ^ set(spec["tensors"])) or [k for k, v in ours.items() if v != spec["tensors"][k]]
    if differing:
        found = f"tensors {', '.join(differing)} differ from a Mamba block of d_model {sizes['d_model']}"
        raise UsageError("PTD-124", found, "give a file of the v1 block with the sizes in its hyperparameters")
    weights = recipe.state_dict(spec["tensors"])
    block.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return block


def _scan_case(case: Mapping[str, Any], dtype: torch.dtype) -> Rows:
    made = {name: _made(how, dtype) for name, how in case["inputs"].items()}
    inputs: dict[str, Any] = {name: value.requires_grad_() for name, value in made.items()}
    out, last = scan(**inputs, delta_softplus=case["delta_softplus"], return_last_state=True)
    torch.autograd.backward(out, _made(case["upstream"], dtype))
    expected = case["expected"]
    found, wanted = {"out": out, "last_state": last}, {key: expected[key] for key in ("out", "last_state")}
    for name, figures in expected.get("grads", {}).items():
        found[f"grad {name}"], wanted[f"grad {name}"] = _gradient(inputs[name]), figures
    return _rows(f"{case['name']}/", found, wanted, _SCAN_TOLERANCE[dtype])


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _made(how: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """Return a recipe tensor after the operations of its ``then`` list, in the working precision."""
    x = _tensor(how["fn"], how, dtype)
    for name, *constants in how.get("then", ()):
        if name == "abs":
            x = x.abs()
        elif name == "mul":
            x = x * constants[0]
        elif name == "add":
            x = x + constants[0]
        elif name == "neg_exp":
            x = -x.exp()
        else:
            raise UsageError("PTD-125", f"'{name}' is no input operation", "use abs, mul, add or neg_exp")
    return x


def _tensor(kind: str, how: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    key: str = how["key"]
    shape: Sequence[int] = how["shape"]
    return torch.from_numpy(recipe.weight(key, shape) if kind == "weight" else recipe.array(key, shape)).to(dtype)


def _rows(prefix: str, found: Mapping[str, Tensor], wanted: Mapping[str, Any], tolerance: float) -> Rows:
    return [(prefix + name, recipe.compare(found[name].detach().numpy(), wanted[name]), tolerance) for name in wanted]
