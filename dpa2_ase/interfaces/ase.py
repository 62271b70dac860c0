"""`DPA2Calculator`: DPA-1 and DPA-2 models for everything ASE can do.

This module does not import torch until a calculator is made, so that `import dpa2_ase` stays quick.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes

from .changes import changed_parameters, changes, snapshot
from .plan import GIB
from .properties import NEEDS_CELL, PROPERTIES
from .questions import Questions

if TYPE_CHECKING:
    import torch

    from ..kernels import Engine
    from ..model import Potential
    from .committee import CommitteeCalculation

ROUNDING = 1e-15  # Å, ASE's tolerance for moves; to see less of one than float64 holds is to compare exactly


class DPA2Calculator(Questions):
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
        from .calculation import Calculation, LastingList
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
        self._calculation: Calculation | CommitteeCalculation
        self._calculation = Calculation(self.evaluator, LastingList(self.evaluator, self.skin))
        self._heads = None
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
        self._calculation.forget()

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what changed since the last calculation, frame and atomic parameters included."""
        if self.atoms is None:
            return super().check_state(atoms, tol)
        found = changes(self.atoms, atoms) if tol <= ROUNDING else super().check_state(atoms, tol)
        return found + changed_parameters(self.atoms, atoms)

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
            self.atoms = snapshot(atoms)
        if self.atoms is None:
            raise ValueError("no structure to calculate; give atoms")
        if system_changes:
            self.results = {}
            self._calculation.forget()
        wanted = {*properties}
        self._refuse_unknown(wanted)
        if wanted & NEEDS_CELL and not any(self.atoms.pbc):
            raise PropertyNotImplementedError(
                "the stress of a structure without periodic directions is not defined; set a cell and atoms.pbc"
            )
        with self.evaluator.computing():
            self.results.update(self._calculation.results(self.atoms, wanted))

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        unknown = sorted({*names} - {*self.implemented_properties})
        if unknown:
            raise PropertyNotImplementedError(
                f"this model (fitting {self.evaluator.kind!r}) has no {unknown}; it has {self.implemented_properties}"
            )

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
            return self.evaluator.batch(list(structures), names, memory=self.batch_memory * GIB, skin=self.skin)

    def __getstate__(self) -> dict[str, Any]:
        """Other processes load heads anew where they need them."""
        return self.__dict__ | {"_heads": None}


# `__new__` takes whatever `__init__` does; users and their editors are shown what that is
_signature = inspect.signature(DPA2Calculator.__init__)
DPA2Calculator.__signature__ = _signature.replace(parameters=[*_signature.parameters.values()][1:])
