"""Structures with the results of a model and where these come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from .journal import JournaledCalculator


def labelled(atoms: Atoms, results: dict[str, Any], calculator: JournaledCalculator) -> Atoms:
    """A copy of `atoms` that carries its results and where they come from."""
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    from ..uncertainty.results import OF_ATOMS

    copied = atoms.copy()
    copied.info.update(provenance(calculator))
    standard = {name: value for name, value in results.items() if name in all_properties}
    for name, value in results.items():
        if name in OF_ATOMS:
            copied.arrays[name] = value
        elif name not in standard and name != "thresholds":
            copied.info[name] = value
    copied.calc = SinglePointCalculator(copied, **standard)
    return copied


def provenance(calculator: JournaledCalculator) -> dict[str, str]:
    """Entries of ``atoms.info`` that say which model made the results."""
    from .. import __version__

    source = calculator.source
    dispersion = {} if calculator.dispersion is None else {"dispersion": f"D3(BJ), {calculator.dispersion}"}
    return dispersion | {
        "model": Path(source["model"]).name,
        "model_sha256": source["sha256"],
        "model_head": source["head"],
        "model_mode": calculator.engine.mode,
        "dpa2_ase_version": __version__,
    }
