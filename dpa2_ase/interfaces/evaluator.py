"""From ASE structures to arrays: everything between `ase.Atoms` and `Potential` that needs torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from torch import Tensor

from .. import derivatives
from ..checkpoint import HeadInfo
from ..config import AnyModelConfig
from ..graph import AtomicGraph
from ..kernels import Engine, accelerate, choose_mode, topology_maker
from ..kernels.cpu import pull_back as compiled
from ..memory import split_by_memory
from ..model import Potential, differentiable
from ..neighbors import NeighborList
from .context import autograd
from .known import KnownLists, Listed
from .memory_watch import MemoryWatch
from .properties import NEEDS_GRADIENT, PROPERTIES
from .reader import Inputs, StructureReader, naming
from .rigidity import NAMES as UNCERTAINTIES
from .rigidity import ON_REQUEST, Rigidity, features_of, standard_model_of

Results = dict[str, Any]
VOIGT = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]  # xx, yy, zz, yz, xz, xy


@dataclass(frozen=True)
class Pending:
    """A forward pass whose gradients have not been asked for yet."""

    graph: AtomicGraph
    atomic: Tensor  # (N,) with an autograd graph
    energy: Tensor  # (S,)
    features: Tensor | None = None  # (N, D) inputs of the last layer, with an autograd graph
    node: Tensor | None = None  # (N, C) what the fitting net read


class Evaluator:
    """Evaluate structures with one potential on one device.

    Parameters
    ----------
    potential
        Moved to `device`, in place.
    device, dtype
        As torch knows them; ``None`` keeps the model's own precision.
    mode
        ``"auto"``, ``"reference"``, ``"torch"`` or ``"kernels"``; see `dpa2_ase.kernels.choose_mode`.
    heads, head
        All heads of the model's file and the one in use, for messages.
    fparam, aparam
        Parameters of structures that bring none of their own.
    """

    def __init__(  # noqa: PLR0913  # what a calculator is made of
        self,
        potential: Potential,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        heads: Mapping[str, HeadInfo],
        head: str | None,
        fparam: Any = None,
        aparam: Any = None,
        mode: str = "auto",
    ) -> None:
        path, reason = choose_mode(mode, device)
        potential = potential.to(device)
        self.reference = accelerate(potential, "reference", dtype, reason)  # for second derivatives
        self.potential = self.reference if path == "reference" else accelerate(potential, path, dtype, reason)
        self.device = device
        asked = None if dtype is None else str(dtype).removeprefix("torch.")
        self.memory = MemoryWatch(self.config, self.engine, device, asked, self.dtype)
        join = topology_maker(path, self.reference)
        self._pull_back = compiled.pull_back if path == "kernels" else derivatives.pull_back
        self.reader = StructureReader(self.reference, heads, head, fparam=fparam, aparam=aparam, join=join)
        self._known = KnownLists(self._listed, self.reader.topology)
        self.rigidity: Rigidity | None = None  # tells uncertainties where it is set
        if mode == path and self.engine.slow:
            warnings.warn(_left_behind(self.engine), UserWarning, stacklevel=2)

    @property
    def engine(self) -> Engine:
        """What computes energies and their first derivatives."""
        return self.potential.engine

    @property
    def dtype(self) -> str:
        """Precision of the nets, by name."""
        return str(next(self.reference.parameters()).dtype).removeprefix("torch.")

    def computing(self) -> AbstractContextManager[None]:
        """To be held open during all parts of an evaluation; see `AcceleratedPotential.computing`."""
        return self.potential.computing()

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
        own = [*UNCERTAINTIES, ON_REQUEST] if self.rigidity is not None else []
        return [*PROPERTIES[self.kind], *own, *([fitting.property_name] if fitting and self.kind == "property" else [])]

    @autograd()
    def forward(self, inputs: Inputs, *, with_gradient: bool) -> Pending:
        """Energies, keeping what gradients need if they may be asked for."""
        graph = differentiable(inputs.graph) if with_gradient else inputs.graph
        potential = self.potential if graph.n_atoms else self.reference  # no elements, no tables for them
        with torch.set_grad_enabled(with_gradient):
            if self.rigidity is None:
                atomic = potential.atomic(graph, inputs.fparam, inputs.aparam)
                return Pending(graph, atomic, potential.total(atomic, graph))
            parameters = (inputs.fparam, inputs.aparam)
            model = standard_model_of(potential)
            output = model.represent(graph)
            atomic = model.contributions(output, graph, *parameters)
            fitting = standard_model_of(self.reference).fitting
            features = features_of(fitting, output.node, graph, *parameters)
            return Pending(graph, atomic, potential.total(atomic, graph), features, output.node)

    def energies(self, pending: Pending, structures: Sequence[Atoms]) -> list[Results]:
        """Results of a forward pass alone, one dictionary per structure."""
        total, atomic = _numpy(pending.energy), _numpy(pending.atomic)
        rows = _rows(structures)
        names = PROPERTIES[self.kind]
        if self.kind != "ener":
            results = [{names[0]: total[s], names[1]: atomic[rows[s]]} for s in range(len(structures))]
            own_names = self.properties[2:]
            return [r | dict.fromkeys(own_names, r[names[0]]) for r in results]
        results = [
            {"energy": float(total[s]), "free_energy": float(total[s]), "energies": atomic[rows[s]]}
            for s in range(len(structures))
        ]
        if self.rigidity is None or pending.features is None or pending.node is None:
            return results
        features, node = _numpy(pending.features), _numpy(pending.node.double())
        for found, atoms, part in zip(results, structures, rows, strict=True):
            found |= self.rigidity.results(np.array(atoms.get_chemical_symbols()), features[part], node[part])
        return results

    @autograd()
    def forces_uncertainties(self, pending: Pending, structures: Sequence[Atoms]) -> list[Results]:
        """Standard deviation of every component of the forces (N, 3), eV/Å; one backward pass per random last layer."""
        assert self.rigidity is not None  # asked for by name
        assert pending.features is not None  # as it was in the forward pass
        total = torch.zeros(pending.graph.n_atoms, 3, dtype=torch.float64, device=self.device)
        for member in torch.from_numpy(self.rigidity.members.T.copy()).to(self.device):
            (gradient,) = torch.autograd.grad(
                (pending.features @ member).sum(), pending.graph.vectors, retain_graph=True
            )
            total += derivatives.forces(gradient, pending.graph) ** 2
        spread = self.rigidity.forces_scale * _numpy((total / self.rigidity.members.shape[1]).sqrt())
        return [{ON_REQUEST: spread[rows]} for rows in _rows(structures)]

    @autograd()
    def gradients(self, pending: Pending, structures: Sequence[Atoms]) -> list[Results]:
        """Forces, virials and, of periodic structures, stresses; uses up the forward pass."""
        gradient = derivatives.edge_gradient(pending.energy, pending.graph)
        forces, virials = (_numpy(part) for part in self._pull_back(gradient, pending.graph))
        results: list[Results] = []
        for atoms, rows, virial in zip(structures, _rows(structures), virials, strict=True):
            results.append({"forces": forces[rows], "virial": virial})
            if any(atoms.pbc):
                results[-1]["stress"] = -virial[VOIGT] / stress_volume(atoms)
        return results

    @autograd()
    def atomic_stresses(self, pending: Pending, structures: Sequence[Atoms]) -> list[Results]:
        """Stress of every atom (N, 6), eV/Å³, of periodic structures; they sum to the stress. Keeps the pass."""
        positions = np.concatenate([atoms.get_positions() for atoms in structures])
        on_device = torch.from_numpy(positions).to(self.device)
        virials = _numpy(derivatives.atomic_virials(pending.atomic, pending.graph, on_device))
        symmetric = (virials + virials.swapaxes(1, 2)) / 2
        stresses = -symmetric[:, *VOIGT]
        return [
            {"stresses": stresses[rows] / stress_volume(atoms)} if atoms.pbc.any() else {}
            for atoms, rows in zip(structures, _rows(structures), strict=True)
        ]

    def _listed(self, atoms: Atoms, skin: float) -> Listed:
        neighbors = self.reader.neighbor_list(atoms, skin)
        return Listed(neighbors, self.memory.check(neighbors))

    @autograd()
    def batch(
        self, structures: Sequence[Atoms], properties: Iterable[str], *, memory: float, skin: float
    ) -> list[Results]:
        """Evaluate many structures in as few passes as `memory` (bytes) allows; a larger one goes alone.

        Structures that come again have neighbor lists with a `skin` (Å).
        """
        wanted = set(properties)
        lists: list[Listed | None] = []
        is_list = len(structures) > 1  # a single structure needs no number in a message

        def costs() -> Iterator[float]:
            before = None
            for index, atoms in enumerate(structures):
                with naming(index if is_list else None):
                    lists.append(listed := self._known.of(atoms, skin, before))
                before = atoms, listed
                yield listed.needed

        results: list[Results] = []
        for chosen in split_by_memory(costs(), memory):
            part = [structures[i] for i in chosen]
            topology = self._known.topology(part, [n for n in lists[chosen.start : chosen.stop] if n], memory)
            lists[chosen.start : chosen.stop] = [None] * len(chosen)
            inputs = self.reader.read(part, topology, chosen.start if is_list else None)
            for found in self._pass(inputs, part, wanted):
                results.append({name: value for name, value in found.items() if name in wanted or name == "thresholds"})
        return results

    def _pass(self, inputs: Inputs, structures: Sequence[Atoms], wanted: set[str]) -> list[Results]:
        with_gradient = self.kind == "ener" and bool(wanted & {*NEEDS_GRADIENT, ON_REQUEST})
        pending = self.forward(inputs, with_gradient=with_gradient)
        found = [self.energies(pending, structures)]
        if "stresses" in wanted:
            found.append(self.atomic_stresses(pending, structures))
        if ON_REQUEST in wanted:
            found.append(self.forces_uncertainties(pending, structures))
        if wanted & (NEEDS_GRADIENT - {"stresses"}):
            found.append(self.gradients(pending, structures))
        return [{k: v for part in parts for k, v in part.items()} for parts in zip(*found, strict=True)]

    @autograd()
    def descriptors(self, atoms: Atoms, neighbors: NeighborList, *, invariants_only: bool) -> np.ndarray:
        """Representation of all atoms (N, C); with the equivariant vectors (N, M, 3) flattened behind it if asked."""
        graph = self.reader.graph([atoms], [neighbors])
        invariant, equivariant = self.potential.descriptors(graph)
        parts = [invariant] if invariants_only else [invariant, equivariant.flatten(1)]
        return _numpy(torch.cat(parts, dim=1))


def _left_behind(engine: Engine) -> str:
    named = "; ".join(f"{name}: {reason}" for name, reason in engine.slow.items())
    return f"mode {engine.mode!r} leaves parts of this model to the slower reference code ({named})"


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _rows(structures: Sequence[Atoms]) -> list[slice]:
    ends = [0, *accumulate(len(atoms) for atoms in structures)]
    return [slice(a, b) for a, b in pairwise(ends)]


def stress_volume(atoms: Atoms) -> float:
    """Volume (Å³) that turns a virial into a stress: that of the cell, as everywhere in ASE.

    Zero or dependent vectors along open directions are replaced by 1 Å normals, so that the stress of a slab without
    vacuum in its cell is a force per length in eV/Å² (of a wire: a force in eV/Å), numerically.
    """
    (a, b, c), (d, e, f), (g, h, i) = rows = atoms.cell.array.tolist()
    volume: float = abs(a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g))
    if volume > 1e-6 * math.prod(math.hypot(*row) + 1e-300 for row in rows):
        return volume
    periodic = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    return float(abs(np.linalg.det(complete_cell(periodic))))
