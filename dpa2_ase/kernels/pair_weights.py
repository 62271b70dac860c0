"""Geometry of the pairs of neighbors as attention among them sees it, tile by tile.

Letters: B atoms of the tile, n slots of each, P channels, H heads. Rows of an attention matrix are (slot j, head h)
with the head fastest, so every product is a plain view: (B, n·H, n) and (B, n·H, P) = (B, n, H·P).
Exponentials are taken to the base two, which is faster; the factor log₂e is folded into the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import EMPTY_LOGIT
from .scratch import Scratch

LOG2_E = math.log2(math.e)
EMPTY = EMPTY_LOGIT * LOG2_E
# sums of exponentials in this range lost nothing to overflow or underflow
SAFE = {torch.float64: (1e-200, 1e200), torch.float32: (1e-20, 1e30)}


@dataclass(frozen=True)
class AttentionForm:
    """What the configuration says of the attention."""

    n_heads: int
    has_gate: bool  # logits are multiplied by the cosine
    has_cosine: bool  # weights are multiplied by it
    smooth: bool
    nsel: int


class PairWeights:
    """Factors of logits and weights, the same for all layers, and the gradients that reach them.

    Logits are raw ⊙ `logit` + `shift`, weights softmax ⊙ `value`. With the cosine c = h hᵀ and the switch W = w wᵀ,
    `value` and `logit` are W, both times c where the configuration says so, and `shift` is 20 log₂e (W − 1). Where the
    model is not smooth, W is one, there is no shift, and slots without a neighbor are left out.

    Parameters
    ----------
    direction
        h (B, n, 3), zero in slots without a neighbor.
    weight
        w (B, n), the switch; one where the model is not smooth; zero in slots without a neighbor.
    """

    def __init__(self, form: AttentionForm, direction: Tensor, weight: Tensor, scratch: Scratch) -> None:
        self._form, self._direction, self._weight, self._scratch = form, direction, weight, scratch
        batch, n, _ = direction.shape
        self._shape = (batch, n, form.n_heads, n)
        self._cosine = torch.bmm(direction, direction.mT, out=scratch("cosine", batch, n, n))
        self._switch: Tensor | None = None
        self._shift: Tensor | None = None
        self._dead: Tensor | None = None
        if form.smooth:
            self._switch = torch.mul(weight[:, :, None], weight[:, None, :], out=scratch("pair_switch", batch, n, n))
            self._shift = self._for_heads("shift", self._switch).sub_(1).mul_(-EMPTY)
        else:
            self._dead = (weight == 0)[:, None, :]
            self._dead[:, :, 0] = False  # so that an atom without neighbors has a softmax; nobody reads it
        self.value = self._factor("value", form.has_cosine)
        self._logit = self.value if form.has_gate == form.has_cosine else self._factor("logit", form.has_gate)

    def _factor(self, name: str, has_cosine: bool) -> Tensor | None:
        """The switch, the cosine, their product or, as ``None``, one."""
        if not has_cosine:
            return None if self._switch is None else self._for_heads(name, self._switch)
        return self._for_heads(name, self._cosine if self._switch is None else self._cosine * self._switch)

    def _for_heads(self, name: str, values: Tensor) -> Tensor:
        """Repeat (B, n, n) for every head: (B, n·H, n)."""
        repeated = self._scratch(name, *self._shape).copy_(values[:, :, None, :].expand(self._shape))
        return repeated.flatten(1, 2)

    def softmax(self, raw: Tensor, out: Tensor) -> Tensor:
        """Softmax of the logits that belong to `raw`, with the empty slots of the training code in the denominator."""
        total = None
        if not raw.is_cuda:
            total = self._exponentials(raw, out, shifted=False)  # shifting by the maximum is seldom needed, and dear
            (low, high), (least, most) = SAFE[raw.dtype], total.aminmax()
            if not (least > low and most < high):
                total = None
        if total is None:
            total = self._exponentials(raw, out, shifted=True)
        return out.mul_(total.reciprocal_().view(*out.shape[:-1], 1))

    def _exponentials(self, raw: Tensor, out: Tensor, *, shifted: bool) -> Tensor:
        """Exponentials of the logits in `out`; returns their sums over the last axis."""
        self._logits(raw, out)
        n = out.shape[-1]
        empty: float | Tensor = 2.0**EMPTY
        if shifted:
            top = out.amax(-1, keepdim=True)
            if self._form.smooth:
                empty = (EMPTY - top.clamp_min_(EMPTY)).exp2_().view(-1)
            out.sub_(top)
        total = torch.mv(out.exp2_().view(-1, n), out.new_ones(n))
        return total.add_((self._form.nsel - n) * empty) if self._form.smooth else total

    def _logits(self, raw: Tensor, out: Tensor) -> None:
        if self._logit is None:
            out.copy_(raw)
        elif self._shift is None:
            torch.mul(raw, self._logit, out=out)
        else:
            torch.addcmul(self._shift, raw, self._logit, out=out)
        if self._dead is not None:
            out.masked_fill_(self._dead, -torch.inf)

    def start_gradients(self) -> None:
        """Set the gradients of all factors to zero."""
        self._d_value = None if self.value is None else self._zeros("d_value")
        self._d_shift = None if self._shift is None else self._zeros("d_shift")
        self._d_logit = self._d_value
        if self._logit is not self.value:
            self._d_logit = None if self._logit is None else self._zeros("d_logit")

    def _zeros(self, name: str) -> Tensor:
        return self._scratch(name, *self._shape).flatten(1, 2).zero_()

    def weights(self, softmax: Tensor, out: Tensor) -> Tensor:
        """The softmax times its factor; `out` may be the softmax."""
        if self.value is None:
            return softmax if out is softmax else out.copy_(softmax)
        return torch.mul(softmax, self.value, out=out)

    def add_value_gradient(self, softmax: Tensor, d_weight: Tensor) -> None:
        """From the gradient of the weights."""
        if self._d_value is not None:
            self._d_value.addcmul_(softmax, d_weight)

    def add_logit_gradient_(self, raw: Tensor, d_logit: Tensor) -> Tensor:
        """From the gradient of the logits to the base e, which becomes that of `raw` / log₂e in place."""
        if self._d_shift is not None:
            self._d_shift.add_(d_logit)
        if self._logit is None or self._d_logit is None:
            return d_logit
        self._d_logit.addcmul_(d_logit, raw, value=1 / LOG2_E)
        return d_logit.mul_(self._logit)

    def finish_gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients with respect to `direction` (B, n, 3) and `weight` (B, n); ``None`` for zero."""
        d_cosine: Tensor | None = None
        d_switch = None if self._d_shift is None else self._over_heads(self._d_shift).mul_(-EMPTY_LOGIT)
        parts = [(self._d_value, self._form.has_cosine)]
        if self._d_logit is not self._d_value:
            parts.append((self._d_logit, self._form.has_gate))
        for found, has_cosine in parts:
            if found is None:
                continue
            gradient = self._over_heads(found)
            if d_switch is not None:
                d_switch.addcmul_(gradient, self._cosine) if has_cosine else d_switch.add_(gradient)
            if has_cosine:
                gradient = gradient if self._switch is None else gradient.mul_(self._switch)
                d_cosine = gradient if d_cosine is None else d_cosine.add_(gradient)
        return (
            None if d_cosine is None else (d_cosine + d_cosine.mT) @ self._direction,
            None if d_switch is None else ((d_switch + d_switch.mT) @ self._weight[:, :, None]).squeeze(-1),
        )

    def _over_heads(self, gradient: Tensor) -> Tensor:
        return gradient.view(self._shape).sum(2)
