"""ChangeMamba on a CPU: its speed against the plain loop, and a very large scene in constant memory.

    python benchmarks/remote_sensing.py speed [--sizes tiny small base] [--side 256] [--threads 1]
    python benchmarks/remote_sensing.py scene [--side 20000] [--rows 20000] [--model BUNDLE] [--kill-after 300]
    python benchmarks/remote_sensing.py windows --model BUNDLE --table prepared/cases.jsonl

``speed`` runs MambaBCD at its published sizes on one pair with random weights: once as it is, and with three plain
loops in place of its four-route scan. ``published`` is the way of the published code where its CUDA kernel is missing:
four whole copies of the image, decays and entries of all steps at once, then one loop over the steps; it is written
here from the formulas. ``plain backend`` puts the plain backend of `pentad.core.layers.selective_scan` in place of that
loop, and ``plain backend, by route`` runs it on one route after the other. All else is the same. They take turns on the
processor's clock, the best of several runs counts; memory is the peak above the resident size before, each in a fresh
process.

``scene`` predicts a generated pair of rows x side pixels (VRT: one tile of 512 pixels, repeated) through the command
with image differencing or a bundle, and the same pair of 512 x 512 pixels for comparison: what the large one takes more
is what its size costs. With ``--kill-after`` a first run of the large one is killed after so many seconds, as by
``kill -9``, and the second goes on from what it kept.

``windows`` predicts a mosaic of held-out samples through windows of 256, 384 and 512 pixels and says how far the maps
differ; beyond the tolerance that the README states it fails.

Each writes its table to benchmarks/remote_sensing_<what>.json and .md, which packages/remote_sensing/README.md quotes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import process_tree
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

from pentad.core.bundle import load_bundle
from pentad.core.cases import read_cases
from pentad.core.config import from_mapping
from pentad.core.files import write_json, write_text
from pentad.core.layers.cross_scan import cross_selective_scan
from pentad.core.layers.selective_scan import selective_scan
from pentad.remote_sensing.models import MODELS, change_mamba, vmamba
from pentad.remote_sensing.predict import Settings, change_strips
from pentad.remote_sensing.raster import PairConfig, open_pair

HERE = Path(__file__).parent
SIZES = {"tiny": change_mamba.tiny, "small": change_mamba.small, "base": change_mamba.base}
TILE = 512
PIXEL_M = 0.5
WINDOWS = (256, 384, 512)
# What the package's README promises between windows of these sizes: share of equal classes, mean difference.
SAME_CLASS, MEAN_DIFFERENCE = 0.97, 0.03


def machine() -> str:
    """Return processor and cores."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = found.group(1).strip() if found else platform.processor()
    return f"{name}, {os.cpu_count()} cores"


def save(what: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]], note: str) -> None:
    """Write and print the table."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(str(row[head]) for head in heads)} |" for row in rows]
    text = "\n".join([*lines, "", f"{machine()}; {note}", ""])
    write_json(HERE / f"remote_sensing_{what}.json", {"machine": machine(), "note": note, "rows": list(rows)})
    write_text(HERE / f"remote_sensing_{what}.md", text)
    print(text)


def four_copies(
    x: Tensor, projection: Tensor, step: Tensor, step_bias: Tensor, A: Tensor, D: Tensor, *, scan: Callable[..., Tensor]
) -> Tensor:
    """Return what `cross_selective_scan` returns, from four copies of the image that one scan takes together."""
    batch, channels, height, width = x.shape
    states, rank = A.shape[1], step.shape[2]
    there = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
    copies = torch.cat([there, there.flip(3)], dim=1)
    known = torch.einsum("bkcl,kpc->bkpl", copies, projection)
    dt, B, C = torch.split(known, [rank, states, states], dim=2)
    delta = torch.einsum("bkrl,kcr->bkcl", dt, step)
    y = scan(copies.flatten(1, 2), delta.flatten(1, 2), A, B, C, D, step_bias.flatten()).view(copies.shape)
    both = y[:, :2] + y[:, 2:].flip(3)
    return both[:, 0].view(x.shape) + both[:, 1].view(batch, channels, width, height).transpose(2, 3)


def all_steps_at_once(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """Return the scan of u (batch, channels, steps): decays and entries of all steps first, then a loop of sums."""
    repeated = u.shape[1] // B.shape[1]
    B, C = B.repeat_interleave(repeated, dim=1), C.repeat_interleave(repeated, dim=1)
    d = torch.nn.functional.softplus(delta + bias[:, None])
    decay = torch.exp(torch.einsum("bcl,cn->bcln", d, A))
    entry = torch.einsum("bcl,bcnl,bcl->bcln", d, B, u)
    h, outputs = torch.zeros_like(entry[:, :, 0]), []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + entry[:, :, t]
        outputs.append(torch.einsum("bcn,bcn->bc", h, C[..., t]))
    return torch.stack(outputs, dim=2) + D[:, None] * u


def plain_backend(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """Return the scan of u (batch, channels, steps) by the package's plain backend."""
    return selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True, backend="reference")


