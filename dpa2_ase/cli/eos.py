"""``dpa2 eos``: energy against volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import Common, command, common_options

if TYPE_CHECKING:
    from ..workflows.eos import EOS

FORMS = ("sj", "taylor", "murnaghan", "birch", "birchmurnaghan", "pouriertarantola", "vinet", "p3")


@command()
@click.option(
    "--form", "--eos-type", type=click.Choice(FORMS), default="birchmurnaghan", show_default=True,
    help="Equation of state.",
)  # fmt: skip
@click.option("--strain", default=0.06, show_default=True, help="Volumes from V(1 - strain) to V(1 + strain).")
@click.option("--points", "--n-volumes", default=11, show_default=True, help="Number of volumes, at least five.")
@click.option(
    "--relaxed", type=click.Choice(["none", "positions", "shape"]), default="none", show_default=True,
    help="What relaxes at every volume.",
)  # fmt: skip
@click.option("--fmax", default=0.005, show_default=True, help="Of these relaxations, eV/Å.")
@common_options()
def eos(common: Common, **settings: Any) -> None:
    """Fit equations of state to STRUCTURES: equilibrium volume, bulk modulus and its derivative."""
    from ..workflows.eos import eos as run
    from .each import for_each

    for_each("eos", common, settings, lambda atoms: run(atoms, **settings), _row)


def _row(result: EOS) -> dict[str, Any]:
    n_atoms = len(result.atoms)
    return {
        "V₀ / Å³/atom": result.fit.v0 / n_atoms,
        "E₀ / eV/atom": result.fit.e0 / n_atoms,
        "B₀ / GPa": result.fit.b0,
        "B₀′": result.fit.b0_prime,
        "residual / meV": 1000 * result.fit.residual,
    }
