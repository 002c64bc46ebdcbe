"""Exponentials and what is made of them, lane by lane, for the compiled loops of `pentad.core.layers.lanes`.

On processors with AVX-512 float32 takes the instructions made for rounding, scaling and reciprocals; elsewhere, and for
float64, the same functions are put together from plain operations on numbers and their bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from pentad.core.layers.lanes import COUNT, Lanes, called, constant, emitted, fused

# 2^f for |f| <= 1/2: exactly 1 at 0, because an error near 1 is multiplied by the memory of a recurrence. For float32
# the polynomial of degree 5 whose error in 2^f - 1 is relatively smallest (5e-7 of it, 2e-7 of 2^f; rounding 2^f to
# float32 costs 2^f - 1 more wherever a state lasts longer than a step), for float64 the exponential series.
_EXP2 = {
    32: (0.6931471825, 0.2402234823, 0.0555033311, 0.0096663730, 0.0013400436),
    64: tuple(math.log(2) ** k / math.factorial(k) for k in range(1, 15)),
}
# log(1 + w) / s by powers of s^2, where s = w / (2 + w): for float32 minimax coefficients up to s = 1/3 (relative error
# 8e-9), for float64 the series of 2 artanh(s).
_LOG1P = {
    32: (2.0, 0.6666631699, 0.4002490938, 0.2796060145, 0.2817833424),
    64: tuple(2 / (2 * k + 1) for k in range(17)),
}
# Per width: mantissa bits, exponent of 2 beyond which a power is clamped.
_MANTISSA = {32: 23, 64: 52}
_EXPONENT = {32: 126.0, 64: 1022.0}


def _width(value: Any) -> int:
    return 32 if isinstance(value.type.element, ir.FloatType) else 64


def _has_avx512(context: Any, value: Any) -> bool:
    return _width(value) == 32 and "+avx512f" in context.codegen().magic_tuple()[2]


def _bounded(builder: Any, value: Any, low: Any, high: Any) -> Any:
    """Emit the value brought between two others; what is no number stays none."""
    value = builder.select(builder.fcmp_ordered(">", low, value), low, value)
    return builder.select(builder.fcmp_ordered("<", high, value), high, value)


def _negative(builder: Any, value: Any) -> Any:
    return builder.fsub(constant(value.type, -0.0), value)


def _minus_abs(builder: Any, value: Any) -> Any:
    zero = constant(value.type, 0.0)
    return builder.select(builder.fcmp_ordered(">", value, zero), builder.fsub(zero, value), value)


def _nearest(value: Any) -> ir.Constant:
    """Return 1.5 * 2^mantissa: adding it rounds to the nearest integer and leaves that in the low bits of the sum."""
    return constant(value.type, 1.5 * 2.0 ** _MANTISSA[_width(value)])


def _power_series(builder: Any, fraction: Any, coefficients: tuple[float, ...]) -> Any:
    result = constant(fraction.type, coefficients[-1])
    for coefficient in (*reversed(coefficients[:-1]), 1.0):
        result = fused(builder, result, fraction, constant(fraction.type, coefficient))
    return result


def _power(context: Any, builder: Any, factor: Any, value: Any) -> Any:
    """Emit 2 to the power of a product, exactly 1 where it is 0."""
    if _has_avx512(context, value):
        return _power_avx512(builder, factor, value)
    kind, width = value.type, _width(value)
    limit = _EXPONENT[width]
    product = _bounded(builder, builder.fmul(factor, value), constant(kind, -limit), constant(kind, limit))
    shifter = _nearest(value)
    shifted = builder.fadd(product, shifter)
    fraction = builder.fsub(product, builder.fsub(shifted, shifter))
    result = _power_series(builder, fraction, _EXP2[width])
    integers = ir.VectorType(ir.IntType(width), kind.count)
    exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [_MANTISSA[width]] * kind.count))
    return builder.bitcast(builder.add(builder.bitcast(result, integers), exponent), kind)


def _power_avx512(builder: Any, factor: Any, value: Any) -> Any:
    """Emit 2 to the power of a product of sixteen float32 values, below 1e14 in size, with the scaling made for it.

    Rounding within a fused sum takes one instruction less than multiplying first, and loses nothing of the product.
    """
    shifter = _nearest(value)
    whole = builder.fsub(fused(builder, factor, value, shifter), shifter)
    fraction = fused(builder, factor, value, _negative(builder, whole))
    result = _power_series(builder, fraction, _EXP2[32])
    return _avx512(builder, "mask.scalef.ps.512", [result, whole, result], [ir.Constant(ir.IntType(32), 4)])


def _avx512(builder: Any, name: str, vectors: list[Any], modes: list[Any]) -> Any:
    """Emit one of LLVM's masked AVX-512 functions for every lane of a vector, or of several joined in one."""
    every = ir.Constant(ir.IntType(COUNT), -1)
    made = []
    for arguments in zip(*(_parts(builder, vector) for vector in vectors), strict=True):
        call = [*arguments, every, *modes]
        made.append(called(builder, f"llvm.x86.avx512.{name}", arguments[0].type, call))
    return _joined(builder, made)


