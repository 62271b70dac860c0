"""Complete models of atomic contributions, alone or joined: standard, pair table, ZBL and linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..config import AnyModelConfig, LinearConfig, ModelConfig, PairTableConfig, UnsupportedModelError, ZBLConfig
from ..graph import AtomicGraph
from ..ops import has_nonzero, segment_sum, smooth_switch, type_pair_mask
from .descriptors import make_descriptor
from .fitting import Fitting, dipole, polarizability
from .se_atten import BlockOutput

Parameters = Tensor | None


class _Exclusions(nn.Module):
    """The model-level exclusions of type pairs and of atoms."""

    excluded_pairs: Tensor
    excluded_atoms: Tensor

    def __init__(self, pairs: tuple[tuple[int, int], ...], atoms: tuple[int, ...], n_types: int) -> None:
        super().__init__()
        mask = torch.zeros(n_types, dtype=torch.bool)
        mask[list(atoms)] = True
        self.register_buffer("excluded_pairs", type_pair_mask(pairs, n_types), persistent=False)
        self.register_buffer("excluded_atoms", mask, persistent=False)

    def prune(self, graph: AtomicGraph) -> AtomicGraph:
        """Drop excluded pairs; the slots of the others stay, as if the places were left empty."""
        return graph.without_type_pairs(self.excluded_pairs) if has_nonzero(self.excluded_pairs) else graph

    def silence(self, values: Tensor, graph: AtomicGraph) -> Tensor:
        """Set contributions (N, ...) of excluded atoms to zero."""
        if not has_nonzero(self.excluded_atoms):
            return values
        mute = self.excluded_atoms[graph.types].reshape(-1, *[1] * (values.ndim - 1))
        return values.masked_fill(mute, 0.0)


class AtomicModel(nn.Module):
    """Whatever gives contributions of atoms from a graph."""

    def represent(self, graph: AtomicGraph) -> BlockOutput:
        """The descriptor's outputs; raises UnsupportedModelError where there is no descriptor."""
        raise UnsupportedModelError(f"a {type(self).__name__} has no descriptor")


class StandardModel(AtomicModel):
    """A descriptor and a fitting net."""

    out_bias: Tensor
    out_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        n_types = len(config.type_map)
        self.descriptor = make_descriptor(config.descriptor, config.type_map)
        fitting = Fitting(config.fitting_net, self.descriptor.width, self.descriptor.equivariant_width, n_types)
        self.fitting = fitting.to(getattr(torch, config.fitting_net.precision))
        sizes = {"ener": 1, "dos": config.fitting_net.numb_dos, "property": config.fitting_net.task_dim}
        n_out = sizes.get(config.kind, {"dipole": 3, "polar": 9}.get(config.kind, 1))
        self.register_buffer("out_bias", torch.zeros(n_types, n_out, dtype=torch.float64))
        self.register_buffer("out_std", torch.ones(n_types, n_out, dtype=torch.float64))
        self.exclusions = _Exclusions(config.pair_exclude_types, config.atom_exclude_types, n_types)

    @property
    def is_intensive(self) -> bool:
        """Whether a structure's value is the mean over its atoms, not the sum."""
        return self.config.kind == "property" and self.config.fitting_net.intensive

    def forward(self, graph: AtomicGraph, fparam: Parameters = None, aparam: Parameters = None) -> Tensor:
        """Contributions of all atoms in float64; see `Potential.atomic` for shapes."""
        return self.contributions(self.represent(graph), graph, fparam, aparam)

    def contributions(
        self, output: BlockOutput, graph: AtomicGraph, fparam: Parameters = None, aparam: Parameters = None
    ) -> Tensor:
        """As `forward`, from the descriptor's outputs, which several models may have in common."""
        value = self.fitting(output, graph, fparam, aparam)
        return self.exclusions.silence(self._finish(value, output.equivariant.double(), graph), graph)

    def represent(self, graph: AtomicGraph) -> BlockOutput:
        """The descriptor's outputs, in its precision."""
        return self.descriptor(self.exclusions.prune(graph))

    def _finish(self, value: Tensor, equivariant: Tensor, graph: AtomicGraph) -> Tensor:
        bias, kind = self.out_bias[graph.types], self.config.kind
        if kind == "ener":
            return (value + bias).squeeze(-1)
        if kind == "dos":
            return value + bias
        if kind == "property":
            kinds = graph.types if self.config.fitting_net.distinguish_types else torch.zeros_like(graph.types)
            return value * self.out_std[kinds] + self.out_bias[kinds]
        if kind == "dipole":
            return dipole(value, equivariant)
        scale = self._polar_scale()[graph.types]
        alpha = polarizability(scale[:, None] * value, equivariant)
        if self.config.fitting_net.shift_diag:
            shift = scale * bias.view(-1, 3, 3).diagonal(dim1=1, dim2=2).mean(-1)
            alpha = alpha + shift[:, None, None] * torch.eye(3, dtype=alpha.dtype, device=alpha.device)
        return alpha

    def _polar_scale(self) -> Tensor:
        scale = self.config.fitting_net.scale
        values = torch.tensor(
            1.0 if scale is None else scale, dtype=torch.float64, device=self.out_bias.device
        ).flatten()
        return values.expand(len(self.config.type_map)) if len(values) == 1 else values


