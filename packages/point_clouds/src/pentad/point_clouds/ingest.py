"""Stage prepare: frames of a known layout in; checked frames of our own schema and a case table out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from pentad.core.cases import Case, Rejection, assign_splits, write_cases, write_rejections
from pentad.core.errors import CaseError, NoInputError, UsageError
from pentad.core.statement import Statement, raw_statement
from pentad.point_clouds.boxes import points_in_boxes
from pentad.point_clouds.frames import Frame, Objects, moved, role_of, to_boxes, to_objects, write_frame
from pentad.point_clouds.layouts import FoundFrame, find_frames
from pentad.point_clouds.points import read

_NAMES = {
    "car": ("car", "van", "vehicle", "regular_vehicle"),
    "pedestrian": ("pedestrian", "person_sitting"),
    "cyclist": ("cyclist", "bicyclist"),
}


@dataclass(frozen=True)
class PrepareConfig:
    """Section ``prepare`` of params.yaml.

    Attributes:
        split: Shares of frames that the data set leaves unsplit.
        seed: Seed of the split.
        classes: Class to be found, to the names that labels give it, in any case; objects of other names are left
            out.
        sweeps: Earlier sweeps listed with a frame, its own counted.
    """

    split: dict[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2})
    seed: int = 0
    classes: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(_NAMES))
    sweeps: int = 3


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation.

    Attributes:
        text: One line for people.
        refused: How many frames were refused.
    """

    text: str
    refused: int


def prepare(raw: Path, out: Path, config: PrepareConfig, *, dry_run: bool = False, overwrite: bool = False) -> Prepared:
    """Write ``cases.jsonl``, ``rejected.jsonl``, ``dataset.json`` and ``frames/`` below ``out``.

    Raises:
        UsageError: There is a table already (PTD-920).
        NoInputError: No frame can be used (PTD-917, PTD-921).
    """
    table = out / "cases.jsonl"
    if table.exists() and not (overwrite or dry_run):
        raise UsageError("PTD-920", "there is a case table already", "choose another folder, or --overwrite", table)
    found = find_frames(raw)
    cases: list[Case] = []
    rejected: list[Rejection] = []
    for entry in found:
        try:
            cases.append(_case(entry, out, config, dry_run=dry_run))
        except CaseError as error:
            reason = str(error).removeprefix(f"{error.code} ")
            rejected.append(Rejection(where=entry.where, code=error.code, reason=reason))
    text = f"{len(cases)} frames, {len(rejected)} refused"
    if dry_run:
        return Prepared(text, len(rejected))
    write_rejections(out / "rejected.jsonl", rejected)
    if not cases:
        raise NoInputError("PTD-921", f"none of {len(found)} frames can be used", "see rejected.jsonl", out)
    raw_statement(raw, Statement).save(out)
    write_cases(table, assign_splits(cases, config.split, config.seed))
    return Prepared(f"{text}; see {table}", len(rejected))


def _case(found: FoundFrame, out: Path, config: PrepareConfig, *, dry_run: bool) -> Case:
    frame = found.read()
    frame = frame.model_copy(update={"sweeps": frame.sweeps[: config.sweeps]})
    objects = to_objects(frame)
    wanted = {name.lower(): kind for kind, names in config.classes.items() for name in (kind, *names)}
    kinds = tuple(wanted.get(kind.lower(), "") for kind in objects.classes)
    kept = np.array([bool(kind) for kind in kinds], dtype=bool)
    objects = Objects(objects.boxes, kinds, *_rest(objects)).take(kept)
    objects = _counted(frame, objects)
    target = out / "frames" / f"{found.id}.json"
    files = {"frame": str(target.resolve()), **found.files}
    files |= {role_of(number): sweep.file for number, sweep in enumerate(frame.sweeps)}
    if not dry_run:
        sweeps = tuple(
            sweep.model_copy(update={"file": os.path.relpath(sweep.file, target.parent.resolve())})
            for sweep in frame.sweeps
        )
        boxes = None if frame.boxes is None else to_boxes(objects)
        write_frame(target, frame.model_copy(update={"sweeps": sweeps, "boxes": boxes}))
    count: dict[str, JsonValue] = {kind: objects.classes.count(kind) for kind in config.classes}
    labelled: JsonValue = {"objects": count} if frame.boxes is not None else None
    return Case(id=found.id, files=files, target=labelled, group=frame.group, split=frame.split)


def _rest(objects: Objects) -> tuple[Any, ...]:
    return objects.scores, objects.points, objects.levels, objects.attributes


def _counted(frame: Frame, objects: Objects) -> Objects:
    """Read every sweep, which checks it, and count the points in boxes that state no number."""
    clouds = [read(Path(sweep.file), sweep.columns) for sweep in frame.sweeps]
    missing = objects.points < 0
    if not missing.any():
        return objects
    places = torch.from_numpy(moved(clouds[0].xyz, np.array(frame.sweeps[0].pose)))
    boxes = torch.from_numpy(np.ascontiguousarray(objects.boxes[missing, :7]))
    points = objects.points.copy()
    points[missing] = [int(points_in_boxes(places, box[None]).sum()) for box in boxes]
    return Objects(objects.boxes, objects.classes, objects.scores, points, objects.levels, objects.attributes)
