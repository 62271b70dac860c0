"""From what a user calls a model to an `Evaluator`."""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..bundled import bundled_model
from ..checkpoint import file_sha256, load_potential, read_checkpoint
from ..model import Potential
from .context import autograd
from .evaluator import Evaluator

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class Origin:
    """The file a model was read from."""

    path: Path
    head: str
    format: str
    modified: int  # ns, last change of the file before it was read

    @cached_property
    def sha256(self) -> str | None:
        """Of the file; ``None`` if it is gone or was changed since, so that it would tell of another model."""
        try:
            return file_sha256(self.path) if self.path.stat().st_mtime_ns == self.modified else None
        except OSError:
            return None

    def describe(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"model": str(self.path), "head": self.head, "format": self.format, "sha256": self.sha256}


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
    from ..download import PRETRAINED, model_path  # which loads all that HTTPS needs

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
) -> tuple[Evaluator, Origin | None]:
    """Make the evaluator of a model; also returns the file it was read from, for provenance."""
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
        ), None
    path = find_model(model)
    modified = path.stat().st_mtime_ns
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
    return evaluator, Origin(path, checkpoint.head, checkpoint.format, modified)
