"""Sweeps and what stands in them in a window of Open3D."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import NoInputError, UsageError
from pentad.core.report import PALETTE
from pentad.point_clouds.frames import Objects, PointConfig, load_points, to_objects
from pentad.point_clouds.labels import box_corners
from pentad.point_clouds.layouts import find_frames
from pentad.point_clouds.outputs import CLOUD, EDGES

_EVERYWHERE = (-1e9, -1e9, -1e9, 1e9, 1e9, 1e9)


def view(path: Path) -> None:
    """Show a sweep, a frame with its boxes, or what predict wrote of one, until the window is closed.

    Raises:
        UsageError: There is no display (PTD-937).
        NoInputError: There is nothing to show (PTD-917).
        CaseError: The points cannot be read.
    """
    shown = geometries(path)
    elsewhere = "run it at a desktop, or open predict's page.html or cloud.ply elsewhere"
    if not _display():
        raise UsageError("PTD-937", "there is no display to show it on", elsewhere, path)
    import open3d

    window = open3d.visualization.Visualizer()
    if not window.create_window(window_name=path.name):
        raise UsageError("PTD-937", "no window could be opened", elsewhere, path)
    for geometry in shown:
        window.add_geometry(geometry)
    window.get_render_option().point_size = 2.0
    window.run()
    window.destroy_window()


def _display() -> bool:
    """Whether windows can be shown; Open3D would else draw for ever where nobody sees it."""
    if sys.platform != "linux" or os.environ.get("WAYLAND_DISPLAY"):
        return True
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    opened = ctypes.c_void_p(x11.XOpenDisplay(None))
    if opened:
        x11.XCloseDisplay(opened)
    return bool(opened)


def geometries(path: Path) -> list[Any]:
    """Return what Open3D shows of a path: coloured points, and a set of lines for the boxes where there are labels.

    Args:
        path: A folder that predict wrote for a case, a point cloud, a frame of our own, or a folder of which the first
            frame is taken.

    Raises:
        NoInputError: It is not there, or holds no sweep (PTD-917).
        CaseError: The points cannot be read.
    """
    if not path.exists():
        raise NoInputError("PTD-917", "no such file or folder", "correct the path", path)
    import open3d

    written = path / CLOUD if path.is_dir() else path
    if written.name == CLOUD and written.is_file():
        return [open3d.io.read_point_cloud(written)]
    frame = find_frames(path, labelled=False)[0].read()
    points, _ = load_points(frame, PointConfig(), _EVERYWHERE)
    grey = 0.3 + 0.6 * np.clip(points[:, 3:4], 0, 1)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points[:, :3].astype(np.float64)))
    cloud.colors = open3d.utility.Vector3dVector(np.repeat(grey, 3, axis=1).astype(np.float64))
    objects = to_objects(frame)
    return [cloud, _lines(objects)] if len(objects) else [cloud]


def _lines(objects: Objects) -> Any:
    """The edges of all boxes, in a colour for each class."""
    import open3d

    kinds = sorted(set(objects.classes))
    corners = np.concatenate([box_corners(box) for box in objects.boxes])
    edges = np.concatenate([np.array(EDGES) + 8 * number for number in range(len(objects))])
    colours = np.concatenate([_colour(kinds, kind) for kind in objects.classes])
    lines = open3d.geometry.LineSet(open3d.utility.Vector3dVector(corners), open3d.utility.Vector2iVector(edges))
    lines.colors = open3d.utility.Vector3dVector(colours)
    return lines


def _colour(kinds: Sequence[str], kind: str) -> NDArray[np.float64]:
    name = PALETTE[1 + kinds.index(kind) % (len(PALETTE) - 1)]
    return np.tile(np.array(mpl.colors.to_rgb(name)), (len(EDGES), 1))
