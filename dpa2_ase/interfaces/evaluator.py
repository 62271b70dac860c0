"""From ASE structures to arrays: everything between `ase.Atoms` and `Potential` that needs torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from .. import derivatives
from ..checkpoint import HeadInfo
from ..config import AnyModelConfig, FittingConfig
from ..graph import AtomicGraph, graph_of_structures
from ..memory import evaluation_bytes, split_by_memory
from ..model import Potential, differentiable
from ..neighbors import NeighborList, build_neighbor_list
from .properties import NEEDS_GRADIENT, PROPERTIES

Results = dict[str, Any]


@dataclass(frozen=True)
class Pending:
    """A forward pass whose gradients have not been asked for yet."""

    graph: AtomicGraph
    atomic: Tensor  # (N,) with an autograd graph
    energy: Tensor  # (S,)


@dataclass(frozen=True)
class Inputs:
    """What a model reads of one structure or a batch."""

    graph: AtomicGraph
    fparam: Tensor | None
    aparam: Tensor | None


class Evaluator:
    """Evaluate structures with one potential on one device.

    Parameters
    ----------
    potential
        Moved to `device` and, if `dtype` is given, to that precision, in place.
    device, dtype
        As torch knows them.
    heads
        All heads of the model's file, for messages.
    head
        The head in use.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        heads: Mapping[str, HeadInfo],
        head: str | None,
    ) -> None:
        self.potential = potential.to(device)
        if dtype is not None:
            self.potential.set_precision(dtype)
        self.device, self.heads, self.head = device, heads, head
        self.type_of = {symbol: index for index, symbol in enumerate(potential.type_map)}
        self._limits = potential.neighbor_limits
        self._fittings = potential.fitting_nets
        self._told: set[str] = set()
        self._warn_of_quirks()

    @property
    def config(self) -> AnyModelConfig:
        """Configuration of the potential."""
        return self.potential.config

    @property
    def kind(self) -> str:
        """What the model predicts: ``ener``, ``dipole``, ``polar``, ``dos`` or ``property``."""
        return self.potential.kind

    @property
    def properties(self) -> list[str]:
        """Names of what the model can answer; a property also goes by its own name."""
        fitting = getattr(self.config, "fitting_net", None)
        return [*PROPERTIES[self.kind], *([fitting.property_name] if fitting and self.kind == "property" else [])]

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def neighbor_list(self, atoms: Atoms, skin: float) -> NeighborList:
        """A fresh neighbor list of the model's cutoff."""
        return build_neighbor_list(atoms, self.potential.cutoff, skin)

    def inputs(
        self, structures: Sequence[Atoms], lists: Sequence[NeighborList], fparam: Any = None, aparam: Any = None
    ) -> Inputs:
        """Check structures and bring them into the model's form; `fparam`, `aparam` serve those that have none.

        Raises
        ------
        ValueError
            For elements the model does not know, parameters of a wrong length or missing, atoms on top of each other.
        """
        types = [self.types(atoms) for atoms in structures]
        graph = graph_of_structures(structures, lists, types, self.device)
        self._warn_of_dropped_neighbors(graph)
        return Inputs(graph, self._fparam(structures, fparam), self._aparam(structures, aparam))

    def types(self, atoms: Atoms) -> np.ndarray:
        """Type indices (N,) of the atoms."""
        symbols = atoms.get_chemical_symbols()
        unknown = sorted({s for s in symbols if s not in self.type_of})
        if unknown:
            raise ValueError(self._unknown_elements(unknown, symbols))
        info = self.heads.get(self.head or "")
        if info is not None and info.observed is not None:
            unseen = sorted(set(symbols) - set(info.observed))
            if unseen:
                self._tell(
                    f"unseen {unseen}",
                    f"head {info.name!r} was not trained on {unseen}, only on {list(info.observed)}; "
                    "its numbers for them have no meaning",
                )
        return np.array([self.type_of[symbol] for symbol in symbols], dtype=np.int64)

    def _unknown_elements(self, unknown: list[str], symbols: list[str]) -> str:
        where = [index for index, symbol in enumerate(symbols) if symbol in unknown]
        shown = f"{where[:10]}" + (f" and {len(where) - 10} more" if len(where) > 10 else "")
        known = [name for name, info in self.heads.items() if set(unknown) <= set(info.elements)]
        others = f"; heads of this file that know them: {known}" if known else ""
        return (
            f"elements {unknown} (atoms {shown}) are not in the model's type map "
            f"{list(self.potential.type_map)}{others}; use a model trained on them or remove the atoms"
        )

    def _fparam(self, structures: Sequence[Atoms], default: Any) -> Tensor | None:
        size = max((net.config.numb_fparam for net in self._fittings), default=0)
        if not size:
            return None
        rows = [atoms.info.get("fparam", default) for atoms in structures]
        stored = _default_fparam([net.config for net in self._fittings])
        rows = [stored if row is None else row for row in rows]
        if any(row is None for row in rows):
            raise ValueError(
                f"this model needs {size} frame parameters; set atoms.info['fparam'] or DPA2Calculator(fparam=...)"
            )
        values = [_numbers(row, (size,), "fparam") for row in rows]
        return torch.as_tensor(np.array(values)).to(self.device)

    def _aparam(self, structures: Sequence[Atoms], default: Any) -> Tensor | None:
        size = max((net.n_aparam for net in self._fittings), default=0)
        if not size:
            return None
        parts = []
        for atoms in structures:
            value = atoms.arrays.get("aparam", atoms.info.get("aparam", default))
            if value is None:
                raise ValueError(
                    f"this model needs {size} parameters per atom; set atoms.arrays['aparam'], atoms.info['aparam'] "
                    "or DPA2Calculator(aparam=...)"
                )
            parts.append(_numbers(value, (len(atoms), size), "aparam"))
        return torch.as_tensor(np.concatenate(parts)).to(self.device)

    # ---- evaluation -----------------------------------------------------------------------------------------------

    def forward(self, inputs: Inputs, *, with_gradient: bool) -> Pending:
        """Energies, keeping what gradients need if they may be asked for."""
        graph = differentiable(inputs.graph) if with_gradient else inputs.graph
        with torch.set_grad_enabled(with_gradient):
            atomic = self.potential.atomic(graph, inputs.fparam, inputs.aparam)
            return Pending(graph, atomic, self.potential.total(atomic, graph))

    def energies(self, pending: Pending, structures: Sequence[Atoms]) -> list[Results]:
        """Results of a forward pass alone, one dictionary per structure."""
        total, atomic = _numpy(pending.energy), _numpy(pending.atomic)
        rows = _rows(structures)
        names = PROPERTIES[self.kind]
        if self.kind != "ener":
            results = [{names[0]: total[s], names[1]: atomic[rows[s]]} for s in range(len(structures))]
            own_names = self.properties[2:]
            return [r | dict.fromkeys(own_names, r[names[0]]) for r in results]
        return [
            {"energy": float(total[s]), "free_energy": float(total[s]), "energies": atomic[rows[s]]}
            for s in range(len(structures))
        ]

    def gradients(self, pending: Pending, structures: Sequence[Atoms]) -> list[Results]:
        """Forces, virials and, of periodic structures, stresses; uses up the forward pass."""
        gradient = derivatives.edge_gradient(pending.energy, pending.graph)
        forces = _numpy(derivatives.forces(gradient, pending.graph))
        virials = _numpy(derivatives.virial(gradient, pending.graph))
        results: list[Results] = []
        for index, (atoms, rows) in enumerate(zip(structures, _rows(structures), strict=True)):
            virial = (virials[index] + virials[index].T) / 2
            results.append({"forces": forces[rows], "virial": virial})
            if atoms.pbc.any():
                results[-1]["stress"] = full_3x3_to_voigt_6_stress(-virial / stress_volume(atoms))
        return results

    def atomic_stresses(self, pending: Pending, atoms: Atoms) -> np.ndarray:
        """Stress of every atom of one structure (N, 6), eV/Å³; their sum is the stress. Keeps the forward pass."""
        positions = torch.as_tensor(atoms.get_positions()).to(self.device)
        virials = _numpy(derivatives.atomic_virials(pending.atomic, pending.graph, positions))
        symmetric = (virials + virials.swapaxes(1, 2)) / 2
        return np.array([full_3x3_to_voigt_6_stress(-v) for v in symmetric]).reshape(-1, 6) / stress_volume(atoms)

    def batch(
        self, structures: Sequence[Atoms], properties: Iterable[str], *, memory: float, fparam: Any, aparam: Any
    ) -> list[Results]:
        """Evaluate many structures in as few passes as `memory` (bytes) allows."""
        wanted = set(properties)
        with_gradient = self.kind == "ener" and bool(wanted & NEEDS_GRADIENT)
        lists = [self.neighbor_list(atoms, 0.0) for atoms in structures]
        costs = [evaluation_bytes(self.config, neighbors) for neighbors in lists]
        results: list[Results] = []
        for chosen in split_by_memory(costs, memory):
            part = [structures[i] for i in chosen]
            inputs = self.inputs(part, [lists[i] for i in chosen], fparam, aparam)
            pending = self.forward(inputs, with_gradient=with_gradient)
            found = self.energies(pending, part)
            if with_gradient:
                found = [a | b for a, b in zip(found, self.gradients(pending, part), strict=True)]
            results += [{name: value for name, value in r.items() if name in wanted} for r in found]
        return results

    def descriptors(self, atoms: Atoms, neighbors: NeighborList, *, invariants_only: bool) -> np.ndarray:
        """Representation of all atoms (N, C); with the equivariant vectors (N, M, 3) flattened behind it if asked."""
        graph = graph_of_structures([atoms], [neighbors], [self.types(atoms)], self.device)
        invariant, equivariant = self.potential.descriptors(graph)
        parts = [invariant] if invariants_only else [invariant, equivariant.flatten(1)]
        return _numpy(torch.cat(parts, dim=1))

    def hessian(self, atoms: Atoms, inputs: Inputs, *, rows_at_once: int = 16) -> np.ndarray:
        """Second derivatives (3N, 3N) of the energy, eV/Å²; symmetrized."""
        graph = differentiable(inputs.graph)
        energy = self.potential(graph, inputs.fparam, inputs.aparam)
        gradient = derivatives.edge_gradient(energy, graph, create_graph=True)
        size = 3 * len(atoms)
        if not size or not gradient.requires_grad:  # no atoms, or no edges
            return np.zeros((size, size))
        flat = derivatives.forces(gradient, graph).flatten()
        rows = []
        for chosen in torch.eye(size, dtype=flat.dtype, device=flat.device).split(rows_at_once):
            (second,) = torch.autograd.grad(flat, graph.vectors, chosen, retain_graph=True, is_grads_batched=True)
            rows += [derivatives.forces(row, graph).flatten() for row in second]
        hessian = _numpy(torch.stack(rows))
        return (hessian + hessian.T) / 2

    # ---- warnings -------------------------------------------------------------------------------------------------

    def _tell(self, topic: str, message: str) -> None:
        """Warn once per topic and evaluator."""
        if topic not in self._told:
            self._told.add(topic)
            warnings.warn(message, UserWarning, stacklevel=2)

    def _warn_of_quirks(self) -> None:
        if self.potential.depends_on_atom_order:
            self._tell(
                "order",
                "this model was trained with set_davg_zero = false: empty neighbor slots take the type of the first "
                "atom, so its energies change when atoms of another element come first. The numbers are DeePMD-kit's",
            )

        if not self.potential.is_smooth:
            self._tell(
                "smooth",
                "this model was trained without smooth attention (smooth or smooth_type_embedding = false): its energy "
                "jumps when a neighbor crosses the cutoff, so molecular dynamics drifts. The numbers are DeePMD-kit's",
            )

    def _warn_of_dropped_neighbors(self, graph: AtomicGraph) -> None:
        if "dropped" in self._told:
            return
        for name, cutoff, nsel in self._limits:
            counts = torch.bincount(graph.center[graph.distances <= cutoff], minlength=graph.n_atoms)
            dropped = int((counts - nsel).clamp_min(0).sum())
            if dropped:
                self._tell(
                    "dropped",
                    f"{int((counts > nsel).sum())} atoms have more than {nsel} neighbors within {cutoff:g} Å ({name}, "
                    f"up to {int(counts.max())}); the {nsel} nearest are kept and {dropped} dropped, as DeePMD-kit "
                    "does. Energies are not smooth there: the structure is denser than the model was made for",
                )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _rows(structures: Sequence[Atoms]) -> list[slice]:
    ends = np.cumsum([0, *(len(atoms) for atoms in structures)])
    return [slice(a, b) for a, b in pairwise(ends)]


def _default_fparam(configs: Sequence[FittingConfig]) -> tuple[float, ...] | None:
    return next((config.default_fparam for config in configs if config.default_fparam is not None), None)


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} should be numbers of shape {shape}, found {value!r}") from error
    if array.size != np.prod(shape) or (array.ndim > 1 and array.shape != shape) or not np.isfinite(array).all():
        raise ValueError(f"{name} should be finite numbers of shape {shape}, found shape {array.shape}")
    return array.reshape(shape)


def stress_volume(atoms: Atoms) -> float:
    """Volume (Å³) that turns a virial into a stress: that of the cell, as everywhere in ASE.

    Zero or dependent vectors along open directions are replaced by 1 Å normals, so that the stress of a slab without
    vacuum in its cell is a force per length in eV/Å² (of a wire: a force in eV/Å), numerically.
    """
    volume = abs(np.linalg.det(atoms.cell.array))
    if volume > 1e-6 * np.prod(np.linalg.norm(atoms.cell.array, axis=1) + 1e-300):
        return float(volume)
    periodic = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    return float(abs(np.linalg.det(complete_cell(periodic))))
