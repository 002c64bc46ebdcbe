"""Times the selective scan against what a user would otherwise run, side by side in one process.

Peers: the plain step loop (this package's ``reference`` backend), the parallel scan of the PyPI package mambapy, and
the loop of transformers' Mamba without CUDA kernels (its backward pass is quadratic in the length, so it is run on
the shortest shape only). Loops are not run beyond 4,096 steps, and no peer on the longest shape, which shows how time
grows. transformers comes with this repository's locked environment, mambapy with
``pip install --no-deps --target peers mambapy``, then ``--peers peers``; a peer that cannot be imported is left out and
the table says so. Inputs are random float32 of batch 1 with skip, bias and softplus, and a gate except in the shape of
four routes. Each time is the best of several runs in which the variants take turns; ``cpu`` is the processor time of
such a run on one thread, which other programs beside it disturb less. Memory is the peak above the resident size before
the call, on one thread, the most of three fresh processes. A Mamba block and U-Mambas run on noise, with each of the
two backends. Writes benchmarks/selective_scan.json and selective_scan.md, which packages/core/README.md quotes.

    python benchmarks/selective_scan.py [--quick] [--shapes …] [--variants …] [--threads 1 2] [--peers FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pentad.core.layers.selective_scan import preferred_backend, selective_scan

# name: channels, groups, states, length
SHAPES = {
    "L 1024": (192, 1, 16, 1024),
    "L 4096": (192, 1, 16, 4096),
    "L 16384": (192, 1, 16, 16384),
    "L 65536": (192, 1, 16, 65536),
    "4 routes 64x64, N 1": (768, 4, 1, 4096),
}
# Shapes whose memory is measured.
WEIGHED = ("L 4096", "4 routes 64x64, N 1")
QUICK = ("L 1024", "4 routes 64x64, N 1")
# Shapes that only the first variant is measured on.
ALONE = ("L 65536",)
# Steps up to which a loop is run, and up to which one whose backward pass is quadratic in them is run backwards.
LONGEST_LOOP, LONGEST_QUADRATIC = 4096, 1024
# A run this long is not repeated more than twice.
LONG_SECONDS = 5.0
MOST_RUNS, ENOUGH_SECONDS = 40, 2.0
# Table order; the first is what the others are compared with.
VARIANTS = ("pentad", "loop", "mambapy", "transformers")
Call = Callable[[], Tensor]
# What gives the output, and the leaves behind it.
Scan = tuple[Call, list[Tensor]]
# A network, the shape of its input, and a loss of its output.
Model = tuple[Any, tuple[int, ...], Callable[[Any], Tensor]]


def inputs(channels: int, groups: int, states: int, length: int) -> dict[str, Any]:
    """Return the operator's inputs as leaves, steps between 0.01 and 0.1 for most channels."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    made: dict[str, Any] = {"u": normal(1, channels, length), "delta": 0.5 * normal(1, channels, length)}
    made["A"] = -torch.arange(1.0, states + 1).repeat(channels, 1)
    made |= {name: normal(1, groups, states, length) for name in ("B", "C")}
    made |= {
        "D": normal(channels),
        "z": normal(1, channels, length) if groups == 1 else None,
        "delta_bias": normal(channels) * 0.1 - 4,
    }
    return made


def mambapy_scan(leaves: dict[str, Any]) -> Scan:
    """Return mambapy's scan as its own block calls it: (batch, length, channels) and one group."""
    pscan: Callable[[Tensor, Tensor], Tensor] = importlib.import_module("mambapy.pscan").pscan
    x = {name: value.detach() for name, value in leaves.items() if value is not None}
    groups = x["B"].shape[1]
    for name in {"u", "delta", "z"} & set(x):
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
        y = y + x["D"] * x["u"]
        out: Tensor = y * functional.silu(x["z"]) if "z" in x else y
        return out

    return call, list(x.values())


def scan_variants(shape: tuple[int, int, int, int], gradients: bool) -> dict[str, Scan]:
    """Return the scans of one operator shape by variant name."""
    leaves: dict[str, Any] = {
        name: None if x is None else x.requires_grad_(gradients) for name, x in inputs(*shape).items()
    }
    given = [x for x in leaves.values() if x is not None]
    made: dict[str, Scan] = {"pentad": (lambda: selective_scan(**leaves, delta_softplus=True), given)}
    one_group, length = shape[1] == 1, shape[3]
    if length <= LONGEST_LOOP:
        made["loop"] = (lambda: selective_scan(**leaves, delta_softplus=True, backend="reference"), given)
    with contextlib.suppress(ImportError):
        made["mambapy"] = mambapy_scan(leaves)
    if one_group and length <= (LONGEST_QUADRATIC if gradients else LONGEST_LOOP):
        with contextlib.suppress(ImportError, AttributeError):
            made["transformers"] = transformers_scan(leaves)
    return made


