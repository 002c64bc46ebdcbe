"""Frames: one or several sweeps with poses, and what stands in them, as JSON of our own schema.

Schema ``pentad.frame/1``, one file a frame. Frames exported from Waymo, or from anywhere, are given like this:

- ``format``, ``id``; optional ``group`` (frames of one drive), ``split`` (train, val, test);
- ``sweeps``: the frame's own first, then earlier ones: ``file`` (relative to the JSON), ``columns`` (of a .bin),
  ``time`` (s, 0 for the first), ``pose`` (4 x 4, row by row: from the file's frame into the frame of the boxes);
- ``intensity_scale``: the value that means full intensity; 0 or absent: taken from the data;
- ``boxes`` (absent where not labelled): ``class``, ``center`` [x, y, z], ``size`` [length, width, height], ``yaw``;
  optional ``velocity`` [vx, vy] (m/s, null where not known), ``points`` (returns inside, -1 where not counted),
  ``level`` (1 or 2, of difficulty; 0: by the points), ``attribute``, ``track``;
- ``global_pose`` (4 x 4): from the frame of the boxes into a fixed one.

Boxes stand in the package's convention (`pentad.point_clouds.boxes`): metres, x forward, y left, z up, centre of the
box, yaw counter-clockwise from +x in radians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pentad.core.cases import Case
from pentad.core.errors import CaseError
from pentad.core.files import write_json
from pentad.point_clouds.points import Points, Sweep, read, thinned, within

FORMAT = "pentad.frame/1"
Pose = list[list[float]]
_WHOLE_TURN = 2 * math.pi + 0.01


def identity() -> Pose:
    """Return the pose that moves nothing."""
    return [[float(row == column) for column in range(4)] for row in range(4)]


class SweepFile(BaseModel):
    """Where the points of one turn are, when it was, and how it comes into the frame of the boxes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    columns: tuple[str, ...] = ()
    time: float = 0.0
    pose: Pose = Field(default_factory=identity)

    @field_validator("file")
    @classmethod
    def _path_can_be_opened(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("a path holds the character 0, which no file's name can")
        return value


class Box(BaseModel):
    """One labelled object."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: str = Field(alias="class")
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    velocity: tuple[float, float] | None = None
    points: int = -1
    level: int = 0
    attribute: str = ""
    track: str = ""


class Frame(BaseModel):
    """One frame as its file states it; `folder` is where relative paths begin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    id: str
    group: str = ""
    split: str = ""
    intensity_scale: float = 0.0
    sweeps: tuple[SweepFile, ...] = Field(min_length=1)
    boxes: tuple[Box, ...] | None = None
    global_pose: Pose | None = None
    folder: Path = Field(default=Path(), exclude=True)

    def path(self, number: int) -> Path:
        """Return where the points of a sweep are."""
        return self.folder / self.sweeps[number].file


@dataclass(frozen=True)
class Objects:
    """Objects of a frame as arrays.

    Attributes:
        boxes: (n, 9) float64: x, y, z, dx, dy, dz, yaw, vx, vy; velocity NaN where not known.
        classes: Their classes.
        scores: (n) confidence; 1 for truth.
        points: (n) returns inside; -1 where not counted.
        levels: (n) difficulty 1 or 2; 0 where the points decide.
        attributes: Of nuScenes, or empty.
    """

    boxes: NDArray[np.float64]
    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    points: NDArray[np.int64]
    levels: NDArray[np.int64]
    attributes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, kept: NDArray[Any]) -> Objects:
        """Return the objects of a mask or of positions."""
        places = np.flatnonzero(kept) if kept.dtype == np.bool_ else kept
        return Objects(
            self.boxes[places],
            tuple(self.classes[k] for k in places),
            self.scores[places],
            self.points[places],
            self.levels[places],
            tuple(self.attributes[k] for k in places) if self.attributes else (),
        )


