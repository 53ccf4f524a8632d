"""Explicit vectors for compiled kernels: four doubles or eight floats as one value, with the operators of arithmetic.

numba leaves it to LLVM to find out whether a loop can be vectorised, and LLVM gives up where a loop writes to arrays
that might overlap. Here a kernel says what it means: :func:`load` takes consecutive numbers of a flat array, operators
work on all of them at once, :func:`store` puts them back, :func:`total` adds them up. Any processor can do it: LLVM
lowers the vectors to what there is. Indices are not checked: rooms are padded to whole vectors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

BYTES = 32
LANES = {8: 4, 4: 8}  # numbers in a vector by the bytes of one
FAST = ("fast",)
INT32 = ir.IntType(32)


class Vector(types.Type):  # type: ignore[misc]  # numba is untyped
    """numba's type of a vector of floats or doubles."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.width = BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Any) -> None:
        element = ir.DoubleType() if vector.dtype == types.float64 else ir.FloatType()
        super().__init__(manager, vector, ir.VectorType(element, vector.width))


def _splat(context: Any, builder: Any, value: Any, source: Any, vector: Any) -> Any:
    """Emit a vector with one number everywhere."""
    scalar = context.cast(builder, value, source, vector.dtype)
    kind = context.get_value_type(vector)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    nowhere = ir.Constant(ir.VectorType(INT32, vector.width), [0] * vector.width)
    return builder.shuffle_vector(first, undefined, nowhere)


def _operator(function: Callable[..., Any], instruction: str) -> None:
    """Give vectors an operator, with each other and with numbers."""

    @infer_global(function)
    class _Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) != 2 or kws or not any(isinstance(a, Vector) for a in args):
                return None
            vector = next(a for a in args if isinstance(a, Vector))
            fits = all(a == vector or isinstance(a, types.Number) for a in args)
            return signature(vector, *args) if fits else None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        both = [
            a if isinstance(t, Vector) else _splat(context, builder, a, t, sig.return_type)
            for a, t in zip(args, sig.args, strict=True)
        ]
        return getattr(builder, instruction)(*both, flags=FAST)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, *kinds)(lower)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _instruction)


def _address(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    """Emit the address of ``array[index]``."""
    index = context.cast(builder, values[1], kinds[1], types.intp)
    return builder.gep(context.make_array(kinds[0])(context, builder, values[0]).data, [index])


@intrinsic
def load(_context: Any, array: Any, index: Any) -> Any:
    """Return the vector that begins at ``array[index]``."""
    vector = Vector(array.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = _address(context, builder, sig.args, args)
        pointer = builder.bitcast(at, context.get_value_type(vector).as_pointer())
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, index), generate


@intrinsic
def store(_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to ``array[index]`` and what follows."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = _address(context, builder, sig.args[:2], args[:2])
        pointer = builder.bitcast(at, context.get_value_type(sig.args[2]).as_pointer())
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def spread(_context: Any, array: Any, index: Any) -> Any:
    """Return a vector with ``array[index]`` everywhere."""
    vector = Vector(array.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(_address(context, builder, sig.args, args))
        return _splat(context, builder, value, array.dtype, vector)

    return vector(array, index), generate


@intrinsic
def fill(_context: Any, array: Any, value: Any) -> Any:
    """Return a vector of the array's kind with one number everywhere."""
    vector = Vector(array.dtype)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(context, builder, args[1], sig.args[1], vector)

    return vector(array, value), generate


@intrinsic
def width(_context: Any, array: Any) -> Any:
    """Return how many numbers of the array's kind make a vector; a constant to the compiler."""
    lanes = BYTES * 8 // array.dtype.bitwidth

    def generate(_context: Any, _builder: Any, _sig: Any, _args: Any) -> Any:
        return ir.Constant(ir.IntType(64), lanes)

    return types.intp(array), generate


@intrinsic
def total(_context: Any, value: Any) -> Any:
    """Return the sum of a vector's numbers."""

    def generate(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        vector, lanes = args[0], value.width
        while lanes > 1:
            lanes //= 2
            places = [k + lanes if k < lanes else k for k in range(value.width)]
            mask = ir.Constant(ir.VectorType(INT32, value.width), places)
            other = builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)
            vector = builder.fadd(vector, other, flags=FAST)
        return builder.extract_element(vector, ir.Constant(INT32, 0))

    return value.dtype(value), generate


def _unary(name: str) -> Any:
    """Return what calls one of LLVM's own functions on every number."""

    @intrinsic
    def call(_context: Any, value: Any) -> Any:
        def generate(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
            kind = args[0].type
            symbol = f"llvm.{name}.v{value.width}f{value.dtype.bitwidth}"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), symbol)
            return builder.call(function, args)

        return value(value), generate

    return call


root, floor = _unary("sqrt"), _unary("floor")


def _bounded(sign: str) -> Any:
    @intrinsic
    def bound(_context: Any, value: Any, limit: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            other = _splat(context, builder, args[1], sig.args[1], sig.args[0])
            return builder.select(builder.fcmp_ordered(sign, args[0], other), args[0], other)

        return value(value, limit), generate

    return bound


at_most, at_least = _bounded("<"), _bounded(">")


@intrinsic
def two_to(_context: Any, value: Any) -> Any:
    """Return 2 to the power of each of a vector's whole numbers, by writing them into the exponent."""
    bits, fraction, bias = (64, 52, 1023) if value.dtype == types.float64 else (32, 23, 127)

    def generate(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        short = builder.fptosi(args[0], ir.VectorType(INT32, value.width))
        whole = ir.VectorType(ir.IntType(bits), value.width)
        power = builder.sext(short, whole) if bits == 64 else short
        biased = builder.add(power, ir.Constant(whole, [bias] * value.width))
        return builder.bitcast(builder.shl(biased, ir.Constant(whole, [fraction] * value.width)), args[0].type)

    return value(value), generate
