"""Memory of `pentad nlp predict` on files of growing size: what is planned, read and answered, in how much memory.

- ``plan``: the command with --dry-run, which reads every byte once and cuts the file into pieces of 1 MiB.
- ``read``: planning, then every document of every piece decoded and checked, as workers do before the model.
- ``shard``: the whole command as one of 100 machines would run it, --shard 1/100: every byte planned, every hundredth
  piece read, answered by a character TF-IDF trained for a moment, written and journalled; one worker, without pages.
- ``resume``: that run again after two of its answers were deleted, with --resume: all is checked, two are done anew.
- ``answer``: the whole command on the whole file.

The files are CSV of posts of about 400 bytes. Memory is that of all processes together at its peak, looked up 20 times
a second. Writes benchmarks/nlp_large_file.json and .md; a row that is not measured again keeps its figures.

    python benchmarks/nlp_large_file.py [--part plan read shard resume answer] [--mib 500 5000]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from process_tree import Measured, run

PARTS = ("plan", "read", "shard", "resume", "answer")
SHARD = ("--shard", "1/100")
PARAMS = """
prepare: {task: classes, split: {train: 0.7, val: 0.2, test: 0.1}}
text: {}
learning: {abstain_below: 0.6}
train: {steps: 1, batch_size: 8, optimizer: adamw, learning_rate: 0.001}
baseline: {strength: 1.0, features: 2000}
"""


def write_posts(path: Path, mib: int) -> None:
    """Write a CSV file of so many MiB."""
    block = "".join(f'{number},"{"a post of many words, " * 17}{number}"\n' for number in range(2500)).encode()
    with path.open("wb") as stream:
        stream.write(b"id,text\n")
        while stream.tell() < mib << 20:
            stream.write(block)


def bundle(folder: Path) -> Path:
    """Train the smallest model there is by the commands a user has."""
    rows = [
        f"{'good' if number % 2 else 'bad'} post {number},{'NOT' if number % 2 else 'HATE'}" for number in range(60)
    ]
    (folder / "posts.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (folder / "params.yaml").write_text(PARAMS)
    settings = ["--params", str(folder / "params.yaml")]
    pentad(["prepare", str(folder / "posts.csv"), "-o", str(folder / "prepared"), *settings])
    out, table = folder / "bundle", str(folder / "prepared" / "cases.jsonl")
    pentad(["train", table, "--model", "char_tfidf", "-o", str(out), "--run", str(folder / "run"), *settings])
    return out


def pentad(arguments: list[str]) -> Measured:
    """Run the command and return what it took.

    Raises:
        RuntimeError: It did not end with 0.
    """
    found = run([sys.executable, "-m", "pentad.core", "nlp", *arguments])
    if found.code:
        raise RuntimeError(found.output[-2000:])
    return found


def read_all(path: Path) -> int:
    """Plan a file and read every document of it, one piece at a time; return how many there are."""
    from pentad.nlp.streams import StreamConfig, find_chunks, read_chunk

    config = StreamConfig()
    return sum(len(read_chunk(case, config)) for case in find_chunks([path], config)[0])


def measure(part: str, mib: int, path: Path, model: Path) -> dict[str, Any]:
    """Return a row of the table; ``resume`` goes on with the run that ``shard`` left."""
    if part == "read":
        found = run([sys.executable, __file__, "--read", str(path)])
        if found.code:
            raise RuntimeError(found.output[-2000:])
    else:
        out = path.parent / f"{'answer' if part == 'answer' else 'shard'}-{mib}"
        more = {
            "plan": ["--dry-run"],
            "shard": [*SHARD, "--run", "r"],
            "resume": [*SHARD, "--resume", "r"],
            "answer": ["--run", "r"],
        }
        if part == "resume":
            for answers in sorted((out / "r").rglob("predictions.jsonl"))[:2]:
                answers.unlink()
        flags = ["-o", str(out), "--model", str(model), "--outputs", "", "--quiet", *more[part]]
        found = pentad(["predict", str(path), *flags])
    return {"part": part, "mib": mib, "peak_mib": round(found.peak_mb), "cpu_seconds": round(found.cpu_seconds, 1)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the rows."""
    lines = ["| | file, MiB | peak of all processes, MiB | processor seconds |", "|---|---|---|---|"]
    lines += [f"| {row['part']} | {row['mib']} | {row['peak_mib']} | {row['cpu_seconds']} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the parts and sizes asked for and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--mib", nargs="*", type=int, default=[500, 5000])
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        print(read_all(asked.read))
        return
    file = Path(__file__).with_suffix(".json")
    rows = json.loads(file.read_text()) if file.is_file() else []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = bundle(folder)
        for mib in asked.mib:
            path = folder / "posts-large.csv"
            write_posts(path, mib)
            for part in sorted(asked.part, key=PARTS.index):
                row = measure(part, mib, path, model)
                rows = [old for old in rows if (old["part"], old["mib"]) != (part, mib)] + [row]
                rows.sort(key=lambda one: (PARTS.index(one["part"]), one["mib"]))
                file.write_text(json.dumps(rows, indent=1) + "\n")
                file.with_suffix(".md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
