"""Times FlatFormer's encoder against attention in windows with the same weights, and a whole sweep stage by stage.

The sweep is simulated: two turns of 64 beams and 2650 azimuths over one of the sample data's streets, with a reach of
75 m, on the published grid of 468 x 468 cells; the encoder's comparison takes 20,000 pillars at random from those of
the street and of the same street across it, as at a crossing. Peers: every window padded to its 169 cells with a mask,
and windows in buckets of 36, 72, 112 and 169 places with masks, as SST does; both attend window by window with this
package's weights, in the same blocks and with the same fused attention, and must agree with each other. Each time is
the best of several runs on one thread in which the variants take turns; ``cpu`` is the processor time of that run,
which other programs disturb less. Memory is the peak above the resident size before the call, in a fresh process.
Weights are random, so suppression is timed with every cell allowed as a candidate, its worst case. Writes
benchmarks/point_clouds.json and point_clouds.md, which packages/point_clouds/README.md quotes.

    python benchmarks/point_clouds.py [--pillars 20000] [--runs 5] [--threads 1 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from selective_scan import processor, resident
from torch import Tensor
from torch.nn import functional

from pentad.point_clouds.decoding import DecodeConfig, decode
from pentad.point_clouds.lidar import Sensor, scan
from pentad.point_clouds.models import MODELS
from pentad.point_clouds.models.flatformer import Encoder, EncoderConfig, FlatFormer, Layer, make_routes, position_code
from pentad.point_clouds.scene import build

SHAPE, WIDTH = (468, 468), 128
BUCKETS = (36, 72, 112, 169)
VARIANTS = ("flat groups", "windows padded", "windows in buckets")
SENSOR = Sensor(64, 2650, 0.0419, -0.3072, reach=75.0)
Places = tuple[Tensor, Tensor]  # pillar of each place (w, size), and whether there is one


def sweep() -> Tensor:
    """Return two turns over one street, (p, 5): x, y, z, intensity, and 0 or -1 for the turn."""
    scene, parts = build(1), []
    for turn in (0, 1):
        before, pose = scene.earlier(0.1 * turn)
        returns = scan(before, SENSOR, turn)
        points = returns.points / 1000.0 @ pose[:3, :3].T + pose[:3, 3]
        columns = [points, returns.intensity[:, None] / 255.0, np.full((len(points), 1), -float(turn))]
        parts.append(np.concatenate(columns, axis=1))
    return torch.from_numpy(np.concatenate(parts)).float()


def detector() -> FlatFormer:
    """Return the published network with random weights."""
    torch.manual_seed(0)
    config, model = MODELS["flatformer"]
    made = model(config()).eval()
    assert isinstance(made, FlatFormer)
    return made


def cells_of(count: int) -> Tensor:
    """Return so many cells of one sample, drawn from those of the street and of the same street turned across it."""
    points = sweep()
    across = points.clone()
    across[:, 0], across[:, 1] = -points[:, 1], points[:, 0]
    both = torch.cat([points, across])
    found = detector().voxel_encoder.find(both, torch.tensor([len(both)])).cells
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:count].sort().values
    if len(chosen) < count:
        raise SystemExit(f"the two streets have {len(found)} pillars; ask for no more")
    return found[chosen]


def window_places(cells: Tensor, config: EncoderConfig, shifted: bool, buckets: tuple[int, ...]) -> list[Places]:
    """Return the places of every window that holds pillars, bucket by bucket."""
    n, m = config.window
    x, y = (cells[:, axis] + (side // 2 if shifted else 0) for axis, side in ((2, n), (1, m)))
    _, window = torch.unique((y // m) * SHAPE[1] + x // n, return_inverse=True)
    order = torch.argsort(window, stable=True)
    counts = torch.bincount(window)
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[window[order]]
    made, low = [], 0
    for size in buckets:
        chosen = torch.nonzero((counts > low) & (counts <= size)).squeeze(1)
        row = torch.full_like(counts, -1)
        row[chosen] = torch.arange(len(chosen))
        own = row[window[order]] >= 0
        places = torch.zeros(len(chosen), size, dtype=torch.long)
        present = torch.zeros(len(chosen), size, dtype=torch.bool)
        at = row[window[order]][own], rank[own]
        places[at], present[at] = order[own], True
        made.append((places, present))
        low = size
    return made


def attend_windows(layer: Layer, x: Tensor, position: Tensor, groups: list[Places]) -> Tensor:
    """Return the attention of each pillar (n, width) to the pillars of its window."""
    attention, width = layer.attn, x.shape[1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    looking = functional.linear(x + position, weight[: 2 * width], bias[: 2 * width])
    passed = functional.linear(x, weight[2 * width :], bias[2 * width :])
    all_three, out = torch.cat([looking, passed], dim=1), torch.empty_like(x)
    for places, present in groups:
        if not len(places):
            continue
        heads = all_three[places.flatten()].view(*places.shape, 3, attention.heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=present[:, None, None])
        out[places[present]] = found.transpose(1, 2).flatten(2)[present]
    projected: Tensor = attention.out_proj(out)
    return projected


def in_windows(encoder: Encoder, features: Tensor, cells: Tensor, buckets: tuple[int, ...]) -> Tensor:
    """Return the pillars' features after the same layers with attention inside windows."""
    places = {shifted: window_places(cells, encoder.config, shifted, buckets) for shifted in (False, True)}
    position = position_code(cells, features.shape[1])
    for order, layer in encoder.layers():
        attended = attend_windows(layer, features, position, places[order.endswith("_shift")])
        features = layer.mix(features, attended)
    return features


