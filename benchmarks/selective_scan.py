"""Times the selective scan against what a user would otherwise run, side by side in one process.

Peers: the plain step loop (this package's ``reference`` backend), the parallel scan of the PyPI package mambapy, and
the loop of transformers' Mamba without CUDA kernels (its backward pass is quadratic in the length, so it is run on
the shortest shape only); a peer that cannot be imported is left out and the table says so. Inputs are random float32 of
batch 1 with skip, gate, bias and softplus. Each time is the best of several runs in which the variants take turns;
memory is the peak above the resident size before the call, in a fresh process on one thread. Writes
benchmarks/selective_scan.json and prints a table.

    python benchmarks/selective_scan.py [--quick] [--threads 1 2]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pentad.core.layers.selective_scan import selective_scan

# name: channels, groups, states, length
SHAPES = {
    "L 1024": (192, 1, 16, 1024),
    "L 4096": (192, 1, 16, 4096),
    "L 16384": (192, 1, 16, 16384),
    "4 routes 64x64, N 1": (768, 4, 1, 4096),
}
QUICK = ("L 1024", "4 routes 64x64, N 1")
# Steps up to which a loop whose backward pass is quadratic in them is run backwards.
LONGEST_QUADRATIC = 1024
# A run this long is not repeated more than twice.
LONG_SECONDS = 5.0
MOST_RUNS, ENOUGH_SECONDS = 24, 4.0
# Table order; the first is what the others are compared with.
VARIANTS = ("pentad", "loop", "mambapy", "transformers")
Call = Callable[[], Tensor]


def inputs(channels: int, groups: int, states: int, length: int) -> dict[str, Tensor]:
    """Return the operator's inputs as leaves, steps between 0.01 and 0.1 for most channels."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    made = {"u": normal(1, channels, length), "delta": 0.5 * normal(1, channels, length)}
    made["A"] = -torch.arange(1.0, states + 1).repeat(channels, 1)
    made |= {name: normal(1, groups, states, length) for name in ("B", "C")}
    made |= {"D": normal(channels), "z": normal(1, channels, length), "delta_bias": normal(channels) * 0.1 - 4}
    return made


def mambapy_scan(leaves: dict[str, Tensor]) -> Call:
    """Return mambapy's scan as its own block calls it: (batch, length, channels) and one group."""
    pscan: Callable[[Tensor, Tensor], Tensor] = importlib.import_module("mambapy.pscan").pscan
    x = {name: value.detach() for name, value in leaves.items()}
    groups = x["B"].shape[1]
    for name in ("u", "delta", "z"):
        x[name] = x[name].view(groups, -1, x[name].shape[2]).transpose(1, 2).contiguous()
    for name in ("B", "C"):
        x[name] = x[name][0].transpose(1, 2).contiguous()
    for name in ("A", "D", "delta_bias"):
        x[name] = x[name].view(groups, 1, *((-1,) if name != "A" else (-1, x["A"].shape[1]))).contiguous()
    x = {name: value.requires_grad_(leaves[name].requires_grad) for name, value in x.items()}

    def call() -> Tensor:
        delta = functional.softplus(x["delta"] + x["delta_bias"])
        decay = torch.exp(delta.unsqueeze(-1) * x["A"])
        driven = delta.unsqueeze(-1) * x["B"].unsqueeze(2) * x["u"].unsqueeze(-1)
        y = (pscan(decay, driven) @ x["C"].unsqueeze(-1)).squeeze(3)
        return (y + x["D"] * x["u"]) * functional.silu(x["z"])

    return call


def scan_variants(shape: tuple[int, int, int, int], gradients: bool) -> dict[str, Call]:
    """Return the callables of one operator shape by variant name."""
    leaves: dict[str, Any] = {name: x.requires_grad_(gradients) for name, x in inputs(*shape).items()}
    made: dict[str, Call] = {
        "pentad": lambda: selective_scan(**leaves, delta_softplus=True),
        "loop": lambda: selective_scan(**leaves, delta_softplus=True, backend="reference"),
    }
    with contextlib.suppress(ImportError):
        made["mambapy"] = mambapy_scan(leaves)
    one_group, length = shape[1] == 1, shape[3]
    if one_group and (length <= LONGEST_QUADRATIC or not gradients):
        with contextlib.suppress(ImportError, AttributeError):
            made["transformers"] = transformers_scan(leaves)
    return made


