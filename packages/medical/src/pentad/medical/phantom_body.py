"""Paint the trunk around the liver: wall, bones, gut, kidneys, great vessels, spleen, stomach, lungs and heart.

Lengths are millimetres of a reference adult; x points to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pentad.core.draws import Array
from pentad.medical.shapes import Canvas, Draws, Point, common, smooth_noise, union

FAT = -98.0
"""CT number of fat, HU."""


@dataclass(frozen=True)
class Habitus:
    """Measures of the trunk that several organs depend on: mm of the reference adult, CT numbers."""

    half_width: float
    half_depth: float
    fat: float
    wall: float
    dome_height: float
    liver_hu: float
    muscle_hu: float


def oval(x: Array, y: Array, half_width: float, half_depth: float) -> Array:
    """Return the distance to a cylinder between an ellipse and a rectangle, measured along the radius."""
    across, along = x * (1.0 / half_width), y * (1.0 / half_depth)
    across, along = across * across, along * along
    ratio = np.sqrt(np.sqrt(across * across + across * along + along * along + 1e-12))
    return np.sqrt(x * x + y * y + 1e-2) * (1.0 - 1.0 / ratio)


def trunk(canvas: Canvas, habitus: Habitus, draws: Draws, prone: bool) -> None:
    """Paint table, skin, fat, muscle wall, ribs and the fat of the cavity."""
    side = -1.0 if prone else 1.0
    thickness = habitus.fat * (1.0 + 0.3 * smooth_noise(draws, canvas.axes, 60.0)) + habitus.wall
    skin = canvas.wall - thickness - 2.0
    bed = canvas.axes[1][:, None] * side - (habitus.half_depth + habitus.wall + habitus.fat + 4.0)
    sag = canvas.axes[2] * canvas.axes[2] * 0.0006
    shell = np.abs(bed + sag - 6.0) - 5.0
    canvas.paint(np.maximum(shell, -skin), -850.0)
    canvas.paint(np.maximum(np.abs(shell + 0.8) - 0.8, -skin), -150.0)
    canvas.paint(skin, 25.0)
    canvas.paint(skin + 2.0, FAT + 6.0 * canvas.texture)
    muscle = canvas.wall - (thickness - habitus.fat * (1.0 + 0.15 * canvas.texture)) - 1.0
    canvas.paint(muscle, habitus.muscle_hu + 8.0 * canvas.texture)
    canvas.paint(np.abs(canvas.wall - habitus.wall * 0.55 + canvas.texture) - 0.7, -20.0)
    _ribs(canvas, habitus, draws)
    canvas.paint(canvas.wall, FAT + 5.0 * canvas.texture)


def _ribs(canvas: Canvas, habitus: Habitus, draws: Draws) -> None:
    """Paint ribs that run down towards the front, cartilage in front, none below the costal arch."""
    pitch = draws.uniform(24.0, 28.0)
    turns = (canvas.z - 0.5 * canvas.y + draws.uniform(0.0, pitch)) * (1.0 / pitch)
    level = (turns - np.floor(turns) - 0.5) * pitch * (1.0 / 6.5)
    depth = (canvas.wall - habitus.wall * 0.5) * (1.0 / 4.2)
    distance = (np.sqrt(level * level + depth * depth) - 1.0) * 4.2
    arch = -45.0 - 0.9 * canvas.y - canvas.z * 1.1  # negative where the chest reaches
    distance = np.maximum(distance, np.maximum(arch, 26.0 - np.abs(canvas.x) - np.minimum(canvas.y, 0.0) * 0.2))
    front = canvas.y + 42.0  # cartilage lies before this plane
    canvas.paint(np.maximum(distance, front), 105.0)
    canvas.paint(np.maximum(distance, -front), 520.0)
    canvas.paint(np.maximum(distance + 1.6, -front), 190.0)


def spine(canvas: Canvas, muscle_hu: float, draws: Draws) -> None:
    """Paint vertebrae, discs, canal, arches and the muscles along them."""
    back = 60.0
    view = canvas.crop((-75.0, 20.0, -200.0), (75.0, 130.0, 200.0))
    for side in (-1.0, 1.0):
        x, y = view.x - side * 33.0, view.y - (back + 23.0)
        belly = (np.sqrt(x * x * (1.0 / 784.0) + y * y * (1.0 / 324.0)) - 1.0) * 18.0
        view.paint(belly, muscle_hu - 4.0 + 12.0 * view.texture)
        x, y = view.x - side * 36.0, view.y - (back + 2.0)
        view.paint(
            (np.sqrt(x * x * (1.0 / 196.0) + y * y * (1.0 / 225.0)) - 1.0) * 14.0 + (view.z + 30.0) * 0.2, muscle_hu
        )
    pitch = draws.uniform(30.0, 35.0)
    turns = (view.z + draws.uniform(0.0, pitch)) * (1.0 / pitch)
    level = np.abs(turns - np.floor(turns) - 0.5) * pitch  # 0 in the middle of a vertebra
    disc = pitch * 0.5 - 4.0 - level  # negative inside a disc
    waist = (level - pitch * 0.5) * 0.12
    x, y = view.x, view.y - back
    body = (np.sqrt(x * x * (1.0 / 484.0) + y * y * (1.0 / 289.0)) - 1.0) * 18.0 - waist - 1.5
    view.paint(body, 90.0)
    view.paint(np.maximum(body, -disc), 420.0)
    view.paint(np.maximum(body + 2.2, 2.0 - disc), draws.uniform(150.0, 230.0) + 30.0 * view.texture)
    y = y - 25.0
    ring = np.sqrt(x * x + y * y * 1.2)
    view.paint(np.maximum(ring - 14.0, level - 11.0), 380.0)
    view.paint(np.maximum(np.maximum(np.abs(x) + y * 0.06 - 4.5, level - 9.0), np.abs(y - 20.0) - 12.0), 300.0)
    wing = np.abs(x) - 33.0
    wing = np.maximum(np.maximum(np.abs(y + 6.0 - np.abs(x) * 0.25) + np.abs(x) * 0.08 - 5.5, level - 6.0), wing)
    view.paint(np.maximum(wing, 12.0 - ring), 290.0)
    view.paint(ring - 8.5, 35.0)


def _loop(canvas: Canvas, start: Point, end: Point, radius: float, hu: tuple[float, float, float], up: float) -> None:
    """Paint one piece of gut: wall, contents and, where ``hu[2]`` is positive, gas that fills that share."""
    view, distance = canvas.tube(start, end, (radius, radius))
    distance = distance + 1.8 * view.texture
    inside = view.wall + 2.0
    distance = np.maximum(distance, inside)
    view.paint(distance, hu[0])
    view.paint(distance + 3.0, hu[1] + 14.0 * view.texture)
    if hu[2] > 0.0:
        level = (view.y - (start[1] + end[1]) * 0.5) * up + radius * (1.0 - 2.0 * hu[2])
        view.paint(np.maximum(distance + 3.0, level), -900.0)


def bowel(canvas: Canvas, draws: Draws, prone: bool) -> None:
    """Paint colon, small bowel and mesenteric vessels; much of it has the CT number of liver."""
    up = -1.0 if prone else 1.0
    for _ in range(26):
        start = draws.near((10.0, -25.0, -65.0), 1.0)
        start = (
            start[0] + draws.uniform(-85, 85),
            start[1] + draws.uniform(-40, 45),
            start[2] + draws.uniform(-35, 40),
        )
        content = draws.uniform(20.0, 115.0)
        gas = draws.uniform(0.2, 0.5) if draws.uniform(0.0, 1.0) < 0.2 else 0.0
        _loop(
            canvas, start, draws.near(start, 26.0), draws.uniform(8.0, 13.0), (draws.uniform(92, 122), content, gas), up
        )
    for _ in range(14):
        start = draws.near((5.0, -10.0, -45.0), 40.0)
        view, distance = canvas.tube(start, draws.near(start, 25.0), (2.2, 1.5))
        view.paint(distance, 140.0)
    frame = [(-92.0, 10.0, -100.0), (-88.0, -8.0, -72.0), (-62.0, -52.0, -74.0), (0.0, -62.0, -84.0)]
    frame += [(62.0, -48.0, -66.0), (94.0, 2.0, -22.0), (98.0, 22.0, -100.0)]
    points = [draws.near(point, 7.0) for point in frame]
    for start, end in pairwise(points):
        gas = draws.uniform(0.15, 0.5) if draws.uniform(0.0, 1.0) < 0.6 else 0.0
        hu = (draws.uniform(85.0, 105.0), draws.uniform(10.0, 100.0), gas)
        _loop(canvas, start, end, draws.uniform(15.0, 20.0), hu, up)


def retroperitoneum(canvas: Canvas, draws: Draws) -> None:
    """Paint pancreas, duodenum, kidneys, aorta and inferior vena cava."""
    gland = draws.uniform(90.0, 118.0)
    path = [(-30.0, 4.0, -42.0), (-18.0, -6.0, -28.0), (14.0, -14.0, -14.0), (48.0, 4.0, -4.0), (78.0, 20.0, 8.0)]
    points = [draws.near(point, 5.0) for point in path]
    for start, end in pairwise(points):
        view, distance = canvas.tube(start, end, (11.0, 9.0))
        view.paint(distance + 2.5 * view.texture, gland + 10.0 * view.texture)
    duodenum = [(-36.0, -16.0, -32.0), (-46.0, 6.0, -46.0), (-40.0, 16.0, -78.0)]
    for start, end in pairwise(duodenum):
        _loop(canvas, draws.near(start, 4.0), draws.near(end, 4.0), 13.0, (gland, draws.uniform(60.0, 110.0), 0.0), 1.0)
    cortex = draws.uniform(118.0, 160.0)
    for side, height in ((-1.0, -46.0), (1.0, -28.0)):
        centre = draws.near((side * 62.0, 45.0, height), 4.0)
        radii = (draws.uniform(24.0, 29.0), draws.uniform(25.0, 30.0), draws.uniform(46.0, 54.0))
        view = canvas.around(centre, radii)
        kidney = view.ellipsoid(centre, radii, side * 0.3) + 1.2 * view.texture
        notch = (centre[0] - side * 22.0, centre[1] - 8.0, centre[2])
        kidney = common(kidney, -view.ellipsoid(notch, (15.0, 11.0, 24.0)), 6.0)
        view.paint(kidney - 1.0, FAT)
        view.paint(kidney, cortex)
        view.paint(np.maximum(kidney + 7.0, 0.4 - view.texture), cortex - 22.0)
        view.paint(view.ellipsoid((centre[0] - side * 9.0, centre[1] - 4.0, centre[2]), (9.0, 7.0, 26.0)), -40.0)
    vein, artery = draws.uniform(125.0, 155.0), draws.uniform(140.0, 175.0)
    for start, end, radius, hu in (
        ((12.0, 32.0, -140.0), (7.0, 33.0, 140.0), 10.5, artery),
        ((-18.0, 31.0, -140.0), (-19.0, 27.0, 140.0), 11.0, vein),
        ((-60.0, 40.0, -42.0), (-18.0, 31.0, -36.0), 4.5, vein),
        ((60.0, 36.0, -28.0), (-18.0, 24.0, -32.0), 4.2, vein),
        ((9.0, 24.0, -8.0), (4.0, 2.0, -60.0), 4.0, artery),
        ((-6.0, -4.0, -70.0), (-14.0, -6.0, -26.0), 6.0, vein),
        ((-14.0, -6.0, -26.0), (-34.0, -4.0, -4.0), 7.0, vein),
        ((-14.0, -2.0, -24.0), (76.0, 28.0, 8.0), 4.5, vein),
    ):
        view, distance = canvas.tube(start, end, (radius, radius))
        view.paint(distance, hu)


def upper_abdomen(canvas: Canvas, draws: Draws, prone: bool) -> None:
    """Paint spleen and stomach."""
    centre = draws.near((88.0, 34.0, 20.0), 5.0)
    radii = (draws.uniform(26.0, 36.0), draws.uniform(44.0, 52.0), draws.uniform(42.0, 56.0))
    view = canvas.around(centre, radii)
    spleen = common(view.ellipsoid(centre, radii, -0.2), view.wall + 2.5, 6.0)
    spleen = common(spleen, -view.ellipsoid((50.0, 8.0, 10.0), (34.0, 48.0, 60.0)), 12.0) + 1.5 * view.texture
    view.paint(spleen, draws.uniform(98.0, 132.0) + 3.0 * view.texture)
    centre = draws.near((50.0, -28.0, 22.0), 6.0)
    radii = (draws.uniform(34.0, 44.0), draws.uniform(30.0, 38.0), draws.uniform(38.0, 48.0))
    view = canvas.around(centre, radii)
    antrum = view.capsule((centre[0], -38.0, -5.0), (-22.0, -44.0, -32.0), (22.0, 12.0))
    stomach = common(union(view.ellipsoid(centre, radii, 0.25), antrum, 14.0), view.wall + 4.0, 6.0)
    stomach = stomach + 1.5 * view.texture
    view.paint(stomach, draws.uniform(82.0, 108.0))
    view.paint(stomach + draws.uniform(3.5, 6.0), draws.uniform(15.0, 60.0) + 12.0 * view.texture)
    up = -1.0 if prone else 1.0
    surface = (view.axes[1][:, None] - centre[1]) * up + draws.uniform(0.0, 18.0)
    view.paint(np.maximum(stomach + 5.0, np.broadcast_to(surface, stomach.shape)), -950.0)


def chest(canvas: Canvas, habitus: Habitus, draws: Draws) -> Array:
    """Paint lungs and heart above the diaphragm; return the distance to the space below it."""
    domes = []
    for x, height in ((-58.0, habitus.dome_height), (56.0, habitus.dome_height - draws.uniform(6.0, 16.0))):
        radii = (1.0 / draws.uniform(78.0, 86.0), 1.0 / draws.uniform(90.0, 96.0), 1.0 / height)
        across, along = (canvas.x - x) * radii[0], (canvas.y + 12.0) * radii[1]
        above = np.maximum(canvas.z + 6.0, 0.0) * radii[2]
        domes.append((np.sqrt(across * across + along * along + above * above) - 1.0) * 78.0)
    below = union(domes[0], domes[1], 25.0) + 1.5 * canvas.texture
    across, along = canvas.x, canvas.y - 62.0
    midline = (np.sqrt(across * across * (1.0 / 900.0) + along * along * (1.0 / 1600.0)) - 1.0) * 30.0
    lung = common(common(canvas.wall + 1.5, -below, 5.0), -midline, 6.0)
    lung = np.maximum(lung, 20.0 - canvas.z)
    canvas.paint(lung, -860.0 + 30.0 * canvas.texture)
    branches = smooth_noise(draws, canvas.axes, 5.0)
    canvas.paint(np.maximum(lung + 3.0, (1.15 - np.abs(branches)) * 3.0), -80.0)
    heart = canvas.ellipsoid((22.0, -34.0, 92.0), (58.0, 42.0, 30.0), 0.15) + canvas.texture
    heart = np.maximum(heart, canvas.wall + 3.0)
    canvas.paint(heart - 3.0, FAT)
    canvas.paint(np.maximum(heart, -below + 2.0), draws.uniform(120.0, 150.0) + 5.0 * canvas.texture)
    return below
