"""All heads of a model file at once: one pass of every descriptor that heads share, a fitting net for each head."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import nn

from .. import derivatives
from ..checkpoint import Checkpoint, HeadInfo, load_potential, read_checkpoint
from ..checkpoint import heads as read_heads
from ..config import ModelConfig, UnsupportedModelError
from ..graph import AtomicGraph
from ..kernels import AcceleratedPotential, accelerate
from ..kernels.heads import HeadEnergies
from ..model import Potential, differentiable
from ..nn.atomic_models import StandardModel
from .context import autograd
from .fitness import fit_of
from .head_results import HeadResult, HeadsEvaluation
from .reader import StructureReader
from .rigidity import Rigidity, read_rigidity, uncertainty_file

SETS_KEPT = 8  # of heads that were asked for together


@dataclass(frozen=True, eq=False)
class _Head:
    """One head in use: its descriptor is that of its group."""

    potential: AcceleratedPotential
    reader: StructureReader  # that of all heads of the group which take the same parameters

    @property
    def model(self) -> StandardModel:
        model = self.potential.model
        assert isinstance(model, StandardModel)  # others are left out
        return model


@dataclass(frozen=True, eq=False)
class _Group:
    """Heads that share a descriptor."""

    first: Checkpoint
    names: list[str] = field(default_factory=list)
    readers: dict[str, StructureReader] = field(default_factory=dict)


class HeadSet:
    """The energy heads of a file on a device, loaded when they are first asked for.

    Parameters
    ----------
    path
        The model file.
    device, dtype, mode
        As for `DPA2Calculator`; the descriptor and the fitting nets all run on the mode's fast paths.
    fparam, aparam
        Parameters of structures that bring none of their own.
    """

    def __init__(  # noqa: PLR0913  # as for the calculator
        self,
        path: Path,
        *,
        device: torch.device,
        dtype: str | None,
        mode: str,
        fparam: Any = None,
        aparam: Any = None,
    ) -> None:
        self.path, self.device, self.mode = path, device, mode
        self.dtype = None if dtype is None else getattr(torch, dtype)
        self.parameters = {"fparam": fparam, "aparam": aparam}
        self.infos = read_heads(path)
        self._loaded: dict[str, _Head] = {}
        self._left_out: dict[str, str] = {}
        self._groups: list[_Group] = []
        self._rigidities: dict[str, Rigidity | None] = {}
        self._energies = lru_cache(SETS_KEPT)(self._head_energies)

    @autograd()
    def evaluate(self, atoms: Atoms, names: Sequence[str] | None = None, *, forces: bool = False) -> HeadsEvaluation:
        """One structure by all energy heads or those of `names`.

        Raises
        ------
        ValueError
            For unknown names, and for heads of `names` that cannot evaluate the structure; without `names`, these are
            left out with the reason.
        """
        chosen = [*self.infos] if names is None else [*names]
        unknown = [name for name in chosen if name not in self.infos]
        if unknown:
            raise ValueError(f"{self.path} has no heads {unknown}; it has {[*self.infos]}")
        left_out = self._obstacles(chosen, atoms)
        if left_out and names is not None:
            name, obstacle = next(iter(left_out.items()))
            raise ValueError(f"head {name!r}: {obstacle}")
        able = [name for name in chosen if name not in left_out]
        found: dict[str, HeadResult] = {}
        for number, group in enumerate(self._groups):
            members = tuple(name for name in group.names if name in able)
            if members:
                found |= {h.name: h for h in self._evaluate_group(number, members, atoms, forces)}
        groups = tuple(tuple(n for n in group.names if n in found) for group in self._groups)
        return HeadsEvaluation(
            {name: found[name] for name in able}, left_out, tuple(group for group in groups if group), len(atoms)
        )

    def _obstacles(self, names: Sequence[str], atoms: Atoms) -> dict[str, str]:
        """Why heads cannot evaluate a structure, for those that cannot; loads them."""
        found: dict[str, str] = {}
        checked: dict[int, str | None] = {}
        for name in names:
            if self.infos[name].kind != "ener":
                found[name] = f"it predicts {self.infos[name].kind}, not energies"
                continue
            if name not in self._loaded and name not in self._left_out:
                self._load(name)
            if name in self._left_out:
                found[name] = self._left_out[name]
                continue
            reader = self._loaded[name].reader
            if id(reader) not in checked:
                checked[id(reader)] = _complaint(reader, atoms)
            complaint = checked[id(reader)]
            if complaint is not None:
                found[name] = complaint
        return found

    def _evaluate_group(self, number: int, names: tuple[str, ...], atoms: Atoms, forces: bool) -> Iterator[HeadResult]:
        heads = [self._loaded[name] for name in names]
        first, together = heads[0], self._energies(names)
        graph = first.reader.graph([atoms], [first.reader.neighbor_list(atoms, 0.0)])
        known = {id(head.reader): head.reader for head in heads}
        read = {key: reader.parameters([atoms]) for key, reader in known.items()}
        parameters = [read[id(head.reader)] for head in heads]
        graph = differentiable(graph) if forces else graph
        pushes: list[np.ndarray | None] = [None] * len(heads)
        with first.potential.computing(), torch.set_grad_enabled(forces):
            output = first.model.represent(graph)
            if forces or self.mode == "reference":  # derivatives by head, and plain formulas
                each = [h.model.contributions(output, graph, *p) for h, p in zip(heads, parameters, strict=True)]
                pushes = [_forces(part, graph) for part in each] if forces else pushes
                atomic = torch.stack([part.detach() for part in each])
            else:
                atomic = together(output, graph, parameters)
        bias = together.references(graph.types)
        totals, zeros = atomic.sum(dim=1).tolist(), bias.sum(dim=1).tolist()
        energies, node = (atomic - bias).cpu().numpy(), None
        symbols = atoms.get_chemical_symbols()
        for row, name in enumerate(names):
            rigidity = self._rigidity(name)
            if rigidity is not None and node is None:
                node = output.node.detach().double().cpu().numpy()
            fit = fit_of(self.infos[name], symbols, rigidity, node)
            yield HeadResult(name, totals[row], zeros[row], energies[row], pushes[row], fit, number)

    def _head_energies(self, names: tuple[str, ...]) -> HeadEnergies:
        return HeadEnergies([self._loaded[name].model for name in names])

    def _rigidity(self, name: str) -> Rigidity | None:
        """The calibration of a head, where there is one beside the file."""
        if name not in self._rigidities:
            found = None
            if uncertainty_file(self.path).exists():
                try:
                    found = read_rigidity(self.path, name)
                except ValueError as error:
                    if "no calibration of head" not in str(error):
                        warnings.warn(f"calibration left aside: {error}", UserWarning, stacklevel=2)
            self._rigidities[name] = found
        return self._rigidities[name]

    # ---- loading --------------------------------------------------------------------------------------------------

    def _load(self, name: str) -> None:
        """Read a head; it joins the group whose descriptor is its own, number by number."""
        try:
            checkpoint = read_checkpoint(self.path, name)
            potential = load_potential(checkpoint).to(self.device)
        except UnsupportedModelError as error:
            self._left_out[name] = str(error)
            return
        if not isinstance(potential.model, StandardModel):
            self._left_out[name] = f"a {type(potential.model).__name__} is more than a descriptor and a fitting net"
            return
        group = next((group for group in self._groups if share_descriptor(group.first, checkpoint)), None)
        if group is None:
            group = _Group(checkpoint)
            self._groups.append(group)
        reader = self._reader(group, potential, name)
        if group.names:
            potential.model.descriptor = nn.Identity()  # type: ignore[assignment]  # the group's takes its place below
        fast = accelerate(potential, self.mode, self.dtype)
        if group.names:
            assert isinstance(fast.model, StandardModel)
            fast.model.descriptor = self._loaded[group.names[0]].model.descriptor
        group.names.append(name)
        self._loaded[name] = _Head(fast, reader)

    def _reader(self, group: _Group, potential: Potential, name: str) -> StructureReader:
        """The reader of a head: heads of a group that take the same parameters have one in common."""
        takes = [(f.config.numb_fparam, f.n_aparam, f.config.default_fparam) for f in potential.fitting_nets]
        if str(takes) not in group.readers:
            group.readers[str(takes)] = StructureReader(potential, _silent(self.infos), name, **self.parameters)
        return group.readers[str(takes)]


def _complaint(reader: StructureReader, atoms: Atoms) -> str | None:
    """Why a structure cannot be evaluated, if so."""
    try:
        reader.check(atoms)
    except ValueError as error:
        return str(error)
    return None


def _forces(atomic: torch.Tensor, graph: AtomicGraph) -> np.ndarray:
    """Forces (N, 3), eV/Å, of one head; the pass of the descriptor is kept for the others."""
    (gradient,) = torch.autograd.grad(atomic.sum(), graph.vectors, retain_graph=True)
    return derivatives.forces(gradient, graph).cpu().numpy()


def share_descriptor(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two heads give the same representation: the same options, elements, exclusions and numbers."""
    if not isinstance(a.config, ModelConfig) or not isinstance(b.config, ModelConfig):
        return False
    options = [(c.descriptor, c.type_map, c.pair_exclude_types) for c in (a.config, b.config)]
    first, second = (_descriptor_tensors(checkpoint) for checkpoint in (a, b))
    if options[0] != options[1] or first.keys() != second.keys():
        return False
    return all(tensor is second[name] or torch.equal(tensor, second[name]) for name, tensor in first.items())


def _descriptor_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in checkpoint.state.items() if name.startswith("descriptor.")}


def _silent(infos: Mapping[str, HeadInfo]) -> dict[str, HeadInfo]:
    """Heads for messages, without what they were trained on: `Fit` tells that of each, so no warning has to."""
    return {name: HeadInfo(info.name, info.elements, None, info.aliases, info.kind) for name, info in infos.items()}
