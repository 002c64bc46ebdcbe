"""Compiled loops of narrow convolutions and of the norms between them, on processors with sixteen lanes.

A convolution copies its input into rows with room for the borders. In that copy every tap of the kernel is a fixed
offset, so an output is a walk over (channel, tap) pairs whatever the number of axes, and positions lie side by side in
the lanes. A tile of outputs stays in registers for the whole walk. Positions in the room beside the rows are computed
and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from pentad.core.layers.lanes import (
    COUNT,
    Address,
    Lanes,
    compiled,
    copy_row,
    emitted,
    fma,
    fused,
    get,
    load,
    put,
    spread,
    store,
    zeros,
)
from pentad.medical.models.convolution_layout import HEAD, Layout

_VALUES = 1024  # added up in float32 before they go to a float64 sum


def _tile(outputs: int, vectors: int) -> Callable[..., None]:
    """Return what computes ``outputs`` channels at ``vectors`` times sixteen positions."""

    @emitted
    def tile(  # noqa: PLR0913 - instructions, not a function: every argument is a register
        typing: Any, x: Any, at: Any, taps: Any, count: Any, weights: Any, first: Any, out: Any, to: Any, pitch: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _emit_tile(builder, args, (outputs, vectors))
            return context.get_dummy_value()

        places = types.intp
        return types.void(x, places, taps, places, weights, places, out, places, places), codegen

    return tile


def _emit_tile(builder: Any, args: Any, size: tuple[int, int]) -> None:
    """Emit sums that begin with the bias, stand before the weights, and take in every tap."""
    x, at, taps, count, weights, first, out, to, pitch = args
    outputs, vectors = size
    number, kind = ir.IntType(64), ir.VectorType(ir.FloatType(), COUNT)
    pairs = [(o, v) for o in range(outputs) for v in range(vectors)]

    def whole(value: int) -> ir.Constant:
        return ir.Constant(number, value)

    def vector(base: Any, place: Any) -> Any:
        return builder.bitcast(builder.gep(base, [place]), kind.as_pointer())

    def splat(place: Any) -> Any:
        one = builder.load(builder.gep(weights, [place]))
        filled = builder.insert_element(ir.Constant(kind, ir.Undefined), one, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(filled, filled, ir.Constant(ir.VectorType(ir.IntType(32), COUNT), None))

    biases = [splat(builder.add(first, whole(o))) for o in range(outputs)]
    before, walk, after = builder.block, builder.append_basic_block("taps"), builder.append_basic_block("sums")
    builder.branch(walk)
    builder.position_at_end(walk)
    tap = builder.phi(number)
    tap.add_incoming(whole(0), before)
    sums = {pair: builder.phi(kind) for pair in pairs}
    for (o, _), total in sums.items():
        total.add_incoming(biases[o], before)
    place = builder.add(at, builder.load(builder.gep(taps, [builder.add(tap, whole(HEAD))])))
    values = [builder.load(vector(x, builder.add(place, whole(v * COUNT))), align=4) for v in range(vectors)]
    row = builder.add(first, builder.mul(builder.add(tap, whole(1)), whole(outputs)))
    for o in range(outputs):
        weight = splat(builder.add(row, whole(o)))
        for v in range(vectors):
            sums[o, v].add_incoming(fused(builder, values[v], weight, sums[o, v]), walk)
    following = builder.add(tap, whole(1))
    tap.add_incoming(following, walk)
    builder.cbranch(builder.icmp_signed("<", following, count), walk, after)
    builder.position_at_end(after)
    for o, v in pairs:
        spot = builder.add(builder.add(to, builder.mul(pitch, whole(o))), whole(v * COUNT))
        builder.store(sums[o, v].incomings[1][0], vector(out, spot), align=4)


# Twenty-four sums each: what 32 registers hold beside the values they come from.
_four, _eight, _twelve = _tile(4, 6), _tile(8, 3), _tile(12, 2)


@emitted
def _leaky(typing: Any, a: Lanes, slope: Lanes) -> Any:
    """Return ``a`` where it is above 0, else ``a`` times the slope."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = args[0].type
        above = builder.fcmp_ordered(">", args[0], ir.Constant(kind, [0.0] * COUNT))
        return builder.select(above, args[0], builder.fmul(*args))

    return a(a, slope), codegen


