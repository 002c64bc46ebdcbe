"""Stage prepare: pairs of images in a known layout in; checked pairs, labels of one coding and a case table out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from pentad.core.cases import Case, Rejection, assign_splits, write_cases, write_rejections
from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.core.files import atomic
from pentad.core.statement import raw_statement
from pentad.remote_sensing.layouts import FoundPair, find_pairs
from pentad.remote_sensing.losses import IGNORED
from pentad.remote_sensing.raster import PairConfig, open_pair, require_valid
from pentad.remote_sensing.statement import Statement
from pentad.remote_sensing.tasks import COVERS, GRADES, task_named

Labels = NDArray[np.uint8]

SECOND = {
    "low vegetation": (0, 128, 0),
    "bare surface": (128, 128, 128),
    "tree": (0, 255, 0),
    "water": (0, 0, 255),
    "building": (128, 0, 0),
    "playground": (255, 0, 0),
}
"""SECOND's classes 1 to 6 and their colours; unchanged is white in the data and black in the published code's list."""
_UNCHANGED = ((255, 255, 255), (0, 0, 0))
_HIGHEST = {"cover_before": len(COVERS), "cover_after": len(COVERS), "damage": len(GRADES)}
_XBD_DAMAGED = 2  # minor damage; below: no building, and not damaged


@dataclass(frozen=True)
class PrepareConfig:
    """Section ``prepare`` of params.yaml.

    Attributes:
        split: Shares of pairs that the data set leaves unsplit.
        seed: Seed of the split.
        pair: How two dates are brought together.
        task: ``bcd`` (building change), ``scd`` (land cover before and after) or ``bda`` (building damage).
        covers: Names of the land covers 1 to 6; SECOND's are known.
    """

    split: dict[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    seed: int = 0
    pair: PairConfig = field(default_factory=PairConfig)
    task: str = "bcd"
    covers: tuple[str, ...] = COVERS

    def __post_init__(self) -> None:
        task_named(self.task)
        if len(self.covers) != len(COVERS):
            raise UsageError("PTD-876", f"{len(self.covers)} land covers", f"name {len(COVERS)} of them, in order")


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation.

    Attributes:
        text: One line for people.
        refused: How many pairs or entries were refused.
    """

    text: str
    refused: int


def prepare(raw: Path, out: Path, config: PrepareConfig, *, dry_run: bool = False, overwrite: bool = False) -> Prepared:
    """Write ``cases.jsonl``, ``rejected.jsonl``, ``dataset.json`` and ``labels/`` below ``out``.

    Raises:
        UsageError: There is a table already.
        NoInputError: No pair can be used.
    """
    table = out / "cases.jsonl"
    if table.exists() and not (overwrite or dry_run):
        raise UsageError("PTD-858", "there is a case table already", "choose another folder, or --overwrite", table)
    pairs, rejected = find_pairs(raw)
    cases = []
    for pair in pairs:
        try:
            cases.append(_case(pair, out, config, dry_run=dry_run))
        except CaseError as error:
            where = pair.before.relative_to(raw).as_posix()
            reason = str(error).removeprefix(f"{error.code} ")
            rejected.append(Rejection(where=where, code=error.code, reason=reason))
    text = f"{len(cases)} pairs, {len(rejected)} refused"
    if dry_run:
        return Prepared(text, len(rejected))
    write_rejections(out / "rejected.jsonl", rejected)
    if not cases:
        raise NoInputError("PTD-859", f"none of {len(pairs)} pairs can be used", "see rejected.jsonl", out)
    second = any(pair.coding == "second" for pair in pairs)
    names = {"bcd": (), "scd": (tuple(SECOND) if second else config.covers,) * 2, "bda": (GRADES,)}[config.task]
    replace(raw_statement(raw, Statement), task=config.task, classes=names).save(out)
    write_cases(table, assign_splits(cases, config.split, config.seed))
    return Prepared(f"{text}; see {table}", len(rejected))


