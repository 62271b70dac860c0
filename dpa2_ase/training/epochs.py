r"""Trainings that are told a number of epochs: how many steps that is, as DeePMD-kit counts.

.. math:: n_{epoch} = \Big\lceil \max_s \frac{b_s}{p_s} \Big\rceil

with :math:`b_s` batches in system s, which is drawn with probability :math:`p_s`: after so many steps every system has
been seen as a whole, on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .configuration import DataConfig, TrainingConfig
from .head_data import HeadData
from .sampling import fixed_batches


def with_steps(config: TrainingConfig, data: Mapping[str, HeadData]) -> TrainingConfig:
    """The settings with the number of steps, and the probabilities of heads, that their epochs ask for.

    Every head is drawn as often as its own epochs take.
    """
    if not config.epochs:
        return config
    shares = {name: count * epoch_length(data[name], config.heads[name].data) for name, count in config.epochs.items()}
    heads = {name: replace(head, probability=shares[name]) for name, head in config.heads.items()}
    return replace(config, heads=heads, steps=math.ceil(sum(shares.values())))


def epoch_length(data: HeadData, config: DataConfig) -> int:
    """Steps of one epoch of a head."""
    frames = data.train.n_atoms
    systems = np.zeros(len(frames), dtype=np.int64) if data.systems is None else data.systems
    found = np.unique(systems)
    batches = np.array([len(fixed_batches(frames[systems == s], config.batch, 0, None)) for s in found], dtype=float)
    weights = _weights(config, found, batches)
    drawn = weights > 0
    return math.ceil((batches[drawn] / (weights[drawn] / weights.sum())).max() - 1e-9)  # 9 / 0.3 is a little above 30


def _weights(config: DataConfig, systems: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Probability of every system up to a factor; where nothing else is said, that of its batches."""
    if config.system_weights == "frames":
        return batches
    if config.system_weights == "equal":
        return np.ones_like(batches)
    weights = np.zeros_like(batches)
    for first, last, weight in config.system_weights:
        block = (systems >= first) & (systems < last)
        weights[block] = weight * batches[block] / batches[block].sum()
    return weights
