"""What a training needs to continue bit for bit, stored beside the model in its checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint.archive import StoredTensor, TorchArchive
from ..checkpoint.errors import CheckpointError

KEY = "dpa2_ase_training"  # DeePMD-kit does not look at it
VERSION = 1


@dataclass(frozen=True)
class TrainingState:
    """Everything beside the parameters."""

    step: int
    optimizer: dict[str, Any]
    samplers: dict[str, tuple[int, ...]]
    random: Tensor  # torch's generator
    ema: dict[str, Tensor]
    progress: dict[str, Any]  # losses and errors since the last report
    best: list[dict[str, Any]]  # best models so far

    def table(self) -> dict[str, Any]:
        """As nested tables of tensors and plain values."""
        return {
            "version": VERSION,
            "step": self.step,
            "optimizer": self.optimizer,
            "samplers": {name: list(state) for name, state in self.samplers.items()},
            "random": self.random,
            "ema": self.ema,
            "progress": self.progress,
            "best": self.best,
        }

    def check(self, samplers: Mapping[str, tuple[int, ...]], ema: Collection[str]) -> None:
        """Refuse to continue a training of other heads, or of other parameters with running means (`ema`).

        Their frames should be drawn alike, too, so that the states of `samplers` have the same length.
        """
        if set(self.samplers) != set(samplers):
            raise ValueError(f"the checkpoint trains the heads {sorted(self.samplers)}, not {sorted(samplers)}")
        for head, state in samplers.items():
            if len(state) != len(self.samplers[head]):
                raise ValueError(
                    f"the checkpoint drew the frames of head {head} in another way: with another number of systems, or "
                    "with one batch_size for all; give the same settings, or start anew with --init-model"
                )
        if set(self.ema) != set(ema):
            raise ValueError("optimizer.ema or the trained parameters differ from those of the checkpoint")


def read_state(path: str | Path) -> TrainingState:
    """The state in a checkpoint of this package; nothing in the file is executed.

    Raises
    ------
    CheckpointError
        For a file without, such as one of DeePMD-kit's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            opened = TorchArchive(archive)
            content = opened.load()
            stored = content.get(KEY) if isinstance(content, Mapping) else None
            if isinstance(stored, Mapping):
                stored = _with_tensors(stored, opened)
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path} is not a training checkpoint") from None
    names = {field.name for field in fields(TrainingState)}
    if not isinstance(stored, dict) or stored.get("version") != VERSION or not names <= stored.keys():
        raise CheckpointError(
            f"{path} holds a model but no training of this package to continue; start from it with --init-model"
        )
    samplers = {name: tuple(int(number) for number in state) for name, state in stored["samplers"].items()}
    return TrainingState(**{name: stored[name] for name in names} | {"samplers": samplers})


def _with_tensors(value: Any, archive: TorchArchive) -> Any:
    """A copy with every stored tensor read."""
    found: dict[str, StoredTensor] = {}

    def collect(part: Any) -> Any:
        if isinstance(part, StoredTensor):
            name = str(len(found))
            found[name] = part
            return _Place(name)
        if isinstance(part, Mapping):
            return {key: collect(item) for key, item in part.items()}
        return [collect(item) for item in part] if isinstance(part, list | tuple) else part

    collected = collect(value)
    tensors = archive.tensors(found)

    def put(part: Any) -> Any:
        if isinstance(part, _Place):
            return tensors[part.name]
        if isinstance(part, dict):
            return {key: put(item) for key, item in part.items()}
        return [put(item) for item in part] if isinstance(part, list) else part

    return put(collected)


@dataclass(frozen=True)
class _Place:
    name: str


def keep_newest(path: Path, count: int) -> None:
    """Remove numbered copies of a checkpoint, ``NAME-STEP.pt``, but for those of the last steps."""
    numbered = [file for file in path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}") if _step(file) is not None]
    for file in sorted(numbered, key=lambda file: _step(file) or 0)[:-count]:
        file.unlink()


def _step(path: Path) -> int | None:
    tail = path.stem.rsplit("-", 1)[-1]
    return int(tail) if tail.isdigit() else None
