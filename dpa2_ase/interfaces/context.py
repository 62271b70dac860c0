"""The state of torch that evaluations need, whatever the caller's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

# a forked child inherits torch's pool of threads but not its threads, and would wait for them forever: it computes with
# one, from the first operation on, the unpickling of a calculator included
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


@contextmanager
def autograd() -> Iterator[None]:
    """Record gradients whatever ``no_grad`` or ``inference_mode`` the caller is in."""
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.enable_grad():
        yield
