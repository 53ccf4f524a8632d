"""One metal after another: ground state, scaled frames, labels, potential, coverage, verdict and page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from potstill import crystals, tables
from potstill.backends import load_model, resolve
from potstill.checks import Outside, Polymorphs, fast, named, validate
from potstill.config import Config, to_toml
from potstill.data import Dataset, Failure, Frame, write_atomic
from potstill.distilling import distil
from potstill.distilling.beside import Beside
from potstill.errors import BackendError, ConfigError, ConvergenceError, DataError
from potstill.labelling import Labelled, labeller
from potstill.model import Committee, FrameFeatures
from potstill.protocols import Potential
from potstill.reporting import report
from potstill.sampling import path_of, sample
from potstill.store import Outcome, RunDir, Stage, digest, read_json, write_json
from potstill.transferring.coverage import closing, coverage
from potstill.transferring.source import Source, beyond, check_budget, read_source, to_metal

DEFAULT_VOLUME = 10.9  # Å³ per atom of nickel, whose size the default cutoffs are made for
MANY_FAILURES = 0.05  # of the labels
JUDGES_OF_SLOW = 20  # frames to judge by, where a reference is not fast
JUDGES_LEARN = 400_000  # steps of all walkers of the target's own run: to judge by, a rough bias does
STRONG = 50.0  # eV/Å; told where a label has more


@dataclass(frozen=True)
class Target:
    """What is transferred to.

    Attributes
    ----------
    name : str
        As it was asked for: ``Nb``, ``Ni3Al``, ``Ni-Al``.
    composition : mapping
        Share of each element; all 0 for every composition.
    """

    name: str
    composition: Mapping[str, float]

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols."""
        return tuple(self.composition)

    @property
    def is_metal(self) -> bool:
        """Whether it is a single element, whose crystals can be judged."""
        return len(self.composition) == 1


