"""Build the abdomen of an imaginary patient: portal-venous CT numbers and labels of liver and lesions.

Lengths are millimetres of a reference adult unless said otherwise; x points to the patient's left, y to the back,
z to the head, with the origin in the middle of the trunk at the height of the liver's centre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pentad.core.draws import Array
from pentad.medical.phantom_body import FAT, Habitus, bowel, chest, oval, retroperitoneum, spine, trunk, upper_abdomen
from pentad.medical.shapes import Canvas, Draws, Point, blur, common, smooth_noise, union

LIVER, LESION = 1, 2
AIR = -1000.0
NOISE_SPREAD = {1: 0.289, 2: 0.2109}  # standard deviation that remains of white noise after that many passes
_PORTAL_TIPS: tuple[Point, ...] = (
    (-70.0, -30.0, 10.0),
    (-78.0, 22.0, 14.0),
    (-72.0, 10.0, -34.0),
    (-48.0, -34.0, -16.0),
    (-8.0, -34.0, 26.0),
)
_HEPATIC_TIPS: tuple[Point, ...] = ((-92.0, 20.0, 6.0), (-56.0, -36.0, 14.0), (4.0, -38.0, 28.0))


@dataclass(frozen=True)
class Patient:
    """What is fixed about one imaginary patient and the field of view.

    Args:
        seed: Number that decides the anatomy.
        scale: Size of the patient beside the reference adult.
        lesions: Number of liver lesions, 0 to 6.
        pixel: Spacing of rows and columns, mm.
        slice_spacing: Distance between slices, mm.
        prone: Whether the patient lies on the belly: gas rises to the back, the table is in front.
        targeted: Whether the field of view is cut down to the liver.
    """

    seed: int
    scale: float
    lesions: int
    pixel: float
    slice_spacing: float
    prone: bool = False
    targeted: bool = False


@dataclass(frozen=True)
class Lesion:
    """One liver lesion: its centre (x, y, z) and longest diameter in mm of the patient, its CT number."""

    centre: Point
    diameter: float
    hu: float


@dataclass(frozen=True)
class Phantom:
    """One patient on the voxel grid.

    Args:
        hu: CT numbers without noise, (z, y, x), every axis ascending towards head, back and left.
        label: 0 background, 1 liver, 2 lesion, same grid.
        origin: Centre of the first voxel (x, y, z), mm.
        lesions: The lesions that were placed.
    """

    hu: Array
    label: NDArray[np.uint8]
    origin: Point
    lesions: tuple[Lesion, ...]


def build(patient: Patient) -> Phantom:
    """Return the patient's CT numbers and labels; the same patient gives the same bits on every machine."""
    draws = Draws(0x70656E74, patient.seed)
    habitus = Habitus(
        half_width=draws.uniform(112.0, 124.0),
        half_depth=draws.uniform(72.0, 82.0),
        fat=draws.uniform(5.0, 20.0),
        wall=draws.uniform(9.0, 12.5),
        dome_height=draws.uniform(68.0, 80.0),
        liver_hu=draws.uniform(95.0, 125.0),
        muscle_hu=draws.uniform(62.0, 78.0),
    )
    axes, origin = _grid(patient, habitus)
    canvas = _blank(patient, habitus, axes, draws)
    trunk(canvas, habitus, draws, patient.prone)
    spine(canvas, habitus.muscle_hu, draws)
    bowel(canvas, draws, patient.prone)
    retroperitoneum(canvas, draws)
    upper_abdomen(canvas, draws, patient.prone)
    domes = chest(canvas, habitus, draws)
    view, distance, cut = _liver(canvas, habitus, domes, draws)
    _vessels(view, distance, habitus.liver_hu, draws)
    label = np.zeros(canvas.hu.shape, np.uint8)
    label[cut][distance < 0.0] = LIVER
    lesions = _lesions(view, distance, label[cut], patient, habitus.liver_hu, draws)
    return Phantom(canvas.hu, label, origin, lesions)


def acquire(hu: Array, draws: Draws, noise: float, passes: int = 1, focus: float = 0.14) -> NDArray[np.int16]:
    """Return whole CT numbers as a scanner would give them: blurred, noisy, -1024 … 3071.

    Args:
        hu: CT numbers without noise, (z, y, x).
        draws: Stream for the noise.
        noise: Standard deviation of the noise, HU.
        passes: 1 for fine grain, 2 for coarse (small pixels, soft kernel).
        focus: Weight of each neighbour in the blur within the slice, 0 (sharp) to 0.25.
    """
    grain = draws.grain(hu.shape)
    for _ in range(passes):
        grain = blur(grain, 0.25, (1, 2))
    grain = blur(grain, 0.125, (0,))
    image = blur(blur(hu, focus, (1, 2)), 0.1, (0,)) + grain * (noise / NOISE_SPREAD[passes])
    return np.clip(np.rint(image), -1024.0, 3071.0).astype(np.int16)


