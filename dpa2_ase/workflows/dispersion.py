"""London dispersion for models of functionals that lack it: D3 with the damping of Becke and Johnson."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.mixing import SumCalculator
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Bohr, Hartree

from .batch import evaluate
from .strains import strained

# functionals with published parameters of the two-body D3(BJ) term, by the library's names
METHODS = {
    "pbe": "pbe", "pbesol": "pbesol", "revpbe": "revpbe", "rpbe": "rpbe", "pbe0": "pbe0", "hse06": "hse06",
    "blyp": "blyp", "b3lyp": "b3lyp", "bp86": "bp", "tpss": "tpss", "tpssh": "tpssh", "tpss0": "tpss0",
    "scan": "scan", "r2scan": "r2scan",
}  # fmt: skip
WITHOUT_PARAMETERS = {
    "lda": "LDA overbinds already",
    "wb97x": "it was fitted to noncovalent energies without D3(BJ), and the parameters published under its name are of "
    "a refitted functional, ωB97X-D3(BJ)",
    "m06l": "it describes medium-range dispersion itself",
    "m062x": "it describes medium-range dispersion itself",
}
CONTAINED = re.compile(r"d[234]|vdw|vv10|mbd|xdm|ddsc|[-+](ts|nl|d|r?v)\b", re.IGNORECASE)
CUTOFF = 60 * Bohr  # Å, of the library
SMOOTH = 10 * Bohr  # Å before the cutoff where it begins to act
STRAIN = 1e-4  # of central differences, which leave 1e-8 of the third derivative


def with_dispersion(
    calc: Any, functional: str | None = None, *, three_body: bool = False, cutoff: float = CUTOFF
) -> DispersionCorrected:
    """A calculator that adds D3(BJ) dispersion to `calc`, with the parameters of the functional behind its data.

    By the library s-dftd3 (``pip install "dpa2-ase[d3]"``, https://doi.org/10.21105/joss.07169); the method is that of
    S. Grimme et al., https://doi.org/10.1063/1.3382344 and https://doi.org/10.1002/jcc.21759.

    Parameters
    ----------
    calc
        An ASE calculator. What it evaluates in batches stays in batches.
    functional
        Of the electronic structure method that made the data, such as ``"PBE"``; see `METHODS`. By default
        ``calc.source["functional"]``, where the calculator knows it.
    three_body
        Add the Axilrod–Teller–Muto term, with the parameters made for it. It is expensive and mostly small.
    cutoff
        Of pairs, in Å; reached smoothly from 10 Bohr before, so that relaxations and second derivatives meet no steps
        but those of D3's coordination numbers (3e-7 eV).

    Raises
    ------
    ModuleNotFoundError
        Without the library.
    ValueError
        Without a functional, for one without parameters, and for one that contains dispersion already.
    """
    method = method_of(calc, functional)
    if not SMOOTH < cutoff < np.inf:
        raise ValueError(f"the cutoff should be above {SMOOTH:.2f} Å, found {cutoff}")
    correction = D3(method, three_body=three_body, cutoff=float(cutoff))
    bends = hasattr(calc, "get_hessian") or hasattr(calc, "get_hessian_products")
    return (TwiceDifferentiable if bends else DispersionCorrected)(calc, correction)


def method_of(calc: Any, functional: str | None) -> str:
    """The library's name of the functional behind the data of `calc`; errors as `with_dispersion`."""
    source = getattr(calc, "source", None) or {}
    known, contained = source.get("functional"), source.get("dispersion")
    if contained:
        raise ValueError(f"the data of this model contain dispersion already ({contained}); it would count twice")
    if functional is None and known is None:
        raise ValueError(
            "which functional made the data of this model? Give functional='PBE', 'SCAN', ...: parameters of another "
            "one would be wrong"
        )
    if functional is not None and known is not None and _plain(functional) != _plain(known):
        raise ValueError(f"the data of this model are of {known}, not of {functional}; leave the functional away")
    name = str(functional or known)
    if CONTAINED.search(name):
        raise ValueError(f"{name} contains dispersion already; it would count twice")
    plain = _plain(name)
    if plain in WITHOUT_PARAMETERS:
        raise ValueError(f"there are no D3(BJ) parameters for {name}: {WITHOUT_PARAMETERS[plain]}")
    if plain not in METHODS:
        raise ValueError(f"no D3(BJ) parameters are known for {name!r}; known: {sorted(METHODS)}")
    return METHODS[plain]


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower().replace("ω", "w").replace("²", "2"))


