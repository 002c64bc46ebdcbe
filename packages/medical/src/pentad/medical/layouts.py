"""Where images and their labels stand in the folders that data sets come in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pentad.core.cases import Rejection, free_id, safe_id
from pentad.core.errors import NoInputError
from pentad.medical.dicom import FileRejection, walk


@dataclass(frozen=True)
class Pair:
    """An image and its label, by the raw folder's own rules; neither has been opened.

    Attributes:
        id: Name of the case.
        name: How errors call it, relative to the raw folder.
        image: NIfTI file, or folder of a DICOM study.
        label: NIfTI file; None where there is none.
        files: Every file that belongs to it.
        names: The same, relative to the raw folder.
        study: Whether ``image`` is a DICOM study.
    """

    id: str
    name: str
    image: Path
    label: Path | None
    files: tuple[Path, ...]
    names: tuple[str, ...]
    study: bool = False


Files = Mapping[str, Path]
_Found = dict[str, tuple[str | None, str | None]]


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def stem(name: str) -> str:
    """Return the name without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)


def find_pairs(raw: Path, layout: str = "auto") -> tuple[list[Pair], list[Rejection]]:
    """Return the pairs below ``raw`` by id, and a rejection for every file that belongs to none.

    Args:
        raw: The folder.
        layout: A name of `LAYOUTS`, or ``auto`` for the first that finds an image with a label.

    Raises:
        NoInputError: The folder is empty (PTD-411).
    """
    found, rejections = walk(raw)
    files = {name: path for path, name in found.items()}
    if not files and not rejections:
        raise NoInputError("PTD-411", "the folder is empty", "name the folder that holds the data", raw)
    # Macs leave ._name beside every file they copy, with the same ending.
    seen = {name: path for name, path in files.items() if not Path(name).name.startswith(".")}
    pairs: list[Pair] = []
    for name in LAYOUTS if layout == "auto" else [layout]:
        pairs = LAYOUTS[name](seen, raw)
        if any(pair.label for pair in pairs):
            break
    else:
        pairs = pairs if layout != "auto" else _unlabelled(seen, raw)
    used = {name for pair in pairs for name in pair.names}
    rest = sorted(set(files) - used)
    return _with_safe_ids(sorted(pairs, key=lambda pair: (pair.id, pair.name))), [*rejections, *_left(rest)]


def _with_safe_ids(pairs: Sequence[Pair]) -> list[Pair]:
    taken: set[str] = set()
    safe = []
    for pair in pairs:
        safe.append(replace(pair, id=free_id(safe_id(pair.id), taken)))
        taken.add(safe[-1].id)
    return safe


def _left(names: Sequence[str]) -> list[Rejection]:
    """What belongs to no pair, one rejection a folder and kind."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        hidden = Path(name).name.startswith(".")
        groups.setdefault((str(Path(name).parent), is_nifti(Path(name)) and not hidden), []).append(name)
    rejections: list[Rejection] = []
    for (_, image), members in groups.items():
        code, reason = (
            ("PTD-362", "no part of an image and label pair") if image else ("PTD-320", "a file of another kind")
        )
        rejections.append(FileRejection.of(members, code, f"{reason}; nothing to do."))
    return rejections


def unique_ids(images: Mapping[Path, str]) -> dict[Path, str]:
    """Return an id for every image: its file's name, or the whole relative path where several share the name."""
    short = Counter(safe_id(stem(path.name)) for path in images)
    ids: dict[Path, str] = {}
    taken: set[str] = set()
    for path, name in images.items():
        wanted = safe_id(stem(path.name))
        if short[wanted] > 1:
            wanted = safe_id(stem(name).replace("/", "-"))
        ids[path] = free_id(wanted, taken)
        taken.add(ids[path])
    return ids


def _pairs(found: _Found, files: Files) -> list[Pair]:
    pairs = []
    for key, (image, label) in found.items():
        names = tuple(name for name in (image, label) if name)
        paths = tuple(files[name] for name in names)
        pairs.append(Pair(key, names[0], paths[0], files[label] if label and image else None, paths, names))
    return pairs