def _grid(patient: Patient, habitus: Habitus) -> tuple[tuple[Array, Array, Array], Point]:
    skin = habitus.wall + habitus.fat * 1.25 + 6.0
    low = [-habitus.half_width - skin, -habitus.half_depth - skin, -91.0]
    high = [habitus.half_width + skin, habitus.half_depth + skin, 80.0]
    if patient.targeted:
        low[0], high[0] = -habitus.half_width - 8.0, 62.0
        low[1], high[1] = -habitus.half_depth - 6.0, habitus.half_depth + 4.0
    elif patient.prone:
        low[1] -= 16.0
    else:
        high[1] += 16.0
    steps = (patient.pixel, patient.pixel, patient.slice_spacing)
    axes, origin = [], []
    for start, end, step in zip(low, high, steps, strict=True):
        first = np.rint(start * patient.scale * 16.0) / 16.0  # sixteenths of a millimetre survive any file format
        count = int((end - start) * patient.scale / step) + 1
        axes.append((np.arange(count) * step + first) / patient.scale)
        origin.append(float(first))
    return (axes[2], axes[1], axes[0]), (origin[0], origin[1], origin[2])


def _blank(patient: Patient, habitus: Habitus, axes: tuple[Array, Array, Array], draws: Draws) -> Canvas:
    z, y, x = np.broadcast_arrays(axes[0][:, None, None], axes[1][:, None], axes[2])
    bent = [line + smooth_noise(draws, axes, 65.0) * 5.4 for line in (x, y, z)]
    wall = oval(bent[0], bent[1], habitus.half_width, habitus.half_depth)
    soft = max(patient.pixel * 1.2, 1.2) / patient.scale
    texture = smooth_noise(draws, axes, 9.0)
    return Canvas(axes, bent[0], bent[1], bent[2], wall, texture, np.full(x.shape, AIR), soft)


def _liver(
    canvas: Canvas, habitus: Habitus, domes: Array, draws: Draws
) -> tuple[Canvas, Array, tuple[slice, slice, slice]]:
    """Paint liver and gallbladder; return the view around the liver, the distance to it there and the view's slices."""
    box = (-140.0, -110.0, -110.0), (100.0, 100.0, 110.0)
    view, cut = canvas.crop(*box), canvas.window(*box)
    near = draws.near
    right = view.ellipsoid(
        near((-64.0, 4.0, 4.0), 6.0),
        (draws.uniform(58.0, 74.0), draws.uniform(70.0, 90.0), draws.uniform(74.0, 98.0)),
        draws.uniform(-0.06, 0.06),
    )
    left = view.ellipsoid(
        near((-4.0, -40.0, 28.0), 7.0),
        (draws.uniform(48.0, 94.0), draws.uniform(24.0, 38.0), draws.uniform(30.0, 46.0)),
        draws.uniform(-0.12, 0.04),
    )
    caudate = view.ellipsoid(near((-14.0, 12.0, 22.0), 3.0), (17.0, 13.0, 26.0))
    liver = union(union(right, left, 24.0), caudate, 10.0)
    under = (draws.uniform(-82.0, -58.0) + draws.uniform(0.6, 1.1) * np.maximum(view.x + 66.0, 0.0) - view.z) * 0.8
    liver = common(liver, under, 18.0)
    liver = common(liver, -view.ellipsoid(near((-24.0, 2.0, -24.0), 3.0), (20.0, 20.0, 20.0)), 12.0)  # hilum
    bed = near((-57.0, 64.0, -52.0), 3.0)
    liver = common(liver, -view.ellipsoid(bed, (42.0, 50.0, 58.0), -0.15), 12.0)  # right kidney
    liver = common(liver, -view.ellipsoid((56.0, -22.0, 16.0), (36.0, 30.0, 44.0), 0.25), 10.0)  # stomach
    x, y = view.x - 4.0, view.y - 54.0
    liver = common(liver, 40.0 - np.sqrt(x * x + y * y), 8.0)  # spine and aorta
    liver = np.maximum(liver, 11.0 - view.capsule((-18.5, 30.0, -140.0), (-19.0, 25.0, 140.0), (0.0, 0.0)))
    gap = near((-20.0, -62.0, 4.0), 4.0)
    liver = common(liver, -view.ellipsoid(gap, (3.5, 30.0, 28.0), draws.uniform(-0.15, 0.1)), 4.0)  # ligament
    bladder_at, bladder_radii = near((-48.0, -40.0, -40.0), 5.0), (draws.uniform(10, 15), draws.uniform(14, 20), 26.0)
    bladder = view.ellipsoid(bladder_at, bladder_radii, draws.uniform(-0.3, 0.3))
    liver = common(liver, 1.5 - bladder, 4.0)
    liver = liver + 2.9 * smooth_noise(draws, view.axes, 26.0) + 1.0 * view.texture
    liver = common(common(liver, view.wall + 0.8, 6.0), domes[cut] + 3.0, 6.0)
    parts, _ = ndimage.label(liver < 0.0)
    islands = (parts > 0) & (parts != np.bincount(parts[parts > 0]).argmax())
    liver[islands] = view.soft  # far enough outside that nothing is painted
    seam = np.clip(0.5 + 2.2 * smooth_noise(draws, view.axes, 18.0), 0.0, 2.2)  # fat around it, in places none
    view.paint(np.maximum(liver - seam, domes[cut] + 1.5), FAT)
    view.paint(bladder - 1.6, 70.0)
    view.paint(bladder, draws.uniform(2.0, 18.0))
    fine = smooth_noise(draws, view.axes, 6.0)
    view.paint(liver, habitus.liver_hu + 3.0 * smooth_noise(draws, view.axes, 30.0) + 3.5 * fine)
    return view, liver, cut


