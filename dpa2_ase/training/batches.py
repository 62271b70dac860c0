"""Batches of a head: from frames of all systems or, where every system has a size of its own, from one system each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .sampling import BatchSize, Sampler, SystemSampler, fixed_batches

if TYPE_CHECKING:
    from .configuration import DataConfig
    from .head_data import HeadData


def sampler_of(data: HeadData, config: DataConfig, seed: int) -> Sampler | SystemSampler:
    """What draws the frames to train on."""
    if isinstance(config.batch, BatchSize):
        return Sampler(data.train.n_atoms, config.batch, seed, data.weights)
    probabilities = system_probabilities(config, batch_counts(data, config))
    return SystemSampler(_systems(data), config.batch, seed, probabilities)


def batch_counts(data: HeadData, config: DataConfig) -> np.ndarray:
    """Batches to train on in every system."""
    frames, systems = data.train.n_atoms, _systems(data)
    groups = [frames[systems == system] for system in range(systems.max() + 1)]
    return np.array([len(fixed_batches(g, config.batch.of_system(s), 0, None)) for s, g in enumerate(groups)])


def _systems(data: HeadData) -> np.ndarray:
    return np.zeros(len(data.train), dtype=np.int64) if data.systems is None else data.systems


def system_probabilities(config: DataConfig, counts: np.ndarray) -> np.ndarray:
    """Probability of every system with so many batches; where nothing else is said, in proportion to them.

    Raises
    ------
    ValueError
        If all systems that are to be drawn are empty.
    """
    weights = np.zeros(len(counts))
    if config.system_weights == "frames":
        weights += counts
    elif config.system_weights == "equal":
        weights += counts > 0
    else:
        for first, last, weight in config.system_weights:
            block = counts[first:last]
            weights[first:last] = weight * block / max(block.sum(), 1)
    if not weights.any():
        raise ValueError(f"{config.places[0]}: no system with frames has a probability above zero")
    return weights / weights.sum()


def validation_batches(data: HeadData, config: DataConfig, seed: int, *, every_frame: bool = False) -> list[list[int]]:
    """Batches of validation frames, the same every time; as many as the settings ask for, or of all frames."""
    if data.valid is None:
        return []
    frames, size = data.valid.n_atoms, config.valid_batch
    count = None if every_frame else config.valid_batches
    if isinstance(size, BatchSize):
        return fixed_batches(frames, size, seed, count)
    batches = []
    for system in range(len(size.frames)):
        group = np.flatnonzero(data.valid_systems == system)
        batches += [group[batch].tolist() for batch in fixed_batches(frames[group], size.of_system(system), seed, None)]
    order = np.random.default_rng(seed).permutation(len(batches))
    return [batches[number] for number in order[:count]]
