"""Boxes in other people's formats and frames, to and from the package's own.

KITTI: rectified camera frame (x right, y down, z forward), bottom face's centre, height-width-length, rotation_y
clockwise seen from above; points reach the camera by R0_rect · Tr_velo_to_cam. nuScenes: centre, width-length-height,
quaternion, in the global frame. Argoverse 2: centre, length-width-height, quaternion, in the vehicle's frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import CaseError
from pentad.point_clouds.frames import Objects, make_objects, moved, require_boxes

Array = NDArray[np.float64]

_AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
_KITTI_NUMBERS = 14
NOT_CARED = "DontCare"


@dataclass(frozen=True)
class Calibration:
    """How a LiDAR's frame becomes a camera's.

    Attributes:
        to_camera: (4, 4) into the rectified camera frame.
        projection: (3, 4) from there onto the image; None where there is no camera.
    """

    to_camera: Array
    projection: Array | None = None


NOMINAL = Calibration(_AXES)
"""A camera at the LiDAR's place with its axes turned: for sweeps without a camera."""


@dataclass(frozen=True)
class KittiRow:
    """One line of a KITTI label or result.

    Attributes:
        kind: Car, Pedestrian, Cyclist, Van, … or DontCare.
        truncated: 0 … 1; -1 in results.
        occluded: 0 … 3; -1 in results.
        alpha: Observation angle, rad.
        image: left, top, right, bottom, pixels.
        size: Height, width, length, m.
        bottom: x, y, z of the bottom face's centre in the rectified camera frame, m.
        rotation_y: Clockwise seen from above, 0 along the camera's x.
        score: Of a result.
    """

    kind: str
    truncated: float
    occluded: int
    alpha: float
    image: tuple[float, float, float, float]
    size: tuple[float, float, float]
    bottom: tuple[float, float, float]
    rotation_y: float
    score: float = 1.0


def wrapped(angle: float) -> float:
    """Return the same direction in [-π, π)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def read_calibration(path: Path) -> Calibration:
    """Return the calibration of a KITTI frame.

    Raises:
        CaseError: There is none, or it lacks a matrix (PTD-914).
    """
    if not path.is_file():
        problem = "there are labels but no calibration, so the boxes have no place in the LiDAR's frame"
        raise CaseError("PTD-914", problem, "put the calib file beside them", path.name)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    held = {name.strip(): values.split() for name, colon, values in (line.partition(":") for line in lines) if colon}
    try:
        projection = np.array([float(x) for x in held["P2"]]).reshape(3, 4)
        rectify, place = np.eye(4), np.eye(4)
        rectify[:3, :3] = np.array([float(x) for x in held.get("R0_rect") or held["R_rect"]]).reshape(3, 3)
        place[:3] = np.array([float(x) for x in held.get("Tr_velo_to_cam") or held["Tr_velo_cam"]]).reshape(3, 4)
    except (KeyError, ValueError):
        problem = "no KITTI calibration with P2, R0_rect and Tr_velo_to_cam"
        raise CaseError("PTD-914", problem, "fetch it again", path.name) from None
    to_camera = rectify @ place
    if not (np.isfinite(projection).all() and np.isfinite(to_camera).all() and abs(np.linalg.det(to_camera)) > 1e-6):
        raise CaseError("PTD-914", "its matrices are not finite or lead nowhere", "fetch it again", path.name)
    return Calibration(to_camera, projection)


def read_kitti(path: Path) -> list[KittiRow]:
    """Return the lines of a KITTI label or result.

    Raises:
        CaseError: A line is no KITTI object (PTD-915), or its angles are in degrees (PTD-912).
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = []
        if len(values) not in (_KITTI_NUMBERS, _KITTI_NUMBERS + 1) or not all(map(math.isfinite, values)):
            problem = f"line {number} has {len(words)} words that are no KITTI object"
            raise CaseError("PTD-915", problem, "give type, 14 numbers and, for results, a score", path.name)
        if words[0] != NOT_CARED and abs(values[13]) > 2 * math.pi + 0.01:
            problem = f"a rotation_y of {values[13]:g} is no angle in radians; it looks like degrees"
            raise CaseError("PTD-912", problem, "convert the labels' yaw to radians", f"{path.name}, line {number}")
        rows.append(_row(words[0], values))
    return rows


def _row(kind: str, v: Sequence[float]) -> KittiRow:
    score = v[14] if len(v) > _KITTI_NUMBERS else 1.0
    image, size, bottom = (v[3], v[4], v[5], v[6]), (v[7], v[8], v[9]), (v[10], v[11], v[12])
    return KittiRow(kind, v[0], int(v[1]), v[2], image, size, bottom, v[13], score)