def _vessels(view: Canvas, liver: Array, liver_hu: float, draws: Draws) -> None:
    """Paint portal and hepatic veins inside the liver, a little brighter than it."""
    portal, hepatic = liver_hu + draws.uniform(28.0, 44.0), liver_hu + draws.uniform(18.0, 38.0)
    hilum, outlet = (-34.0, -4.0, -4.0), (-19.0, 24.0, 62.0)
    trunks = [(hilum, tip, portal) for tip in _PORTAL_TIPS] + [(outlet, tip, hepatic) for tip in _HEPATIC_TIPS]
    inside = replace(view, wall=liver)
    for root, tip, hu in trunks:
        end = draws.near(tip, 9.0)
        middle = draws.near((0.5 * (root[0] + end[0]), 0.5 * (root[1] + end[1]), 0.5 * (root[2] + end[2])), 8.0)
        pieces = [(root, middle, (5.8, 4.4)), (middle, end, (4.4, 3.0)), (middle, draws.near(middle, 30.0), (3.0, 1.0))]
        for _ in range(3):
            twig = draws.near(end, 26.0)
            pieces += [(end, twig, (2.7, 1.8)), (twig, draws.near(twig, 20.0), (1.8, 0.9))]
        for start, stop, radii in pieces:
            part, distance = inside.tube(start, stop, radii)
            part.paint(np.maximum(distance, part.wall + 1.5), hu)


def _lesions(
    view: Canvas, liver: Array, label: NDArray[np.uint8], patient: Patient, liver_hu: float, draws: Draws
) -> tuple[Lesion, ...]:
    """Paint the lesions and mark them in ``label``; every third one touches the capsule."""
    z, y, x = (axis * patient.scale for axis in view.axes)
    lumps = smooth_noise(draws, view.axes, 7.0)
    depth = liver * -patient.scale  # millimetres of the patient below the capsule
    between = label == LIVER  # and so are the slices above and below: no lesion fades into the lung
    between[1:-1] &= (label[2:] != 0) & (label[:-2] != 0)
    placed: list[Lesion] = []
    for number in range(patient.lesions):
        diameter = _diameter(draws, patient.scale)
        radius = diameter * 0.5
        capsular = (number + patient.seed) % 3 == 0
        low, high = (radius * 0.35, radius * 0.7) if capsular else (radius + 2.5, 1e9)
        places = np.flatnonzero((depth > low) & (depth < high) & between)
        for _ in range(80 if places.size else 0):
            k, j, i = np.unravel_index(int(places[draws.integer(int(places.size))]), depth.shape)
            centre = (float(x[i]), float(y[j]), float(z[k]))
            if all(_apart(centre, other.centre) > radius + other.diameter * 0.5 + 7.0 for other in placed):
                break
        else:
            continue
        contrast = draws.uniform(42.0, 60.0) if diameter < 9.0 else draws.uniform(30.0, 60.0)
        lesion = Lesion(centre, diameter, liver_hu - contrast)
        squash = (draws.uniform(0.78, 0.98), draws.uniform(0.78, 0.98))
        dx, dy, dz = x - centre[0], (y - centre[1]) / squash[0], (z - centre[2]) / squash[1]
        reach = np.sqrt((dz * dz)[:, None, None] + (dy * dy)[:, None] + dx * dx)
        distance = np.maximum(reach - radius * (0.92 + 0.06 * np.clip(lumps, -1.0, 1.0)), -depth)
        parts, _ = ndimage.label((distance < 0.0) & (label != 0))
        distance[(distance < 0.0) & (parts != parts[k, j, i])] = 2.0 * view.soft  # what a fissure cut off
        view.paint(distance / patient.scale - 0.2 * view.soft, lesion.hu + 2.0 * lumps)
        label[parts == parts[k, j, i]] = LESION
        placed.append(lesion)
    return tuple(placed)


def _diameter(draws: Draws, scale: float) -> float:
    """Return a lesion's diameter in mm: mostly 9 to 25, one in twelve below 7."""
    if draws.uniform(0.0, 1.0) < 1.0 / 12.0:
        return draws.uniform(4.6, 7.0)
    return draws.uniform(9.0, 25.0) * (0.7 + 0.3 * scale)


def _apart(first: Point, second: Point) -> float:
    dx, dy, dz = (a - b for a, b in zip(first, second, strict=True))
    return float(np.sqrt(dx * dx + dy * dy + dz * dz))
