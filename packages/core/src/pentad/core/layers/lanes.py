"""A Numba vector type: sixteen numbers that one instruction, or a few, work on side by side.

Numba's own loops over a short axis lose most of their time to checks that arrays do not overlap; with the vector as a
type of its own the compiled code is that of the written expressions. The code is LLVM's portable vector form, which
becomes AVX-512, AVX2, SSE or NEON as the machine has it. Only sums and products written as `fma` are fused, and nothing
is reassociated, so results do not depend on the compiler's choices.

Inside compiled functions: ``a + b``, ``a - b``, ``a * b`` on vectors, and the functions below. A tile is a run of
vectors, one per step, that copies a part of a tensor with its channels side by side.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

Function = TypeVar("Function", bound=Callable[..., Any])
# A pointer to numbers of one type; a type of its own for Numba only.
Address = Any

COUNT = 16

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


class Lanes(types.Type):
    """Numba's type of `COUNT` float32 or float64 values."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")


def _vector(element: types.Float) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if element.bitwidth == 32 else ir.DoubleType(), COUNT)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, _vector(fe_type.element))  # type: ignore[no-untyped-call]


class _Arithmetic(AbstractTemplate):
    def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        if not kws and len(args) == 2 and isinstance(args[0], Lanes) and args[0] == args[1]:
            return signature(args[0], *args)  # type: ignore[no-untyped-call]
        return None


def _operator(operation: Callable[..., Any], emitted: str) -> None:
    """Give the operator on two vectors the builder's instruction of that name."""
    register: Callable[..., Any] = infer_global
    lower: Callable[..., Any] = lower_builtin
    register(operation)(type("_LanesTemplate", (_Arithmetic,), {}))
    lower(operation, Lanes, Lanes)(lambda context, builder, sig, args: getattr(builder, emitted)(*args))


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")


def _emitted(typing: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Callable[..., Any], intrinsic(typing))


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _pointer(builder: Any, element: types.Float, numbers: Any, index: Any) -> Any:
    """Return the address of a number as that of a vector."""
    return builder.bitcast(builder.gep(numbers, [index]), _vector(element).as_pointer())


