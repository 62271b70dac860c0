"""Fast twins for training: once differentiable by geometry and parameters, with the weights of the moment."""

from __future__ import annotations

import copy
from typing import Any

from ..model import Potential
from . import compiled_for, find_twin, sharing_copy

# name of a reference class -> where its trainable twin lives
TRAINABLE_TWINS = {
    "SeAtten": "cpu.trainable_se_atten.TrainableSeAtten",
    "ThreeBody": "cpu.trainable_three_body.TrainableThreeBody",
    "Repformer": "cpu.trainable_repformer.TrainableRepformer",
}


class TrainableTwin:
    """Two faces of one potential, both with its parameters as they are at any moment.

    Parameters
    ----------
    potential
        A reference potential whose parameters are trained, on a device with compiled kernels.

    Attributes
    ----------
    by_geometry
        For derivatives by ``graph.vectors``; knows no gradients of parameters.
    by_parameters
        Has the very parameters of `potential`.
    dtype
        Precision of its nets.
    slow
        Name of a block → why it is the reference.
    """

    def __init__(self, potential: Potential) -> None:
        self.dtype = next(potential.model.get_submodule("descriptor").parameters()).dtype
        self.slow: dict[str, str] = {}
        self.by_geometry = self._with_twins(sharing_copy(potential))
        same: dict[int, Any] = {id(tensor): tensor for tensor in [*potential.parameters(), *potential.buffers()]}
        self.by_parameters = self._with_twins(copy.deepcopy(potential, same))

    def _with_twins(self, potential: Potential) -> Potential:
        for name, module in list(potential.named_modules()):
            if type(module).__name__ not in TRAINABLE_TWINS:
                continue
            found = find_twin(module, [TRAINABLE_TWINS])
            if isinstance(found, str):
                self.slow[name] = found
                continue
            parent, _, own_name = name.rpartition(".")
            dtype = next(module.parameters()).dtype
            setattr(potential.get_submodule(parent), own_name, found[1].from_reference(module, dtype))
        return potential


def trainable_obstacle(potential: Potential) -> str | None:
    """Why `potential` would gain nothing from trainable twins; ``None`` if it would."""
    usable, why = compiled_for(next(potential.parameters()).device)
    if not usable:
        return why
    blocks = [module for module in potential.modules() if type(module).__name__ in TRAINABLE_TWINS]
    found = [find_twin(module, [TRAINABLE_TWINS]) for module in blocks]
    obstacles = [reason for reason in found if isinstance(reason, str)]
    return obstacles[0] if len(obstacles) == len(blocks) else None