def transformers_scan(leaves: dict[str, Any]) -> Scan:
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
    return call, [x["u"], x["delta"], x["A"], *matrices, *others.values()]


def variants(name: str, gradients: bool) -> dict[str, Call]:
    """Return the callables of a shape by its name, each made into a whole step."""
    scans = scan_variants(SHAPES[name], gradients)

    def step(call: Call, leaves: list[Tensor]) -> Call:
        def forward() -> Tensor:
            with torch.no_grad():
                return call()

        def both() -> Tensor:
            out = call()
            return torch.autograd.grad(out.sum(), leaves)[0]

        return both if gradients else forward

    return {key: step(*scan) for key, scan in scans.items()}


def best_times(calls: dict[str, Call]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the best wall time and processor time of each variant in seconds, the variants taking turns."""
    best, least = (dict.fromkeys(calls, float("inf")) for _ in range(2))
    spent, runs = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 0)
    for call in calls.values():
        call()  # compiles or loads what is loaded once
    while True:
        turn = [k for k in calls if runs[k] < MOST_RUNS and spent[k] < ENOUGH_SECONDS]
        if not turn:
            return best, least
        for name in turn:
            start, used = time.perf_counter(), time.process_time()
            calls[name]()
            taken, used = time.perf_counter() - start, time.process_time() - used
            best[name], least[name] = min(best[name], taken), min(least[name], used)
            runs[name] += 1
            spent[name] += max(taken, ENOUGH_SECONDS if taken > LONG_SECONDS else 0.0)


def resident(field: str) -> float:
    """Return a size of this process from /proc in MB: VmRSS (now) or VmHWM (its peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def peak_memory(name: str, gradients: bool, variant: str) -> float:
    """Return a variant's extra memory in MB: the most of three fresh processes, as one may find free pages to reuse."""
    call = [sys.executable, __file__, "--peers", sys.path[-1], "--memory", name, str(int(gradients)), variant]
    return max(float(subprocess.run(call, capture_output=True, text=True, check=True).stdout) for _ in range(3))


def measure_memory(name: str, gradients: bool, variant: str) -> None:
    """Print the extra memory of one call in this process, after a small call that loads what is loaded once."""
    torch.set_num_threads(1)
    if name in SHAPES:
        SHAPES["small"] = (*SHAPES[name][:3], 32)
        variants("small", gradients)[variant]()
        call = variants(name, gradients)[variant]
    else:
        steps(*small_model(), training=gradients)[variant]()
        call = steps(*models()[name], training=gradients)[variant]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
    call()
    print(resident("VmHWM") - before)


def measured(calls: dict[str, Call], threads: list[int], about: dict[str, str]) -> list[dict[str, Any]]:
    """Return one row per variant; ratios are to the first."""
    wall: dict[int, dict[str, float]] = {}
    cpu: dict[int, dict[str, float]] = {}
    for count in threads:
        torch.set_num_threads(count)
        wall[count], cpu[count] = best_times(calls)
    first, rows = next(iter(calls)), []
    for variant in calls:
        row: dict[str, Any] = {**about, "variant": variant}
        row["ms"] = {str(count): round(1e3 * wall[count][variant], 3) for count in threads}
        row["ratio"] = {str(count): round(wall[count][variant] / wall[count][first], 1) for count in threads}
        if 1 in threads:
            row["cpu_ms"] = round(1e3 * cpu[1][variant], 3)
            row["cpu_ratio"] = round(cpu[1][variant] / cpu[1][first], 1)
        rows.append(row)
    return rows


def measure(names: tuple[str, ...], about: dict[str, Any], wanted: list[str], keep: bool) -> None:
    """Add one row per shape, pass and variant to the rows of ``about``, written after every pass if ``keep``."""
    rows, threads = about["rows"], about["threads"]
    for name in names:
        for gradients in (False, True):
            place = {"shape": name, "pass": "forward + backward" if gradients else "forward"}
            asked = wanted[:1] if name in ALONE else wanted
            calls = {key: call for key, call in variants(name, gradients).items() if key in asked}
            for row in measured(calls, threads, place):
                if name in WEIGHED:
                    row["memory_mb"] = round(peak_memory(name, gradients, row["variant"]), 1)
                rows.append(row)
                print(line(row), flush=True)
            if keep:
                write(about)


def models() -> dict[str, Model]:
    """Return a Mamba block and U-Mambas by name with the shape of their input and a loss of their output."""
    from pentad.core.layers.mamba import Mamba
    from pentad.medical.losses import segmentation_loss
    from pentad.medical.models.u_mamba import UMambaBot, UMambaConfig, UMambaEnc

    flat = UMambaConfig(
        input_channels=1, classes=3, patch_size=(96, 96), features=(12, 24, 48, 96, 128), kernel_sizes=((3, 3),) * 5,
        strides=((1, 1), *((2, 2),) * 4), encoder_blocks=(2,) * 5, decoder_blocks=(2,) * 4,
    )  # fmt: skip
    solid = UMambaConfig(
        input_channels=1, classes=3, patch_size=(16, 32, 32), features=(12, 24, 48, 96), kernel_sizes=((3, 3, 3),) * 4,
        strides=((1, 1, 1), *((2, 2, 2),) * 3), encoder_blocks=(2,) * 4, decoder_blocks=(2,) * 3,
    )  # fmt: skip

    def segmentation(heads: Any) -> Tensor:
        labels = torch.arange(heads[0][:, :1].numel()).remainder(3).view_as(heads[0][:, :1])
        return segmentation_loss(heads, labels)

    return {
        "Mamba block, 1 x 4096 x 96": (Mamba(96), (1, 4096, 96), torch.sum),
        "U-Mamba Bot 2-D, 8 x 96x96": (UMambaBot(flat), (8, 1, 96, 96), segmentation),
        "U-Mamba Enc 3-D, 1 x 16x32x32": (UMambaEnc(solid), (1, 1, 16, 32, 32), segmentation),
    }


def small_model() -> Model:
    """Return what loads and compiles all that the others need once, and takes little memory."""
    from pentad.core.layers.mamba import Mamba

    return Mamba(8), (1, 32, 8), torch.sum


def steps(model: Any, shape: tuple[int, ...], loss: Callable[[Any], Tensor], *, training: bool) -> dict[str, Call]:
    """Return one step of a model on noise with each of the backends."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def step(backend: str) -> Tensor:
        model.train(training)
        with preferred_backend(backend), torch.set_grad_enabled(training):
            out = model(image)
            if training:
                model.zero_grad(set_to_none=True)
                torch.autograd.backward(loss(out))
        return image

    return {"pentad": partial(step, "numba"), "loop": partial(step, "reference")}


def measure_models(about: dict[str, Any]) -> None:
    """Add one row per model, step and backend to the rows of ``about``, written after every step."""
    torch.manual_seed(0)
    for name, model in models().items():
        for training in (False, True):
            place = {"shape": name, "pass": "training step" if training else "prediction"}
            for row in measured(steps(*model, training=training), about["threads"], place):
                row["memory_mb"] = round(peak_memory(name, training, row["variant"]), 1)
                about["rows"].append(row)
                print(line(row), flush=True)
            write(about)


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of the table."""
    times, ratios = (" / ".join(f"{value:.1f}" for value in row[key].values()) for key in ("ms", "ratio"))
    memory = f"{row['memory_mb']:.0f}" if "memory_mb" in row else ""
    cells = (row["shape"], row["pass"], row["variant"], times, ratios, f"{row.get('cpu_ratio', '')}", memory)
    return f"| {' | '.join(cells)} |"


def table(about: dict[str, Any]) -> str:
    """Return the Markdown table of what `main` wrote."""
    counts = " / ".join(map(str, about["threads"]))
    head = f"| shape | pass | variant | ms, threads {counts} | times pentad's | the same, cpu | extra MB |"
    place = f"{about['processor']}, {about['cores']} cores, which other programs used to {about['busy']} % before it"
    absent = f" Not measured: {', '.join(about['absent'])}." if about["absent"] else ""
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(line, about["rows"]), "", f"{place}.{absent}", ""])


