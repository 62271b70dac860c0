"""The optimizer of a training: parameters in groups of the same learning rate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .configuration import OptimizerConfig
from .heads import is_part
from .muon import Muon, is_matrix


class ScaledOptimizer:
    """An optimizer whose groups follow one learning rate, each with a factor of its own.

    Parameters
    ----------
    options
        Its kind.
    parameters
        What to improve, by name.
    rate
        The first learning rate.
    factors
        Of the learning rate, by part of the model; the longest name that fits counts.
    """

    def __init__(
        self,
        options: OptimizerConfig,
        parameters: Mapping[str, nn.Parameter],
        rate: float,
        factors: Mapping[str, float],
    ) -> None:
        self.parameters, self.clip = list(parameters.values()), options.clip
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            fitting = [part for part in factors if is_part(name, part)]
            factor = factors[max(fitting, key=len)] if fitting else 1.0
            matrix = options.type == "muon" and is_matrix(name, parameter)
            groups.setdefault((factor, matrix), []).append(parameter)
        self.factors = [factor for factor, _ in groups]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}[options.type]
        self.torch: torch.optim.Optimizer = kind(
            [
                {"params": members, "matrices": matrix} if kind is Muon else {"params": members}
                for (_, matrix), members in groups.items()
            ],
            lr=rate,
            betas=(options.betas[0], options.betas[-1]),
            weight_decay=options.weight_decay,
        )

    def step(self, rate: float) -> None:
        """Improve the parameters by their gradients, which are clipped where asked for."""
        for group, factor in zip(self.torch.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.torch.step()
