"""Relax to rest, or refuse: numbers of structures that are not at rest mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms

from .batch import evaluate
from .relax import Relaxation, relax
from .relax_many import relax_many


def at_rest(atoms: Atoms, *, fmax: float, cell: bool, max_steps: int) -> Atoms:
    """A relaxed copy of `atoms`; `fmax` in eV/Å.

    Raises
    ------
    ValueError
        If it does not converge.
    """
    run = relax(atoms, cell=cell, fmax=fmax, optimizer="bfgs", max_steps=max_steps)
    _check([run], ["the structure"], fmax)
    return run.atoms


def all_at_rest(
    structures: Sequence[Atoms], names: Sequence[str], calc: Any, *, fmax: float, **options: Any
) -> list[Relaxation]:
    """Relaxations of all `structures` in one batch; `options` of `relax_many`, `names` for the message.

    Raises
    ------
    ValueError
        If one does not converge.
    """
    runs = relax_many(structures, calc, fmax=fmax, **options)
    _check(runs, names, fmax)
    return runs


def energies_at_rest(
    structures: Sequence[Atoms], names: Sequence[str], calc: Any, *, relax_positions: bool, **options: Any
) -> tuple[list[Atoms], list[float], list[float]]:
    """Structures as they are in the end, and energies (eV) before and after; `options` of `all_at_rest`.

    Without `relax_positions` both energies are those of the structures as given.
    """
    before = [float(result["energy"]) for result in evaluate(structures, calc, ["energy"])]
    if not relax_positions:
        return list(structures), before, before
    runs = all_at_rest(structures, names, calc, **options)
    return [run.atoms for run in runs], before, [float(run.final.energy) for run in runs]


def _check(runs: Sequence[Relaxation], names: Sequence[str], fmax: float) -> None:
    for run, name in zip(runs, names, strict=True):
        if not run.converged:
            raise ValueError(
                f"{name} did not relax to {fmax:g} eV/Å: {run.final.max_force:.2g} eV/Å is left after {run.steps} "
                "steps; allow more max_steps, raise fmax, or start from a better structure"
            )
