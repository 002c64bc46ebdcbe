"""What ``pentad doctor`` says of reading point clouds on this machine."""

from __future__ import annotations

import ctypes
import sys


def findings() -> list[tuple[str, str]]:
    """Return whether Open3D can be loaded, told from the one library that its wheel expects of the system."""
    if sys.platform != "linux":
        return []
    try:
        ctypes.CDLL("libusb-1.0.so.0")
    except OSError:
        return [("Open3D", "cannot be loaded, so PLY and compressed PCD cannot be read: apt-get install libusb-1.0-0")]
    return [("Open3D", "reads PLY and every kind of PCD")]
