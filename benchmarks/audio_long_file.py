"""Memory and time of `pentad audio predict` on recordings of growing length: 48 kHz stereo FLAC, ten seconds to hours.

Each recording is a ten-second block of noise and tones, repeated. The whole command runs with one worker, page and
embeddings included. Memory is that of all its processes together at its peak, looked up 20 times a second (libraries
that they share count once). Writes benchmarks/audio_long_file.json and .md, which packages/audio/README.md quotes.

    python benchmarks/audio_long_file.py [--model pipelines/sound_events/bundles/hts_at] [--seconds 10 600 10800]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from process_tree import run

RATE, BLOCK_S = 48_000, 10


def write_flac(path: Path, seconds: int) -> None:
    """Write a stereo recording of a whole number of blocks."""
    time = np.arange(BLOCK_S * RATE) / RATE
    block = np.random.default_rng(0).normal(0, 0.05, (len(time), 2))
    block += 0.2 * np.sin(2 * np.pi * (500 + 100 * np.floor(time)) * time)[:, None] * (time % 2 < 1)[:, None]
    with soundfile.SoundFile(path, "w", RATE, 2, format="FLAC") as file:
        for _ in range(seconds // BLOCK_S):
            file.write(block)


def measure(seconds: int, model: Path, folder: Path) -> dict[str, Any]:
    """Return a row of the table.

    Raises:
        RuntimeError: The command failed.
    """
    path = folder / f"{seconds}.flac"
    write_flac(path, seconds)
    outputs = "csv,json,audacity,page,embeddings"
    call = ["predict", str(path), "-o", str(folder / "out"), "--run", str(seconds), "--model", str(model)]
    found = run([sys.executable, "-m", "pentad.core", "audio", *call, "--outputs", outputs, "--quiet"])
    path.unlink()
    if found.code:
        raise RuntimeError(found.output[-2000:])
    return {"seconds": seconds, "peak_mib": round(found.peak_mb), "cpu_seconds": round(found.cpu_seconds, 1)}


def table(about: dict[str, Any]) -> str:
    """Return the Markdown table of what `main` wrote."""
    lines = ["| recording, s | peak of all processes, MiB | processor seconds |", "|---|---|---|"]
    lines += [f"| {row['seconds']} | {row['peak_mib']} | {row['cpu_seconds']} |" for row in about["rows"]]
    return "\n".join([*lines, "", f"{about['processor']}, model {about['model']}.", ""])


def main() -> None:
    """Measure the lengths asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("pipelines/sound_events/bundles/hts_at"))
    parser.add_argument("--seconds", nargs="*", type=int, default=[10, 600, 10_800])
    asked = parser.parse_args()
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    about: dict[str, Any] = {"processor": found.group(1) if found else "unknown", "model": asked.model.name, "rows": []}
    file = Path(__file__).with_suffix(".json")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in asked.seconds:
            about["rows"].append(measure(seconds, asked.model, Path(folder)))
            file.write_text(json.dumps(about, indent=1) + "\n")
            file.with_suffix(".md").write_text(table(about))
    print(table(about))


if __name__ == "__main__":
    main()
