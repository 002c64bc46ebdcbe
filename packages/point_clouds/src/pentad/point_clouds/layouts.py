"""Where the known data sets keep their sweeps, labels, calibrations and poses; each as frames of our own schema.

KITTI object: training/velodyne, label_2, calib, and ImageSets/train.txt, val.txt. nuScenes: v1.0-*/ tables, samples/.
Argoverse 2: a log's sensors/lidar/*.feather, annotations.feather, city_SE3_egovehicle.feather. Our own (the embedded
samples, frames exported from Waymo): frames/*.json. Anything else with a point cloud's suffix is a frame without boxes;
a poses.txt beside such clouds makes them one drive: a line a cloud, in the order of their names, of 12 numbers, the
3 x 4 matrix row by row that brings the cloud into a frame that stays where it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pentad.core.cases import free_id, is_safe_id
from pentad.core.errors import CaseError, NoInputError
from pentad.core.files import outside_results
from pentad.point_clouds.frames import Frame, SweepFile, read_frame, require_boxes, require_pose, to_boxes
from pentad.point_clouds.labels import kitti_to_objects, pose_of, read_argoverse, read_calibration, read_kitti
from pentad.point_clouds.nuscenes_tables import read_tables, sample_frame
from pentad.point_clouds.points import SUFFIXES

POSES = "poses.txt"
_EARLIER = 9  # sweeps before the frame's own that a frame lists


@dataclass(frozen=True)
class FoundFrame:
    """A frame that a layout names, not yet read.

    Attributes:
        id: Its name; from `find_frames`, fit for a folder and given to no other frame.
        where: The file that stands for it, relative to the data set.
        read: Return it with absolute paths; raises `CaseError` where it cannot be.
        files: Further files of it by role: ``label`` and ``calib`` of KITTI.
    """

    id: str
    where: str
    read: Callable[[], Frame]
    files: dict[str, str]


def find_frames(root: Path, *, labelled: bool = True) -> list[FoundFrame]:
    """Return the frames of a folder, or of one point cloud or frame file.

    Args:
        root: Folder of a data set, of sweeps, or one file.
        labelled: Look for labels too; else KITTI's testing frames are taken as well and labels are left alone.

    Raises:
        NoInputError: There is no frame (PTD-917).
    """
    if root.is_file():
        return named_apart([_alone(root.parent, root)])
    finders = (_own, partial(_kitti, labelled=labelled), _nuscenes, _argoverse)
    for finder in finders:
        if found := list(finder(root)):
            return named_apart(found)
    below = outside_results(root.rglob("*"), root)
    # A link to nowhere counts, to be refused by name when it is read.
    inner = (path for path in below if path.is_file() or (path.is_symlink() and not path.exists()))
    plain = sorted(path for path in inner if path.suffix.lower() in SUFFIXES)
    if labelled or not plain:
        remedy = "give frames/*.json, or the layout of KITTI, nuScenes or Argoverse 2; see the README"
        raise NoInputError("PTD-917", "no labelled frames here" if labelled else "no point cloud here", remedy, root)
    return named_apart(frame for folder, paths in _by_folder(plain) for frame in _plain(root, folder, paths))


def named_apart(found: Iterable[FoundFrame]) -> list[FoundFrame]:
    """Return the frames under ids that can name a folder and stand once each; the first of a name keeps it."""
    taken: set[str] = set()
    apart = []
    for entry in found:
        name = free_id(entry.id if is_safe_id(entry.id) else safe_name(Path(entry.id)), taken)
        taken.add(name)
        apart.append(replace(entry, id=name))
    return apart


def safe_name(path: Path) -> str:
    """Return a relative path as an id."""
    text = path.as_posix()
    for suffix in (".pcd.bin", *SUFFIXES, ".json"):
        text = text.removesuffix(suffix)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:110] or "sweep"


def _alone(root: Path, path: Path) -> FoundFrame:
    name = safe_name(path.relative_to(root))
    if path.suffix == ".json":
        return FoundFrame(path.stem, path.name, partial(_read_own, path), {})

    def read() -> Frame:
        return Frame(id=name, sweeps=(SweepFile(file=os.path.realpath(path)),))

    return FoundFrame(name, path.relative_to(root).as_posix(), read, {})


def _by_folder(paths: Sequence[Path]) -> list[tuple[Path, list[Path]]]:
    """Clouds by the folder that holds them, both in the order of their names."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    return list(folders.items())


def _plain(root: Path, folder: Path, paths: Sequence[Path]) -> Iterator[FoundFrame]:
    """Clouds of one folder: each alone, or with the earlier ones where a pose file says how they move."""
    posed = (folder / POSES).is_file()
    for place, path in enumerate(paths):
        found = _alone(root, path)
        earlier = range(place, max(0, place - _EARLIER) - 1, -1)
        yield replace(found, read=partial(_read_posed, found.id, paths, earlier)) if posed else found


def _read_posed(name: str, paths: Sequence[Path], earlier: Sequence[int]) -> Frame:
    folder = paths[0].parent
    poses = _read_poses(folder / POSES, len(paths))
    now = poses[earlier[0]]
    back = np.linalg.inv(now)
    sweeps = tuple(
        SweepFile(file=os.path.realpath(paths[place]), pose=(back @ poses[place]).tolist()) for place in earlier
    )
    return Frame(id=name, group=folder.name, sweeps=sweeps, global_pose=now.tolist())


