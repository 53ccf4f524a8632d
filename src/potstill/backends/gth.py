"""Goedecker–Teter–Hutter pseudopotentials of CP2K's tables, rewritten in the format that pw.x reads (ABINIT's code 10).

Both formats hold the same numbers (Goedecker, Teter and Hutter, Phys. Rev. B 54, 1703, 1996; Krack, Theor. Chem. Acc.
114, 145, 2005): the local part's radius and coefficients, and for each angular momentum a radius and the upper triangle
of a matrix h. ABINIT's adds the spin–orbit matrix k after each h but the first, which is zero here.
"""

from __future__ import annotations

from pathlib import Path

from potstill.errors import BackendError

TABLE = Path("/usr/share/cp2k/POTENTIAL_UZH")
DEFAULT = "GTH-PBE"
PBE = 11  # ABINIT's number of the functional


def rewritten(element: str, name: str = DEFAULT, table: Path = TABLE) -> tuple[str, str] | None:
    """Return the full name of an element's pseudopotential, and its text for pw.x; None where the table has none.

    Parameters
    ----------
    element : str
        Chemical symbol.
    name : str
        As in the table, ``GTH-PBE-q3``; ``GTH-PBE`` is the table's first of these, with the fewest electrons.
    table : path
        CP2K's file.

    Raises
    ------
    BackendError
        If the table is not what it should be.
    """
    if not table.is_file():
        return None
    lines = table.read_text(encoding="utf-8").splitlines()
    for k, line in enumerate(lines):
        words = line.split()
        if words[:1] == [element] and (name in words[1:] or words[1].startswith(f"{name}-q")):
            try:
                return words[1], _text(element, words[1], lines[k + 1 :])
            except (ValueError, IndexError) as error:
                raise BackendError(
                    f"{table}, line {k + 1}: the pseudopotential {name} of {element} is broken: {error}."
                ) from None
    return None


def _text(element: str, name: str, lines: list[str]) -> str:
    from ase.data import atomic_numbers

    rows = iter(lines)
    valence = sum(int(n) for n in next(rows).split())
    radius, count, *local = next(rows).split()
    local = local[: int(count)]
    channels = int(next(rows).split()[0])
    told = []
    for l in range(channels):
        reach, size, *first = next(rows).split()
        n = int(size)
        triangle = [first[:n], *(next(rows).split()[: n - k] for k in range(1, n))] if n else []
        told.append(" ".join([reach, size, *(triangle[0] if triangle else [])]))
        told.extend("   " + " ".join(row) for row in triangle[1:])
        if l:
            told.extend("   " + " ".join(["0.0"] * (n - k)) for k in range(n))
    for number in [radius, *local, *(w for row in told for w in row.split())]:
        float(number)
    head = [
        f"Goedecker-Teter-Hutter pseudopotential of {element}, {name}",
        f"{atomic_numbers[element]} {valence} 070301 zatom, zion, date",
        f"10 {PBE} {max(channels - 1, 0)} 4 2001 0.0 pspcod, pspxc, lmax, lloc, mmax, r2well",
        f"{radius} {len(local)} {' '.join(local)} rloc, number and coefficients of the local part",
        f"{channels} number of angular momenta",
    ]
    return "\n".join([*head, *told]) + "\n"