def make_objects(
    boxes: NDArray[Any],
    classes: tuple[str, ...],
    *,
    scores: NDArray[Any] | None = None,
    points: NDArray[Any] | None = None,
    levels: NDArray[Any] | None = None,
    attributes: tuple[str, ...] = (),
) -> Objects:
    """Return objects from boxes (n, 7 or 9) and classes, the rest at its default."""
    count = len(classes)
    table = np.full((count, 9), np.nan)
    table[:, : boxes.shape[1] if count else 0] = boxes if count else 0
    return Objects(
        table,
        classes,
        np.ones(count) if scores is None else np.asarray(scores, dtype=np.float64),
        np.full(count, -1, dtype=np.int64) if points is None else np.asarray(points, dtype=np.int64),
        np.zeros(count, dtype=np.int64) if levels is None else np.asarray(levels, dtype=np.int64),
        attributes,
    )


def read_frame(path: Path) -> Frame:
    """Return the frame of a file.

    Raises:
        CaseError: It is no frame of the schema (PTD-910), or its boxes or poses make no sense (PTD-911 to PTD-913).
    """
    try:
        frame = Frame.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CaseError("PTD-910", f"no frame: {where} {first['msg']}", f"write it as {FORMAT}", path.name) from None
    except (OSError, UnicodeDecodeError):
        raise CaseError("PTD-910", "no readable frame", "check the file", path.name) from None
    if frame.format != FORMAT:
        raise CaseError("PTD-910", f"the format '{frame.format}' is not {FORMAT}", "export it again", path.name)
    for number, sweep in enumerate(frame.sweeps):
        require_pose(np.array(sweep.pose), f"{path.name}, sweep {number}")
    if frame.boxes is not None:
        require_boxes(to_objects(frame), path.name)
    return frame.model_copy(update={"folder": path.parent})


def role_of(number: int) -> str:
    """Return the role of a sweep's file in a case: ``points``, ``points_1`` and so on."""
    return f"points_{number}" if number else "points"


def frame_of(case: Case) -> Frame:
    """Return a case's frame: its file, or what its target states with the files of its roles.

    Raises:
        CaseError: It has neither (PTD-910), or the file is no frame.
    """
    if "frame" in case.files:
        frame = read_frame(Path(case.files["frame"]))
        sweeps = tuple(
            sweep.model_copy(update={"file": case.files.get(role_of(number), str(frame.path(number)))})
            for number, sweep in enumerate(frame.sweeps)
        )
        return frame.model_copy(update={"sweeps": sweeps})
    if not isinstance(case.target, dict) or "frame" not in case.target:
        raise CaseError("PTD-910", "the case names no frame", "write the table with the prepare command", case.id)
    frame = Frame.model_validate(case.target["frame"])
    sweeps = tuple(
        sweep.model_copy(update={"file": case.files[role_of(number)]}) for number, sweep in enumerate(frame.sweeps)
    )
    return frame.model_copy(update={"sweeps": sweeps})


def write_frame(path: Path, frame: Frame) -> None:
    """Write a frame, what is at its default left out."""
    content = frame.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    write_json(path, {"format": FORMAT, **content})


def to_objects(frame: Frame) -> Objects:
    """Return a frame's boxes as arrays; none where it is not labelled."""
    boxes = frame.boxes or ()
    table = [[*box.center, *box.size, box.yaw, *(box.velocity or (np.nan, np.nan))] for box in boxes]
    return make_objects(
        np.array(table, dtype=np.float64).reshape(-1, 9),
        tuple(box.kind for box in boxes),
        points=np.array([box.points for box in boxes], dtype=np.int64),
        levels=np.array([box.level for box in boxes], dtype=np.int64),
        attributes=tuple(box.attribute for box in boxes),
    )


def to_boxes(objects: Objects) -> tuple[Box, ...]:
    """Return objects as a frame's boxes."""
    return tuple(
        Box.model_validate(
            {
                "class": kind,
                "center": row[:3].tolist(),
                "size": row[3:6].tolist(),
                "yaw": float(row[6]),
                "velocity": None if np.isnan(row[7:]).any() else row[7:].tolist(),
                "points": int(objects.points[k]),
                "level": int(objects.levels[k]),
                "attribute": objects.attributes[k] if objects.attributes else "",
            }
        )
        for k, (kind, row) in enumerate(zip(objects.classes, objects.boxes, strict=True))
    )


