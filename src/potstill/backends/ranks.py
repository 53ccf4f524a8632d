"""What LAMMPS calls on each of its processes at every step, compiled: a committee's forces on the atoms there.

Each process (rank) evaluates its own atoms, which see the images (ghosts) of others within the cutoff. So every atom is
evaluated once, and forces on ghosts have to go home. LAMMPS sends home what pair styles write, but before any fix is
asked; so this speaks to MPI itself. A ghost does not know on which rank its atom lives, hence a rendezvous: the rank
that owns atom t tells rank t mod P so, forces on its ghosts are sent there as well, and from there to the owner.
Nothing is kept from step to step but the positions of LAMMPS's last list, to see that ghosts reach far enough.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numba import carray, types
from numpy.typing import NDArray

from potstill.compiled import kept_c
from potstill.memory import (
    call_alone,
    call_energy,
    call_evaluate,
    call_exchange,
    call_exchange_rows,
    call_lookup,
    call_realloc,
    call_reduce,
    call_set,
    call_setting,
    floats_at,
    shorts_at,
    words_at,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

# The block of words behind LAMMPS's pointer: functions, names, the model, MPI, and what is kept.
(HANDLE, ATOM, SETTING, SET_ENERGY, SET_ENERGIES, SET_VIRIAL, STOP, REALLOC, FIX_NAME, TYPE_NAME, ALL_NAME,
 AGE_NAME, MESSAGES, EVALUATE, INTS, N_INTS, REALS, N_REALS, WEIGHTS, N_WEIGHTS, KINDS, N_KINDS, COMM, RANKS,
 REDUCE, EXCHANGE, EXCHANGE_ROWS, LAST, N_LAST, SKIN, STATUS, STEP, TAG, WORDS) = range(34)  # fmt: skip

# What came of a step: the codes of potstill.model.surroundings, and three that only arise here.
FINE, BROKEN, NOT_FINITE, TOO_CLOSE, COLLAPSED, WILD, RAN_AWAY, HOMELESS, NAMELESS, CODES = range(10)
VIRIAL, RESULT, CULPRIT, ANSWER = 1, 7, 8, 9

# The constants of the MPICH family's binary interface, which its members have agreed on.
INT, DOUBLE, SUM, MAX = 0x4C000405, 0x4C00080B, 0x58000003, 0x58000001


class Table(NamedTuple):
    """Numbers by tag: open addressing; a tag is never 0."""

    tags: I64
    values: I32


@nb.njit
def _address(array: Any) -> Any:
    return np.intp(array.ctypes.data)


@nb.njit
def _table(n: int) -> Table:
    room = 16
    while room < 2 * n:
        room *= 2
    return Table(np.zeros(room, np.int64), np.empty(room, np.int32))


@nb.njit
def _place(t: Table, tag: int) -> Any:
    """Return where a tag stands, or would."""
    mask = len(t.tags) - 1
    h = np.int64((np.uint64(tag) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(24)) & mask
    while t.tags[h] != 0 and t.tags[h] != tag:
        h = (h + 1) & mask
    return h


@nb.njit
def rows_of(tags: I32, n: int, owner: I32) -> tuple[Table, I64]:
    """Fill each position's row: atoms of this rank first, then one for each atom that has only ghosts here.

    Returns the rows by tag, and the tags of the latter.
    """
    t = _table(len(tags))
    strangers, rows = np.empty(len(tags) - n, np.int64), n
    for i in range(len(tags)):
        h = _place(t, tags[i])
        if t.tags[h] == 0:
            t.tags[h], t.values[h] = tags[i], rows if i >= n else i
            if i >= n:
                strangers[rows - n] = tags[i]
                rows += 1
        owner[i] = t.values[h]
    return t, strangers[: rows - n]


@nb.njit
def _keep(_a: Any, _b: Any, _c: Any) -> None:
    """Keep arrays alive up to here: a call by address does not show numba that they are in use."""


@nb.njit
def _send(b: I64, items: F64, to: I32) -> tuple[F64, I32]:
    """Send each item, a row of ``items``, to a rank; return what the others sent here, and from which rank each is."""
    width, ranks, comm = items.shape[1], b[RANKS], np.int32(b[COMM])
    counts, begin = np.zeros(ranks, np.int32), np.zeros(ranks, np.int32)
    for i in range(len(items)):
        counts[to[i]] += width
    for r in range(1, ranks):
        begin[r] = begin[r - 1] + counts[r - 1]
    packed, at = np.empty(max(items.size, 1)), begin.copy()
    for i in range(len(items)):
        for k in range(width):
            packed[at[to[i]] + k] = items[i, k]
        at[to[i]] += width
    theirs, begins = np.empty(ranks, np.int32), np.zeros(ranks, np.int32)
    one, whole, real = np.int32(1), np.int32(INT), np.int32(DOUBLE)
    call_exchange(b[EXCHANGE], (_address(counts), one, whole, _address(theirs), one, whole, comm))
    total = 0
    for r in range(ranks):
        begins[r] = total
        total += theirs[r]
    got, source = np.empty((total // width + 1, width)), np.empty(total // width, np.int32)
    call_exchange_rows(
        b[EXCHANGE_ROWS],
        (
            _address(packed),
            _address(counts),
            _address(begin),
            real,
            _address(got),
            _address(theirs),
            _address(begins),
            real,
            comm,
        ),
    )
    _keep(packed, counts, begin)
    for r in range(ranks):
        source[begins[r] // width : (begins[r] + theirs[r]) // width] = r
    return got[: total // width], source


@nb.njit
def send_home(b: I64, tags: I32, n: int, strangers: I64, table: Table, forces: F64) -> int:
    """Add forces on ghosts (rows from n on) to their atoms' on other ranks; return a tag that nobody owns, or 0."""
    ranks, m = b[RANKS], n + len(strangers)
    items, to = np.zeros((m, 4)), np.empty(m, np.int32)
    for i in range(n):
        items[i, 0], to[i] = -tags[i], tags[i] % ranks  # the sign tells who lives here from what is sent home
    for i in range(n, m):
        items[i, 0], items[i, 1:], to[i] = strangers[i - n], forces[i], strangers[i - n] % ranks
    items, source = _send(b, items, to)
    owners = _table(len(items))
    for i in range(len(items)):
        tag = int(-items[i, 0])
        if tag > 0:
            h = _place(owners, tag)
            owners.tags[h], owners.values[h] = tag, source[i]
    to, lost, m = np.empty(len(items), np.int32), 0, 0
    for i in range(len(items)):
        tag = int(items[i, 0])
        if tag < 0:
            continue
        h = _place(owners, tag)
        if owners.tags[h] == 0:
            lost = tag
            continue
        items[m], to[m] = items[i], owners.values[h]
        m += 1
    items, _ = _send(b, items[:m], to[:m])
    for i in range(len(items)):
        row = table.values[_place(table, int(items[i, 0]))]
        for k in range(3):
            forces[row, k] += items[i, 1 + k]
    return lost


