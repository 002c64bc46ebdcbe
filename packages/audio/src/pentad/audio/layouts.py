"""How data sets lie on the disk: the entries that each known layout lists, before any sound is read."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pentad.audio.waveform import SUFFIXES
from pentad.core.errors import UsageError, nearest
from pentad.core.files import outside_results

Span = tuple[float, float, str]


@dataclass(frozen=True)
class Entry:
    """A recording that a data set lists."""

    file: Path
    """Where it should be."""
    labels: tuple[str, ...] = ()
    """What is heard somewhere in it."""
    events: tuple[Span, ...] | None = None
    """Onset and offset in seconds and label; None where nobody marked them."""
    fold: int = 0
    """Official fold, from 1; 0 where there is none."""
    split: str = ""
    """Official split, where there is one."""
    group: str = ""
    """Recordings of one source, which no split may part."""


@dataclass(frozen=True)
class Problem:
    """A line of a list that names no recording as it should."""

    where: str
    sentence: str


@dataclass
class Listing:
    """What a layout found."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def _rows(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def _is_sound(path: Path) -> bool:
    # A link to nowhere counts, to be refused by name when it is read.
    return path.suffix.lower() in SUFFIXES and (path.is_file() or (path.is_symlink() and not path.exists()))


def _listed(raw: Path) -> dict[str, Path]:
    """Every sound file below a folder by its name; the first of a name counts."""
    found: dict[str, Path] = {}
    for path in sorted(raw.rglob("*")):
        if _is_sound(path):
            found.setdefault(path.name, path)
    return found


def _split_labels(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in re.split(r"[;,]", text) if part.strip()))


def _strong(raw: Path) -> Listing:
    """``strong.tsv`` (filename, onset, offset, event_label) beside ``audio/``; folds, if any, from ``meta.csv``."""
    listing, events = Listing(), dict[str, list[Span]]()
    for number, row in enumerate(_rows(raw / "strong.tsv", "\t"), 2):
        try:
            onset, offset = float(row["onset"]), float(row["offset"])
            label = (row.get("event_label") or "").strip()
            if not (0 <= onset < offset and label):
                raise ValueError
            events.setdefault(row["filename"], []).append((onset, offset, label))
        except (ValueError, TypeError, KeyError):
            listing.problems.append(
                Problem(f"strong.tsv, line {number}", "no event with 0 <= onset < offset and a label")
            )
    meta = {row["filename"]: row for row in _rows(raw / "meta.csv")} if (raw / "meta.csv").is_file() else {}
    for name in sorted({*meta, *events}):
        spans = tuple(sorted(events.get(name, [])))
        labels = {label for _, _, label in spans} | set(_split_labels(meta.get(name, {}).get("labels", "")))
        fold = int(meta.get(name, {}).get("fold") or 0)
        listing.entries.append(Entry(raw / "audio" / name, tuple(sorted(labels)), spans, fold))
    return listing


def _esc(raw: Path) -> Listing:
    """ESC-50 and ESC-10: ``meta/esc50.csv`` or ``meta.csv`` with filename, fold and category, and ``audio/``."""
    table = next(path for path in (raw / "meta" / "esc50.csv", raw / "meta.csv") if path.is_file())
    return Listing(
        [
            Entry(
                raw / "audio" / row["filename"],
                (row["category"],),
                fold=int(row["fold"]),
                # Clips cut from one source recording share the number in the middle of their names.
                group=row.get("src_file") or row.get("source") or row["filename"].split("-")[1],
            )
            for row in _rows(table)
        ]
    )


def _speech_commands(raw: Path) -> Listing:
    """Speech Commands: a folder a word, ``validation_list.txt`` and ``testing_list.txt``; one speaker, one split."""
    splits = {}
    for split, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        for line in (raw / name).read_text(encoding="utf-8").split():
            splits[line] = split
    entries = []
    for path in sorted(raw.glob("*/*.wav")):
        if path.parent.name.startswith("_"):
            continue  # background noise: no word
        split = splits.get(f"{path.parent.name}/{path.name}", "train")
        entries.append(Entry(path, (path.parent.name,), split=split, group=path.name.split("_nohash_")[0]))
    return Listing(entries)


def _fsd50k(raw: Path) -> Listing:
    """FSD50K: ``dev.csv`` (fname, labels, mids, split) and ``eval.csv``, in ``FSD50K.ground_truth`` or beside it."""
    files, entries = _listed(raw), []
    for table in (path for name in ("dev.csv", "eval.csv") for path in sorted(raw.rglob(name))):
        for row in _rows(table):
            name = f"{row['fname']}.wav"
            split = "test" if table.name == "eval.csv" else row.get("split", "train")
            entries.append(Entry(files.get(name, raw / name), _split_labels(row["labels"]), split=split))
    return Listing(entries)


