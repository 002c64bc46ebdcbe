"""Imaginary streets around a sensor: solids to be hit by rays, and the boxes of those that a detector should find.

Frame: metres, right-handed, x forward, y left, z up, origin at the sensor. Everything is computed in float64 with
+, -, *, / and comparisons alone, on the raw integers of PCG64, so that a scene is the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pentad.core.draws import Draws

CLASSES = ("car", "pedestrian", "cyclist")
SENSOR_HEIGHT = 1.73
REACH = 44.0  # objects stand within so many metres along the street
_BODY, _CABIN, _SKIN, _WALL, _METAL, _LEAVES = 0.55, 0.25, 0.35, 0.45, 0.8, 0.3


def turn(angle: float) -> tuple[float, float]:
    """Return cosine and sine by a series, since the last bits of a library's differ between machines."""
    quarter = math.floor(angle / (math.pi / 2) + 0.5)
    x = angle - quarter * (math.pi / 2)
    square, cosine, sine = x * x, 1.0, 1.0
    for n in range(16, 0, -2):
        cosine = 1.0 - cosine * square / (n * (n - 1))
        sine = 1.0 - sine * square / (n * (n + 1))
    c, s = cosine, sine * x
    return ((c, s), (-s, c), (-c, -s), (s, -c))[quarter % 4]


@dataclass(frozen=True)
class Solid:
    """An upright body that a ray can hit: a box turned about the vertical, or a cylinder.

    Attributes:
        centre: x, y, z of its middle.
        half: Half length, width, height; a cylinder's radius stands for length and width.
        heading: Cosine and sine of its yaw.
        reflectivity: 0 … 1.
        cylinder: Whether it is one.
        owner: Position of the `Thing` it belongs to; -1 for scenery.
    """

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    heading: tuple[float, float]
    reflectivity: float
    cylinder: bool = False
    owner: int = -1