WAYS: dict[str, Callable[..., Tensor]] = {
    "pentad": cross_selective_scan,
    "published": partial(four_copies, scan=all_steps_at_once),
    "plain backend": partial(four_copies, scan=plain_backend),
    "plain backend, by route": partial(cross_selective_scan, backend="reference"),
}


def network(size: str, side: int, way: str) -> Callable[[], Tensor]:
    """Return a call that runs MambaBCD on one pair of noise, its scans taken in one of `WAYS`."""
    torch.manual_seed(0)
    model = change_mamba.MambaBCD(SIZES[size]()).eval()
    before, after = torch.randn(2, 1, 3, side, side)

    def call() -> Tensor:
        with torch.inference_mode(), patch.object(vmamba, "cross_selective_scan", WAYS[way]):
            out: Tensor = model(before, after)
        return out

    return call


def speed(asked: argparse.Namespace) -> None:
    """Measure every way at every size asked for."""
    torch.set_num_threads(asked.threads)
    rows = []
    for size in asked.sizes:
        calls = {way: network(size, asked.side, way) for way in WAYS}
        outputs = {way: call() for way, call in calls.items()}
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(asked.repeats):
            for way, call in calls.items():
                for _ in range(3 if way == "pentad" else 1):
                    began = time.process_time()
                    call()
                    best[way] = min(best[way], time.process_time() - began)
        memory = {way: peak_memory(size, asked, way) for way in calls}
        ours = outputs["pentad"]
        rows += [
            {
                "network": f"MambaBCD {size}, {asked.side} x {asked.side}",
                "against": way,
                "pentad, s": round(best["pentad"], 2),
                "other, s": round(best[way], 2),
                "times faster": round(best[way] / best["pentad"], 1),
                "largest difference / deviation": f"{float((ours - outputs[way]).abs().max() / ours.std()):.1e}",
                "extra MB, pentad / other": f"{memory['pentad']:.0f} / {memory[way]:.0f}",
            }
            for way in list(WAYS)[1:]
        ]
    note = f"{asked.threads} thread(s), seconds of the processor, float32, one pair, random weights"
    save("speed", list(rows[0]), rows, note)


