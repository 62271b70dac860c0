"""`DPA2Calculator`: DPA-1 and DPA-2 models for everything ASE can do.

This module does not import torch until a calculator is made, so that `import dpa2_ase` stays quick.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties, all_outputs

from .plan import GIB, Plan
from .properties import NEEDS_CELL, NEEDS_GRADIENT, PROPERTIES

if TYPE_CHECKING:
    import torch

    from ..kernels import Engine
    from ..model import Potential
    from ..neighbors import NeighborList
    from ..topology import Topology
    from .evaluator import Pending
    from .heads import HeadSet, HeadsEvaluation

ROUNDING = 1e-15  # Å, ASE's tolerance for moves; to see less of one than float64 holds is to compare exactly


class DPA2Calculator(Calculator):
    """ASE calculator for DPA-1 and DPA-2 models.

    Parameters
    ----------
    model
        A model file (``.pt``, ``.pth``, ``.dp``, ``.hdf5``, ``.yaml``, ``.pte``, ``.pt2``), the name of an official
        model (``"DPA-2.4-7M"``, downloaded once), a loaded `Potential`, or ``None`` for the bundled model. A list of
        them makes a committee, see `dpa2_ase.interfaces.committee.Committee`.
    head
        Head of a multi-task model. A file with a single head needs none; among several, none is guessed.
    device
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; by default CUDA where it is available, otherwise the CPU.
    dtype
        ``"float64"`` or ``"float32"`` for all nets; by default what the model was trained in. Geometry, biases and
        sums over atoms are float64 in either case. Use ``"float64"`` where forces are differentiated numerically
        (phonons by displacements, ``ase.vibrations``): those of float32 nets carry noise of 1e-6 eV/Å.
    mode
        How to compute: ``"kernels"`` (compiled, CPU only), ``"torch"`` (the same algebra in torch operators, on any
        device) or ``"reference"`` (the plain formulas). ``"auto"`` takes the fastest that is available, see `engine`.
        The numbers agree to rounding. Hessians always come from the reference.
    skin
        Neighbors are searched this much (Å) beyond the cutoff, and the list is kept until it could miss one.
    fparam, aparam
        Frame and atomic parameters for models that take them, where ``atoms.info["fparam"]``,
        ``atoms.arrays["aparam"]`` or ``atoms.info["aparam"]`` do not give any. Copied.
    batch_memory
        Memory in GiB that one pass of `evaluate` may take; a structure that needs more goes alone.
    uncertainty
        Tell how far numbers can be trusted, by the calibration beside the model (see `dpa2_ase.uncertainty.calibrate`)
        or in this file: ``energy_uncertainty`` (eV), ``energies_uncertainty`` (N,), ``representation_distance`` (N,)
        and, if asked for, ``forces_uncertainty`` (N, 3).
    atoms, label, directory
        As for every ASE calculator.

    Notes
    -----
    Units are eV and Å. ``stress`` is -virial / volume in Voigt order xx, yy, zz, yz, xz, xy, the strain derivative of
    the energy; along open directions of slabs and wires it is the derivative with respect to stretching all atoms.
    The volume is that of the cell; see `dpa2_ase.interfaces.evaluator.stress_volume` for cells without a vector along
    an open direction. A molecule has no stress. ``stresses`` are DeePMD-kit's per-atom virials over the volume of the
    cell; their sum is the stress.

    ``pbc`` is respected per direction. DeePMD-kit 3.2 treats any periodic direction as full periodicity, so energies
    of slabs whose cell has little vacuum differ from its own; with enough vacuum they agree.

    Models of dipoles, polarizabilities, densities of states and other properties give ``dipole``, ``polarizability``,
    ``dos`` or ``property`` (also under the property's own name), and no energy.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from dpa2_ase import DPA2Calculator
    >>> atoms = bulk("Cu", cubic=True)
    >>> atoms.calc = DPA2Calculator(head="metals-pbe")
    >>> energy = atoms.get_potential_energy()
    """

    name = "dpa2"
    implemented_properties = list(PROPERTIES["ener"])  # noqa: RUF012  # as ASE; of energy models, an instance has its own
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012  # declared so by ASE

    __signature__: ClassVar[inspect.Signature]

    def __new__(cls, model: Any = None, *_: Any, **__: Any) -> DPA2Calculator:
        """A `Committee` for a list of models."""
        if cls is DPA2Calculator and isinstance(model, list | tuple):
            from .committee import Committee

            return super().__new__(Committee)
        return super().__new__(cls)

    def __init__(  # noqa: PLR0913  # each is a choice of the user's
        self,
        model: str | Path | Potential | Sequence[str | Path | Potential] | None = None,
        *,
        head: str | Sequence[str | None] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        mode: Literal["auto", "reference", "torch", "kernels"] = "auto",
        skin: float = 0.5,
        fparam: Sequence[float] | None = None,
        aparam: Any = None,
        batch_memory: float = 2.0,
        uncertainty: bool | str | Path = False,
        atoms: Atoms | None = None,
        label: str | None = None,
        directory: str = ".",
    ) -> None:
        from .loading import open_evaluator

        self._ready = False
        fparam, aparam = copy.deepcopy(fparam), copy.deepcopy(aparam)
        if not (head is None or isinstance(head, str)):
            raise TypeError(
                "a list of heads belongs to a list of models; all heads of one are in calc.evaluate_heads()"
            )
        self.evaluator, self._origin = open_evaluator(
            model,  # type: ignore[arg-type]  # a list makes a `Committee`, which has an `__init__` of its own
            head=head,
            device=device,
            dtype=dtype,
            fparam=fparam,
            aparam=aparam,
            mode=mode,
        )
        if uncertainty is not False:
            self._calibrate(None if uncertainty is True else Path(uncertainty))
        self.implemented_properties = self.evaluator.properties
        if not 0 <= skin < np.inf or not batch_memory > 0:
            raise ValueError(f"skin should be at least 0 Å and batch_memory above 0 GiB, found {skin}, {batch_memory}")
        self.skin, self.batch_memory = float(skin), float(batch_memory)
        self._neighbors: NeighborList | None = None
        self._topology: Topology | None = None  # the list on the device
        self._pending: Pending | None = None
        self._heads: HeadSet | None = None  # made when first asked for
        super().__init__(
            atoms=atoms,
            label=label,
            directory=directory,
            model="potential" if self._origin is None else str(self._origin.path),
            head=None if self._origin is None else self._origin.head,
            device=str(self.evaluator.device),
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            mode=mode,
            skin=self.skin,
            fparam=None if fparam is None else np.asarray(fparam, dtype=float).tolist(),
            aparam=None if aparam is None else np.asarray(aparam, dtype=float).tolist(),
            batch_memory=self.batch_memory,
        )
        self._ready = True

    def _calibrate(self, source: Path | None) -> None:
        from .rigidity import read_rigidity, standard_model_of

        if self._origin is None:
            raise ValueError("a calibration belongs to a model file; give the file instead of a loaded potential")
        standard_model_of(self.evaluator.reference)
        self.evaluator.rigidity = read_rigidity(self._origin.path, self._origin.head, source)

    # ---- what ASE asks --------------------------------------------------------------------------------------------

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse changes after construction: a model cannot be exchanged under a calculator's results."""
        if self._ready and kwargs:
            raise ValueError(f"make a new DPA2Calculator to change {sorted(kwargs)}")
        return super().set(**kwargs)

    def reset(self) -> None:
        """Forget results; the neighbor list stays as long as it is provably complete."""
        super().reset()
        self._pending = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed since the last calculation, frame and atomic parameters included."""
        old = self.atoms
        if old is None:
            return super().check_state(atoms, tol)
        changes = _changes(old, atoms) if tol <= ROUNDING else super().check_state(atoms, tol)
        for name in ("fparam", "aparam"):
            if not np.array_equal(_parameter(atoms, name), _parameter(old, name)):
                changes.append(name)
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One result; see `ase.calculators.calculator.BaseCalculator.get_property`."""
        self._refuse_unknown({name})
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results` with `properties` and all that costs nothing beside them.

        Energies alone cost no backward pass; forces asked for later reuse the forward pass.

        Raises
        ------
        ValueError
            For structures the model cannot evaluate; the message says which atoms and why.
        PropertyNotImplementedError
            For what the model does not predict, and for the stress of a molecule.
        """
        if atoms is not None:
            self.atoms = atoms.copy()
            for name in {"fparam", "aparam"} & self.atoms.info.keys():  # ASE copies the dictionary, not its values
                self.atoms.info[name] = copy.deepcopy(self.atoms.info[name])
        if self.atoms is None:
            raise ValueError("no structure to calculate; give atoms")
        if system_changes:
            self.results, self._pending = {}, None
        wanted = {*properties}
        self._refuse_unknown(wanted)
        if wanted & NEEDS_CELL and not self.atoms.pbc.any():
            raise PropertyNotImplementedError(
                "the stress of a structure without periodic directions is not defined; set a cell and atoms.pbc"
            )
        with self.evaluator.computing():
            self._compute(wanted)

    def _compute(self, wanted: AbstractSet[str]) -> None:
        """Fill `results` with what is `wanted`, after the checks of `calculate`."""
        assert self.atoms is not None  # set by `calculate`
        is_energy = self.evaluator.kind == "ener"
        if self._pending is None:
            inputs = self.evaluator.reader.read([self.atoms], self._list())
            self._pending = self.evaluator.forward(inputs, with_gradient=is_energy)
            self.results.update(self.evaluator.energies(self._pending, [self.atoms])[0])
        if "stresses" in wanted:
            self.results.update(self.evaluator.atomic_stresses(self._pending, [self.atoms])[0])
        if "forces_uncertainty" in wanted:
            self.results.update(self.evaluator.forces_uncertainties(self._pending, [self.atoms])[0])
        if is_energy and wanted & NEEDS_GRADIENT:
            self.results.update(self.evaluator.gradients(self._pending, [self.atoms])[0])
        if not is_energy or wanted & NEEDS_GRADIENT:
            self._pending = None

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        unknown = sorted({*names} - {*self.implemented_properties})
        if unknown:
            raise PropertyNotImplementedError(
                f"this model (fitting {self.evaluator.kind!r}) has no {unknown}; it has {self.implemented_properties}"
            )

    def _list(self) -> Topology:
        """The neighbor list, built anew only if it could miss a neighbor."""
        assert self.atoms is not None  # set by every caller
        if self._topology is None or self._neighbors is None or not self._neighbors.valid_for(self.atoms):
            self._neighbors = self._topology = None  # two lists of a large structure may be too much
            self._neighbors = self.evaluator.reader.neighbor_list(self.atoms, self.skin)
            self.evaluator.check_memory(self._neighbors)
            self._topology = self.evaluator.reader.topology([self._neighbors])
        return self._topology

    # ---- beyond ASE -----------------------------------------------------------------------------------------------

    @property
    def source(self) -> dict[str, Any]:
        """What makes the numbers: model file, its sha256, head and format, and precision and mode of computing.

        The sum is taken when first asked for. A loaded `Potential` has no file.
        """
        known = self._origin.describe() if self._origin is not None else {}
        return known | {"dtype": self.evaluator.dtype, "mode": self.engine.mode}

    @property
    def engine(self) -> Engine:
        """What computes, and why: the path, and for every block of the model its fast twin or why it has none."""
        return self.evaluator.engine

    def evaluate(self, structures: Iterable[Atoms], properties: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Evaluate many structures together.

        Parameters
        ----------
        structures
            Any sizes, compositions and periodicities.
        properties
            Names as in `implemented_properties`; by default everything but per-atom stresses and uncertainties of
            forces. Energies alone (``["energy"]``) are cheaper.

        Returns
        -------
        results
            One dictionary per structure, in order, as in ``calc.results``. Molecules have no ``stress``.

        Raises
        ------
        ValueError
            For structures the model cannot evaluate; the message says which of the list, which atoms and why.
        PropertyNotImplementedError
            For what the model does not predict.
        """
        if isinstance(structures, Atoms) or isinstance(properties, str):
            raise TypeError("evaluate takes a list of Atoms and a list of property names, also if it is only one")
        names = (
            {*self.implemented_properties} - {"stresses", "forces_uncertainty"} if properties is None else {*properties}
        )
        self._refuse_unknown(names)
        with self.evaluator.computing():
            return self.evaluator.batch(list(structures), names, memory=self.batch_memory * GIB)

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
                mode=self.engine.mode,
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
        atoms = self._with_energy(atoms)
        return self.evaluator.hessian(atoms, self.evaluator.reader.neighbor_list(atoms, 0.0))

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
        return self.evaluator.plan(neighbors, None if memory is None else memory * GIB)

    def get_hessian_products(self, vectors: np.ndarray, atoms: Atoms | None = None) -> np.ndarray:
        """Products (V, N, 3) of the second derivatives with `vectors` (V, N, 3), eV/Å² times the unit of those.

        Minus the change of forces with displacements along the vectors; what phonons need of a supercell's Hessian.
        """
        atoms, vectors = self._with_energy(atoms), np.asarray(vectors, dtype=float)
        if vectors.shape[1:] != (len(atoms), 3):
            raise ValueError(f"vectors should be (V, {len(atoms)}, 3), one row per atom, found {vectors.shape}")
        return self.evaluator.hessian_products(atoms, self.evaluator.reader.neighbor_list(atoms, 0.0), vectors)

    def get_strain_derivatives(self, atoms: Atoms | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Change of stress (6, 6), eV/Å³, and of forces (6, N, 3), eV/Å, with the strain of a crystal.

        Rows are unit strains in Voigt's order with engineering shears; atoms follow the strain. By automatic
        differentiation: what elastic constants need beside `get_hessian`.
        """
        from .strain import strain_derivatives

        return strain_derivatives(self.evaluator, self._with_energy(atoms))

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

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one process: autograd graphs do not travel."""
        return self.__dict__ | {"_pending": None, "_neighbors": None, "_topology": None, "_heads": None}


# `__new__` takes whatever `__init__` does; users and their editors are shown what that is
_signature = inspect.signature(DPA2Calculator.__init__)
DPA2Calculator.__signature__ = _signature.replace(parameters=[*_signature.parameters.values()][1:])


def _changes(old: Atoms, new: Atoms) -> list[str]:
    """What of a structure differs, as ASE names it; ASE's own comparison is a part of a small structure's step."""
    parts = {
        "positions": (old.positions, new.positions),
        "numbers": (old.numbers, new.numbers),
        "cell": (old.cell.array, new.cell.array),
        "pbc": (old.pbc, new.pbc),
    }
    return [name for name, pair in parts.items() if not np.array_equal(*pair)]


def _parameter(atoms: Atoms, name: str) -> np.ndarray:
    """A user's parameter, or an array of nothing."""
    value = atoms.arrays.get(name, atoms.info.get(name))
    return np.asarray([] if value is None else value)
