"""All heads of a model file at once: one pass of every descriptor that heads share, a fitting net for each head."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from ..model import differentiable
from ..nn.atomic_models import StandardModel
from ..nn.se_atten import BlockOutput
from .context import autograd
from .fitness import Fit, fit_of, ordered
from .reader import StructureReader
from .rigidity import Rigidity, read_rigidity, uncertainty_file


@dataclass(frozen=True, eq=False)
class HeadResult:
    """What one head says of a structure."""

    name: str
    energy: float  # eV
    reference: float  # eV, the head's own energies of the free elements, summed
    energies: np.ndarray  # (N,) eV, of atoms, without these references
    forces: np.ndarray | None  # (N, 3) eV/Å
    fit: Fit
    group: int  # heads of one group share a descriptor

    @property
    def relative(self) -> float:
        """Energy above the head's references, eV: what can be compared between heads."""
        return self.energy - self.reference


@dataclass(frozen=True, eq=False)
class HeadsEvaluation:
    """One structure by many heads.

    Attributes
    ----------
    heads
        By name, in the order of the file.
    left_out
        Heads that were not evaluated, and why.
    groups
        Names of heads that share a descriptor; one pass of the descriptor was made for each group.
    """

    heads: Mapping[str, HeadResult]
    left_out: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]
    n_atoms: int

    def __getitem__(self, name: str) -> HeadResult:
        return self.heads[name]

    @property
    def fitting(self) -> tuple[HeadResult, ...]:
        """Heads that fit the structure, the most particular first, each with its reason in ``fit``; none is chosen."""
        return tuple(self.heads[name] for name in ordered({n: h.fit for n, h in self.heads.items()}))

    def spread(self, names: Sequence[str] | None = None) -> float:
        """Standard deviation of the relative energies of some heads (all that fit), eV per atom."""
        chosen = [self.heads[name] for name in names] if names is not None else list(self.fitting)
        values = [head.relative / max(self.n_atoms, 1) for head in chosen]
        return float(np.std(values)) if values else float("nan")

    def forces_spread(self, names: Sequence[str] | None = None) -> np.ndarray:
        """Deviation of the forces of some heads (all that fit), (N,) eV/Å, as in a committee."""
        chosen = [self.heads[name] for name in names] if names is not None else list(self.fitting)
        found = [head.forces for head in chosen if head.forces is not None]
        if not found:
            raise ValueError("no forces of heads that fit; use evaluate_heads(atoms, forces=True) or name heads")
        return np.sqrt((np.std(found, axis=0) ** 2).sum(axis=-1))


@dataclass(frozen=True, eq=False)
class _Head:
    """One head in use: its descriptor is that of its group."""

    potential: AcceleratedPotential
    reader: StructureReader
    bias: torch.Tensor  # (T,) eV

    @property
    def model(self) -> StandardModel:
        model = self.potential.model
        assert isinstance(model, StandardModel)  # others are left out
        return model


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
        self._groups: list[list[str]] = []
        self._states: list[Checkpoint] = []  # of the first head of every group
        self._rigidities: dict[str, Rigidity | None] = {}

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
        left_out: dict[str, str] = {}
        for name in chosen:
            obstacle = self._obstacle(name, atoms)
            if obstacle is not None and names is not None:
                raise ValueError(f"head {name!r}: {obstacle}")
            if obstacle is not None:
                left_out[name] = obstacle
        able = [name for name in chosen if name not in left_out]
        found: dict[str, HeadResult] = {}
        for number, group in enumerate(self._groups):
            members = [name for name in group if name in able]
            if members:
                found |= {h.name: h for h in self._evaluate_group(number, members, atoms, forces)}
        groups = tuple(tuple(n for n in group if n in found) for group in self._groups)
        return HeadsEvaluation(
            {name: found[name] for name in able}, left_out, tuple(group for group in groups if group), len(atoms)
        )

    def _obstacle(self, name: str, atoms: Atoms) -> str | None:
        """Why a head cannot evaluate a structure; loads it."""
        if self.infos[name].kind != "ener":
            return f"it predicts {self.infos[name].kind}, not energies"
        if name not in self._loaded and name not in self._left_out:
            self._load(name)
        if name in self._left_out:
            return self._left_out[name]
        try:
            self._loaded[name].reader.check(atoms)
        except ValueError as error:
            return str(error)
        return None

    def _evaluate_group(self, number: int, names: Sequence[str], atoms: Atoms, forces: bool) -> Iterator[HeadResult]:
        first = self._loaded[names[0]]
        neighbors = first.reader.neighbor_list(atoms, 0.0)
        graph = first.reader.graph([atoms], [neighbors])
        graph = differentiable(graph) if forces else graph
        with first.potential.computing(), torch.set_grad_enabled(forces):
            output = first.model.represent(graph)
            for name in names:
                yield self._result(number, name, atoms, output, graph, last=name == names[-1])

    def _result(  # noqa: PLR0913  # a pass and what is asked of it
        self, number: int, name: str, atoms: Atoms, output: BlockOutput, graph: AtomicGraph, *, last: bool
    ) -> HeadResult:
        head = self._loaded[name]
        atomic = head.model.contributions(output, graph, *head.reader.parameters([atoms]))
        bias = head.bias[graph.types].masked_fill(head.model.exclusions.excluded_atoms[graph.types], 0.0)
        forces = None
        if torch.is_grad_enabled():
            (gradient,) = torch.autograd.grad(atomic.sum(), graph.vectors, retain_graph=not last)
            forces = derivatives.forces(gradient, graph).cpu().numpy()
        rigidity = self._rigidity(name)
        node = output.node.detach().double().cpu().numpy() if rigidity is not None else None
        return HeadResult(
            name=name,
            energy=float(atomic.detach().sum()),
            reference=float(bias.sum()),
            energies=(atomic.detach() - bias).cpu().numpy(),
            forces=forces,
            fit=fit_of(self.infos[name], atoms, rigidity, node),
            group=number,
        )

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
        bias = potential.model.out_bias[:, 0] + potential.model.fitting.bias_atom_e[:, 0].double()
        reader = StructureReader(potential, _silent(self.infos), name, **self.parameters)
        same = next((i for i, first in enumerate(self._states) if share_descriptor(first, checkpoint)), None)
        if same is None:
            fast = accelerate(potential, self.mode, self.dtype)
            self._groups.append([name])
            self._states.append(checkpoint)
        else:
            potential.model.descriptor = nn.Identity()  # type: ignore[assignment]  # the group's takes its place below
            fast = accelerate(potential, self.mode, self.dtype)
            assert isinstance(fast.model, StandardModel)
            fast.model.descriptor = self._loaded[self._groups[same][0]].model.descriptor
            self._groups[same].append(name)
        self._loaded[name] = _Head(fast, reader, bias)


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
