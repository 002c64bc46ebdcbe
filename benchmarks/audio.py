"""What the audio models cost: patchout, fused attention, front-ends, and a batch run against transformers' pipeline.

- ``patchout``: PaSST's training step (forward and backward, batch 2, 10 s) with the published patchout (40 of the time
  columns, 4 of the frequency rows) and without, for plain attention, as in the published figure, and for fused.
- ``attention``: prediction of 10 s with fused attention and with the plain formula, AST and PaSST.
- ``swin``, ``swin_two``: HTS-AT on core's shifted-window attention against the same weights in transformers' CLAP
  encoder, prediction and training step (forward and backward) of four 10 s windows, one thread and two.
- ``frontend``: what a model's front-end adds to its prediction of four 10 s windows.
- ``predict``: recordings of 10 s, 44.1 kHz stereo, from file to probabilities: our predictor against transformers'
  audio-classification pipeline, the same weights (random, of DeiT-tiny's size, 527 classes) and attention.

Each variant runs in a process of its own on one thread, the variants taking turns, so that neither the other's memory
nor a busy machine's mood decides. Seconds are processor time (``swin_two``: the wall clock), the best of the rounds;
memory is the peak above the resident size before the call, the model loaded and a short input done. Writes
benchmarks/audio.json and audio.md, which packages/audio/README.md quotes; a part that is not measured again keeps its
figures.

    python benchmarks/audio.py [patchout] [attention] [swin] [swin_two] [frontend] [predict]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

_WHAT = ("prediction", "training step")
# part: (what is compared, the slower variant first, then ours), rounds
PARTS: dict[str, tuple[list[tuple[str, str, str]], int]] = {
    "patchout": (
        [
            ("PaSST, training step, plain attention", "plain, none", "plain, 40/4"),
            ("PaSST, training step, fused attention", "fused, none", "fused, 40/4"),
        ],
        2,
    ),
    "attention": (
        [("AST, prediction", "ast plain", "ast fused"), ("PaSST, prediction", "passt plain", "passt fused")],
        2,
    ),
    "swin": ([(f"HTS-AT, {what}", f"library, {what}", f"core, {what}") for what in _WHAT], 3),
    "swin_two": ([(f"HTS-AT, {what}, two threads", f"library, {what}", f"core, {what}") for what in _WHAT], 3),
    "frontend": (
        [(f"{name}, four windows", f"{name} model", f"{name} front-end") for name in ("ast", "hts_at", "passt")],
        1,
    ),
    "predict": ([("16 recordings, AST of DeiT-tiny's size", "transformers pipeline", "pentad")], 2),
}
RECORDINGS, SECONDS, RATE = 16, 10, 44_100
Call = Callable[[], object]


def built(name: str, attention: str = "sdpa", **sizes: int) -> nn.Module:
    """Return a published architecture at full size, with random weights."""
    from pentad.audio.models.ast import AST, ASTConfig
    from pentad.audio.models.hts_at import HTSAT, HTSATConfig
    from pentad.audio.models.passt import PaSST, PaSSTConfig

    if name == "hts_at":
        return HTSAT(HTSATConfig()).eval()
    return (AST(ASTConfig(), attention) if name == "ast" else PaSST(PaSSTConfig(**sizes), attention)).eval()


def training_step(variant: str) -> tuple[Call, Call]:
    """Return a short step and the whole one."""
    attention, left_out = variant.split(", ")
    sizes = {} if left_out == "none" else {"patchout_time": 40, "patchout_frequency": 4}
    model = built("passt", "eager" if attention == "plain" else "sdpa", **sizes).train()

    def step() -> None:
        scores = model(torch.randn(2, 998, 128)).clip
        nn.functional.binary_cross_entropy_with_logits(scores, torch.zeros(2, 527)).backward()

    return lambda: None, step


def prediction(variant: str) -> tuple[Call, Call]:
    """Return the prediction of one window, twice."""
    name, attention = variant.split()
    model = built(name, "eager" if attention == "plain" else "sdpa")
    features = torch.randn(1, 1024 if name == "ast" else 998, 128)
    return lambda: None, lambda: model(features)


def swin(variant: str) -> tuple[Call, Call]:
    """Return the work on four windows, twice; predictions are written to be compared."""
    from clap_encoder import pair

    side, what = variant.split(", ")
    own, library = pair()
    model = own if side == "core" else library
    features = 20 * torch.randn(4, 1001, 64) - 40
    if what == "prediction":
        return lambda: model(features[:1]), lambda: _written(side, model(features).frames.numpy())
    model.train()

    def step() -> None:
        scores = model(features).clip
        nn.functional.binary_cross_entropy_with_logits(scores, torch.zeros(4, 527)).backward()

    return lambda: model(features[:1]), step


def front_end(variant: str) -> tuple[Call, Call]:
    """Return a front-end, or the model behind it, over four windows."""
    from pentad.audio.frontends import FrontEnd
    from pentad.audio.imports import FRONT_ENDS

    name, part = variant.split()
    front = FrontEnd(FRONT_ENDS[name]())
    waves = torch.randn(4, SECONDS * front.config.sample_rate) * 0.1
    if part == "front-end":
        return lambda: front(waves), lambda: front(waves)
    features = front(waves)
    features = front.pad(features, 1024)[:, :1024] if name == "ast" else features[:, : 998 if name == "passt" else None]
    model = built(name)
    return lambda: model(features[:1]), lambda: model(features)


def recordings(variant: str) -> tuple[Call, Call]:
    """Return a run over one recording and over all, of our predictor or of transformers' pipeline."""
    import soundfile

    from pentad.audio.frontends import kaldi_fbank
    from pentad.audio.models.ast import AST, ASTConfig
    from pentad.audio.predict import Settings, Tagger, WindowConfig

    folder = Path(tempfile.mkdtemp())
    draws = np.random.default_rng(0)
    files = [folder / f"{number}.wav" for number in range(RECORDINGS)]
    for path in files:
        soundfile.write(path, draws.normal(0, 0.1, (SECONDS * RATE, 2)), RATE)
    torch.manual_seed(0)
    model = AST(ASTConfig(dim=192, heads=3)).eval()
    if variant == "pentad":
        names = tuple(f"class_{number}" for number in range(527))
        # A window is what fills the model's 1024 frames, as the pipeline's is.
        settings = Settings(kaldi_fbank(), names, WindowConfig(window_s=10.255, hop_s=10.255))
        tagger = Tagger("ast", "", model, settings, torch.device("cpu"))
        runs = [lambda path=path: tagger.run(path).mean for path in files]
    else:
        runs = _pipeline(model, files)
    return runs[0], lambda: _written(variant, np.stack([run() for run in runs]))


