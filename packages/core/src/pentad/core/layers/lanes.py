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
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
Flat = NDArray[Any]

COUNT = 16

# 2^f for |f| <= 1/2: exactly 1 at 0, because an error near 1 is multiplied by the memory of a recurrence. For float32
# the minimax coefficients of degree 6 (relative error 2e-9), for float64 the exponential series.
_EXP2 = {
    32: (0.6931471825, 0.2402264625, 0.0555032864, 0.0096184891, 0.0013399931, 0.0001534581),
    64: tuple(math.log(2) ** k / math.factorial(k) for k in range(1, 15)),
}
# Per width: mantissa bits, exponent of 2 beyond which a power is clamped, terms of the series of log(1 + w).
_MANTISSA = {32: 23, 64: 52}
_EXPONENT = {32: 126.0, 64: 1022.0}
_LOG_TERMS = {32: 8, 64: 17}


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


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Return the address of the array's element as that of a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    element = builder.gep(data, [index])
    return builder.bitcast(element, _vector(array_type.dtype).as_pointer())


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once where the machine can."""
    kind = a.type
    name = f"llvm.fmuladd.v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    insert: Callable[..., Any] = cgutils.get_or_insert_function
    function = insert(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [a, b, c])


def _clamped(builder: Any, value: Any, limit: float) -> Any:
    low, high = _constant(value.type, -limit), _constant(value.type, limit)
    value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
    return builder.select(builder.fcmp_ordered("<", value, high), value, high)


def _power(builder: Any, value: Any) -> Any:
    """Emit 2 to the power of ``value``, clamped to normal numbers, exactly 1 at 0."""
    kind = value.type
    width = 32 if isinstance(kind.element, ir.FloatType) else 64
    mantissa = _MANTISSA[width]
    value = _clamped(builder, value, _EXPONENT[width])
    # Adding 1.5 * 2^mantissa rounds to the nearest integer and leaves it in the low bits of the sum.
    shifter = _constant(kind, 1.5 * 2.0**mantissa)
    shifted = builder.fadd(value, shifter)
    fraction = builder.fsub(value, builder.fsub(shifted, shifter))
    coefficients = _EXP2[width]
    result = _constant(kind, coefficients[-1])
    for coefficient in (*reversed(coefficients[:-1]), 1.0):
        result = _fused(builder, result, fraction, _constant(kind, coefficient))
    integers = ir.VectorType(ir.IntType(width), kind.count)
    exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [mantissa] * kind.count))
    return builder.bitcast(builder.add(builder.bitcast(result, integers), exponent), kind)


def _log1p(builder: Any, value: Any) -> Any:
    """Emit log(1 + value) for 0 <= value <= 1 as 2 artanh(value / (2 + value)), relative error near one last bit."""
    kind = value.type
    terms = _LOG_TERMS[32 if isinstance(kind.element, ir.FloatType) else 64]
    s = builder.fdiv(value, builder.fadd(value, _constant(kind, 2.0)))
    square = builder.fmul(s, s)
    result = _constant(kind, 2.0 / (2 * terms - 1))
    for k in range(terms - 2, -1, -1):
        result = _fused(builder, result, square, _constant(kind, 2.0 / (2 * k + 1)))
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
        return _power(builder, args[0])

    return value(value), codegen


@_emitted
def exp_minus_abs(typing: Any, value: Lanes) -> Any:
    """Return exp(-|x|) of each lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (x,) = args
        zero = _constant(x.type, 0.0)
        negative = builder.select(builder.fcmp_ordered(">", x, zero), builder.fsub(zero, x), x)
        return _power(builder, builder.fmul(negative, _constant(x.type, 1 / math.log(2))))

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
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return the vector of the array's elements from ``index`` on, unchecked."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Lanes(array.dtype)(array, types.intp), codegen


@_emitted
def store(typing: Any, array: Any, index: Any, value: Lanes) -> Any:
    """Write the vector to the array's elements from ``index`` on, unchecked."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args[:2])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@_emitted
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Return a vector with the array's element in every lane, unchecked."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return _splat(builder, builder.load(builder.gep(data, [args[1]])), _vector(array.dtype))

    return Lanes(array.dtype)(array, types.intp), codegen


@_emitted
def zeros(typing: Any, array: Any) -> Any:
    """Return a vector of zeros of the array's type."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _constant(_vector(array.dtype), 0.0)

    return Lanes(array.dtype)(array), codegen


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
    """Copy a square of `COUNT` rows, ``stride`` apart from ``start`` on, turned, to ``target``, unchecked."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = source.dtype.bitwidth // 8
        places = [_row(builder, args[1], args[2], k) for k in range(COUNT)]
        rows = [builder.load(_pointer(context, builder, source, args[0], p), align=align) for p in places]
        for k, row in enumerate(_transposed(builder, rows)):
            place = _row(builder, args[4], args[5], k)
            builder.store(row, _pointer(context, builder, target, args[3], place), align=align)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


@_emitted
def lane_sums(typing: Any, array: Any, index: Any) -> Any:
    """Return the sums over the lanes of `COUNT` vectors lying one after the other from ``index`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = array.dtype.bitwidth // 8
        places = [_row(builder, args[1], ir.Constant(args[1].type, COUNT), k) for k in range(COUNT)]
        rows = [builder.load(_pointer(context, builder, array, args[0], p), align=align) for p in places]
        group = COUNT
        while len(rows) > 1:
            group //= 2
            rows = [_folded(builder, *pair, group) for pair in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    return Lanes(array.dtype)(array, types.intp), codegen


def compiled(function: Function) -> Function:
    """Return the function as part of whichever compiled function calls it."""
    return cast(Function, numba.njit(error_model="numpy")(function))


@compiled
def scratch(like: Flat, size: int) -> Flat:
    """Return zeros whose first element starts a cache line."""
    raw = np.zeros(size + COUNT, like.dtype)
    start = -(raw.ctypes.data // raw.itemsize) % COUNT
    return raw[start : start + size]


@compiled
def fill(w: Flat, tile: int, source: Flat, at: int, strides: tuple[int, int, int], size: tuple[int, int]) -> None:
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
            w[tile + t * COUNT + c] = source[at + c * along + t * step] if c < lanes else 0.0


@compiled
def drain(w: Flat, tile: int, target: Flat, at: int, length: int, size: tuple[int, int]) -> None:
    """Copy ``size`` (lanes, steps) of a tile to a contiguous tensor's place ``at``."""
    lanes, steps = size
    done = 0
    if lanes == COUNT:
        for t in range(0, steps - COUNT + 1, COUNT):
            transpose(w, tile + t * COUNT, COUNT, target, at + t, length)
            done = t + COUNT
    for t in range(done, steps):
        for c in range(lanes):
            target[at + c * length + t] = w[tile + t * COUNT + c]