@nb.njit
def ran_away(b: I64, x: F64, n: int) -> int:
    """Return the position that moved most since LAMMPS's last list if its ghosts may not reach far enough, or −1.

    Two atoms that now see each other were then within the cutoff plus what both have moved; LAMMPS made ghosts up to
    the cutoff plus the skin. Ghosts move by more than atoms where the box changes.
    """
    room = x.size * 8
    if call_setting(b[SETTING], (b[HANDLE], b[AGE_NAME])) == 0 or b[N_LAST] != x.size:
        b[LAST], b[N_LAST] = call_realloc(b[REALLOC], (b[LAST], np.intp(room + 8))), x.size
        carray(floats_at(b[LAST]), x.shape)[:] = x
        return -1
    last = carray(floats_at(b[LAST]), x.shape)
    own, farthest, worst = 0.0, 0.0, 0
    for i in range(len(x)):
        dx, dy, dz = x[i, 0] - last[i, 0], x[i, 1] - last[i, 1], x[i, 2] - last[i, 2]
        r2 = dx * dx + dy * dy + dz * dz
        if r2 > farthest:
            farthest, worst = r2, i
        if i < n:
            own = max(own, r2)
    skin = carray(floats_at(b[SKIN]), 1)[0]
    return worst if np.sqrt(own) + np.sqrt(farthest) > skin * (1.0 + 1e-9) else -1


@nb.njit
def _fail(b: I64, step: int, status: int, tag: int) -> None:
    """End the run on every rank alike, with a sentence.

    LAMMPS gives a callback no way to raise: lammps_error() ends the program. But it keeps what a library function
    refuses, and raises it when the command returns. So it is asked for a fix whose name is the sentence.
    """
    if b[STATUS] == FINE:
        b[STATUS], b[STEP], b[TAG] = status, step, tag
    call_energy(b[SET_ENERGY], (b[HANDLE], b[FIX_NAME], np.nan))
    call_alone(b[STOP], (b[HANDLE],))
    call_energy(b[SET_ENERGY], (b[HANDLE], carray(words_at(b[MESSAGES]), CODES)[b[STATUS]], np.nan))