def format_kitti(rows: Sequence[KittiRow], *, scores: bool) -> str:
    """Return rows as text, a line each; results carry their score."""
    lines = []
    for row in rows:
        numbers = [row.alpha, *row.image, *row.size, *row.bottom, row.rotation_y]
        words = [row.kind, f"{row.truncated:.2f}", str(row.occluded), *(f"{number:.4f}" for number in numbers)]
        lines.append(" ".join(words + ([f"{row.score:.4f}"] if scores else [])))
    return "".join(line + "\n" for line in lines)


def kitti_to_objects(rows: Sequence[KittiRow], calibration: Calibration) -> Objects:
    """Return the objects of KITTI rows in the LiDAR's frame, classes in lower case; DontCare has no place and is left.

    The camera is taken as level: the heading turns, and its tilt of a degree or less is left out, as is customary.
    """
    kept = [row for row in rows if row.kind != NOT_CARED]
    bottoms = np.array([row.bottom for row in kept], dtype=np.float64).reshape(-1, 3)
    bottoms = moved(bottoms, np.linalg.inv(calibration.to_camera))
    table = [
        [*bottom[:2], bottom[2] + row.size[0] / 2, row.size[2], row.size[1], row.size[0], _yaw(row.rotation_y)]
        for bottom, row in zip(bottoms, kept, strict=True)
    ]
    return make_objects(
        np.array(table, dtype=np.float64).reshape(-1, 7),
        tuple(row.kind.lower() for row in kept),
        scores=np.array([row.score for row in kept]),
    )


def _yaw(rotation_y: float) -> float:
    return wrapped(-rotation_y - math.pi / 2)


def objects_to_kitti(
    objects: Objects, calibration: Calibration, image: tuple[int, int] | None = None
) -> list[KittiRow]:
    """Return objects as KITTI results; with a camera, those in view with their 2-D boxes, else all with empty ones.

    Args:
        objects: In the LiDAR's frame.
        calibration: `NOMINAL` where there is no camera.
        image: Width and height in pixels; boxes are cut at the edges, and those wholly outside are left out.
    """
    rows = []
    for kind, box, score in zip(objects.classes, objects.boxes, objects.scores, strict=True):
        bottom = moved(np.array([[box[0], box[1], box[2] - box[5] / 2]]), calibration.to_camera)[0]
        rotation = wrapped(-box[6] - math.pi / 2)
        seen = _project(box, calibration, image)
        if seen is not None:
            alpha = wrapped(rotation - math.atan2(bottom[0], bottom[2]))
            size, place = (box[5], box[4], box[3]), (bottom[0], bottom[1], bottom[2])
            rows.append(KittiRow(kind.capitalize(), -1, -1, alpha, seen, size, place, rotation, float(score)))
    return rows


def _project(
    box: Array, calibration: Calibration, image: tuple[int, int] | None
) -> tuple[float, float, float, float] | None:
    """left, top, right, bottom of a box on the image; zeros without a camera, None behind it or outside."""
    if calibration.projection is None:
        return 0.0, 0.0, 0.0, 0.0
    corners = moved(box_corners(box), calibration.to_camera)
    if (corners[:, 2] <= 0.1).any():
        return None
    flat = np.column_stack([corners, np.ones(8)]) @ calibration.projection.T
    pixels = flat[:, :2] / flat[:, 2:]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if image is not None:
        edge = np.array(image, dtype=np.float64) - 1
        low, high = np.clip(low, 0, edge), np.clip(high, 0, edge)
        if (high - low < 1).any():
            return None
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def box_corners(box: Array) -> Array:
    """Return the eight corners (8, 3) of a box x, y, z, dx, dy, dz, yaw."""
    signs = np.array([[a, b, c] for c in (-1, 1) for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))])
    local = signs * box[3:6] / 2
    c, s = math.cos(box[6]), math.sin(box[6])
    return np.asarray(local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + box[:3])


