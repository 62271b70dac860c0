"""What all backward passes written by hand have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

Backward = Callable[..., Any]


def first_derivatives(backward: Backward) -> Backward:
    """Mark the backward of an autograd function that autograd cannot see through; refuses ``create_graph``."""

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # so it is when the caller asked for create_graph
            raise RuntimeError("second derivatives need the reference path; use mode='reference'")
        return backward(ctx, *gradients)

    return wrapped
