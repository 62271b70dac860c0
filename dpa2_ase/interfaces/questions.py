"""What a model can be asked that ASE has no name for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.outputs import Properties, all_outputs

from .plan import GIB, Plan

if TYPE_CHECKING:
    from .evaluator import Evaluator
    from .heads import HeadSet, HeadsEvaluation
    from .loading import Origin


class Questions(Calculator):
    """A calculator that also tells of all heads, representations, second derivatives and memory.

    All take a structure, or that of the last calculation.
    """

    evaluator: Evaluator
    skin: float
    _origin: Origin | None  # the model's file
    _heads: HeadSet | None  # made when first asked for

    def evaluate_heads(
        self, atoms: Atoms | None = None, heads: Sequence[str] | None = None, *, forces: bool = False
    ) -> HeadsEvaluation:
        """Energies by all heads of the model's file (or `heads`), with one pass of every descriptor they share.

        Also which heads fit the structure, and why; see `dpa2_ase.interfaces.head_results.HeadsEvaluation`.
        """
        from .heads import HeadSet

        if self._origin is None:
            raise ValueError("heads are those of a model file; give the file instead of a loaded potential")
        if self._heads is None:
            self._heads = HeadSet(
                self._origin.path,
                device=self.evaluator.device,
                dtype=self.parameters["dtype"],
                mode=self.evaluator.engine.mode,
                fparam=self.evaluator.reader.fparam,
                aparam=self.evaluator.reader.aparam,
            )
        return self._heads.evaluate(self._given(atoms), heads, forces=forces)

    def get_descriptors(self, atoms: Atoms | None = None, invariants_only: bool = True) -> np.ndarray:
        """The model's representation of every atom, (N, C), without derivatives.

        With ``invariants_only=False`` the equivariant vectors (N, M, 3) follow, flattened: (N, C + 3M).
        """
        atoms = self._given(atoms)
        return self.evaluator.descriptors(
            atoms, self.evaluator.reader.neighbor_list(atoms, 0.0), invariants_only=invariants_only
        )

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Second derivatives of the energy (3N, 3N), eV/Å², by automatic differentiation."""
        from .hessian import hessian

        return hessian(self.evaluator, self._with_energy(atoms))

    def get_hessian_products(self, vectors: np.ndarray, atoms: Atoms | None = None) -> np.ndarray:
        """Products (V, N, 3) of the second derivatives with `vectors` (V, N, 3), eV/Å² times the unit of those.

        Minus the change of forces with displacements along the vectors; what phonons need of a supercell's Hessian.
        """
        from .hessian import hessian_products

        atoms, vectors = self._with_energy(atoms), np.asarray(vectors, dtype=float)
        if vectors.shape[1:] != (len(atoms), 3):
            raise ValueError(f"vectors should be (V, {len(atoms)}, 3), one row per atom, found {vectors.shape}")
        return hessian_products(self.evaluator, atoms, vectors)

    def get_strain_derivatives(self, atoms: Atoms | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Change of stress (6, 6), eV/Å³, and of forces (6, N, 3), eV/Å, with the strain of a crystal.

        Rows are unit strains in Voigt's order with engineering shears; atoms follow the strain. By automatic
        differentiation: what elastic constants need beside `get_hessian`.
        """
        from .strain import strain_derivatives

        return strain_derivatives(self.evaluator, self._with_energy(atoms))

    def plan(self, atoms: Atoms | None = None, memory: float | None = None) -> Plan:
        """Predict the peak memory of energy, forces and stress before any of it is allocated.

        Right within 20 %.

        Parameters
        ----------
        atoms
            The structure; only its neighbor list is made.
        memory
            GiB to fit into; by default what is available.
        """
        atoms = self._given(atoms)
        self.evaluator.reader.check(atoms)
        neighbors = self.evaluator.reader.neighbor_list(atoms, self.skin)
        return self.evaluator.memory.plan(neighbors, None if memory is None else memory * GIB)

    def export_properties(self) -> Properties:
        """Results that ASE has a name for; the others stay in `results`."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _with_energy(self, atoms: Atoms | None) -> Atoms:
        if self.evaluator.kind != "ener":
            raise PropertyNotImplementedError(f"a model of {self.evaluator.kind!r} has no energy to differentiate")
        return self._given(atoms)

    def _given(self, atoms: Atoms | None) -> Atoms:
        atoms = atoms if atoms is not None else self.atoms
        if atoms is None:
            raise ValueError("no structure; give atoms")
        return atoms
