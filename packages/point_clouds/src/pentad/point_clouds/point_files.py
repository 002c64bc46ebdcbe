"""Point clouds as PCD, PLY, LAS, LAZ and Feather: from and to named fields."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pentad.core.errors import CaseError

Fields = Mapping[str, NDArray[Any]]

_HEADER_BYTES = 4096
_PLY = {"f4": "float", "f8": "double", "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int"}
_PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}
_PLY_BYTES |= {"int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8}
_MILLIMETRE = 0.001
_LAS_HEADER = 375  # bytes of LAS 1.4's; older ones are shorter
_LAS_LEAST = {"point": 20, "record": 54, "extended": 60}  # bytes
_LAZ_DENSEST = 1000  # points a byte: more than any real cloud is packed to


def read_pcd(path: Path) -> dict[str, NDArray[Any]]:
    """Return the fields of a PCD: binary and compressed by pypcd4, text by NumPy."""
    content = path.read_bytes()
    header, length = _pcd_header(content, path.name)
    names, encoding = header["FIELDS"], header["DATA"][0]
    if encoding == "ascii":
        return _pcd_text(content[length:], header, path.name)
    if encoding == "binary":
        row = sum(int(size) * int(count) for size, count in zip(header["SIZE"], header["COUNT"], strict=True))
        if len(content) - length < row * int(header["POINTS"][0]):
            raise _cut(path.name)
    from pypcd4.pypcd4 import PointCloud

    try:
        cloud = PointCloud.from_path(path)
        return {name: np.asarray(cloud.pc_data[name]) for name in names if name in (cloud.pc_data.dtype.names or ())}
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, AssertionError):
        raise _damaged(path.name, "PCD") from None


def _pcd_header(content: bytes, name: str) -> tuple[dict[str, list[str]], int]:
    """The words of each header line by its first, and the header's length in bytes."""
    header: dict[str, list[str]] = {}
    start = 0
    while start < min(len(content), _HEADER_BYTES):
        end = content.find(b"\n", start)
        if end < 0:
            break
        words = content[start:end].decode("ascii", "replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                break
    header.setdefault("COUNT", ["1"] * len(header.get("FIELDS", [])))
    sizes = {len(header.get(key, [])) for key in ("FIELDS", "SIZE", "TYPE", "COUNT")}
    if not header.get("DATA") or not header.get("POINTS") or len(sizes) != 1 or sizes == {0}:
        raise _damaged(name, "PCD")
    return header, start


def _pcd_text(text: bytes, header: Mapping[str, list[str]], name: str) -> dict[str, NDArray[Any]]:
    columns, place = {}, 0
    for field, count in zip(header["FIELDS"], header["COUNT"], strict=True):
        if int(count) == 1:
            columns[field] = place
        place += int(count)
    try:
        rows = np.loadtxt(text.decode("ascii").splitlines(), dtype=np.float64, ndmin=2) if text.strip() else None
    except ValueError:
        raise _damaged(name, "PCD") from None
    if rows is None:
        rows = np.zeros((0, place))
    if rows.shape[1] != place:
        problem = f"rows of {rows.shape[1]} numbers, the header names {place}"
        raise CaseError("PTD-905", problem, "export it again", name)
    if len(rows) < int(header["POINTS"][0]):
        raise _cut(name)
    return {field: rows[:, column] for field, column in columns.items()}


def read_ply(path: Path) -> dict[str, NDArray[Any]]:
    """Return the vertices' fields of a PLY, read by Open3D."""
    expected, kinds = _ply_vertices(path)
    if expected == 0:
        return {axis: np.zeros(0, dtype=np.float32) for axis in "xyz"}
    if missing := {"x", "y", "z"} - kinds.keys():
        return {name: np.zeros(0) for name in kinds if name not in missing}
    if not {kinds[axis] for axis in "xyz"} <= {"float", "float32", "double", "float64"}:
        # Open3D reads other types as if they were these.
        raise CaseError("PTD-905", "x, y, z are no floating-point numbers", "export them as float", path.name)
    try:
        import open3d
    except (ImportError, OSError) as error:
        problem = f"Open3D, which reads PLY, cannot be loaded ({str(error).split(':')[0]})"
        remedy = "install the system's package libusb-1.0-0, or give the cloud as .pcd or .npy"
        raise CaseError("PTD-907", problem, remedy, path.name) from None
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.t.io.read_point_cloud(path, format="ply")
    held = {name: cloud.point[name].numpy() for name in cloud.point}
    if "positions" not in held or len(held["positions"]) < expected:
        raise _cut(path.name)
    places = held.pop("positions")
    fields = {axis: places[:, k] for k, axis in enumerate("xyz")}
    return fields | {name: values[:, 0] for name, values in held.items() if values.shape[1:] == (1,)}


def _ply_vertices(path: Path) -> tuple[int, dict[str, str]]:
    """The number of vertices that the header states, and the types of their properties by name.

    Open3D takes memory for all of them and hands it out as it is where the file ends early, so that is looked at here.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if not head.startswith(b"ply") or b"end_header" not in head:
        raise _damaged(path.name, "PLY")
    end = head.index(b"end_header")
    encoding, counts, properties = "", dict[str, int](), dict[str, list[list[str]]]()
    for words in (line.split() for line in head[:end].decode("ascii", "replace").splitlines()):
        if words[:1] == ["format"] and len(words) > 1:
            encoding = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            counts[words[1]] = int(words[2]) if words[2].isdecimal() else 0
            properties[words[1]] = []
        elif words[:1] == ["property"] and len(words) > 2 and properties:
            properties[next(reversed(properties))].append(words[1:])
    if "vertex" not in counts:
        return 0, {}
    _require_ply(path, head.find(b"\n", end) + 1, encoding, counts, properties)
    return counts["vertex"], {words[1]: words[0] for words in properties["vertex"] if len(words) == 2}


def _require_ply(
    path: Path, begin: int, encoding: str, counts: Mapping[str, int], properties: Mapping[str, list[list[str]]]
) -> None:
    """See that a PLY goes on to its last vertex; a list is taken for one byte in binary, for one word in text."""
    upto = list(counts)[: list(counts).index("vertex") + 1]
    if encoding == "ascii":
        lines = path.read_bytes()[begin:].rstrip().split(b"\n")
        rows = sum(counts[name] for name in upto)
        whole = len(lines) > rows or len(lines[-1].split()) >= len(properties["vertex"])
        if len(lines) < rows or not whole:
            raise _cut(path.name)
        return
    widths = {name: sum(_PLY_BYTES.get(words[0], 1) for words in properties[name]) for name in upto}
    if path.stat().st_size - begin < sum(counts[name] * widths[name] for name in upto):
        raise _cut(path.name)


def read_las(path: Path) -> dict[str, NDArray[Any]]:
    """Return coordinates in metres or the file's own units, intensity, time and ring of a LAS or LAZ."""
    import laspy

    if path.stat().st_size == 0:
        raise _cut(path.name)
    _require_las(path)
    try:
        cloud = laspy.read(path)
        expected = cloud.header.point_count
        names = set(cloud.point_format.dimension_names)
        fields = {axis: np.asarray(getattr(cloud, axis), dtype=np.float64) for axis in "xyz"}
        extra = {"intensity": "intensity", "gps_time": "time", "ring": "ring", "elongation": "elongation"}
        fields |= {ours: np.asarray(cloud[theirs]) for theirs, ours in extra.items() if theirs in names}
    except (laspy.errors.LaspyException, ValueError, RuntimeError, KeyError, TypeError, IndexError):
        raise _damaged(path.name, "LAS or LAZ") from None
    if len(fields["x"]) < expected:
        raise _cut(path.name)
    return fields


def _require_las(path: Path) -> None:
    """See that a LAS or LAZ can hold what its header promises, before memory is taken or records are looked for."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_LAS_HEADER)
    if not head.startswith(b"LASF") or len(head) < 227:
        raise _damaged(path.name, "LAS or LAZ")
    begin, records, kind, row, count = struct.unpack_from("<IIBHI", head, 96)
    extended = 0
    if head[25] >= 4 and len(head) == _LAS_HEADER:
        extended, count = struct.unpack_from("<IQ", head, 243)
    if records * _LAS_LEAST["record"] > begin or extended * _LAS_LEAST["extended"] > size:
        raise _damaged(path.name, "LAS or LAZ")
    packed = kind & 0xC0
    if count > size * _LAZ_DENSEST if packed else count * max(row, _LAS_LEAST["point"]) > size - begin:
        raise _cut(path.name)


def read_feather(path: Path) -> dict[str, NDArray[Any]]:
    """Return the columns of a sweep of Argoverse 2; its offsets become seconds."""
    import pyarrow
    from pyarrow import feather

    try:
        table = feather.read_table(path)
    except pyarrow.ArrowException:
        raise _damaged(path.name, "Feather table") from None
    fields = {name: table[name].to_numpy() for name in table.column_names if table[name].null_count == 0}
    if "offset_ns" in fields:
        fields["time"] = fields.pop("offset_ns") * 1e-9
    return fields


READERS: dict[str, Callable[[Path], dict[str, NDArray[Any]]]] = {
    ".pcd": read_pcd,
    ".ply": read_ply,
    ".las": read_las,
    ".laz": read_las,
    ".feather": read_feather,
}


def write_pcd(path: Path, fields: Fields, encoding: str = "binary") -> None:
    """Write fields as PCD 0.7: ``binary``, ``ascii`` or ``binary_compressed``."""
    from pypcd4.pypcd4 import Encoding, PointCloud

    values = list(fields.values())
    cloud = PointCloud.from_points(values, list(fields), [column.dtype.type for column in values])
    cloud.save(path, Encoding(encoding))


def write_ply(path: Path, fields: Fields, colour: NDArray[np.uint8] | None = None) -> None:
    """Write fields, and a colour (n, 3) where given, as little-endian binary PLY."""
    columns = {name: np.ascontiguousarray(values) for name, values in fields.items()}
    if colour is not None:
        columns |= {name: colour[:, k] for k, name in enumerate(("red", "green", "blue"))}
    count = len(next(iter(columns.values())))
    rows = np.zeros(count, dtype=[(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    kinds = [f"property {_PLY[values.dtype.str[1:]]} {name}" for name, values in columns.items()]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *kinds, "end_header"]
    path.write_bytes("\n".join(head).encode() + b"\n" + rows.tobytes())


def write_las(path: Path, fields: Fields) -> None:
    """Write coordinates to the millimetre, and the other fields where LAS has a place for them, as LAS 1.4 or LAZ."""
    import laspy

    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales = np.full(3, _MILLIMETRE)
    header.offsets = np.array([np.floor(fields[axis].astype(np.float64).mean()) for axis in "xyz"])
    for name in ("elongation", "ring"):
        if name in fields:
            header.add_extra_dim(laspy.ExtraBytesParams(name=name, type=np.float32))
    cloud = laspy.LasData(header)
    for axis in "xyz":
        setattr(cloud, axis, fields[axis].astype(np.float64))
    if "intensity" in fields:
        largest = float(fields["intensity"].max(initial=0))
        factor = 65535.0 if largest <= 1 else 257.0 if largest <= 255 else 1.0
        cloud.intensity = np.round(fields["intensity"].astype(np.float64) * factor).astype(np.uint16)
    if "time" in fields:
        cloud.gps_time = fields["time"].astype(np.float64)
    for name in ("elongation", "ring"):
        if name in fields:
            cloud[name] = fields[name].astype(np.float32)
    cloud.write(path)


def write_feather(path: Path, fields: Fields) -> None:
    """Write fields as a Feather table with the column names of Argoverse 2 where it has one."""
    import pyarrow
    from pyarrow import feather

    columns = {name: np.ascontiguousarray(values) for name, values in fields.items()}
    if "ring" in columns:
        columns["laser_number"] = columns.pop("ring").astype(np.uint8)
    if "time" in columns:
        columns["offset_ns"] = np.round(columns.pop("time").astype(np.float64) * 1e9).astype(np.int32)
    feather.write_feather(pyarrow.table(columns), path)


def _cut(name: str) -> CaseError:
    return CaseError("PTD-904", "the file ends before its last point", "fetch it again; it was cut off", name)


def _damaged(name: str, kind: str) -> CaseError:
    return CaseError("PTD-903", f"not a readable {kind}", "fetch or export it again", name)