def _case(pair: FoundPair, out: Path, config: PrepareConfig, *, dry_run: bool) -> Case:
    files = {"before": os.path.realpath(pair.before), "after": os.path.realpath(pair.after)}
    roles = [role for role in task_named(config.task).roles if role in pair.labels]
    with open_pair(pair.before, pair.after, config.pair) as images:
        count = sum(int(valid.sum()) for _, _, _, valid in images.strips())
        require_valid(count, pair.before.name)
        for role in roles:
            path = pair.labels[role]
            label = read_label(path, pair.coding, role, images.shape)
            files[role] = str((out / "labels" / role / f"{pair.id}.tif").resolve())
            if not dry_run:
                _write_label(Path(files[role]), label, images.before)
    target = {"dates": list(pair.dates)} if all(pair.dates) else None
    return Case(id=pair.id, files=files, target=target, group=pair.group, split=pair.split)  # type: ignore[arg-type]


def read_label(path: Path, coding: str, role: str = "label", shape: tuple[int, int] | None = None) -> Labels:
    """Return a label (rows, columns): classes from 0 on, or 255 where it is not known.

    Args:
        path: The label's file.
        coding: ``plain`` (numbers; the file's nodata value is not known), ``second`` (colours) or ``xbd`` (0 to 4).
        role: ``label`` (building change: 0 and 1, or 0 and 255; of SECOND, what is not white; of xBD, minor damage and
            more), ``cover_before``, ``cover_after`` or ``damage``.
        shape: Rows and columns it must have; looked at before it is read.

    Raises:
        CaseError: It cannot be read (PTD-861), has another shape (PTD-860) or holds an unknown class (PTD-862).
    """
    try:
        with rasterio.open(path) as source:
            if shape and source.shape != shape:
                problem = f"the label has {source.shape} rows and columns, the images {shape}"
                raise CaseError("PTD-860", problem, "export the label on the images' grid", path.name)
            values, nodata = source.read(), source.nodata
    except (RasterioError, UnicodeEncodeError) as error:
        problem = f"the label cannot be read ({type(error).__name__})"
        raise CaseError("PTD-861", problem, "fetch or export it again", path.name) from None
    if coding == "second" and values.shape[0] >= 3:
        classes = _from_colours(values[:3], path.name)
        return np.asarray(classes > 0, dtype=np.uint8) if role == "label" else classes
    first = values[0]
    known = first != nodata if nodata is not None else np.ones(first.shape, dtype=np.bool_)
    if role == "label" and coding != "xbd":
        _check_classes(first[known], [{0, 1}, {0, 255}], "give 0 and 1, or 0 and 255, and say what is nodata", path)
        return np.where(known, first >= 1, IGNORED).astype(np.uint8)
    highest = len(GRADES) if coding == "xbd" else _HIGHEST[role]
    _check_classes(first[known], [set(range(highest + 1))], f"give 0 to {highest}, and say what is nodata", path)
    classes = first >= _XBD_DAMAGED if role == "label" else first
    return np.where(known, classes, IGNORED).astype(np.uint8)


def _check_classes(values: NDArray[Any], allowed: list[set[int]], remedy: str, path: Path) -> None:
    found: set[Any] = set(np.unique(values).tolist())
    if not any(found <= classes for classes in allowed):
        strange = sorted(found - set().union(*allowed) or found, key=str)
        problem = f"unknown class {', '.join(map(str, strange[:5]))} in the label"
        raise CaseError("PTD-862", problem, remedy, path.name)


def _from_colours(values: NDArray[Any], name: str) -> Labels:
    classes = np.full(values.shape[1:], IGNORED, dtype=np.uint8)
    for number, colours in enumerate([_UNCHANGED, *((colour,) for colour in SECOND.values())]):
        for colour in colours:
            classes[(values == np.array(colour)[:, None, None]).all(axis=0)] = number
    if (classes == IGNORED).any():
        strange = values[:, classes == IGNORED][:, 0].tolist()
        raise CaseError("PTD-862", f"unknown class of colour {strange} in the label", "give SECOND's colours", name)
    return classes


def _write_label(path: Path, label: Labels, like: Any) -> None:
    place = {"crs": like.crs, "transform": like.transform} if like.crs else {}
    shape = {"height": label.shape[0], "width": label.shape[1], "count": 1, "dtype": "uint8", "nodata": IGNORED}
    with (
        atomic(path) as temporary,
        rasterio.open(temporary, "w", driver="GTiff", compress="deflate", **shape, **place) as out,
    ):
        out.write(label, 1)
