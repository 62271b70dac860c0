"""``dpa2 vibrations``: normal modes and thermochemistry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import Common, command, common_options
from .values import Grid

if TYPE_CHECKING:
    from ..workflows.vibrations import Vibrations


@command()
@click.option(
    "--method", type=click.Choice(["auto", "hessian", "displacements"]), default="auto", show_default=True,
    help="How second derivatives are found.",
)  # fmt: skip
@click.option("--delta", default=0.01, show_default=True, help="Displacement, Å.")
@click.option(
    "--relax-first/--no-relax-first", "--minimize/--no-minimize", default=True, show_default=True,
    help="Relax positions before; not for transition states.",
)  # fmt: skip
@click.option("--fmax", default=1e-3, show_default=True, help="Of that relaxation, eV/Å.")
@click.option("--max-steps", "--steps", default=1000, show_default=True, help="Of that relaxation.")
@click.option("--temperatures", type=Grid(), default=(298.15,), show_default=True, help="In K, also START:STOP:STEP.")
@click.option("--pressure", default=1.0, show_default=True, help="Of the ideal gas, bar.")
@click.option("--sigma", type=int, help="Symmetry number; default: that of the geometry.")
@click.option("--spin", default=0.0, show_default=True, help="Total electronic spin: 0.5 for a radical.")
@click.option("--leave-out-imaginary", is_flag=True, help="Thermochemistry without imaginary modes.")
@common_options()
def vibrations(common: Common, **settings: Any) -> None:
    """Normal modes and thermochemistry of STRUCTURES: molecules, or adsorbates with the rest fixed."""
    from ..workflows.vibrations import vibrations as run
    from .each import for_each

    for_each("vibrations", common, settings, lambda atoms: run(atoms, **settings), _row)


def _row(result: Vibrations) -> dict[str, Any]:
    waves = result.wavenumbers
    thermo = result.thermochemistry[0] if result.thermochemistry else None
    label = "G or F / eV"
    return {
        "modes": len(waves),
        "imaginary": len(result.imaginary),
        "lowest / 1/cm": float(waves[0]) if len(waves) else None,
        "highest / 1/cm": float(waves[-1]) if len(waves) else None,
        "zero point / eV": result.zero_point_energy,
        "at / K": None if thermo is None else thermo.temperature,
        label: None if thermo is None else thermo.free_energy,
    }