def parse_target(name: str) -> Target:
    """Read ``Nb``, ``NiAl``, ``Ni3Al``, or ``Ni-Al`` for all compositions.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    from ase.data import atomic_numbers

    parts = name.split("-")
    found = re.findall(r"([A-Z][a-z]?)(\d*)", name)
    whole = "".join(e + n for e, n in found) == name.replace("-", "")
    symbols = [e for e, _ in found]
    if not whole or not found or len(set(symbols)) < len(symbols) or any(e not in atomic_numbers for e in symbols):
        raise ConfigError(f"Expected a metal or an alloy such as Nb, Ni3Al or Ni-Al, but found {name[:40]!r}.")
    if len(parts) > 1:
        return Target(name, dict.fromkeys(symbols, 0.0))
    return Target(name, {e: float(n or 1) for e, n in found})


def find_ground_state(element: str, potential: Potential) -> dict[str, Any]:
    """Relax fcc, bcc and hcp and return the lattice of lowest energy, its volume, and all energies.

    Raises
    ------
    ConvergenceError
        If none of them comes to rest.
    """
    found, failed = crystals.common_crystals(element, potential.calculator())
    why = [f"{name}: {reason}" for name, reason in failed.items()]
    if not found:
        raise ConvergenceError(
            f"No crystal of {element} comes to rest with {potential.fingerprint} ({'; '.join(why)}), so nothing says "
            "how dense its configurations should be. Try another reference."
        )
    energies = {name: float(atoms.get_potential_energy()) / len(atoms) for name, atoms in found.items()}
    ground = next(iter(found))
    return {
        "crystal": ground,
        "volume": float(found[ground].get_volume()) / len(found[ground]),
        "above": {k: 1e3 * (e - energies[ground]) for k, e in energies.items()},
        "not_relaxed": why,
    }


def model_for(settings: Config, volume: float) -> Config:
    """Return the settings with cutoffs, where they are the defaults, that reach as many neighbours as in nickel."""
    given = settings.model
    factor = (volume / DEFAULT_VOLUME) ** (1 / 3)
    stretched = {
        key: round(value * factor, 2)
        for key in ("cutoff", "angular_cutoff")
        if (value := getattr(given, key)) == type(given).model_fields[key].default
    }
    return settings.model_copy(update={"model": given.model_copy(update=stretched)})


def reference_of(settings: Config, target: Target) -> str:
    """Return the recipe of a target's reference.

    Raises
    ------
    ConfigError
        If there is none.
    """
    recipe = settings.transfer.references.get(target.name) or settings.label.reference
    if not recipe:
        raise ConfigError(
            f"{target.name} needs a reference that labels: give --reference {target.name}=lammps:FILE, or "
            f"transfer.references.{target.name} in the configuration."
        )
    return recipe


def stages(
    settings: Config,
    target: Target,
    source: Source,
    out: Path,
    tell: Callable[[str], None],
    kind: Callable[..., Work] | None = None,
) -> list[Stage]:
    """Describe what is done for one target as stages of a run directory; nothing is computed yet.

    ``kind`` makes the work of the stages; :class:`Work` where it is not given.

    Raises
    ------
    BackendError
        If the reference does not know the target's elements.
    """
    t = settings.transfer
    reference = resolve(reference_of(settings, target), target.elements, settings)
    n = check_budget(source, t.budget)
    learning = {k: settings.dump()[k] for k in ("seed", "model", "train")}
    what = {
        "source": {"name": source.name, "volume": source.volume, "frames": digest(source.data.keys)},
        "target": target.name,
        "reference": reference.fingerprint,
        "seed": settings.seed,
    }
    work = (kind or Work)(settings, target, source, reference, n, out, tell)
    plan = [
        Stage("scale", "1-sample", {**what, "budget": n, **work.judged_by}, work.scale),
        Stage("learn", "2-distil", {**learning, **work.decides}, work.learn, ("scale",)),
    ]
    if target.is_metal:
        checked = {"validate": settings.dump()["validate"], "reference": reference.fingerprint}
        plan += [
            Stage("validate", "3-validate", checked, work.validate, ("scale", "learn")),
            Stage("report", "6-report", {}, work.report, ("scale", "learn", "validate")),
        ]
    return plan


def settled(volume: float) -> float:
    """Round a volume (Å³ per atom) that frames are scaled to.

    A relaxation by another version or processor ends a little elsewhere; its frames are the same, and so are their
    labels in the store.
    """
    return round(volume, 2)


def _fingerprint(warm: str) -> str | None:
    return load_model(warm).fingerprint if warm else None


class Work:
    """The stages of one target."""

    def __init__(
        self,
        settings: Config,
        target: Target,
        source: Source,
        reference: Potential,
        n: int,
        out: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.target, self.source, self.reference = settings, target, source, reference
        self.n, self.fast, self.out = n, fast(reference), out
        self.tell = tell
        self.workers = settings.engine.workers
        wanted = settings.transfer.judge
        self.n_judge = wanted if self.fast else min(wanted, JUDGES_OF_SLOW, len(source.data) - n)
        self.ask = _capped(labeller(settings, reference, out, tell=self.tell), settings.transfer.most_force)

    @property
    def judged_by(self) -> dict[str, Any]:
        """What decides the frames to judge by."""
        own = self.n_judge and self.fast and self.target.is_metal
        return {"judge": self.n_judge, "sample": self.settings.dump()["sample"] if own else None}

    @property
    def decides(self) -> dict[str, Any]:
        """What decides the result of :meth:`learn`, besides ``[model]``, ``[train]``, the seed and the frames."""
        t = self.settings.transfer
        return {"warm": _fingerprint(t.warm), "top_up": t.top_up, "most_force": t.most_force}

    def scale(self, folder: Path) -> Outcome:
        """Find the ground states, scale the frames, and run the target's own dynamics where that is cheap."""
        found = {}
        for element in self.target.elements:
            found[element] = find_ground_state(element, self.reference)
            g = found[element]
            others = ", ".join(f"{k} +{v:.0f}" for k, v in g["above"].items() if k != g["crystal"])
            self.tell(
                f"scale: {element} is {g['crystal']} at rest, {g['volume']:.3f} Å³/atom (meV/atom above: {others})"
            )
        volumes = {e: settled(g["volume"]) for e, g in found.items()}
        seed = self.settings.seed
        frames = to_metal(self.source, self.n, self.target.composition, volumes, seed)
        frames.save(folder / "pool.extxyz")
        own, judge = Dataset(), Dataset()
        if self.n_judge and self.fast and self.target.is_metal:
            own, judge = self._own(found[self.target.elements[0]]["crystal"], folder)
        elif self.n_judge:
            rest = beyond(self.source, self.n, self.n_judge)
            judge = to_metal(rest, len(rest.data), self.target.composition, volumes, seed)
        files = ["pool.extxyz"]
        for name, data in (("own.extxyz", own), ("judge.extxyz", judge)):
            (folder / name).unlink(missing_ok=True)  # of an earlier run with other settings
            if len(data):
                data.save(folder / name)
                files.append(name)
        element = self.target.elements[0]
        summary = {
            "n_frames": len(frames),
            "n_trajectories": len(frames.trajectories),
            "atoms": sorted({f.n_atoms for f in frames}),
            "md_steps": 0,
            "crystal": found[element]["crystal"],
            "volume_per_atom_angstrom3": found[element]["volume"],
            "stopped_early": {},
            "source": self.source.name,
            "scale": (found[element]["volume"] / self.source.volume) ** (1 / 3),
            "ground_states": found,
            "judge": "own dynamics" if len(own) else "the source, not learnt from",
        }
        return Outcome(summary, files)

    def _own(self, crystal: str, folder: Path) -> tuple[Dataset, Dataset]:
        """Run the target's own extended ensemble; return frames to measure coverage with, and others to judge by."""
        element, cell = self.target.elements[0], self.settings.sample.cell
        if path_of(self.reference, element) == "lammps":  # which cannot change a cell's shape; the source's could
            cell = "isotropic"
        settings = self.settings.sample.model_copy(
            update={
                "element": element,
                "cell": cell,
                "structure": crystal,
                "frames": 2 * self.n_judge,
                "learning_steps": self.settings.sample.learning_steps or JUDGES_LEARN,
                "baseline": False,
                "temperature": (),
                "pressure": (),
            }
        )
        self.tell("scale: the metal's own run, to judge by")
        made = sample(
            settings, self.reference, seed=self.settings.seed, folder=folder, workers=self.workers, tell=self.tell
        )
        rng = np.random.default_rng([self.settings.seed, 9])
        rest, held = made.pool.split(0.5, rng=rng)
        return rest, held.take(sorted(rng.permutation(len(held))[: self.n_judge]))

    def learn(self, folder: Path) -> Outcome:
        """Label, train, measure what is covered, and add frames of the target's own where that is asked for."""
        t = self.settings.transfer
        settings, rest = self.prepared()
        pool, own, judge = (self.frames(k) for k in ("pool", "own", "judge"))
        d = {"budget": len(pool), "initial": len(pool), "sizes": (), "beside": 0.0, "selector": "random"}
        settings = settings.model_copy(update={"distil": settings.distil.model_copy(update=d)})
        held = self.ask(list(judge)) if len(judge) else Labelled(Dataset(), (), 0, 0)
        start = None
        if t.warm:
            start = stretched(Committee.load(t.warm), settings)
        go = partial(distil, labeller=self.ask, holdout=held.data, both=False, start=start, tell=self.tell)
        done = go(pool, settings=settings, folder=folder)
        structures = self.crystals(rest)
        covered = coverage(done.committee, own, structures)
        self.say(covered)
        summary: dict[str, Any] = {"coverage": covered}
        more, kept_out = self.topped_up(t.top_up, done.committee, done.data, own, rest, folder)
        if len(more):
            both = pool | more
            d = {"budget": len(both), "initial": len(both)}
            settings = settings.model_copy(update={"distil": settings.distil.model_copy(update=d)})
            done = go(both, settings=settings, folder=folder)
            summary["coverage_before"] = covered
            summary["coverage"] = covered = coverage(done.committee, own.without(more), structures)
            self.say(covered)
        failures = [*done.failures, *(f.plain() for f in held.failures)]
        summary["partial"] = self.partial(len(done.data), [f["message"] for f in done.failures])
        strongest = max(float(np.abs(f.labels.forces).max()) for f in done.data if f.labels is not None)
        summary["strongest_force"] = strongest
        if strongest > STRONG:
            self.tell(f"learn: the largest force is {strongest:.0f} eV/Å; transfer.most_force leaves such frames out")
        files = done.save(folder)
        write_json(folder / "failures.json", failures)
        summary |= {"top_up": len(more), "kept_out": kept_out, "n_failures": len(failures)}
        return Outcome({**done.summary(), **summary}, files)

    def topped_up(
        self, n: int, model: Committee, known: Dataset, own: Dataset, rest: Mapping[str, Any], folder: Path
    ) -> tuple[Dataset, dict[str, int]]:
        """Return n frames that close what the transferred ones leave open, or fewer; and what was kept out of them.

        They are of the metal's own run; where its reference is too slow for one, generated: crystals, surfaces and
        defects whose labels tell most about those of the verdict, which are kept out themselves.
        """
        if not n or not (len(own) or self.target.is_metal):
            return Dataset(), {}
        seed, element = self.settings.seed, self.target.elements[0]
        if len(own):
            more = closing(model, known, own, n, np.random.default_rng([seed, 10]))
            self.tell(f"learn: {len(more)} frames of the metal's own run are added where the gap is widest")
            return more, {}
        lattice, volume = rest["crystal"], settled(rest["volume_per_atom_angstrom3"])
        names = [name for name in self.settings.validate_.polymorphs if name != lattice]
        beside = Beside([element], volume, names, seed, folder / "rounds", lattice=lattice)
        features = FrameFeatures(model.descriptor, model.whitening)
        most = self.settings.transfer.most_atoms
        checks = beside.check(model, features, known)
        more = beside.choose(n, checks, model, features, known, known, most_atoms=most)
        self.tell(f"learn: {len(more)} generated frames are added, which tell most about the verdict's structures")
        return more, beside.kept_out

    def partial(self, n: int, failed: Sequence[str]) -> bool:
        """Say so where more than a few labels to learn from failed, by their messages; return whether they did."""
        asked = n + len(failed)
        if len(failed) <= MANY_FAILURES * asked:
            return False
        self.tell(
            f"learn: {len(failed)} of {asked} labels failed (the first: {failed[0]}), so what follows rests on fewer "
            "frames than were asked for; all are listed in failures.json"
        )
        return True

    def prepared(self) -> tuple[Config, dict[str, Any]]:
        """Return settings whose cutoffs suit the metal, and what :meth:`scale` found."""
        rest: dict[str, Any] = read_json(self.out / "1-sample" / "stage.json")["summary"]
        return model_for(self.settings, rest["volume_per_atom_angstrom3"]), rest

    def frames(self, name: str) -> Dataset:
        """Return ``pool``, ``own`` or ``judge``, as :meth:`scale` left them; the last two may be empty."""
        file = self.out / "1-sample" / f"{name}.extxyz"
        return Dataset.load(file) if file.exists() else Dataset()

    def crystals(self, rest: Mapping[str, Any]) -> dict[str, Frame]:
        """Return the crystals of the verdict, at the volume of the ground state."""
        if not self.target.is_metal:
            return {}
        element, volume = self.target.elements[0], rest["volume_per_atom_angstrom3"]
        names = dict.fromkeys((rest["crystal"], *self.settings.validate_.polymorphs))
        return {name: Frame.of(crystals.prototype(name, element, volume)) for name in names}

    def say(self, covered: Mapping[str, Any]) -> None:
        """Tell what is covered."""
        if covered["atoms"] is not None:
            self.tell(
                f"learn: of {covered['n_frames']} frames that the metal visits itself, {100 * covered['atoms']:.1f} % "
                f"of the atoms and {100 * covered['frames']:.0f} % of the frames are like learnt ones"
            )
        far = [f"{name} ({x:.1f})" for name, x in covered["crystals"].items() if x > covered["limit"]]
        if far:
            self.tell(f"learn: crystals unlike anything learnt: {', '.join(far)}")

    def validate(self, folder: Path) -> Outcome:
        """Judge the potential by its reference."""
        rest = read_json(self.out / "1-sample" / "stage.json")["summary"]
        v, element = self.settings.validate_, self.target.elements[0]
        held = self.out / "2-distil" / "holdout.extxyz"
        lattice = rest["crystal"]
        names = tuple(dict.fromkeys((lattice, *v.polymorphs)))
        check = Polymorphs(element, names, rest["volume_per_atom_angstrom3"], v.force_tolerance, v.relax_steps)
        summary, files = validate(
            Committee.load(self.out / "2-distil" / "model"),
            self.reference,
            check,
            folder,
            outside=Outside(element, ()) if v.defects else None,
            checks=named(v.checks, self.reference),
            lattice=lattice,
            holdout=Dataset.load(held) if held.exists() else Dataset(),
            pool=Dataset.load(self.out / "1-sample" / "pool.extxyz"),
            learnt=Dataset.load(self.out / "2-distil" / "distilled.extxyz"),
            workers=self.workers,
            tell=self.tell,
        )
        return Outcome(summary, files)

    def report(self, _folder: Path) -> Outcome:
        """Write the page."""
        return Outcome(report(self.out), ["../report.html", "../summary.json"])


