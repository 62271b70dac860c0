"""What a training is told, as classes that every kind of settings file is turned into."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .best import BestConfig, Metric
from .data.checks import Kind, Limits
from .heads import Sharing
from .loss import LossConfig
from .sampling import BatchSize, SystemSizes
from .schedules import LearningRateConfig

DEFAULT_HEAD = "Default"
Derivatives = Literal["auto", "exact", "difference"]
_AUTO_128, _AUTO_512 = BatchSize("auto", 128), BatchSize("auto", 512)


@dataclass(frozen=True)
class DataConfig:
    """Frames of one head: files and folders as `read_frames` takes them."""

    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    batch: BatchSize | SystemSizes = _AUTO_128
    valid_batch: BatchSize | SystemSizes = _AUTO_512
    valid_batches: int | None = 10  # of each validation; None for all frames
    weights: tuple[float, ...] | None = None  # probability of every entry of `train`; None counts frames
    system_weights: Literal["frames", "equal"] | tuple[tuple[int, int, float], ...] = "frames"  # or runs of systems
    by_forces: float | None = None  # eV/Å; within an entry, draw frames in proportion to this plus their RMS force
    keys: dict[str, str] = field(default_factory=dict)  # names of labels, see `LabelKeys`
    pattern: tuple[str, ...] = ()  # of systems below a folder
    valid_pattern: tuple[str, ...] | None = None  # the same of `valid`; None for `pattern`
    min_distance: float = 0.0  # Å; frames to train on with atoms closer than this are left out
    isolated_atoms: tuple[str, ...] = ()  # files of single atoms: their energies become the energy bias
    filter: tuple[Kind, ...] = ("shape", "not-finite", "no-labels")  # kinds of findings whose frames are left out
    limits: Limits = field(default_factory=Limits)  # from where on a frame is listed
    places: tuple[str, str] = ("data.train", "data.valid")  # paths of `train` and `valid` in the settings, for messages


@dataclass(frozen=True)
class HeadConfig:
    """One level of theory: a model section of DeePMD-kit, data and loss."""

    model: dict[str, Any]
    data: DataConfig
    loss: LossConfig = field(default_factory=LossConfig)
    probability: float = 1.0
    finetune_head: str | None = None  # head of the pretrained model to start from; RANDOM for a new fitting net
    atomic_energies: dict[str, float] = field(default_factory=dict)  # eV: energy biases that are not fitted
    aliases: tuple[str, ...] = ()  # other names
    info: dict[str, Any] = field(default_factory=dict)  # what the model's file says of the head
    section: str = "model"  # path of the model section, for messages


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam, AdamW with decoupled weight decay, or Muon for matrices (and Adam for the rest)."""

    type: Literal["adam", "adamw", "muon"] = "adam"
    betas: tuple[float, ...] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None  # largest norm of the gradient
    ema: float | None = None  # decay of a running mean of all parameters, close to one


@dataclass(frozen=True)
class OutputConfig:
    """Where results go, and how often; in steps."""

    checkpoint: str = "model.pt"
    save_every: int = 1000
    keep: int = 0  # numbered copies besides the last one
    log: str = "log.csv"
    log_every: int = 100
    validate_every: int = 1000
    tensorboard: str | None = None  # folder
    best: str | None = None  # file of the model with the lowest error of all validations so far
    best_metric: Metric = "forces_rmse"  # that error; the mean over heads with such labels

    def __post_init__(self) -> None:
        for name in ("save_every", "log_every", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"output.{name} should be at least 1, found {getattr(self, name)}")
        if self.best is not None and Path(self.best) == Path(self.checkpoint):
            raise ValueError(f"output.best and output.checkpoint are both {self.best}; give another name to one")


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training."""

    heads: dict[str, HeadConfig]
    steps: int
    epochs: dict[str, float] = field(default_factory=dict)  # of every head, instead of steps and probabilities
    sharing: tuple[Sharing, ...] = ()
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    freeze: tuple[str, ...] = ()  # beginnings of parameter names, such as descriptor or descriptor.repinit
    change_bias: bool = False  # at the end, fit the energies of atoms to what the trained model misses
    derivatives: Derivatives = "auto"  # of the loss; difference: fast, with compiled kernels (see training.difference)
    seed: int = 0
    output: OutputConfig = field(default_factory=OutputConfig)
    validations: tuple[BestConfig, ...] = ()  # over all frames, beside those of the log

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of every head, their sum is one."""
        total = sum(head.probability for head in self.heads.values())
        return {name: head.probability / total for name, head in self.heads.items()}
