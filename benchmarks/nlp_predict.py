"""Texts a second: our batch path against transformers' `pipeline(...)` with its defaults, same model, same outputs.

    python benchmarks/nlp_predict.py [--threads 1 2] [--rounds 2] [--texts 5000] [--source FOLDER]

Both take the same texts of mixed length (log-normal, median 14 words), each in a process of its own, in turns, on as
many threads; the best of the rounds counts. Without --source the model is a small BERT with random weights and a
vocabulary learned from the texts: speed does not depend on the weights' values. What is compared is the whole way from
strings to probabilities. Memory is the peak above the resident size before the call, the model loaded and 64 texts
done. Writes benchmarks/nlp_predict.json and .md, which packages/nlp/README.md quotes; rows of other numbers of threads
are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
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
from numpy.typing import NDArray

LABELS = ("NOT", "HATE")
LONGEST = 256
SIDES = ("transformers pipeline", "pentad")
Call = Callable[[list[str]], NDArray[np.float64]]


def mixed_texts(count: int) -> list[str]:
    """Return texts of 2 to 110 words, most of them short, as posts are."""
    draw = random.Random(0)
    words = ["".join(draw.choice("aeioukmnprst") for _ in range(draw.randint(2, 8))) for _ in range(3000)]
    lengths = [min(110, max(2, round(draw.lognormvariate(2.64, 0.8)))) for _ in range(count)]
    return [" ".join(draw.choice(words) for _ in range(length)) for length in lengths]


def built(texts: list[str], source: str) -> tuple[Any, Any]:
    """Return the model and its tokenizer, the same in every process."""
    from pentad.nlp.learning import EncoderChoice
    from pentad.nlp.models.encoder import EncoderConfig, find_pretrained
    from pentad.nlp.models.heads import BertSequence
    from pentad.nlp.tokenizer import PieceTokenizer, learn

    torch.manual_seed(0)
    if source:
        found = find_pretrained(source)
        model = BertSequence(EncoderConfig(LABELS, found.values))
        model.start_from(found)
        return model.eval(), PieceTokenizer(found.tokenizer)
    tokenizer = PieceTokenizer(learn(texts, 4000))
    choice = EncoderChoice(hidden=128, layers=4, heads=4, inner=512)
    model = BertSequence(EncoderConfig(LABELS, choice.values(tokenizer.size, LONGEST, tokenizer.pad)))
    return model.eval(), tokenizer


def ours(model: Any, tokenizer: Any) -> Call:
    """Return our predictor: texts to probabilities (texts, labels)."""
    from pentad.nlp.dataset import TextConfig
    from pentad.nlp.documents import Document
    from pentad.nlp.predict import Settings, predict_documents
    from pentad.nlp.text import Normalisation

    settings = Settings("classes", LABELS, TextConfig(Normalisation("none"), LONGEST, 32))

    def run(texts: list[str]) -> NDArray[np.float64]:
        documents = [Document(str(number), text) for number, text in enumerate(texts)]
        found = predict_documents(model, tokenizer, settings, documents)
        return np.array([[one.scores[label] for label in LABELS] for one in found])

    return run


def theirs(model: Any, tokenizer: Any) -> Call:
    """Return transformers' pipeline over the same weights, with its defaults."""
    from transformers import pipeline

    with tempfile.TemporaryDirectory() as place:
        model.network.save_pretrained(place)
        tokenizer.as_transformers(LONGEST).save_pretrained(place)
        made: Any = pipeline("text-classification", model=place, device="cpu", top_k=None)
    names = [name for _, name in sorted(model.network.config.id2label.items())]

    def run(texts: list[str]) -> NDArray[np.float64]:
        answers = [{one["label"]: one["score"] for one in row} for row in made(texts)]
        return np.array([[row[name] for name in names] for row in answers])

    return run


def resident(field: str) -> float:
    """Return a size of this process in MiB: VmRSS (now) or VmHWM (its peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def measure(side: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Run one side in this process and return its seconds and memory; its probabilities go to a file."""
    torch.set_num_threads(asked.threads[0])
    texts = mixed_texts(asked.texts)
    model, tokenizer = built(texts, asked.source)
    run = (ours if side == "pentad" else theirs)(model, tokenizer)
    run(texts[:64])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lowers the peak to the present size
    start = time.perf_counter()
    found = run(texts)
    seconds = time.perf_counter() - start
    np.save(_file(side), found)
    size = sum(parameter.numel() for parameter in model.parameters())
    return {"seconds": round(seconds, 2), "mib": round(resident("VmHWM") - before), "parameters": size}


def _file(side: str) -> Path:
    return Path(tempfile.gettempdir()) / f"nlp-benchmark-{side.split()[0]}.npy"


def compare(asked: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return a row: both sides in turns."""
    best: dict[str, dict[str, Any]] = {}
    for _ in range(asked.rounds):
        for side in SIDES:
            call = [sys.executable, __file__, "--one", side, "--threads", str(threads)]
            call += ["--texts", str(asked.texts), "--source", asked.source]
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            best[side] = min(best.get(side, found), found, key=lambda one: float(one["seconds"]))
    first, second = (best[side] for side in SIDES)
    difference = np.abs(np.load(_file(SIDES[0])) - np.load(_file(SIDES[1]))).max()
    return {
        "threads": threads,
        "texts": asked.texts,
        "parameters": second["parameters"],
        "sides": best,
        "faster": round(first["seconds"] / second["seconds"], 2),
        "difference": float(f"{difference:.1e}"),
    }


def table(about: dict[str, Any]) -> str:
    """Return the Markdown table of what `main` wrote."""
    lines = [
        "| texts, parameters | threads | | seconds | texts a second | MiB above the model | times as fast |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in about["rows"]:
        for side, found in row["sides"].items():
            what = f"{row['texts']}, {row['parameters'] / 1e6:.1f} M | {row['threads']}" if side == SIDES[0] else "|"
            ratio = f"{row['faster']:.2f}, probabilities within {row['difference']:.0e}" if side == SIDES[1] else ""
            speed = row["texts"] / found["seconds"]
            lines.append(f"| {what} | {side} | {found['seconds']:.1f} | {speed:.0f} | {found['mib']} | {ratio} |")
    return "\n".join([*lines, "", f"{about['processor']}, {about['cores']} cores, torch {about['torch']}.", ""])


def main() -> None:
    """Measure one side, or both and write the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--source", default="", help="Folder or hub id of an encoder.")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked)))
        return
    file = Path(__file__).with_suffix(".json")
    known = json.loads(file.read_text())["rows"] if file.is_file() else []
    fresh = [compare(asked, threads) for threads in asked.threads]
    place = ("threads", "texts", "parameters")
    measured = [[row[key] for key in place] for row in fresh]
    rows = [row for row in known if [row[key] for key in place] not in measured] + fresh
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    about = {"processor": found.group(1) if found else "unknown", "cores": os.cpu_count(), "torch": torch.__version__}
    about["rows"] = sorted(rows, key=lambda one: [one[key] for key in place])
    file.write_text(json.dumps(about, indent=1) + "\n")
    file.with_suffix(".md").write_text(table(about))
    print(table(about))


if __name__ == "__main__":
    main()