def _read_poses(path: Path, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The poses of a file, (count, 4, 4)."""
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        rows = []
    if len(rows) != count or {len(row) for row in rows} != {12}:
        problem = f"{len(rows)} readable poses for {count} point clouds"
        raise CaseError("PTD-936", problem, "write 12 numbers a line, a line for each cloud", path.name)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3] = np.array(rows).reshape(count, 3, 4)
    for number, pose in enumerate(poses):
        require_pose(pose, f"{path.name}, line {number + 1}")
    return poses


def _own(root: Path) -> Iterator[FoundFrame]:
    for path in sorted(root.glob("frames/*.json")):
        yield FoundFrame(safe_name(Path(path.name)), path.relative_to(root).as_posix(), partial(_read_own, path), {})


def _read_own(path: Path) -> Frame:
    frame = read_frame(path)
    sweeps = tuple(
        sweep.model_copy(update={"file": os.path.realpath(path.parent / sweep.file)}) for sweep in frame.sweeps
    )
    return frame.model_copy(update={"sweeps": sweeps})


def _kitti(root: Path, *, labelled: bool) -> Iterator[FoundFrame]:
    splits = {
        name: split
        for split in ("train", "val")
        for listed in root.glob(f"ImageSets/{split}.txt")
        for name in listed.read_text(encoding="utf-8", errors="replace").split()
    }
    for part in ("training", "testing", ""):
        folder = root / part
        if (part == "testing" and labelled) or not (folder / "velodyne").is_dir():
            continue
        for points in sorted((folder / "velodyne").glob("*.bin")):
            label, calib = (folder / kind / f"{points.stem}.txt" for kind in ("label_2", "calib"))
            known = {"label": label, "calib": calib} if labelled else {"calib": calib}
            files = {role: str(path.resolve()) for role, path in known.items() if path.is_file()}
            read = partial(_read_kitti, points, label if labelled else None, calib, splits.get(points.stem, ""))
            name = points.stem if part != "testing" else f"testing_{points.stem}"
            yield FoundFrame(name, points.relative_to(root).as_posix(), read, files)


def _read_kitti(points: Path, label: Path | None, calib: Path, split: str) -> Frame:
    frame = Frame(id=points.stem, split=split, intensity_scale=1.0, sweeps=(SweepFile(file=os.path.realpath(points)),))
    if label is None or not label.is_file():
        return frame
    objects = kitti_to_objects(read_kitti(label), read_calibration(calib))
    require_boxes(objects, label.name)
    return frame.model_copy(update={"boxes": to_boxes(objects)})


def _nuscenes(root: Path) -> Iterator[FoundFrame]:
    for folder in sorted(root.glob("v1.0-*")):
        tables = read_tables(folder)
        for token in tables.samples:
            read = partial(sample_frame, tables, root, token, _EARLIER)
            yield FoundFrame(safe_name(Path(token)), f"{folder.name}/{token}", read, {})


def _argoverse(root: Path) -> Iterator[FoundFrame]:
    logs = sorted({path.parents[2] for path in root.glob("**/sensors/lidar/*.feather")})
    for log in logs:
        sweeps = sorted((log / "sensors" / "lidar").glob("*.feather"), key=lambda path: path.stem.zfill(20))
        for place, path in enumerate(sweeps):
            earlier = sweeps[max(0, place - _EARLIER) : place + 1][::-1]
            name = f"{log.name}_{path.stem}" if log != root else path.stem
            yield FoundFrame(name, path.relative_to(root).as_posix(), partial(_read_argoverse, log, earlier), {})


def _read_argoverse(log: Path, files: Sequence[Path]) -> Frame:
    """A frame of Argoverse 2: the sweeps are in the vehicle's frame at their own time."""
    if not files[0].stem.isdecimal():
        problem = "its name is no time in nanoseconds"
        raise CaseError("PTD-918", problem, "leave the log's files as they were unpacked", files[0].name)
    first = int(files[0].stem)
    files = [path for path in files if path.stem.isdecimal()]
    poses = _argoverse_poses(log / "city_SE3_egovehicle.feather")
    if first not in poses:
        problem = f"there is no pose of the time {first}"
        raise CaseError("PTD-918", problem, "give the log's city_SE3_egovehicle.feather", files[0].name)
    for path in files:
        if int(path.stem) in poses:
            require_pose(poses[int(path.stem)], path.name)
    back = np.linalg.inv(poses[first])
    sweeps = tuple(
        SweepFile(
            file=os.path.realpath(path),
            time=(int(path.stem) - first) * 1e-9,
            pose=(back @ poses[int(path.stem)]).tolist(),
        )
        for path in files
        if int(path.stem) in poses
    )
    annotations = log / "annotations.feather"
    boxes = to_boxes(read_argoverse(annotations, first)) if annotations.is_file() else None
    return Frame(
        id=f"{log.name}_{first}",
        group=log.name,
        intensity_scale=255.0,
        sweeps=sweeps,
        boxes=boxes,
        global_pose=poses[first].tolist(),
    )


def _argoverse_poses(path: Path) -> dict[int, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    from pyarrow import ArrowException, feather

    try:
        table = feather.read_table(path).to_pydict()
        translations = zip(*(table[f"t{axis}_m"] for axis in "xyz"), strict=True)
        quaternions = zip(*(table[f"q{axis}"] for axis in "wxyz"), strict=True)
        places = zip(table["timestamp_ns"], translations, quaternions, strict=True)
        return {int(time): pose_of(moved, turned) for time, moved, turned in places}
    except (ArrowException, KeyError, OSError, TypeError, ValueError):
        problem = "there are no readable poses"
        raise CaseError("PTD-918", problem, "give the log's city_SE3_egovehicle.feather", path.name) from None