def _parts(builder: Any, value: Any) -> list[Any]:
    """Emit the vectors that `_joined` put together."""
    if value.type.count == COUNT:
        return [value]
    starts = range(0, value.type.count, COUNT)
    masks = [ir.Constant(ir.VectorType(ir.IntType(32), COUNT), [*range(k, k + COUNT)]) for k in starts]
    return [builder.shuffle_vector(value, value, mask) for mask in masks]


def _joined(builder: Any, vectors: Sequence[Any]) -> Any:
    """Emit vectors (their number a power of two) as one: what is done with it is done with all of them in turns.

    A processor looks only so far ahead: of long chains of operations, one after the other, it would start one or two.
    """
    while len(vectors) > 1:
        count = 2 * vectors[0].type.count
        mask = ir.Constant(ir.VectorType(ir.IntType(32), count), [*range(count)])
        vectors = [builder.shuffle_vector(a, b, mask) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _reciprocal(context: Any, builder: Any, value: Any) -> Any:
    """Emit 1 / value for values around 1; the guess of AVX-512 is right in 14 bits, a step of Newton's in all but one.

    Division takes the processor as long as eight products.
    """
    one = constant(value.type, 1.0)
    if not _has_avx512(context, value):
        return builder.fdiv(one, value)
    guess = _avx512(builder, "rcp14.ps.512", [value, constant(value.type, 0.0)], [])
    missing = fused(builder, _negative(builder, value), guess, one)
    return fused(builder, guess, missing, guess)


def _log1p(context: Any, builder: Any, value: Any) -> Any:
    """Emit log(1 + value) for 0 <= value <= 1 as 2 artanh(value / (2 + value)), relative error near one last bit."""
    kind = value.type
    coefficients = _LOG1P[_width(value)]
    s = builder.fmul(value, _reciprocal(context, builder, builder.fadd(value, constant(kind, 2.0))))
    square = builder.fmul(s, s)
    result = constant(kind, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = fused(builder, result, square, constant(kind, coefficient))
    return builder.fmul(result, s)


@emitted
def bounded(typing: Any, value: Lanes, limit: Lanes) -> Any:
    """Return each lane brought between -limit and limit."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _bounded(builder, args[0], _negative(builder, args[1]), args[1])

    return value(value, limit), codegen


@emitted
def power(typing: Any, factor: Lanes, value: Lanes) -> Any:
    """Return 2^(factor * value) of each lane; the product must stay below 1e14 in size."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _power(context, builder, *args)

    return value(factor, value), codegen


def _exp_minus_abs(context: Any, builder: Any, x: Any) -> Any:
    negative, least = _minus_abs(builder, x), constant(x.type, -1e3)  # exp(-1000) is 0
    negative = builder.select(builder.fcmp_ordered(">", least, negative), least, negative)
    return _power(context, builder, negative, constant(x.type, 1 / math.log(2)))


def _softplus(context: Any, builder: Any, x: Any, decayed: Any) -> Any:
    zero = constant(x.type, 0.0)
    positive = builder.select(builder.fcmp_unordered("<", x, zero), zero, x)
    return builder.fadd(positive, _log1p(context, builder, decayed))


@emitted
def exp_minus_abs(typing: Any, value: Lanes) -> Any:
    """Return exp(-|x|) of each lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _exp_minus_abs(context, builder, *args)

    return value(value), codegen


@emitted
def softplus(typing: Any, value: Lanes, decayed: Lanes) -> Any:
    """Return log(1 + exp(x)) of each lane, given ``exp_minus_abs(x)``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _softplus(context, builder, *args)

    return value(value, decayed), codegen


@emitted
def four_softplus(typing: Any, a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> Any:
    """Return log(1 + exp(x)) of each lane of four vectors, worked out side by side."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        joined = _joined(builder, args)
        found = _softplus(context, builder, joined, _exp_minus_abs(context, builder, joined))
        return context.make_tuple(builder, sig.return_type, _parts(builder, found))

    four = types.UniTuple(a, 4)  # type: ignore[no-untyped-call]
    return four(a, b, c, d), codegen


@emitted
def four_powers(typing: Any, a: Lanes, b: Lanes, c: Lanes, d: Lanes, limit: Lanes, value: Lanes) -> Any:
    """Return `power` of four factors, each `bounded` by the limit, with the same value, worked out side by side."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor, limits, values = (_joined(builder, x) for x in (args[:4], [args[4]] * 4, [args[5]] * 4))
        factor = _bounded(builder, factor, _negative(builder, limits), limits)
        return context.make_tuple(builder, sig.return_type, _parts(builder, _power(context, builder, factor, values)))

    four = types.UniTuple(a, 4)  # type: ignore[no-untyped-call]
    return four(a, b, c, d, limit, value), codegen


@emitted
def sigmoid(typing: Any, value: Lanes, decayed: Lanes) -> Any:
    """Return 1 / (1 + exp(-x)) of each lane, given ``exp_minus_abs(x)``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, w = args
        zero, one = constant(x.type, 0.0), constant(x.type, 1.0)
        share = builder.select(builder.fcmp_ordered("<", x, zero), w, one)
        return builder.fmul(share, _reciprocal(context, builder, builder.fadd(one, w)))

    return value(value, decayed), codegen
