"""`Potential`: a model that answers for graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import derivatives
from .config import AnyModelConfig
from .graph import AtomicGraph
from .nn.atomic_models import AtomicModel, StandardModel, make_atomic_model
from .nn.fitting import Fitting
from .nn.repformer import Repformer
from .nn.se_atten import SeAtten
from .nn.tables import QuinticTable
from .nn.three_body import ThreeBody
from .ops import segment_sum


@dataclass(frozen=True)
class Prediction:
    """What a model says of S structures with N atoms; absent quantities are ``None``."""

    energy: Tensor | None = None  # (S,) eV
    atomic_energies: Tensor | None = None  # (N,) eV
    forces: Tensor | None = None  # (N, 3) eV/Å
    virial: Tensor | None = None  # (S, 3, 3) eV
    atomic_virials: Tensor | None = None  # (N, 3, 3) eV
    total: Tensor | None = None  # (S, ...) dipole, polarizability, dos or property of a structure
    atomic: Tensor | None = None  # (N, ...) the same of atoms


class Potential(nn.Module):
    """A model with its configuration; the reference implementation, differentiable twice.

    Parameters
    ----------
    config
        What to build.
    state
        Parameters and buffers by our names; ``None`` leaves random weights, for training from scratch.

    Raises
    ------
    ValueError
        When `state` lacks a tensor, has one too many, or one of another shape; the message names it.
    """

    def __init__(self, config: AnyModelConfig, state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.config = config
        if state is None:
            self.model = make_atomic_model(config)
        else:
            self.model = _built(config, dict(state))
        self.requires_grad_(False)

    @property
    def type_map(self) -> tuple[str, ...]:
        """Element names by type index."""
        return self.config.type_map

    @property
    def cutoff(self) -> float:
        """Radius of the neighbor list, Å."""
        return self.config.rcut

    @property
    def nsel(self) -> int:
        """Number of nearest neighbors the model looks at."""
        return self.config.nsel

    @property
    def kind(self) -> str:
        """``ener``, ``dos``, ``property``, ``dipole`` or ``polar``."""
        return self.config.kind

    @property
    def fitting_nets(self) -> list[Fitting]:
        """The fitting nets of all parts."""
        return [module for module in self.modules() if isinstance(module, Fitting)]

    @property
    def depends_on_atom_order(self) -> bool:
        """Whether empty neighbor slots contribute with the type of the first atom (a mean of training not zero)."""
        return any(m.sees_empty_slots for m in self.modules() if isinstance(m, SeAtten | ThreeBody))

    @property
    def is_smooth(self) -> bool:
        """Whether energies are continuous where a neighbor crosses a cutoff; some models were trained without."""
        attending = [m for m in self.modules() if isinstance(m, SeAtten) and m.config.attn_layer]
        smooth = all(block.config.smooth for block in attending)
        return smooth and all(block.smooth for block in self.modules() if isinstance(block, Repformer))

    @property
    def neighbor_limits(self) -> list[tuple[str, float, int]]:
        """Name, cutoff (Å) and list length of every block that truncates its neighborhoods."""
        limits = {("model", self.cutoff, self.nsel)}
        for name, module in self.named_modules():
            if isinstance(module, SeAtten | ThreeBody | Repformer):
                limits.add((name.rsplit(".", 1)[-1], module.config.rcut, module.config.nsel))
        return sorted(limits, key=lambda limit: -limit[1])

    def set_precision(self, dtype: torch.dtype) -> Potential:
        """Convert all nets to `dtype` in place; biases and sums over atoms stay in float64."""
        for module in self.modules():
            if isinstance(module, StandardModel):
                module.descriptor.to(dtype)
                module.fitting.to(dtype)
        return self

    def atomic(self, graph: AtomicGraph, fparam: Tensor | None = None, aparam: Tensor | None = None) -> Tensor:
        """Contributions of atoms in float64.

        Shape (N,) for energies (eV), (N, n) for dos and property, (N, 3) for dipoles, (N, 3, 3) for polarizabilities.
        `fparam` (S, numb_fparam) and `aparam` (N, numb_aparam) are what the model was trained with.
        """
        return self.model(graph, fparam, aparam)

    def total(self, atomic: Tensor, graph: AtomicGraph) -> Tensor:
        """Reduce contributions (N, ...) to structures (S, ...): the sum, or the mean for intensive properties."""
        total = segment_sum(atomic, graph.structure, graph.n_structures)
        if isinstance(self.model, StandardModel) and self.model.is_intensive:
            counted = (~self.model.exclusions.excluded_atoms[graph.types]).to(atomic.dtype)
            count = segment_sum(counted, graph.structure, graph.n_structures)
            total = total / count.clamp_min(1)[:, None]
        return total

    def forward(self, graph: AtomicGraph, fparam: Tensor | None = None, aparam: Tensor | None = None) -> Tensor:
        """Totals of all structures: energies (S,) in eV, or what `kind` says."""
        return self.total(self.atomic(graph, fparam, aparam), graph)

    def predict(
        self,
        graph: AtomicGraph,
        fparam: Tensor | None = None,
        aparam: Tensor | None = None,
        *,
        derivatives_of_energy: bool = True,
    ) -> Prediction:
        """Energy, forces and virial, or the totals of another kind of model; detached from autograd."""
        if self.kind != "ener":
            with torch.no_grad():
                atomic = self.atomic(graph, fparam, aparam)
                return Prediction(total=self.total(atomic, graph), atomic=atomic)
        if derivatives_of_energy:
            graph = differentiable(graph)
        with torch.set_grad_enabled(derivatives_of_energy):
            atomic = self.atomic(graph, fparam, aparam)
            energy = self.total(atomic, graph)
        if not derivatives_of_energy:
            return Prediction(energy=energy, atomic_energies=atomic)
        gradient = derivatives.edge_gradient(energy, graph)
        return Prediction(
            energy=energy.detach(),
            atomic_energies=atomic.detach(),
            forces=derivatives.forces(gradient, graph),
            virial=derivatives.virial(gradient, graph),
        )

    def descriptors(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Representation (N, C) and equivariant vectors (N, M, 3) of all atoms, without an autograd graph."""
        with torch.no_grad():
            output = self.model.represent(graph)
        return output.node.double(), output.equivariant.double()


