"""Where the known data sets keep their pairs, their labels and their lists.

SYSU-CD: time1, time2, label. LEVIR-CD, LEVIR-CD+, WHU-CD: A, B, label. SECOND: im1, im2, label1 and label2 in
colours. xBD: images/*_pre_disaster and *_post_disaster, targets or masks. As ChangeMamba's own code wants them: T1, T2
and GT, or GT_CD, GT_T1 and GT_T2. All may stand below train, val and test (xBD's tier3 trains, its hold validates), or
be split by lists. The embedded samples are laid out as LEVIR-CD, with a table of dates beside them and the labels of
the other tasks in cover_before, cover_after and damage.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from pentad.core.cases import Rejection, free_id, is_safe_id, safe_id
from pentad.core.errors import CaseError, NoInputError, UsageError

SPLITS = ("train", "val", "test")
_FOLDERS = {"": "", **{split: split for split in SPLITS}, "tier3": "train", "hold": "val"}
_IMAGES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".vrt")
_SIDES = (
    ("A", "B", "label"),
    ("time1", "time2", "label"),
    ("im1", "im2", "label1"),
    ("before", "after", "label"),
    ("T1", "T2", "GT"),
)
_EARLIER, _LATER = "_pre_disaster", "_post_disaster"
_SECOND_DATES = ("B", "time2", "im2", "after", "T2")


@dataclass(frozen=True)
class FoundPair:
    """Two images that belong together, as a data set's layout tells.

    Attributes:
        id: Name of the pair.
        before: The first date.
        after: The second.
        labels: Labels by role: ``label`` (building change), ``cover_before`` and ``cover_after``, ``damage``.
        coding: How labels say it: ``plain`` (numbers), ``second`` (colours) or ``xbd`` (grades).
        split: As the layout tells, or empty.
        group: Pairs that must not be split.
        dates: ``YYYY-MM-DD`` of both, or empty.
    """

    id: str
    before: Path
    after: Path
    labels: Mapping[str, Path] = field(default_factory=dict)
    coding: str = "plain"
    split: str = ""
    group: str = ""
    dates: tuple[str, str] = ("", "")


def find_pairs(root: Path) -> tuple[list[FoundPair], list[Rejection]]:
    """Return the pairs below ``root`` and what belongs to no pair.

    Raises:
        NoInputError: There is none of the known layouts (PTD-854).
        UsageError: There is a scenes.csv that cannot be read (PTD-879).
    """
    pairs: list[FoundPair] = []
    rejected: list[Rejection] = []
    for place, split in _FOLDERS.items():
        folder = root / place
        for before, after, label in _SIDES:
            if (folder / before).is_dir() and (folder / after).is_dir():
                _from_sides(root, folder, (before, after, label), split, (pairs, rejected))
        if (folder / "images").is_dir():
            pairs += _from_xbd(root, folder, split, rejected)
    if not pairs and not rejected:
        known = ", ".join(f"{before}/ and {after}/" for before, after, _ in _SIDES)
        remedy = f"give a folder with {known}, or images/*_pre_disaster.*"
        raise NoInputError("PTD-854", "no pairs in any known layout", remedy, root)
    return _with_safe_ids(_with_dates(root, pairs, rejected)), rejected


def _with_safe_ids(pairs: list[FoundPair]) -> list[FoundPair]:
    """The pairs under ids that can name a folder; those that can already keep theirs."""
    taken = {pair.id for pair in pairs if is_safe_id(pair.id)}
    kept: set[str] = set()
    safe = []
    for pair in pairs:
        if not is_safe_id(pair.id) or pair.id in kept:  # two splits may hold pairs of one name
            pair = replace(pair, id=free_id(safe_id(pair.id), taken))
            taken.add(pair.id)
        kept.add(pair.id)
        safe.append(pair)
    return safe


def _images(root: Path, folder: Path, rejected: list[Rejection]) -> dict[str, Path]:
    """The images of a folder by name without suffix; of two that differ in their suffix alone the last."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _IMAGES:
            if other := found.get(path.stem):
                reason = f"{path.name} beside it goes by the same name; take one of the two away."
                rejected.append(Rejection(where=other.relative_to(root).as_posix(), code="PTD-878", reason=reason))
            found[path.stem] = path
    return found


def _from_sides(
    root: Path, folder: Path, sides: tuple[str, str, str], split: str, into: tuple[list[FoundPair], list[Rejection]]
) -> None:
    before, after = (_images(root, folder / side, into[1]) for side in sides[:2])
    coding = "second" if sides[2] == "label1" else "plain"
    places = {role: (folder / place) for role, place in _label_folders(folder, sides[2], coding).items()}
    held = {place: _images(root, place, into[1]) for place in dict.fromkeys(places.values()) if place.is_dir()}
    labels = {role: held[place] for role, place in places.items() if place in held}
    listed = {} if split else dict(_listed(root, sides[1], {*before, *after}, into[1]))
    for name in sorted({*before, *after}):
        if name in before and name in after:
            own = split or listed.get(name, "")
            unlisted = bool(listed) and name not in listed
            if not unlisted:
                found = {role: paths[name] for role, paths in labels.items() if name in paths}
                into[0].append(FoundPair(name, before[name], after[name], found, coding, own))
        else:
            into[1].append(_alone(root, before.get(name) or after[name], name))


