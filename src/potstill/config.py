"""Every knob: typed, frozen, with default, unit and one sentence.

A run is described by one TOML file with a section for each step. Unknown keys are refused with the name of the
nearest right one and the section where it belongs.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from potstill.errors import ConfigError

Temperature = Annotated[float, Field(gt=0, le=50_000)]
Pressure = Annotated[float, Field(ge=-50, le=1_000)]


class Section(BaseModel):
    """Base of the sections: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_quiet_conversion(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would turn into a number without a word: true into 1, and "4" into 4."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if wanted in (int, float) and isinstance(value, (bool, str)):
            raise ValueError("expected a number")
        return value


class SampleConfig(Section):
    """Step 1: a pool of configurations by molecular dynamics."""

    element: str = Field("Ni", description="Chemical symbol of the metal.", pattern=r"^[A-Z][a-z]?$")
    potential: str = Field(
        "lammps:NiAlH_jea.eam.alloy",
        description="Potential that drives the dynamics: lammps:FILE, a name from LAMMPS's own folder or a path.",
    )
    ensemble: Literal["multiorder-multithermal", "multithermal", "multibaric-multithermal", "npt-ladder"] = Field(
        "multiorder-multithermal",
        description="What is sampled: one run over a range of temperatures (multithermal), of pressures too "
        "(multibaric-), or pushed between crystal and liquid too (multiorder-); npt-ladder is NPT at each temperature "
        "× pressure × start.",
    )
    method: Literal["sams", "wang-landau", "opes"] = Field(
        "sams", description="How an extended ensemble learns its bias."
    )
    order: Literal["auto", "structure-factor", "q6", "both"] = Field(
        "auto",
        description="Order parameter between crystal and liquid; auto takes the structure factor below 65 atoms, and "
        "beyond it both, half the walkers each.",
    )
    structure: Literal["auto", "fcc", "bcc", "hcp"] = Field(
        "auto", description="Crystal that the runs begin from; auto takes the element's ground state."
    )
    atoms: tuple[Annotated[int, Field(ge=4, le=4000)], ...] = Field(
        (32,), description="Cell sizes in atoms; the nearest supercell of the crystal is taken.", min_length=1
    )
    temperature: tuple[Temperature, ...] = Field(
        (),
        description="K. Lowest and highest temperature; for npt-ladder its rungs. Empty: from the cohesive energy.",
    )
    pressure: tuple[Pressure, ...] = Field(
        (),
        description="GPa. One or the range's ends; for npt-ladder its rungs. Empty: 0, or a range where the ensemble "
        "has one.",
    )
    frames: int = Field(4_000, description="Configurations that an extended ensemble keeps.", ge=1, le=10_000_000)
    walkers: int = Field(8, description="Walkers that share one bias; half of them start molten.", ge=1, le=1024)
    prepare: int = Field(
        4_000,
        description="MD steps in which half of the walkers melt, and as many in which all settle, before the bias is "
        "learnt.",
        ge=100,
    )
    learning_steps: int = Field(
        0, description="MD steps of all walkers together in which the bias is learnt; 0: by the number of atoms.", ge=0
    )
    stride: int = Field(
        0,
        description="MD steps between kept frames; 0: where the forces' autocorrelation has fallen below a tenth "
        "(npt-ladder: 100).",
        ge=0,
    )
    cell: Literal["isotropic", "flexible"] = Field(
        "isotropic", description="Whether an extended ensemble changes the cell's shape as well as its volume."
    )
    walls: tuple[Annotated[float, Field(gt=0.3)], Annotated[float, Field(lt=5)]] = Field(
        (0.8, 1.65), description="Volumes that an extended ensemble is kept between, in units of that at rest."
    )
    timestep: float = Field(2.0, description="fs. Length of an MD step.", gt=0, le=10)
    start: tuple[Literal["crystal", "melt"], ...] = Field(
        ("crystal", "melt"),
        description="npt-ladder: where each rung begins, the crystal or the crystal molten first.",
        min_length=1,
    )
    steps: int = Field(10_000, description="npt-ladder: MD steps of production on each rung.", ge=1)
    equilibration: int = Field(2_000, description="npt-ladder: MD steps before production on each rung.", ge=0)
    melting: int = Field(
        5_000, description="npt-ladder: MD steps of melting before a rung that starts from the melt.", ge=0
    )
    baseline: bool = Field(
        False,
        description="Run npt-ladder too, for as many MD steps, and compare what the two cover in the report.",
    )

    @field_validator("atoms", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        """Take "32:108", and a lone number, for what they mean."""
        if isinstance(value, str) and all(part.strip().isdigit() for part in value.split(":")):
            return [int(part) for part in value.split(":")]
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("temperature", "pressure", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        """Take "800:4000", and a lone number, for what they mean."""
        if isinstance(value, str):
            try:
                return [float(part) for part in value.split(":")]
            except ValueError:
                raise ValueError('expected numbers, as in [800, 4000] or "800:4000"') from None
        return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _sensible(self) -> SampleConfig:
        if self.ensemble != "npt-ladder":
            if self.temperature and not (len(self.temperature) == 2 and self.temperature[0] < self.temperature[1]):
                raise ValueError(
                    f"temperature: {self.ensemble} needs the lowest and the highest, as in [800, 4000]; rungs are for "
                    "the ensemble npt-ladder"
                )
            if self.walls[0] >= 1 or self.walls[1] <= 1:
                raise ValueError("walls: the volume at rest, 1, must lie between them")
            if sorted(self.pressure) != list(self.pressure):
                raise ValueError("pressure: expected rising values")
            if self.ensemble == "multithermal" and len(self.pressure) > 1:
                raise ValueError(
                    "pressure: multithermal has one; several are for multibaric- and multiorder-multithermal"
                )
            if self.method == "wang-landau" and self.ensemble.startswith("multiorder") and len(self.pressure) > 1:
                raise ValueError(
                    "method: the histogram of wang-landau is two-dimensional, so with the order parameter it holds one "
                    "pressure; sams and opes hold several"
                )
        elif self.baseline:
            raise ValueError("baseline: npt-ladder is the baseline; it goes beside an extended ensemble")
        return self


class LabelConfig(Section):
    """Step 2a: the reference that says energy, forces and stress."""

    reference: str = Field(
        "",
        description="Potential that labels; empty means the same one that samples. Written like sample.potential.",
    )
    retries: int = Field(2, description="How often a failed label is tried again before it is kept as a failure.", ge=0)
    timeout: float = Field(
        0.0,
        description="s. A label that takes longer is kept as a failure, and its worker is ended; 0: no limit.",
        ge=0,
    )
    store: str = Field(
        "",
        description="Where labels are kept: a folder, or postgresql://user@host/name, that runs may share; empty means "
        "in the run's own directory.",
    )


class PlaneWaves(Section):
    """What codes with plane waves have in common."""

    k_spacing: float = Field(
        0.3,
        description="1/Å, with the factor of 2π. Points of the shifted Monkhorst-Pack grid are this far apart at most: "
        "3 × 3 × 3 for 32 atoms. The Γ point alone is useless for a metal.",
        gt=0,
        le=5,
    )
    small_k_spacing: float = Field(
        0.2,
        description="1/Å. The same for cells of fewer than 16 atoms: crystals, whose differences are small.",
        gt=0,
        le=5,
    )


class EspressoConfig(PlaneWaves):
    """Labels by density-functional theory with Quantum ESPRESSO: label.reference = "espresso"."""

    cutoff: float = Field(
        40.0, description="Ry. Of the wave functions; 20 do for aluminium's GTH-PBE-q3.", gt=0, le=500
    )
    density_cutoff: float = Field(
        0.0, description="Ry. Of the density; 0: four times cutoff, right for norm-conserving pseudopotentials.", ge=0
    )
    smearing: Literal["mv", "mp", "fd", "gauss"] = Field("mv", description="Kind of smearing: cold (mv) by default.")
    width: float = Field(0.02, description="Ry. Width of the smearing.", gt=0, le=0.5)
    spin: float = Field(
        0.0,
        description="Magnetisation that every atom starts with, from -1 to 1; 0: no spin polarisation.",
        ge=-1,
        le=1,
    )
    convergence: float = Field(1e-7, description="Ry an atom. The density is self-consistent below this.", gt=0)
    pseudopotentials: dict[str, Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]] = Field(
        {},
        description="File, or name in CP2K's table, for each element; where there is none, CP2K's GTH-PBE with the "
        "fewest electrons.",
    )


class GpawConfig(PlaneWaves):
    """Labels by density-functional theory with GPAW and plane waves: label.reference = "gpaw"."""

    cutoff: float = Field(350.0, description="eV. Of the plane waves; 300 do for aluminium.", gt=0, le=5000)
    functional: Literal["LDA", "PBE", "PBEsol", "RPBE", "revPBE"] = Field(
        "PBE", description="Of exchange and correlation; GPAW has setups for it."
    )
    smearing: Literal["marzari-vanderbilt", "fermi-dirac"] = Field(
        "marzari-vanderbilt", description="Kind of smearing: cold by default."
    )
    width: float = Field(0.27, description="eV. Width of the smearing; the default is 0.02 Ry.", gt=0, le=5)
    spin: float = Field(
        0.0, description="µB. Magnetic moment that every atom starts with; 0: no spin polarisation.", ge=-10, le=10
    )
    convergence: float = Field(1e-5, description="eV a valence electron. The energy has settled below this.", gt=0)
    setups: dict[str, Annotated[str, Field(pattern=r"^\w+$")]] = Field(
        {}, description='Other than the standard PAW setup, for each element: {Ni = "10"} has ten valence electrons.'
    )


class ModelConfig(Section):
    """The descriptor and the network on top of it."""

    cutoff: float = Field(6.0, description="Å. Reach of the radial functions.", gt=1, le=20)
    angular_cutoff: float = Field(5.5, description="Å. Reach of the power spectrum.", gt=1, le=20)
    n_radial: int = Field(
        24, description="Radial functions of the two-body part, for each neighbour element.", ge=1, le=64
    )
    n_angular: int = Field(
        6, description="Radial functions of the power spectrum, for each neighbour element.", ge=1, le=16
    )
    l_max: int = Field(4, description="Highest angular momentum of the power spectrum.", ge=0, le=6)
    hidden: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (48, 48), description="Widths of the hidden layers.", min_length=1
    )


class TrainConfig(Section):
    """Step 2b: a committee of networks, all members at once."""

    members: int = Field(4, description="Networks in the committee.", ge=1, le=64)
    steps: int = Field(
        2_000,
        description="Optimiser steps of a full training on up to 100 frames; in proportion for more, up to four times.",
        ge=0,
    )
    batch: int = Field(16, description="Frames of 32 atoms in a batch; larger frames count for more.", ge=1)
    learning_rate: float = Field(0.005, description="Peak of the cosine schedule.", gt=0)
    energy_scale: float = Field(
        0.004, description="eV/atom. An energy error of this size costs as much as the next two.", gt=0
    )
    force_scale: float = Field(0.05, description="eV/Å. A force error of this size.", gt=0)
    virial_scale: float = Field(0.03, description="eV/atom. A virial error (stress × volume) of this size.", gt=0)
    robust: float = Field(
        10.0,
        description="Residuals beyond this many scales count linearly, not squared: one bad label spoils nothing.",
        gt=0,
    )
    atomic_scale: float = Field(
        0.0,
        description="eV. An error of this size in an atom's own energy, where labels have them; 0 leaves them out.",
        ge=0,
    )
    second_stage: float = Field(
        0.0, description="Share of the steps, the last ones, that weigh forces and stress more.", ge=0, le=1
    )
    second_boost: float = Field(10.0, description="By how much more.", gt=0)
    seconds: float = Field(
        0.0,
        description="Time budget: the schedule ends after so long, if not before. 0 sets none: runs stay repeatable.",
        ge=0,
    )
    validation: float = Field(
        0.0, description="Share of the trajectories that decide when to stop, instead of being learnt from.", ge=0, lt=1
    )
    patience: int = Field(
        5, description="With validation: twentieths of the steps without progress before training ends.", ge=1
    )


class DistilConfig(Section):
    """Step 2: the loop that chooses, labels and learns."""

    budget: int = Field(200, description="Labels to learn from.", ge=1)
    holdout: int = Field(
        100,
        description="Labels to judge by, from trajectories that are never learnt from. Bought beside the budget.",
        ge=0,
    )
    holdout_fraction: float = Field(
        0.15,
        description="Share of the pool's frames whose trajectories are kept for the hold-out.",
        gt=0,
        lt=1,
    )
    selector: Literal[
        "potstill", "random", "fps", "committee", "leverage", "last-layer", "entropy", "cover", "direct"
    ] = Field("potstill", description="How frames are chosen.")
    beside: float = Field(
        0.1,
        description="Share of the budget for generated frames beside the pool: other crystals, surfaces, defects. They "
        "are labelled where the quick checks after a round ask for them. 0: the pool only.",
        ge=0,
        le=0.9,
    )
    initial: int = Field(25, description="Labels of the first round, chosen without a model.", ge=1)
    growth: float = Field(2.0, description="Factor by which the set grows from round to round.", gt=1, le=100)
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Labels after each round, rising to the budget; empty: from initial by growth."
    )
    candidates: int = Field(
        5_000,
        description="Frames of the pool that a round looks at; a random part where the pool is larger.",
        ge=10,
    )
    round_steps: int = Field(500, description="Optimiser steps of a round; the last one trains in full.", ge=0)
    target_force: float = Field(
        0.0,
        description="eV/Å. Stop once the hold-out's force error is below this with 95 % confidence; 0 never stops so.",
        ge=0,
    )
    target_energy: float = Field(
        0.0, description="eV/atom. The same for the energy error; where both are set, both must hold.", ge=0
    )
    stop_flat: bool = Field(
        True,
        description="Stop once two rounds in a row have not lowered the hold-out's errors beyond their error bars.",
    )
    baseline: bool = Field(
        False,
        description="Draw as many frames at random too, label and learn them, so that the report shows what choosing "
        "was worth. It costs as many labels again as the pool gave.",
    )
    drop_outliers: bool = Field(
        False, description="Leave out of the last training the labels that nothing else explains; else they are listed."
    )


