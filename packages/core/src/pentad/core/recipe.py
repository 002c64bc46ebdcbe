"""Deterministic weights and inputs, by which a model is compared with a published one without its checkpoint.

A checkpoint is known by the names and shapes of its tensors. The recipe gives every tensor a value that depends on
its official name and its shape alone; whoever ran the published code on these values needs to hand over only the
expected outputs. Values are drawn in float64 and rounded to float32, so they are the same on every machine.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_STATE_MATRIX = ("A_log", "A_logs", "A_b_log")
_STATE_SKIP = ("D", "Ds", "D_b")


def _normal(key: str, shape: Sequence[int]) -> NDArray[np.float64]:
    bits = np.random.PCG64(zlib.crc32(key.encode()))
    return np.asarray(np.random.Generator(bits).standard_normal(tuple(int(size) for size in shape)))


def array(key: str, shape: Sequence[int], *, scale: float = 1.0) -> Float32:
    """Return standard-normal values times ``scale``, fixed by ``key`` and ``shape``."""
    return (_normal(key, shape) * scale).astype(np.float32)


def weight(name: str, shape: Sequence[int]) -> Float32:
    """Return the value of the tensor that the official checkpoint calls ``name``.

    With n standard normal, fixed by the name and the shape:

    - ``running_mean``: 0.1 n; ``running_var``: 1 + 0.1 |n|;
    - state matrices (``…A_log``, ``…A_logs``, ``…A_b_log``): log(1 … N) along the last axis + 0.1 n;
    - state skips (``D``, ``Ds``, ``D_b``): 1 + 0.1 n;
    - steps (``…dt_proj.bias``, ``dt_projs_bias``): -4 + 0.1 n;
    - two or more axes: n / sqrt(product of all axes but the first);
    - at most one axis and a name ending in ``weight`` (the scale of a norm): 1 + 0.1 n;
    - anything else (biases, scalars): 0.1 n.
    """
    normal = _normal(name, shape)
    last = name.rpartition(".")[2]
    value = 0.1 * normal
    if last == "running_var":
        value = 1 + np.abs(value)
    elif last.endswith(_STATE_MATRIX):
        value = value + np.log(np.arange(1, normal.shape[-1] + 1))
    elif last in _STATE_SKIP:
        value = value + 1
    elif last == "dt_projs_bias" or name.endswith("dt_proj.bias"):
        value = value - 4
    elif normal.ndim >= 2 and last != "running_mean":
        value = normal / math.sqrt(math.prod(normal.shape[1:]))
    elif last == "weight" and normal.ndim < 2:
        value = value + 1
    return np.asarray(value, dtype=np.float32)


def state_dict(tensors: Mapping[str, Sequence[int]]) -> dict[str, Float32]:
    """Return `weight` for every official name of ``tensors`` (name to shape)."""
    return {name: weight(name, shape) for name, shape in tensors.items()}


def compare(out: NDArray[Any], expected: Mapping[str, Any]) -> float:
    """Return the largest difference at the probed places as a share of the expected output's standard deviation.

    Args:
        out: The output, any shape.
        expected: ``shape``, ``std``, ``index`` (positions in row-major order) and ``value`` at these positions.
            Where ``std`` is 0 the difference itself is returned.

    Raises:
        ValueError: The shapes differ.
    """
    if list(out.shape) != list(expected["shape"]):
        raise ValueError(f"the shape is {list(out.shape)}, expected {list(expected['shape'])}")
    probed = np.asarray(out, dtype=np.float64).reshape(-1)[np.asarray(expected["index"], dtype=np.int64)]
    difference = float(np.abs(probed - np.asarray(expected["value"], dtype=np.float64)).max(initial=0.0))
    return difference / (float(expected["std"]) or 1.0)