class D3(Calculator):
    """D3(BJ) dispersion alone.

    Parameters
    ----------
    method
        The library's name of a functional.
    three_body, cutoff
        As for `with_dispersion`.
    """

    name = "d3bj"
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  # as ASE

    def __init__(self, method: str, *, three_body: bool, cutoff: float) -> None:
        super().__init__(method=method, three_body=three_body, cutoff=cutoff)
        _library()  # to say early that it is missing

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """All of the results at once."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None  # set above
        found = self._model(self.atoms).get_dispersion(self._damping(), grad=True)
        energy = float(found["energy"]) * Hartree
        self.results = {"energy": energy, "free_energy": energy, "forces": -found["gradient"] * Hartree / Bohr}
        if self.atoms.pbc.any():
            volume = abs(np.linalg.det(complete_cell(self.atoms.cell.array)))  # null vectors count as 1 Å
            self.results["stress"] = full_3x3_to_voigt_6_stress(found["virial"] * Hartree / volume)

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy (3N, 3N), eV/Å²; analytic."""
        found = self._model(atoms).get_hessian(self._damping())
        return found["hessian"] * Hartree / Bohr**2

    def _damping(self) -> Any:
        return _library().RationalDampingParam(method=self.parameters["method"], atm=self.parameters["three_body"])

    def _model(self, atoms: Atoms) -> Any:
        positions, cell = _enclosed(atoms)
        model = _library().DispersionModel(atoms.numbers, positions / Bohr, cell / Bohr, atoms.pbc)
        three, counted = 40.0, 40.0  # Bohr, of the library
        model.set_realspace_cutoff(self.parameters["cutoff"] / Bohr, three, counted, SMOOTH / Bohr, SMOOTH / Bohr)
        return model


def _library() -> Any:
    try:
        from dftd3 import interface
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "dftd3":
            raise
        raise ModuleNotFoundError("dispersion needs dftd3; install it with: pip install dftd3") from error
    return interface


def _enclosed(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) and cell (3, 3), Å, with vectors along open directions that enclose all atoms.

    The library folds atoms into the cell along open directions as well (version 1.7.0).
    """
    if atoms.pbc.all() or not atoms.pbc.any():
        return atoms.positions, complete_cell(atoms.cell.array)
    cell = complete_cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0))  # open ones: normals of 1 Å
    places = atoms.positions @ np.linalg.inv(cell)
    lowest = np.where(atoms.pbc, 0.0, places.min(axis=0) - 1.0)
    lengths = np.where(atoms.pbc, 1.0, np.ptp(places, axis=0) + 2.0)
    return (places - lowest) @ cell, lengths[:, None] * cell


class DispersionCorrected(SumCalculator):
    """ASE's sum of a calculator and its dispersion, with batches; made by `with_dispersion`.

    Parameters
    ----------
    model
        The calculator without dispersion.
    correction
        Adds energies, forces and, of what is periodic, stresses.
    """

    def __init__(self, model: Any, correction: D3) -> None:
        super().__init__([model, correction])
        self.model, self.correction = model, correction

    def evaluate(self, structures: Sequence[Atoms], properties: Iterable[str]) -> list[dict[str, Any]]:
        """Evaluate many structures, those of the model in one batch where it can.

        Returns one dictionary per structure, in order; molecules have no ``stress``.
        """
        names = list(properties)
        results = evaluate(structures, self.model, names, optional=["stress"])
        corrections = evaluate(structures, self.correction, names, optional=["stress"])
        return [
            {name: found[name] + added[name] for name in names if name in found and name in added}
            for found, added in zip(results, corrections, strict=True)
        ]


class TwiceDifferentiable(DispersionCorrected):
    """The same for models with second derivatives."""

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        """Second derivatives of the energy (3N, 3N), eV/Å²; analytic."""
        return self.model.get_hessian(atoms) + self._bends(atoms)

    def get_hessian_products(self, vectors: np.ndarray, atoms: Atoms) -> np.ndarray:
        """Products (V, N, 3) of the second derivatives with `vectors` (V, N, 3)."""
        flat = np.asarray(vectors, dtype=float).reshape(len(vectors), -1)
        return self.model.get_hessian_products(vectors, atoms) + (flat @ self._bends(atoms)).reshape(vectors.shape)

    def get_strain_derivatives(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        """Change of stress (6, 6), eV/Å³, and of forces (6, N, 3), eV/Å, with strains; of D3 by central differences."""
        stresses, forces = self.model.get_strain_derivatives(atoms)
        ends = [strained(atoms, sign * row) for row in STRAIN * np.eye(6) for sign in (1, -1)]
        found = evaluate(ends, self.correction, ["forces", "stress"])
        pairs = list(zip(found[::2], found[1::2], strict=True))
        slopes = [
            np.array([(up[name] - down[name]) / (2 * STRAIN) for up, down in pairs]) for name in ("stress", "forces")
        ]
        return stresses + slopes[0], forces + slopes[1]

    def _bends(self, atoms: Atoms) -> np.ndarray:
        return np.asarray(self.correction.get_hessian(atoms.copy()))