class ValidateConfig(Section):
    """Step 3: crystals that are not in the data."""

    polymorphs: tuple[str, ...] = Field(
        ("fcc", "hcp", "dhcp", "9R", "bcc", "A15", "sc", "diamond"),
        description="Crystals relaxed by the model and by the reference.",
        min_length=1,
    )
    defects: bool = Field(True, description="Two slabs and a vacancy too, their atoms relaxed.")
    checks: tuple[str, ...] = Field(
        ("quick",),
        description="Of the card: names of checks, quick for what takes seconds, all with minutes of dynamics too.",
    )
    force_tolerance: float = Field(
        0.001, description="eV/Å. Relaxations end when every force and cell gradient is below this.", gt=0
    )
    relax_steps: int = Field(300, description="Steps after which a relaxation is called not converged.", ge=1)


class TransferConfig(Section):
    """Step 4: the same configurations for other metals, without sampling or distilling again."""

    to: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$")], ...] = Field(
        (),
        description="Metals, as Nb, and alloys, as Ni3Al or, for all compositions, Ni-Al. Empty: no transfer.",
    )
    references: dict[str, str] = Field(
        {},
        description='The potential that labels, for each target: {Al = "lammps:Al_zhou.eam.alloy"}; written like '
        "sample.potential. Where there is none, label.reference.",
    )
    source: str = Field(
        "",
        description="What is transferred: foundation, or a file of distilled frames. In a run: empty for its own.",
    )
    source_volume: float = Field(
        0.0, description="Å³ per atom of the source's crystal at rest; 0: from the model beside the file.", ge=0, le=200
    )
    most_atoms: int = Field(
        0,
        description="Frames of more atoms are left out of the source, for references whose cost grows with the cell; "
        "0: no limit.",
        ge=0,
    )
    budget: int = Field(0, description="Labels of each target to learn from; 0: all frames of the source.", ge=0)
    judge: int = Field(
        100,
        description="Labels to judge by: of the target's own extended ensemble where its reference is fast; else, 20 "
        "at most, of frames that the budget leaves.",
        ge=0,
    )
    warm: str = Field("", description="A model whose weights each target's training begins with; empty: from scratch.")
    top_up: int = Field(
        0,
        description="Frames to add where the source leaves the widest gap: of the target's own ensemble, or, where its "
        "reference is slow, generated crystals, surfaces and defects.",
        ge=0,
    )
    most_force: float = Field(0.0, description="eV/Å. Labels with a larger force count as failures; 0 keeps all.", ge=0)


