"""The best models of a training so far, by their errors on validation frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .batches import validation_batches
from .logbook import Logbook
from .metrics import QUANTITIES, Errors
from .model_files import write_model
from .schedules import learning_rate

if TYPE_CHECKING:
    from .configuration import TrainingConfig
    from .head_data import HeadData
    from .trainer import Trainer

Metric = Literal["energy_rmse", "energy_mae", "forces_rmse", "forces_mae", "virial_rmse", "virial_mae"]
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "virial": "eV/atom"}


@dataclass(frozen=True)
class BestConfig:
    """By which error models are compared, when, and where the best ones go."""

    file: str | None  # {step} and {rank} are filled in; None keeps no model
    metric: Metric = "forces_rmse"
    count: int = 1  # models to keep; several need {step} in `file`
    every: int | None = None  # steps between validations over all frames; None for the validations of the log
    start: float = 0.0  # first step of such validations; below one, a part of all steps
    log: str | None = None  # CSV file of their errors
    mean: bool = True  # running means of the parameters, where there are such
    place: str = "output.best_metric"  # path of `metric` in the settings, for messages


class BestModels:
    """Everything that keeps best models in a training.

    Raises
    ------
    ValueError
        If no validation frame has the label that a metric is about.
    """

    def __init__(self, config: TrainingConfig, data: Mapping[str, HeadData]) -> None:
        rules = list(config.validations)
        if config.output.best is not None:
            rules.insert(0, BestConfig(config.output.best, config.output.best_metric))
        self.parts = [Best(rule, _measured_heads(rule, config, data)) for rule in rules]

    def open(self, trainer: Trainer) -> None:
        """Prepare files for a run."""
        for part in self.parts if trainer.processes.is_first else ():
            part.open(trainer)

    def close(self) -> None:
        """Finish logs."""
        for part in self.parts:
            part.close()

    def after_step(self, trainer: Trainer, errors: Mapping[str, Errors], tell: Callable[[str], None]) -> None:
        """Validate where this is due, and keep the model if it is one of the best.

        Parameters
        ----------
        errors
            What the validation of the log found at this step, by head; empty where there was none.
        tell
            Takes a line of text for the user.
        """
        for part in self.parts if trainer.processes.is_first else ():
            part.after_step(trainer, errors, tell)

    def state(self) -> list[dict[str, Any]]:
        """What was found, as plain values."""
        return [part.state() for part in self.parts]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from stored states."""
        for part in self.parts:
            part.restore(states)


def _measured_heads(rule: BestConfig, config: TrainingConfig, data: Mapping[str, HeadData]) -> list[str]:
    """Heads with the label among the frames that are validated."""
    label, found = rule.metric.partition("_")[0], []
    for name, head in config.heads.items():
        frames = data[name].valid
        if frames is not None:
            drawn = validation_batches(data[name], head.data, config.seed, every_frame=bool(rule.every))
            labels = [getattr(frames.frames[index], label) for batch in drawn for index in batch]
            if any(values is not None and np.isfinite(values).any() for values in labels):
                found.append(name)
    if not found and rule.file is not None:
        places = " or ".join(dict.fromkeys(head.data.places[1] for head in config.heads.values()))
        raise ValueError(
            f"{rule.place} is {rule.metric}, and no validation frame has {label}: give such frames in {places}, or "
            "choose another metric"
        )
    return found


