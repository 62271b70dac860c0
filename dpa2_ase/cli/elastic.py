"""``dpa2 elastic``: elastic constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import Common, command, common_options

if TYPE_CHECKING:
    from ..workflows.elastic import Elastic


@command()
@click.option(
    "--source", type=click.Choice(["auto", "derivatives", "stress"]), default="auto", show_default=True,
    help="Second derivatives of the energy, or stresses of strained cells.",
)  # fmt: skip
@click.option("--strain", default=0.005, show_default=True, help="The largest one, without unit, of strained cells.")
@click.option(
    "--relax-first/--no-relax-first", "--minimize/--no-minimize", default=True, show_default=True,
    help="Relax positions and cell before.",
)  # fmt: skip
@click.option(
    "--relax-positions/--no-relax-positions", default=True, show_default=True,
    help="Relax positions in every strained cell.",
)  # fmt: skip
@click.option("--fmax", default=1e-4, show_default=True, help="Of relaxations, eV/Å.")
@click.option("--symmetry/--no-symmetry", default=True, show_default=True, help="Use the symmetry of the crystal.")
@click.option("--symmetry-tolerance", default=1e-3, show_default=True, help="To which it is found, Å.")
@click.option("--max-steps", "--steps", default=1000, show_default=True, help="Of a relaxation.")
@common_options()
def elastic(common: Common, **settings: Any) -> None:
    """Elastic constants of STRUCTURES: tensor, moduli, stability, Debye temperature."""
    from ..workflows.elastic import elastic as run
    from .each import for_each

    for_each("elastic", common, settings, lambda atoms: run(atoms, **settings), _row)


def _row(result: Elastic) -> dict[str, Any]:
    tensor, moduli = result.tensor, result.moduli
    return {
        "C₁₁ / GPa": float(tensor[0, 0]),
        "C₁₂ / GPa": float(tensor[0, 1]),
        "C₄₄ / GPa": float(tensor[3, 3]),
        "K / GPa": moduli.bulk_hill,
        "G / GPa": moduli.shear_hill,
        "Young / GPa": moduli.young,
        "Poisson": moduli.poisson,
        "Debye / K": moduli.debye_temperature,
        "stable": result.stable,
    }