@emitted
def interleave(typing: Any, a: Lanes, b: Lanes, out: Any, to: Any) -> Any:
    """Write the lanes of two vectors taking turns."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, second, out, to = args
        order = [lane for k in range(COUNT) for lane in (k, k + COUNT)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 2 * COUNT), order)
        both = builder.shuffle_vector(first, second, mask)
        builder.store(both, builder.bitcast(builder.gep(out, [to]), both.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(a, b, out, types.intp), codegen


@compiled
def _layout(n: Any) -> Layout:
    return Layout(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15])


@compiled
def _blank(w: Address, at: int, count: int) -> None:
    for i in range(at, at + count):
        put(w, i, 0.0)


@compiled
def _fill(w: Address, s: Layout, source: Address, sample: int, first: int) -> None:
    """Copy the planes from ``first`` on, with borders of zeros, to the task's memory."""
    pitch, rows = s.width + s.kernel_x - 1, s.height + s.kernel_y - 1
    left, above = s.kernel_x // 2, s.kernel_y // 2
    for c in range(s.inputs):
        for plane in range(s.planes + s.kernel_z - 1):
            z = first + plane - s.kernel_z // 2
            to = (c * (s.planes + s.kernel_z - 1) + plane) * rows * pitch
            if z < 0 or z >= s.depth:
                _blank(w, to, rows * pitch)
                continue
            at = ((sample * s.inputs + c) * s.depth + z) * s.height * s.width
            _blank(w, to, above * pitch)
            for y in range(s.height):
                row = to + (above + y) * pitch
                _blank(w, row, left)
                copy_row(source, at + y * s.width, w, row + left, s.width)
                _blank(w, row + left + s.width, pitch - left - s.width)
            _blank(w, to + (above + s.height) * pitch, (rows - above - s.height) * pitch)


@compiled
def _spread_row(w: Address, at: int, out: Address, to: int, count: int, step: int) -> None:
    """Copy numbers that lie side by side to places ``step`` apart."""
    for i in range(count):
        put(out, to + i * step, get(w, at + i))


@compiled
def _pair_rows(w: Address, at: int, other: int, out: Address, to: int, count: int) -> None:
    """Copy two rows of numbers to one, taking turns."""
    whole = count - count % COUNT
    for i in range(0, whole, COUNT):
        interleave(load(w, at + i), load(w, other + i), out, to + 2 * i)
    for i in range(whole, count):
        put(out, to + 2 * i, get(w, at + i))
        put(out, to + 2 * i + 1, get(w, other + i))


@compiled
def _collect(w: Address, s: Layout, out: Address, place: tuple[int, int, int], span: int) -> None:
    """Copy the outputs of one block of channels out of the task's memory, without the room beside the rows."""
    sample, first, channel = place
    pitch, rows = s.width + s.kernel_x - 1, s.height + s.kernel_y - 1
    for o in range(min(s.block, s.outputs - channel)):
        # Outputs are (map, z, y, x) with the positions that an input's becomes innermost.
        number, x = (channel + o) // s.step_x, (channel + o) % s.step_x
        number, y0 = number // s.step_y, number % s.step_y
        number, z0 = number // s.step_z, number % s.step_z
        if s.step_x == 2 and x == 1:
            continue  # it went with the one before
        for z in range(min(s.planes, s.depth - first)):
            for y in range(s.height):
                at = s.results + o * span + (z * rows + y) * pitch
                row = (sample * s.maps + number) * s.depth * s.step_z + (first + z) * s.step_z + z0
                to = ((row * s.height + y) * s.step_y + y0) * s.width * s.step_x + x
                if s.step_x == 1:
                    copy_row(w, at, out, to, s.width)
                elif s.step_x == 2:
                    _pair_rows(w, at, at + span, out, to, s.width)
                else:
                    _spread_row(w, at, out, to, s.width, s.step_x)


