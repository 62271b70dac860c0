"""``dpa2 heads``: all heads of a model on structures, and which of them fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .display import print_table
from .options import Common, command, common_options

if TYPE_CHECKING:
    from ..interfaces.ase import DPA2Calculator
    from ..interfaces.heads import HeadsEvaluation
    from .options import Model


@command()
@click.argument("model")
@click.option("--heads", help="Comma-separated; default: all that predict energies.")
@click.option("--forces", is_flag=True, help="Forces too, which take a backward pass for each head.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@common_options(output=False, model=False)
def heads(common: Common, heads: str | None, forces: bool, as_json: bool) -> None:
    """Energies of STRUCTURES by all heads of a MODEL file, relative to its free atoms; which heads fit, and why.

    No head is chosen for you: give the one you want to other commands as --head.
    """
    import json

    from .files import read_structures

    frames = read_structures(common.structures, common.index)
    calc = _calculator(common.model)
    names = None if heads is None else [name.strip() for name in heads.split(",") if name.strip()]
    facts = {}
    for label, atoms in frames:
        try:
            found = calc.evaluate_heads(atoms, names, forces=forces)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
        facts[label] = _facts(found)
        if not as_json:
            _print(f"{label}, {atoms.get_chemical_formula()}", found)
    if as_json:
        click.echo(json.dumps(facts, indent=1))


def _calculator(choice: Model) -> DPA2Calculator:
    """Of any head: all are evaluated."""
    from ..checkpoint import heads as read_heads
    from ..interfaces.ase import DPA2Calculator
    from ..interfaces.loading import find_model

    first = next(iter(read_heads(find_model(choice.model))))
    return DPA2Calculator(choice.model, head=first, device=choice.device, dtype=choice.dtype, mode=choice.mode)  # type: ignore[arg-type]  # one of the choices


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


def _print(title: str, found: HeadsEvaluation) -> None:
    import numpy as np

    columns = ["head", "E / eV", "relative / eV/atom", "max force / eV/Å", "fits", "why"]
    rows: list[list[Any]] = []
    for name, head in found.heads.items():
        force = None if head.forces is None else float(np.linalg.norm(head.forces, axis=1).max(initial=0.0))
        relative = head.relative / max(found.n_atoms, 1)
        rows.append([name, head.energy, relative, force, head.fit.fits, head.fit.reason])
    rows += [[name, None, None, None, False, reason] for name, reason in found.left_out.items()]
    print_table(columns, rows, title=title)
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
