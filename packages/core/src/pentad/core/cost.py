"""What a model costs: parameters, floating-point operations, seconds of a training step and peak memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pentad.core.layers import selective_scan as scan


@dataclass(frozen=True)
class Cost:
    """What was counted and measured.

    Attributes:
        parameters: Trainable numbers.
        gflop: Operations of one forward pass over the batch, in 10^9; a multiplication and an addition count as two.
        seconds: Median of a training step.
        peak_mb: Largest growth of the process over all steps, MB of 2^20 bytes; of the device's memory on a GPU.
    """

    parameters: int
    gflop: float
    seconds: float
    peak_mb: float


def count_flops(model: nn.Module, inputs: Tensor) -> int:
    """Return the floating-point operations of one forward pass in evaluation mode.

    Counted are convolutions, matrix products and attention (as its two products), as `torch.utils.flop_counter` does,
    and the selective scan by `scan_flops`; norms, activations and other passes over single elements are not.
    """
    training = model.training
    model.eval()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.pentad.selective_scan: _scan_flops})
    try:
        # Fused attention has a kernel for each device, not all of which the counter knows.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, scan.preferred_backend("numba"):
            model(inputs)
    finally:
        model.train(training)
    return int(counter.get_total_flops())


def scan_flops(batch: int, channels: int, length: int, states: int) -> int:
    """Return the operations of a selective scan: nine a state and step, three a channel and step.

    A state takes the product d A and its exponential, d B u (two products), the decay and the sum (two), C h and its
    sum (two), and one for the sum over states; a channel the skip (two) and the gate. state-spaces/mamba counts alike.
    """
    return batch * channels * length * (9 * states + 3)


def _scan_flops(u: Any, delta: Any, A: Any, *_: Any, **__: Any) -> int:
    return scan_flops(u[0], u[1], u[2], A[1])


def measure(model: nn.Module, inputs: Tensor, step: Callable[[], object], *, steps: int = 5, warm_up: int = 2) -> Cost:
    """Return what the model and one training step cost.

    Args:
        model: Counted.
        inputs: A batch, on the model's device.
        step: Takes one training step with such a batch.
        steps: Steps that are timed.
        warm_up: Steps before, which compile and allocate.
    """
    flops = count_flops(model, inputs)
    cuda = inputs.device.type == "cuda"
    before = _restart_peak(cuda)
    seconds = []
    for turn in range(warm_up + steps):
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - began)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Cost(parameters, flops / 1e9, sorted(seconds)[len(seconds) // 2], _peak_mb(cuda) - before)


def _restart_peak(cuda: bool) -> float:
    """Make the peak the present size, and return that in MB."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    # Linux alone lets a process reset its peak; elsewhere it is that of the whole life.
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")
    return _own_mb("VmRSS")


def _peak_mb(cuda: bool) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if cuda else _own_mb("VmHWM")


def _own_mb(field: str) -> float:
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return float("nan")
    return int(found.group(1)) / 1024 if found else float("nan")
