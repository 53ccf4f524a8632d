"""One calculation by GPAW: a script for a Python that has GPAW, by itself or under MPI; potstill need not be there.

python gpaw_run.py about SETUP…     prints as JSON the version and a hash of each setup, such as Al.PBE
python gpaw_run.py solve            reads gpaw.json of the folder it runs in, writes result.json and gpaw.txt there
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p).resolve() != HERE]  # its neighbours have the names of their codes


def about(setups: list[str]) -> None:
    """Print the version, and what the setups hold."""
    import gpaw
    from gpaw.setup_data import search_for_file

    hashes = {}
    for name in setups:
        try:
            hashes[name] = hashlib.sha256(search_for_file(name)[1]).hexdigest()[:32]
        except (OSError, RuntimeError):
            hashes[name] = ""
    if gpaw.mpi.rank == 0:
        sys.stdout.write(json.dumps({"version": gpaw.__version__, "setups": hashes}) + "\n")


def solve(asked: dict[str, Any]) -> dict[str, Any]:
    """Return energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt), or what went wrong."""
    from ase import Atoms
    from gpaw import GPAW, PW, KohnShamConvergenceError

    atoms = Atoms(**asked["atoms"])
    moments = [asked["spin"]] * len(atoms)
    atoms.set_initial_magnetic_moments(moments)
    method = {"method": "sum"} if asked["spin"] else {}
    atoms.calc = GPAW(
        mode=PW(asked["cutoff"]),
        xc=asked["functional"],
        kpts=asked["k_grid"],
        setups=asked["setups"],
        spinpol=bool(asked["spin"]),
        occupations={"name": asked["smearing"], "width": asked["width"]},
        convergence={"energy": asked["convergence"], "density": 1e-5, "eigenstates": 1e-8},
        mixer={"backend": "pulay", **method, **asked["mixer"]},
        maxiter=asked["iterations"],
        nbands=asked["bands"],
        txt="gpaw.txt",
    )
    try:
        return {
            "energy": atoms.get_potential_energy(force_consistent=True),
            "forces": atoms.get_forces().tolist(),
            "stress": atoms.get_stress().tolist() if atoms.pbc.all() else None,
        }
    except KohnShamConvergenceError as error:
        return {"not_converged": str(error) or "the density did not settle"}


def main() -> None:
    """Serve the command line."""
    if sys.argv[1] == "about":
        about(sys.argv[2:])
        return
    result = solve(json.loads(Path("gpaw.json").read_text(encoding="utf-8")))
    from gpaw.mpi import rank

    if rank == 0:
        Path("result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
