"""One simulation on its way: samples, frames, checkpoints."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa

from .analysis import GRAMS_PER_CM3
from .ensembles import Engine, Ensemble
from .files import write_structures
from .md_files import LAST_GOOD, Checkpoint, Record, Row
from .md_watch import (
    ExplosionError,
    Limits,
    UncertaintyError,
    check_geometry,
    check_results,
    check_temperature,
    has_exploded,
)
from .results import plain

SAME_ENERGY = 1e-3  # eV per atom by which a calculator may differ between stop and restart, as on another device

Observer = Callable[[Atoms, float], None]


@dataclass(frozen=True)
class Progress:
    """Where a simulation is; passed to `md`'s `on_progress`."""

    step: int
    steps: int  # of the whole run
    time: float  # fs
    temperature: float  # K
    potential_energy: float  # eV
    total_energy: float  # eV
    pressure: float  # GPa; not a number without stress
    steps_per_second: float  # since the start or restart
    remaining: float  # s of wall time


@dataclass(frozen=True)
class Plan:
    """The numbers of a run."""

    ensemble: Ensemble
    steps: int
    temperature_end: float | None  # K
    initial_temperature: float | None  # K; None keeps velocities
    interval: int
    frame_interval: int
    seed: int

    def target(self, step: int) -> float:
        """Target temperature (K) of a step of a ramp."""
        start = self.ensemble.temperature
        end = start if self.temperature_end is None else self.temperature_end
        return start + (end - start) * min(step / max(self.steps, 1), 1.0)

    def identity(self, atoms: Atoms) -> dict[str, Any]:
        """What must be the same for a restart: all choices, and the structure by a hash of its numbers."""
        content = hashlib.sha256()
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses()):
            content.update(np.ascontiguousarray(array).tobytes())
        if self.initial_temperature is None:
            content.update(atoms.get_momenta().tobytes())
        choices = plain(asdict(self)) | {"structure": content.hexdigest()}
        choices["constraints"] = plain([constraint.todict() for constraint in atoms.constraints])
        if self.temperature_end is None:
            del choices["steps"]
        return choices


