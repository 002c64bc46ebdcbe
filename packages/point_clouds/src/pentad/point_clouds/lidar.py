"""A spinning multi-beam LiDAR cast analytically over a `Scene`: range noise, drop-out, intensity, points by object.

Not modelled: the beam's width, second returns, and motion during one turn. Float64 with +, -, *, /, square roots and
comparisons alone, elementwise; what is written is rounded to millimetres, so its bytes are the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pentad.core.draws import Draws
from pentad.point_clouds.scene import SENSOR_HEIGHT, Scene, Solid, turn

Array = NDArray[np.float64]

_FAR = 1e9
_GROUND_REFLECTIVITY = 0.2


@dataclass(frozen=True)
class Sensor:
    """How a turn is sampled.

    Attributes:
        beams: Number of beams, evenly spaced in elevation.
        azimuths: Directions of a turn.
        top: Elevation of the highest beam, rad.
        bottom: Of the lowest.
        reach: Largest range, m.
        noise: Deviation of the range, m.
        dropout: Share of returns lost at random; more where little light comes back.
    """

    beams: int
    azimuths: int
    top: float
    bottom: float
    reach: float = 54.0
    noise: float = 0.02
    dropout: float = 0.03


SENSORS = {
    "beams64": Sensor(64, 400, 0.0419, -0.3072),
    "beams32": Sensor(32, 720, 0.1745, -0.5236),
}


@dataclass(frozen=True)
class Returns:
    """One turn.

    Attributes:
        points: x, y, z in whole millimetres (n, 3).
        intensity: In 255ths (n).
        owner: Position of the thing hit, -1 for scenery (n).
        ring: Beam, 0 the highest (n).
    """

    points: NDArray[np.int64]
    intensity: NDArray[np.int64]
    owner: NDArray[np.int64]
    ring: NDArray[np.int64]


@cache
def directions(sensor: Sensor) -> Array:
    """Return the unit vectors of all rays (3, beams, azimuths), the first azimuth backwards, counter-clockwise."""
    steps = [turn(sensor.top + (sensor.bottom - sensor.top) * k / (sensor.beams - 1)) for k in range(sensor.beams)]
    around = [turn((k + 0.5) * 2 * np.pi / sensor.azimuths - np.pi) for k in range(sensor.azimuths)]
    flat, rise = (np.array(column)[:, None] for column in zip(*steps, strict=True))
    east, north = (np.array(column)[None, :] for column in zip(*around, strict=True))
    return np.stack([flat * east, flat * north, np.broadcast_to(rise, (sensor.beams, sensor.azimuths))])


def cast(scene: Scene, sensor: Sensor) -> tuple[Array, NDArray[np.int64], Array, Array]:
    """Return range (inf where nothing is hit), position of the solid hit (-1 the ground), cosine and reflectivity.

    Each is (beams, azimuths); the cosine is that between the ray and the surface's normal.
    """
    rays = directions(sensor)
    a, b = scene.slope
    fall = a * rays[0] + b * rays[1] - rays[2]
    with np.errstate(divide="ignore", over="ignore"):
        distance = np.where(fall > 1e-9, SENSOR_HEIGHT / np.where(fall > 1e-9, fall, 1.0), _FAR)
    hit = np.full(distance.shape, -1, dtype=np.int64)
    cosine = fall / np.sqrt(1.0 + a * a + b * b)
    reflectivity = np.full(distance.shape, _GROUND_REFLECTIVITY)
    for number, solid in enumerate(scene.solids):
        columns = _columns(solid, sensor)
        entry, facing = _hit(solid, rays[:, :, columns])
        nearer = entry < distance[:, columns]
        for target, value in ((distance, entry), (cosine, facing)):
            target[:, columns] = np.where(nearer, value, target[:, columns])
        hit[:, columns] = np.where(nearer, number, hit[:, columns])
        reflectivity[:, columns] = np.where(nearer, solid.reflectivity, reflectivity[:, columns])
    return np.where(distance < sensor.reach, distance, np.inf), hit, cosine, reflectivity


def _columns(solid: Solid, sensor: Sensor) -> NDArray[np.int64]:
    """Azimuths that may hit a solid: those about its middle, generously, so that rounding decides nothing."""
    x, y, _ = solid.centre
    radius = np.hypot(solid.half[0], solid.half[1])
    away = np.hypot(x, y)
    if away <= radius * 1.01:
        return np.arange(sensor.azimuths)
    half = np.arcsin(min(radius / away, 1.0)) / (2 * np.pi) * sensor.azimuths + 2
    middle = (np.arctan2(y, x) + np.pi) / (2 * np.pi) * sensor.azimuths
    return np.arange(int(middle - half), int(middle + half) + 1) % sensor.azimuths


def _hit(solid: Solid, rays: Array) -> tuple[Array, Array]:
    """Distance at which rays (3, beams, azimuths) enter the solid, `_FAR` where never, and the cosine there."""
    c, s = solid.heading
    x, y, z = solid.centre
    along = c * rays[0] + s * rays[1]
    across = c * rays[1] - s * rays[0]
    origin = (-(c * x + s * y), -(c * y - s * x), -z)
    if solid.cylinder:
        return _hit_cylinder(solid, along, across, rays[2], origin)
    enter, leave, facing = np.full(along.shape, -_FAR), np.full(along.shape, _FAR), np.zeros(along.shape)
    for direction, start, half in zip((along, across, rays[2]), origin, solid.half, strict=True):
        safe = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
        first, second = (-half - start) / safe, (half - start) / safe
        near, far = np.minimum(first, second), np.maximum(first, second)
        facing = np.where(near > enter, np.abs(direction), facing)
        enter, leave = np.maximum(enter, near), np.minimum(leave, far)
    return np.where((enter < leave) & (enter > 0.5), enter, _FAR), facing


def _hit_cylinder(
    solid: Solid, along: Array, across: Array, rise: Array, origin: tuple[float, float, float]
) -> tuple[Array, Array]:
    """The same for an upright cylinder: its side, or its flat top and bottom where the ray comes through those."""
    radius, half = solid.half[0], solid.half[2]
    flat = along * along + across * across
    middle = along * origin[0] + across * origin[1]
    rest = middle * middle - flat * (origin[0] * origin[0] + origin[1] * origin[1] - radius * radius)
    root = np.sqrt(np.maximum(rest, 0.0))
    enter, leave = (-middle - root) / flat, (-middle + root) / flat
    safe = np.where(np.abs(rise) < 1e-12, 1e-12, rise)
    first, second = (-half - origin[2]) / safe, (half - origin[2]) / safe
    bottom, top = np.minimum(first, second), np.maximum(first, second)
    side = np.abs((along * (origin[0] + enter * along) + across * (origin[1] + enter * across)) / radius)
    facing = np.where(bottom > enter, np.abs(rise), side)
    begin, end = np.maximum(enter, bottom), np.minimum(leave, top)
    return np.where((rest > 0) & (begin < end) & (begin > 0.5), begin, _FAR), facing


def scan(scene: Scene, sensor: Sensor, key: int) -> Returns:
    """Return one noisy turn over a scene, fixed by ``key``."""
    distance, hit, cosine, reflectivity = cast(scene, sensor)
    draws = Draws(72, key)
    raw = draws.raw(distance.size).reshape(distance.shape)
    pieces = [((raw >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.float64) / 65536.0 for k in range(4)]
    # The sum of four uniform numbers has the deviation 1/√3 and is bell-shaped enough for a range error.
    error = (pieces[0] + pieces[1] + pieces[2] + pieces[3] - 2.0) * (1.7320508 * sensor.noise)
    echo = reflectivity * cosine
    returned = np.isfinite(distance)
    reached = np.where(returned, distance, 0.0)
    faint = np.maximum(0.0, reached / sensor.reach - 0.5) * np.maximum(0.0, 1.0 - 4.0 * echo)
    kept = returned & (draws.grid(*distance.shape) >= sensor.dropout + 0.3 * faint)
    measured = reached + error
    rays = directions(sensor)
    points = np.stack([np.floor(measured * ray * 1000.0 + 0.5)[kept] for ray in rays], axis=1).astype(np.int64)
    shine = np.floor(np.minimum(1.0, echo * (0.9 + 0.2 * pieces[0])) * 255.0 + 0.5)[kept].astype(np.int64)
    owners = np.array([solid.owner for solid in scene.solids] + [-1], dtype=np.int64)
    rings = np.broadcast_to(np.arange(sensor.beams)[:, None], distance.shape)[kept].astype(np.int64)
    return Returns(points, np.maximum(shine, 0), owners[hit[kept]], rings)