def rotation_of(quaternion: Sequence[float]) -> Array:
    """Return the rotation matrix (3, 3) of a quaternion w, x, y, z, which need not have length 1."""
    w, x, y, z = np.asarray(quaternion, dtype=np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose_of(translation: Sequence[float], quaternion: Sequence[float]) -> Array:
    """Return a pose (4, 4) from a translation and a quaternion w, x, y, z."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_of(quaternion), translation
    return pose


def yaw_of(rotation: Array) -> float:
    """Return the heading of a rotation seen from above, counter-clockwise from +x."""
    return math.atan2(rotation[1, 0], rotation[0, 0])


def yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    """Return the quaternion w, x, y, z of a turn about the vertical."""
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def transformed(objects: Objects, pose: Array) -> Objects:
    """Return objects after a pose, upright as before: their heading turns by that of the pose."""
    table = objects.boxes.copy()
    table[:, :3] = moved(table[:, :3], pose)
    offset = yaw_of(pose[:3, :3])
    table[:, 6] = (table[:, 6] + offset + math.pi) % (2 * math.pi) - math.pi
    # The velocity turns about the vertical alone, so that a tilted sensor changes no speed over the ground.
    c, s = math.cos(offset), math.sin(offset)
    table[:, 7:] = table[:, 7:] @ np.array([[c, s], [-s, c]])
    return Objects(table, objects.classes, objects.scores, objects.points, objects.levels, objects.attributes)


def objects_to_nuscenes(objects: Objects, token: str, pose: Array | None = None) -> list[dict[str, Any]]:
    """Return objects as results of nuScenes: centre, width-length-height, quaternion, in the frame after ``pose``."""
    placed = objects if pose is None else transformed(objects, pose)
    found = []
    for k, (kind, box) in enumerate(zip(placed.classes, placed.boxes, strict=True)):
        velocity = [0.0, 0.0] if np.isnan(box[7:]).any() else [float(x) for x in box[7:]]
        found.append(
            {
                "sample_token": token,
                "translation": [float(x) for x in box[:3]],
                "size": [float(box[4]), float(box[3]), float(box[5])],
                "rotation": list(yaw_quaternion(float(box[6]))),
                "velocity": velocity,
                "detection_name": kind,
                "detection_score": float(placed.scores[k]),
                "attribute_name": placed.attributes[k] if placed.attributes else "",
            }
        )
    return found


def nuscenes_to_objects(results: Sequence[Mapping[str, Any]], pose: Array | None = None) -> Objects:
    """Return results or annotations of nuScenes as objects, brought from the global frame by the inverse of ``pose``.

    Raises:
        CaseError: An entry lacks a key (PTD-916).
    """
    try:
        table = [
            [
                *entry["translation"],
                *(entry["size"][k] for k in (1, 0, 2)),
                yaw_of(rotation_of(entry["rotation"])),
                *(entry.get("velocity") or (np.nan, np.nan))[:2],
            ]
            for entry in results
        ]
        kinds = tuple(str(entry["detection_name"]) for entry in results)
    except (KeyError, IndexError, TypeError) as error:
        problem = f"a box without {error}" if isinstance(error, KeyError) else "a box of another form"
        raise CaseError("PTD-916", problem, "give translation, size, rotation and detection_name") from None
    objects = make_objects(
        np.array(table, dtype=np.float64).reshape(-1, 9),
        kinds,
        scores=np.array([float(entry.get("detection_score", 1.0)) for entry in results]),
        points=np.array([int(entry.get("num_lidar_pts", -1)) for entry in results], dtype=np.int64),
        attributes=tuple(str(entry.get("attribute_name", "")) for entry in results),
    )
    require_boxes(objects, "nuScenes boxes")
    return objects if pose is None else transformed(objects, np.asarray(np.linalg.inv(pose)))


def read_argoverse(path: Path, timestamp: int) -> Objects:
    """Return the objects of one sweep of an Argoverse 2 log in the vehicle's frame, classes in lower case.

    Raises:
        CaseError: The table lacks a column (PTD-916).
    """
    from pyarrow import ArrowException, feather

    try:
        table = feather.read_table(path).to_pydict()
        rows = [k for k, time in enumerate(table["timestamp_ns"]) if time == timestamp]
        boxes = [
            [
                *(table[f"t{axis}_m"][k] for axis in "xyz"),
                *(table[f"{side}_m"][k] for side in ("length", "width", "height")),
                yaw_of(rotation_of([table[f"q{axis}"][k] for axis in "wxyz"])),
            ]
            for k in rows
        ]
        places = np.array(boxes, dtype=np.float64).reshape(-1, 7)
        counts = np.array([table["num_interior_pts"][k] for k in rows], dtype=np.int64)
        kinds = tuple(str(table["category"][k]).lower() for k in rows)
    except (ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        problem = f"no annotations of Argoverse 2 ({type(error).__name__} {error})".replace("\n", " ")
        raise CaseError("PTD-916", problem, "give the log's annotations.feather", path.name) from None
    objects = make_objects(places, kinds, points=counts)
    require_boxes(objects, path.name)
    return objects
