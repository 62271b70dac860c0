r"""Losses of energies, forces and virials with prefactors that follow the learning rate.

.. math:: L = \sum_q p_q(\eta)\, L_q, \qquad p_q(\eta) = p_q^{limit} + (p_q^{start} - p_q^{limit})\, \eta / \eta_{start}

Normalization as in DeePMD-kit's ``ener`` loss; a batch of unequal structures is averaged over structures (energies,
virials) or atoms (forces, atomic energies).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ..model import Prediction
from .frameset import Batch


@dataclass(frozen=True)
class Prefactor:
    """Weight of one term: at the start, and in the limit of a vanishing learning rate."""

    start: float = 0.0
    limit: float = 0.0

    def at(self, ratio: float) -> float:
        """The weight when the learning rate is `ratio` times the first."""
        return self.limit + (self.start - self.limit) * ratio

    @property
    def is_used(self) -> bool:
        """Whether the term counts at all."""
        return bool(self.start or self.limit)


@dataclass(frozen=True)
class LossConfig:
    """Terms of the loss; defaults are those of DeePMD-kit."""

    energy: Prefactor = field(default_factory=lambda: Prefactor(0.02, 1.0))
    forces: Prefactor = field(default_factory=lambda: Prefactor(1000.0, 1.0))
    virial: Prefactor = field(default_factory=Prefactor)
    atomic_energies: Prefactor = field(default_factory=Prefactor)
    weighted_forces: Prefactor = field(default_factory=Prefactor)  # with `Frame.force_weights`
    function: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: tuple[float, ...] = (0.01,)  # one for all, or energy, forces, virial
    relative_force: float | None = None  # eV/Å: errors of forces over this plus the force
    force_norm: bool = False  # length of the error of a force instead of its components (mae, huber)
    intensive: bool = False  # mse of energies and virials per atom: 1/N² instead of 1/N
    default_force_weight: float | None = None  # of atoms without `Frame.force_weights`

    @property
    def needs_gradient(self) -> bool:
        """Whether forces or virials are asked for."""
        return self.forces.is_used or self.virial.is_used or self.weighted_forces.is_used


@dataclass(frozen=True)
class Term:
    """One term as a sum over what is known of the batch; the loss is their quotient."""

    prefactor: float
    total: Tensor
    count: Tensor


def loss_terms(config: LossConfig, prediction: Prediction, batch: Batch, ratio: float) -> list[Term]:
    """The terms of the loss of one batch.

    Parameters
    ----------
    ratio
        The learning rate over the first one.
    """
    labels, n_atoms = batch.labels, batch.n_atoms
    terms: list[Term] = []

    def add(prefactor: Prefactor, values: Tensor, known: Tensor) -> None:
        """`values` (n, ...) with rows that are `known` (n,)."""
        width = values[0].numel() if len(values) else 1
        chosen = values[known]
        terms.append(Term(prefactor.at(ratio), chosen.sum(), known.sum().to(values.dtype) * width))

    if config.energy.is_used and labels.energy is not None and prediction.energy is not None:
        error = (prediction.energy - labels.energy)[:, None]
        add(config.energy, _per_atom(config, error, n_atoms[:, None], 0), labels.energy.isfinite())
    if config.virial.is_used and labels.virial is not None and prediction.virial is not None:
        error = prediction.virial - labels.virial
        add(config.virial, _per_atom(config, error, n_atoms[:, None, None], 2), _known(labels.virial))
    if config.atomic_energies.is_used and labels.atomic_energies is not None and prediction.atomic_energies is not None:
        error = prediction.atomic_energies - labels.atomic_energies
        add(config.atomic_energies, _penalty(config, error[:, None], 0), labels.atomic_energies.isfinite())
    if labels.forces is not None and prediction.forces is not None:
        _add_forces(config, prediction.forces - labels.forces, batch, add)
    return terms


def _add_forces(config: LossConfig, error: Tensor, batch: Batch, add: object) -> None:
    assert callable(add) and batch.labels.forces is not None
    labels = batch.labels.forces
    known = _known(labels)
    if config.relative_force is not None:
        error = error / (torch.linalg.vector_norm(labels, dim=-1, keepdim=True) + config.relative_force)
    if config.forces.is_used:
        whole = config.force_norm and config.function != "mse"
        # the length of no error has no direction: its gradient is taken as zero
        shown = torch.linalg.vector_norm(error.masked_fill(~known[:, None], 0.0), dim=-1, keepdim=True) if whole else error
        add(config.forces, _penalty(config, shown, 1), known)
    weights = batch.force_weights
    if weights is None and config.default_force_weight is not None:
        weights = torch.full_like(labels[:, 0], config.default_force_weight)
    if config.weighted_forces.is_used and weights is not None:
        if config.default_force_weight is not None:
            weights = weights.nan_to_num(config.default_force_weight)
        add(config.weighted_forces, _penalty(config, error, 1) * weights[:, None], known & weights.isfinite())


def _known(labels: Tensor) -> Tensor:
    return labels.flatten(1).isfinite().all(1)


def _per_atom(config: LossConfig, error: Tensor, n_atoms: Tensor, index: int) -> Tensor:
    """Penalty of an extensive quantity, per atom as DeePMD-kit normalizes it."""
    if config.function == "huber":
        return _penalty(config, error / n_atoms, index)
    power = 2 if config.intensive and config.function == "mse" else 1
    return _penalty(config, error, index) / n_atoms**power


def _penalty(config: LossConfig, error: Tensor, index: int) -> Tensor:
    if config.function == "mse":
        return error**2
    if config.function == "mae":
        return error.abs()
    delta = config.huber_delta[min(index, len(config.huber_delta) - 1)]
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def total_loss(terms: list[Term], counts: Tensor | None = None) -> Tensor:
    """The loss; `counts` (one per term) replaces the counts of this batch, for a loss over several processes."""
    numbers = torch.stack([term.count for term in terms]) if counts is None else counts
    values = [t.prefactor * t.total / n.clamp_min(1) for t, n in zip(terms, numbers, strict=True)]
    return torch.stack(values).sum()
