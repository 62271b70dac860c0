"""Calculators as users ask for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def calculator_of_head(choice: Model, head: str | None, *, uncertainty: bool | Path = False) -> DPA2Calculator:
    """A calculator without journal, of `head` whatever the choice says of it; `uncertainty` as for `DPA2Calculator`."""
    from ..interfaces.ase import DPA2Calculator

    options = {"device": choice.device, "dtype": choice.dtype, "mode": choice.mode}
    return DPA2Calculator(choice.model, head=head, uncertainty=uncertainty, **options)  # type: ignore[arg-type]  # one of the choices


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
        lattice = atoms.cell.array[atoms.pbc]
        if len(lattice) and np.linalg.matrix_rank(lattice) < len(lattice):
            raise ValueError(
                f"{name}: cell is singular: {atoms.cell.array.tolist()} has null or dependent vectors along periodic "
                f"directions (pbc {atoms.pbc.tolist()}); give a cell or set pbc to False there"
            )
        try:
            calculator.evaluator.reader.check(atoms)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


@contextmanager
def naming_file(names: Sequence[str]) -> Iterator[None]:
    """Name the file an error is about, not the number of the structure."""
    try:
        yield
    except ValueError as error:
        number = re.search(r"structure (\d+)", str(error))
        if number is None and len(names) > 1:
            raise
        name = names[int(number[1])] if number else names[0]
        raise ValueError(f"{name}: {error}" if number is None else str(error).replace(number[0], name)) from error


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
