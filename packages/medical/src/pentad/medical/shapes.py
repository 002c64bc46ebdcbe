"""Paint soft-edged bodies onto a voxel grid with arithmetic that gives the same bits on every machine.

Voxel values come from addition, multiplication, division, square roots and comparisons of float64 and from
integer draws alone. IEEE 754 rounds those one way everywhere; sines, exponentials, float sums and matrix
products differ by processor and library, so none is used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pentad.core.draws import Array
from pentad.core.draws import Draws as CoreDraws

Point = tuple[float, float, float]

WARP_REACH = 12.0
"""Largest displacement of a body by the warp, mm of the reference adult; crops keep this margin."""


class Draws(CoreDraws):
    """A stream of random numbers fixed by ``key``, with what shapes of a body are drawn from."""

    def near(self, centre: Point, reach: float) -> Point:
        """Return a point in the cube of half-width ``reach`` around ``centre``."""
        return (
            centre[0] + self.uniform(-reach, reach),
            centre[1] + self.uniform(-reach, reach),
            centre[2] + self.uniform(-reach, reach),
        )

    def lattice(self, shape: tuple[int, ...]) -> Array:
        """Return numbers uniform over -1 … 1 in an array of ``shape``."""
        return self.grid(*shape) * 2.0 - 1.0

    def grain(self, shape: tuple[int, ...]) -> Array:
        """Return white, nearly normal noise of mean 0 and standard deviation 1: sums of four 16-bit integers."""
        pairs = self.raw(math.prod(shape))
        low = np.uint64(0x0000FFFF0000FFFF)
        pairs = (pairs & low) + ((pairs >> np.uint64(16)) & low)
        total = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
        return (total.astype(np.float64).reshape(shape) - 131070.0) * (1.0 / 37837.2275)


def smooth_noise(draws: Draws, axes: tuple[Array, Array, Array], cell: float) -> Array:
    """Return smooth noise over the grid ``axes`` (z, y, x): quadratic B-splines on a lattice of ``cell`` mm.

    The mean is 0 and the standard deviation about 0.55; all values lie within -2.2 … 2.2.
    """
    steps = [(axis - axis[0]) / cell for axis in axes]
    field = draws.lattice(tuple(int(step[-1]) + 3 for step in steps)) * 2.2
    for dimension in (2, 1, 0):  # the longest copies last, along the slowest axis
        left = np.floor(steps[dimension])
        part = (steps[dimension] - left).reshape([-1 if d == dimension else 1 for d in range(3)])
        index = left.astype(np.intp)
        first, last = 0.5 * (1.0 - part) * (1.0 - part), 0.5 * part * part
        pieces = [np.take(field, index + shift, dimension) for shift in range(3)]
        for piece, weight in zip(pieces, (first, 1.0 - first - last, last), strict=True):
            piece *= weight
        field = pieces[0]
        field += pieces[1]
        field += pieces[2]
    return field


def blur(volume: Array, weight: float, axes: Sequence[int]) -> Array:
    """Return ``volume`` convolved with (weight, 1 - 2 weight, weight) along each of ``axes``; edges repeat."""
    for axis in axes:
        moved = np.moveaxis(volume, axis, 0)
        around = np.concatenate([moved[:1], moved, moved[-1:]])
        mixed = (around[:-2] + around[2:]) * weight + moved * (1.0 - 2.0 * weight)
        volume = np.moveaxis(mixed, 0, axis)
    return np.ascontiguousarray(volume)


def union(first: Array, second: Array, smooth: float) -> Array:
    """Return the distance to either body, the crease between them rounded over ``smooth`` mm."""
    overlap = first - second
    np.abs(overlap, out=overlap)
    np.subtract(smooth, overlap, out=overlap)
    np.maximum(overlap, 0.0, out=overlap)
    overlap *= overlap
    overlap *= -0.25 / smooth
    overlap += np.minimum(first, second)
    return overlap


def common(first: Array, second: Array, smooth: float) -> Array:
    """Return the distance to what two bodies share, the edge rounded over ``smooth`` mm."""
    return -union(-first, -second, smooth)


def turn(x: Array, y: Array, half_tangent: float) -> tuple[Array, Array]:
    """Return the coordinates turned in the plane by twice the arc tangent of ``half_tangent``."""
    scale = 1.0 / (1.0 + half_tangent * half_tangent)
    cosine, sine = (1.0 - half_tangent * half_tangent) * scale, 2.0 * half_tangent * scale
    return x * cosine - y * sine, x * sine + y * cosine


@dataclass
class Canvas:
    """A voxel grid, its bent coordinates and what has been painted on it so far. Arrays are (z, y, x).

    Args:
        axes: Straight coordinates of the slices, rows and columns in mm of the reference adult, each ascending.
        x: Bent coordinate towards the patient's left, mm.
        y: Bent coordinate towards the back, mm.
        z: Bent coordinate towards the head, mm.
        wall: Distance to the inner side of the body wall, negative inside, mm.
        texture: Smooth noise that uneven surfaces and contents share.
        hu: CT numbers, changed in place by painting.
        soft: Width over which an edge fades, mm.
    """

    axes: tuple[Array, Array, Array]
    x: Array
    y: Array
    z: Array
    wall: Array
    texture: Array
    hu: Array
    soft: float

    def crop(self, low: Point, high: Point, margin: float = WARP_REACH) -> Canvas:
        """Return a view of the part that the box from ``low`` to ``high`` (x, y, z) can reach, margin included."""
        cut = self.window(low, high, margin)
        return replace(
            self,
            axes=(self.axes[0][cut[0]], self.axes[1][cut[1]], self.axes[2][cut[2]]),
            **{name: getattr(self, name)[cut] for name in ("x", "y", "z", "wall", "texture", "hu")},
        )

    def window(self, low: Point, high: Point, margin: float = WARP_REACH) -> tuple[slice, slice, slice]:
        """Return the slices (z, y, x) of the part that the box from ``low`` to ``high`` (x, y, z) can reach."""
        ends = [np.searchsorted(axis, [low[2 - i] - margin, high[2 - i] + margin]) for i, axis in enumerate(self.axes)]
        return tuple(slice(int(end[0]), int(end[1])) for end in ends)  # type: ignore[return-value]

    def around(self, centre: Point, radii: Point) -> Canvas:
        """Return the view around an ellipsoid."""
        reach = max(radii)  # a tilted ellipsoid turns its long axis anywhere
        low = (centre[0] - reach, centre[1] - reach, centre[2] - radii[2])
        high = (centre[0] + reach, centre[1] + reach, centre[2] + radii[2])
        return self.crop(low, high)

    def paint(self, distance: Array, value: float | Array) -> None:
        """Blend ``value`` in where ``distance`` is negative; the edge fades over ``soft`` mm."""
        share = distance * (-1.0 / self.soft)
        share += 0.5
        np.clip(share, 0.0, 1.0, out=share)
        share *= value - self.hu
        self.hu += share

    def ellipsoid(self, centre: Point, radii: Point, tilt: float = 0.0) -> Array:
        """Return the approximate distance to an ellipsoid, tilted about the long axis of the body."""
        x, y = self.x - centre[0], self.y - centre[1]
        if tilt:
            x, y = turn(x, y, tilt)
        z = self.z - centre[2]
        squares = np.zeros_like(x)
        steepness = np.full_like(x, 1e-12)
        for line, radius in zip((x, y, z), radii, strict=True):  # in place: fresh arrays cost more than sums
            line *= 1.0 / radius
            line *= line
            squares += line
            line *= 1.0 / (radius * radius)
            steepness += line
        np.sqrt(squares, out=squares)
        np.sqrt(steepness, out=steepness)
        np.subtract(squares, 1.0, out=x)
        x *= squares
        x /= steepness
        return x

    def capsule(self, start: Point, end: Point, radii: tuple[float, float]) -> Array:
        """Return the distance to a round-ended tube whose radius changes from ``radii[0]`` to ``radii[1]``."""
        dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
        x, y, z = self.x - start[0], self.y - start[1], self.z - start[2]
        along = np.clip((x * dx + y * dy + z * dz) * (1.0 / (dx * dx + dy * dy + dz * dz + 1e-9)), 0.0, 1.0)
        x, y, z = x - along * dx, y - along * dy, z - along * dz
        return np.sqrt(x * x + y * y + z * z) - (radii[0] + along * (radii[1] - radii[0]))

    def tube(self, start: Point, end: Point, radii: tuple[float, float]) -> tuple[Canvas, Array]:
        """Return the view around a round-ended tube and the distance to the tube there."""
        reach = max(radii)
        low = tuple(min(a, b) - reach for a, b in zip(start, end, strict=True))
        high = tuple(max(a, b) + reach for a, b in zip(start, end, strict=True))
        view = self.crop(low, high)  # type: ignore[arg-type]
        return view, view.capsule(start, end, radii)