def _alone(root: Path, path: Path, name: str) -> Rejection:
    reason = f"the other date of {name} is missing; add it, or take this one away."
    return Rejection(where=path.relative_to(root).as_posix(), code="PTD-855", reason=reason)


def _label_folders(folder: Path, label: str, coding: str) -> dict[str, str]:
    if coding == "second":
        return {"label": "label1", "cover_before": "label1", "cover_after": "label2"}
    if label == "GT":
        change = label if (folder / label).is_dir() else "GT_CD"
        return {"label": change, "cover_before": "GT_T1", "cover_after": "GT_T2"}
    return {"label": label, **{role: role for role in ("cover_before", "cover_after", "damage")}}


def _listed(root: Path, later: str, known: set[str], rejected: list[Rejection]) -> Iterator[tuple[str, str]]:
    """Name to split from the lists, list/train.txt … or train.txt …: names, or the paths of both dates in a line."""
    for split in SPLITS:
        for path in (root / "list" / f"{split}.txt", root / f"{split}.txt"):
            if not path.is_file():
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
                where = f"{path.relative_to(root).as_posix()}, line {number}"
                words = line.replace(",", " ").split()
                try:
                    yield from _entry(words, later, split, known)
                except CaseError as error:
                    rejected.append(Rejection(where=where, code=error.code, reason=f"{error.problem}; {error.remedy}."))


def _entry(words: list[str], later: str, split: str, known: set[str]) -> Iterator[tuple[str, str]]:
    if not words:
        return
    if len(words) > 1:
        first, second = (Path(word).parent.name for word in words[:2])
        if (
            (later and first == later)
            or (first in _SECOND_DATES and second not in _SECOND_DATES)
            or "_post_" in words[0]
        ):
            problem = f"the dates are swapped: '{words[0]}' is the second date and stands first"
            raise CaseError("PTD-857", problem, "put the earlier image first")
    name = Path(words[0]).name
    name = name if name in known else Path(words[0]).stem.removesuffix(_EARLIER)
    if name not in known:
        raise CaseError("PTD-856", f"the list names '{words[0]}', which is not there", "correct the list")
    yield name, split


def _from_xbd(root: Path, folder: Path, split: str, rejected: list[Rejection]) -> Iterator[FoundPair]:
    images = _images(root, folder / "images", rejected)
    targets = {
        name: path
        for place in ("targets", "masks")
        if (folder / place).is_dir()
        for name, path in _images(root, folder / place, rejected).items()
    }
    stems = [name.removesuffix(_EARLIER) for name in images if name.endswith(_EARLIER)]
    listed = {} if split else dict(_listed(root, "", set(stems), rejected))
    for name, path in images.items():
        stem = name.removesuffix(_LATER)
        if name.endswith(_LATER) and stem not in stems:
            rejected.append(_alone(root, path, stem))
    for stem in stems:
        after = images.get(f"{stem}{_LATER}")
        if after is None:
            rejected.append(_alone(root, images[f"{stem}{_EARLIER}"], stem))
        elif stem in listed or not listed:
            own = split or listed.get(stem, "")
            label = targets.get(f"{stem}{_LATER}_target") or targets.get(f"{stem}{_LATER}")
            group = stem.rpartition("_")[0]
            labels = {"label": label, "damage": label} if label else {}
            before = images[f"{stem}{_EARLIER}"]
            yield FoundPair(stem, before, after, labels, "xbd", own, group if not own else "")


def _with_dates(root: Path, pairs: list[FoundPair], rejected: list[Rejection]) -> list[FoundPair]:
    """The pairs with dates and groups of scenes.csv, less those whose dates stand the wrong way round."""
    table = root / "scenes.csv"
    if not table.is_file():
        return pairs
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = {row["id"]: row for row in csv.DictReader(stream)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        problem = f"it is no table with a column 'id' ({type(error).__name__})"
        raise UsageError("PTD-879", problem, "save it as CSV in UTF-8", table) from None
    kept = []
    for pair in pairs:
        row = rows.get(pair.id, {})
        dates = str(row.get("before") or ""), str(row.get("after") or "")
        if wrong := next((text for text in dates if text and not _is_date(text)), ""):
            reason = f"'{wrong}' of {pair.id} is no date; write YYYY-MM-DD."
            rejected.append(Rejection(where=table.name, code="PTD-875", reason=reason))
        elif all(dates) and dates[0] > dates[1]:
            reason = f"the dates of {pair.id} are swapped ({dates[0]}, then {dates[1]}); put the earlier image first."
            rejected.append(Rejection(where=table.name, code="PTD-857", reason=reason))
        else:
            kept.append(replace(pair, dates=dates, group=pair.group or str(row.get("group") or "")))
    return kept


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