def differentiable(graph: AtomicGraph) -> AtomicGraph:
    """The same graph with vectors that record gradients."""
    return graph.with_vectors(graph.vectors.detach().requires_grad_())


def _built(config: AnyModelConfig, state: dict[str, Tensor]) -> AtomicModel:
    """The model with the tensors of `state`, whose shapes are compared before anything of their size is allocated."""
    n_cells = [tensor.shape[2] for name, tensor in state.items() if name.endswith("tab_data") and tensor.ndim == 4]
    with torch.device("meta"):
        expected = make_atomic_model(config, n_cells).state_dict()
    tables = {name.removesuffix("compress_data.0") for name in state if name.endswith("compress_data.0")}
    stored = {
        name: tensor
        for name, tensor in state.items()
        if ".compress_" not in name and (name in expected or not name.endswith("out_std"))  # energies have no scale
    }
    for name, tensor in expected.items():  # nothing to store, or written by versions that had no use for it
        if name not in stored and (tensor.numel() == 0 or name.endswith("out_std")):
            stored[name] = torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu")
    _compare(expected, stored)
    # the weights to be overwritten leave the user's random numbers alone, and are on no other default device
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = make_atomic_model(config, n_cells)
    model.load_state_dict(stored)
    for prefix in tables:
        features = model.get_submodule(f"{prefix}features")
        features.net = QuinticTable(state[f"{prefix}compress_info.0"], state[f"{prefix}compress_data.0"])
    return model


def _compare(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            "the tensors of this file do not fit its own configuration: "
            f"missing {missing[:5] or 'none'}, not used {unknown[:5] or 'none'}"
        )
    for name, tensor in stored.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, the configuration asks for {tuple(expected[name].shape)}"
            )
