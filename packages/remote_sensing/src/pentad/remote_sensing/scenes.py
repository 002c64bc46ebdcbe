"""Imaginary places from above at two dates: terrain, fields, roads, buildings with shadows, seasons, clouds.

Everything is computed in float64 with +, -, *, / and comparisons alone, on the raw integers of PCG64, so that the
rounded images have the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pentad.core.draws import Draws

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Colour = tuple[float, float, float]

SIDE = 160
MARGIN = 4  # drawn beyond the image, for the second date's misregistration
CLASSES = ("none", "bare", "grass", "crop", "road", "building", "water")
GRADES = ("none", "undamaged", "minor", "major", "destroyed")

_GROUND: dict[str, Colour] = {"bare": (148, 128, 100), "grass": (84, 112, 66), "crop": (128, 124, 70)}
_ROOFS: tuple[Colour, ...] = ((168, 84, 68), (150, 150, 152), (202, 198, 190), (92, 96, 106), (176, 140, 104))
_ROAD: Colour = (122, 120, 118)
_WATER: Colour = (48, 72, 88)
_RUBBLE: Colour = (158, 150, 140)
_TURNS = ((1.0, 0.0), (0.8, 0.6), (0.6, 0.8), (12 / 13, 5 / 13), (5 / 13, 12 / 13), (15 / 17, -8 / 17), (0.8, -0.6))


def noise(draws: Draws, side: int, cell: int) -> Array:
    """Return smooth noise over -1 … 1, (side, side): a lattice of ``cell`` pixels, blended by 3t² - 2t³."""
    count = side // cell + 2
    lattice = draws.grid(count, count) * 2.0 - 1.0
    place = np.arange(side, dtype=np.float64) / cell
    first = np.floor(place).astype(np.int64)
    t = place - first
    t = t * t * (3.0 - 2.0 * t)
    rows = lattice[first] * (1.0 - t)[:, None] + lattice[first + 1] * t[:, None]
    smooth: Array = rows[:, first] * (1.0 - t) + rows[:, first + 1] * t
    return smooth


@dataclass(frozen=True)
class Building:
    """A box on the ground; lengths in pixels."""

    row: float
    column: float
    half_length: float
    half_width: float
    turn: tuple[float, float]
    height: float
    roof: Colour
    before: bool
    grade: int
    """After: 0 gone or not there, 1 undamaged … 4 destroyed."""

    def covers(self, side: int, grow: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.bool_]:
        """Return where it stands (side, side), ``grow`` pixels wider on every side and shifted."""
        along, across = self.axes(side, shift)
        return (np.abs(along) <= self.half_length + grow) & (np.abs(across) <= self.half_width + grow)

    def axes(self, side: int, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[Array, Array]:
        """Return each pixel's distance from the middle along the building's two axes."""
        rows = np.arange(side, dtype=np.float64)[:, None] - (self.row + shift[0])
        columns = np.arange(side, dtype=np.float64)[None] - (self.column + shift[1])
        cosine, sine = self.turn
        return columns * cosine + rows * sine, rows * cosine - columns * sine


@dataclass(frozen=True)
class Scene:
    """Both dates and all labels; 255 in a label means: not known."""

    before: Bytes
    after: Bytes
    change: Bytes
    """Building change: 1 where a building appeared, vanished or was destroyed."""
    cover_before: Bytes
    """Of `CLASSES` where the land cover changed, else 0."""
    cover_after: Bytes
    damage: Bytes
    """Of `GRADES`, over the buildings of the first date."""


def build(number: int) -> Scene:
    """Return scene ``number``."""
    draws, side = Draws(0x5343454E, number), SIDE + 2 * MARGIN
    cover = _ground(draws, side)
    texture = noise(draws, side, 24) * 0.10 + noise(draws, side, 7) * 0.06 + noise(draws, side, 3) * 0.05
    later = _ploughed(draws, cover)
    buildings = _buildings(draws, side, cover)
    sun = (draws.uniform(0.35, 0.8), draws.uniform(-0.6, 0.6))
    moved = (sun[0] + draws.uniform(-0.15, 0.15), sun[1] + draws.uniform(-0.3, 0.3))
    images = [
        _paint(Draws(number, 1), cover, texture, [(b, 1) for b in buildings if b.before], sun),
        _paint(Draws(number, 2), later, texture, [(b, b.grade) for b in buildings if b.grade], moved),
    ]
    valid = [np.ones((side, side), dtype=np.bool_) for _ in images]
    images[1] = _season(draws, images[1])
    if number % 4 == 0:
        images[1], valid[1] = _clouded(draws, images[1])
    shift = (draws.integer(3) - 1, draws.integer(3) - 1)
    labels = _labels(cover, later, buildings, side)
    return _cut(images, valid, labels, shift)


def _ground(draws: Draws, side: int) -> NDArray[np.uint8]:
    """Land cover without buildings: fields as cells around random points, roads across, water in some scenes."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float64)
    nearest, cover = np.full((side, side), np.inf), np.zeros((side, side), dtype=np.uint8)
    for _ in range(14):
        row, column, kind = draws.uniform(0, side), draws.uniform(0, side), 1 + draws.integer(3)
        distance = (rows - row) * (rows - row) + (columns - column) * (columns - column)
        cover[distance < nearest] = kind
        nearest = np.minimum(nearest, distance)
    if draws.integer(3) == 0:
        cover[noise(draws, side, 60) > draws.uniform(0.35, 0.6)] = 6
    for _ in range(1 + draws.integer(2)):
        cosine, sine = _TURNS[draws.integer(len(_TURNS))]
        away = (rows - draws.uniform(30, side - 30)) * cosine - (columns - side / 2) * sine
        cover[np.abs(away) < draws.uniform(2.0, 4.0)] = 4
    return cover


