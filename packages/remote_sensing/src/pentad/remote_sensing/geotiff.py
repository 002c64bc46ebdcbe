"""Write a small uncompressed GeoTIFF whose bytes depend on the arguments alone: no library's banner, no version.

Specifications: TIFF 6.0 (Adobe, 1992) and GeoTIFF 1.1 (OGC 19-008r4), of which only a north-up projected grid is used.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ASCII, _SHORT, _LONG, _DOUBLE = 2, 3, 4, 12
_LETTERS = {_SHORT: "H", _LONG: "I", _DOUBLE: "d"}
_FORMATS = {"u": 1, "i": 2, "f": 3}


@dataclass(frozen=True)
class Place:
    """Where an image lies.

    Attributes:
        epsg: Code of a projected coordinate reference system.
        west: Easting of the left edge.
        north: Northing of the upper edge.
        pixel: Side of a pixel in the system's unit.
    """

    epsg: int
    west: float
    north: float
    pixel: float


def geotiff(image: NDArray[np.generic], place: Place, nodata: int | None = None) -> bytes:
    """Return the file's content.

    Args:
        image: (rows, columns) or (rows, columns, bands).
        place: Its grid.
        nodata: Value that means: no measurement.
    """
    pixels = image if image.ndim == 3 else image[..., None]
    rows, columns, bands = pixels.shape
    stored = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<")))
    bits = stored.dtype.itemsize * 8
    tags: list[tuple[int, int, Sequence[float] | str]] = [
        (256, _LONG, [columns]),
        (257, _LONG, [rows]),
        (258, _SHORT, [bits] * bands),
        (259, _SHORT, [1]),
        (262, _SHORT, [2 if bands == 3 else 1]),
        (273, _LONG, [0]),  # the pixels' place, known when all else is
        (277, _SHORT, [bands]),
        (278, _LONG, [rows]),
        (279, _LONG, [stored.nbytes]),
        (284, _SHORT, [1]),
        *([(338, _SHORT, [0] * (bands - 1))] if bands not in (1, 3) else []),
        (339, _SHORT, [_FORMATS[stored.dtype.kind]] * bands),
        (33550, _DOUBLE, [place.pixel, place.pixel, 0.0]),
        (33922, _DOUBLE, [0.0, 0.0, 0.0, place.west, place.north, 0.0]),
        (34735, _SHORT, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, place.epsg]),
        *([(42113, _ASCII, str(nodata))] if nodata is not None else []),
    ]
    first = 8 + 2 + 12 * len(tags) + 4
    offset = first + sum(len(content) for _, _, content in map(_pack, tags) if len(content) > 4)
    entries, beyond = b"", b""
    for tag in tags:
        kind, count, content = _pack((273, _LONG, [offset]) if tag[0] == 273 else tag)
        value = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", first + len(beyond))
        beyond += content if len(content) > 4 else b""
        entries += struct.pack("<HHI", tag[0], kind, count) + value
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + beyond + stored.tobytes()


def _pack(tag: tuple[int, int, Sequence[float] | str]) -> tuple[int, int, bytes]:
    """Type, count and content of a tag, the content padded to whole words where it stands outside its entry."""
    _, kind, values = tag
    if isinstance(values, str):
        content = values.encode("ascii") + b"\0"
        count = len(content)
    else:
        content, count = struct.pack(f"<{len(values)}{_LETTERS[kind]}", *values), len(values)
    return kind, count, content + bytes(len(content) % 2 if len(content) > 4 else 0)
