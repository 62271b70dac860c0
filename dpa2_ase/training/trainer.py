"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import derivatives
from ..kernels.training import TrainableTwin, trainable_obstacle
from ..model import Potential, Prediction, differentiable
from .averages import Exchange
from .batches import sampler_of, validation_batches
from .best import BestModels
from .configuration import TrainingConfig
from .difference import STEP, add_gradients, is_truncated, leaves, obstacle
from .distributed import Processes
from .frameset import Batch
from .head_data import HeadData
from .heads import Heads, check_parts, trainable_parameters
from .logbook import Display, Logbook
from .loss import LossConfig, loss_terms, total_loss
from .metrics import Errors
from .model_files import write_model
from .optimizers import ScaledOptimizer
from .progress import Progress
from .schedules import learning_rate
from .state import KEY, TrainingState, keep_newest
from .statistics import change_energy_bias
from .stopping import stop_requests


def predict(potential: Potential, batch: Batch, *, gradient: bool, training: bool) -> Prediction:
    """Energies and, if `gradient`, forces and virials of a batch; differentiable by the parameters in a training."""
    graph = differentiable(batch.graph) if gradient else batch.graph
    with torch.set_grad_enabled(gradient or training):
        atomic = potential.atomic(graph, batch.fparam, batch.aparam)
        energy = potential.total(atomic, graph)
        if not gradient:
            return Prediction(energy=energy, atomic_energies=atomic)
        edge = derivatives.edge_gradient(energy, graph, create_graph=training)
        return Prediction(
            energy=energy,
            atomic_energies=atomic,
            forces=derivatives.forces(edge, graph),
            virial=derivatives.virial(edge, graph),
        )


