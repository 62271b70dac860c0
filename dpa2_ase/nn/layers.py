"""Dense layers, the nets built from them, and activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's usual name

from ..config import UnsupportedModelError

Activation = Callable[[Tensor], Tensor]


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _identity(x: Tensor) -> Tensor:
    return x


def _silut(x: Tensor, threshold: float) -> Tensor:
    """SiLU that continues as a tanh above `threshold`, with continuous value and slope."""
    sigma = 1 / (1 + math.exp(-threshold))
    slope = sigma + threshold * sigma * (1 - sigma)
    return torch.where(x < threshold, F.silu(x), torch.tanh(slope * (x - threshold)) + threshold * sigma)


_ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "relu6": F.relu6,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": _gelu,
    "gelu_tf": _gelu,
    "linear": _identity,
    "none": _identity,
}


def activation_function(name: str | None) -> Activation:
    """The function DeePMD-kit calls `name` (case does not matter; ``silut:T`` takes a threshold)."""
    key, _, argument = (name or "none").lower().partition(":")
    if key in ("silut", "custom_silu"):
        return partial(_silut, threshold=float(argument) if argument else 3.0)
    if key not in _ACTIVATIONS or argument:
        raise UnsupportedModelError(f"activation_function {name!r} is not one of {sorted(_ACTIVATIONS)} or silut[:T]")
    return _ACTIVATIONS[key]


def random_parameter(*shape: int, std: float, mean: float = 0.0) -> nn.Parameter:
    """Normally distributed numbers to start a training from; on the meta device a shape alone."""
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(mean, std))


class Dense(nn.Module):
    r"""One layer, :math:`y = \phi(xW + b) \odot t` with an optional skip connection.

    Parameters
    ----------
    n_in, n_out
        Channels. `weight` has shape (n_in, n_out), as in the checkpoints.
    activation, bias
        Usual meaning.
    timestep
        Multiply by a learned vector before the skip; only where the widths allow a skip.
    resnet
        Add x if n_out = n_in, [x, x] if n_out = 2 n_in, and nothing otherwise.
    """

    def __init__(  # noqa: PLR0913  # the six switches of the reference layer
        self,
        n_in: int,
        n_out: int,
        *,
        activation: str | None = None,
        bias: bool = True,
        timestep: bool = False,
        resnet: bool = False,
    ) -> None:
        super().__init__()
        self.weight = random_parameter(n_in, n_out, std=1 / math.sqrt(n_in + n_out))
        self.bias = random_parameter(n_out, std=1.0) if bias else None
        self.copies = {n_in: 1, 2 * n_in: 2}.get(n_out, 0)
        self.timestep = random_parameter(n_out, mean=0.1, std=1e-3) if timestep and self.copies else None
        self.copies *= resnet
        self.activation = activation_function(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        y = x @ self.weight
        if self.bias is not None:
            y = y + self.bias
        y = self.activation(y)
        if self.timestep is not None:
            y = y * self.timestep
        if self.copies == 1:
            return y + x
        return y + torch.cat([x, x], dim=-1) if self.copies else y


def embedding_net(n_in: int, neuron: Sequence[int], activation: str, timestep: bool) -> nn.Sequential:
    """Layers of the given widths with skips and an activation on every layer, the last included."""
    widths = [n_in, *neuron]
    return nn.Sequential(
        *(
            Dense(a, b, activation=activation, timestep=timestep, resnet=True)
            for a, b in zip(widths, neuron, strict=False)
        )
    )


def fitting_net(n_in: int, neuron: Sequence[int], n_out: int, activation: str, timestep: bool) -> nn.Sequential:
    """An embedding net followed by one linear layer."""
    hidden = embedding_net(n_in, neuron, activation, timestep)
    return nn.Sequential(*hidden, Dense(neuron[-1] if neuron else n_in, n_out))


class LayerNorm(nn.Module):
    """Normalization over the last axis with population variance; always applies its scale and shift."""

    def __init__(self, width: int, eps: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps or 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last axis."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
