"""Surface energies from slabs of growing thickness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from ase import Atoms
from ase.build import surface as cut
from ase.units import J, m

from . import plots
from .at_rest import all_at_rest, at_rest
from .batch import evaluate
from .results import Result, provenance_of, with_calculator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JOULE_PER_M2 = m**2 / J  # of one eV/Å²


@dataclass(frozen=True, eq=False, kw_only=True)
class Surface(Result):
    r"""The energy of a surface, the mean of the slab's two sides.

    .. math:: \gamma_n = \frac{E_n - N_n e}{2A}

    Attributes
    ----------
    miller
        Indices with respect to the lattice vectors given.
    energy
        J/m², of the thickest slab.
    fitted
        J/m², from a line through the energies of all slabs against their sizes, which needs no energy of the crystal
        (V. Fiorentini and M. Methfessel, https://doi.org/10.1088/0953-8984/8/36/005). It differs from `energy` where
        the slabs are too thin.
    layers
        Thicknesses in layers, shape (L,).
    energies, unrelaxed
        Of each thickness, J/m², shape (L,).
    area
        Of one side, Å².
    crystal
        The crystal that was cut.
    slab
        The thickest slab, with its results.
    """

    name: ClassVar[str] = "surface"

    miller: tuple[int, int, int]
    energy: float
    fitted: float
    layers: np.ndarray
    energies: np.ndarray
    unrelaxed: np.ndarray
    area: float
    crystal: Atoms
    slab: Atoms

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the energies against the thickness."""
        ax = plots.axes(ax)
        blue, gray = plots.COLORS["blue"], plots.COLORS["gray"]
        ax.plot(self.layers, self.unrelaxed, "s--", color=gray, label="unrelaxed")
        ax.plot(self.layers, self.energies, "o-", color=blue, label="final")
        ax.axhline(self.fitted, color=plots.COLORS["orange"], lw=1, label="from the slope")
        ax.set(xlabel="layers", ylabel="surface energy (J/m²)", xticks=self.layers)
        ax.set_title(f"({' '.join(map(str, self.miller))}): {self.energy:.3f} J/m²")
        ax.legend()
        return ax


def surface(  # noqa: PLR0913  # the choices of the method
    atoms: Atoms,
    miller: tuple[int, int, int] = (1, 1, 1),
    *,
    layers: Sequence[int] = (6, 8, 10),
    vacuum: float = 10.0,
    relax_first: bool = True,
    relax_positions: bool = True,
    fmax: float = 0.01,
    max_steps: int = 1000,
) -> Surface:
    """Surface energy of a crystal from slabs that are relaxed in one batch; the input is left as it was.

    Parameters
    ----------
    atoms
        A crystal with a calculator.
    miller
        With respect to its lattice vectors: give the conventional cell for the usual indices. The cut is the one of
        `ase.build.surface`; in compounds its two sides may differ and `miller` has other cuts as well.
    layers
        At least two thicknesses, in layers of `ase.build.surface`.
    vacuum
        On either side of the slab, in Å.
    relax_first
        Relax cell and positions of the crystal before, a hundred times as tightly as `fmax`, since strain in a slab
        would count as energy of its surface.
    relax_positions
        Relax the slabs' atoms to `fmax`, in eV/Å.

    Raises
    ------
    ValueError
        For choices that cannot be, or a relaxation that does not converge.
    """
    counts = sorted({int(count) for count in layers})
    if len(counts) < 2 or counts[0] < 1 or not vacuum > 0:
        raise ValueError(f"give two or more positive numbers of layers and vacuum, found {list(layers)} and {vacuum}")
    if not any(miller):
        raise ValueError("a plane has Miller indices that are not all zero")
    if not atoms.pbc.all():
        raise ValueError(f"a surface is cut from three periodic directions, found pbc={atoms.pbc.tolist()}")
    crystal = with_calculator(atoms)
    if relax_first:
        crystal = at_rest(crystal, cell=True, fmax=fmax / 100, max_steps=max_steps)
    energy = float(crystal.get_potential_energy()) / len(crystal)
    slabs = [slab_of(crystal, miller, count, vacuum) for count in counts]
    before = np.array([result["energy"] for result in evaluate(slabs, atoms.calc, ["energy"])])
    after = before
    if relax_positions:
        names = [f"the slab of {count} layers" for count in counts]
        runs = all_at_rest(slabs, names, atoms.calc, fmax=fmax, max_steps=max_steps)
        slabs, after = [run.atoms for run in runs], np.array([run.final.energy for run in runs])
    sizes = np.array([len(slab) for slab in slabs])
    area = float(np.linalg.norm(np.cross(slabs[0].cell[0], slabs[0].cell[1])))
    unit = JOULE_PER_M2 / (2 * area)
    energies = (after - sizes * energy) * unit
    return Surface(
        miller=miller,
        energy=float(energies[-1]),
        fitted=float(np.polyfit(sizes, after, 1)[1] * unit),
        layers=np.array(counts),
        energies=energies,
        unrelaxed=(before - sizes * energy) * unit,
        area=area,
        crystal=crystal,
        slab=slabs[-1],
        provenance=provenance_of(
            atoms.calc, miller=miller, layers=counts, vacuum=vacuum, relax_first=relax_first, fmax=fmax
        ),
    )


def slab_of(crystal: Atoms, miller: tuple[int, int, int], layers: int, vacuum: float) -> Atoms:
    """A slab without calculator and constraints, periodic in its plane only."""
    plain = crystal.copy()
    plain.set_constraint()
    return cut(plain, miller, layers, vacuum=vacuum)
