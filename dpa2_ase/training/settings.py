"""Settings files: the short YAML file of this package; ``input.json`` of DeePMD-kit is told apart from it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from ase.data import atomic_numbers

from .configuration import (
    DEFAULT_HEAD,
    DataConfig,
    Derivatives,
    HeadConfig,
    OptimizerConfig,
    OutputConfig,
    TrainingConfig,
)
from .data.checks import Kind, Limits
from .data.files import read_frames
from .heads import Sharing
from .loss import LossConfig, Prefactor
from .options import fill, joined
from .presets import preset
from .sampling import parse_batch_size
from .schedules import LearningRateConfig

STEPS = 100_000  # where nothing is said


@dataclass(frozen=True)
class _Terms:
    """Prefactors of the loss, each a number or [start, limit]."""

    energy: tuple[float, ...] = (0.02, 1.0)
    forces: tuple[float, ...] = (1000.0, 1.0)
    virial: tuple[float, ...] = (0.02, 1.0)  # where there are virials
    atomic_energies: tuple[float, ...] = (0.0,)
    weighted_forces: tuple[float, ...] = (0.0,)
    function: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: tuple[float, ...] = (0.01,)
    relative_force: float | None = None
    force_norm: bool = False
    intensive: bool = False
    default_force_weight: float | None = None


@dataclass(frozen=True)
class _Data:
    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    batch: int | str = "auto:128"
    valid_batch: int | str = "auto:512"
    valid_batches: int | None = 10
    weights: tuple[float, ...] | None = None
    by_forces: float | None = None
    keys: dict[str, str] = field(default_factory=dict)
    pattern: tuple[str, ...] = ()
    isolated_atoms: tuple[str, ...] = ()
    atomic_energies: dict[str, float] = field(default_factory=dict)
    filter: tuple[Kind, ...] = DataConfig.filter
    limits: Limits = field(default_factory=Limits)
    loss: _Terms | None = None
    probability: float = 1.0
    finetune_head: str | None = None


@dataclass(frozen=True)
class _File:
    elements: tuple[str, ...] = ()
    steps: int | None = None
    epochs: float | None = None
    model: str | dict[str, Any] = "small"
    precision: Literal["float32", "float64"] = "float32"
    data: _Data | None = None
    heads: dict[str, _Data] = field(default_factory=dict)
    loss: _Terms = field(default_factory=_Terms)
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    freeze: tuple[str, ...] = ()
    derivatives: Derivatives = "auto"
    seed: int = 0
    output: OutputConfig = field(default_factory=OutputConfig)


def read_settings(path: str | Path) -> TrainingConfig:
    """Read a YAML file of this package, or an ``input.json`` of DeePMD-kit.

    Raises
    ------
    ValueError
        For unknown keys and wrong values, by their path.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no settings file {path}")
    content = _content(path)
    try:
        if isinstance(content, dict) and "training" in content:
            from .deepmd_input import settings_of_input

            config = settings_of_input(content)
        else:
            config = settings_of_table(content, path.parent)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from None
    return relative_to(config, path.parent)


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as JSON and YAML 1.2 do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _content(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error


def settings_of_table(content: Any, folder: Path = Path()) -> TrainingConfig:
    """The settings a YAML table of this package asks for; without `elements`, those of the data below `folder`."""
    file = fill(_File, content, "")
    if (file.data is None) == (not file.heads):
        raise ValueError("either data (one head) or heads (several) should say what to train on")
    groups = dict(file.heads) if file.data is None else {DEFAULT_HEAD: file.data}
    elements = file.elements or _elements(groups.values(), folder)
    section = preset(file.model, elements, file.precision) if isinstance(file.model, str) else dict(file.model)
    section = {"type_map": list(elements)} | section
    heads = {}
    for name, data in groups.items():
        path = joined("heads", name) if file.heads else "data"
        heads[name] = HeadConfig(
            model=section,
            data=_data(data, path),
            loss=_loss(data.loss or file.loss, joined(path, "loss") if data.loss else "loss"),
            probability=data.probability,
            finetune_head=data.finetune_head,
            atomic_energies=data.atomic_energies,
        )
    levels = dict.fromkeys(heads, 0)
    return TrainingConfig(
        heads=heads,
        steps=STEPS if file.steps is None else file.steps,
        epochs=_epochs(file),
        sharing=(Sharing("descriptor", levels),) if len(heads) > 1 else (),
        learning_rate=file.learning_rate,
        optimizer=file.optimizer,
        freeze=file.freeze,
        derivatives=file.derivatives,
        seed=file.seed,
        output=file.output,
    )


def _epochs(file: _File) -> dict[str, float]:
    if file.epochs is None:
        return {}
    if file.steps is not None:
        raise ValueError("steps and epochs exclude each other; remove one")
    if file.heads:
        raise ValueError("epochs belongs to a training of one head (data), as heads take theirs in turn; give steps")
    if not 0 < file.epochs < math.inf:
        raise ValueError(f"epochs should be above zero, found {file.epochs}")
    return {DEFAULT_HEAD: file.epochs}


def _elements(groups: Iterable[_Data], folder: Path) -> tuple[str, ...]:
    """Elements of the frames to train on, by atomic number; names that are no elements last."""
    entries = [(folder / entry, data.pattern) for data in groups for entry in data.train]
    frames = [frame for entry, pattern in entries for frame in read_frames(entry, pattern=pattern)]
    found = {symbol for frame in frames for symbol in frame.symbols}
    return tuple(sorted(found, key=lambda name: (atomic_numbers.get(name, 1000), name)))


def _data(data: _Data, path: str) -> DataConfig:
    if data.by_forces is not None and not data.by_forces > 0:
        raise ValueError(
            f"{joined(path, 'by_forces')} should be above zero (eV/Å), so that frames at rest are drawn too, found "
            f"{data.by_forces}"
        )
    return DataConfig(
        train=data.train,
        valid=data.valid,
        batch=parse_batch_size(data.batch, joined(path, "batch")),
        valid_batch=parse_batch_size(data.valid_batch, joined(path, "valid_batch")),
        valid_batches=data.valid_batches,
        weights=data.weights,
        by_forces=data.by_forces,
        keys=data.keys,
        pattern=data.pattern,
        isolated_atoms=data.isolated_atoms,
        filter=data.filter,
        limits=data.limits,
        places=(joined(path, "train"), joined(path, "valid")),
    )


def _loss(terms: _Terms, path: str) -> LossConfig:
    prefactors = {}
    for name in ("energy", "forces", "virial", "atomic_energies", "weighted_forces"):
        values = getattr(terms, name)
        if len(values) not in (1, 2):
            raise ValueError(f"{joined(path, name)} should be a number or [start, limit]")
        prefactors[name] = Prefactor(values[0], values[-1])
    return LossConfig(
        **prefactors,
        function=terms.function,
        huber_delta=terms.huber_delta,
        relative_force=terms.relative_force,
        force_norm=terms.force_norm,
        intensive=terms.intensive,
        default_force_weight=terms.default_force_weight,
    )


def relative_to(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """The same settings with relative paths of data taken from `folder`, where the settings file is."""

    def moved(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(folder / path) for path in paths)

    def of_head(data: DataConfig) -> DataConfig:
        paths = {name: moved(getattr(data, name)) for name in ("train", "valid", "isolated_atoms")}
        return replace(data, **paths)  # type: ignore[arg-type]  # three fields of paths

    heads = {name: replace(head, data=of_head(head.data)) for name, head in config.heads.items()}
    return replace(config, heads=heads)
