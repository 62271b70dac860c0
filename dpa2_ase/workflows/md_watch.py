"""When a simulation counts as exploded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list


@dataclass(frozen=True)
class Limits:
    """Where a simulation counts as exploded.

    Attributes
    ----------
    temperature
        In K, after every step; by default ten times the highest of the start and the targets, and 1000 K on top.
    force
        Largest norm of an atom's force in a sample, in eV/Å.
    distance
        Smallest distance of two atoms in a sample, as a fraction of the sum of their covalent radii.
    uncertainty
        What happens in a sample where a calculator that has ``thresholds`` among its results (`DPA2Calculator` with
        ``uncertainty=True``: pairs of a warning and a stop by the name of a result) is unsure of itself: nothing, one
        warning per result and run, or that and an end at the second number.
    results
        Largest value in a sample of any result of the calculator, by name, such as ``{"max_devi_f": 0.5}`` of a
        committee.
    """

    temperature: float | None = None
    force: float = 200.0
    distance: float = 0.4
    uncertainty: Literal["ignore", "warn", "stop"] = "warn"
    results: Mapping[str, float] = field(default_factory=dict)


class ExplosionError(RuntimeError):
    """Raised when a simulation leaves its `Limits`.

    Attributes
    ----------
    step
        Where that was noticed.
    last_good
        The last sampled frame within the limits, ``None`` if the first was not.
    """

    def __init__(self, message: str, step: int, last_good: Atoms | None = None) -> None:
        super().__init__(message)
        self.step, self.last_good = step, last_good


class UncertaintyError(ExplosionError):
    """Raised when a simulation comes to where its calculator should not be trusted."""


def check_temperature(temperature: float, limits: Limits, step: int) -> None:
    """Raise ExplosionError for a temperature (K) above the limit, or that is no number."""
    if limits.temperature is not None and not temperature <= limits.temperature:
        raise ExplosionError(f"the temperature of {temperature:.3g} K is above {limits.temperature:g} K", step)


def check_geometry(atoms: Atoms, limits: Limits, step: int) -> None:
    """Raise ExplosionError for a force above the limit, or atoms too near each other."""
    force = float(np.linalg.norm(atoms.get_forces(apply_constraint=False), axis=1).max())
    if not force <= limits.force:
        raise ExplosionError(f"a force of {force:.3g} eV/Å is above {limits.force:g} eV/Å", step)
    first, second, distance = neighbor_list("ijd", atoms, covalent_radii[atoms.numbers] * limits.distance)
    if len(distance):
        near = int(np.argmin(distance))
        raise ExplosionError(
            f"atoms {first[near]} and {second[near]} are {distance[near]:.3g} Å apart, less than "
            f"{limits.distance:g} times the sum of their covalent radii",
            step,
        )


def check_results(atoms: Atoms, limits: Limits, step: int) -> dict[str, str]:
    """Raise UncertaintyError for results above their limits; returns warnings by the name of the result."""
    results = getattr(atoms.calc, "results", {})
    missing = sorted({*limits.results} - {*results})
    if missing:
        raise ValueError(f"limits for {missing}, which the calculator does not give; it gives {sorted(results)}")
    for name, highest in limits.results.items():
        _stop_above(name, _largest(results[name]), highest, step)
    thresholds = results.get("thresholds", {}) if limits.uncertainty != "ignore" else {}
    told = {}
    for name, (warning, stop) in thresholds.items():
        value = _largest(results[name])
        if limits.uncertainty == "stop":
            _stop_above(name, value, stop, step)
        if not value <= warning:
            told[name] = (
                f"{name} is {value:.3g} at step {step}, above {warning:.3g}: the model may not know this structure"
            )
    return told


def _largest(value: float | np.ndarray) -> float:
    return float(np.max(np.abs(value), initial=0.0))


def _stop_above(name: str, value: float, highest: float, step: int) -> None:
    if not value <= highest:
        raise UncertaintyError(f"{name} of {value:.3g} is above {highest:.3g}", step)


def has_exploded(atoms: Atoms, temperature: float, limits: Limits) -> bool:
    """Whether a failure in the middle of a step is one of an explosion, and not the calculator's own."""
    too_hot = limits.temperature is not None and not temperature <= limits.temperature
    return too_hot or not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all())
