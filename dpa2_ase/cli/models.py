"""Calculators as users ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .journal import JournaledCalculator

if TYPE_CHECKING:
    from ase import Atoms

    from ..interfaces.ase import DPA2Calculator
    from .options import Model


def make_calculator(choice: Model, *, uncertainty: bool | Path = False) -> JournaledCalculator:
    """The calculator a user asks for; `uncertainty` as for `DPA2Calculator`."""
    parts = asdict(choice)
    dispersion = parts.pop("dispersion")
    calculator = JournaledCalculator(**parts, uncertainty=uncertainty)
    calculator.dispersion = dispersion
    return calculator


def calculator_of_head(choice: Model, head: str | None) -> DPA2Calculator:
    """A calculator without journal, of `head` whatever the choice says of it."""
    from ..interfaces.ase import DPA2Calculator

    return DPA2Calculator(choice.model, head=head, device=choice.device, dtype=choice.dtype, mode=choice.mode)  # type: ignore[arg-type]  # one of the choices


def dressed(calculator: JournaledCalculator) -> Any:
    """The calculator with dispersion, if that was asked for.

    Raises
    ------
    ModuleNotFoundError, ValueError
        As `dpa2_ase.workflows.dispersion.with_dispersion`.
    """
    if calculator.dispersion is None:
        return calculator
    from ..workflows.dispersion import with_dispersion

    return with_dispersion(calculator, calculator.dispersion)


def check_frames(frames: Sequence[tuple[str, Atoms]], calculator: JournaledCalculator) -> None:
    """Find out before the work whether the model can evaluate all structures."""
    import numpy as np

    for name, atoms in frames:
        bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
        if len(bad) or not np.isfinite(atoms.cell.array).all():
            what = f"positions of atoms {bad.tolist()}" if len(bad) else "vectors of the cell"
            raise ValueError(f"{name}: {what} are not finite")
        try:
            calculator.evaluator.reader.check(atoms)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def model_facts(calculator: JournaledCalculator) -> dict[str, Any]:
    """Where a model comes from and how it computes."""
    source = calculator.source
    return {
        "model": Path(source["model"]).name,
        "sha256": source["sha256"],
        "head": source["head"],
        "dtype": calculator.parameters["dtype"],
        "mode": calculator.parameters["mode"],
        "engine": calculator.engine.mode,
        "device": calculator.parameters["device"],
        "dispersion": calculator.dispersion,
    }


def decisive(model: Mapping[str, Any]) -> dict[str, Any]:
    """What of these facts decides about the numbers."""
    return {name: model[name] for name in ("sha256", "head", "dtype", "mode", "dispersion")}
