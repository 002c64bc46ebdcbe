"""What sweeps and boxes are, before anything is trained on them: axes, range, intensity, ground, points in boxes.

Boxes are also tried under the mistakes that are usual (bottom face taken for the centre, clockwise yaw, length and
width exchanged): if one of them catches clearly more points, it is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pentad.core.errors import CaseError, NoInputError
from pentad.point_clouds.boxes import points_in_boxes
from pentad.point_clouds.frames import Frame, Objects, moved, to_objects
from pentad.point_clouds.layouts import FoundFrame, find_frames
from pentad.point_clouds.points import Sweep, intensity_scale, read

Array = NDArray[np.float64]

_NEAR = 20.0  # metres in which the ground is looked for
_GROUND_SHARE = 0.1
_CLEARLY = 1.25  # times as many points
_MOVING = 1.0  # m/s


def _bottom(boxes: Array) -> Array:
    made = boxes.copy()
    made[:, 2] += made[:, 5] / 2
    return made


def _clockwise(boxes: Array) -> Array:
    made = boxes.copy()
    made[:, 6] *= -1
    return made


def _exchanged(boxes: Array) -> Array:
    made = boxes.copy()
    made[:, [3, 4]] = made[:, [4, 3]]
    return made


MISTAKES: dict[str, Callable[[Array], Array]] = {
    "the boxes' z looks like that of the bottom face, not of the centre": _bottom,
    "the boxes' yaw looks clockwise, not counter-clockwise": _clockwise,
    "the boxes' length and width look exchanged": _exchanged,
}


@dataclass
class Facts:
    """What was found.

    Attributes:
        frames: Looked at.
        points: Of a frame: fewest, median, most.
        columns: Of the first frame.
        low: First percentile of x, y, z, metres.
        high: Last percentile.
        up: Axis along which the points spread least.
        ground: Height of the ground near the sensor, metres.
        intensity: Value that means full, by the data; 0 without intensity.
        boxes: Class to number of boxes, their median of points, and the share without any.
        notes: What readers did to the points, with the number of frames.
        warnings: What looks wrong.
        refused: Frames that cannot be used, with the reason.
    """

    frames: int = 0
    points: tuple[int, int, int] = (0, 0, 0)
    columns: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    up: str = ""
    ground: float = math.nan
    intensity: float = 0.0
    boxes: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def check(raw: Path, most: int, *, as_json: bool = False) -> tuple[str, int]:
    """Return a description of the data and how many things look wrong.

    Args:
        raw: Folder in any known layout, or one file.
        most: At most so many frames, evenly taken.
        as_json: Describe as JSON.

    Raises:
        NoInputError: There is no frame (PTD-917), or none can be read (PTD-932).
    """
    facts = look(raw, most)
    wrong = len(facts.warnings) + len(facts.refused)
    return (json.dumps(asdict(facts), indent=2) if as_json else "\n".join(_lines(facts))), wrong


def look(raw: Path, most: int) -> Facts:
    """Return what was found; see `check`."""
    found = _frames(raw)
    chosen = [found[k * len(found) // min(most, len(found))] for k in range(min(most, len(found)))]
    facts, loaded = Facts(), []
    for entry in chosen:
        try:
            loaded.append(_load(entry))
        except CaseError as error:
            facts.refused.append(f"{entry.where}: {error}")
    if not loaded:
        raise NoInputError("PTD-932", f"none of {len(chosen)} frames can be read: {facts.refused[0]}", "mend them", raw)
    facts.frames, facts.columns = len(loaded), loaded[0][1].columns
    _describe_points(facts, [sweep for _, sweep, _ in loaded], [places for *_, places in loaded])
    labelled = [(to_objects(frame), places) for frame, _, places in loaded if frame.boxes is not None]
    if labelled:
        _describe_boxes(facts, labelled)
    return facts


def _frames(raw: Path) -> list[FoundFrame]:
    try:
        return find_frames(raw)
    except NoInputError:
        return find_frames(raw, labelled=False)


def _load(entry: FoundFrame) -> tuple[Frame, Sweep, Array]:
    frame = entry.read()
    sweep = read(Path(frame.sweeps[0].file), frame.sweeps[0].columns)
    return frame, sweep, moved(sweep.xyz, np.array(frame.sweeps[0].pose))


def _describe_points(facts: Facts, sweeps: Sequence[Sweep], places: Sequence[Array]) -> None:
    counts = sorted(len(sweep.points) for sweep in sweeps)
    facts.points = counts[0], counts[len(counts) // 2], counts[-1]
    merged = np.concatenate(places)
    low, high = np.percentile(merged, (1, 99), axis=0)
    facts.low, facts.high = tuple(low.round(2).tolist()), tuple(high.round(2).tolist())
    facts.up = "xyz"[int(np.argmin(high - low))]
    near = merged[np.hypot(merged[:, 0], merged[:, 1]) < _NEAR]
    if len(near):
        facts.ground = round(float(np.quantile(near[:, 2], _GROUND_SHARE)), 2)
    shining = [sweep.column("intensity") for sweep in sweeps if "intensity" in sweep.columns]
    facts.intensity = intensity_scale(np.concatenate(shining)) if shining else 0.0
    for note in (note for sweep in sweeps for note in sweep.notes):
        words = note.lstrip("0123456789 ")
        facts.notes[words] = facts.notes.get(words, 0) + 1
    facts.warnings += _doubts_of_points(facts)


def _doubts_of_points(facts: Facts) -> Iterator[str]:
    if facts.up != "z":
        yield f"the points spread least along {facts.up}, so z is hardly the vertical"
    if not facts.intensity:
        yield "there is no intensity; a model trained with it will do worse"
    if max(map(abs, (*facts.low, *facts.high))) > 1000:
        yield "coordinates of more than 1000 m; a sensor's frame in metres is expected"


def _describe_boxes(facts: Facts, labelled: Sequence[tuple[Objects, Array]]) -> None:
    stated = _counts(labelled, lambda boxes: boxes)
    kinds = np.array([kind for objects, _ in labelled for kind in objects.classes])
    for kind in sorted(set(kinds.tolist())):
        own = stated[kinds == kind]
        facts.boxes[kind] = len(own), float(np.median(own)), round(float((own == 0).mean()), 3)
    if len(stated) and (stated == 0).mean() > 0.5:
        share = (stated == 0).mean()
        facts.warnings.append(f"{share:.0%} of the boxes hold no point; boxes and points hardly share a frame")
    for words, mistake in MISTAKES.items():
        if len(stated) and _counts(labelled, mistake).sum() > _CLEARLY * max(stated.sum(), 1):
            facts.warnings.append(words)
    turned = _heading_gap(np.concatenate([objects.boxes for objects, _ in labelled]))
    if turned > math.pi / 4:
        facts.warnings.append(f"moving objects drive {math.degrees(turned):.0f}° off their heading; check the yaw")


def _counts(labelled: Sequence[tuple[Objects, Array]], change: Callable[[Array], Array]) -> NDArray[np.int64]:
    """Points in every box after a change of the boxes."""
    counts = []
    for objects, places in labelled:
        boxes = torch.from_numpy(np.ascontiguousarray(change(objects.boxes)[:, :7]))
        counts += [int(points_in_boxes(torch.from_numpy(places), box[None]).sum()) for box in boxes]
    return np.array(counts, dtype=np.int64)


def _heading_gap(boxes: Array) -> float:
    """Median angle between heading and velocity of what moves, radians; 0 where nothing does."""
    speed = np.hypot(boxes[:, 7], boxes[:, 8])
    moving = boxes[np.nan_to_num(speed) > _MOVING]
    if not len(moving):
        return 0.0
    gap = np.arctan2(moving[:, 8], moving[:, 7]) - moving[:, 6]
    return float(np.median(np.abs((gap + math.pi) % (2 * math.pi) - math.pi)))


def _lines(facts: Facts) -> Iterator[str]:
    yield f"frames     {facts.frames}, {len(facts.refused)} refused"
    yield f"points     {facts.points[1]} a frame ({facts.points[0]} to {facts.points[2]}); {', '.join(facts.columns)}"
    for axis, low, high in zip("xyz", facts.low, facts.high, strict=True):
        yield f"{axis}          {low:g} to {high:g} m for 98 of 100 points"
    yield f"vertical   {facts.up}"
    yield f"ground     {facts.ground:g} m, within {_NEAR:g} m of the sensor"
    yield f"intensity  0 to {facts.intensity:g}" if facts.intensity else "intensity  none"
    for kind, (count, median, empty) in facts.boxes.items():
        yield f"boxes      {count} {kind}, {median:g} points in the median, {empty:.0%} without any"
    for words, count in facts.notes.items():
        yield f"note       {words} (in {count} frames)"
    for words in facts.warnings:
        yield f"WARNING    {words}"
    for words in facts.refused:
        yield f"REFUSED    {words}"