def transformers_scan(leaves: dict[str, Any]) -> Call:
    """Return the step loop that transformers runs without CUDA kernels."""
    module: Any = importlib.import_module("transformers.models.mamba.modeling_mamba")
    x = {name: value.detach().requires_grad_(value.requires_grad) for name, value in leaves.items()}
    matrices = [x[name][:, 0].detach().requires_grad_(x[name].requires_grad) for name in ("B", "C")]
    others = {name: x[name] for name in ("D", "z", "delta_bias")}

    def call() -> Tensor:
        out: Tensor = module.mamba_selective_scan(
            x["u"], x["delta"], x["A"], *matrices, **others, delta_softplus=True, use_mambapy=False
        )
        return out

    module.mamba_selective_scan  # noqa: B018 - older releases have none
    return call


def variants(name: str, gradients: bool) -> dict[str, Call]:
    """Return the callables of a shape by its name, each made into a whole step."""
    calls = scan_variants(SHAPES[name], gradients)

    def step(call: Call) -> Call:
        def forward() -> Tensor:
            with torch.no_grad():
                return call()

        def both() -> Tensor:
            out = call()
            torch.autograd.backward(out.sum())
            return out.detach()

        return both if gradients else forward

    return {key: step(call) for key, call in calls.items()}


def best_times(calls: dict[str, Call]) -> dict[str, float]:
    """Return the best time of each variant in seconds, the variants taking turns."""
    best = dict.fromkeys(calls, float("inf"))
    spent, runs = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 0)
    calls["pentad"]()  # compiles or loads
    while True:
        turn = [k for k in calls if runs[k] < MOST_RUNS and spent[k] < ENOUGH_SECONDS]
        if not turn:
            return best
        for name in turn:
            start = time.perf_counter()
            calls[name]()
            taken = time.perf_counter() - start
            best[name] = min(best[name], taken)
            runs[name] += 1
            spent[name] += max(taken, ENOUGH_SECONDS if taken > LONG_SECONDS else 0.0)


def resident(field: str) -> float:
    """Return a size of this process from /proc in MB: VmRSS (now) or VmHWM (its peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def peak_memory(name: str, gradients: bool, variant: str) -> float:
    """Return a variant's extra memory in MB, measured in a fresh process."""
    call = [sys.executable, __file__, "--memory", name, str(int(gradients)), variant]
    return float(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def measure_memory(name: str, gradients: bool, variant: str) -> None:
    """Print the extra memory of one call in this process, after a small call that loads what is loaded once."""
    torch.set_num_threads(1)
    SHAPES["small"] = (*SHAPES[name][:3], 32)
    variants("small", gradients)[variant]()
    call = variants(name, gradients)[variant]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
    call()
    print(resident("VmHWM") - before)


def measure(names: tuple[str, ...], threads: list[int]) -> list[dict[str, Any]]:
    """Return one row per shape, pass and variant."""
    rows = []
    for name in names:
        for gradients in (False, True):
            calls = variants(name, gradients)
            times: dict[int, dict[str, float]] = {}
            for count in threads:
                torch.set_num_threads(count)
                times[count] = best_times(calls)
            for variant in calls:
                row: dict[str, Any] = {"shape": name, "pass": "forward + backward" if gradients else "forward"}
                row["variant"] = variant
                row["ms"] = {count: round(1e3 * times[count][variant], 3) for count in threads}
                row["ratio"] = {count: round(times[count][variant] / times[count]["pentad"], 1) for count in threads}
                row["memory_mb"] = round(peak_memory(name, gradients, variant), 1)
                rows.append(row)
                print(line(row, threads), flush=True)
    return rows


def line(row: dict[str, Any], threads: list[int]) -> str:
    """Return a row as a line of the table."""
    times = " / ".join(f"{row['ms'][count]:.1f}" for count in threads)
    ratios = " / ".join(f"{row['ratio'][count]:.1f}" for count in threads)
    return f"| {row['shape']} | {row['pass']} | {row['variant']} | {times} | {ratios} | {row['memory_mb']:.0f} |"


def processor() -> str:
    """Return the processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short shapes only, nothing written")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        name, gradients, variant = given.memory
        measure_memory(name, gradients == "1", variant)
        return
    counts = " / ".join(map(str, given.threads))
    print(f"| shape | pass | variant | ms, threads {counts} | times pentad's | extra MB |\n|---|---|---|---|---|---|")
    rows = measure(QUICK if given.quick else tuple(SHAPES), given.threads)
    absent = [name for name in VARIANTS if name not in {row["variant"] for row in rows}]
    if absent:
        print(f"\nNot installed, so not measured: {', '.join(absent)}.")
    if not given.quick:
        about = {"processor": processor(), "torch": torch.__version__, "absent": absent, "rows": rows}
        Path(__file__).with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
