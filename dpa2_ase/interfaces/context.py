"""The state of torch that evaluations need, whatever the caller's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PROCESS = os.getpid()


@contextmanager
def autograd() -> Iterator[None]:
    """Record gradients whatever ``no_grad`` or ``inference_mode`` the caller is in, and survive a fork.

    A forked child inherits torch's pool of threads but not its threads, and would wait for them forever: it computes
    with one.
    """
    if os.getpid() != _PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    with torch.inference_mode(False), torch.enable_grad():
        yield