@nb.njit
def _agree(b: I64, answer: F64, tag: int) -> int:
    """Sum energy and virial up over the ranks, and return the tag to the worst that came of the step on any of them."""
    if b[RANKS] == 1:
        return tag
    eight, two, real, comm = np.int32(RESULT + 1), np.int32(2), np.int32(DOUBLE), np.int32(b[COMM])
    state, worst = np.array([answer[RESULT], float(tag)]), np.zeros(2)
    mine, total = answer.copy(), np.zeros(ANSWER)
    call_reduce(b[REDUCE], (_address(mine), _address(total), eight, real, np.int32(SUM), comm))
    if total[RESULT] != FINE:  # FINE is zero
        call_reduce(b[REDUCE], (_address(state), _address(worst), two, real, np.int32(MAX), comm))
    _keep(mine, state, worst)
    answer[:RESULT], answer[RESULT] = total[:RESULT], worst[0]
    return int(worst[1])


@nb.njit
def _evaluate(b: I64, n: int, tags: I32, x: F64, energies: F64, answer: F64) -> tuple[F64, int]:
    """Fill ``energies`` and ``answer``; return the forces, complete in the first n rows, and the tag of a culprit."""
    total = len(tags)
    kind_of = carray(shorts_at(b[KINDS]), b[N_KINDS])
    type_of = carray(shorts_at(call_lookup(b[ATOM], (b[HANDLE], b[TYPE_NAME]))), total)
    kinds, owner = np.empty(total, np.int32), np.empty(total, np.int32)
    for i in range(total):
        kinds[i] = kind_of[type_of[i] - 1]
    table, strangers = rows_of(tags, n, owner)
    rows = n + len(strangers)
    forces = np.zeros((rows + 1, 3))
    far = ran_away(b, x, n)
    if b[STATUS] != FINE:
        answer[RESULT] = b[STATUS]  # once is enough
    elif total and tags[0] == 0:
        answer[RESULT] = NAMELESS
    elif far >= 0:
        answer[RESULT], answer[CULPRIT] = RAN_AWAY, owner[far]
    else:
        answer[RESULT] = BROKEN
        call_evaluate(
            b[EVALUATE],
            (
                b[INTS],
                b[N_INTS],
                b[REALS],
                b[N_REALS],
                b[WEIGHTS],
                b[N_WEIGHTS],
                n,
                total,
                rows,
                _address(x),
                _address(kinds),
                _address(owner),
                _address(energies),
                _address(forces),
                _address(answer),
            ),
        )
    _keep(kinds, owner, forces)
    row, culprit = int(answer[CULPRIT]), 0
    if answer[RESULT] != FINE and row < rows:
        culprit = int(tags[row] if row < n else strangers[row - n])
    if b[RANKS] > 1:
        lost = send_home(b, tags, n, strangers, table, forces)
        if lost and answer[RESULT] == FINE:
            answer[RESULT], culprit = HOMELESS, lost
    return forces, culprit


@kept_c(
    types.void(types.intp, types.int64, types.int32, types.intp, types.intp, types.intp),
    error_model="numpy",
)
def on_forces(block, step, n_own, tag, x, external):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Be LAMMPS's ``FixExternalFnPtr``: pointers come as words; x and external are arrays of pointers."""
    b, n = carray(words_at(block), WORDS), np.int64(n_own)
    total = np.int64(call_setting(b[SETTING], (b[HANDLE], b[ALL_NAME])))
    at = carray(words_at(x), 1)[0] if total else 0
    positions = carray(floats_at(at), (total, 3))
    energies, answer = np.zeros(n + 1), np.zeros(ANSWER)
    forces, culprit = _evaluate(b, n, carray(shorts_at(tag), total), positions, energies, answer)
    culprit = _agree(b, answer, culprit)
    if n:
        added = carray(floats_at(carray(words_at(external), 1)[0]), (n, 3))
        for i in range(n):
            for k in range(3):
                added[i, k] = forces[i, k] if answer[RESULT] == FINE else 0.0
    if answer[RESULT] != FINE:
        _fail(b, step, int(answer[RESULT]), culprit)
        return
    virial = np.empty(6)  # LAMMPS's sign and order, xx yy zz xy xz yz; of all ranks, as the energy
    for k in range(6):
        virial[k] = -answer[VIRIAL + (k if k < 3 else 8 - k)]
    call_energy(b[SET_ENERGY], (b[HANDLE], b[FIX_NAME], answer[0]))
    call_set(b[SET_VIRIAL], (b[HANDLE], b[FIX_NAME], _address(virial)))
    call_set(b[SET_ENERGIES], (b[HANDLE], b[FIX_NAME], _address(energies)))
    _keep(virial, energies, forces)
