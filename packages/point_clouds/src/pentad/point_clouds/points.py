"""Sweeps of points from every common file, in one form in memory, and back.

In memory: float32 columns x, y, z (metres, the file's own frame) and, where the file has them, intensity (the file's
own scale), time (s), elongation and ring. Formats: KITTI .bin (4 columns), nuScenes .pcd.bin (5), plain .bin of stated
columns, .npy, .npz, .pcd, .ply, .las, .laz, and Argoverse 2 .feather.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import CaseError
from pentad.core.files import atomic, most_unpacked
from pentad.point_clouds import point_files

Points = NDArray[np.float32]

KITTI = ("x", "y", "z", "intensity")
NUSCENES = (*KITTI, "ring")
COLUMNS = ("x", "y", "z", "intensity", "time", "elongation", "ring")
SUFFIXES = (".bin", ".npy", ".npz", ".pcd", ".ply", ".las", ".laz", ".feather")
_SYNONYMS = {"reflectance": "intensity", "i": "intensity", "laser_number": "ring", "t": "time", "timestamp": "time"}
_SCALES = (1.0, 255.0, 65535.0)
_MAP = 2e4  # metres: beyond, coordinates are those of a map, and float32 would round them to millimetres and worse
_PLAUSIBLE = (1e-6, 1e7)


@dataclass(frozen=True)
class Sweep:
    """Points of one file.

    Attributes:
        points: (n, columns) float32; x, y, z first.
        columns: Their names, of `COLUMNS`.
        name: The file's name, for messages.
        notes: What was done to the points on the way, each a clause.
        origin: What was subtracted from map coordinates, metres; zero for a sensor's frame.
    """

    points: Points
    columns: tuple[str, ...]
    name: str = ""
    notes: tuple[str, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def xyz(self) -> Points:
        """Return x, y, z (n, 3)."""
        return self.points[:, :3]

    def column(self, name: str) -> Points:
        """Return one column (n).

        Raises:
            CaseError: The file has no such field (PTD-906).
        """
        if name not in self.columns:
            raise missing_field(name, self.columns, self.name)
        return self.points[:, self.columns.index(name)]

    def scaled_intensity(self, scale: float = 0.0) -> Points:
        """Return intensity as 0 … 1 (n); zeros where the file has none.

        Args:
            scale: The value that means 1; 0 takes the smallest of 1, 255 and 65535 that holds the largest value.
        """
        if "intensity" not in self.columns:
            return np.zeros(len(self.points), dtype=np.float32)
        values = self.column("intensity")
        return np.asarray(values / np.float32(scale or intensity_scale(values)), dtype=np.float32)


def intensity_scale(values: NDArray[Any]) -> float:
    """Return the value that means full intensity: the smallest of 1, 255 and 65535 that holds the largest value."""
    largest = float(np.max(values, initial=0.0))
    return next((scale for scale in _SCALES if largest <= scale), largest)


def missing_field(name: str, fields: Sequence[str], where: str) -> CaseError:
    """Return the error of a file that lacks a field."""
    problem = f"there is no field '{name}' among {', '.join(fields) or 'none'}"
    return CaseError("PTD-906", problem, "export the cloud with that field", where)


def read(path: Path, columns: Sequence[str] = ()) -> Sweep:
    """Return the points of a file, those without a finite place dropped and counted in `Sweep.notes`.

    Args:
        path: A file with one of `SUFFIXES`.
        columns: Names of a .bin file's columns; those of KITTI by default, of nuScenes for .pcd.bin.

    Raises:
        CaseError: Unknown suffix (PTD-900), no point (PTD-901), no finite point (PTD-902), unreadable or damaged
            (PTD-903), cut off (PTD-904), other columns than stated (PTD-905), a field is missing (PTD-906), Open3D's
            system library is missing (PTD-907).
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        problem = f"'{path.suffix}' is no suffix of a point cloud"
        raise CaseError("PTD-900", problem, f"give one of {', '.join(SUFFIXES)}", path.name)
    try:
        if suffix == ".bin":
            stated = tuple(columns) or (NUSCENES if path.name.endswith(".pcd.bin") else KITTI)
            return _clean(_read_bin(path, stated), path.name)
        return _clean(_read_format(path, suffix), path.name)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or type(error).__name__})"
        raise CaseError("PTD-903", problem, "check the file and its permissions", path.name) from None