class EngineConfig(Section):
    """Where work runs."""

    workers: int = Field(0, description="Processes; 0 means one a core.", ge=0)


Word = Annotated[str, Field(pattern=r"^[\w.:@+-]*$", max_length=200)]  # nothing that a shell or a scheduler would obey


class ClusterConfig(Section):
    """Labels on the nodes of a batch system, through parsl; pip install 'potstill[cluster]'."""

    provider: Literal["", "local", "slurm", "pbs", "lsf", "kubernetes"] = Field(
        "", description="Batch system; empty: labels are made on this machine, by engine.workers."
    )
    partition: Word = Field("", description="Partition or queue of the jobs; a namespace of kubernetes.")
    account: Word = Field("", description="Account or project that is charged.")
    qos: Word = Field("", description="Quality of service, for slurm.")
    constraint: Word = Field("", description="Kind of node, for slurm.")
    image: Annotated[str, Field(pattern=r"^[\w./:@-]*$", max_length=300)] = Field(
        "", description="Container image that has potstill and the reference's program, for kubernetes."
    )
    walltime: str = Field("04:00:00", description="HH:MM:SS of a job.", pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$")
    jobs: int = Field(1, description="Jobs in the queue at a time, at most; as many as there is work for.", ge=1)
    nodes: int = Field(1, description="Nodes of a job.", ge=1)
    cores: int = Field(0, description="Cores of a node; 0: whole nodes, and all their cores.", ge=0)
    cores_per_label: int = Field(
        1, description="Cores of a label; as many processes should the reference's command start.", ge=1
    )
    memory: int = Field(0, description="GB of a node; 0: what the batch system gives.", ge=0)
    drain: str = Field(
        "",
        description="HH:MM:SS before a job's end from which it begins no more labels; empty: a tenth of walltime, or "
        "label.timeout; 00:00:00: it begins some until its end.",
        pattern=r"^(\d{1,3}:[0-5]\d:[0-5]\d)?$",
    )
    address: Word = Field(
        "", description="Address of this machine that nodes can reach; empty: that of the way to the network."
    )

    @model_validator(mode="after")
    def _whole(self) -> ClusterConfig:
        if self.provider == "kubernetes" and not self.image:
            raise ValueError("image: kubernetes needs one")
        if self.provider in {"pbs", "lsf", "kubernetes"} and not self.cores:
            raise ValueError(f"cores: {self.provider} needs the number of a node")
        if self.cores and self.cores_per_label > self.cores:
            raise ValueError(f"cores_per_label: more than the {self.cores} cores of a node")
        if self.seconds_to_work <= 0:
            raise ValueError("drain: longer than walltime")
        return self

    @property
    def seconds_to_work(self) -> int:
        """How long after its beginning a job begins labels, s."""
        walltime = seconds(self.walltime)
        return walltime - (seconds(self.drain) if self.drain else walltime // 10)


def seconds(clock: str) -> int:
    """Return the seconds of HH:MM:SS."""
    hours, minutes, rest = (int(part) for part in clock.split(":"))
    return 3600 * hours + 60 * minutes + rest


class Config(Section):
    """A whole run."""

    title: str = Field("", description="A line of text for the report.")
    seed: int = Field(1, description="Decides everything that is drawn at random.", ge=0, lt=2**31)
    sample: SampleConfig = SampleConfig()
    label: LabelConfig = LabelConfig()
    espresso: EspressoConfig = EspressoConfig()
    gpaw: GpawConfig = GpawConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    distil: DistilConfig = DistilConfig()
    validate_: ValidateConfig = Field(ValidateConfig(), alias="validate")
    transfer: TransferConfig = TransferConfig()
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.distil.initial > self.distil.budget:
            raise ValueError(f"distil.initial is {self.distil.initial}, more than distil.budget, {self.distil.budget}")
        sizes = self.distil.sizes
        if sizes and (sorted(set(sizes)) != list(sizes) or sizes[-1] != self.distil.budget):
            raise ValueError(
                f"distil.sizes should rise and end with distil.budget, {self.distil.budget}, but reads {list(sizes)}"
            )
        if self.sample.ensemble == "npt-ladder" and self.sample.stride > self.sample.steps:
            raise ValueError(
                f"sample.stride is {self.sample.stride}, more than sample.steps, {self.sample.steps}: no frame is kept"
            )
        return self

    @property
    def reference(self) -> str:
        """The labeller: ``label.reference``, or the sampling potential where that is empty."""
        return self.label.reference or self.sample.potential

    def dump(self) -> dict[str, Any]:
        """Return plain JSON values, with the names of the TOML file."""
        return self.model_dump(mode="json", by_alias=True)


def sections() -> dict[str, type[Section]]:
    """Name each section of the file and its class, in the order of the data's way."""
    return {
        field.alias or name: field.annotation
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def knobs() -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, default, sentence) of every knob."""
    for name, info in Config.model_fields.items():
        if (info.alias or name) not in sections():
            yield name, info.default, info.description or ""
    for section, cls in sections().items():
        for name, info in cls.model_fields.items():
            yield f"{section}.{name}", info.default, info.description or ""


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file.

    Parameters
    ----------
    path : path
        The file.
    overrides : iterable of str
        ``section.key=value`` texts, the value in TOML's spelling (a bare word is taken as text).

    Raises
    ------
    ConfigError
        With the file, the key, what was expected and what was found.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"Expected a configuration at {path}, but there is none. `potstill config template` writes one."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    except OSError as error:
        raise ConfigError(f"{path} could not be read: {error}.") from None
    apply_overrides(raw, overrides)
    return parse_config(raw, str(path))


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put ``section.key=value`` texts into plain values.

    Raises
    ------
    ConfigError
        If a text has no ``=``, or treats a value as a section.
    """
    for text in overrides:
        _override(raw, text)


def _override(raw: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"An override reads section.key=value, but {text!r} was given.")
    parsed = _value(key.strip(), value)
    *parents, last = key.strip().split(".")
    table: Any = raw
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"The override {text!r} treats {name!r} as a section, but it is a value.")
    table[last] = parsed


def _value(key: str, text: str) -> Any:
    """Return what a shell's word means: TOML, or text; where a list is asked for, also what commas divide."""
    section, _, name = key.rpartition(".")
    field = sections()[section].model_fields.get(name) if section in sections() else None
    if field is None or get_origin(field.annotation) is not tuple:
        return _toml_or(text, text)
    item = get_args(field.annotation)[0]
    item = get_args(item)[0] if get_origin(item) is Annotated else item
    words = item is str or get_origin(item) is Literal  # numbers have spellings of their own, such as 300:900
    value = _toml_or(text, _toml_or(f"[{text}]", text))
    if isinstance(value, str):
        return [word.strip() for word in value.split(",")] if words else value
    return value if isinstance(value, list) else [value]


def _toml_or(text: str, otherwise: Any) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return otherwise


def parse_config(raw: Mapping[str, Any], where: str = "the configuration") -> Config:
    """Check plain values and return the configuration; errors are all told at once."""
    problems = list(_unknown_keys(raw))
    if problems:
        raise ConfigError(f"{where}: " + " ".join(problems))
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        told = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            found = "" if isinstance(item["input"], Mapping) else f", found {item['input']!r}"
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "tuple_type":
                message = "a list is expected, in brackets"
            knob = message.partition(": ")[0]
            if key in sections() and knob in sections()[key].model_fields:  # a section's validator names the key itself
                told.append(f"{key}.{message}, found {item['input'].get(knob)!r}.")
            else:
                told.append(f"{key + ': ' if key else ''}{message}{found}.")
        raise ConfigError(f"{where}: " + " ".join(told)) from None


def _unknown_keys(raw: Mapping[str, Any]) -> Iterator[str]:
    known = sections()
    top = {name for name, _, _ in knobs() if "." not in name}
    homes = [name for name, _, _ in knobs()]
    for name, value in raw.items():
        if name in known:
            if not isinstance(value, Mapping):
                yield f"[{name}] is a section, but a value was given."
                continue
            for key in value:
                if key not in known[name].model_fields:
                    yield _unknown(key, f"[{name}]", homes, name)
        elif name not in top:
            if isinstance(value, Mapping):
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"did you mean [{near[0]}]?" if near else f"the sections are {', '.join(known)}."
                yield f"There is no section [{name}]; {hint}"
            else:
                yield _unknown(name, "the top of the file", homes, "")


def _unknown(key: str, place: str, homes: list[str], section: str) -> str:
    """Tell a misplaced key from a misspelt one."""
    exact = [h for h in homes if h.rpartition(".")[2] == key]
    if exact:
        where = " or ".join(f"[{h.rpartition('.')[0]}]" if "." in h else "the top of the file" for h in exact)
        return f"The key '{key}' in {place} is misplaced: it belongs in {where}."
    local = [h.rpartition(".")[2] for h in homes if h.rpartition(".")[0] == section]
    near = difflib.get_close_matches(key, local, 1, 0.6)
    if near:
        return f"There is no key '{key}' in {place}; did you mean '{near[0]}'?"
    elsewhere = {h.rpartition(".")[2]: h for h in homes}
    near = difflib.get_close_matches(key, elsewhere, 1, 0.6)
    if near:
        return f"There is no key '{key}' in {place}; did you mean '{elsewhere[near[0]]}'?"
    return f"There is no key '{key}' in {place}. `potstill config reference` lists all keys."


def to_toml(config: Config, *, comments: bool = False) -> str:
    """Write a configuration as TOML; with ``comments`` each key carries its sentence."""
    values = config.dump()
    lines: list[str] = []

    def put(name: str, value: Any, sentence: str) -> None:
        if comments and sentence:
            lines.append(f"# {sentence}")
        lines.append(f"{name} = {_toml_value(value)}")

    for name, info in Config.model_fields.items():
        if (info.alias or name) not in sections():
            put(name, values[name], info.description or "")
    for section, cls in sections().items():
        lines.append("")
        if comments:
            lines.append(f"# {(cls.__doc__ or '').strip()}")
        lines.append(f"[{section}]")
        for name, info in cls.model_fields.items():
            put(name, values[section][name], info.description or "")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