class Trainer:
    """A training that can be advanced, stored and continued.

    Parameters
    ----------
    config
        The settings.
    heads, data
        Models with statistics filled in, and frames, by head.
    device
        Where to compute.
    processes
        Others that take part.
    """

    def __init__(
        self,
        config: TrainingConfig,
        heads: Heads,
        data: Mapping[str, HeadData],
        device: torch.device | str = "cpu",
        processes: Processes | None = None,
    ) -> None:
        self.config, self.heads, self.data = config, heads.to(device), dict(data)
        self.device, self.processes = torch.device(device), processes or Processes()
        rates = config.learning_rate.parts
        frozen = [*config.freeze, *(part for part, factor in rates.items() if factor == 0)]
        check_parts(self.heads, rates)
        self.parameters = trainable_parameters(self.heads, frozen)
        self.optimizer = ScaledOptimizer(config.optimizer, self.parameters, config.learning_rate.start, rates)
        self.samplers = {
            name: sampler_of(d, config.heads[name].data, config.seed + number)
            for number, (name, d) in enumerate(data.items())
        }
        decay = config.optimizer.ema
        self.ema = {} if decay is None else {n: p.detach().clone() for n, p in self.parameters.items()}
        self._twins: dict[str, TrainableTwin | None] = {}
        self.step_number = 0
        self.progress = Progress(heads.names)
        self.best = BestModels(config, data)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Draw a head and a batch, and improve the parameters; returns the loss."""
        config = self.config
        rate = learning_rate(config.learning_rate, self.step_number, config.steps)
        head = self._draw_head()
        drawn = [next(self.samplers[head]) for _ in range(self.processes.count)]
        batch = self.data[head].train.batch(drawn[self.processes.rank], self.device)
        loss = self.gradients(head, batch, rate / config.learning_rate.start)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.step_number} (head {head!r}); lower learning_rate.start, set "
                "optimizer.clip, or look for broken frames with the checks of the data"
            )
        self.optimizer.step(rate)
        self._update_ema()
        self.step_number += 1
        return loss

    def gradients(self, head: str, batch: Batch, ratio: float) -> float:
        """Set the gradients of the parameters by the loss of a batch; returns the loss.

        `ratio` is the learning rate over the first one.
        """
        loss_config = self.config.heads[head].loss
        self.optimizer.torch.zero_grad(set_to_none=True)
        twin = self._twin(head, batch)
        if twin is None:
            prediction = predict(self.heads[head], batch, gradient=loss_config.needs_gradient, training=True)
        else:
            prediction = leaves(predict(twin.by_geometry, batch, gradient=True, training=False))
        loss = self._loss(loss_config, prediction, batch, ratio)
        loss.backward()
        if twin is not None:
            add_gradients(twin.by_parameters, batch, prediction, STEP[twin.dtype])
        self.processes.sum_gradients(self.parameters.values())
        value = float(self.processes.total(loss.detach()))
        self.progress.add(head, value, prediction, batch)
        return value

    def _twin(self, head: str, batch: Batch) -> TrainableTwin | None:
        """What computes this batch faster than the reference, if anything does."""
        wanted, potential = self.config.derivatives, self.heads[head]
        if wanted == "exact" or not self.config.heads[head].loss.needs_gradient:
            return None
        if head not in self._twins:
            reason = obstacle(potential) or trainable_obstacle(potential)
            if reason is not None and wanted == "difference":
                raise ValueError(f"derivatives: difference does not work for head {head!r}: {reason}")
            self._twins[head] = None if reason else TrainableTwin(potential)
        twin = self._twins[head]
        return None if twin is None or is_truncated(potential, batch) else twin

    def _loss(self, config: LossConfig, prediction: Prediction, batch: Batch, ratio: float) -> Tensor:
        terms = loss_terms(config, prediction, batch, ratio)
        counts = self.processes.total(torch.stack([term.count for term in terms])) if terms else torch.zeros(1)
        if not bool(counts.any()):
            raise ValueError("no frame of a batch has a label the loss asks for; check the prefactors and the data")
        return total_loss(terms, counts)

    def _draw_head(self) -> str:
        probabilities = self.config.probabilities
        random = np.random.default_rng((self.config.seed, self.step_number))
        return self.heads.names[random.choice(len(self.heads.names), p=[probabilities[n] for n in self.heads.names])]

    def _update_ema(self) -> None:
        decay = self.config.optimizer.ema
        if decay is not None:
            with torch.no_grad():
                for name, mean in self.ema.items():
                    mean.lerp_(self.parameters[name], 1 - decay)

    # ---- the whole training ------------------------------------------------------------------------------------------

    def run(self, *, quiet: bool = False, until: int | None = None) -> None:
        """Train to the last step (or step `until`), with log, validation and checkpoints on the way.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, when the step is done and stored; the text says how to continue.
        """
        output, last = self.config.output, min(self.config.steps, until or self.config.steps)
        first = self.processes.is_first
        Path(output.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        log = (
            Logbook(Path(output.log), self.progress.columns(), self.step_number, output.tensorboard) if first else None
        )
        self.best.open(self)
        display = Display(self.step_number, self.config.steps, quiet=quiet or not first)
        try:
            with stop_requests() as asked:
                while self.step_number < last:
                    self.step()
                    display.advance()
                    stopped = self.processes.any(asked()) and self.step_number < last
                    self._after_step(log, display, is_last=self.step_number == last, stores=stopped)
                    if stopped:
                        raise KeyboardInterrupt(
                            f"stopped after step {self.step_number}; continue with --restart {output.checkpoint}"
                        )
        finally:
            display.close()
            self.best.close()
            if log is not None:
                log.close()

    def _after_step(self, log: Logbook | None, display: Display, *, is_last: bool, stores: bool) -> None:
        """Report and store what is due."""
        output, done, first = self.config.output, self.step_number, self.processes.is_first
        if self.config.change_bias and done == self.config.steps:
            for name, potential in self.heads.items():
                change_energy_bias(potential, self.data[name].train, self.config.seed)
        validates = is_last or done % output.validate_every == 0
        errors = self.errors() if validates and first else {}
        if validates or done % output.log_every == 0:
            values = self._report(errors)
            if log is not None:
                log.write(done, values)
            display.show(done, values)
        self.best.after_step(self, errors, display.say)
        if first and (is_last or stores or done % output.save_every == 0):
            self.save(Path(output.checkpoint))

    def _report(self, errors: Mapping[str, Errors]) -> dict[str, float]:
        """Errors since the last report, and those of validation frames by head."""
        values = {"learning_rate": learning_rate(self.config.learning_rate, self.step_number - 1, self.config.steps)}
        values |= self.progress.report()
        for name, found in errors.items():
            values |= {f"{name}/valid/{key}": value for key, value in found.table().items()}
        return values

    def errors(self, *, every_frame: bool = False, mean: bool = True) -> dict[str, Errors]:
        """What `validate` finds of every head."""
        return {name: self.validate(name, every_frame=every_frame, mean=mean) for name in self.heads.names}

    def validate(self, head: str, *, every_frame: bool = False, mean: bool = True) -> Errors:
        """Errors of a head on validation frames, of the `mean` parameters if there are such."""
        config, errors = self.config.heads[head].data, Errors()
        frames = self.data[head].valid
        if frames is None:
            return errors
        with self.averaged(mean=mean):
            for indices in validation_batches(self.data[head], config, self.config.seed, every_frame=every_frame):
                batch = frames.batch(indices, self.device)
                has_derivatives = batch.labels.forces is not None or batch.labels.virial is not None
                twin = self._twin(head, batch)
                potential = self.heads[head] if twin is None else twin.by_geometry
                errors.add(predict(potential, batch, gradient=has_derivatives, training=False), batch)
        return errors

    def averaged(self, *, mean: bool = True) -> Exchange:
        """A context in which the parameters are their running means, if such are kept and wanted."""
        return Exchange(self.parameters, self.ema if mean else {})

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the checkpoint, a numbered copy if wanted, and the mean parameters as a model of their own."""
        write_model(self, path, extra={KEY: self.state().table()})
        if self.ema:
            with self.averaged():
                write_model(self, path.with_name(f"{path.stem}-ema{path.suffix}"))
        if self.config.output.keep:
            write_model(self, path.with_name(f"{path.stem}-{self.step_number}{path.suffix}"))
            keep_newest(path, self.config.output.keep)

    def state(self) -> TrainingState:
        """What is needed to continue, beside the parameters."""
        return TrainingState(
            step=self.step_number,
            optimizer=self.optimizer.torch.state_dict(),
            samplers={name: sampler.state for name, sampler in self.samplers.items()},
            random=torch.random.get_rng_state(),
            ema=self.ema,
            progress=self.progress.state(),
            best=self.best.state(),
        )

    def restore(self, state: TrainingState) -> None:
        """Continue from a state; the parameters are those of the same checkpoint already."""
        state.check({name: sampler.state for name, sampler in self.samplers.items()}, self.ema)
        try:
            self.optimizer.torch.load_state_dict(state.optimizer)
        except ValueError as error:
            raise ValueError(f"the checkpoint was trained with other parameters or rates per part ({error})") from error
        self.step_number = state.step
        self.progress.restore(state.progress)
        self.best.restore(state.best)
        torch.random.set_rng_state(state.random)
        for name, sampler in self.samplers.items():
            sampler.restore(state.samplers[name])
        with torch.no_grad():
            for name, mean in self.ema.items():
                mean.copy_(state.ema[name])
