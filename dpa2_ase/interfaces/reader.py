"""Check a user's structures and bring them into the model's form."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor

from ..checkpoint import HeadInfo
from ..device_search import search_device
from ..graph import AtomicGraph
from ..model import Potential
from ..neighbors import NeighborList, build_neighbor_list
from ..topology import Topology
from .context import autograd


@dataclass(frozen=True)
class Inputs:
    """What a model reads of one structure or a batch."""

    graph: AtomicGraph
    fparam: Tensor | None
    aparam: Tensor | None


class StructureReader:
    """Knows what a potential accepts: elements, frame and atomic parameters, numbers of neighbors.

    Parameters
    ----------
    potential
        The model, on its device.
    heads, head
        All heads of the model's file and the one in use, for messages.
    fparam, aparam
        Parameters of structures that bring none of their own.
    join
        Makes the topology of neighbor lists, as `Topology.of`.
    """

    def __init__(  # noqa: PLR0913  # what is to be known beside the structures
        self,
        potential: Potential,
        heads: Mapping[str, HeadInfo],
        head: str | None,
        *,
        fparam: Any,
        aparam: Any,
        join: Callable[..., Topology] = Topology.of,
    ) -> None:
        self.type_map, self.cutoff = potential.type_map, potential.cutoff
        self.heads, self.head = heads, head
        self.fparam, self.aparam, self._join = fparam, aparam, join
        index_of = {symbol: index for index, symbol in enumerate(self.type_map)}
        self._type_of_number = np.array([index_of.get(symbol, -1) for symbol in chemical_symbols])
        info = heads.get(head or "")
        observed = None if info is None else info.observed
        self._unseen = np.array([observed is not None and symbol not in observed for symbol in self.type_map])
        self._limits = potential.neighbor_limits
        self._device = next(potential.buffers()).device
        self._search_device = search_device(self._device)
        fittings = potential.fitting_nets
        self._n_fparam = max((net.config.numb_fparam for net in fittings), default=0)
        self._n_aparam = max((net.n_aparam for net in fittings), default=0)
        stored = [net.config.default_fparam for net in fittings if net.config.default_fparam is not None]
        self._stored_fparam = stored[0] if stored else None
        self._told: set[str] = set()
        self._warn_of_quirks(potential)

    def neighbor_list(self, atoms: Atoms, skin: float) -> NeighborList:
        """A fresh neighbor list of the model's cutoff."""
        return build_neighbor_list(atoms, self.cutoff, skin, self._search_device)

    def check(self, atoms: Atoms) -> None:
        """Raise ValueError where `read` would, as far as that can be told without a neighbor list."""
        self.types(atoms)
        self._fparam_of(atoms)
        self._aparam_of(atoms)

    @autograd()
    def topology(self, lists: Sequence[NeighborList]) -> Topology:
        """Neighbor lists on the model's device, of use while they are valid."""
        return self._join(lists, self._device)

    @autograd()
    def read(
        self, structures: Sequence[Atoms], lists: Sequence[NeighborList] | Topology, first: int | None = None
    ) -> Inputs:
        """Bring structures into the model's form.

        Parameters
        ----------
        structures, lists
            Structures with neighbor lists valid for them, or the topology of these lists.
        first
            Number of the first structure in the user's list, for messages; ``None`` for a single one.

        Raises
        ------
        ValueError
            For elements the model does not know, parameters of a wrong length or missing, atoms on top of each other.
        """
        parameters = self.parameters(structures, first)
        return Inputs(self.graph(structures, lists, first), *parameters)

    def parameters(self, structures: Sequence[Atoms], first: int | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Frame parameters (S, F) and atomic parameters (N, A) of structures, where the model takes them."""
        fparams, aparams = [], []
        for index, atoms in enumerate(structures):
            with naming(None if first is None else first + index):
                fparams.append(self._fparam_of(atoms))
                aparams.append(self._aparam_of(atoms))
        return (
            self._tensor(np.array(fparams)) if self._n_fparam else None,
            self._tensor(np.concatenate(aparams)) if self._n_aparam else None,
        )

    def graph(
        self, structures: Sequence[Atoms], lists: Sequence[NeighborList] | Topology, first: int | None = None
    ) -> AtomicGraph:
        """The graph of structures; arguments and errors as for `read`."""
        types = []
        for index, atoms in enumerate(structures):
            with naming(None if first is None else first + index):
                types.append(self.types(atoms))
        topology = lists if isinstance(lists, Topology) else self.topology(lists)
        graph = topology.graph(structures, self._tensor(np.concatenate(types)), first)
        self._warn_of_dropped_neighbors(graph)
        return graph

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def types(self, atoms: Atoms) -> np.ndarray:
        """Type indices (N,) of the atoms."""
        types = self._type_of_number[atoms.numbers]
        if (types < 0).any():
            raise ValueError(self._unknown_elements(atoms.get_chemical_symbols()))
        if self._unseen[types].any():
            self._warn_of_unseen({self.type_map[t] for t in np.unique(types)})
        return types

    def _unknown_elements(self, symbols: list[str]) -> str:
        unknown = sorted(set(symbols) - set(self.type_map))
        where = [index for index, symbol in enumerate(symbols) if symbol in unknown]
        shown = f"{where[:10]}" + (f" and {len(where) - 10} more" if len(where) > 10 else "")
        known = [name for name, info in self.heads.items() if set(unknown) <= set(info.elements)]
        others = f"; heads of this file that know them: {known}" if known else ""
        return (
            f"elements {unknown} (atoms {shown}) are not in the model's type map "
            f"{list(self.type_map)}{others}; use a model trained on them or remove the atoms"
        )

    def _fparam_of(self, atoms: Atoms) -> np.ndarray:
        value = _first(atoms.info.get("fparam"), self.fparam, self._stored_fparam)
        if self._n_fparam and value is None:
            raise ValueError(
                f"this model needs {self._n_fparam} frame parameters; set atoms.info['fparam'] "
                "or DPA2Calculator(fparam=...)"
            )
        return _numbers(value, (self._n_fparam,), "fparam") if self._n_fparam else np.zeros(0)

    def _aparam_of(self, atoms: Atoms) -> np.ndarray:
        value = _first(atoms.arrays.get("aparam"), atoms.info.get("aparam"), self.aparam)
        if self._n_aparam and value is None:
            raise ValueError(
                f"this model needs {self._n_aparam} parameters per atom; set atoms.arrays['aparam'], "
                "atoms.info['aparam'] or DPA2Calculator(aparam=...)"
            )
        return _numbers(value, (len(atoms), self._n_aparam), "aparam") if self._n_aparam else np.zeros(0)

    # ---- warnings -------------------------------------------------------------------------------------------------

    def _tell(self, topic: str, message: str) -> None:
        """Warn once per topic and reader."""
        if topic not in self._told:
            self._told.add(topic)
            warnings.warn(message, UserWarning, stacklevel=2)

    def _warn_of_quirks(self, potential: Potential) -> None:
        if potential.depends_on_atom_order:
            self._tell(
                "order",
                "this model was trained with set_davg_zero = false: empty neighbor slots take the type of the first "
                "atom, so its energies change when atoms of another element come first. The numbers are DeePMD-kit's",
            )
        if not potential.is_smooth:
            self._tell(
                "smooth",
                "this model was trained without smooth attention (smooth or smooth_type_embedding = false): its energy "
                "jumps when a neighbor crosses the cutoff, so molecular dynamics drifts. The numbers are DeePMD-kit's",
            )

    def _warn_of_unseen(self, symbols: set[str]) -> None:
        info = self.heads[self.head or ""]
        unseen = sorted(symbols - set(info.observed or ()))
        self._tell(
            f"unseen {unseen}",
            f"head {info.name!r} was not trained on {unseen}, only on {list(info.observed or ())}; "
            "its numbers for them have no meaning",
        )

    def _warn_of_dropped_neighbors(self, graph: AtomicGraph) -> None:
        if "dropped" in self._told:
            return
        for name, cutoff, nsel in self._limits:
            if graph.cut(cutoff, nsel)[1].slot is not None:  # the graph keeps the cut for the model
                counts = torch.bincount(graph.center[graph.lengths <= cutoff], minlength=graph.n_atoms)
                dropped = int((counts - nsel).clamp_min(0).sum())
                self._tell(
                    "dropped",
                    f"{int((counts > nsel).sum())} atoms have more than {nsel} neighbors within {cutoff:g} Å ({name}, "
                    f"up to {int(counts.max())}); the {nsel} nearest are kept and {dropped} dropped, as DeePMD-kit "
                    "does (among equally near ones its choice may differ). Energies are not smooth there: the "
                    "structure is denser than the model was made for",
                )


@contextmanager
def naming(index: int | None) -> Iterator[None]:
    """Say in a ValueError which structure of a list it is about; ``None`` for a single structure."""
    try:
        yield
    except ValueError as error:
        if index is None:
            raise
        raise ValueError(f"structure {index}: {error}") from error


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)


def _numbers(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} should be numbers of shape {shape}, found {value!r}") from error
    if array.size != np.prod(shape) or (array.ndim > 1 and array.shape != shape) or not np.isfinite(array).all():
        raise ValueError(f"{name} should be finite numbers of shape {shape}, found shape {array.shape}")
    return array.reshape(shape)