def _samples(files: Files, raw: Path) -> list[Pair]:
    """``studies/<id>/…`` with ``labels/<id>.nii`` or ``.nii.gz``."""
    studies: dict[str, list[str]] = {}
    labels = {
        stem(Path(name).name): name for name in files if Path(name).parent == Path("labels") and is_nifti(files[name])
    }
    for name in files:
        parts = Path(name).parts
        if parts[0] == "studies" and len(parts) > 2:
            studies.setdefault(parts[1], []).append(name)
    pairs = []
    for key, names in studies.items():
        label = labels.get(key)
        everything = tuple([*names, label] if label else names)
        paths = tuple(files[name] for name in everything)
        path = files[label] if label else None
        pairs.append(Pair(key, f"studies/{key}", raw / "studies" / key, path, paths, everything, study=True))
    return pairs


def _msd(files: Files, raw: Path) -> list[Pair]:
    """Medical Segmentation Decathlon: ``dataset.json``, ``imagesTr``, ``labelsTr``; also one folder further down."""
    found: _Found = {}
    for table in (name for name in files if Path(name).name == "dataset.json"):
        folder = Path(table).parent
        for image, label in _listed(files[table]):
            one, other = (folder / image).as_posix(), (folder / label).as_posix()
            # The archive as downloaded lists .nii.gz also where a tool has unpacked them.
            one, other = (
                next((n for n in (name, name.removesuffix(".gz")) if n in files), "") for name in (one, other)
            )
            if one:
                found[stem(Path(one).name)] = (one, other or None)
    return _pairs(found, files)


def _listed(table: Path) -> list[tuple[str, str]]:
    try:
        content: Any = json.loads(table.read_text(encoding="utf-8"))
        return [(str(Path(entry["image"])), str(Path(entry["label"]))) for entry in content["training"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _lits(files: Files, raw: Path) -> list[Pair]:
    """LiTS: ``volume-N.nii`` and ``segmentation-N.nii``, in any folders."""
    return _pairs(_by_pattern(files, r"volume-(\d+)", r"segmentation-(\d+)", "lits-{}"), files)


def _suffixed(files: Files, raw: Path) -> list[Pair]:
    """``<id>_image.nii.gz`` and ``<id>_label.nii.gz`` in one folder or two."""
    return _pairs(_by_pattern(files, r"(.+)_image", r"(.+)_label", "{}"), files)


def _by_pattern(files: Files, image: str, label: str, key: str) -> _Found:
    found: _Found = {}
    for place, pattern in enumerate((image, label)):
        for name in files:
            match = re.fullmatch(pattern, stem(Path(name).name))
            if match and is_nifti(files[name]):
                ordered = found.get(key.format(match[1]), (None, None))
                # Two files of one name in different folders: the first stands, the other is left over and told.
                entry = (ordered[0] or name, ordered[1]) if place == 0 else (ordered[0], ordered[1] or name)
                found[key.format(match[1])] = entry
    return found


def _folders(files: Files, raw: Path) -> list[Pair]:
    """``images/<id>.nii`` and ``labels/<id>.nii``, or MSD's folders without its table."""
    found: _Found = {}
    for images, labels in (("images", "labels"), ("imagesTr", "labelsTr")):
        for name in files:
            path = Path(name)
            if path.parent.name == images and is_nifti(path):
                other = path.parent.with_name(labels)
                same = [f"{stem(path.name)}{end}" for end in (".nii", ".nii.gz")]
                label = next((n for n in ((other / s).as_posix() for s in same) if n in files), None)
                found[stem(path.name)] = (name, label)
    return _pairs(found, files)


def _unlabelled(files: Files, raw: Path) -> list[Pair]:
    """Everything as one study without a label, so that what there is gets looked at and told."""
    names = tuple(name for name in files if not is_nifti(files[name]))
    paths = tuple(files[name] for name in names)
    return [Pair("unlabelled", raw.name, raw, None, paths, names, study=True)]


LAYOUTS: dict[str, Callable[[Files, Path], list[Pair]]] = {
    "samples": _samples,
    "msd": _msd,
    "lits": _lits,
    "pairs": _suffixed,
    "folders": _folders,
}
"""Name of a layout to what finds its pairs."""
