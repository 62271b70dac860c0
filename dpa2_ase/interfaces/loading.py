"""From what a user calls a model to an `Evaluator`."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any

import torch

from ..bundled import bundled_model
from ..checkpoint import load_potential, read_checkpoint
from ..download import PRETRAINED, model_path
from ..model import Potential
from .context import autograd
from .evaluator import Evaluator

DTYPES = {"float64": torch.float64, "float32": torch.float32}


def find_model(model: str | Path | None) -> Path:
    """The file a user means: a path, the name of an official model, or ``None`` for the bundled one.

    Raises
    ------
    FileNotFoundError
        When there is no such file and no official model of that name.
    """
    if model is None:
        return bundled_model()
    path = Path(model).expanduser()
    if path.exists():
        return path
    names = {name.lower(): name for name in PRETRAINED}
    if str(model).lower() in names:
        return model_path(names[str(model).lower()])
    near = difflib.get_close_matches(str(model).lower(), names, n=1)
    hint = f"; did you mean {names[near[0]]!r}?" if near else ""
    raise FileNotFoundError(
        f"no model file {path}, and no official model of that name; known names: {sorted(PRETRAINED)}{hint}"
    )


def find_device(device: str | torch.device | None) -> torch.device:
    """The device to compute on; raises ValueError for one that does not exist here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen, dtype=torch.float64)  # energies are summed in float64, which not all devices have
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        available = ["cpu", *(f"cuda:{index}" for index in range(count))]
        raise ValueError(f"device {str(device)!r} is not available here; available: {available}") from error
    return chosen


def find_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A precision by name; ``None`` keeps the model's own."""
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]  # a torch.dtype by the test
    if str(dtype) not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not supported; choose one of {sorted(DTYPES)}")
    return DTYPES[str(dtype)]


@autograd()
def open_evaluator(  # noqa: PLR0913  # what a calculator is made of
    model: str | Path | Potential | None,
    *,
    head: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    fparam: Any = None,
    aparam: Any = None,
    mode: str = "auto",
) -> tuple[Evaluator, dict[str, Any]]:
    """Make the evaluator of a model; also returns what it was made from, for provenance."""
    chosen_device, chosen_dtype = find_device(device), find_dtype(dtype)
    if isinstance(model, Potential):
        if head is not None:
            raise ValueError("head belongs to a model file; a loaded potential is one head already")
        copied = copy.deepcopy(model)
        return Evaluator(
            copied,
            device=chosen_device,
            dtype=chosen_dtype,
            heads={},
            head=None,
            fparam=fparam,
            aparam=aparam,
            mode=mode,
        ), {}
    path = find_model(model)
    checkpoint = read_checkpoint(path, head)
    evaluator = Evaluator(
        load_potential(checkpoint),
        device=chosen_device,
        dtype=chosen_dtype,
        heads=checkpoint.heads,
        head=checkpoint.head,
        fparam=fparam,
        aparam=aparam,
        mode=mode,
    )
    return evaluator, {"model": str(path), "head": checkpoint.head, "format": checkpoint.format}
