r"""Learning rates over the steps of a training, as DeePMD-kit defines them.

======================  ===============================================================================================
``exp``                 :math:`\eta_0 d^{\lfloor t / n \rfloor}` down to :math:`\eta_1`, reached at the last step
``cosine``              :math:`\eta_1 + (\eta_0 - \eta_1)(1 + \cos \pi\tau) / 2`
``wsd``                 constant, then a decay over the last part of the training
======================  ===============================================================================================

Before, the rate rises linearly during a warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LearningRateConfig:
    """A schedule; rates per step of the optimizer."""

    schedule: Literal["exp", "cosine", "wsd"] = "exp"
    start: float = 1e-3
    stop: float = 1e-6
    decay_steps: int = 5000  # exp: the rate falls every so many steps
    decay_rate: float | None = None  # exp: factor of one fall, instead of the one that ends at `stop`
    smooth: bool = False  # exp: fall a little in every step
    decay_part: float = 0.1  # wsd: part of all steps
    decay: Literal["inverse_linear", "cosine", "linear"] = "inverse_linear"  # wsd
    warmup: int = 0  # steps
    warmup_part: float | None = None  # of all steps, instead of `warmup`
    warmup_start: float = 0.0  # of `start`
    parts: dict[str, float] = field(default_factory=dict)  # factor of parameters whose name begins so; 0 freezes them


def learning_rate(config: LearningRateConfig, step: int, n_steps: int) -> float:
    """The rate of step `step` (from zero) of `n_steps`."""
    warmup = config.warmup if config.warmup_part is None else int(config.warmup_part * n_steps)
    if step < warmup:
        return config.start * (config.warmup_start + (1 - config.warmup_start) * step / warmup)
    now, length = step - warmup, max(n_steps - warmup, 1)
    if config.schedule == "exp":
        return _exponential(config, now, length)
    if config.schedule == "cosine":
        return _between(config, min(now / length, 1.0), "cosine")
    decay = max(int(config.decay_part * n_steps), 1)
    return _between(config, min(max(step - (n_steps - decay), 0) / decay, 1.0), config.decay)


def _exponential(config: LearningRateConfig, now: int, length: int) -> float:
    every, rate = config.decay_steps, config.decay_rate
    if rate is None:
        if every >= length:  # as DeePMD-kit: a fall every percent, at most every 100 steps
            every = 100 if length // 10 > 100 else length // 100 + 1
        rate = (config.stop / config.start) ** (every / length)
    power = now / every if config.smooth else now // every
    return max(config.start * rate**power, config.stop)


def _between(config: LearningRateConfig, part: float, shape: str) -> float:
    """From `start` (part = 0) to `stop` (part = 1)."""
    start, stop = config.start, config.stop
    if shape == "cosine":
        return stop + (start - stop) / 2 * (1 + math.cos(math.pi * part))
    if shape == "linear":
        return start + (stop - start) * part
    return 1 / (part / stop + (1 - part) / start)
