"""Cross-validates networks of building change on a few labelled pairs, through the commands a user would type.

    python benchmarks/remote_sensing_folds.py PAIRS --params params.yaml [--folds 3] [--set steps=150] [--models …]

PAIRS is a folder in one of the layouts that prepare reads. Every pair is tested once, by networks that have not seen
it; differencing stands beside them. Prints the mean over pairs that hold change, with a 95 % interval from drawing
pairs anew, and writes it to --out as folds.json and folds.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from pentad.core.evaluation import Row, compare, from_entry, read_rows, summarise
from pentad.core.files import write_json, write_text

SHOWN = ("f1", "iou", "precision", "recall")


def pentad(*words: object) -> None:
    """Run the command, and stop where it fails."""
    subprocess.run([sys.executable, "-m", "pentad.core", *map(str, words)], check=True)


def main() -> None:
    """Prepare, train and score each fold, and join the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="Settings of the section train.")
    parser.add_argument("--models", nargs="+", default=["mamba_bcd", "fc_siam_diff"])
    parser.add_argument("--out", "-o", type=Path, required=True)
    asked = parser.parse_args()
    table, settings = asked.out / "prepared" / "cases.jsonl", ("--params", asked.params)
    pentad("remote-sensing", "prepare", asked.pairs, "-o", table.parent, *settings, "--overwrite")
    pentad("folds", table, "-o", asked.out / "folds", "--count", asked.folds, "--seed", 1)
    changed = [word for setting in asked.set for word in ("--set", setting)]
    rows: dict[str, list[Row]] = {name: [] for name in (*asked.models, "differencing")}
    for fold in range(asked.folds):
        own = asked.out / "folds" / str(fold)
        for name, joined in rows.items():
            model: object = name
            if name != "differencing":
                model, run = own / "bundles" / name, own / "runs" / name
                words = ("--model", name, "-o", model, "--run", run, "--overwrite")
                pentad("remote-sensing", "train", own / "cases.jsonl", *words, *settings, *changed)
            place = own / "evaluations" / name
            pentad("remote-sensing", "evaluate", own / "cases.jsonl", "--model", model, "-o", place, *settings)
            joined += read_rows(place / "per_case.csv")
    summary = {name: summarise(joined, 1, SHOWN) for name, joined in rows.items()}
    first = rows[asked.models[0]]
    paired = {name: compare(first, rows[name], 1) for name in list(rows)[1:]}
    write_json(asked.out / "folds.json", {"pairs": len(first), "models": summary, "paired_difference": paired})
    lines = [f"| model | n | {' | '.join(SHOWN)} |", "|---|---|" + "---|" * len(SHOWN)]
    for name, found in summary.items():
        cells = [from_entry(found[metric]).format() for metric in SHOWN]
        lines.append(f"| {name} | {found['f1']['n']} | {' | '.join(cells)} |")
    for name, found in paired.items():
        lines.append(f"| {asked.models[0]} - {name} | {found['f1']['n']} | {from_entry(found['f1']).format()} | | | |")
    write_text(asked.out / "folds.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
