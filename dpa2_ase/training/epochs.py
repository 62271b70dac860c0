r"""Trainings that are told a number of epochs: how many steps that is, as DeePMD-kit counts.

.. math:: n_{epoch} = \Big\lceil \max_s \frac{b_s}{p_s} \Big\rceil

with :math:`b_s` batches in system s, which is drawn with probability :math:`p_s`: after so many steps every system has
been seen as a whole, on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from .batches import batch_counts, system_probabilities
from .configuration import DataConfig, TrainingConfig
from .head_data import HeadData


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
    counts = batch_counts(data, config)
    probabilities = system_probabilities(config, counts)
    drawn = probabilities > 0
    return math.ceil((counts[drawn] / probabilities[drawn]).max() - 1e-9)  # 9 / 0.3 is a little above 30