def stretched(start: Committee, settings: Config) -> Committee:
    """Return a model whose atoms see as far as the settings say: what it knew of a metal, it says of the scaled one.

    Radial functions are 1/r times a function of distance over cutoff, and the power spectrum is their product: what is
    scaled with the cutoffs keeps its descriptors but for a factor, which the weights take up.
    """
    m, d = settings.model, start.descriptor
    factor = np.full(d.n_features, (m.angular_cutoff / d.angular_cutoff) ** 2)
    factor[: len(d.elements) * d.n_radial] = m.cutoff / d.cutoff
    w, weights = start.whitening, start.weights
    (first, bias), *others = weights.layers
    return replace(
        start,
        descriptor=replace(d, cutoff=m.cutoff, angular_cutoff=m.angular_cutoff),
        whitening=replace(w, mean=w.mean / factor, matrix=w.matrix * factor[:, None]),
        weights=replace(weights, linear=weights.linear * factor, layers=((first * factor[:, None], bias), *others)),
    )


def _capped(ask: Callable[[Sequence[Frame]], Labelled], most_force: float) -> Callable[[Sequence[Frame]], Labelled]:
    """Take labels with larger forces (eV/Å) for failures; 0 takes all."""
    if not most_force:
        return ask

    def asked(frames: Sequence[Frame]) -> Labelled:
        got = ask(frames)
        fine, strong = [], []
        for f in got.data:
            worst = float(np.abs(f.labels.forces).max()) if f.labels is not None else 0.0
            if worst <= most_force:
                fine.append(f)
            else:
                source = f.labels.source if f.labels is not None else ""
                message = f"the largest force is {worst:.1f} eV/Å, beyond transfer.most_force, {most_force:g}"
                strong.append(Failure(f.key, "force", message, source, 1))
        return Labelled(Dataset(fine), (*got.failures, *strong), got.computed, got.reused)

    return asked


