"""Everything a training run needs to go on as if it had never stopped, in safetensors and JSON."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from pentad.core.checkpoint import read_checkpoint, write_tensors
from pentad.core.errors import ModelError, UsageError
from pentad.core.files import write_json

STATE = "state.json"


def write_snapshot(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Replace the snapshot in ``folder``; whenever the process dies, the new or the old one can be read.

    Args:
        folder: The snapshot's own folder.
        tensors: File name without suffix to tensors by name.
        state: JSON values.

    Raises:
        UsageError: The disk is full or the folder read-only; the old snapshot is still there.
    """
    new, old = _beside(folder, ".new"), _beside(folder, ".old")
    try:
        shutil.rmtree(new, ignore_errors=True)
        for name, named in tensors.items():
            write_tensors(new / f"{name}.safetensors", named)
        write_json(new / STATE, state)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        problem = f"the checkpoint cannot be written ({getattr(error, 'strerror', None) or error})"
        raise UsageError("PTD-236", problem, "free space or choose another folder, then resume", folder) from None


def find_snapshot(folder: Path) -> Path | None:
    """Return the folder of the last whole snapshot, or None."""
    # Between the two renames of a replacement only the old one carries a whole name.
    return next((found for found in (folder, _beside(folder, ".old")) if (found / STATE).is_file()), None)


def read_snapshot(found: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return tensors by file and name, and the JSON values, of what `find_snapshot` found.

    Raises:
        ModelError: A file is damaged.
    """
    try:
        state = json.loads((found / STATE).read_text(encoding="utf-8"))
        tensors = {path.stem: read_checkpoint(path) for path in found.glob("*.safetensors")}
    except (OSError, ValueError, ModelError) as error:
        problem = getattr(error, "problem", None) or f"the checkpoint cannot be read ({error})"
        raise ModelError("PTD-235", problem, "remove the folder and train again", found) from None
    return tensors, state


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's running values: tensors under 'parameter.name', and the other values likewise."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            target = tensors if isinstance(value, Tensor) else values
            target[f"{index}.{name}"] = value.detach().to("cpu", copy=True).contiguous() if target is tensors else value
    return tensors, values


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Give an optimizer over the same parameters the values that `optimizer_state` returned."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **values}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch (every device) as JSON values."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, np.array(words, np.uint32).tobytes().hex(), gauss],
        "numpy": [np.asarray(keys, np.uint32).tobytes().hex(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [state.numpy().tobytes().hex() for state in torch.cuda.get_rng_state_all()] if _cuda() else [],
    }


def load_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where `random_state` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(_words(words)), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.array(_words(keys), np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    if _cuda() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes(text) for text in state["cuda"]])


def _cuda() -> bool:
    return torch.cuda.is_available()


def _words(text: str) -> list[int]:
    words: list[int] = np.frombuffer(bytes.fromhex(text), np.uint32).tolist()
    return words


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