def calls_of(count: int) -> tuple[dict[str, Callable[[], Tensor]], Callable[[], Any], Tensor]:
    """Return the variants of the encoder, the sorting and grouping alone, and the cells."""
    torch.manual_seed(0)
    config = EncoderConfig()
    encoder, cells = Encoder(WIDTH, config, SHAPE).eval(), cells_of(count)
    features, counts = torch.randn(len(cells), WIDTH), torch.tensor([len(cells)])
    variants = {
        "flat groups": lambda: encoder(features, cells, counts),
        "windows padded": lambda: in_windows(encoder, features, cells, BUCKETS[-1:]),
        "windows in buckets": lambda: in_windows(encoder, features, cells, BUCKETS),
    }
    return variants, lambda: make_routes(cells, counts, config, SHAPE), cells


def best_times(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, tuple[float, float]]:
    """Return the best wall and processor time of each call in seconds, the calls taking turns."""
    best = {name: (float("inf"), float("inf")) for name in calls}
    with torch.no_grad():
        for _ in range(runs):
            for name, call in calls.items():
                start, used = time.perf_counter(), time.process_time()
                call()
                taken = time.perf_counter() - start, time.process_time() - used
                best[name] = min(best[name][0], taken[0]), min(best[name][1], taken[1])
    return best


