"""What to show of relaxations, paths, saddle points, molecules and convergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..workflows.convergence import Convergence
from ..workflows.dimer import Saddle
from ..workflows.neb import Band
from ..workflows.relax import Relaxation
from ..workflows.results import Result
from ..workflows.vibrations import Vibrations
from .summaries import Mode, Quantity, Row, Summary, Table, View, picture_of
from .tables import Number

if TYPE_CHECKING:
    from ..uncertainty.results import Uncertainties

MOST_ATOMS = 10  # of those a model knows least
MAX_MODES = 100  # that one can choose from
UNCONVERGED = "Not converged after {} steps: these numbers are not those of a stationary point."


def relax(result: Relaxation) -> Summary:
    """Before and after."""
    before, after = result.initial, result.final
    rows: list[Row] = [
        ("energy", "eV", Number(before.energy, 6), Number(after.energy, 6)),
        ("largest force", "eV/Å", Number(before.max_force, 5), Number(after.max_force, 5)),
    ]
    if before.pressure is not None and after.pressure is not None:
        rows.append(("pressure", "GPa", Number(before.pressure, 4), Number(after.pressure, 4)))
    if result.atoms.cell.rank == 3:
        for name, unit, old, new in zip(
            ("a", "b", "c", "α", "β", "γ"), ("Å",) * 3 + ("°",) * 3, before.cell, after.cell, strict=True
        ):
            rows.append((name, unit, Number(old, 5 if unit == "Å" else 3), Number(new, 5 if unit == "Å" else 3)))
    gained = (after.energy - before.energy) * 1000 / max(len(result.atoms), 1)
    headline = (
        Quantity("Energy", Number(after.energy, 4), "eV"),
        Quantity("Energy change", Number(gained, 2), "meV/atom"),
        Quantity("Largest force", Number(after.max_force, 4), "eV/Å"),
        Quantity("Steps", Number(result.steps)),
    )
    return Summary(
        "Relaxation",
        headline,
        warnings=() if result.converged else (UNCONVERGED.format(result.steps),),
        pictures=picture_of(result, "Energy and largest force"),
        tables=(Table(("quantity", "unit", "before", "after"), rows),),
        structures=(View("Relaxed structure", [result.atoms]),),
    )


def neb(result: Band) -> Summary:
    """Barriers and images."""
    headline = (
        Quantity("Barrier", Number(result.barrier, 4), "eV"),
        Quantity("Reverse barrier", Number(result.reverse_barrier, 4), "eV"),
        Quantity("Reaction energy", Number(result.reaction_energy, 4), "eV"),
        Quantity("Steps", Number(result.steps)),
    )
    rows = [
        (k, Number(float(x), 4), Number(float(energy), 4), Number(float(force), 4))
        for k, (x, energy, force) in enumerate(zip(result.distances, result.energies, result.max_forces, strict=True))
    ]
    labels = tuple(f"{energy:+.3f} eV" for energy in result.energies)
    return Summary(
        "Minimum energy path",
        headline,
        warnings=() if result.converged else (UNCONVERGED.format(result.steps),),
        pictures=picture_of(result, "Energy along the path"),
        tables=(Table(("image", "path (Å)", "energy (eV)", "largest force (eV/Å)"), rows, "Images"),),
        structures=(View("Path", list(result.images), labels),),
        notes=("Energies are above that of the first image.",),
    )


def dimer(result: Saddle) -> Summary:
    """The saddle point and its mode."""
    headline = (
        Quantity("Barrier", Number(result.barrier, 4), "eV"),
        Quantity("Energy", Number(result.energy, 4), "eV"),
        Quantity("Curvature", Number(result.curvature, 3), "eV/Å²"),
        Quantity("Largest force", Number(result.max_force, 4), "eV/Å"),
    )
    warnings = [] if result.converged else [UNCONVERGED.format(result.steps)]
    if result.curvature >= 0:
        warnings.append("The curvature is not negative: this is no saddle point.")
    return Summary(
        "Saddle point",
        headline,
        tuple(warnings),
        structures=(View("Saddle point", [result.atoms], modes=[Mode("mode of negative curvature", result.mode)]),),
        notes=("The barrier is above the structure from which the search began.",),
    )


def vibrations(result: Vibrations) -> Summary:
    """Wavenumbers and thermochemistry."""
    modes = [
        (k + 1, Number(float(value), 2), Number(float(value) * 0.1239842, 3), "imaginary" if value < 0 else "real")
        for k, value in enumerate(result.wavenumbers)
    ]
    thermal = [
        (
            state.model, Number(state.temperature, 2), "–" if state.pressure is None else Number(state.pressure, 3),
            Number(state.enthalpy, 4), Number(1000 * state.entropy, 4), Number(state.free_energy, 4),
        )
        for state in result.thermochemistry
    ]  # fmt: skip
    tables = [Table(("mode", "wavenumber (1/cm)", "quantum (meV)", "kind"), modes, "Modes")]
    if thermal:
        columns = ("model", "temperature (K)", "pressure (bar)", "enthalpy (eV)", "entropy (meV/K)", "free energy (eV)")
        tables.insert(0, Table(columns, thermal, "Thermochemistry"))
    swings = [
        Mode(f"{k + 1}: {abs(value):.1f}{'i' if value < 0 else ''} 1/cm", vectors)
        for k, (value, vectors) in enumerate(zip(result.wavenumbers, result.modes, strict=True))
    ]
    headline = (
        Quantity("Zero-point energy", Number(result.zero_point_energy, 4), "eV"),
        Quantity("Energy", Number(result.energy, 4), "eV"),
        Quantity("Imaginary modes", Number(len(result.imaginary))),
    )
    return Summary(
        "Vibrations",
        headline,
        pictures=picture_of(result, "Wavenumbers"),
        tables=tuple(tables),
        structures=(View("Modes", [result.atoms], modes=swings[:MAX_MODES]),),
        notes=(f"Second derivatives by {result.method}; rigid motions came out at {result.rigid:.2f} 1/cm at most.",),
    )


def convergence(result: Convergence) -> Summary:
    """Values for every setting."""
    rows = [(setting, float(value)) for setting, value in zip(result.settings, result.values, strict=True)]
    return Summary(
        "Convergence",
        (Quantity("Converged from", str(result.setting)),) if result.converged else (),
        warnings=() if result.converged else ("Not converged: values still change by more than the tolerance.",),
        pictures=picture_of(result, "Values by setting"),
        tables=(Table(("setting", "value"), rows),),
        notes=(f"Tolerance {result.tolerance:g}.",),
    )


def uncertainty(result: Uncertainties) -> Summary:
    """How many structures the model knows, and the atoms it knows least."""
    judged = result.judge()
    counts = {kind: judged.count(kind) for kind in ("usual", "unusual", "unknown")}
    distance = np.concatenate(result.atoms["representation_distance"])
    energy = np.concatenate(result.atoms["energies_uncertainty"])
    sizes = [len(symbols) for symbols in result.symbols]
    places = [(s, i) for s, size in enumerate(sizes) for i in range(size)]
    worst = [(places[k], k) for k in np.argsort(-distance, kind="stable")[:MOST_ATOMS]]
    rows: list[Row] = [
        (result.names[s], i, result.symbols[s][i], Number(distance[k], 4), Number(energy[k], 4)) for (s, i), k in worst
    ]
    limits: list[Row] = [(name.replace("_", " "), *values) for name, values in result.thresholds.items()]
    return Summary(
        "Uncertainty",
        headline=tuple(Quantity(f"{kind} structures", str(count)) for kind, count in counts.items()),
        warnings=(f"Structures unknown to the model: {counts['unknown']}.",) if counts["unknown"] else (),
        pictures=picture_of(result, "Every atom; lines are where the calibration warns and stops."),
        tables=(
            Table(("structure", "atom", "element", "distance", "energy / eV"), rows, "Atoms farthest from known ones"),
            Table(("largest", "warns", "stops"), limits, "Thresholds"),
            *([Table(("energies", ""), [*result.quality.items()], "Actual errors")] if result.quality else []),
        ),
    )


KNOWN: dict[str, tuple[type[Result], Callable[[Any], Summary]]] = {
    "relax": (Relaxation, relax),
    "neb": (Band, neb),
    "dimer": (Saddle, dimer),
    "vibrations": (Vibrations, vibrations),
    "convergence": (Convergence, convergence),
    "uncertainty": (Result, uncertainty),  # its class would bring torch, which reports do without
}