def transfer(
    settings: Config, source: Source | None, out: str | Path, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Transfer to all targets of the settings, one after another; write ``transfer.json``.

    What one target lacks (a reference that does not know it, a crystal that does not come to rest) is told in its row
    and keeps no other from being done.

    Parameters
    ----------
    settings : Config
        Whose ``[transfer]`` names targets and references.
    source : Source | None
        What is transferred; read as the settings say where it is not given.
    out : path
        Gets a run directory for each target.
    tell : callable
        Gets lines of progress.

    Returns
    -------
    list of dict
        A row for each target: see :func:`row`.

    Raises
    ------
    ConfigError
        If there is no target, or one is not understood.
    """
    out, t = Path(out), settings.transfer
    if not t.to:
        raise ConfigError("Transfer needs a target: give --to Nb, or transfer.to in the configuration.")
    targets = [parse_target(name) for name in t.to]
    for target in targets:
        reference_of(settings, target)
    source = source or read_source(t.source, t.source_volume, tell, most_atoms=t.most_atoms)
    check_budget(source, t.budget)
    rows = []
    for target in targets:
        home = out / target.name
        try:
            execute(settings, target, source, home, partial(_prefixed, target.name, tell))
            rows.append(row(target, home))
        except (BackendError, ConvergenceError, DataError) as error:  # of this target; a full disk is not
            tell(f"{target.name}: {error}")
            rows.append({"target": target.name, "failed": str(error)})
    write_json(out / "transfer.json", {"source": source.name, "targets": rows})
    return rows


def transfer_stage(config: Config, learnt: Mapping[str, Any], out: Path, tell: Callable[[str], None]) -> Stage:
    """Describe the stage of a run that serves other metals; their references must exist.

    ``learnt`` is what decides the run's own distilled set, which is transferred where ``transfer.source`` is empty.
    """
    t, dump = config.transfer, config.dump()
    targets = [parse_target(name) for name in t.to]
    references = {x.name: resolve(reference_of(config, x), x.elements, config).fingerprint for x in targets}

    def act(folder: Path) -> Outcome:
        own = out / "2-distil" / "distilled.extxyz"
        source = read_source(t.source or str(own), t.source_volume, tell, most_atoms=t.most_atoms)
        if not t.source:
            source = replace(source, name=f"the distilled set of {config.sample.element}")
        rows = transfer(config, source, folder, tell)
        failed = [r["target"] for r in rows if "failed" in r]
        return Outcome({"targets": [r["target"] for r in rows]}, ["transfer.json"], failed)

    settings = {**learnt, "transfer": dump["transfer"], "references": references, "validate": dump["validate"]}
    return Stage("transfer", "4-transfer", settings, act, ("distil",))


def execute(
    settings: Config,
    target: Target,
    source: Source,
    home: Path,
    tell: Callable[[str], None],
    kind: Callable[..., Work] | None = None,
) -> None:
    """Do for one target what is not done yet."""
    plan = stages(settings, target, source, home, tell, kind)
    directory = RunDir(home)
    with directory.locked():
        write_atomic(home / "config.toml", to_toml(settings).encode())
        directory.execute(plan, tell)


def _prefixed(name: str, tell: Callable[[str], None], line: str) -> None:
    tell(f"{name}: {line}")


def row(target: Target, home: Path) -> dict[str, Any]:
    """Return a finished target's numbers: labels, errors, crystals, coverage and verdict."""
    directory = RunDir(home)
    rest, learnt = ((directory.record(k) or {})["summary"] for k in ("1-sample", "2-distil"))
    made = {
        "target": target.name,
        "crystal": rest["crystal"],
        "volume": rest["volume_per_atom_angstrom3"],
        "scale": rest["scale"],
        "n_labels": learnt["n_labels"],
        "n_judge": learnt["n_holdout"],
        "n_failures": learnt["n_failures"],
        "partial": learnt["partial"],
        "errors": learnt["errors"],
        "coverage": learnt["coverage"],
        "page": f"{target.name}/report.html" if target.is_metal else None,
    }
    if target.is_metal:
        v = read_json(home / "3-validate" / "validation.json")
        p = v["polymorphs"]
        made["ground_state_right"] = p["ground_state_right"]
        made["order_right"] = p["order_right"]
        made["crystals"] = {r["crystal"]: r["relative_energy_error"] for r in p["crystals"]}
        made["outside"] = {r["structure"]: r["error"] for r in v["outside"] or []}
        made["card"] = {c["check"]: c["result"] for c in v["card"]}
    return made


def table_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows as a table of text, heads first."""
    head = ["target", "crystal", "labels", "meV/atom", "meV/Å", "covered", "ground state", "worst crystal", "checks"]
    lines = [head]
    for r in rows:
        if "failed" in r:
            lines.append([r["target"], "failed", "–", "–", "–", "–", "–", "–", "–"])
            continue
        errors, atoms = r["errors"], r["coverage"]["atoms"]
        crystal = {k: e for k, e in r.get("crystals", {}).items() if e is not None}
        worst, off = max(crystal.items(), key=lambda item: abs(item[1]), default=(None, 0.0))
        results = list(r.get("card", {}).values())
        lines.append(
            [
                r["target"],
                r["crystal"],
                str(r["n_labels"]),
                f"{errors['energy_rmse_mev_per_atom']:.2f}" if errors else "–",
                f"{1e3 * errors['force_rmse_ev_per_angstrom']:.1f}" if errors else "–",
                f"{100 * atoms:.1f} %" if atoms is not None else "–",
                {True: "right", False: "WRONG", None: "–"}[r.get("ground_state_right")],
                f"{worst} {off:+.1f}" if worst else "–",
                f"{results.count('pass')} of {len(results)} pass" if results else "–",
            ]
        )
    return lines


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a terminal."""
    return tables.text(table_rows(rows))