class Run:
    """A simulation from its beginning, or from the checkpoint of its record, to the end.

    Parameters
    ----------
    atoms
        As given by the user; what makes the run the same one after a restart.
    plan, engine, record
        What to do, what moves the atoms, and where it is written.
    limits
        Where to stop.
    """

    def __init__(self, atoms: Atoms, plan: Plan, engine: Engine, record: Record, limits: Limits) -> None:
        self.plan, self.engine, self.record = plan, engine, record
        self.atoms, self.identity = engine.atoms, plan.identity(atoms)
        highest = max(plan.target(0), plan.target(plan.steps), engine.temperature())
        self.limits = limits if limits.temperature is not None else replace(limits, temperature=10 * highest + 1000)
        self.safe: Checkpoint | None = None  # of the last good sample
        self.last_good: Atoms | None = None
        self._warned: set[str] = set()  # names of results that were found too uncertain

    def go(self, on_progress: Callable[[Progress], None] | None, observers: Sequence[Observer]) -> None:
        """Run; whatever happens, the files end at the last good sample and can be continued."""
        start = self._restore()
        self.record.open()
        began = time.perf_counter()
        try:
            for _ in self.engine.dynamics.irun(self.plan.steps - start):
                step = self.engine.dynamics.nsteps
                if step > start or self.safe is None:
                    check_temperature(self.engine.temperature(), self.limits, step)
                    row = self._sample(step)
                    if row is not None:
                        for observe in observers:
                            observe(self.atoms, row["time"])
                        if on_progress is not None:
                            on_progress(self._progress(row, step - start, time.perf_counter() - began))
                if self.plan.temperature_end is not None:
                    self.engine.set_temperature(self.plan.target(step + 1))
            self.safe = self._checkpoint()
        except ExplosionError as error:
            raise self._explained(error) from None
        except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:  # of a calculator or integrator
            if has_exploded(self.atoms, self.engine.temperature(), self.limits):
                failed = ExplosionError(f"the step failed ({error})", self.engine.dynamics.nsteps + 1)
                raise self._explained(failed) from error
            raise
        finally:
            if self.safe is not None:
                self.record.write_checkpoint(self.safe)
            self.record.close()

    # ---- samples --------------------------------------------------------------------------------------------------

    def _sample(self, step: int) -> Row | None:
        """Record what is due at this step; a row of the table if that is."""
        row_due, frame_due = step % self.plan.interval == 0, step % self.plan.frame_interval == 0
        if not (row_due or frame_due):
            return None
        check_geometry(self.atoms, self.limits, step)
        for name, message in check_results(self.atoms, self.limits, step).items():
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(message, UserWarning, stacklevel=2)
        row = self._row(step) if row_due else None
        if row is not None:
            self.record.add_row(row)
        self.last_good = self._frame(step)
        if frame_due:
            self.record.add_frame(self.last_good)
        self.safe = self._checkpoint()
        if frame_due:
            self.record.write_checkpoint(self.safe)
        return row

    def _row(self, step: int) -> Row:
        atoms, nan = self.atoms, float("nan")
        kinetic, potential = float(atoms.get_kinetic_energy()), float(atoms.get_potential_energy())
        pressure = volume = density = nan
        lattice = atoms.cell.cellpar() if atoms.cell.rank == 3 else [nan] * 6
        if atoms.pbc.all():
            volume = float(atoms.get_volume())
            density = float(atoms.get_masses().sum()) / volume * GRAMS_PER_CM3
            try:
                stress = atoms.get_stress(include_ideal_gas=True, apply_constraint=False)
                pressure = -float(stress[:3].sum()) / 3 / GPa
            except PropertyNotImplementedError:  # dynamics at constant volume needs none
                pass
        return {
            "step": step,
            "time": step * self.plan.ensemble.timestep,
            "temperature": self.engine.temperature(),
            "potential_energy": potential,
            "kinetic_energy": kinetic,
            "total_energy": potential + kinetic,
            "conserved_energy": self.engine.conserved(),
            "pressure": pressure,
            "volume": volume,
            "density": density,
        } | dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), map(float, lattice), strict=True))

    def _frame(self, step: int) -> Atoms:
        """A copy with velocities and results, and with the step and the time (fs) in `info`."""
        frame = self.atoms.copy()
        frame.set_constraint()
        frame.info |= {"step": step, "time": step * self.plan.ensemble.timestep}
        energy, forces = self.atoms.get_potential_energy(), self.atoms.get_forces(apply_constraint=False)
        frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
        return frame

    def _progress(self, row: Row, done: int, seconds: float) -> Progress:
        rate = done / seconds if done else float("nan")
        left = self.plan.steps - int(row["step"])
        names = ("time", "temperature", "potential_energy", "total_energy", "pressure")
        return Progress(
            step=int(row["step"]),
            steps=self.plan.steps,
            steps_per_second=rate,
            remaining=left / rate if left else 0.0,
            **{name: row[name] for name in names},
        )

    # ---- stops ----------------------------------------------------------------------------------------------------

    def _explained(self, error: ExplosionError) -> ExplosionError:
        where = f"step {error.step} ({error.step * self.plan.ensemble.timestep:g} fs)"
        unsure = isinstance(error, UncertaintyError)
        message = f"the simulation {'was stopped' if unsure else 'exploded'} at {where}: {error}"
        if self.last_good is not None:
            message += f"; the last good frame is of step {self.last_good.info['step']}"
            if self.record.folder is not None:
                message += f", in {write_structures(self.record.folder / LAST_GOOD, self.last_good)}"
        advice = "relax the structure first, take a shorter time step, or check the model for these elements"
        message += f"; {'label such structures and train on them' if unsure else advice}"
        return type(error)(message, error.step, self.last_good)

    # ---- restart --------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Checkpoint:
        arrays = self.engine.snapshot() | {"energy": np.array(self.atoms.get_potential_energy())}
        return Checkpoint(self.engine.dynamics.nsteps, self.record.sizes(), self.identity, arrays)

    def _restore(self) -> int:
        """Go to the checkpoint, if there is one; returns its step."""
        stored = self.record.checkpoint
        if stored is None:
            return 0
        changed = sorted(
            key
            for key in stored.identity.keys() | self.identity.keys()
            if stored.identity.get(key) != self.identity.get(key)
        )
        if changed:
            raise ValueError(
                f"{self.record.folder} holds a simulation with other {changed}; "
                "continue with the same arguments or choose another folder"
            )
        if stored.step > self.plan.steps:
            raise ValueError(f"{self.record.folder} is at step {stored.step} already; ask for more than that")
        self.engine.restore(stored.arrays)
        energy, before = float(self.atoms.get_potential_energy()), float(stored.arrays["energy"])
        if not abs(energy - before) <= SAME_ENERGY * len(self.atoms):
            raise ValueError(
                f"the calculator gives {energy:g} eV where the stored simulation had {before:g} eV; "
                "continue with the same calculator"
            )
        self.safe, self.last_good = stored, self._frame(stored.step)
        return stored.step