def busy() -> int:
    """Return what share of the processor's time other programs take, in percent, over two seconds."""

    def spent() -> list[int]:
        return [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    before = spent()
    time.sleep(2)
    user, nice, system, idle, waiting, *rest = (b - a for a, b in zip(before, spent(), strict=True))
    return round(100 * (1 - (idle + waiting) / (user + nice + system + idle + waiting + sum(rest))))


def processor() -> str:
    """Return the processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()


def main() -> None:
    """Measure, print the rows, and write them with their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two shapes only, nothing written")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peers", default="", help="folder with packages to compare with")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.append(given.peers)
    if given.memory:
        name, gradients, variant = given.memory
        measure_memory(name, gradients == "1", variant)
        return
    about: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "busy": busy()}
    about |= {"torch": torch.__version__, "threads": given.threads, "rows": []}
    measure(QUICK if given.quick else tuple(given.shapes), about, given.variants, not given.quick)
    if not given.quick:
        measure_models(about)


def write(about: dict[str, Any]) -> None:
    """Write the figures so far and their table beside this file."""
    about["absent"] = [name for name in VARIANTS if name not in {row["variant"] for row in about["rows"]}]
    Path(__file__).with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    Path(__file__).with_suffix(".md").write_text(table(about))


if __name__ == "__main__":
    main()
