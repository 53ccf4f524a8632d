"""Addresses as arrays and functions, for compiled code that foreign compiled code calls."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = ir.IntType(64)
REAL = ir.DoubleType()


def _pointer_to(element: Any) -> Any:
    @intrinsic
    def at(_context: Any, address: Any) -> Any:  # noqa: ARG001 - numba's signature
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
            return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(types.intp), generate

    return at


def _caller(result: Any, *kinds: Any) -> Any:
    """Return what calls the C function at an address with arguments of these kinds."""
    machine = {types.intp: WORD, types.float64: REAL, types.void: ir.VoidType(), types.int32: ir.IntType(32)}

    @intrinsic
    def call(_context: Any, address: Any, arguments: Any) -> Any:  # noqa: ARG001 - numba's signature
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
            function = ir.FunctionType(machine[result], [machine[k] for k in kinds])
            pointer = builder.inttoptr(values[0], function.as_pointer())
            got = builder.call(pointer, [builder.extract_value(values[1], k) for k in range(len(kinds))])
            return context.get_dummy_value() if result is types.void else got

        return result(types.intp, types.Tuple(kinds)), generate

    return call


floats_at = _pointer_to(types.float64)
words_at = _pointer_to(types.int64)
shorts_at = _pointer_to(types.int32)

# An external force, see potstill.protocols.ExternalForce.
call_external = _caller(types.void, *[types.intp] * 3, types.float64, *[types.intp] * 6)
call_lookup = _caller(types.intp, types.intp, types.intp)
call_compute = _caller(types.intp, types.intp, types.intp, types.int32, types.int32)
call_set = _caller(types.void, types.intp, types.intp, types.intp)

# LAMMPS's library: a setting by name, a global energy, a flag; realloc.
call_setting = _caller(types.int32, types.intp, types.intp)
call_energy = _caller(types.void, types.intp, types.intp, types.float64)
call_alone = _caller(types.void, types.intp)
call_realloc = _caller(types.intp, types.intp, types.intp)

# MPI_Allreduce, MPI_Alltoall, MPI_Alltoallv, where handles are numbers.
call_reduce = _caller(types.int32, types.intp, types.intp, *[types.int32] * 4)
call_exchange = _caller(types.int32, types.intp, *[types.int32] * 2, types.intp, *[types.int32] * 3)
call_exchange_rows = _caller(types.int32, *[types.intp] * 3, types.int32, *[types.intp] * 3, *[types.int32] * 2)

# What potstill.model.surroundings.function returns the address of.
call_evaluate = _caller(types.void, *[types.intp] * 15)
