"""A Numba vector type: sixteen numbers that one instruction, or a few, work on side by side.

Numba's own loops over a short axis lose most of their time to checks that arrays do not overlap; with the vector as a
type of its own the compiled code is that of the written expressions. The code is LLVM's portable vector form, which
becomes AVX-512, AVX2, SSE or NEON as the machine has it. Only sums and products written as `fma` are fused, and nothing
is reassociated, so results do not depend on the compiler's choices.

Inside compiled functions: ``a + b``, ``a - b``, ``a * b`` on vectors, the functions below, and those of
`pentad.core.layers.lane_functions`. A tile is a run of vectors, one per step, that copies a part of a tensor with its
channels side by side.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

Function = TypeVar("Function", bound=Callable[..., Any])
# A pointer to numbers of one type; a type of its own for Numba only.
Address = Any

COUNT = 16


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


def emitted(typing: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function for compiled code of one that returns its signature and what emits its instructions."""
    return cast(Callable[..., Any], intrinsic(typing))


def constant(kind: ir.VectorType, value: float) -> ir.Constant:
    """Return the vector with this value in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def _pointer(builder: Any, element: types.Float, numbers: Any, index: Any) -> Any:
    """Return the address of a number as that of a vector."""
    return builder.bitcast(builder.gep(numbers, [index]), _vector(element).as_pointer())


def called(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Emit a call of one of LLVM's own functions."""
    insert: Callable[..., Any] = cgutils.get_or_insert_function
    function = insert(builder.module, ir.FunctionType(result, [argument.type for argument in arguments]), name)
    return builder.call(function, arguments)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once where the machine can."""
    kind = a.type
    name = f"llvm.fmuladd.v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    return called(builder, name, kind, [a, b, c])


@emitted
def fma(typing: Any, a: Lanes, b: Lanes, c: Lanes) -> Any:
    """Return a * b + c."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return fused(builder, *args)

    return a(a, b, c), codegen


@emitted
def get(typing: Any, numbers: Any, index: Any) -> Any:
    """Return one of the numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return numbers.dtype(numbers, types.intp), codegen


@emitted
def put(typing: Any, numbers: Any, index: Any, value: Any) -> Any:
    """Replace one of the numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(numbers, types.intp, numbers.dtype), codegen


@emitted
def load(typing: Any, numbers: Any, index: Any) -> Any:
    """Return the vector of the numbers from ``index`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(builder, numbers.dtype, *args)
        return builder.load(pointer, align=numbers.dtype.bitwidth // 8)

    return Lanes(numbers.dtype)(numbers, types.intp), codegen


@emitted
def store(typing: Any, numbers: Any, index: Any, value: Lanes) -> Any:
    """Write the vector to the numbers from ``index`` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(builder, numbers.dtype, *args[:2])
        builder.store(args[2], pointer, align=numbers.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(numbers, types.intp, value), codegen


@emitted
def line(typing: Any, numbers: Any) -> Any:
    """Return how many of the numbers the memory brings at once."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), 512 // numbers.dtype.bitwidth)

    return types.intp(numbers), codegen


@emitted
def prefetch(typing: Any, numbers: Any, index: Any) -> Any:
    """Ask the memory for the line with that number, which may lie beyond the end."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]], inbounds=False)
        modes = [ir.Constant(ir.IntType(32), mode) for mode in (0, 3, 1)]  # to read, into every cache, data
        called(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *modes])
        return context.get_dummy_value()

    return types.void(numbers, types.intp), codegen


@emitted
def spread(typing: Any, numbers: Any, index: Any) -> Any:
    """Return a vector with one number in every lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, builder.load(builder.gep(args[0], [args[1]])), _vector(numbers.dtype))

    return Lanes(numbers.dtype)(numbers, types.intp), codegen


@emitted
def zeros(typing: Any, numbers: Any) -> Any:
    """Return a vector of zeros of the numbers' type."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return constant(_vector(numbers.dtype), 0.0)

    return Lanes(numbers.dtype)(numbers), codegen


