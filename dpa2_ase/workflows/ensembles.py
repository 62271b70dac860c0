"""ASE's integrators behind one face: ensembles by name, true degrees of freedom, ramps, and exact restart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import ase.md.nose_hoover_chain as chains
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixCom
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from ase.units import GPa, fs, kB

ENSEMBLES = (
    "nve",
    "nvt-bussi",
    "nvt-langevin",
    "nvt-nose-hoover",
    "npt-isotropic",
    "npt-full",
    "npt-axes",
)
LOCAL = "nvt-langevin"  # kicks atoms one by one, so that a molecule's rotation is thermal too


@dataclass(frozen=True)
class Ensemble:
    """What is held constant, and by what.

    Attributes
    ----------
    name
        One of `ENSEMBLES`: velocity Verlet alone (``nve``), with stochastic velocity rescaling (``nvt-bussi``),
        Langevin's or a Nosé–Hoover chain; Martyna, Tobias and Klein's barostat for the volume (``npt-isotropic``),
        the whole cell (``npt-full``) or the lengths of chosen lattice vectors (``npt-axes``).
    timestep
        In fs.
    temperature
        In K, at the start if it changes.
    pressure
        In GPa.
    thermostat_time, barostat_time
        Relaxation times in fs; Langevin's friction is the inverse of the former.
    axes
        The lattice vectors of ``npt-axes`` that may change their length.
    """

    name: str = "nvt-bussi"
    timestep: float = 1.0
    temperature: float = 300.0
    pressure: float = 0.0
    thermostat_time: float = 100.0
    barostat_time: float = 1000.0
    axes: tuple[bool, bool, bool] = (True, True, True)

    def __post_init__(self) -> None:
        if self.name not in ENSEMBLES:
            raise ValueError(f"ensemble {self.name!r} is not one of {list(ENSEMBLES)}")
        for name in ("timestep", "thermostat_time", "barostat_time"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} should be positive (fs), found {getattr(self, name)}")
        check_temperature("temperature", self.temperature, zero_allowed=self.name == "nve")
        if not np.isfinite(self.pressure):
            raise ValueError(f"pressure should be a number (GPa), found {self.pressure}")

    @property
    def has_thermostat(self) -> bool:
        """Whether there is a target temperature."""
        return self.name != "nve"

    @property
    def has_barostat(self) -> bool:
        """Whether the cell moves."""
        return self.name.startswith("npt")


def check_temperature(name: str, value: float, *, zero_allowed: bool) -> None:
    """Raise ValueError for a temperature (K) that no ensemble has."""
    if not (0 <= value < np.inf and (value or zero_allowed)):
        raise ValueError(f"{name} should be {'at least' if zero_allowed else 'above'} 0 K, found {value}")


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """Number of velocities that carry heat: without what constraints hold and what the ensemble conserves.

    Without constraints the total momentum is conserved (and set to zero), and that of a molecule's rotation too
    unless single atoms are kicked; see `conserved_rotations`.
    """
    if atoms.constraints:
        return int(atoms.get_number_of_degrees_of_freedom())
    if len(atoms) == 1:
        return 3
    return 3 * len(atoms) - 3 - conserved_rotations(atoms, ensemble)


def conserved_rotations(atoms: Atoms, ensemble: str) -> int:
    """Number of axes of conserved angular momentum: 3 for a molecule, 2 if it is linear, none in a periodic cell."""
    if atoms.pbc.any() or atoms.constraints or ensemble == LOCAL or len(atoms) == 1:
        return 0
    centered = atoms.positions - atoms.get_center_of_mass()
    extent = np.linalg.svd(centered, compute_uv=False)
    return 2 if extent[1] < 1e-6 * extent[0] else 3


def set_velocities(atoms: Atoms, ensemble: str, temperature: float | None, rng: np.random.Generator) -> None:
    """Give `atoms` Maxwell's velocities of exactly `temperature` (K); ``None`` keeps those it has, if any.

    Without constraints the center of mass is brought to rest, and the rotation of a molecule where the ensemble
    conserves it.
    """
    if temperature is not None:
        spread = np.sqrt(atoms.get_masses() * temperature * kB)[:, None]
        atoms.set_momenta(spread * rng.normal(size=(len(atoms), 3)))
    if not atoms.constraints and len(atoms) > 1:
        Stationary(atoms, preserve_temperature=False)
        if conserved_rotations(atoms, ensemble):
            _stop_rotation(atoms)
    energy = atoms.get_kinetic_energy()
    if temperature is not None and energy > 0:
        target = degrees_of_freedom(atoms, ensemble) * kB * temperature / 2
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(target / energy))


def _stop_rotation(atoms: Atoms) -> None:
    """As ASE's ZeroRotation, but for linear molecules as well, which have no moment of inertia about their axis."""
    arms = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()[:, None]
    inertia = (masses * arms**2).sum() * np.eye(3) - (masses * arms).T @ arms
    spin = np.linalg.pinv(inertia, rcond=1e-8, hermitian=True) @ atoms.get_angular_momentum()
    atoms.set_momenta(atoms.get_momenta() - masses * np.cross(spin, arms))