class PairTable(AtomicModel):
    r"""A pair potential given as cubic splines, :math:`e_i = \frac12 \sum_j V_{t_i t_j}(r_{ij})`.

    Parameters
    ----------
    n_cells
        Splines per type pair, taken from the tensors of the file.
    """

    tab_info: Tensor
    tab_data: Tensor
    out_bias: Tensor

    def __init__(self, config: PairTableConfig, n_cells: int) -> None:
        super().__init__()
        self.config = config
        n_types = len(config.type_map)
        self.register_buffer("tab_info", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("tab_data", torch.zeros(n_types, n_types, n_cells, 4, dtype=torch.float64))
        self.register_buffer("out_bias", torch.zeros(n_types, 1, dtype=torch.float64))

    def forward(self, graph: AtomicGraph, fparam: Parameters = None, aparam: Parameters = None) -> Tensor:
        """Atomic energies (N,), eV; raises ValueError below the first point of the table."""
        r_min, step, n_cells = (float(v) for v in self.tab_info[:3])
        distances = graph.distances
        if bool((distances < r_min).any()):
            raise ValueError(
                f"two atoms are {float(distances.min()):.3f} Å apart, below the pair table of this model, which starts "
                f"at {r_min:.3f} Å; move them apart or use a model with a table that reaches further in"
            )
        x = (distances - r_min) / step
        cell = x.detach().to(torch.int64).clamp_max(int(n_cells) - 1)
        x = x - cell
        a3, a2, a1, a0 = self.tab_data[graph.types[graph.center], graph.types[graph.neighbor], cell].unbind(-1)
        energy = ((a3 * x + a2) * x + a1) * x + a0
        outside = (distances >= self.config.rcut) | (distances >= r_min + n_cells * step)
        energy = energy.masked_fill(outside, 0.0)
        return segment_sum(energy, graph.center, graph.n_atoms) / 2 + self.out_bias[graph.types, 0]


class ZBL(AtomicModel):
    r"""Join a deep potential to a short-range pair table.

    The table's share of atom i falls from one to zero while the soft minimum of its distances
    :math:`\sigma_i = \sum_j r e^{-r/\alpha} / \sum_j e^{-r/\alpha}` goes from `sw_rmin` to `sw_rmax`.
    """

    out_bias: Tensor
    models: Sequence[AtomicModel]

    def __init__(self, config: ZBLConfig, n_cells: int) -> None:
        super().__init__()
        self.config = config
        n_types = len(config.type_map)
        parts = [StandardModel(config.models[0]), PairTable(config.models[1], n_cells)]
        self.models = nn.ModuleList(parts)  # type: ignore[assignment]  # a ModuleList forgets what it holds
        self.register_buffer("out_bias", torch.zeros(n_types, 1, dtype=torch.float64))
        self.exclusions = _Exclusions(config.pair_exclude_types, config.atom_exclude_types, n_types)

    def forward(self, graph: AtomicGraph, fparam: Parameters = None, aparam: Parameters = None) -> Tensor:
        """Atomic energies (N,), eV."""
        graph = self._seen(graph)
        deep, table = self.models
        share = self._table_share(graph)
        energy = (1 - share) * deep(graph, fparam, aparam) + share * table(graph) + self.out_bias[graph.types, 0]
        return self.exclusions.silence(energy, graph)

    def represent(self, graph: AtomicGraph) -> BlockOutput:
        """The descriptor of the deep potential."""
        return self.models[0].represent(self._seen(graph))

    def _seen(self, graph: AtomicGraph) -> AtomicGraph:
        return self.exclusions.prune(graph.within(self.config.rcut, self.config.nsel))

    def _table_share(self, graph: AtomicGraph) -> Tensor:
        weight = (-graph.distances / self.config.smin_alpha).exp()
        total = segment_sum(weight, graph.center, graph.n_atoms)
        mean = segment_sum(graph.distances * weight, graph.center, graph.n_atoms) / total.clamp_min(1e-20)
        share = smooth_switch(mean, self.config.sw_rmin, self.config.sw_rmax)
        return torch.where(mean == 0, torch.zeros_like(share), share)  # no neighbors: the deep potential alone


class LinearModel(AtomicModel):
    """A weighted sum of energy models, which may know different elements and cutoffs."""

    out_bias: Tensor
    models: Sequence[AtomicModel]

    def __init__(self, config: LinearConfig, models: Sequence[AtomicModel]) -> None:
        super().__init__()
        self.config = config
        n_types = len(config.type_map)
        self.models = nn.ModuleList(models)  # type: ignore[assignment]  # as above
        self.register_buffer("out_bias", torch.zeros(n_types, 1, dtype=torch.float64))
        self.exclusions = _Exclusions(config.pair_exclude_types, config.atom_exclude_types, n_types)
        for index, part in enumerate(config.models):
            missing = set(config.type_map) - set(part.type_map)
            if missing:
                raise ValueError(f"model.models[{index}] does not know {sorted(missing)} of the common type_map")
            order = torch.tensor([part.type_map.index(name) for name in config.type_map])
            self.register_buffer(f"types_{index}", order, persistent=False)

    def forward(self, graph: AtomicGraph, fparam: Parameters = None, aparam: Parameters = None) -> Tensor:
        """Atomic energies (N,), eV."""
        energy = self.out_bias[graph.types, 0]
        for model, seen, weight in zip(self.models, self._views(graph), self.config.weights, strict=True):
            energy = energy + weight * model(seen, fparam, aparam)
        return self.exclusions.silence(energy, graph)

    def represent(self, graph: AtomicGraph) -> BlockOutput:
        """The descriptors of all parts that have one, side by side."""
        outputs = [
            model.represent(seen)
            for model, seen in zip(self.models, self._views(graph), strict=True)
            if not isinstance(model, PairTable)
        ]
        return BlockOutput(
            torch.cat([output.node.double() for output in outputs], dim=1),
            torch.cat([output.equivariant.double() for output in outputs], dim=1),
        )

    def _views(self, graph: AtomicGraph) -> list[AtomicGraph]:
        """What every part sees: its own cutoff, list length and type indices."""
        graph = self.exclusions.prune(graph)
        views = []
        for index, part in enumerate(self.config.models):
            order = getattr(self, f"types_{index}")
            views.append(replace(graph.within(part.rcut, part.nsel), types=order[graph.types]))
        return views


def make_atomic_model(config: AnyModelConfig, n_cells: Sequence[int] = ()) -> AtomicModel:
    """The module a configuration asks for; `n_cells` are the sizes of its pair tables in order."""
    sizes = iter(n_cells)

    def make(part: AnyModelConfig) -> AtomicModel:
        if isinstance(part, ModelConfig):
            return StandardModel(part)
        if isinstance(part, PairTableConfig):
            return PairTable(part, next(sizes, 1))
        if isinstance(part, ZBLConfig):
            return ZBL(part, next(sizes, 1))
        return LinearModel(part, [make(model) for model in part.models])

    return make(config)
