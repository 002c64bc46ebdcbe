"""Stage prepare: pairs of images in a known layout in; checked pairs, labels of one coding and a case table out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from pentad.core.cases import Case, Rejection, assign_splits, write_cases, write_rejections
from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.core.files import atomic
from pentad.core.statement import Statement, raw_statement
from pentad.remote_sensing.layouts import FoundPair, find_pairs
from pentad.remote_sensing.losses import IGNORED
from pentad.remote_sensing.raster import PairConfig, open_pair, require_valid

Labels = NDArray[np.uint8]

# SECOND's colours: unchanged, water, ground, low vegetation, tree, building, playground.
_SECOND = (
    (255, 255, 255),
    (0, 0, 255),
    (128, 128, 128),
    (0, 128, 0),
    (0, 255, 0),
    (128, 0, 0),
    (255, 0, 0),
)
_XBD_DAMAGED = 2  # minor damage; below: no building, and not damaged


@dataclass(frozen=True)
class PrepareConfig:
    """Section ``prepare`` of params.yaml.

    Attributes:
        split: Shares of pairs that the data set leaves unsplit.
        seed: Seed of the split.
        pair: How two dates are brought together.
    """

    split: dict[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    seed: int = 0
    pair: PairConfig = field(default_factory=PairConfig)


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
            cases.append(_case(pair, out, config.pair, dry_run=dry_run))
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
    raw_statement(raw, Statement).save(out)
    write_cases(table, assign_splits(cases, config.split, config.seed))
    return Prepared(f"{text}; see {table}", len(rejected))


def _case(pair: FoundPair, out: Path, config: PairConfig, *, dry_run: bool) -> Case:
    files = {"before": str(pair.before.resolve()), "after": str(pair.after.resolve())}
    with open_pair(pair.before, pair.after, config) as images:
        count = sum(int(valid.sum()) for _, _, _, valid in images.strips())
        require_valid(count, pair.before.name)
        if pair.label is not None:
            label = read_label(pair.label, pair.coding)
            if label.shape != images.shape:
                problem = f"the label has {label.shape} rows and columns, the images {images.shape}"
                raise CaseError("PTD-860", problem, "export the label on the images' grid", pair.label.name)
            files["label"] = str((out / "labels" / f"{pair.id}.tif").resolve())
            if not dry_run:
                _write_label(Path(files["label"]), label, images.before)
    target = {"dates": list(pair.dates)} if all(pair.dates) else None
    return Case(id=pair.id, files=files, target=target, group=pair.group, split=pair.split)  # type: ignore[arg-type]


def read_label(path: Path, coding: str) -> Labels:
    """Return building change (rows, columns): 0, 1, or 255 where it is not known.

    Args:
        path: The label's file.
        coding: ``binary`` (0 and 1, or 0 and 255; the file's nodata value is not known), ``second`` (colours; what
            is not white changed) or ``xbd`` (0 to 4; minor damage and more is change).

    Raises:
        CaseError: It cannot be read (PTD-861) or holds an unknown class (PTD-862).
    """
    try:
        with rasterio.open(path) as source:
            values, nodata = source.read(), source.nodata
    except RasterioError as error:
        problem = f"the label cannot be read ({type(error).__name__})"
        raise CaseError("PTD-861", problem, "fetch or export it again", path.name) from None
    if coding == "second" and values.shape[0] >= 3:
        return _from_colours(values[:3], path.name)
    first = values[0]
    known = first != nodata if nodata is not None else np.ones(first.shape, dtype=np.bool_)
    found: set[object] = set(np.unique(first[known]).tolist())
    allowed: list[set[object]] = [{0, 1, 2, 3, 4}] if coding == "xbd" else [{0, 1}, {0, 255}]
    if not any(found <= classes for classes in allowed):
        strange = sorted(found - set[object]().union(*allowed) or found, key=str)
        remedy = "give 0 to 4" if coding == "xbd" else "give 0 and 1, or 0 and 255, and say what is nodata"
        problem = f"unknown class {', '.join(map(str, strange[:5]))} in the label"
        raise CaseError("PTD-862", problem, remedy, path.name)
    change = first >= (_XBD_DAMAGED if coding == "xbd" else 1)
    return np.where(known, change, IGNORED).astype(np.uint8)


def _from_colours(values: NDArray[Any], name: str) -> Labels:
    known = np.zeros(values.shape[1:], dtype=np.bool_)
    for colour in _SECOND:
        known |= (values == np.array(colour)[:, None, None]).all(axis=0)
    if not known.all():
        strange = values[:, ~known][:, 0].tolist()
        raise CaseError("PTD-862", f"unknown class of colour {strange} in the label", "give SECOND's colours", name)
    return np.asarray((values != 255).any(axis=0), dtype=np.uint8)


def _write_label(path: Path, label: Labels, like: Any) -> None:
    place = {"crs": like.crs, "transform": like.transform} if like.crs else {}
    shape = {"height": label.shape[0], "width": label.shape[1], "count": 1, "dtype": "uint8", "nodata": IGNORED}
    with (
        atomic(path) as temporary,
        rasterio.open(temporary, "w", driver="GTiff", compress="deflate", **shape, **place) as out,
    ):
        out.write(label, 1)
