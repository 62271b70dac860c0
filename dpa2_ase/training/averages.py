"""Look at a model with other values of its parameters, such as their running means."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Exchange:
    """A context in which `parameters` have other `values`, by name."""

    def __init__(self, parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        self.pairs = [(parameters[name], value) for name, value in values.items()]

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *error: object) -> None:
        self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for parameter, value in self.pairs:
                kept = parameter.clone()
                parameter.copy_(value)
                value.copy_(kept)
