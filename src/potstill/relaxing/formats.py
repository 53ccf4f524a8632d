"""CIF, POSCAR, extended XYZ and pymatgen's JSON, read with nothing believed to be small or whole.

Not by ASE or pymatgen: those take time and memory before they look at a count, guess elements, drop what they do not
know and follow names to other files.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from potstill.data import Array
from potstill.relaxing.limits import Limits, StructureError, quoted, said, size_of

if TYPE_CHECKING:
    from ase import Atoms

LONGEST_VECTOR = 1000.0  # Å, of a cell
FARTHEST = 10_000.0  # Å from the origin, of an atom
THINNEST = 0.5  # Å between opposite faces of a cell; no crystal's is near, and neighbours would be countless
SAME_PLACE = 0.1  # Å; rounding parts a site from its image by less, and no two nuclei come so close
FEW = 200  # atoms of a cell whose pairs are all looked at
MOST_OPERATIONS = 192  # of a space group, in its cubic cell
LONGEST_LINE = 2**20  # bytes

# --- what all formats share ---


def _or_reason(build: Callable[..., Atoms], *given: Any) -> Atoms | str:
    """Build a structure, or say why there is none."""
    try:
        return build(*given)
    except StructureError as error:
        return str(error)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        return f"It is not in the format that its name says ({said(error)})."


def checked(atoms: Atoms, limits: Limits) -> Atoms | str:
    """Return a structure that somebody holds in memory as one that may be relaxed, or a sentence why not."""
    if not atoms.pbc.all():
        return "It is not periodic in three directions."
    return _or_reason(partial(_crystal, scaled=False), atoms.numbers, atoms.cell.array, atoms.positions, limits)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StructureError(f"{quoted(text)} stands where a number should be.")
    return value


def _matrix(words: Sequence[str]) -> Array:
    return np.array([_number(word) for word in words]).reshape(-1, 3)


def _too_many(count: int, limits: Limits) -> StructureError:
    return StructureError(f"It asks for {count:,} atoms; 1 to {limits.atoms:,} are read.")


def _too_long(limits: Limits) -> str:
    return f"Its text is longer than {size_of(limits.text_bytes)}, which {limits.atoms:,} atoms do not need."


def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers

    found = atomic_numbers.get(symbol.capitalize(), 0) if symbol.isascii() else 0
    if found:
        return int(found)
    hint = "; isotopes of hydrogen are written H" if symbol in ("D", "T") else ""
    raise StructureError(f"{quoted(symbol)} is not the symbol of a chemical element{hint}.")


def _crystal(numbers: Sequence[int], cell: Array, coordinates: Array, limits: Limits, *, scaled: bool) -> Atoms:
    """Build a structure that was found, unless it cannot be one.

    Parameters
    ----------
    numbers : sequence of int
        Atomic numbers.
    cell : ndarray (3, 3)
        Å, a vector in each row.
    coordinates : ndarray (n, 3)
        Å, or fractions of the cell's vectors where ``scaled``.
    """
    from ase import Atoms

    if not 1 <= len(numbers) <= limits.atoms:
        raise _too_many(len(numbers), limits)
    if not (np.isfinite(cell).all() and np.isfinite(coordinates).all()):
        raise StructureError("A coordinate or a cell vector is NaN or infinite.")
    lengths = np.sqrt((np.clip(np.abs(cell), 0.0, 1e9) ** 2).sum(axis=1))
    if lengths.max() > LONGEST_VECTOR:
        raise StructureError(f"A cell vector is longer than {LONGEST_VECTOR:g} Å.")
    normals = np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]])
    areas = np.linalg.norm(normals, axis=1)
    volume = float(cell[0] @ normals[0])
    heights: Array = volume / np.maximum(areas, 1e-12)
    if np.abs(heights).min() < THINNEST:  # before its hand, which rounding decides where it is flat
        raise StructureError(
            f"The cell is flat: its volume is {abs(volume):.3g} Å³, and opposite faces are less than {THINNEST:g} Å "
            "apart."
        )
    if volume < 0.0:
        raise StructureError("The cell's volume is negative: its vectors are left-handed. Exchange two of them.")
    farthest = FARTHEST / LONGEST_VECTOR if scaled else FARTHEST
    if np.abs(coordinates).max() > farthest:
        raise StructureError(f"An atom lies more than {farthest:g} {'cells' if scaled else 'Å'} from the origin.")
    fractions = coordinates if scaled else np.asarray(np.linalg.solve(cell.T, coordinates.T).T, dtype=np.float64)
    _apart(fractions, cell, heights)
    return Atoms(numbers, positions=fractions @ cell if scaled else coordinates, cell=cell, pbc=True)


def _apart(fractions: Array, cell: Array, heights: Array) -> None:
    """Refuse two atoms at the same place.

    Along each face's normal two atoms are no further apart than in space, and these three distances are periodic each
    by itself: a search in them finds every pair, and some that are none.
    """
    if len(fractions) <= FEW:  # scipy's search takes a quarter of a second to load
        first, second = np.triu_indices(len(fractions), 1)
    else:
        from scipy.spatial import cKDTree

        along = (fractions - np.floor(fractions)) * heights
        along[along >= heights] = 0.0  # rounding, of the smallest negative numbers
        near = cKDTree(along, boxsize=heights).query(along, k=8, p=np.inf, distance_upper_bound=SAME_PLACE)[1]
        first, column = np.nonzero(near < len(fractions))
        second = near[first, column]
        first, second = first[first != second], second[first != second]
    apart = fractions[first] - fractions[second]
    distances = np.linalg.norm((apart - np.round(apart)) @ cell, axis=1)
    if (distances < SAME_PLACE).any():
        pair = int(np.argmin(distances))
        raise StructureError(
            f"Atoms {first[pair]} and {second[pair]} (counted from 0) are at the same place, within {SAME_PLACE:g} Å."
        )


class _Lines:
    """Lines of a text, with one in view; none is held longer than ``LONGEST_LINE``.

    Attributes
    ----------
    here : str | None
        The line in view, None at the end.
    """

    def __init__(self, text: BinaryIO) -> None:
        self._text = text
        self.here: str | None = None
        self._overlong = False
        self.step()

    def step(self) -> None:
        """Go to the next line."""
        raw = self._text.readline(LONGEST_LINE)
        self._overlong = len(raw) == LONGEST_LINE and not raw.endswith(b"\n")
        if self._overlong:
            while (more := self._text.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                pass
            raw = b"..."
        self.here = raw.decode("utf-8", "replace").rstrip("\r\n") if raw else None

    def take(self) -> str:
        """Return the line in view, and go on."""
        line, overlong = self.here, self._overlong
        if line is None:
            raise StructureError("The file ends within this structure: it was cut off.")
        self.step()
        if overlong:
            raise StructureError(f"A line is longer than {size_of(LONGEST_LINE)}.")
        return line

    def find(self, is_meant: Callable[[str], Any]) -> bool:
        """Go on to the next line of some kind; whether there is one."""
        while self.here is not None and not is_meant(self.here):
            self.step()
        return self.here is not None

    def text(self, limits: Limits, until: Callable[[str], Any] = lambda _line: False) -> list[str]:
        """Take lines up to one of some kind, or to the end."""
        lines: list[str] = []
        left = limits.text_bytes
        while self.here is not None and not until(self.here):
            lines.append(self.take())
            left -= len(lines[-1]) + 1
            if left < 0:
                raise StructureError(_too_long(limits))
        return lines


_Found = Iterator[tuple[str, "Atoms | str"]]  # what follows the file's name in a source; a structure or a reason


# --- extended XYZ ---

_COUNT = re.compile(r"\s*[0-9]{1,18}\s*")
_XYZ_PAIR = re.compile(
    r"""(?<!\S)([^\s=]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|'([^']*+)'|\{([^}]*+)\}|\[([^\]]*+)\]|(["'{[].*)|(\S*))"""
)
_TRUE = ("T", "True", "TRUE", "true", "1")


def _xyz(text: BinaryIO, limits: Limits) -> _Found:
    """Read frames; after a broken one, go on where the next count stands alone on its line."""
    lines = _Lines(text)
    index = 0
    while lines.find(str.strip):
        found = _or_reason(_xyz_frame, lines, limits)
        yield f"#{index}", found
        index += 1
        if isinstance(found, str):
            lines.find(_COUNT.fullmatch)
    if not index:
        yield "", "It holds no structure."


def _xyz_frame(lines: _Lines, limits: Limits) -> Atoms:
    first = lines.take()
    if not _COUNT.fullmatch(first):
        raise StructureError(f"{quoted(first)} stands where the number of atoms should.")
    count = int(first)
    if not 1 <= count <= limits.atoms:
        raise _too_many(count, limits)
    cell, species, position, width = _xyz_header(lines.take())
    symbols: list[str] = []
    coordinates: list[str] = []
    for _ in range(count):
        if lines.here is not None and _COUNT.fullmatch(lines.here):
            raise StructureError(f"It has {len(symbols):,} of the {count:,} atoms that it announces.")
        words = lines.take().split()
        if len(words) != width:
            raise StructureError(
                f"Its atom {len(symbols)} (counted from 0) has {len(words):,} columns instead of {width:,}."
            )
        symbols.append(words[species])
        coordinates += words[position : position + 3]
    lines.find(str.strip)
    after = lines.here
    if after is not None and not _COUNT.fullmatch(after) and "=" not in after and len(after.split()) == width:
        raise StructureError(f"It has more than the {count:,} atoms that it announces.")
    known = {symbol: _xyz_number(symbol) for symbol in set(symbols)}
    return _crystal([known[symbol] for symbol in symbols], cell, _matrix(coordinates), limits, scaled=False)


def _xyz_number(symbol: str) -> int:
    """Return the atomic number, which may stand there itself."""
    if re.fullmatch(r"[0-9]{1,3}", symbol):
        from ase.data import chemical_symbols

        if 1 <= int(symbol) < len(chemical_symbols):
            return int(symbol)
    return _atomic_number(symbol)


def _xyz_header(comment: str) -> tuple[Array, int, int, int]:
    """Return cell, column of the element, first column of the position, and number of columns."""
    pairs = {m[1]: next((g for g in m.groups()[1:] if g is not None), "") for m in _XYZ_PAIR.finditer(comment)}
    if "Lattice" not in pairs:
        raise StructureError('It has no cell: its second line should say Lattice="…".')
    numbers = pairs["Lattice"].replace(",", " ").split()
    if len(numbers) != 9:
        raise StructureError(f"Its Lattice has {len(numbers):,} numbers instead of 9.")
    if any(word not in _TRUE for word in pairs.get("pbc", "T").replace(",", " ").split()):
        raise StructureError("It is not periodic in all three directions.")
    columns: dict[str, tuple[int, int]] = {}
    width = 0
    parts = pairs.get("Properties", "species:S:1:pos:R:3").split(":")
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if kind not in ("S", "R", "I", "L") or not re.fullmatch(r"[0-9]{1,4}", count):
            raise StructureError(f"Its Properties are not understood at {quoted(name)}.")
        columns[name] = (width, int(count))
        width += int(count)
    species = columns.get("species", columns.get("Z", (0, 0)))
    position = columns.get("pos", (0, 0))
    if species[1] != 1 or position[1] != 3:
        raise StructureError("Its Properties have no species:S:1 (or Z:I:1) and pos:R:3.")
    return _matrix(numbers), species[0], position[0], width


# --- CIF ---

_CIF_BLOCK = re.compile(r"\s*data_(\S*)(.*)", re.IGNORECASE)
_CIF_TOKEN = re.compile(
    r"""(?P<comment>\#.*)
    |'(?P<single>(?:[^']++|'(?=\S))*+)'(?=\s|$)
    |"(?P<double>(?:[^"]++|"(?=\S))*+)"(?=\s|$)
    |(?P<open>['"].*)
    |(?P<bare>\S++)""",
    re.VERBOSE,
)
_CIF_KEPT = (
    "_atom_site_fract_",
    "_atom_site_label",
    "_atom_site_occupancy",
    "_atom_site_type_symbol",
    "_cell_",
    "_space_group",
    "_symmetry_",
)
_CIF_GROUPS = {
    "_symmetry_space_group_name_h-m": "p1",
    "_space_group_name_h-m_alt": "p1",
    "_space_group_name_hall": "p1",
    "_symmetry_space_group_name_hall": "p1",
    "_symmetry_int_tables_number": "1",
    "_space_group_it_number": "1",
}
_CIF_SYMBOL = re.compile(r"([A-Za-z]+)(?:[0-9.]*[+-]|[+-][0-9.]*)?")  # O2-, Ni0+
_CIF_TERMS = re.compile(r"[+-]?(?:[xyz]|[0-9.]{1,9}(?:/[0-9]{1,2})?)(?:[+-](?:[xyz]|[0-9.]{1,9}(?:/[0-9]{1,2})?))*")
_UNKNOWN = (".", "?")


def _cif(text: BinaryIO, limits: Limits) -> _Found:
    """Read the data blocks that describe a crystal or a part of one; others hold what all have in common."""
    blocks = _cif_blocks(text, limits)
    begin = list(itertools.islice(blocks, 2))
    found = False
    for index, (name, lines) in enumerate(itertools.chain(begin, blocks)):
        if not isinstance(lines, str) and not any("_atom_site" in s or "_cell" in s for s in map(str.lower, lines)):
            continue
        found = True
        suffix = "" if len(begin) == 1 else f"#{index} ({name})" if name else f"#{index}"
        yield suffix, lines if isinstance(lines, str) else _or_reason(_cif_atoms, lines, limits)
    if not found:
        yield "", "It holds no structure: no data block has a cell or atoms."


def _cif_blocks(text: BinaryIO, limits: Limits) -> Iterator[tuple[str, list[str] | str]]:
    """Yield name and lines of each data block, or why it is not read."""
    lines = _Lines(text)
    while lines.find(_CIF_BLOCK.match):
        start = _CIF_BLOCK.match(lines.here or "")
        lines.step()
        name, rest = start.groups() if start else ("", "")
        try:
            yield name, [rest, *lines.text(limits, _CIF_BLOCK.match)]
        except StructureError as error:
            yield name, str(error)


def _cif_tokens(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield the words of a data block, and whether each stands without quotes."""
    block: list[str] | None = None  # of a text that semicolons enclose
    for line in lines:
        words = line
        if block is not None and not line.startswith(";"):
            block.append(line)
            continue
        if block is not None:
            yield "\n".join(block), False
            block, words = None, line[1:]
        elif line.startswith(";"):
            block = [line[1:]]
            continue
        for match in _CIF_TOKEN.finditer(words):
            kind = match.lastgroup or ""
            if kind == "open":
                raise StructureError(f"A quote is not closed: {quoted(match[kind])}.")
            if kind != "comment":
                yield match[kind], kind == "bare"
    if block is not None:
        raise StructureError("A text that begins with a semicolon is not closed.")


def _cif_table(lines: list[str]) -> dict[str, list[str]]:
    """Return the values of each name that is of use."""
    table: dict[str, list[str]] = {}
    columns: list[list[str]] = []  # of the loop under way, or of the one name that waits for its value
    filled = 0
    heading = looping = False
    for word, bare in (*_cif_tokens(lines), ("loop_", True)):
        lower = word.lower()
        if bare and (lower == "loop_" or (lower.startswith("_") and not heading)):
            if heading or filled % max(1, len(columns)) or (columns and not filled):
                raise StructureError("A name or a loop has too few values.")
            columns, filled = [], 0
            heading = looping = lower == "loop_"
            if looping:
                continue
        if bare and lower.startswith("_"):
            name = lower.replace(".", "_")
            if name in table:
                raise StructureError(f"{quoted(name)} stands twice in a data block.")
            columns.append([])
            if name.startswith(_CIF_KEPT):
                table[name] = columns[-1]
        elif not columns or (filled and not looping):
            raise StructureError(f"{quoted(word)} has no name.")
        else:
            heading = False
            columns[filled % len(columns)].append(word)
            filled += 1
    return table


def _cif_atoms(lines: list[str], limits: Limits) -> Atoms:
    table = _cif_table(lines)
    if any(name.startswith(("_space_group_symop_magn", "_space_group_magn", "_cell_modulation")) for name in table):
        raise StructureError("It is a magnetic or modulated structure, which is not read.")
    cell = _cif_cell(table)
    operations = _cif_operations(table)
    numbers, sites = _cif_sites(table, limits)
    if len(operations) > 1:
        numbers, sites = _cif_expanded(numbers, sites, operations, cell, limits)
    return _crystal(numbers, cell, sites, limits, scaled=True)


def _cif_number(word: str) -> float:
    return _number(re.sub(r"\([0-9]*\)$", "", word))  # the digits in brackets say how uncertain it is


def _cif_cell(table: dict[str, list[str]]) -> Array:
    from ase.cell import Cell

    names = [f"_cell_length_{k}" for k in "abc"] + [f"_cell_angle_{k}" for k in ("alpha", "beta", "gamma")]
    missing = [name for name in names if name not in table]
    if missing:
        raise StructureError(f"It has no whole cell: {missing[0]} is missing.")
    values = [_cif_number(table[name][0]) for name in names]
    a, b, c = np.cos(np.radians(values[3:]))
    if min(values[:3]) <= 0.0 or not all(0.0 < v < 180.0 for v in values[3:]):
        raise StructureError("Its cell has a length or an angle that cannot be.")
    if 1.0 + 2.0 * a * b * c - a * a - b * b - c * c <= 1e-9:
        raise StructureError("The angles of its cell fit no volume.")
    found: Array = Cell.fromcellpar(values).array
    return found


def _cif_operations(table: dict[str, list[str]]) -> list[tuple[Array, Array]]:
    """Return rotations and translations of the space group."""
    listed = table.get("_symmetry_equiv_pos_as_xyz") or table.get("_space_group_symop_operation_xyz") or ["x,y,z"]
    if len(listed) > MOST_OPERATIONS:
        raise StructureError(f"It lists {len(listed):,} symmetry operations; no space group has that many.")
    operations = [_cif_operation(text) for text in listed]
    for name, trivial in _CIF_GROUPS.items():
        stated = re.sub(r"[\s_]", "", table.get(name, ["?"])[0]).lower()
        if len(operations) == 1 and stated not in (trivial, *_UNKNOWN):
            # A symbol leaves origin and axes open; to guess them, or to leave atoms out, gives another crystal.
            raise StructureError(
                f"It names the space group {quoted(stated)} but does not list its operations; write it in P1."
            )
    return operations


def _cif_operation(text: str) -> tuple[Array, Array]:
    rotation, translation = np.zeros((3, 3)), np.zeros(3)
    parts = re.sub(r"\s", "", text).lower().split(",")
    if len(parts) != 3 or not all(_CIF_TERMS.fullmatch(part) for part in parts):
        raise StructureError(f"{quoted(text)} is not understood as a symmetry operation.")
    for row, part in enumerate(parts):
        for sign, word in re.findall(r"([+-]?)([xyz]|[0-9./]+)", part):
            factor = -1.0 if sign == "-" else 1.0
            if word in "xyz":
                rotation[row, "xyz".index(word)] += factor
            else:
                above, _, below = word.partition("/")
                translation[row] += factor * _number(above) / _number(below or "1")
    if abs(abs(np.linalg.det(rotation)) - 1.0) > 1e-6:
        raise StructureError(f"{quoted(text)} is no symmetry operation.")
    return rotation, translation


def _cif_sites(table: dict[str, list[str]], limits: Limits) -> tuple[list[int], Array]:
    """Return atomic numbers and fractional coordinates of the sites that are listed."""
    words = [table.get(f"_atom_site_fract_{k}", []) for k in "xyz"]
    labels = table.get("_atom_site_label", [])
    symbols = table.get("_atom_site_type_symbol") or [re.split(r"[^A-Za-z]", label)[0] for label in labels]
    count = len(words[0])
    if not count or not count == len(words[1]) == len(words[2]) == len(symbols):
        raise StructureError("Its atom sites lack fractional coordinates, or elements.")
    if count > limits.atoms:
        raise _too_many(count, limits)
    for k, word in enumerate(table.get("_atom_site_occupancy", [])):
        occupancy = 1.0 if word in _UNKNOWN else _cif_number(word)
        if abs(occupancy - 1.0) > 1e-3:
            raise _partial((labels or symbols)[k], occupancy)
    known = {symbol: _cif_element(symbol) for symbol in set(symbols)}
    fractions = np.array([[_cif_number(word) for word in column] for column in words]).T
    return [known[symbol] for symbol in symbols], fractions


def _partial(site: str, occupancy: float) -> StructureError:
    return StructureError(
        f"It is disordered: {quoted(site)} has the occupancy {occupancy:g}. Partial occupancies cannot be relaxed; "
        "give an ordered structure."
    )


def _cif_element(symbol: str) -> int:
    match = _CIF_SYMBOL.fullmatch(symbol)
    return _atomic_number(match[1] if match else symbol)


def _cif_expanded(
    numbers: list[int], sites: Array, operations: list[tuple[Array, Array]], cell: Array, limits: Limits
) -> tuple[list[int], Array]:
    """Return all atoms of the cell. A site within ``SAME_PLACE`` of its own images is moved to their middle."""
    rotations = np.array([rotation for rotation, _ in operations])
    translations = np.array([translation for _, translation in operations])
    all_numbers: list[int] = []
    all_sites: list[Array] = []
    for number, site in zip(numbers, sites, strict=True):
        shift = rotations @ site + translations - site
        shift -= np.round(shift)
        near = np.linalg.norm(shift @ cell, axis=1) < SAME_PLACE
        special = site + (shift[near].mean(axis=0) if near.any() else 0.0)
        images = rotations @ special + translations
        between = images[:, None] - images[None]
        same = np.linalg.norm((between - np.round(between)) @ cell, axis=2) < SAME_PLACE
        distinct = images[~np.tril(same, -1).any(axis=1)]
        all_numbers += [number] * len(distinct)
        all_sites.extend(distinct % 1.0)
        if len(all_numbers) > limits.atoms:
            raise StructureError(f"Its symmetry makes more than {limits.atoms:,} atoms, which are not read.")
    return all_numbers, np.array(all_sites)


# --- POSCAR ---


def _poscar(text: BinaryIO, limits: Limits) -> _Found:
    yield "", _or_reason(_poscar_atoms, text, limits)


def _poscar_atoms(text: BinaryIO, limits: Limits) -> Atoms:
    lines = iter(_Lines(text).text(limits))
    cut_off = StructureError("The file ends within this structure: it was cut off.")

    def words() -> list[str]:
        line = next(lines, None)
        if line is None:
            raise cut_off
        return line.split()

    title, factors = words(), _poscar_scale(words())
    cell = np.array([[_number(word) for word in words()[:3]] for _ in range(3)])
    if factors[0] < 0.0:
        factors = np.cbrt(-factors / (abs(np.linalg.det(cell)) or math.inf))
    cell = cell * factors
    symbols, counts = _poscar_species(title, words(), words, limits)
    mode = words()
    if mode and mode[0][0] in "sS":
        mode = words()
    if not mode or not mode[0][0].isalpha():
        raise StructureError("The line that says Direct or Cartesian is missing.")
    cartesian = mode[0][0] in "cCkK"
    rows = [words()[:3] for _ in range(sum(counts))]
    if any(len(row) < 3 for row in rows):
        raise StructureError("An atom has fewer than three coordinates.")
    coordinates = _matrix([word for row in rows for word in row]) * (factors if cartesian else 1.0)
    numbers = [number for s, n in zip(symbols, counts, strict=True) for number in [_atomic_number(s)] * n]
    return _crystal(numbers, cell, coordinates, limits, scaled=not cartesian)


def _poscar_scale(words: list[str]) -> Array:
    """Return one factor, or three along x, y and z; one that is negative is minus the volume in Å³."""
    numbers = list(itertools.takewhile(re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?").fullmatch, words[:3]))
    factors = np.array([_number(word) for word in numbers])
    if len(factors) not in (1, 3) or (len(factors) == 3 and (factors < 0.0).any()):
        raise StructureError("The second line should be one scaling factor, or three positive ones.")
    return factors


def _poscar_species(
    title: list[str], sixth: list[str], words: Callable[[], list[str]], limits: Limits
) -> tuple[list[str], list[int]]:
    """Return elements and how many atoms each has; an old file says its elements in the first line or nowhere."""
    old = bool(sixth) and bool(re.fullmatch(r"[0-9]+", sixth[0]))
    numbers = list(itertools.takewhile(lambda word: word[0] not in "!#", sixth if old else words()))
    if not numbers or not all(re.fullmatch(r"[0-9]{1,18}", word) for word in numbers):
        raise StructureError("The line with the number of atoms of each element is missing.")
    counts = [int(word) for word in numbers]
    if not 1 <= sum(counts) <= limits.atoms:
        raise _too_many(sum(counts), limits)
    symbols = [re.split(r"[/_]", word)[0] for word in (title if old else sixth)]  # POTCARs are called Na_pv/6a2f
    if len(symbols) != len(counts):
        raise StructureError(f"It names {len(symbols):,} elements and numbers of atoms for {len(counts):,}.")
    return symbols, counts


# --- pymatgen's JSON ---

_JSON_MARK = re.compile(rb'"(?:[^"\\]|\\.)*+"|["\[\]{}]', re.DOTALL)


def _json(text: BinaryIO, limits: Limits) -> _Found:
    data = text.read()
    start = re.compile(rb"(?:\xef\xbb\xbf)?\s*").match(data)
    begin = start.end() if start else 0
    listed = data[begin : begin + 1] == b"["
    found = False
    for index, item in enumerate(_json_items(data, begin, 1 if listed else 0, limits)):
        found = True
        yield f"#{index}" if listed else "", item if isinstance(item, str) else _or_reason(_json_atoms, item, limits)
    if not found:
        yield "", "It holds no structure."


def _json_items(data: bytes, begin: int, outer: int, limits: Limits) -> Iterator[bytes | str]:
    """Cut out what stands at some depth, without parsing it: a whole file may be too much to be held parsed."""
    depth = 0
    for mark in _JSON_MARK.finditer(data, begin):
        sign = mark[0][:1] if len(mark[0]) > 1 else mark[0]
        if sign in b"[{":
            if depth == outer:
                begin = mark.start()
            depth += 1
        elif sign in b"]}":
            depth -= 1
            if depth == outer:
                whole = mark.end() - begin <= limits.text_bytes
                yield data[begin : mark.end()] if whole else _too_long(limits)
            if depth <= 0:
                return
        elif len(mark[0]) == 1:
            break  # a quote that is not closed
    yield "It is cut off, or no JSON."


def _json_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StructureError(f"{quoted(str(value)[:60])} stands where a number should be.")
    return float(value)


def _json_atoms(text: bytes, limits: Limits) -> Atoms:
    found = json.loads(text)
    if not isinstance(found, dict) or not {"lattice", "sites"} <= found.keys():
        raise StructureError("It is not what pymatgen's Structure.as_dict() gives: lattice and sites are missing.")
    lattice, sites = found["lattice"], found["sites"]
    if not all(lattice.get("pbc", [True])):
        raise StructureError("It is not periodic in all three directions.")
    if len(sites) > limits.atoms:
        raise _too_many(len(sites), limits)
    symbols: list[str] = []
    for site in sites:
        species = site["species"]
        if len(species) != 1 or abs(_json_number(species[0]["occu"]) - 1.0) > 1e-3:
            raise _partial(str(species[0]["element"]), _json_number(species[0]["occu"]))
        symbols.append(species[0]["element"])
    cell = np.array([[_json_number(x) for x in row] for row in lattice["matrix"]]).reshape(3, 3)
    fractions = np.array([[_json_number(x) for x in site["abc"]] for site in sites]).reshape(-1, 3)
    return _crystal([_atomic_number(symbol) for symbol in symbols], cell, fractions, limits, scaled=True)


FORMATS: dict[str, Callable[[BinaryIO, Limits], _Found]] = {
    "cif": _cif,
    "xyz": _xyz,
    "poscar": _poscar,
    "json": _json,
}