def resident(field: str) -> float:
    """Return a size of this process in MB: VmRSS (now) or VmHWM (its peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def peak_memory(size: str, asked: argparse.Namespace, way: str) -> float:
    """Return the extra memory of one run in MB, measured in a fresh process."""
    call = [sys.executable, __file__, "memory", size, str(asked.side), way]
    return float(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def memory(asked: argparse.Namespace) -> None:
    """Print the extra memory of one run in this process, after a small one that loads what is loaded once."""
    torch.set_num_threads(1)
    network(asked.size, 32, asked.way)()
    call = network(asked.size, asked.side, asked.way)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
    call()
    print(resident("VmHWM") - before)


def write_pair(folder: Path, rows: int, side: int) -> tuple[Path, Path]:
    """Write two scenes of rows x side pixels, the second with a bright square of 40 pixels in every tile."""
    rng = np.random.default_rng(0)
    before = rng.integers(60, 110, (3, TILE, TILE)).astype(np.uint8)
    after = before.copy()
    after[:, 200:240, 300:340] = 230
    return _mosaic(folder, "before", before, rows, side), _mosaic(folder, "after", after, rows, side)


def _mosaic(folder: Path, name: str, tile: np.ndarray[Any, Any], rows: int, side: int) -> Path:
    source = folder / f"{name}_tile.tif"
    shape = {"driver": "GTiff", "count": 3, "height": TILE, "width": TILE, "dtype": "uint8", "tiled": True}
    with rasterio.open(source, "w", **shape, transform=from_origin(0, 0, 1, 1)) as out:
        out.write(tile)
    whole = f'xSize="{TILE}" ySize="{TILE}"'
    bands = []
    for band in (1, 2, 3):
        places = "\n".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{source.name}</SourceFilename><SourceBand>{band}'
            f'</SourceBand><SrcRect xOff="0" yOff="0" {whole}/><DstRect xOff="{x}" yOff="{y}" {whole}/></SimpleSource>'
            for y in range(0, rows, TILE)
            for x in range(0, side, TILE)
        )
        bands.append(f'<VRTRasterBand dataType="Byte" band="{band}">{places}</VRTRasterBand>')
    text = (
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{rows}"><SRS>EPSG:32633</SRS><GeoTransform>400000, {PIXEL_M}, '
        f"0, 5200000, 0, -{PIXEL_M}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    path = folder / f"{name}_{side}.vrt"
    write_text(path, text)
    return path


def scene(asked: argparse.Namespace) -> None:
    """Predict a small and a large pair through the command and compare what they take."""
    rows = []
    with tempfile.TemporaryDirectory(dir=asked.place) as place:
        for height, side in ((TILE, TILE), (asked.rows or asked.side, asked.side)):
            pair = write_pair(Path(place), height, side)
            command = [sys.executable, "-m", "pentad.core", "remote-sensing", "predict", *map(str, pair), "-o", place]
            command += ["--model", asked.model, "--quiet"]
            kept, seconds = 0, 0.0
            if side > TILE and asked.kill_after:
                killed = process_tree.run([*command, "--run", "killed"], timeout=asked.kill_after)
                assert killed.code < 0, killed.output
                kept, seconds = _kept_rows(Path(place)), killed.seconds
            taken = process_tree.run([*command, "--run", str(side)], timeout=7200)
            assert taken.code == 0, taken.output
            found = json.loads((Path(place) / str(side) / "cases" / "pair" / "summary.json").read_text())
            rows.append(
                {
                    "scene": f"{height} x {side} x 3 bands",
                    "seconds": round(seconds + taken.seconds),
                    "Mpx/s": round(height * side / (seconds + taken.seconds) / 1e6, 2),
                    "peak MB": round(taken.peak_mb),
                    "polygons": found["polygons"],
                    "killed after, s": round(seconds) or "-",
                    "rows kept then": kept or "-",
                }
            )
    more = rows[1]["peak MB"] - rows[0]["peak MB"]
    save("scene", list(rows[0]), rows, f"model {asked.model_name}; the large scene takes {more} MB more")


def _kept_rows(out: Path) -> int:
    """Return where the last strip begins that a killed run kept."""
    return max((int(path.stem) for path in (out / ".partial").rglob("*.npz")), default=0)


def windows(asked: argparse.Namespace) -> None:
    """Predict a mosaic of test scenes through windows of several sizes and compare the probabilities."""
    bundle = load_bundle(asked.model, "remote_sensing", {name: cls for name, (_, cls) in MODELS.items()})
    settings = from_mapping(Settings, bundle.settings, asked.model)
    cases = read_cases(asked.table, "test")
    with tempfile.TemporaryDirectory() as place:
        paths = [_joined(Path(place), cases, role) for role in ("before", "after")]
        with open_pair(paths[0], paths[1], PairConfig(unplaced=True)) as pair:
            found = []
            for side in WINDOWS:
                own = replace(settings, tiles=replace(settings.tiles, side=side))
                strips = change_strips(bundle.model, own, torch.device("cpu"), pair)
                found.append(np.concatenate([np.where(strip.valid, strip.probability, 0) for strip in strips]))
    rows, kept = [], True
    for side, probability in zip(WINDOWS[1:], found[1:], strict=True):
        difference = np.abs(probability - found[0])
        same = np.mean((probability >= 0.5) == (found[0] >= 0.5))
        kept &= bool(same >= SAME_CLASS and difference.mean() <= MEAN_DIFFERENCE)
        rows.append(
            {
                "windows": f"{WINDOWS[0]} and {side}",
                "same class": f"{same:.4%}",
                "mean difference of probability": f"{difference.mean():.1e}",
                "99.9 % of pixels below": f"{np.quantile(difference, 0.999):.3f}",
                "largest": f"{difference.max():.3f}",
            }
        )
    size = f"{found[0].shape[0]} x {found[0].shape[1]}"
    save("windows", list(rows[0]), rows, f"{bundle.name}, mosaic of {size} pixels of synthetic held-out scenes")
    if not kept:
        sys.exit(f"below the tolerance: {SAME_CLASS:.0%} of one class, mean difference {MEAN_DIFFERENCE}")


def _joined(folder: Path, cases: Sequence[Any], role: str) -> Path:
    images = []
    for case in cases:
        with rasterio.open(case.files[role]) as source:
            images.append(source.read())
    across = int(np.sqrt(len(images)))
    rows = [np.concatenate(images[k : k + across], axis=2) for k in range(0, across * across, across)]
    image = np.tile(np.concatenate(rows, axis=1), (1, 2, 2))
    path = folder / f"{role}.tif"
    shape = {"count": image.shape[0], "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype}
    with rasterio.open(path, "w", driver="GTiff", nodata=0, **shape) as out:
        out.write(image)
    return path


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("speed")
    part.add_argument("--sizes", nargs="+", default=["tiny"], choices=list(SIZES))
    part.add_argument("--side", type=int, default=256)
    part.add_argument("--threads", type=int, default=1)
    part.add_argument("--repeats", type=int, default=3)
    part.set_defaults(run=speed)
    part = parts.add_parser("memory")
    part.add_argument("size", choices=list(SIZES))
    part.add_argument("side", type=int)
    part.add_argument("way", choices=list(WAYS))
    part.set_defaults(run=memory)
    part = parts.add_parser("scene")
    part.add_argument("--side", type=int, default=20_000)
    part.add_argument("--rows", type=int, default=0, help="Rows; as many as --side by default.")
    part.add_argument("--model", default="differencing")
    part.add_argument("--model-name", default="differencing", help="What the table calls it.")
    part.add_argument("--kill-after", type=float, default=0, help="Seconds.")
    part.add_argument("--place", help="Folder for the scenes and the output; the system's by default.")
    part.set_defaults(run=scene)
    part = parts.add_parser("windows")
    part.add_argument("--model", required=True)
    part.add_argument("--table", type=Path, required=True, help="Case table written by prepare.")
    part.set_defaults(run=windows)
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
