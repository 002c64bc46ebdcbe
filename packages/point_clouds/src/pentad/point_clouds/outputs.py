"""What a prediction leaves of a frame: KITTI text, nuScenes JSON, a coloured cloud, and a page seen from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from pentad.core.files import atomic, write_json, write_text
from pentad.core.report import PALETTE, Block, Cell, Figure, Notice, Table, Text, write_page
from pentad.point_clouds.frames import Frame, Objects
from pentad.point_clouds.labels import (
    NOMINAL,
    box_corners,
    format_kitti,
    objects_to_kitti,
    objects_to_nuscenes,
    read_calibration,
)
from pentad.point_clouds.point_files import write_ply
from pentad.point_clouds.points import Points
from pentad.point_clouds.predict import Found

KITTI, NUSCENES, CLOUD, PAGE = "kitti.txt", "nuscenes.json", "cloud.ply", "page.html"
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
_STEPS = 40  # points drawn along an edge
_PIXELS = 400  # of the longer side of the picture
_LISTED = 100


def write_kitti(folder: Path, objects: Objects, calibration: str) -> None:
    """Write results as KITTI text: in the camera's frame with the frame's calibration, else with a nominal one."""
    known = read_calibration(Path(calibration)) if calibration else NOMINAL
    write_text(folder / KITTI, format_kitti(objects_to_kitti(objects, known), scores=True))


def write_nuscenes(folder: Path, frame: Frame, objects: Objects) -> None:
    """Write results as nuScenes JSON, in the global frame where the frame says its place, else in its own."""
    pose = np.array(frame.global_pose) if frame.global_pose is not None else None
    meta = {
        "use_camera": False,
        "use_lidar": True,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
        "frame_of_reference": "global" if pose is not None else "the sweep's boxes: x forward, y left, z up",
    }
    write_json(folder / NUSCENES, {"meta": meta, "results": {frame.id: objects_to_nuscenes(objects, frame.id, pose)}})


def write_cloud(folder: Path, points: Points, objects: Objects, classes: Sequence[str]) -> None:
    """Write the points as PLY, grey by intensity, with the boxes' edges as coloured points."""
    grey = (70 + 150 * np.clip(points[:, 3], 0, 1)).astype(np.uint8)
    places, colours = [points[:, :3]], [np.repeat(grey[:, None], 3, axis=1)]
    share = np.linspace(0, 1, _STEPS)[:, None]
    for kind, box in zip(objects.classes, objects.boxes, strict=True):
        corners = box_corners(box)
        edges = np.concatenate([corners[a] + share * (corners[b] - corners[a]) for a, b in EDGES])
        places.append(edges.astype(np.float32))
        colours.append(np.tile(_colour(kind, classes), (len(edges), 1)))
    table = np.concatenate(places)
    fields = {axis: table[:, k] for k, axis in enumerate("xyz")}
    with atomic(folder / CLOUD) as temporary:
        write_ply(temporary, fields, np.concatenate(colours))


def _colour(kind: str, classes: Sequence[str]) -> NDArray[np.uint8]:
    name = PALETTE[1 + list(classes).index(kind) % (len(PALETTE) - 1)]
    return np.round(np.array(mpl.colors.to_rgb(name)) * 255).astype(np.uint8)


def write_frame_page(
    folder: Path,
    frame: Frame,
    found: Found,
    classes: Sequence[str],
    span: Sequence[float],
    statement: Mapping[str, Any],
) -> None:
    """Write the page of one frame: the sweep seen from above with its boxes, and a table of them."""
    blocks: list[Block] = []
    if found.notes:
        blocks.append(Notice("Read with care", "; ".join(found.notes) + "."))
    objects = found.objects
    counts = ", ".join(f"{objects.classes.count(kind)} {kind}" for kind in classes)
    caption = f"Seen from above, x upwards and y to the left, metres: {counts}. Lines point along the headings."
    blocks.append(Figure(draw(found.points, objects, classes, span), alt=caption, caption=caption))
    order = np.argsort(-objects.scores, kind="stable")[:_LISTED]
    rows: list[list[Cell]] = [
        [objects.classes[k], float(objects.scores[k]), *(round(float(value), 2) for value in objects.boxes[k, :7])]
        for k in order
    ]
    more = f"The first {_LISTED} of {len(objects)}." if len(objects) > _LISTED else ""
    heads = ["class", "score", "x", "y", "z", "length", "width", "height", "yaw"]
    blocks.append(Table(heads, rows, "Objects; centre and size in metres, yaw in radians", more))
    blocks.append(Text("", ["A model's finding; not checked by a person."]))
    write_page(folder / PAGE, frame.id, blocks, statement)


def draw(points: Points, objects: Objects, classes: Sequence[str], span: Sequence[float]) -> Drawing:
    """Return the sweep seen from above: x upwards, y to the left, boxes in their class's colour."""
    depth, width = span[3] - span[0], span[4] - span[1]
    pixel = max(depth, width) / _PIXELS
    bins = (max(1, round(depth / pixel)), max(1, round(width / pixel)))
    extent = ((span[0], span[3]), (span[1], span[4]))
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=extent)
    shown = np.log1p(counts)[::-1, ::-1]
    tall = 6.5 * depth / width
    drawing = Drawing(figsize=(6.5, min(max(tall, 2.5), 9)), layout="constrained")
    axes = drawing.subplots()
    shade = mpl.colors.LinearSegmentedColormap.from_list("points", [(0.5, 0.5, 0.5, 0.06), (0.45, 0.45, 0.5, 1)])
    axes.imshow(shown, extent=(span[4], span[1], span[0], span[3]), cmap=shade, interpolation="nearest")
    for kind, box in zip(objects.classes, objects.boxes, strict=True):
        ring = box_corners(box)[[0, 1, 2, 3, 0], :2]
        front = ring[[0, 3]].mean(axis=0)
        line = np.concatenate([ring, [front, front + (front - box[:2]) * 0.6]])
        colour = PALETTE[1 + list(classes).index(kind) % (len(PALETTE) - 1)]
        axes.plot(line[:5, 1], line[:5, 0], color=colour, linewidth=1.2)
        axes.plot(line[5:, 1], line[5:, 0], color=colour, linewidth=1.2)
    axes.set_xlabel("y, m")
    axes.set_ylabel("x, m")
    axes.set_xlim(span[4], span[1])
    axes.set_ylim(span[0], span[3])
    return drawing
