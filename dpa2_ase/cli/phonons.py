"""``dpa2 phonons``: lattice dynamics of crystals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import RELAX_FIRST, SOURCES, Common, command, common_options
from .values import Grid, Numbers

if TYPE_CHECKING:
    from ase import Atoms

    from ..workflows.phonons import Phonons
    from ..workflows.results import Result


@command()
@click.option("--supercell", type=Numbers(int, (3, 9)), help="Repetitions: '2 2 2', or nine numbers of a matrix.")
@click.option("--min-length", default=10.0, show_default=True, help="Without --supercell, its smallest height, Å.")
@click.option(
    "--relax-first", type=click.Choice(RELAX_FIRST), default="full", show_default=True,
    help="What is brought to rest before.",
)  # fmt: skip
@click.option("--fmax", default=1e-4, show_default=True, help="Of that relaxation, eV/Å.")
@click.option(
    "--source", type=click.Choice(SOURCES), default="auto", show_default=True,
    help="Of force constants: derivatives of the model, or displacements.",
)  # fmt: skip
@click.option("--distance", "--displacement", default=0.01, show_default=True, help="Of displacements, Å.")
@click.option("--symprec", default=1e-5, show_default=True, help="To which symmetry is found, Å.")
@click.option("--born", type=click.Path(exists=True, dir_okay=False), help="phonopy's BORN file, for polar crystals.")
@click.option("--mesh", type=float, help="Of densities of states and thermal properties: q-points lie 2π/MESH Å apart.")
@click.option("--temperatures", type=Grid(), help="Of thermal properties, K; default: 0:1000:10.")
@click.option("--gruneisen", is_flag=True, help="Mode Grüneisen parameters as well.")
@click.option("--qha", "--quasi-harmonic", "qha", is_flag=True, help="Thermal expansion as well; takes seven phonons.")
@click.option("--pressure", default=0.0, show_default=True, help="Of --qha, GPa.")
@common_options()
def phonons(common: Common, **settings: Any) -> None:
    """Phonons of STRUCTURES: bands, densities of states, thermal properties, unstable modes."""
    from ..workflows.phonons import bridge
    from .each import for_each

    bridge()  # without phonopy, say so before the work
    for_each("phonons", common, settings, lambda atoms: _phonons(atoms, **settings), _row)


def _phonons(  # noqa: PLR0913  # the options
    atoms: Atoms,
    *,
    supercell: tuple[int, ...] | None,
    born: str | Path | None,
    mesh: float | None,
    temperatures: tuple[float, ...] | None,
    gruneisen: bool,
    qha: bool,
    pressure: float,
    **settings: Any,
) -> list[Result]:
    """Phonons, and what else is asked for, of one crystal."""
    import numpy as np

    from ..workflows.gruneisen import gruneisen as run_gruneisen
    from ..workflows.phonons import TEMPERATURES
    from ..workflows.phonons import phonons as run_phonons
    from ..workflows.quasi_harmonic import quasi_harmonic

    settings["supercell"] = np.reshape(supercell, (3, 3)) if supercell and len(supercell) == 9 else supercell
    found = run_phonons(atoms, born=born, **settings)
    results: list[Result] = [found]
    of_mesh: dict[str, Any] = {} if mesh is None else {"mesh": mesh}
    if mesh is not None:
        results.append(found.dos(mesh))
    if mesh is not None or temperatures is not None:
        results.append(found.thermal(temperatures or TEMPERATURES, **of_mesh))
    if gruneisen:
        results.append(run_gruneisen(found.atoms, **of_mesh, **settings))
    if qha:
        grid: dict[str, Any] = {} if temperatures is None else {"temperatures": temperatures}
        results.append(quasi_harmonic(found.atoms, pressure=pressure, **grid, **of_mesh, **settings))
    return results


def _row(found: Phonons) -> dict[str, Any]:
    room, unstable = found.thermal([300.0]), found.imaginary()
    n_atoms = len(found.primitive)
    return {
        "source": found.source,
        "evaluations": found.n_displacements,
        "lowest / THz": unstable.lowest,
        "highest / THz": float(found.bands(21).frequencies.max()),
        "stable": unstable.is_stable,
        "zero point / meV/atom": 1000 * float(found.thermal([0.0]).free_energy[0]) / n_atoms,
        "F(300 K) / meV/atom": 1000 * float(room.free_energy[0]) / n_atoms,
    }
