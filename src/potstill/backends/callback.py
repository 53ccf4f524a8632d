"""What LAMMPS calls at every step of driven dynamics, compiled: it hands the state to an external force."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import carray, types

from potstill.compiled import kept_c
from potstill.memory import call_compute, call_external, call_lookup, call_set, floats_at, words_at
from potstill.protocols import ExternalForce

GLOBAL, SCALAR, VECTOR = 0, 0, 1  # LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR, LMP_TYPE_VECTOR
BAR = 6.241509125883258e-07  # eV/Å³

# The block of words behind LAMMPS's pointer.
(HANDLE, COMPUTE, ATOM, VIRIAL, ENERGY_NAME, PRESSURE_NAME, FORCE_NAME, VELOCITY_NAME, FIX_NAME, FORCE, DATA, WORK, LOW,
 HIGH, WORDS) = range(15)  # fmt: skip


@kept_c(
    types.void(types.intp, types.int64, types.int32, types.intp, types.intp, types.intp),
    error_model="numpy",
)
def on_step(block, step, n, _tags, x, external):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Be LAMMPS's ``FixExternalFnPtr``: pointers come as words; x and external are arrays of pointers."""
    b = carray(words_at(block), WORDS)
    energy = carray(floats_at(call_compute(b[COMPUTE], (b[HANDLE], b[ENERGY_NAME], GLOBAL, SCALAR))), 1)[0]
    pressure = carray(floats_at(call_compute(b[COMPUTE], (b[HANDLE], b[PRESSURE_NAME], GLOBAL, VECTOR))), 6)
    forces = carray(words_at(call_lookup(b[ATOM], (b[HANDLE], b[FORCE_NAME]))), 1)[0]
    velocities = carray(words_at(call_lookup(b[ATOM], (b[HANDLE], b[VELOCITY_NAME]))), 1)[0]
    positions = carray(words_at(x), 1)[0]
    added = carray(words_at(external), 1)[0]
    low, high = carray(floats_at(b[LOW]), 3), carray(floats_at(b[HIGH]), 3)
    work = carray(floats_at(b[WORK]), 16)  # box 9, share of the virial, pressure to add, virial 5 + 1
    work[0:9] = 0.0
    volume = 1.0
    for k in range(3):
        work[4 * k] = high[k] - low[k]
        volume *= high[k] - low[k]
    work[9], work[10] = 0.0, 0.0
    box, answer = b[WORK], b[WORK] + 9 * 8
    call_external(
        b[FORCE],
        (b[DATA], np.intp(step), np.intp(n), energy, box, positions, forces, velocities, added, answer),
    )
    share, extra = work[9], work[10]
    virial = carray(floats_at(b[WORK] + 11 * 8), 6)
    for k in range(6):
        virial[k] = share * pressure[k] * BAR * volume + (extra * volume if k < 3 else 0.0)
    call_set(b[VIRIAL], (b[HANDLE], b[FIX_NAME], b[WORK] + 11 * 8))


class Driver:
    """Holds what ``on_step`` needs for one LAMMPS instance; keep it alive while the instance runs."""

    def __init__(self, lmp: Any, force: ExternalForce, fix: str, energy: str, pressure: str) -> None:
        lib = lmp.lib
        self._names = [ctypes.create_string_buffer(s.encode()) for s in (energy, pressure, "f", "v", fix)]
        self._work = np.zeros(24)
        self._block = np.zeros(WORDS, np.int64)
        handle = lmp.lmp if isinstance(lmp.lmp, int) else lmp.lmp.value

        def function(name: str) -> int:
            return int(ctypes.cast(getattr(lib, name), ctypes.c_void_p).value or 0)

        get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(function("lammps_extract_global"))
        names = [ctypes.addressof(n) for n in self._names]
        self._block[:] = [
            handle,
            function("lammps_extract_compute"),
            function("lammps_extract_atom"),
            function("lammps_fix_external_set_virial_global"),
            *names,
            force.address,
            force.data,
            self._work.ctypes.data,
            get(handle, b"boxlo"),
            get(handle, b"boxhi"),
        ]
        setter = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
        setter(function("lammps_set_fix_external_callback"))(
            handle, fix.encode(), on_step.address, self._block.ctypes.data
        )