@emitted
def turned(typing: Any, value: Lanes) -> Any:
    """Return the lanes in reverse order."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[0], _mask(list(reversed(range(COUNT)))))

    return value(value), codegen


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


@emitted
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


@emitted
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


@emitted
def quad_sums(typing: Any, a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> Any:
    """Return four partial sums over the lanes of each vector, those of ``a`` first."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        half = COUNT // 2
        first, second = _folded(builder, args[0], args[1], half), _folded(builder, args[2], args[3], half)
        return _folded(builder, first, second, half // 2)

    return a(a, b, c, d), codegen


@emitted
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
    if lanes == COUNT and abs(step) == 1:
        # Walked backwards, a square of memory becomes the tile's rows from the last to the first.
        low, first = (0, 0) if step == 1 else (1 - COUNT, (COUNT - 1) * COUNT)
        for t in range(0, steps - COUNT + 1, COUNT):
            transpose(source, at + t * step + low, along, w, tile + t * COUNT + first, step * COUNT)
            done = t + COUNT
    elif lanes == COUNT and along == 1:
        for t in range(steps):
            store(w, tile + t * COUNT, load(source, at + t * step))
        done = steps
    for t in range(done, steps):
        for c in range(COUNT):
            put(w, tile + t * COUNT + c, get(source, at + c * along + t * step) if c < lanes else 0.0)


class Lines(NamedTuple):
    """Lines of memory to ask for ahead of time, one at a step: line t at ``at + t // 2 * pair + t % 2 * other``."""

    source: Address
    at: int
    pair: int
    other: int


@compiled
def lines(source: Address, at: int, strides: tuple[int, int, int]) -> Lines:
    """Return the lines of a tile's worth of a tensor from ``at`` on: two of each channel, or one of each step."""
    _, along, step = strides
    return Lines(source, at, along, step * line(source)) if abs(step) == 1 else Lines(source, at, 2 * step, step)


@compiled
def fetch(ahead: Lines, t: int) -> None:
    """Ask for one line; a place beyond the tensor is no error."""
    prefetch(ahead.source, ahead.at + t // 2 * ahead.pair + t % 2 * ahead.other)


@compiled
def fetch_all(ahead: Lines, count: int) -> None:
    """Ask for the first lines."""
    for t in range(count):
        fetch(ahead, t)


@compiled
def copy_row(source: Address, at: int, target: Address, to: int, count: int) -> None:
    """Copy numbers that lie side by side."""
    whole = count - count % COUNT
    for i in range(0, whole, COUNT):
        store(target, to + i, load(source, at + i))
    for i in range(whole, count):
        put(target, to + i, get(source, at + i))


@compiled
def copy_back(source: Address, at: int, target: Address, to: int, count: int) -> None:
    """Copy numbers that lie side by side, from ``at`` back."""
    whole = count - count % COUNT
    for i in range(0, whole, COUNT):
        store(target, to + i, turned(load(source, at - i - COUNT + 1)))
    for i in range(whole, count):
        put(target, to + i, get(source, at - i))


@compiled
def drain(
    w: Address, tile: int, target: Address, at: int, strides: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Copy ``size`` (lanes, steps) of a tile to a tensor from ``at`` on."""
    (_, along, step), (lanes, steps), done = strides, size, 0
    if lanes == COUNT and along == 1:
        for t in range(steps):
            store(target, at + t * step, load(w, tile + t * COUNT))
        done = steps
    elif lanes == COUNT and abs(step) == 1:
        low, first = (0, 0) if step == 1 else (1 - COUNT, (COUNT - 1) * COUNT)
        for t in range(0, steps - COUNT + 1, COUNT):
            transpose(w, tile + t * COUNT + first, step * COUNT, target, at + t * step + low, along)
            done = t + COUNT
    for t in range(done, steps):
        for c in range(lanes):
            put(target, at + c * along + t * step, get(w, tile + t * COUNT + c))
