"""Generated environmental sounds: functions of a stream of random integers, exact on every machine.

Only additions, multiplications, divisions and square roots of float64 are used, and sums of integers: no library's
sine, whose last digit differs from processor to processor. Times are in samples of `RATE`, amplitudes about 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pentad.core.draws import Draws

RATE = 16_000

Wave = NDArray[np.floating]

# sin(2πx) for x in -1/4 … 1/4 as a polynomial in x (Taylor's, to x^13: the error is below 1e-9).
_SINE = (
    6.283185307179586,
    -41.341702240399755,
    81.60524927607504,
    -76.70585975306136,
    42.05869394489765,
    -15.094642576822984,
    3.8199525848482803,
)
_FINE = 1 << 20


def duration(draws: Draws, low: float, high: float) -> int:
    """Return a duration between ``low`` and ``high`` seconds, in samples."""
    return int(draws.uniform(low, high) * RATE)


def noise(draws: Draws, count: int, *widths: int) -> Wave:
    """Return noise of standard deviation about 1, smoothed by moving averages of the given widths.

    The averages are sums of integers, so that their order cannot matter.
    """
    values = (draws.raw(count + sum(widths)) >> np.uint64(48)).astype(np.int64) - (1 << 15)
    spread = 1.0
    for width in widths:
        sums = np.cumsum(values)
        values = sums[width:] - sums[:-width]
        spread = spread * np.sqrt(width)
    return np.asarray(values * (1.0 / (18918.6 * spread)), dtype=np.float64)


def sine(cycles: Wave) -> Wave:
    """Return sin(2π · cycles)."""
    part = cycles - np.rint(cycles)
    part = np.where(part > 0.25, 0.5 - part, np.where(part < -0.25, -0.5 - part, part))
    square = part * part
    total = np.full_like(part, _SINE[-1])
    for factor in _SINE[-2::-1]:
        total = total * square + factor
    return np.asarray(total * part)


def tone(hertz: Wave) -> Wave:
    """Return a sine of a frequency given for every sample."""
    return sine(np.cumsum(hertz) / RATE)


def ramp(count: int) -> Wave:
    """Return numbers from 0 to 1."""
    return np.arange(count, dtype=np.float64) / max(count - 1, 1)


def decay(count: int, power: int) -> Wave:
    """Return a fall from 1 to 0, the steeper the higher the power."""
    fall = 1.0 - ramp(count)
    total = np.ones(count)
    for _ in range(power):
        total = total * fall
    return total


def faded(wave: Wave, edge: int = 160) -> Wave:
    """Return the wave with short straight fades, so that it neither begins nor ends with a click."""
    edge = min(edge, len(wave) // 2)
    envelope = np.ones(len(wave))
    envelope[:edge] = ramp(edge)
    envelope[len(wave) - edge :] = 1.0 - ramp(edge)
    return wave * envelope


def triangle(cycles: Wave) -> Wave:
    """Return a triangle wave between 0 and 1 with its peak in the middle of each cycle."""
    part = cycles - np.floor(cycles)
    return np.asarray(1.0 - np.abs(2.0 * part - 1.0))


def root_mean_square(wave: Wave) -> float:
    """Return the root mean square, summed in integers."""
    fine = np.rint(wave * _FINE).astype(np.int64)
    return float(np.sqrt(int((fine * fine).sum()) / max(len(wave), 1)) / _FINE)


def _engine(draws: Draws) -> Wave:
    count = duration(draws, 1.2, 2.4)
    pitch = draws.uniform(45, 90) * (1.0 + 0.15 * triangle(ramp(count)))
    total = sum(tone(pitch * part) / part for part in range(1, 8))
    return np.asarray(np.asarray(total) * (0.7 + 0.3 * tone(pitch / 2)) + 0.3 * noise(draws, count, 12, 12))


def _siren(draws: Draws) -> Wave:
    count = duration(draws, 1.4, 2.6)
    low, sweep = draws.uniform(500, 700), draws.uniform(500, 800)
    pitch = low + sweep * triangle(np.arange(count) * (draws.uniform(0.6, 1.6) / RATE))
    return np.asarray(tone(pitch) + 0.4 * tone(2 * pitch) + 0.2 * tone(3 * pitch))


def _bell(draws: Draws) -> Wave:
    count = duration(draws, 0.9, 1.8)
    base = draws.uniform(700, 1300)
    parts = ((1.0, 1.0, 3), (2.0, 0.6, 4), (2.76, 0.5, 5), (4.1, 0.35, 6), (5.4, 0.25, 8))
    return np.asarray(sum(size * tone(np.full(count, base * at)) * decay(count, power) for at, size, power in parts))


def _rain(draws: Draws) -> Wave:
    count = duration(draws, 1.4, 2.6)
    wave = noise(draws, count + 1)
    wave = wave[1:] - 0.6 * wave[:-1]
    for _ in range(count // 500):
        start, length = draws.integer(count - 90), 30 + draws.integer(60)
        wave[start : start + length] += 4.0 * noise(draws, length) * decay(length, 2)
    return wave


def _wind(draws: Draws) -> Wave:
    count = duration(draws, 1.6, 2.8)
    gust = 0.35 + 0.65 * triangle(np.arange(count) * (draws.uniform(0.5, 1.1) / RATE) + draws.uniform(0, 1))
    return noise(draws, count, 40, 25, 16) * gust


def _chirps(draws: Draws) -> Wave:
    parts = []
    base = draws.uniform(3000, 4500)
    for _ in range(4 + draws.integer(4)):
        count = duration(draws, 0.05, 0.1)
        rise = draws.uniform(600, 1500) * (1 if draws.integer(3) else -1)
        parts += [faded(tone(base + rise * ramp(count)), 200), np.zeros(duration(draws, 0.03, 0.09))]
    return np.concatenate(parts[:-1])


def _footsteps(draws: Draws) -> Wave:
    parts = []
    pause = draws.uniform(0.28, 0.4)
    for _ in range(3 + draws.integer(3)):
        count = duration(draws, 0.07, 0.1)
        thud = noise(draws, count, 30, 12) * decay(count, 3) + 0.15 * noise(draws, count, 2) * decay(count, 8)
        parts += [thud, np.zeros(int(pause * RATE))]
    return np.concatenate(parts[:-1])


def _alarm(draws: Draws) -> Wave:
    parts = []
    pitch, length = draws.uniform(2000, 2900), draws.uniform(0.08, 0.14)
    for _ in range(4 + draws.integer(4)):
        count = int(length * RATE)
        beep = np.full(count, pitch)
        parts += [faded(tone(beep) + 0.3 * tone(3 * beep), 60), np.zeros(count)]
    return np.concatenate(parts[:-1])


def _drops(draws: Draws) -> Wave:
    parts = []
    for _ in range(3 + draws.integer(4)):
        count = duration(draws, 0.05, 0.08)
        pitch = draws.uniform(700, 1100) * (1.0 + 0.9 * ramp(count))
        parts += [faded(tone(pitch) * decay(count, 2), 20), np.zeros(duration(draws, 0.12, 0.3))]
    return np.concatenate(parts[:-1])


def _saw(draws: Draws) -> Wave:
    count = duration(draws, 1.3, 2.4)
    stroke = triangle(np.arange(count) * (draws.uniform(2.0, 3.2) / RATE))
    teeth = 0.5 + 0.5 * tone(draws.uniform(150, 230) * (0.7 + 0.6 * stroke))
    wave = noise(draws, count + 2, 3)
    return (wave[2:] - wave[:-2]) * stroke * stroke * teeth


SOUNDS: dict[str, Callable[[Draws], Wave]] = {
    "alarm": _alarm,
    "bell": _bell,
    "chirps": _chirps,
    "drops": _drops,
    "engine": _engine,
    "footsteps": _footsteps,
    "rain": _rain,
    "saw": _saw,
    "siren": _siren,
    "wind": _wind,
}
"""Class to generator: a stream of draws in, one event out."""


def sound(name: str, draws: Draws) -> Wave:
    """Return one event of a class, with short fades and a root mean square of 1."""
    wave = faded(SOUNDS[name](draws))
    return wave / root_mean_square(wave)


def background(kind: str, draws: Draws, count: int) -> Wave:
    """Return background noise of root mean square 1: ``room``, ``street`` or ``hiss``."""
    if kind == "hiss":
        wave = noise(draws, count, 2)
    elif kind == "street":
        wave = noise(draws, count, 60, 20) + 0.25 * noise(draws, count, 4) + 0.1 * noise(draws, count)
    else:
        clock = np.arange(count, dtype=np.float64)
        hum = sine(clock * (50.0 / RATE)) + 0.5 * sine(clock * (100.0 / RATE))
        wave = noise(draws, count, 8, 3) + 0.3 * hum
    return wave / root_mean_square(wave)


BACKGROUNDS = ("room", "street", "hiss")