def _called(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Emit a call of one of LLVM's own functions."""
    insert: Callable[..., Any] = cgutils.get_or_insert_function
    function = insert(builder.module, ir.FunctionType(result, [argument.type for argument in arguments]), name)
    return builder.call(function, arguments)


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once where the machine can."""
    kind = a.type
    name = f"llvm.fmuladd.v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    return _called(builder, name, kind, [a, b, c])


def _clamped(builder: Any, value: Any, limit: float) -> Any:
    low, high = _constant(value.type, -limit), _constant(value.type, limit)
    value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
    return builder.select(builder.fcmp_ordered("<", value, high), value, high)


def _power_series(builder: Any, fraction: Any, coefficients: tuple[float, ...]) -> Any:
    result = _constant(fraction.type, coefficients[-1])
    for coefficient in (*reversed(coefficients[:-1]), 1.0):
        result = _fused(builder, result, fraction, _constant(fraction.type, coefficient))
    return result


def _power(context: Any, builder: Any, value: Any) -> Any:
    """Emit 2 to the power of ``value``, exactly 1 at 0."""
    kind = value.type
    width = 32 if isinstance(kind.element, ir.FloatType) else 64
    if width == 32 and "+avx512f" in context.codegen().magic_tuple()[2]:
        return _power_avx512(builder, value)
    mantissa = _MANTISSA[width]
    value = _clamped(builder, value, _EXPONENT[width])
    # Adding 1.5 * 2^mantissa rounds to the nearest integer and leaves it in the low bits of the sum.
    shifter = _constant(kind, 1.5 * 2.0**mantissa)
    shifted = builder.fadd(value, shifter)
    fraction = builder.fsub(value, builder.fsub(shifted, shifter))
    result = _power_series(builder, fraction, _EXP2[width])
    integers = ir.VectorType(ir.IntType(width), kind.count)
    exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [mantissa] * kind.count))
    return builder.bitcast(builder.add(builder.bitcast(result, integers), exponent), kind)


def _power_avx512(builder: Any, value: Any) -> Any:
    """Emit 2 to the power of sixteen float32 values with the two instructions made for it, rounding and scaling."""
    kind = value.type
    lowest = _constant(kind, -1e30)  # infinity minus infinity would be no number
    value = builder.select(builder.fcmp_ordered(">", lowest, value), lowest, value)
    whole = _called(builder, f"llvm.rint.v{COUNT}f32", kind, [value])
    result = _power_series(builder, builder.fsub(value, whole), _EXP2[32])
    every, nearest = ir.Constant(ir.IntType(COUNT), -1), ir.Constant(ir.IntType(32), 4)
    return _called(builder, "llvm.x86.avx512.mask.scalef.ps.512", kind, [result, whole, result, every, nearest])


def _log1p(builder: Any, value: Any) -> Any:
    """Emit log(1 + value) for 0 <= value <= 1 as 2 artanh(value / (2 + value)), relative error near one last bit."""
    kind = value.type
    coefficients = _LOG1P[32 if isinstance(kind.element, ir.FloatType) else 64]
    s = builder.fdiv(value, builder.fadd(value, _constant(kind, 2.0)))
    square = builder.fmul(s, s)
    result = _constant(kind, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = _fused(builder, result, square, _constant(kind, coefficient))
    return builder.fmul(result, s)


@_emitted
def fma(typing: Any, a: Lanes, b: Lanes, c: Lanes) -> Any:
    """Return a * b + c."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fused(builder, *args)

    return a(a, b, c), codegen


@_emitted
def exp2(typing: Any, value: Lanes) -> Any:
    """Return 2 to the power of each lane, at least the smallest and at most the largest power of two."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _power(context, builder, args[0])

    return value(value), codegen


@_emitted
def exp_minus_abs(typing: Any, value: Lanes) -> Any:
    """Return exp(-|x|) of each lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (x,) = args
        zero = _constant(x.type, 0.0)
        negative = builder.select(builder.fcmp_ordered(">", x, zero), builder.fsub(zero, x), x)
        return _power(context, builder, builder.fmul(negative, _constant(x.type, 1 / math.log(2))))

    return value(value), codegen


@_emitted
def softplus(typing: Any, value: Lanes, decayed: Lanes) -> Any:
    """Return log(1 + exp(x)) of each lane, given ``exp_minus_abs(x)``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, w = args
        zero = _constant(x.type, 0.0)
        positive = builder.select(builder.fcmp_unordered("<", x, zero), zero, x)
        return builder.fadd(positive, _log1p(builder, w))

    return value(value, decayed), codegen


@_emitted
def sigmoid(typing: Any, value: Lanes, decayed: Lanes) -> Any:
    """Return 1 / (1 + exp(-x)) of each lane, given ``exp_minus_abs(x)``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, w = args
        zero, one = _constant(x.type, 0.0), _constant(x.type, 1.0)
        share = builder.select(builder.fcmp_ordered("<", x, zero), w, one)
        return builder.fdiv(share, builder.fadd(one, w))

    return value(value, decayed), codegen


@_emitted
def get(typing: Any, numbers: Any, index: Any) -> Any:
    """Return one of the numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return numbers.dtype(numbers, types.intp), codegen


@_emitted
def put(typing: Any, numbers: Any, index: Any, value: Any) -> Any:
    """Replace one of the numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(numbers, types.intp, numbers.dtype), codegen


@_emitted
def load(typing: Any, numbers: Any, index: Any) -> Any:
    """Return the vector of the numbers from ``index`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(builder, numbers.dtype, *args)
        return builder.load(pointer, align=numbers.dtype.bitwidth // 8)

    return Lanes(numbers.dtype)(numbers, types.intp), codegen


@_emitted
def store(typing: Any, numbers: Any, index: Any, value: Lanes) -> Any:
    """Write the vector to the numbers from ``index`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(builder, numbers.dtype, *args[:2])
        builder.store(args[2], pointer, align=numbers.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(numbers, types.intp, value), codegen


@_emitted
def spread(typing: Any, numbers: Any, index: Any) -> Any:
    """Return a vector with one number in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, builder.load(builder.gep(args[0], [args[1]])), _vector(numbers.dtype))

    return Lanes(numbers.dtype)(numbers, types.intp), codegen


@_emitted
def zeros(typing: Any, numbers: Any) -> Any:
    """Return a vector of zeros of the numbers' type."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _constant(_vector(numbers.dtype), 0.0)

    return Lanes(numbers.dtype)(numbers), codegen


def _splat(builder: Any, scalar: Any, kind: ir.VectorType) -> Any:
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None))


def _mask(positions: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(positions)), positions)


def _interleaved(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Emit a0 b0 a1 b1 … in two vectors."""
    order = [position for k in range(COUNT) for position in (k, k + COUNT)]
    return builder.shuffle_vector(a, b, _mask(order[:COUNT])), builder.shuffle_vector(a, b, _mask(order[COUNT:]))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Emit the transpose of a square of vectors: interleaving the halves once per bit of the index."""
    for _ in range(COUNT.bit_length() - 1):
        pairs = zip(rows[: COUNT // 2], rows[COUNT // 2 :], strict=True)
        rows = [row for pair in pairs for row in _interleaved(builder, *pair)]
    return rows


def _folded(builder: Any, a: Any, b: Any, group: int) -> Any:
    """Emit the sums of neighbouring groups of lanes, those of ``a`` before those of ``b``."""
    first = [start + k for start in range(0, 2 * COUNT, 2 * group) for k in range(group)]
    second = [position + group for position in first]
    return builder.fadd(builder.shuffle_vector(a, b, _mask(first)), builder.shuffle_vector(a, b, _mask(second)))


def _row(builder: Any, start: Any, stride: Any, k: int) -> Any:
    return builder.add(start, builder.mul(stride, ir.Constant(stride.type, k)))


@_emitted
def transpose(typing: Any, source: Any, start: Any, stride: Any, target: Any, start_to: Any, stride_to: Any) -> Any:
    """Copy a square of `COUNT` rows, ``stride`` apart from ``start`` on, turned, to ``target``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = source.dtype.bitwidth // 8
        places = [_row(builder, args[1], args[2], k) for k in range(COUNT)]
        rows = [builder.load(_pointer(builder, source.dtype, args[0], p), align=align) for p in places]
        for k, row in enumerate(_transposed(builder, rows)):
            place = _row(builder, args[4], args[5], k)
            builder.store(row, _pointer(builder, target.dtype, args[3], place), align=align)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


@_emitted
def lane_sums(typing: Any, numbers: Any, index: Any) -> Any:
    """Return the sums over the lanes of `COUNT` vectors lying one after the other from ``index`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = numbers.dtype.bitwidth // 8
        places = [_row(builder, args[1], ir.Constant(args[1].type, COUNT), k) for k in range(COUNT)]
        rows = [builder.load(_pointer(builder, numbers.dtype, args[0], p), align=align) for p in places]
        group = COUNT
        while len(rows) > 1:
            group //= 2
            rows = [_folded(builder, *pair, group) for pair in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return Lanes(numbers.dtype)(numbers, types.intp), codegen


@_emitted
def quad_sums(typing: Any, a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> Any:
    """Return four partial sums over the lanes of each vector, those of ``a`` first."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        half = COUNT // 2
        first, second = _folded(builder, args[0], args[1], half), _folded(builder, args[2], args[3], half)
        return _folded(builder, first, second, half // 2)

    return a(a, b, c, d), codegen


@_emitted
def finish_quads(typing: Any, source: Any, start: Any, target: Any, to: Any, stride: Any) -> Any:
    """Add up the parts of `COUNT` results of `quad_sums`, to four rows ``stride`` apart."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = source.dtype.bitwidth // 8
        places = [_row(builder, args[1], ir.Constant(args[1].type, COUNT), k) for k in range(COUNT)]
        rows = [builder.load(_pointer(builder, source.dtype, args[0], p), align=align) for p in places]
        for group in (2, 1):
            rows = [_folded(builder, a, b, group) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        # Four vectors of four steps by four rows remain.
        halves = [_mask([k * 4 + n for n in (row, row + 1) for k in range(8)]) for row in (0, 2)]
        for pair, mask in enumerate(halves):
            low, high = builder.shuffle_vector(*rows[:2], mask), builder.shuffle_vector(*rows[2:], mask)
            for row in range(2):
                span = range(row * 8, row * 8 + 8)
                whole = builder.shuffle_vector(low, high, _mask([*span, *(k + COUNT for k in span)]))
                place = _row(builder, args[3], args[4], 2 * pair + row)
                builder.store(whole, _pointer(builder, target.dtype, args[2], place), align=align)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp, types.intp), codegen


def compiled(function: Function) -> Function:
    """Return the function as part of whichever compiled function calls it."""
    return cast(Function, numba.njit(error_model="numpy")(function))


@compiled
def fill(w: Address, tile: int, source: Address, at: int, strides: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Copy ``size`` (lanes, steps) of a tensor from ``at`` on to a tile; missing lanes become 0."""
    (_, along, step), (lanes, steps) = strides, size
    done = 0
    if lanes == COUNT and step == 1:
        for t in range(0, steps - COUNT + 1, COUNT):
            transpose(source, at + t, along, w, tile + t * COUNT, COUNT)
            done = t + COUNT
    elif lanes == COUNT and along == 1:
        for t in range(steps):
            store(w, tile + t * COUNT, load(source, at + t * step))
        done = steps
    for t in range(done, steps):
        for c in range(COUNT):
            put(w, tile + t * COUNT + c, get(source, at + c * along + t * step) if c < lanes else 0.0)


@compiled
def drain(w: Address, tile: int, target: Address, at: int, length: int, size: tuple[int, int]) -> None:
    """Copy ``size`` (lanes, steps) of a tile to a contiguous tensor's place ``at``."""
    lanes, steps = size
    done = 0
    if lanes == COUNT:
        for t in range(0, steps - COUNT + 1, COUNT):
            transpose(w, tile + t * COUNT, COUNT, target, at + t, length)
            done = t + COUNT
    for t in range(done, steps):
        for c in range(lanes):
            put(target, at + c * length + t, get(w, tile + t * COUNT + c))