def _read_format(path: Path, suffix: str) -> Mapping[str, NDArray[Any]]:
    reader = {".npy": _read_npy, ".npz": _read_npz, **point_files.READERS}[suffix]
    try:
        return reader(path)
    except (CaseError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged header leads the formats' libraries to whatever they do not check
        raise _damaged(path, f"{suffix.lstrip('.').upper()} ({type(error).__name__})") from None


def _read_bin(path: Path, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    content = path.read_bytes()
    width = 4 * len(columns)
    if len(content) % width:
        fitting = [count for count in range(3, 8) if len(content) % (4 * count) == 0]
        if fitting and len(content) > width:
            problem = f"{len(content)} bytes do not hold rows of {len(columns)} float32 columns, but of {fitting[-1]}"
            raise CaseError("PTD-905", problem, "state the columns", path.name)
        problem = f"{len(content)} bytes end within a row of {len(columns)} float32 columns"
        raise CaseError("PTD-904", problem, "fetch the file again; it was cut off", path.name)
    rows = np.frombuffer(content, dtype="<f4").reshape(-1, len(columns))
    _require_columns(rows, path.name)
    return {name: rows[:, place] for place, name in enumerate(columns)}


def _require_columns(rows: Points, name: str) -> None:
    """Refuse rows of another number of columns: neighbours in a scan are alike, but only in the right columns."""
    flat, count = rows.ravel(), rows.shape[1]
    if len(rows) < 1000 or not np.isfinite(flat).all():
        return
    jumps = {
        other: _jumpiness(flat.reshape(-1, other)) for other in range(3, 8) if other == count or len(flat) % other == 0
    }
    best = min(jumps, key=lambda other: jumps[other])
    if best != count and jumps[best] < 0.5 * jumps[count]:
        problem = f"the rows look like {best} columns, not {count}"
        raise CaseError("PTD-905", problem, "state the columns", name)


def _jumpiness(rows: Points) -> float:
    """Mean step between neighbours as a share of the deviation, of the jumpiest of the first three columns."""
    places = rows[:, :3].astype(np.float64)
    return float((np.abs(np.diff(places, axis=0)).mean(axis=0) / (places.std(axis=0) + 1e-9)).max())


def _read_npy(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Mapped, for a header may promise more than the file holds, and memory would be taken for it.
        return _from_array(np.array(np.load(path, allow_pickle=False, mmap_mode="r")), path.name)
    except (ValueError, EOFError):
        raise _damaged(path, "NumPy array") from None


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as entries:
            size = sum(entry.file_size for entry in entries.infolist())
        if size > most_unpacked(path):
            raise CaseError("PTD-903", f"it unpacks to {size} bytes", "export it again", path.name)
        with np.load(path, allow_pickle=False) as archive:
            held = {name: np.asarray(archive[name]) for name in archive.files}
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile):
        raise _damaged(path, "NumPy archive") from None
    if {"x", "y", "z"} <= held.keys():
        return {name: values for name, values in held.items() if values.ndim == 1 and len(values) == len(held["x"])}
    if len(held) == 1 or "points" in held:
        return _from_array(held.get("points", next(iter(held.values()))), path.name)
    raise missing_field("x", sorted(held), path.name)


def _from_array(array: NDArray[Any], name: str) -> dict[str, NDArray[Any]]:
    if array.dtype.names:
        return {field: array[field].ravel() for field in array.dtype.names}
    if array.ndim != 2 or not 3 <= array.shape[1] <= 7 or array.dtype.kind not in "fiu":
        problem = f"an array {array.shape} of {array.dtype} is no table of 3 to 7 columns"
        raise CaseError("PTD-905", problem, "give rows of x, y, z, intensity …", name)
    order = (NUSCENES if array.shape[1] == 5 else COLUMNS)[: array.shape[1]]
    return {field: array[:, place] for place, field in enumerate(order)}


def _damaged(path: Path, kind: str) -> CaseError:
    return CaseError("PTD-903", f"not a readable {kind}", "fetch or export it again", path.name)


def _clean(fields: Mapping[str, NDArray[Any]], name: str) -> Sweep:
    """Bring fields into the form in memory: known names, float32, finite places, a near origin."""
    known: dict[str, NDArray[Any]] = {}
    for field, values in fields.items():
        lower = field.lower()
        known.setdefault(_SYNONYMS.get(lower, lower), values)
    for axis in ("x", "y", "z"):
        if axis not in known:
            raise missing_field(axis, list(fields), name)
    notes = []
    known = {field: values for field, values in known.items() if field in COLUMNS and values.dtype.kind in "fiub"}
    if not {"x", "y", "z"} <= known.keys() or len({values.shape for values in known.values()}) > 1:
        problem = "not one number a point in each of its fields"
        raise CaseError("PTD-905", problem, "export x, y, z and the other fields as numbers", name)
    if not len(known["x"]):
        raise CaseError("PTD-901", "there is no point in it", "leave it out, or export the sweep again", name)
    if _swapped(known):
        known = {field: values.byteswap() for field, values in known.items()}
        notes.append("read as big-endian")
    places = np.stack([known[axis].astype(np.float64) for axis in ("x", "y", "z")], axis=1)
    finite = (np.abs(places) <= np.finfo(np.float32).max).all(axis=1)
    if not finite.any():
        problem = f"none of {len(places)} points has a finite place"
        raise CaseError("PTD-902", problem, "export the sweep again", name)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} points without a finite place dropped")
    origin = np.zeros(3)
    if np.abs(places[finite]).max() > _MAP:
        origin = np.floor(places[finite].mean(axis=0))
        notes.append("map coordinates moved to their middle")
    columns = tuple(field for field in COLUMNS if field in known)
    table = [*(places - origin).T, *(known[field] for field in columns[3:])]
    points = np.stack([values[finite].astype(np.float32) for values in table], axis=1)
    points[:, 3:][~np.isfinite(points[:, 3:])] = 0
    return Sweep(points, columns, name, tuple(notes), (float(origin[0]), float(origin[1]), float(origin[2])))


def _swapped(known: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the numbers make sense only with their bytes the other way round."""
    axes = [known[axis] for axis in ("x", "y", "z")]
    if any(values.dtype.kind != "f" or values.dtype.itemsize < 4 for values in axes):
        return False
    return _senseless(axes) > 0.5 and _senseless([values.byteswap() for values in axes]) < 0.1


def _senseless(axes: Sequence[NDArray[Any]]) -> float:
    size = np.abs(np.stack([values.astype(np.float64) for values in axes]))
    with np.errstate(invalid="ignore"):
        return float(1 - ((size == 0) | ((size > _PLAUSIBLE[0]) & (size < _PLAUSIBLE[1]))).mean())


def write(path: Path, sweep: Sweep, encoding: str = "binary") -> None:
    """Write a sweep in the format of the suffix, whole or not at all.

    Args:
        path: With one of `SUFFIXES`; .bin holds the sweep's own columns, map coordinates are restored.
        sweep: What to write.
        encoding: Of a PCD: ``binary``, ``ascii`` or ``binary_compressed``.

    Raises:
        CaseError: Unknown suffix (PTD-900).
    """
    suffix = path.suffix.lower()
    writers: dict[str, Callable[[Path], None]] = {
        ".bin": lambda target: _write_bin(target, sweep),
        ".npy": lambda target: np.save(target, sweep.points, allow_pickle=False),
        ".npz": lambda target: _write_npz(target, sweep),
        ".pcd": lambda target: point_files.write_pcd(target, _fields(sweep), encoding),
        ".ply": lambda target: point_files.write_ply(target, _fields(sweep)),
        ".las": lambda target: point_files.write_las(target, _fields(sweep)),
        ".laz": lambda target: point_files.write_las(target, _fields(sweep)),
        ".feather": lambda target: point_files.write_feather(target, _fields(sweep)),
    }
    if suffix not in writers:
        problem = f"'{path.suffix}' is no suffix of a point cloud"
        raise CaseError("PTD-900", problem, f"give one of {', '.join(SUFFIXES)}", path.name)
    with atomic(path) as temporary:
        writers[suffix](temporary)


def _write_bin(target: Path, sweep: Sweep) -> None:
    target.write_bytes(sweep.points.astype("<f4").tobytes())


def _write_npz(target: Path, sweep: Sweep) -> None:
    fields: dict[str, Any] = _fields(sweep)
    np.savez(target, **fields)


def _fields(sweep: Sweep) -> dict[str, NDArray[Any]]:
    fields: dict[str, NDArray[Any]] = {name: sweep.column(name) for name in sweep.columns}
    if any(sweep.origin):
        for axis, offset in zip("xyz", sweep.origin, strict=True):
            fields[axis] = fields[axis].astype(np.float64) + offset
    return fields


def within(sweep: Sweep, low: Sequence[float], high: Sequence[float]) -> Sweep:
    """Return the points from ``low`` (included) to ``high`` (excluded), both x, y, z in metres.

    Raises:
        CaseError: None is left (PTD-908).
    """
    inside = ((sweep.xyz >= np.array(low, np.float32)) & (sweep.xyz < np.array(high, np.float32))).all(axis=1)
    if not inside.any():
        spans = ", ".join(f"{a:g} … {b:g}" for a, b in zip(low, high, strict=True))
        problem = f"all {len(sweep.points)} points lie outside the range x, y, z of {spans} m"
        raise CaseError("PTD-908", problem, "check the sensor's frame and units, or widen the range", sweep.name)
    return replace(sweep, points=sweep.points[inside])


def thinned(sweep: Sweep, most: int) -> Sweep:
    """Return at most so many points, evenly taken in the file's order; all where ``most`` is 0."""
    count = len(sweep.points)
    if not most or count <= most:
        return sweep
    kept = np.arange(most, dtype=np.int64) * count // most
    return replace(sweep, points=sweep.points[kept], notes=(*sweep.notes, f"{count - most} points thinned out"))
