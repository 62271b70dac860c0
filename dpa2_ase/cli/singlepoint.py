"""``dpa2 singlepoint``: energies, forces and stresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Common, command, common_options
from .uncertainty import ASKED, calibration_facts, collect, make_trusted_calculator, uncertainty_options

if TYPE_CHECKING:
    from .run import Run

SHOWN = {"energy", "free_energy", "forces", "stress"}  # what the table has columns for
FILE = "singlepoint.extxyz"


@command()
@click.option("--properties", help="Comma-separated; default: energy,forces,stress, or all that the model predicts.")
@uncertainty_options()
@common_options(out="Folder for results, or a FILE such as out.extxyz for the structures alone; default: the table.")
def singlepoint(common: Common, properties: str | None, uncertainty: bool, calibration: Path | None) -> None:
    """Evaluate STRUCTURES: energies, forces, stresses, and whatever else the model predicts.

    With --uncertainty, forces_uncertainty is among the properties to ask for; it takes a few backward passes.
    """
    from .each import watched
    from .files import check_output, read_structures, structure_file, write_structures
    from .labels import labelled
    from .models import check_frames, naming_file
    from .run import Run, at_work

    frames = read_structures(common.structures, common.index)
    file, output = structure_file(common.output)
    if file is not None:
        check_output(file, common.structures, len(frames), for_results=True)
    calculator = make_trusted_calculator(common.model, uncertainty, calibration)
    wanted = _wanted(properties, calculator.implemented_properties)
    if common.output.out is None and not SHOWN & {*wanted} and "energy" in calculator.implemented_properties:
        raise ValueError(f"{', '.join(wanted)} do not fit into a table; give -o to write them to a file")
    wanted += [name for name in ASKED if uncertainty and name not in wanted]
    check_frames(frames, calculator)
    if calculator.dispersion is not None and not {*wanted} <= {"energy", "forces", "stress"}:
        raise ValueError("with dispersion there are energy, forces and stress alone")
    settings = {"properties": wanted} | calibration_facts(calculator)
    with at_work(Run("singlepoint", frames, settings, [calculator], output)) as run:
        with watched("evaluating", run), naming_file([name for name, _ in frames]):
            results = run.calc.evaluate([atoms for _, atoms in frames], wanted)
        trust = collect(run, results) if uncertainty else None
        _fill_table(run, results, {} if trust is None else trust.columns())
        target = file or (run.folder and run.folder / FILE)
        if target is not None:
            rows = zip(frames, results, strict=True)
            write_structures(target, [labelled(atoms, found, calculator) for (_, atoms), found in rows])
        if trust is not None and run.folder is not None:
            run.keep("uncertainty", trust, run.folder)
    _print(run, target)


def _print(run: Run, target: Any) -> None:
    from .display import print_table

    print_table(run.columns, run.rows)
    if target is not None:
        click.echo(f"written: {run.folder or target}")


def _wanted(properties: str | None, known: list[str]) -> list[str]:
    if properties is None:
        return ["energy", "forces", "stress"] if "energy" in known else known
    names = [name.strip() for name in properties.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"this model has no {unknown or 'such property'}; it has {known}")
    return names


def _fill_table(run: Run, results: Sequence[dict[str, Any]], others: Mapping[str, Sequence[Any]]) -> None:
    import numpy as np
    from ase.units import GPa

    shown = run.calculators[0].implemented_properties[0]
    for index, ((name, atoms), result) in enumerate(zip(run.frames, results, strict=True)):
        row: dict[str, Any]
        if shown == "energy":
            forces, stress = result.get("forces"), result.get("stress")
            row = {
                "energy / eV": result.get("energy"),
                "max force / eV/Å": None if forces is None else float(np.linalg.norm(forces, axis=1).max(initial=0.0)),
                "pressure / GPa": None if stress is None else float(-stress[:3].sum() / 3 / GPa),
            }
        else:  # the one quantity of the whole structure
            row = {shown: " ".join(f"{x:.6g}" for x in np.ravel(result[shown])) if shown in result else "–"}
        row |= {title: values[index] for title, values in others.items()}
        run.add_row(name, atoms.get_chemical_formula(), row)
