"""Reruns every side-by-side measurement, and puts what all of them found into benchmarks/results.json.

    python benchmarks/every.py [NAME…] [--collect] [--peers FOLDER] [--ct SCAN]

Without names all are measured, one after the other, which takes about an hour on two quiet cores; with ``--collect``
nothing is measured and the figures at hand are put together. A measurement that fails is named at the end, keeps its
former figures and makes the exit code 1. The comparison with nnU-Net takes the CT that is named, a NIfTI file or a
folder of DICOM, or else a synthetic one, and the weights of pipelines/liver_seg where it has run. Each script says in
its own words what it compares and how; its .json and .md lie beside it. A row of results.json is one comparison:
``time`` and ``memory`` are the peer's as multiples of ours in the same run, and ``foreign`` says whether the peer is
another project's code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pentad.core.files import write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUNDLE = ROOT / "pipelines/liver_seg/bundles/dynunet"
Row = dict[str, Any]


def row(what: str, peer: str, time: float, memory: float | None, *, foreign: bool = False) -> Row:
    """Return one comparison; what a machine is called is added by `collect`."""
    return {
        "what": what,
        "peer": peer,
        "time": round(time, 2),
        "memory": None if memory is None else round(memory, 2),
        "foreign": foreign,
    }


def of_scan(found: Any) -> Iterator[Row]:
    """Give the selective scan against the plain loop and other projects' scans, one thread, at one length."""
    ours: Row = {}
    for entry in found["rows"]:
        if entry["variant"] == "pentad":
            ours = entry
            continue
        if entry["shape"] in ("L 1024", "L 16384"):  # selective_scan.md has them
            continue
        memory = entry["memory_mb"] / ours["memory_mb"] if ours.get("memory_mb") and "memory_mb" in entry else None
        scan = "selective scan, " if entry["pass"].startswith("forward") else ""
        what = f"{scan}{entry['shape']}, {entry['pass']}"
        peer = "the plain loop" if entry["variant"] == "loop" else entry["variant"]
        yield row(what, peer, entry["ratio"]["1"], memory, foreign=entry["variant"] != "loop")


def of_audio(found: Any) -> Iterator[Row]:
    """Give patchout, fused attention and batch prediction; a front-end's share is no comparison."""
    for entry in found["rows"]:
        if entry["part"] not in ("frontend", "swin_two"):  # audio.md has two threads
            (peer, theirs), (_, ours) = entry["variants"].items()
            foreign = entry["part"] not in ("patchout", "attention")
            yield row(entry["title"], peer, entry["faster"], theirs["mib"] / max(ours["mib"], 1), foreign=foreign)


def of_medical(found: Any) -> Iterator[Row]:
    """Give whole studies and bare windows against nnU-Net."""
    for configuration, parts in found.items():
        for part, memory in (("studies", "peak_mb"), ("windows", "extra_mb")):
            ours, *others = parts.get(part, [{}])
            for entry in others:
                way = "files to files" if part == "studies" else "array to logits"
                what = f"{parts['data']}, {configuration}, {way}"
                peer = entry["variant"].replace("nnunet", "nnU-Net")
                time = entry["cpu_seconds"] / ours["cpu_seconds"]
                yield row(what, peer, time, entry[memory] / ours[memory], foreign=True)


def of_points(found: Any) -> Iterator[Row]:
    """Give FlatFormer's groups of equal size against windows."""
    ours, *others = found["encoder"]["rows"]
    for entry in others:
        memory = entry["memory_mb"] / ours["memory_mb"]
        yield row("FlatFormer's encoder, 20,000 pillars", entry["variant"], entry["cpu_ratio"], memory)


def of_change(found: Any) -> Iterator[Row]:
    """Give ChangeMamba with our scan against the plain loop."""
    for entry in found["rows"]:
        ours, theirs = (float(part) for part in entry["extra MB, pentad / other"].split(" / "))
        yield row(entry["network"], entry["against"], entry["times faster"], theirs / ours)


def of_texts(found: Any) -> Iterator[Row]:
    """Give the way from strings to probabilities against transformers' pipeline."""
    for entry in found["rows"]:
        (peer, theirs), (_, ours) = entry["sides"].items()
        what = f"{entry['texts']} texts, threads: {entry['threads']}"
        yield row(what, peer, entry["faster"], theirs["mib"] / max(ours["mib"], 1), foreign=True)


# name: (file of its figures, call, comparisons in it)
EVERY: dict[str, tuple[str, list[str], Callable[[Any], Iterator[Row]]]] = {
    "medical_predict": (
        "medical_predict",
        ["medical_predict.py", "{ct}", "--peers", "{peers}", "--bundle", "{bundle}", "--repeats", "1"],
        of_medical,
    ),
    "selective_scan": ("selective_scan", ["selective_scan.py", "--peers", "{peers}"], of_scan),
    "audio": ("audio", ["audio.py"], of_audio),
    "nlp_predict": ("nlp_predict", ["nlp_predict.py"], of_texts),
    "remote_sensing": ("remote_sensing_speed", ["remote_sensing.py", "speed"], of_change),
    "point_clouds": ("point_clouds", ["point_clouds.py"], of_points),
}


def machine(found: Any) -> str:
    """Return processor and, where it was noted, cores."""
    if "machine" in found:
        return str(found["machine"])
    about = found if "processor" in found else next(iter(found.values()))
    cores = f", {about['cores']} cores" if "cores" in about else ""
    return f"{about['processor']}{cores}"


def collect() -> list[Row]:
    """Return every comparison for which there are figures."""
    rows = []
    for stem, _, read in EVERY.values():
        file = HERE / f"{stem}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            rows += [{**entry, "machine": machine(found), "source": file.name} for entry in read(found)]
    return rows


def main() -> None:
    """Measure what is asked for, and write what all have found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*EVERY, []], help="all by default")
    parser.add_argument("--collect", action="store_true", help="measure nothing")
    parser.add_argument("--peers", type=Path, default=HERE / "peers", help="folder with the peers of peers.txt")
    parser.add_argument("--ct", default="", help="a real CT")
    given = parser.parse_args()
    failed = []
    places = {"peers": given.peers.absolute(), "ct": given.ct and Path(given.ct).absolute()}
    places["bundle"] = BUNDLE if BUNDLE.is_dir() else ""
    for name in () if given.collect else given.names or EVERY:
        call = [word.format(**places) for word in EVERY[name][1]]
        print(f"measuring {name}", flush=True)
        if subprocess.run([sys.executable, *call], cwd=HERE).returncode:
            failed.append(name)
    rows = collect()
    write_json(HERE / "results.json", rows)
    absent = [name for name, (stem, _, _) in EVERY.items() if not (HERE / f"{stem}.json").is_file()]
    print(f"{len(rows)} comparisons in benchmarks/results.json; no figures of: {', '.join(absent) or 'none'}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