@dataclass(frozen=True)
class Thing:
    """What a detector should find.

    Attributes:
        kind: One of `CLASSES`.
        centre: x, y, z of the box's middle.
        size: Length along the heading, width, height.
        yaw: Counter-clockwise from +x, in thousandths of a radian, so that it is written exactly.
        velocity: x and y, m/s over the ground.
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: int
    velocity: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """A street at one moment, seen from the sensor.

    Attributes:
        slope: Rise of the ground a metre of x and of y.
        solids: Everything that stands on it.
        things: Those of them that carry a label.
        speed: Of the sensor along its own x, m/s.
        yaw_rate: Of the sensor, rad/s.
    """

    slope: tuple[float, float]
    solids: tuple[Solid, ...]
    things: tuple[Thing, ...]
    speed: float = 0.0
    yaw_rate: float = 0.0

    def ground(self, x: float, y: float) -> float:
        """Return the ground's height at a place."""
        return -SENSOR_HEIGHT + self.slope[0] * x + self.slope[1] * y

    def earlier(self, seconds: float) -> tuple[Scene, NDArray[np.float64]]:
        """Return the scene so many seconds before, seen from where the sensor was, and that place's pose (4, 4).

        The pose takes points of the earlier sweep into the frame of this one.
        """
        cosine, sine = turn(-self.yaw_rate * seconds)
        x, y = -self.speed * seconds, 0.0
        z = self.slope[0] * x + self.slope[1] * y
        slope = (
            self.slope[0] * cosine + self.slope[1] * sine,
            self.slope[1] * cosine - self.slope[0] * sine,
        )
        moved = []
        for solid in self.solids:
            drift = self.things[solid.owner].velocity if solid.owner >= 0 else (0.0, 0.0)
            dx, dy = (solid.centre[0] - drift[0] * seconds - x), (solid.centre[1] - drift[1] * seconds - y)
            rise = self.slope[0] * drift[0] * seconds + self.slope[1] * drift[1] * seconds
            centre = (dx * cosine + dy * sine, dy * cosine - dx * sine, solid.centre[2] - rise - z)
            c, s = solid.heading
            moved.append(replace(solid, centre=centre, heading=(c * cosine + s * sine, s * cosine - c * sine)))
        pose = np.array([[cosine, -sine, 0, x], [sine, cosine, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], dtype=np.float64)
        return Scene(slope, tuple(moved), (), self.speed, self.yaw_rate), pose


@dataclass
class _Street:
    """A scene in the making: what stands there, and which ground is taken."""

    draws: Draws
    slope: tuple[float, float]
    solids: list[Solid] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def free(self, x: float, y: float, radius: float) -> bool:
        """Take a circle of ground, if nobody has it and it is not the sensor's own."""
        if x * x + y * y < (3.2 + radius) ** 2:
            return False
        if any((x - a) ** 2 + (y - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((x, y, radius))
        return True

    def base(self, x: float, y: float) -> float:
        return -SENSOR_HEIGHT + self.slope[0] * x + self.slope[1] * y

    def part(
        self,
        place: tuple[float, float],
        yaw: tuple[float, float],
        box: tuple[float, float, float, float, float, float],
        reflectivity: float,
        *,
        cylinder: bool = False,
        owner: int = -1,
    ) -> None:
        """Add a solid: offset along and across the heading, bottom above ground, length, width, height."""
        along, across, bottom, length, width, height = box
        x = place[0] + along * yaw[0] - across * yaw[1]
        y = place[1] + along * yaw[1] + across * yaw[0]
        z = self.base(*place) + bottom + height / 2
        half = (length / 2, width / 2, height / 2)
        self.solids.append(Solid((x, y, z), half, yaw, reflectivity, cylinder, owner))

    def label(self, kind: str, place: tuple[float, float], size: tuple[float, float, float], yaw: int, v: float) -> int:
        """Add a labelled thing that stands on the ground and drives along its heading; return its position."""
        cosine, sine = turn(yaw / 1000)
        centre = (place[0], place[1], self.base(*place) + size[2] / 2)
        self.things.append(Thing(kind, centre, size, yaw, (v * cosine, v * sine)))
        return len(self.things) - 1


def build(number: int) -> Scene:
    """Return the scene of a number."""
    draws = Draws(71, number)
    street = _Street(draws, (draws.uniform(-0.025, 0.025), draws.uniform(-0.02, 0.02)))
    lane = draws.uniform(-1.0, 1.0)
    for _ in range(8 + draws.integer(7)):
        _car(street, lane)
    for _ in range(3 + draws.integer(4)):
        _pedestrian(street)
    for _ in range(2 + draws.integer(3)):
        _cyclist(street)
    _scenery(street)
    return Scene(
        street.slope, tuple(street.solids), tuple(street.things), draws.uniform(0, 12), draws.uniform(-0.15, 0.15)
    )


def _wrapped(yaw: float) -> int:
    """Thousandths of a radian in the range -π to π."""
    whole = math.floor(yaw * 1000 + 0.5)
    return whole if -3141 <= whole <= 3141 else whole - (6283 if whole > 0 else -6283)


def _car(street: _Street, lane: float) -> None:
    draws = street.draws
    kind, jitter = draws.integer(10), draws.uniform(-0.06, 0.06)
    x, y, v = draws.uniform(-REACH, REACH), 0.0, 0.0
    if kind < 4:  # parked at either kerb
        side = draws.integer(2)
        y, yaw = (6.2, -3.1416) if side else (-6.2, 0.0)
        yaw += 3.1416 * (draws.integer(5) == 0)
    elif kind < 8:  # in traffic
        ahead = draws.integer(2)
        y, yaw, v = (lane - 1.5, 0.0, draws.uniform(3, 14)) if ahead else (lane + 2.2, -3.1416, draws.uniform(3, 14))
    else:  # in a yard or on a crossing street
        y, yaw = draws.uniform(9, 24) * (1 if draws.integer(2) else -1), draws.uniform(-3.1, 3.1)
    length, width = draws.uniform(3.7, 5.1), draws.uniform(1.65, 2.0)
    height = draws.uniform(1.42, 1.75) if draws.integer(6) else draws.uniform(1.9, 2.3)
    if not street.free(x, y, length / 2 if kind < 8 else length / 2 + 0.3):
        return
    thousandths = _wrapped(yaw + jitter)
    owner = street.label("car", (x, y), (length, width, height), thousandths, v)
    heading = turn(thousandths / 1000)
    body = height * 0.55
    paint = draws.uniform(0.15, 0.8)
    street.part((x, y), heading, (0, 0, 0.18, length, width, body - 0.18), paint, owner=owner)
    roof = length * (0.52 if height < 1.8 else 0.72)
    back = -(length - roof) / 2 + length * 0.08
    street.part((x, y), heading, (back, 0, body, roof, width * 0.9, height - body), _CABIN, owner=owner)


def _pedestrian(street: _Street) -> None:
    draws = street.draws
    x, y = draws.uniform(-30, 30), draws.uniform(6.8, 9) * (1 if draws.integer(2) else -1)
    if draws.integer(6) == 0:
        y = draws.uniform(-5, 5)
    yaw, height = _wrapped(draws.uniform(-3.14, 3.14)), draws.uniform(1.5, 1.92)
    length, width = draws.uniform(0.5, 0.9), draws.uniform(0.5, 0.7)
    if not street.free(x, y, 0.6):
        return
    owner = street.label("pedestrian", (x, y), (length, width, height), yaw, draws.uniform(0.4, 1.8))
    heading, hip = turn(yaw / 1000), height * 0.47
    street.part((x, y), heading, (0, 0, 0, length, 0.3, hip), _SKIN, owner=owner)
    street.part((x, y), heading, (0, 0, hip, 0.3, width, height - hip - 0.26), _BODY, owner=owner)
    street.part((x, y), heading, (0.06, 0, height - 0.26, 0.22, 0.22, 0.26), _SKIN, cylinder=True, owner=owner)


def _cyclist(street: _Street) -> None:
    draws = street.draws
    x, side = draws.uniform(-32, 32), 1 if draws.integer(2) else -1
    y = side * draws.uniform(4.2, 5.0)
    yaw = _wrapped((0.0 if side < 0 else -3.1416) + draws.uniform(-0.25, 0.25))
    length, width, height = draws.uniform(1.65, 1.9), draws.uniform(0.55, 0.75), draws.uniform(1.6, 1.85)
    if not street.free(x, y, 1.0):
        return
    owner = street.label("cyclist", (x, y), (length, width, height), yaw, draws.uniform(2, 7))
    heading = turn(yaw / 1000)
    street.part((x, y), heading, (0, 0, 0.05, length, 0.18, 0.85), _METAL, owner=owner)
    street.part((x, y), heading, (length * 0.22, 0, 0.9, 0.12, width, 0.14), _METAL, owner=owner)
    street.part((x, y), heading, (-0.1, 0, 0.75, 0.42, 0.42, height - 1.0), _BODY, cylinder=True, owner=owner)
    street.part((x, y), heading, (0.02, 0, height - 0.26, 0.22, 0.22, 0.26), _SKIN, cylinder=True, owner=owner)


def _scenery(street: _Street) -> None:
    """Houses on both sides, poles and trees along the kerbs, and things that a detector may take for a car."""
    draws, straight = street.draws, (1.0, 0.0)
    for side in (-1, 1):
        x = -70.0 + draws.uniform(0, 10)
        while x < 70:
            length, depth = draws.uniform(8, 22), draws.uniform(8, 14)
            setback = draws.uniform(10, 13) if draws.integer(4) else draws.uniform(18, 28)
            place = (x + length / 2, side * (setback + depth / 2))
            inside = any(
                abs(a - place[0]) < length / 2 + r and abs(b - place[1]) < depth / 2 + r for a, b, r in street.taken
            )
            if not inside:
                street.part(place, straight, (0, 0, -2, length, depth, draws.uniform(6, 14)), _WALL)
            x += length + draws.uniform(1, 9)
        for step in range(-4, 5):
            place = (step * 11 + draws.uniform(-2, 2), side * draws.uniform(7.2, 8.2))
            if street.free(*place, 0.5):
                thick = draws.uniform(0.12, 0.3)
                street.part(place, straight, (0, 0, -0.5, thick, thick, draws.uniform(4, 8)), _METAL, cylinder=True)
                if draws.integer(2):  # a tree's crown
                    wide = draws.uniform(2, 4)
                    street.part(place, straight, (0, 0, 2.6, wide, wide, draws.uniform(2, 4)), _LEAVES, cylinder=True)
    for _ in range(6):
        place = (draws.uniform(-40, 40), draws.uniform(7.5, 10) * (1 if draws.integer(2) else -1))
        heading = turn(draws.uniform(-0.2, 0.2))
        length, width, height = draws.uniform(0.8, 5), draws.uniform(0.5, 1.1), draws.uniform(0.7, 1.4)
        if street.free(*place, length / 2 + 0.2):  # a hedge, a bin, a wall
            street.part(place, heading, (0, 0, -0.2, length, width, height), _LEAVES)
