"""Weights of other projects: read without running their code, renamed by rules, loaded whole or refused by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pentad.core.errors import ModelError, nearest
from pentad.core.files import atomic

log = logging.getLogger(__name__)

# Losses that a training script logs beside its weights are NumPy numbers: plain data, no code.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_NUMPY_DATA: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bhilBHILefd"),
]


def read_checkpoint(path: Path, *, entry: str = "") -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU; nothing in the file is executed.

    Args:
        path: A safetensors file, or one written by torch.save that holds plain data.
        entry: Key under which the tensors lie inside the file ('network_weights', 'state_dict'); deeper ones as 'a/b'.
            Empty when they lie at the top.

    Raises:
        ModelError: The file is missing or damaged, its pickle asks for code, or the entry holds no tensors.
    """
    if not path.is_file():
        raise ModelError("PTD-510", "no such checkpoint file", "correct the path", path)
    content = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    for key in filter(None, entry.split("/")):
        if not isinstance(content, Mapping) or key not in content:
            known = list(content) if isinstance(content, Mapping) else []
            raise ModelError("PTD-513", f"no entry '{key}'{nearest(key, map(str, known))}", _entries(content), path)
        content = content[key]
    if not _is_state(content):
        raise ModelError("PTD-513", "no tensors by name at this place", _entries(content), path)
    return {str(name): tensor.detach() for name, tensor in content.items()}


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(9)
    return path.suffix == ".safetensors" or head[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        problem = " ".join(str(error).split())
        raise ModelError("PTD-511", f"no whole safetensors file ({problem})", "fetch it again", path) from None


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMPY_DATA):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes spell
        log.debug("cannot read %s", path, exc_info=True)
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            problem = f"it wants to run '{wanted[1]}' while loading, and nothing in it was run"
            remedy = "save its weights alone with torch.save(model.state_dict()) or as safetensors where you trust it"
            raise ModelError("PTD-512", problem, remedy, path) from None
        problem = f"not a checkpoint that can be read ({type(error).__name__})"
        raise ModelError("PTD-511", problem, "fetch it again, or convert it to safetensors", path) from None


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _entries(content: Any) -> str:
    found = [str(key) for key, value in content.items() if _is_state(value)] if isinstance(content, Mapping) else []
    return f"name one of its entries: {', '.join(found)}" if found else "choose a file that holds a model's weights"


def rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str | None]]) -> dict[str, Tensor]:
    """Return the tensors under new names.

    Args:
        state: Tensors by name.
        rules: Pairs of a regular expression and its replacement (with groups as in `re.sub`), applied to every name
            in the order given; a tensor whose name matches a rule with None is dropped.

    Raises:
        ModelError: Two tensors end under one name.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, Tensor] = {}
    for old, tensor in state.items():
        name = _new_name(old, compiled)
        if name is None:
            continue
        if name in renamed:
            raise ModelError("PTD-514", f"'{old}' and another tensor would both be named '{name}'", "mend the rules")
        renamed[name] = tensor
    return renamed


def _new_name(name: str, rules: Iterable[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, replacement in rules:
        if replacement is not None:
            name = pattern.sub(replacement, name)
        elif pattern.search(name):
            return None
    return name


def find_aliases(names: Iterable[str], rules: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return those of the tensor names that any rule changes, with the name that all rules give, as second names.

    Args:
        names: As published.
        rules: Regular expressions and what replaces their matches, each applied to what the one before left.
    """
    found = {}
    for name in names:
        target = name
        for pattern, replacement in rules:
            target = re.sub(pattern, replacement, target)
        if target != name:
            found[name] = target
    return found


def resolve_aliases(state: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors without their second names, where a checkpoint stores one tensor under two.

    Args:
        state: Tensors by name.
        aliases: Second name to the name that is kept; a tensor present only under its second name is renamed.

    Raises:
        ModelError: The two disagree, so that they are no aliases in this checkpoint.
    """
    resolved = {name: tensor for name, tensor in state.items() if name not in aliases}
    differing = []
    for alias, name in aliases.items():
        if alias not in state:
            continue
        if not torch.equal(resolved.setdefault(name, state[alias]), state[alias]):
            differing.append(f"'{alias}' and '{name}'")
    if differing:
        problem = f"tensors that the model shares differ in the checkpoint: {', '.join(differing)}"
        raise ModelError("PTD-515", problem, "import a checkpoint of this very model")
    return resolved


def load_strict(model: nn.Module, state: Mapping[str, Tensor], *, where: str | Path | None = None) -> None:
    """Load the tensors into the model if they fit one to one, else change nothing.

    A tensor that the model holds under two names may be given under one of them.

    Args:
        model: Takes the values, in its own precision and on its own device.
        state: Tensors by name.
        where: File or folder named in the error.

    Raises:
        ModelError: One sentence naming every missing, unexpected and misshapen tensor.
    """
    own = model.state_dict()
    given = {_storage(own[name]) for name in state if name in own}
    missing = [name for name in own if name not in state and _storage(own[name]) not in given]
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(found.values()):
        problem = ", and ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
        remedy = "choose the checkpoint of this model and these settings, or mend the names by rules"
        raise ModelError("PTD-516", f"the tensors do not fit {type(model).__name__}, {problem}", remedy, where)
    model.load_state_dict(dict(state), strict=False)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the model's tensors on the CPU, each once, under the first of its names."""
    return dict(_once((name, tensor.detach()) for name, tensor in model.state_dict().items()))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whose bytes depend on the names and values alone, whole or not at all."""
    with atomic(path) as temporary:
        safetensors.torch.save_file(dict(tensors), temporary, metadata={"format": "pt"})


def _once(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    seen = set()
    for name, tensor in named:
        if _storage(tensor) not in seen:
            seen.add(_storage(tensor))
            yield name, tensor.to("cpu", copy=True).contiguous()


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    # Tensors without elements have no address of their own, so each of them counts as itself.
    address = tensor.data_ptr() or id(tensor)
    return address, tensor.dtype, tuple(tensor.shape), tensor.stride()
