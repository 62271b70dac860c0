"""Which of a model's representations of an atom is looked at, and how it is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from ..graph import AtomicGraph
    from ..model import Potential
    from ..nn.atomic_models import AtomicModel
    from ..nn.descriptors import DPA1, DPA2

LayerName = Literal["final", "initial", "repinit"]
LAYERS: tuple[str, ...] = get_args(LayerName)


@dataclass(frozen=True)
class Layer:
    """One of the representations a model has of an atom.

    Parameters
    ----------
    name
        ``"final"`` is what the fitting nets read, after all message passing (the paper's single-atom representation,
        g1; of DPA-1 its only one). ``"repinit"`` is the output of the initializer (with three-body terms where the
        model has them), which has seen distances and angles of an atom's own neighbors only. ``"initial"`` is the same
        brought to the width of the message passing.
    types
        Whether the type embedding follows: one vector per element, which tells elements apart whatever surrounds them.
    """

    name: LayerName = "final"
    types: bool = False

    def __post_init__(self) -> None:
        if self.name not in LAYERS:
            raise ValueError(f"layer {self.name!r} is not one of {', '.join(LAYERS)}")

    def __str__(self) -> str:
        return f"{self.name}{' with types' if self.types else ''}"


def represent(potential: Potential, graph: AtomicGraph, layer: Layer) -> Tensor:
    """The representation (N, C) of all atoms in a graph, without an autograd graph.

    Raises
    ------
    ValueError
        For a layer the model does not have.
    """
    import torch

    with torch.no_grad():
        descriptor, seen = _described(potential.model, graph)
        embedding = descriptor.type_embedding()
        node = _layer_of(descriptor, seen, embedding, layer.name)
        return torch.cat([node, embedding[graph.types]], dim=1) if layer.types else node


def _layer_of(descriptor: DPA1 | DPA2, graph: AtomicGraph, embedding: Tensor, name: str) -> Tensor:
    from ..nn.descriptors import DPA2

    if name == "final":
        node = descriptor(graph).node
        concatenated = descriptor.config.tebd_dim * descriptor.config.concat_output_tebd
        return node[:, : node.shape[1] - concatenated]
    if not isinstance(descriptor, DPA2):
        raise ValueError(f"a DPA-1 model has no layer {name!r}: it is one block; use layer 'final'")
    return getattr(descriptor, "initializer" if name == "repinit" else "initial")(graph, embedding)


def _described(model: AtomicModel, graph: AtomicGraph) -> tuple[DPA1 | DPA2, AtomicGraph]:
    """The descriptor of a model, and what of the graph it sees."""
    from ..nn.atomic_models import ZBL, StandardModel

    if isinstance(model, StandardModel):
        return model.descriptor, model.exclusions.prune(graph)
    if isinstance(model, ZBL):
        seen = model.exclusions.prune(graph.within(model.config.rcut, model.config.nsel))
        return _described(model.models[0], seen)
    raise ValueError(f"a {type(model).__name__} is not one model with one descriptor; use one of its parts")


def fingerprint(potential: Potential, *, whole: bool = False) -> str:
    """Hash of the weights and options of the descriptor, the same for all heads that share it.

    Parameters
    ----------
    potential
        Of reference modules: fast twins keep their weights in forms of their own.
    whole
        Include the fitting net and all else of the model.
    """
    content = hashlib.sha256()
    config = asdict(potential.config)
    if not whole:
        config = {name: value for name, value in config.items() if not name.startswith("fitting")}
    content.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(potential.model.state_dict().items()):
        if whole or "descriptor." in name:
            content.update(name.encode() + str(tensor.dtype).encode())
            content.update(tensor.detach().cpu().numpy().tobytes())
    return content.hexdigest()