def measure_encoder(count: int, runs: int) -> dict[str, Any]:
    """Return the variants' times, memory, padded places and the share of sorting and grouping."""
    torch.set_num_threads(1)
    calls, routes, cells = calls_of(count)
    with torch.no_grad():
        padded, bucketed = calls["windows padded"](), calls["windows in buckets"]()
    torch.testing.assert_close(padded, bucketed, rtol=0, atol=1e-4)
    config = EncoderConfig()
    places = [window_places(cells, config, False, sizes) for sizes in (BUCKETS[-1:], BUCKETS)]
    sizes = [-(-count // config.group) * config.group, *(sum(p.numel() for p, _ in groups) for groups in places)]
    best = best_times({**calls, "sorting and grouping": routes}, runs)
    wall, cpu = best["flat groups"]
    rows = [
        {
            "variant": name,
            "places": sizes[number],
            "s": round(best[name][0], 3),
            "ratio": round(best[name][0] / wall, 2),
            "cpu_s": round(best[name][1], 3),
            "cpu_ratio": round(best[name][1] / cpu, 2),
            "memory_mb": round(peak_memory(count, name), 0),
        }
        for number, name in enumerate(VARIANTS)
    ]
    sorting = best["sorting and grouping"]
    return {
        "pillars": len(cells),
        "windows": len(places[0][0][0]),
        "rows": rows,
        "sorting_ms": round(1e3 * sorting[0], 1),
        "sorting_share": round(sorting[0] / wall, 4),
    }


def peak_memory(count: int, variant: str) -> float:
    """Return a variant's extra memory in MB, measured in a fresh process."""
    call = [sys.executable, __file__, "--pillars", str(count), "--memory", variant]
    return float(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def measure_memory(count: int, variant: str) -> None:
    """Print the extra memory of one call in this process, after a small call that loads what is loaded once."""
    torch.set_num_threads(1)
    with torch.no_grad():
        calls_of(300)[0][variant]()
        call = calls_of(count)[0][variant]
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
        call()
    print(resident("VmHWM") - before)


def stage_calls(model: FlatFormer, points: Tensor) -> dict[str, Callable[[], Any]]:
    """Return the stages of a sweep, each with its inputs made beforehand."""
    counts = torch.tensor([len(points)])
    config = DecodeConfig(min_score=-1.0)
    with torch.no_grad():
        pillars = model.voxel_encoder.find(points, counts)
        features = model.voxel_encoder(pillars)
        attended = model.encode(features, pillars)
        bev = model.bev(attended, pillars)
        maps = model.backbone(bev)
        neck = model.neck(maps)
        answers = model.bbox_head(neck)
    answers["iou"] = answers["iou"].abs() + 0.5
    return {
        "pillars": lambda: model.voxel_encoder.find(points, counts),
        "pillar encoder": lambda: model.voxel_encoder(pillars),
        "FlatFormer encoder": lambda: model.encode(features, pillars),
        "scatter": lambda: model.bev(attended, pillars),
        "SECOND": lambda: model.backbone(bev),
        "neck": lambda: model.neck(maps),
        "head": lambda: model.bbox_head(neck),
        "decoding and suppression": lambda: decode(answers, model.map_grid, config),
    }


def measure_stages(runs: int, threads: list[int]) -> dict[str, Any]:
    """Return the seconds of each stage of one sweep on the whole grid, by number of threads."""
    model, points = detector(), sweep()
    calls = stage_calls(model, points)
    times: dict[str, dict[str, float]] = {name: {} for name in calls}
    for count in threads:
        torch.set_num_threads(count)
        for name, (wall, _) in best_times(calls, runs).items():
            times[name][str(count)] = round(wall, 4)
    pillars = len(model.voxel_encoder.find(points, torch.tensor([len(points)])).cells)
    return {"points": len(points), "pillars": pillars, "stages": times}


def table(about: dict[str, Any]) -> str:
    """Return the Markdown tables of what was measured."""
    encoder, whole = about["encoder"], about["sweep"]
    lines = [f"Encoder, {encoder['pillars']:,} pillars in {encoder['windows']} windows of 13 x 13, one thread:", ""]
    lines += [
        "| attention | places a layer | s | times flat groups | the same, cpu | extra MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in encoder["rows"]:
        cells = (
            row["variant"],
            f"{row['places']:,}",
            row["s"],
            row["ratio"],
            row["cpu_ratio"],
            f"{row['memory_mb']:.0f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    share = f"{encoder['sorting_ms']:.0f} ms, {100 * encoder['sorting_share']:.1f} %"
    lines += ["", f"Sorting and grouping, all four orders: {share} of the encoder with flat groups.", ""]
    counts = about["threads"]
    lines += [f"One sweep of {whole['points']:,} points and {whole['pillars']:,} pillars, 468 x 468 cells:", ""]
    lines += [f"| stage | s, threads {' / '.join(map(str, counts))} |", "|---|---|"]
    for name, times in whole["stages"].items():
        lines.append(f"| {name} | {' / '.join(f'{times[str(count)]:.2f}' for count in counts)} |")
    sums = (sum(times[str(count)] for times in whole["stages"].values()) for count in counts)
    lines.append(f"| together | {' / '.join(f'{value:.2f}' for value in sums)} |")
    place = f"{about['processor']}, {about['cores']} cores, torch {about['torch']}"
    return "\n".join([*lines, "", f"{place}; other programs ran beside it: load {about['load']} at the start.", ""])


def main() -> None:
    """Measure, and write the figures with their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pillars", type=int, default=20000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        measure_memory(given.pillars, given.memory)
        return
    about: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    about |= {"torch": torch.__version__, "threads": given.threads}
    about["encoder"] = measure_encoder(given.pillars, given.runs)
    about["sweep"] = measure_stages(max(2, given.runs - 2), given.threads)
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    target.with_suffix(".md").write_text(table(about), encoding="utf-8")
    print(table(about))


if __name__ == "__main__":
    main()