class Engine:
    """An integrator of ASE with its thermostat, barostat and random numbers.

    Parameters
    ----------
    atoms
        With velocities and a calculator; moved in place.
    ensemble
        What to hold constant.
    rng
        Random numbers of stochastic thermostats.

    Notes
    -----
    ASE's thermostats count 3N degrees of freedom where there are no constraints. With the total momentum at rest only
    3N − 3 are left, and all heat would go to these: 12 percent too hot with nine atoms. Their counts are corrected
    here. Langevin dynamics keeps the center of mass in place by the constraint that ASE recommends for it.
    """

    def __init__(self, atoms: Atoms, ensemble: Ensemble, rng: np.random.Generator) -> None:
        if ensemble.has_barostat and (atoms.constraints or not atoms.pbc.all()):
            raise ValueError(
                f"{ensemble.name} needs a structure with three periodic directions and no constraints, found "
                f"pbc={atoms.pbc.tolist()} and {len(atoms.constraints)} constraints; use an nvt ensemble"
            )
        self.atoms, self.ensemble, self.rng = atoms, ensemble, rng
        self.dof = degrees_of_freedom(atoms, ensemble.name)
        if self.dof <= 0:
            raise ValueError("nothing can move: the constraints leave no degree of freedom")
        self.dynamics = self._build()
        self._count_degrees_of_freedom()
        self._variables = [
            (part, name)
            for part, owner in self._parts().items()
            for name, value in vars(owner).items()
            if isinstance(value, np.ndarray | float | int)
        ]

    def _build(self) -> MolecularDynamics:
        atoms, ens, name = self.atoms, self.ensemble, self.ensemble.name
        dt, tau, baro = ens.timestep * fs, ens.thermostat_time * fs, ens.barostat_time * fs
        if name == "nve":
            return VelocityVerlet(atoms, dt)
        if name == "nvt-bussi":
            return Bussi(atoms, dt, ens.temperature, tau, rng=self.rng)
        if name == "nvt-langevin":
            if not atoms.constraints and len(atoms) > 1:
                atoms.set_constraint(FixCom())
            return Langevin(atoms, dt, temperature_K=ens.temperature, friction=1 / tau, fixcm=False, rng=self.rng)
        if name == "nvt-nose-hoover":
            return chains.NoseHooverChainNVT(atoms, dt, temperature_K=ens.temperature, tdamp=tau)
        options: dict[str, Any] = {
            "temperature_K": ens.temperature, "pressure_au": ens.pressure * GPa, "tdamp": tau, "pdamp": baro
        }  # fmt: skip
        if name == "npt-axes":
            if not hasattr(chains, "MaskedMTKNPT"):
                raise ValueError("npt-axes needs ASE 3.29 or newer; update ASE or use npt-full")
            options["mask"] = np.array(ens.axes, dtype=bool)  # ASE indexes with it, for which a tuple will not do
            return chains.MaskedMTKNPT(atoms, dt, **options)
        kind = chains.IsotropicMTKNPT if name == "npt-isotropic" else chains.MTKNPT
        return kind(atoms, dt, **options)

    def _parts(self) -> dict[str, Any]:
        """The integrator and its thermostat and barostat, by attribute."""
        parts = {"": self.dynamics}
        for name, value in vars(self.dynamics).items():
            if type(value).__module__.startswith("ase.md"):
                parts[name] = value
        return parts

    def _count_degrees_of_freedom(self) -> None:
        if isinstance(self.dynamics, Bussi):
            self.dynamics.ndof = self.dof
            self.dynamics.target_kinetic_energy = 0.5 * self.dynamics.temp * self.dof
        for part in self._parts().values():
            atoms = getattr(part, "_num_atoms_global", None)
            if atoms is None:
                continue
            part._num_atoms_global = self.dof / 3
            if hasattr(part, "_Q"):  # masses of the chain; its first link holds all degrees of freedom
                part._Q[0] *= self.dof / (3 * atoms)
            if hasattr(part, "_W"):  # mass of the cell
                part._W *= (self.dof + 3) / (3 * atoms + 3)

    # ---- what changes during a run --------------------------------------------------------------------------------

    def set_temperature(self, temperature: float) -> None:
        """Change the target (K) of the thermostat and barostat; their masses stay."""
        if isinstance(self.dynamics, Langevin):
            self.dynamics.set_temperature(temperature_K=temperature)
        elif isinstance(self.dynamics, Bussi):
            self.dynamics.temp = temperature * kB
            self.dynamics.target_kinetic_energy = 0.5 * temperature * kB * self.dof
        for part in self._parts().values():
            if hasattr(part, "_kT"):
                part._kT = temperature * kB

    def temperature(self) -> float:
        """Of the moving degrees of freedom now, in K."""
        return float(2 * self.atoms.get_kinetic_energy() / (self.dof * kB))

    def conserved(self) -> float:
        """What the equations of motion conserve, in eV.

        Not a number for Langevin dynamics, which conserves nothing, and where ASE's chains miss the calculator's
        ``free_energy``.
        """
        if isinstance(self.dynamics, Langevin):
            return float("nan")
        if isinstance(self.dynamics, Bussi):
            return float(self.atoms.get_total_energy() - self.dynamics.transferred_energy)
        if hasattr(self.dynamics, "get_conserved_energy"):
            try:
                return float(self.dynamics.get_conserved_energy())
            except PropertyNotImplementedError:
                return float("nan")
        return float(self.atoms.get_total_energy())

    # ---- restart --------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything the future depends on, to the last bit, as arrays by name."""
        arrays = {
            "positions": self.atoms.get_positions(),
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array.copy(),
            "rng": np.array(json.dumps(self.rng.bit_generator.state)),
        }
        parts = self._parts()
        for part, name in self._variables:
            arrays[f"part:{part}:{name}"] = np.array(getattr(parts[part], name))
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Set what `snapshot` gave.

        Raises
        ------
        ValueError
            If the integrator has other variables than those stored, as in another version of ASE.
        """
        self.atoms.set_cell(arrays["cell"], apply_constraint=False)
        self.atoms.set_positions(arrays["positions"], apply_constraint=False)
        self.atoms.set_momenta(arrays["momenta"], apply_constraint=False)
        self.rng.bit_generator.state = json.loads(str(arrays["rng"]))
        parts, prefix = self._parts(), "part:"
        keys = [f"{prefix}{part}:{name}" for part, name in self._variables]
        if {*keys} != {key for key in arrays if key.startswith(prefix)}:
            raise ValueError(
                f"the restart file has other variables than ASE's {type(self.dynamics).__name__}; "
                "continue with the version of ASE that wrote it"
            )
        for key, (part, name) in zip(keys, self._variables, strict=True):
            old = getattr(parts[part], name)
            setattr(parts[part], name, arrays[key].copy() if isinstance(old, np.ndarray) else type(old)(arrays[key]))