def _pipeline(model: nn.Module, files: list[Path]) -> list[Call]:
    """One call a recording of transformers' pipeline, which decodes with ffmpeg or, as here, takes samples."""
    import soundfile
    from transformers import ASTFeatureExtractor, AudioClassificationPipeline

    network: Any = model.network
    pipeline = AudioClassificationPipeline(model=network, feature_extractor=ASTFeatureExtractor(), device="cpu")

    def run(path: Path) -> object:
        samples, rate = soundfile.read(path, dtype="float32")
        found = pipeline({"raw": samples.mean(1), "sampling_rate": rate}, top_k=None, function_to_apply="sigmoid")
        return [row["score"] for row in sorted(found, key=lambda row: network.config.label2id[row["label"]])]

    return [lambda path=path: run(path) for path in files]


def _written(variant: str, scores: Any) -> None:
    np.save(Path(tempfile.gettempdir()) / f"audio-benchmark-{variant.split()[0]}.npy", scores)


def _apart(first: str, second: str) -> float:
    """Largest difference between what two variants wrote."""
    found = [np.load(Path(tempfile.gettempdir()) / f"audio-benchmark-{name}.npy") for name in (first, second)]
    return float(f"{np.abs(found[0] - found[1]).max():.1e}")


CASES = {
    "patchout": training_step,
    "attention": prediction,
    "swin": swin,
    "swin_two": swin,
    "frontend": front_end,
    "predict": recordings,
}


def resident(field: str) -> float:
    """Return a size of this process in MiB: VmRSS (now) or VmHWM (its peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def measure(part: str, variant: str) -> dict[str, float]:
    """Return processor seconds and MiB of one variant in this process."""
    torch.set_num_threads(2 if part.endswith("two") else 1)
    clock = time.perf_counter if part.endswith("two") else time.process_time
    torch.manual_seed(0)
    short, whole = CASES[part](variant)
    best, peak = float("inf"), 0.0
    with torch.set_grad_enabled(part == "patchout" or "training" in variant):
        short()
        for _ in range(1 if part == "patchout" else 2):
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
            start = clock()
            whole()
            best, peak = min(best, clock() - start), max(peak, resident("VmHWM") - before)
    return {"seconds": round(best, 3), "mib": round(peak)}


def compare(part: str) -> list[dict[str, Any]]:
    """Return a row for each comparison of a part."""
    cases, rounds = PARTS[part]
    rows = []
    for title, *variants in cases:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name in variants:
                call = [sys.executable, __file__, "--one", part, name]
                done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        best = {name: {key: min(run[key] for run in found) for key in found[0]} for name, found in runs.items()}
        first, second = (best[name] for name in variants)
        row = {"part": part, "title": title, "variants": best}
        row["faster"] = round(first["seconds"] / second["seconds"], 2)
        row["memory"] = round(second["mib"] / max(first["mib"], 1), 2)
        rows.append(row)
        print(line(row), flush=True)
    if part in ("predict", "swin", "swin_two"):
        rows[0]["difference"] = _apart(*(("pentad", "transformers") if part == "predict" else ("core", "library")))
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of the table."""
    (slow, first), (fast, second) = row["variants"].items()
    times, memory = f"{slow} {first['seconds']:.2f}, {fast} {second['seconds']:.2f}", ""
    if row["part"] == "frontend":
        verdict = f"{second['seconds'] / first['seconds']:.1%} of the model's time"
    else:
        verdict = f"{row['faster']:.2f} times as fast"
    if row["part"] not in ("frontend", "predict"):
        memory = f"{first['mib']}, {second['mib']}"
        verdict += f", {row['memory']:.2f} of the memory"
    if "difference" in row:
        what = "probabilities" if row["part"] == "predict" else "logits"
        verdict += f", {what} within {row['difference']:.0e}"
    return f"| {row['title']} | {times} | {memory} | {verdict} |"


def table(about: dict[str, Any]) -> str:
    """Return the Markdown table of what `main` wrote."""
    head = ["| | seconds of processor time | MiB above the model | ours |", "|---|---|---|---|"]
    place = f"{about['processor']}, one thread, torch {about['torch']}."
    return "\n".join([*head, *(line(row) for row in about["rows"]), "", place, ""])


def main() -> None:
    """Measure one variant, or the parts asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text())["rows"] if file.is_file() else []
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    about: dict[str, Any] = {"processor": found.group(1) if found else "unknown", "cores": os.cpu_count()}
    about["torch"] = torch.__version__
    for part in given.parts or PARTS:
        known = [row for row in known if row["part"] != part] + compare(part)
        about["rows"] = sorted(known, key=lambda row: list(PARTS).index(row["part"]))
        file.write_text(json.dumps(about, indent=1) + "\n")
        file.with_suffix(".md").write_text(table(about))


if __name__ == "__main__":
    main()
