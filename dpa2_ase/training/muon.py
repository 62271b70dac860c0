"""Muon: matrices move along orthogonalized gradients, all other parameters by Adam.

K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024), kellerjordan.github.io/posts/muon;
steps of the size of Adam's by J. Liu et al., Muon is scalable for LLM training, arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

SMALLEST = 8  # rows and columns of a matrix worth it; less is a set of vectors
MOMENTUM = 0.95
RMS = 0.2  # of a step over the learning rate, about that of Adam
ITERATIONS = 5
POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz, with the steepest slope at zero


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter maps features to features; rows of a type embedding belong to one element each."""
    return parameter.ndim == 2 and min(parameter.shape) >= SMALLEST and "type_embedding" not in name


def orthogonalized(matrix: Tensor) -> Tensor:
    """About the nearest (semi-)orthogonal matrix: the same singular vectors, singular values between 0.7 and 1.2.

    An iteration multiplies the matrix by a polynomial of its Gram matrix; the polynomials commute with the Gram matrix,
    so that only small matrices are multiplied until the last product.
    """
    a, b, c = POLYNOMIAL
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    tall = tall / tall.norm().clamp_min(torch.finfo(tall.dtype).tiny)
    gram, one = tall.T @ tall, torch.eye(tall.shape[1], dtype=tall.dtype, device=tall.device)
    whole = one
    for _ in range(ITERATIONS):
        factor = torch.addmm(a * one + b * gram, gram, gram, alpha=c)
        whole, gram = whole @ factor, factor @ gram @ factor
    tall = tall @ whole
    return tall if matrix.shape[0] >= matrix.shape[1] else tall.T


class Muon(torch.optim.Optimizer):
    """Groups with ``matrices`` set hold parameters for which `is_matrix` is true.

    Parameters
    ----------
    groups
        Parameters, as of any optimizer.
    lr
        Learning rate of both kinds.
    betas
        Decays of Adam's means.
    weight_decay
        Decoupled from the gradient, as in AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "matrices": False})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Improve every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if group["matrices"]:
                    direction = _of_matrix(parameter.grad, state)
                else:
                    direction = _adam(parameter.grad, state, group["betas"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
        return loss


def _of_matrix(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    if not state:
        state["mean"] = torch.zeros_like(gradient)
    mean = state["mean"].lerp_(gradient, 1 - MOMENTUM)
    ahead = gradient.lerp(mean, MOMENTUM)  # Nesterov
    return orthogonalized(ahead) * (RMS * max(gradient.shape) ** 0.5)


def _adam(gradient: Tensor, state: dict[str, Any], betas: tuple[float, float]) -> Tensor:
    if not state:
        state |= {"step": torch.zeros(()), "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
    state["step"] += 1
    mean = state["mean"].lerp_(gradient, 1 - betas[0]) / (1 - betas[0] ** float(state["step"]))
    square = state["square"].lerp_(gradient.square(), 1 - betas[1]) / (1 - betas[1] ** float(state["step"]))
    return mean / (square.sqrt() + 1e-8)