class Best:
    """The best models found so far.

    Parameters
    ----------
    config
        How they are compared and kept.
    heads
        The mean of the errors of these heads is compared.
    """

    def __init__(self, config: BestConfig, heads: Sequence[str]) -> None:
        self.config, self.heads = config, tuple(heads)
        self.found: list[tuple[float, int]] = []  # error and step of the models kept, best first
        self._log: Logbook | None = None

    def open(self, trainer: Trainer) -> None:
        """Prepare files for a run."""
        if self.config.file is not None:
            Path(self.config.file).parent.mkdir(parents=True, exist_ok=True)
        if self.config.log is not None:
            kinds = [f"{quantity}_{kind}" for quantity in QUANTITIES for kind in ("rmse", "mae")]
            names = [f"{head}/valid/{kind}" for head in trainer.heads.names for kind in kinds]
            self._log = Logbook(Path(self.config.log), names, trainer.step_number)

    def close(self) -> None:
        """Finish the log."""
        if self._log is not None:
            self._log.close()

    def after_step(self, trainer: Trainer, errors: Mapping[str, Errors], tell: Callable[[str], None]) -> None:
        """Validate if this is due, and keep the model if it is one of the best; see `BestModels.after_step`."""
        if self.config.every is not None:
            errors = self._validate(trainer) if self._is_due(trainer) else {}
        value = self._value(errors)
        if value is not None and self._keep(trainer, value, errors):
            tell(f"step {trainer.step_number}: lowest {self.config.metric} so far, {self._text()}")
        if trainer.step_number == trainer.config.steps and self.found:
            tell(f"best model, of step {self.found[0][1]}: {self.config.metric} {self._text()}")

    def _text(self) -> str:
        value, step = self.found[0]
        return f"{value:.5g} {UNITS[self.config.metric.partition('_')[0]]}, in {self._path(step, 1)}"

    def _is_due(self, trainer: Trainer) -> bool:
        step, start = trainer.step_number, self.config.start
        first = int(start * trainer.config.steps) if start < 1 else int(start)
        return step >= first and step % (self.config.every or 1) == 0

    def _validate(self, trainer: Trainer) -> dict[str, Errors]:
        errors = trainer.errors(every_frame=True, mean=self.config.mean)
        if self._log is not None:
            step = trainer.step_number
            rate = learning_rate(trainer.config.learning_rate, step - 1, trainer.config.steps)
            tables = {name: found.table() for name, found in errors.items()}
            values = {f"{name}/valid/{key}": value for name, table in tables.items() for key, value in table.items()}
            self._log.write(step, {"learning_rate": rate, **values})
        return errors

    def _value(self, errors: Mapping[str, Errors]) -> float | None:
        """Mean of the metric over heads; ``None`` where nothing is to be kept, or a head has no finite errors."""
        if not errors or self.config.file is None:
            return None
        values = [errors[name].table().get(self.config.metric, math.nan) for name in self.heads]
        value = math.fsum(values) / len(values)
        return value if math.isfinite(value) else None

    # ---- files -------------------------------------------------------------------------------------------------------

    def _keep(self, trainer: Trainer, value: float, errors: Mapping[str, Errors]) -> bool:
        """Write the model if it is one of the best; whether it is the very best."""
        done, before = trainer.step_number, self.found
        found = sorted([*before, (value, done)])[: self.config.count]
        if (value, done) not in found:
            return False
        path = self._path(done, found.index((value, done)) + 1)
        info = {"step": done, "selected_by": self.config.metric}
        with trainer.averaged(mean=self.config.mean):
            tables = {head: {"validation": {**info, **of_head.table()}} for head, of_head in errors.items()}
            write_model(trainer, path, info=tables)
        self.found = found
        ranks = {step: rank for rank, (_, step) in enumerate(found, 1)}
        for step in {step for _, step in before} | {done}:
            for file in self._files(step):
                if file != path and (step not in ranks or step == done):
                    file.unlink()
                elif file != path:
                    file.replace(self._path(step, ranks[step]))
        return found[0][1] == done

    def _path(self, step: int | str, rank: int | str) -> Path:
        return Path(str(self.config.file).replace("{step}", str(step)).replace("{rank}", str(rank)))

    def _files(self, step: int) -> list[Path]:
        """Files of the model of a step, of whatever rank."""
        path = self._path(step, "{rank}")
        return list(path.parent.glob(escape(path.name).replace("{rank}", "*")))

    # ---- to go on with -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What was found, as plain values."""
        return {"file": self.config.file, "metric": self.config.metric, "found": [list(entry) for entry in self.found]}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from stored states: that of the same file and metric, with the models that are still there."""
        for state in states:
            if (state["file"], state["metric"]) == (self.config.file, self.config.metric):
                found = [(float(value), int(step)) for value, step in state["found"]]
                self.found = [(value, step) for value, step in found if self._files(step)]