def require_boxes(objects: Objects, where: str) -> None:
    """Refuse boxes that cannot be right.

    Raises:
        CaseError: A number is missing or a side is not positive (PTD-911), or yaw is in degrees (PTD-912).
    """
    table = objects.boxes[:, :7]
    if not np.isfinite(table).all() or (table[:, 3:6] <= 0).any():
        wrong = int(np.flatnonzero(~np.isfinite(table).all(axis=1) | (table[:, 3:6] <= 0).any(axis=1))[0])
        problem = f"box {wrong} ({objects.classes[wrong]}) has no finite place or no positive size"
        raise CaseError("PTD-911", problem, "correct the label", where)
    largest = np.abs(table[:, 6]).max(initial=0)
    if largest > _WHOLE_TURN:
        problem = f"a yaw of {largest:g} is no angle in radians; it looks like degrees"
        raise CaseError("PTD-912", problem, "convert the labels' yaw to radians", where)


def require_pose(pose: NDArray[np.float64], where: str) -> None:
    """Refuse what is no rigid motion.

    Raises:
        CaseError: It is not a rotation and a translation (PTD-913).
    """
    rigid = pose.shape == (4, 4) and np.isfinite(pose).all() and np.allclose(pose[3], (0, 0, 0, 1))
    if not rigid or not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3):
        raise CaseError("PTD-913", "a pose is no rotation and translation of 4 x 4 numbers", "correct it", where)


def moved(places: NDArray[Any], pose: NDArray[Any]) -> NDArray[np.float64]:
    """Return places (n, 3) after a pose (4, 4), in float64."""
    turned = np.asarray(places, dtype=np.float64) @ np.asarray(pose[:3, :3], dtype=np.float64).T
    return np.asarray(turned + pose[:3, 3], dtype=np.float64)


@dataclass(frozen=True)
class PointConfig:
    """Section ``points`` of params.yaml: what of a frame a model sees.

    Attributes:
        sweeps: How many turns are merged; a frame that has fewer gives those it has.
        max_points: At most so many points, evenly taken; 0 for all.
        near: Points of earlier turns closer to their sensor than this are left out, metres.
        tanh: Take the hyperbolic tangent of intensity and elongation in the file's own scale, as the published
            FlatFormer does with Waymo's; else intensity is brought to 0 … 1.
    """

    sweeps: int = 1
    max_points: int = 0
    near: float = 0.0
    tanh: bool = False


def load_points(frame: Frame, config: PointConfig, span: Sequence[float]) -> tuple[Points, tuple[str, ...]]:
    """Return what a model sees of a frame, and what was done to it on the way.

    Args:
        frame: Its first sweeps are read.
        config: How many, and how many points.
        span: Smallest x, y, z, then largest, in the frame of the boxes, metres.

    Returns:
        Points (n, 5) float32 in the frame of the boxes: x, y, z (m), intensity (0 … 1), and elongation, which with
        several turns is replaced by minus the number of turns back. And notes.

    Raises:
        CaseError: As `pentad.point_clouds.points.read` and `within`.
    """
    parts, notes = [], []
    count = min(config.sweeps, len(frame.sweeps))
    for number in range(count):
        reference = frame.sweeps[number]
        sweep = read(frame.path(number), reference.columns)
        notes += list(sweep.notes)
        pose = np.array(reference.pose, dtype=np.float64)
        far = np.linalg.norm(sweep.xyz, axis=1) >= config.near if number else np.ones(len(sweep.points), dtype=bool)
        shine = sweep.scaled_intensity(1.0 if config.tanh else frame.intensity_scale)
        extra = _elongation(sweep)
        if config.tanh:
            shine, extra = np.tanh(shine), np.tanh(extra)
        if config.sweeps > 1:
            extra = np.full(len(sweep.points), -number, dtype=np.float32)
        rows = [*moved(sweep.xyz, pose).T, shine, extra]
        parts.append(np.stack(rows, axis=1).astype(np.float32)[far])
    merged = Sweep(np.concatenate(parts), ("x", "y", "z", "intensity", "elongation"), frame.path(0).name)
    kept = thinned(within(merged, span[:3], span[3:]), config.max_points)
    return kept.points, (*notes, *kept.notes)


def _elongation(sweep: Sweep) -> Points:
    if "elongation" in sweep.columns:
        return sweep.column("elongation")
    return np.zeros(len(sweep.points), dtype=np.float32)
