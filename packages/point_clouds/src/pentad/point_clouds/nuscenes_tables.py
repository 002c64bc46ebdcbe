"""The tables of nuScenes: key frames of LIDAR_TOP with earlier sweeps, poses and boxes, as frames of our own schema.

The boxes' frame is the vehicle's at the time of the key sweep: x forward, y left, z up.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import CaseError, UsageError
from pentad.point_clouds.frames import Frame, SweepFile, require_pose, to_boxes
from pentad.point_clouds.labels import nuscenes_to_objects, pose_of
from pentad.point_clouds.points import NUSCENES

Record = Mapping[str, Any]

CATEGORIES = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
_TABLES = ("sample", "sample_data", "calibrated_sensor", "ego_pose", "sample_annotation", "instance", "category")
_MOST_SECONDS = 1.5  # between annotations that give a velocity


@dataclass(frozen=True)
class Tables:
    """The tables by token, and what is looked up in them."""

    samples: dict[str, Record]
    data: dict[str, Record]
    sensors: dict[str, Record]
    poses: dict[str, Record]
    annotations: dict[str, Record]
    kinds: dict[str, str]
    attributes: dict[str, str]
    key_sweeps: dict[str, Record]
    boxes_of: dict[str, list[Record]]


def read_tables(folder: Path) -> Tables:
    """Return the tables of ``v1.0-mini`` and the like.

    Raises:
        UsageError: A table is missing or no JSON of records (PTD-919).
    """
    held = {name: _read(folder / f"{name}.json") for name in _TABLES}
    try:
        return _joined(folder, held)
    except (AttributeError, KeyError, TypeError) as error:
        problem = f"its tables do not belong together ({type(error).__name__}: {error})"
        raise UsageError("PTD-919", problem, "unpack the data set's metadata", folder) from None


def _joined(folder: Path, held: Mapping[str, dict[str, Record]]) -> Tables:
    attributes = _read(folder / "attribute.json") if (folder / "attribute.json").is_file() else {}
    instances = {token: str(entry["category_token"]) for token, entry in held["instance"].items()}
    kinds = {token: str(held["category"][category]["name"]) for token, category in instances.items()}
    boxes: dict[str, list[Record]] = defaultdict(list)
    for entry in held["sample_annotation"].values():
        boxes[entry["sample_token"]].append(entry)
    keys = {
        entry["sample_token"]: entry
        for entry in held["sample_data"].values()
        if entry["is_key_frame"] and "LIDAR_TOP" in entry["filename"]
    }
    return Tables(
        {token: entry for token, entry in held["sample"].items() if token in keys},
        held["sample_data"],
        held["calibrated_sensor"],
        held["ego_pose"],
        held["sample_annotation"],
        kinds,
        {token: str(entry["name"]) for token, entry in attributes.items()},
        keys,
        boxes,
    )


def _read(path: Path) -> dict[str, Record]:
    try:
        return {entry["token"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError("PTD-919", "no readable table of nuScenes", "unpack the data set's metadata", path) from None


def sample_frame(tables: Tables, root: Path, token: str, earlier: int) -> Frame:
    """Return a key frame with at most so many earlier sweeps.

    Raises:
        CaseError: The tables contradict each other (PTD-934).
    """
    try:
        return _sample_frame(tables, root, token, earlier)
    except KeyError as error:
        raise CaseError("PTD-934", f"the tables have no record {error}", "unpack the metadata again", token) from None
    except (TypeError, ValueError) as error:
        problem = f"a record of it is not as nuScenes has it ({type(error).__name__})"
        raise CaseError("PTD-934", problem, "unpack the metadata again", token) from None


def _sample_frame(tables: Tables, root: Path, token: str, earlier: int) -> Frame:
    key = tables.key_sweeps[token]
    vehicle = _pose(tables.poses[key["ego_pose_token"]])
    back = np.linalg.inv(vehicle)
    sweeps: list[SweepFile] = []
    entry: Record | None = key
    while entry is not None and len(sweeps) <= earlier:
        sensor = _pose(tables.sensors[entry["calibrated_sensor_token"]])
        pose = back @ _pose(tables.poses[entry["ego_pose_token"]]) @ sensor
        time = (int(entry["timestamp"]) - int(key["timestamp"])) * 1e-6
        path = str((root / entry["filename"]).resolve())
        sweeps.append(SweepFile(file=path, columns=NUSCENES, time=time, pose=pose.tolist()))
        entry = tables.data.get(entry["prev"]) if entry["prev"] else None
    results = [_result(tables, box) for box in tables.boxes_of.get(token, ())]
    objects = nuscenes_to_objects([result for result in results if result["detection_name"]], vehicle)
    return Frame(
        id=token,
        group=str(tables.samples[token]["scene_token"]),
        intensity_scale=255.0,
        sweeps=tuple(sweeps),
        boxes=to_boxes(objects),
        global_pose=vehicle.tolist(),
    )


def _pose(entry: Record) -> NDArray[np.float64]:
    pose = pose_of(entry["translation"], entry["rotation"])
    require_pose(pose, "nuScenes pose")
    return pose


def _result(tables: Tables, box: Record) -> dict[str, Any]:
    named = box.get("attribute_tokens") or []
    return {
        **box,
        "detection_name": CATEGORIES.get(tables.kinds[box["instance_token"]], ""),
        "velocity": _velocity(tables, box),
        "attribute_name": tables.attributes.get(named[0], "") if named else "",
    }


def _velocity(tables: Tables, box: Record) -> tuple[float, float] | None:
    """From the annotations before and after, where they are near enough in time."""
    first, last = (tables.annotations.get(box[side], box) for side in ("prev", "next"))
    times = [int(tables.samples[entry["sample_token"]]["timestamp"]) * 1e-6 for entry in (first, last)]
    gap = times[1] - times[0]
    if not 0 < gap <= (2 * _MOST_SECONDS if first is not box and last is not box else _MOST_SECONDS):
        return None
    moved = [(b - a) / gap for a, b in zip(first["translation"], last["translation"], strict=True)]
    return moved[0], moved[1]
