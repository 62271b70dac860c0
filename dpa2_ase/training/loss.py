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
    """The terms of the loss of one batch: one for every prefactor, with a count of zero where nothing is known.

    Parameters
    ----------
    ratio
        The learning rate over the first one.
    """
    labels, n_atoms, of_frames = batch.labels, batch.n_atoms, batch.weights
    terms: list[Term] = []

    def add(prefactor: Prefactor, values: Tensor | None, known: Tensor | None) -> None:
        """`values` (n, ...) of structures or atoms, with rows that are `known` (n,)."""
        if values is None or known is None:
            terms.append(Term(prefactor.at(ratio), n_atoms.new_zeros(()), n_atoms.new_zeros(())))
        else:
            count = n_atoms.new_tensor(values[known].numel())
            if of_frames is not None:
                rows = of_frames if len(values) == len(of_frames) else of_frames[batch.graph.structure]
                values = values * rows.reshape(-1, *[1] * (values.ndim - 1))
            terms.append(Term(prefactor.at(ratio), values[known].sum(), count))

    if config.energy.is_used:
        error = _difference(prediction.energy, labels.energy)
        add(config.energy, _per_atom(config, error, n_atoms, 0), _known(labels.energy))
    if config.virial.is_used:
        error = _difference(prediction.virial, labels.virial)
        add(config.virial, _per_atom(config, error, n_atoms[:, None, None], 2), _known(labels.virial))
    if config.atomic_energies.is_used:
        error = _difference(prediction.atomic_energies, labels.atomic_energies)
        add(config.atomic_energies, _penalty(config, error, 0), _known(labels.atomic_energies))
    error, known = _force_error(config, prediction, batch), _known(labels.forces)
    if config.forces.is_used:
        add(config.forces, _force_penalty(config, error), known)
    if config.weighted_forces.is_used:
        penalty, weights = _penalty(config, error, 1), _force_weights(config, batch)
        if penalty is None or weights is None or known is None:
            add(config.weighted_forces, None, None)
        else:
            add(config.weighted_forces, penalty * weights[:, None], known & weights.isfinite())
    return terms


def _difference(found: Tensor | None, wanted: Tensor | None) -> Tensor | None:
    """Error where the label is known; elsewhere zero, which carries no NaN into gradients."""
    if found is None or wanted is None:
        return None
    return torch.where(wanted.isfinite(), found - wanted.nan_to_num(), 0.0)


def _force_error(config: LossConfig, prediction: Prediction, batch: Batch) -> Tensor | None:
    labels = batch.labels.forces
    error = _difference(prediction.forces, labels)
    if error is None or labels is None or config.relative_force is None:
        return error
    size = torch.linalg.vector_norm(labels.nan_to_num(), dim=-1, keepdim=True)
    return error / (size + config.relative_force)


def _force_penalty(config: LossConfig, error: Tensor | None) -> Tensor | None:
    if error is not None and config.force_norm and config.function != "mse":
        error = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
    return _penalty(config, error, 1)


def _force_weights(config: LossConfig, batch: Batch) -> Tensor | None:
    default, weights = config.default_force_weight, batch.force_weights
    if default is None or batch.labels.forces is None:
        return weights
    return torch.full_like(batch.labels.forces[:, 0], default) if weights is None else weights.nan_to_num(default)


def _known(labels: Tensor | None) -> Tensor | None:
    """Rows of labels that hold numbers, (n,)."""
    return None if labels is None else labels.reshape(len(labels), -1).isfinite().all(1)


def _per_atom(config: LossConfig, error: Tensor | None, n_atoms: Tensor, index: int) -> Tensor | None:
    """Penalty of an extensive quantity, per atom as DeePMD-kit normalizes it."""
    if error is None:
        return None
    share = 1 / n_atoms.float()  # DeePMD-kit computes it in single precision
    if config.function == "huber":
        return _penalty(config, error * share.double(), index)
    power = 2 if config.intensive and config.function == "mse" else 1
    penalty = _penalty(config, error, index)
    return None if penalty is None else penalty * (share**power).double()


def _penalty(config: LossConfig, error: Tensor | None, index: int) -> Tensor | None:
    if error is None:
        return None
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
