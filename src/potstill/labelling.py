"""Step 2a: frames → labels, through the store, in workers, with failures as data."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from potstill.config import Config
from potstill.data import Array, Dataset, Failure, Frame, Labels, sum_to, tensor
from potstill.engine import cores, each, end_worker
from potstill.engine.cluster import Cluster
from potstill.errors import BackendError, ConvergenceError, DataError, PotstillError
from potstill.protocols import Cautious, Potential
from potstill.store import LabelStore, RunDir

MOST_ATOMS = 100_000  # of a frame, where the reference does not say itself
TOO_CLOSE = 0.6  # Å; no reference means anything below, and several crash
SAY_EVERY = 10.0  # s between lines of progress
GRACE = 2.0  # s between the end of a label's time and that of a worker that does not notice it


@dataclass(frozen=True)
class Labelled:
    """What came of asking for labels.

    Attributes
    ----------
    data : Dataset
        Frames that have labels now, in the order in which they were asked for.
    failures : tuple of Failure
        The others.
    computed, reused : int
        Labels made now, and found in the store.
    """

    data: Dataset
    failures: tuple[Failure, ...]
    computed: int
    reused: int


def refuse(frame: Frame, potential: Potential) -> Failure | None:
    """Say why a frame must not reach a worker; None where nothing speaks against it."""
    unknown = sorted(set(frame.atoms.get_chemical_symbols()) - set(potential.elements))
    if unknown:
        return Failure(
            frame.key,
            "element",
            f"the reference does not know {', '.join(unknown)}",
            potential.fingerprint,
            0,
        )
    most: int = getattr(potential, "most_atoms", MOST_ATOMS)
    if frame.n_atoms > most:
        message = f"{frame.n_atoms:,} atoms are more than the {most:,} that this reference is given"
        return Failure(frame.key, "size", message, potential.fingerprint, 0)
    from vesin import NeighborList

    a = frame.atoms
    box = a.cell.array if a.pbc.any() else np.zeros((3, 3))
    (distances,) = NeighborList(cutoff=TOO_CLOSE, full_list=False).compute(
        points=a.positions, box=box, periodic=a.pbc, quantities="d"
    )
    if len(distances):
        nearest = float(np.min(distances))
        message = f"two atoms are {nearest:.3f} Å apart, closer than {TOO_CLOSE} Å"
        return Failure(frame.key, "overlap", message, potential.fingerprint, 0)
    return None


def compute(frame: Frame, potential: Potential, retries: int = 0) -> Labels | Failure:
    """Label one frame here and now.

    A reference that raises or returns NaN is asked again up to ``retries`` times, with a fresh calculator each time;
    one that has a ladder of safer settings (:class:`~potstill.protocols.Cautious`) is asked once on each rung. Per-atom
    energies are taken where its calculator has them and they sum to the energy.
    """
    source = potential.fingerprint
    failure: Failure | None = None
    for attempt, asked in _attempts(potential, retries):
        atoms = frame.atoms.copy()
        calculator: Any = None
        try:
            atoms.calc = calculator = asked.calculator()
            energy = float(atoms.get_potential_energy())
            forces = np.asarray(atoms.get_forces(), dtype=np.float64)
            stress = tensor(atoms.get_stress()) if frame.volume is not None else None
            energies = _energies(atoms, energy)
        except PotstillError as error:
            reason = "not-converged" if isinstance(error, ConvergenceError) else "error"
            failure = Failure(frame.key, reason, str(error), source, attempt)
            continue
        except Exception as error:  # noqa: BLE001 - a foreign code may raise anything; it is recorded as a failure, and told
            failure = Failure(frame.key, "error", f"{type(error).__name__}: {error}", source, attempt)
            continue
        finally:
            if hasattr(calculator, "close"):
                calculator.close()
        finite = np.isfinite(energy) and np.isfinite(forces).all() and (stress is None or np.isfinite(stress).all())
        if finite and forces.shape == (frame.n_atoms, 3):
            return Labels(energy, forces, stress, source, energies)
        failure = Failure(
            frame.key, "not-finite", "the reference returned NaN, infinity or a wrong shape", source, attempt
        )
    if failure is None:
        raise BackendError("A label was asked for with a negative number of retries.")
    return failure


def _attempts(potential: Potential, retries: int) -> Iterator[tuple[int, Potential]]:
    if not isinstance(potential, Cautious):
        yield from ((attempt, potential) for attempt in range(1, retries + 2))
        return
    for attempt in count(1):
        asked = potential.safer(attempt)
        if asked is None:
            return
        yield attempt, asked


def _energies(atoms: Any, energy: float) -> Array | None:
    """Ask for per-atom energies; None where there are none, or none that sum to the energy.

    They are asked for last and may fail in any way, because the labels that must be there are there by then.
    """
    if "energies" not in getattr(atoms.calc, "implemented_properties", ()):
        return None
    try:
        energies = np.asarray(atoms.get_potential_energies(), dtype=np.float64)
    except Exception:  # noqa: BLE001 - a code may promise what this structure or potential does not allow
        return None
    return energies if energies.shape == (len(atoms),) and sum_to(energies, energy) else None


def _work(
    frame: Frame, *, potential: Potential, store: LabelStore, retries: int, timeout: float = 0.0
) -> Labels | Failure:
    """Label a frame in a worker and commit it there, so that a dying driver loses nothing."""
    known = store.get(frame, potential.fingerprint)  # another driver may have been faster, or time ran out before
    if known is not None:
        return known
    with _limited(timeout, frame, potential.fingerprint, store):
        result = compute(frame, potential, retries)
    store.put(frame, result)
    return result


@contextmanager
def _limited(timeout: float, frame: Frame, source: str, store: LabelStore) -> Iterator[None]:
    """End this worker if what happens inside takes longer than ``timeout`` seconds; 0 sets no limit.

    The failure is committed first, so that the next worker that is given the frame finds it. Code that never lets a
    Python thread run is ended by the kernel a little later.
    """
    if not timeout:
        yield
        return
    decided = threading.Lock()  # who takes it decides whether time is up

    def expire() -> None:
        if decided.acquire(blocking=False):
            store.put(frame, Failure(frame.key, "time-out", f"no label after {timeout:g} s", source, 1))
            end_worker()

    timer = threading.Timer(timeout, expire)
    timer.daemon = True
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout + GRACE)
    timer.start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        timer.cancel()
        if not decided.acquire(blocking=False):
            time.sleep(GRACE)  # the end is near


def label(
    frames: Sequence[Frame],
    potential: Potential,
    store: LabelStore,
    *,
    workers: int = 0,
    retries: int = 2,
    timeout: float = 0.0,
    cluster: Cluster | None = None,
    tell: Callable[[str], None] = lambda _line: None,
    note: Callable[[str | None], None] = lambda _word: None,
) -> Labelled:
    """Label frames; what the store knows is not computed again.

    Parameters
    ----------
    frames : sequence of Frame
        Their own labels, if any, are ignored.
    potential : Potential
        The reference.
    store : LabelStore
        Where every label goes the moment it is made.
    workers : int
        Processes; 0 means one a core.
    retries : int
        Further attempts after a failed one.
    timeout : float
        s. A label that takes longer, all attempts together, is a failure, and its worker is ended; 0 sets no limit.
    cluster : Cluster | None
        Where labels are made, if not on this machine; its nodes must reach the store.
    tell : callable
        Gets lines of progress.
    note : callable
        Gets the same for another shell to read, and None in the end; see :meth:`potstill.store.RunDir.note`.
    """
    results: dict[str, Labels | Failure] = {}
    wanted: list[Frame] = []
    for frame in Dataset(frames):
        known = store.get(frame, potential.fingerprint)
        if known is None:
            known = refuse(frame, potential)
        if known is None:
            wanted.append(frame)
        else:
            results[frame.key] = known
    reused = sum(isinstance(r, Labels) for r in results.values())

    def crash(frame: Frame) -> Failure:
        message = "the worker died while it computed this frame, each time that it was asked for"
        failure = Failure(frame.key, "crash", message, potential.fingerprint, 2)
        store.put(frame, failure)
        return failure

    random.shuffle(wanted)  # each driver goes its own way, so that two on one store seldom meet; labels do not mind
    work = partial(_work, potential=potential, store=store, retries=retries, timeout=timeout)
    if cluster is None:
        coming, places = each(work, wanted, workers=workers, crash=crash), workers or cores()
    else:
        coming, places = cluster.each(work, wanted, crash=crash), cluster.places
    for frame, result in _told(coming, len(wanted), places, tell, note):
        results[frame.key] = result
    while store.set_aside:
        aside = store.set_aside.pop()
        tell(f"label: {aside} was no whole entry of the store any more; it is set aside, and its label was made again")
    failures = tuple(r for f in Dataset(frames) if isinstance(r := results[f.key], Failure))
    good = Dataset(f.labelled(r) for f in Dataset(frames) if isinstance(r := results[f.key], Labels))
    tell(
        f"label: {len(good)} labels ({len(wanted)} computed, {reused} from the store)"
        + (f", {len(failures)} failed: {_reasons(failures)}" if failures else "")
    )
    return Labelled(good, failures, len(good) - reused, reused)


def labeller(
    settings: Config,
    reference: Potential,
    out: Path,
    *,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Callable[[Sequence[Frame]], Labelled]:
    """Return what labels frames as a run's settings say.

    Parameters
    ----------
    settings : Config
        Whose ``[label]``, ``[engine]`` and ``[cluster]`` say how.
    reference : Potential
        The reference.
    out : path
        The run's directory: its store, where the settings name no other; its progress; its jobs' files.
    workers : int | None
        Other than the settings'.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    StoreError
        If the store cannot be opened.
    """
    how, batch = settings.label, settings.cluster
    return partial(
        label,
        potential=reference,
        store=LabelStore(how.store or out / "labels"),
        workers=settings.engine.workers if workers is None else workers,
        retries=how.retries,
        timeout=how.timeout,
        cluster=Cluster(batch, out / "cluster", how.timeout) if batch.provider else None,
        tell=tell,
        note=RunDir(out).note,
    )


def _told(
    coming: Iterator[tuple[Frame, Labels | Failure]],
    wanted: int,
    workers: int,
    tell: Callable[[str], None],
    note: Callable[[str | None], None],
) -> Iterator[tuple[Frame, Labels | Failure]]:
    """Pass on what comes, and say now and then how far it is."""
    began = said = time.monotonic()
    failed = 0
    for done, (frame, result) in enumerate(coming, 1):
        yield frame, result
        failed += isinstance(result, Failure)
        now = time.monotonic()
        if now - said > SAY_EVERY and done < wanted:
            said = now
            progress = _progress(done, wanted, failed, workers, now - began)
            tell(f"label: {progress}")
            note(progress)
    note(None)


def _progress(done: int, wanted: int, failed: int, workers: int, seconds: float) -> str:
    """Say how many labels are done, failed and running, how many an hour, and the time left."""
    left = (wanted - done) * seconds / done
    clock = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min" if left < 7200 else f"{left / 3600:.1f} h"
    running = min(workers, wanted - done)
    return f"{done}/{wanted}, {failed} failed, {running} running, {3600 * done / seconds:.0f} an hour, {clock} left"


def _reasons(failures: Sequence[Failure]) -> str:
    count: dict[str, int] = {}
    for f in failures:
        count[f.reason] = count.get(f.reason, 0) + 1
    return ", ".join(f"{n} {reason}" for reason, n in sorted(count.items()))


class Revealer:
    """Labels that a pool already carries, handed out only when they are asked for."""

    def __init__(self, pool: Dataset) -> None:
        self._labels = {f.key: f.labels for f in pool if f.labels is not None}

    def __call__(self, frames: Sequence[Frame]) -> Labelled:
        """Return the labels of these frames.

        Raises
        ------
        DataError
            If one of them has none.
        """
        missing = sum(f.key not in self._labels for f in frames)
        if missing:
            raise DataError(
                f"{missing} of {len(frames)} chosen frames have no label in the file. Name a labeller with --reference."
            )
        return Labelled(Dataset(f.labelled(self._labels[f.key]) for f in frames), (), 0, len(frames))
