"""``dpa2 heads``: all heads of a model on structures, and which of them fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .display import print_table
from .options import Common, command, common_options

if TYPE_CHECKING:
    from ase import Atoms

    from ..interfaces.ase import DPA2Calculator
    from ..interfaces.heads import HeadsEvaluation
    from .options import Model

COLUMNS = ["head", "E / eV", "relative / eV/atom", "max force / eV/Å", "fits", "why"]


@command()
@click.argument("model")
@click.option("--heads", help="Comma-separated; default: all that predict energies.")
@click.option("--forces", is_flag=True, help="Forces too, which take a backward pass for each head.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("-o", "--out", "folder", type=click.Path(path_type=Path), help="Folder for heads.json and report.html.")
@common_options(output=False, model=False)
def heads(common: Common, heads: str | None, forces: bool, as_json: bool, folder: Path | None) -> None:
    """Energies of STRUCTURES by all heads of a MODEL file, relative to its free atoms; which heads fit, and why.

    No head is chosen for you: give the one you want to other commands as --head.
    """
    import json

    from .files import read_structures

    frames = read_structures(common.structures, common.index)
    calc = _calculator(common.model)
    names = None if heads is None else [name.strip() for name in heads.split(",") if name.strip()]
    facts, tables = {}, {}
    for label, atoms in frames:
        try:
            found = calc.evaluate_heads(atoms, names, forces=forces)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
        facts[label] = _facts(found)
        tables[f"{label}, {atoms.get_chemical_formula()}"] = _rows(found)
        if not as_json:
            _print(f"{label}, {atoms.get_chemical_formula()}", found)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    if folder is not None:
        _write(folder, calc, facts, tables, frames)
        click.echo(f"written: {folder}", err=as_json)


def _calculator(choice: Model) -> DPA2Calculator:
    """Of any head: all are evaluated."""
    from ..checkpoint import heads as read_heads
    from ..interfaces.loading import find_model
    from .models import calculator_of_head

    return calculator_of_head(choice, next(iter(read_heads(find_model(choice.model)))))


def _facts(found: HeadsEvaluation) -> dict[str, Any]:
    heads = {
        name: {
            "energy": head.energy,
            "reference": head.reference,
            "relative_per_atom": head.relative / max(found.n_atoms, 1),
            "fits": head.fit.fits,
            "reason": head.fit.reason,
            "trained_on": head.fit.elements,
            "unseen": head.fit.unseen,
            "descriptor": head.group,
        }
        | ({} if head.forces is None else {"forces": head.forces.tolist()})
        for name, head in found.heads.items()
    }
    fitting = [head.name for head in found.fitting]
    return {"heads": heads, "fitting": fitting, "spread_per_atom": found.spread() if len(fitting) > 1 else None} | {
        "left_out": dict(found.left_out)
    }


def _write(
    out: Path,
    calc: DPA2Calculator,
    facts: dict[str, Any],
    tables: dict[str, list[list[Any]]],
    frames: Sequence[tuple[str, Atoms]],
) -> None:
    from ..workflows.results import provenance_of
    from .records import Record, write_record

    shown = [(title, COLUMNS, rows) for title, rows in tables.items()]
    record = Record(f"Heads: {frames[0][0]}", {"structures": facts}, shown, frames=frames)
    write_record(out, "heads", record, provenance_of(calc))


def _rows(found: HeadsEvaluation) -> list[list[Any]]:
    import numpy as np

    rows: list[list[Any]] = []
    for name, head in found.heads.items():
        force = None if head.forces is None else float(np.linalg.norm(head.forces, axis=1).max(initial=0.0))
        relative = head.relative / max(found.n_atoms, 1)
        rows.append([name, head.energy, relative, force, head.fit.fits, head.fit.reason])
    return rows + [[name, None, None, None, False, reason] for name, reason in found.left_out.items()]


def _print(title: str, found: HeadsEvaluation) -> None:
    print_table(COLUMNS, _rows(found), title=title)
    if len(found.groups) > 1:
        parts = "; ".join(", ".join(group) for group in found.groups)
        click.echo(f"{len(found.groups)} descriptors, a pass for each: {parts}")
    fitting = found.fitting
    if not fitting:
        click.echo("no head fits: its numbers would have no meaning")
        return
    click.echo("fitting, most particular first: " + ", ".join(head.name for head in fitting))
    if len(fitting) > 1:
        click.echo(f"spread of these: {1000 * found.spread():.4g} meV/atom")
    if len(fitting) > 1 and fitting[0].forces is not None:
        click.echo(f"largest deviation of their forces: {found.forces_spread().max(initial=0.0):.4g} eV/Å")
