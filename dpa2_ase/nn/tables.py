"""Compressed embedding nets: the quintic tables that ``dp compress`` stores in a file."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QuinticTable(nn.Module):
    """Piecewise quintic polynomials of one variable, linear beyond both ends.

    Parameters
    ----------
    info
        ``lower, upper, max, stride0, stride1, ...``: cells of width stride0 up to `upper`, of stride1 up to `max`.
    data
        Coefficients (n_cells, 6 C), entry [k, 6c + q] multiplies the q-th power of the distance from the cell's start.
    """

    data: Tensor

    def __init__(self, info: Tensor, data: Tensor) -> None:
        super().__init__()
        values = [float(v) for v in info[:5]]
        self.lower, self.upper, self.max, self.stride0, self.stride1 = values
        sound = all(abs(v) < 1e6 for v in values) and min(self.stride0, self.stride1) > 1e-6
        if not (sound and self.lower < self.upper <= self.max and data.ndim == 2):
            raise ValueError(f"the compressed table of this file has the unusable range {values}; freeze it anew")
        self.n_fine = int((self.upper - self.lower) / self.stride0)
        n_cells = self.n_fine + int((self.max - self.upper) / self.stride1)
        if not data.shape[0] >= n_cells > 0:
            raise ValueError(
                f"the compressed table of this file has {data.shape[0]} cells, its range needs {n_cells}; "
                "freeze the model anew"
            )
        if data.shape[1] % 6:
            raise ValueError(f"a compressed table needs six coefficients per channel, found {data.shape[1]} columns")
        self.register_buffer("data", data.reshape(data.shape[0], -1, 6))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate at `x` (..., 1); returns (..., C)."""
        x = x.squeeze(-1)
        clamped = x.clamp(self.lower, self.max)
        cell, start = self._locate(clamped.detach())
        local, beyond = (clamped - start).unsqueeze(-1), (x - clamped).unsqueeze(-1)
        a0, a1, a2, a3, a4, a5 = self.data[cell].unbind(-1)
        value = a0 + local * (a1 + local * (a2 + local * (a3 + local * (a4 + local * a5))))
        slope = a1 + local * (2 * a2 + local * (3 * a3 + local * (4 * a4 + local * 5 * a5)))
        return value + slope * beyond

    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the cell that holds `x` (...,) and where the cell starts."""
        last = torch.nextafter(x.new_tensor(self.max), x.new_tensor(self.upper))
        fine = ((x - self.lower) / self.stride0).trunc()
        coarse = ((x.minimum(last) - self.upper) / self.stride1).trunc()
        is_fine = x < self.upper
        start = torch.where(is_fine, fine * self.stride0 + self.lower, coarse * self.stride1 + self.upper)
        return torch.where(is_fine, fine, self.n_fine + coarse).to(torch.int64), start