def _audioset(raw: Path) -> Listing:
    """AudioSet: ``*_segments.csv`` (YTID, start, end, labels), ``class_labels_indices.csv``, files by id and start."""
    names: dict[str, str] = {}
    if (raw / "class_labels_indices.csv").is_file():
        names = {row["mid"]: row["display_name"] for row in _rows(raw / "class_labels_indices.csv")}
    files, listing = _listed(raw), Listing()
    by_stem = {Path(name).stem: path for name, path in files.items()}
    for table in sorted(raw.glob("*_segments.csv")):
        lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        for row in csv.reader(lines, skipinitialspace=True):
            if len(row) != 4:
                listing.problems.append(Problem(f"{table.name}, {','.join(row)[:40]}", "not four columns"))
                continue
            identity, start = row[0], float(row[1])
            stems = (identity, f"{identity}_{start:g}", f"Y{identity}", f"{identity}_{int(start * 1000)}")
            path = next((by_stem[stem] for stem in stems if stem in by_stem), raw / f"{identity}.wav")
            labels = tuple(names.get(mid, mid) for mid in _split_labels(row[3]))
            split = "test" if table.name.startswith("eval") else "train"
            listing.entries.append(Entry(path, labels, split=split, group=identity))
    return listing


def _tags(raw: Path) -> Listing:
    """``tags.csv``: filename, labels separated by ; or , and, if there are any, fold, split and group."""
    entries = []
    for row in _rows(raw / "tags.csv"):
        name = row["filename"]
        path = raw / name if (raw / name).exists() else raw / "audio" / name
        fold, split, group = int(row.get("fold") or 0), row.get("split") or "", row.get("group") or ""
        entries.append(Entry(path, _split_labels(row["labels"]), None, fold, split, group))
    return Listing(entries)


def _folders(raw: Path) -> Listing:
    """A folder a class; the file's name up to the last ``_`` or ``-`` and a number is its group."""
    return Listing([Entry(path, (path.parent.name,)) for path in sorted(raw.glob("*/*")) if _is_sound(path)])


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda raw: all((raw / name).is_file() for name in names)


def _is_esc(raw: Path) -> bool:
    table = raw / "meta.csv"
    return (raw / "meta" / "esc50.csv").is_file() or (
        table.is_file() and "category" in table.open(encoding="utf-8", errors="replace").readline()
    )


LAYOUTS: Mapping[str, tuple[Callable[[Path], bool], Callable[[Path], Listing]]] = {
    "strong": (_has("strong.tsv"), _strong),
    "esc": (_is_esc, _esc),
    "speech_commands": (_has("validation_list.txt", "testing_list.txt"), _speech_commands),
    "fsd50k": (lambda raw: any(raw.rglob("dev.csv")), _fsd50k),
    "audioset": (lambda raw: any(raw.glob("*_segments.csv")), _audioset),
    "tags": (_has("tags.csv"), _tags),
    "folders": (lambda raw: True, _folders),
}
"""Name to a test whether a folder has this layout, and what lists its entries; the first that fits is taken."""


def list_entries(raw: Path, layout: str = "auto") -> Listing:
    """Return the entries that a data set's folder lists.

    Raises:
        UsageError: There is no such folder or layout, or its lists cannot be read.
    """
    if not raw.is_dir():
        raise UsageError("PTD-721", "no such folder", "correct the path", raw)
    if layout != "auto" and layout not in LAYOUTS:
        known = ", ".join(("auto", *LAYOUTS))
        raise UsageError("PTD-722", f"'{layout}' is no layout{nearest(layout, LAYOUTS)}", f"choose one of {known}")
    chosen = layout if layout != "auto" else next(name for name, (fits, _) in LAYOUTS.items() if fits(raw))
    try:
        return LAYOUTS[chosen][1](raw)
    except (OSError, AttributeError, LookupError, TypeError, ValueError, StopIteration, csv.Error) as error:
        problem = f"its lists are not those of the layout '{chosen}' ({type(error).__name__}: {error})"
        raise UsageError("PTD-723", problem, "correct the lists, or name another prepare.layout", raw) from None


def sound_files(inputs: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield every sound file of files and folders with the input it stands in, in the order of their names."""
    for given in inputs:
        if given.is_file():
            yield given, given.parent
        else:
            for path in sorted(outside_results(given.rglob("*"), given)):
                if _is_sound(path):
                    yield path, given