@compiled
def _convolve(x: Address, weights: Address, out: Address, w: Address, n: Any, index: int) -> None:
    s = _layout(n)
    sample, first = index // s.parts, index % s.parts * s.planes
    pitch, rows = s.width + s.kernel_x - 1, s.height + s.kernel_y - 1
    step = 24 // s.block * COUNT
    last = (min(s.planes, s.depth - first) - 1) * rows * pitch + (s.height - 1) * pitch + s.width
    span = (last + step - 1) // step * step
    taps = s.inputs * s.kernel_z * s.kernel_y * s.kernel_x
    _fill(w, s, x, sample, first)
    for channel in range(0, s.outputs, s.block):
        row = channel * (taps + 1)
        for p in range(0, span, step):
            if s.block == 12:
                _twelve(w, p, n, taps, weights, row, w, s.results + p, span)
            elif s.block == 8:
                _eight(w, p, n, taps, weights, row, w, s.results + p, span)
            else:
                _four(w, p, n, taps, weights, row, w, s.results + p, span)
        _collect(w, s, out, (sample, first, channel), span)


def convolve_task(x: Any, weights: Any, out: Any, work: Any, numbers: Any, index: int) -> None:
    """Convolve some planes of one sample; every argument but the task's number is an address.

    Args:
        x: Maps (b, inputs, z, y, x).
        weights: Per block of outputs its biases, then for each input channel and tap its weights.
        out: Maps (b, maps, z, y, x), of which those of the outputs are written.
        work: The task's memory.
        numbers: `Layout`, then the offsets of the taps.
        index: Sample and part.
    """
    _convolve(x, weights, out, work, numbers, index)


@compiled
def _lanes_of(w: Address) -> float:
    total = 0.0
    for lane in range(COUNT):
        total += get(w, lane)
    return total


@compiled
def _sum(x: Address, w: Address, at: int, count: int, centre: float, squared: bool) -> float:
    """Return the sum of values, or of squared distances from ``centre``, in float64."""
    total = 0.0
    put(w, COUNT, centre)
    middle = spread(w, COUNT)
    whole = count - count % COUNT
    for start in range(0, whole, _VALUES):
        even, odd = zeros(x), zeros(x)
        stop = min(start + _VALUES, whole)
        for i in range(start, stop - COUNT, 2 * COUNT):
            a, b = load(x, at + i) - middle, load(x, at + i + COUNT) - middle
            even, odd = (fma(a, a, even), fma(b, b, odd)) if squared else (even + a, odd + b)
        if (stop - start) // COUNT % 2:
            a = load(x, at + stop - COUNT) - middle
            even = fma(a, a, even) if squared else even + a
        store(w, 0, even + odd)
        total += _lanes_of(w)
    for i in range(whole, count):
        rest = get(x, at + i) - centre
        total += rest * rest if squared else rest
    return total


@compiled
def _normalise(x: Address, affine: Address, constants: Address, w: Address, n: Any, index: int) -> None:
    maps, share, channels, count = n[0], n[1], n[2], n[3]
    slope = get(constants, 1)
    for number in range(index * share, min((index + 1) * share, maps)):
        at, c = number * count, number % channels
        mean = _sum(x, w, at, count, 0.0, False) / count
        variance = _sum(x, w, at, count, mean, True) / count
        scale = get(affine, c) / (variance + get(constants, 0)) ** 0.5
        shift = get(affine, channels + c) - mean * scale
        put(w, 0, scale)
        put(w, 1, shift)
        factor, offset, low = spread(w, 0), spread(w, 1), spread(constants, 1)
        whole = count - count % COUNT
        for i in range(at, at + whole, COUNT):
            store(x, i, _leaky(fma(load(x, i), factor, offset), low))
        for i in range(at + whole, at + count):
            value = get(x, i) * scale + shift
            put(x, i, value if value > 0 else value * slope)


def normalise_task(x: Any, affine: Any, constants: Any, work: Any, numbers: Any, index: int) -> None:
    """Give some maps mean 0 and variance 1, weight and bias, and a leaky rectifier, in place.

    Args:
        x: Maps (b, channels, …).
        affine: Weights of the channels, then their biases.
        constants: What is added to variances, and the slope below 0, 1 for no rectifier.
        work: The task's memory.
        numbers: Maps in all and for a task, channels, values of a map.
        index: Task.
    """
    _normalise(x, affine, constants, work, numbers, index)