def _ploughed(draws: Draws, cover: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Land cover at the second date: patches of grass and crop laid bare, and bare ground grown over."""
    patch = noise(draws, len(cover), 40) > 0.55
    later = cover.copy()
    later[patch & ((cover == 2) | (cover == 3))] = 1
    later[patch & (cover == 1)] = 2
    return later


def _buildings(draws: Draws, side: int, cover: NDArray[np.uint8]) -> list[Building]:
    taken = (cover == 4) | (cover == 6)
    made: list[Building] = []
    turn = draws.integer(len(_TURNS))
    for _ in range(60):
        fate = draws.uniform(0, 1)
        kept = draws.uniform(0, 1)
        grade = 1 if kept < 0.7 else 2 + draws.integer(2)
        building = Building(
            row=draws.uniform(10, side - 10),
            column=draws.uniform(10, side - 10),
            half_length=draws.uniform(4.5, 11),
            half_width=draws.uniform(3.5, 7),
            turn=_TURNS[turn if draws.integer(4) else draws.integer(len(_TURNS))],
            height=draws.uniform(3, 9),
            roof=_ROOFS[draws.integer(len(_ROOFS))],
            before=fate < 0.72,
            grade=(4 if fate < 0.12 else 0 if fate < 0.22 else grade) if fate < 0.72 else 1,
        )
        ground = building.covers(side, 3.0)
        if not (ground & taken).any():
            taken |= ground
            made.append(building)
        if len(made) == 15:
            break
    return made


def _paint(
    draws: Draws,
    cover: NDArray[np.uint8],
    texture: Array,
    buildings: list[tuple[Building, int]],
    sun: tuple[float, float],
) -> Array:
    """Return the image (3, side, side) of one date, 0 … 255 without rounding."""
    side = len(cover)
    table = np.array([(0.0, 0.0, 0.0), *_GROUND.values(), _ROAD, (0.0, 0.0, 0.0), _WATER])
    image: Array = np.moveaxis(table[cover], -1, 0) * (1.0 + texture)
    furrows = (np.arange(side) % 5 < 2).astype(np.float64) * 0.05
    image = image * np.where(cover == 3, 1.0 - furrows[None], 1.0)
    shade = np.zeros((side, side), dtype=np.bool_)
    for building, grade in buildings:
        height = building.height * (1.0, 1.0, 1.0, 0.6, 0.15)[grade]
        for step in range(1, int(height) + 1):
            shade |= building.covers(side, 0.0, (sun[0] * step, sun[1] * step))
    image = image * np.where(shade, 0.55, 1.0)
    for building, grade in buildings:
        where = building.covers(side)
        along, across = building.axes(side)
        slope = np.where(across > 0, 1.08, 0.9)  # two sides of a roof
        roof = np.array(building.roof)[:, None, None] * slope * (1.0 + 0.3 * texture)
        image = np.where(where, _wreck(draws, roof, along, across, building, grade), image)
    grain: Array = (draws.grid(3, side, side) + draws.grid(3, side, side) - 1.0) * 9.0
    return np.asarray(image + grain)


def _wreck(draws: Draws, roof: Array, along: Array, across: Array, building: Building, grade: int) -> Array:
    """The roof as its grade leaves it: a hole, a collapsed half, or rubble."""
    if grade <= 1:
        return roof
    side = roof.shape[1]
    rubble = np.array(_RUBBLE)[:, None, None] * (0.7 + 0.6 * draws.grid(side, side))
    if grade == 2:
        hole = along * along + across * across < building.half_width * building.half_width * 0.3
    elif grade == 3:
        hole = along > -0.1 * building.half_length
    else:
        hole = np.ones((side, side), dtype=np.bool_)
    return np.asarray(np.where(hole, rubble, roof), dtype=np.float64)


def _season(draws: Draws, image: Array) -> Array:
    """Another light, another haze, and greener or browner plants."""
    green = np.maximum(image[1] - image[0], 0.0)
    amount = draws.uniform(-0.5, 0.9)
    tint = np.stack([green * amount, green * (-0.2 * amount), green * (-0.3 * amount)])
    gain = np.array([draws.uniform(0.86, 1.14) for _ in range(3)])[:, None, None]
    lit: Array = (image + tint) * gain * draws.uniform(0.88, 1.12) + draws.uniform(-8, 12)
    return lit


def _clouded(draws: Draws, image: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The image under thin cloud, and what is not under thick cloud."""
    cloud = noise(draws, image.shape[1], 48) + 0.3 * noise(draws, image.shape[1], 12)
    thin = np.minimum(np.maximum((cloud - 0.35) * 2.0, 0.0), 1.0)
    return image * (1.0 - 0.6 * thin) + 235.0 * 0.6 * thin, cloud < 0.65


def _labels(
    cover: NDArray[np.uint8], later: NDArray[np.uint8], buildings: list[Building], side: int
) -> dict[str, Bytes]:
    covers = [cover.copy(), later.copy()]
    change, damage = np.zeros((side, side), dtype=np.uint8), np.zeros((side, side), dtype=np.uint8)
    for building in buildings:
        where = building.covers(side)
        if building.before:
            covers[0][where] = 5
            damage[where] = building.grade or 4
        if building.grade in (1, 2, 3):
            covers[1][where] = 5
        elif building.before:
            covers[1][where] = 1
        if building.before != (building.grade in (1, 2, 3)):
            change[where] = 1
    different = covers[0] != covers[1]
    return {
        "change": change,
        "cover_before": np.where(different, covers[0], 0).astype(np.uint8),
        "cover_after": np.where(different, covers[1], 0).astype(np.uint8),
        "damage": damage,
    }


def _cut(
    images: list[Array], valid: list[NDArray[np.bool_]], labels: dict[str, Bytes], shift: tuple[int, int]
) -> Scene:
    """Cut the margin off, the second date ``shift`` pixels beside the first; 0 is nodata in images, 255 in labels."""
    dates = []
    places = [(MARGIN, MARGIN), (MARGIN + shift[0], MARGIN + shift[1])]
    windows = [(slice(row, row + SIDE), slice(column, column + SIDE)) for row, column in places]
    for image, known, window in zip(images, valid, windows, strict=True):
        rounded = np.floor(np.minimum(np.maximum(image, 1.0), 255.0) + 0.5).clip(1, 255)
        dates.append(np.moveaxis(np.where(known, rounded, 0.0)[:, *window], 0, -1).astype(np.uint8))
    missing = ~(valid[0][windows[0]] & valid[1][windows[1]])
    cut = {name: np.where(missing, 255, label[windows[0]]).astype(np.uint8) for name, label in labels.items()}
    return Scene(dates[0], dates[1], **cut)
