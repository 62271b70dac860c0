"""Which frames make the next batch: shuffled, reproducible, and described by a few whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

DEFAULT_ATOMS = 32  # DeePMD-kit's meaning of "auto"
Kind = Literal["frames", "auto", "max", "filter"]
_KINDS: dict[str, Kind] = {"auto": "auto", "max": "max", "filter": "filter", "mix": "max", "mixed": "frames"}


@dataclass(frozen=True)
class BatchSize:
    """How many frames a batch takes.

    ``frames``: so many frames. ``auto``: until there are at least so many atoms. ``max``: while there are no more than
    so many atoms, one frame at least. ``filter``: the same, and no frame of more atoms takes part.
    """

    kind: Kind
    size: int

    @property
    def is_limit(self) -> bool:
        """Whether `size` is a number of atoms that no batch of several frames exceeds."""
        return self.kind in ("max", "filter")

    def of_system(self, system: int) -> BatchSize:
        """The same for every system."""
        return self


@dataclass(frozen=True)
class SystemSizes:
    """How many frames a batch takes where each comes from one system: `frames` of every system."""

    frames: tuple[int, ...]

    def of_system(self, system: int) -> BatchSize:
        """Size of the batches of a system."""
        return BatchSize("frames", self.frames[system])


def parse_batch_size(value: str | int, path: str = "batch") -> BatchSize:
    """Read ``8``, ``auto``, ``auto:N``, ``max:N`` (also ``mix:N``), ``filter:N`` (N atoms) or ``mixed:N`` (N frames).

    Raises
    ------
    ValueError
        For anything else; the message begins with `path`.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return BatchSize("frames", value)
    kind, _, number = str(value).partition(":")
    if kind in _KINDS and (number.isdigit() or (kind == "auto" and not number)):
        size = int(number or DEFAULT_ATOMS)
        if size > 0:
            return BatchSize(_KINDS[kind], size)
    raise ValueError(f"{path} {value!r} is not a number of frames, auto, auto:N, max:N, filter:N or mixed:N")


class Sampler:
    """An endless stream of batches of frame numbers.

    In every epoch frames come in a new random order that follows from `seed` and the number of the epoch alone; with
    `weights` they are drawn with replacement instead. `state` is all there is to continue with.

    Parameters
    ----------
    n_atoms
        Atoms of every frame.
    size
        Of a batch.
    weights
        Probability of every frame, up to a factor.
    """

    def __init__(
        self, n_atoms: Sequence[int] | np.ndarray, size: BatchSize, seed: int, weights: np.ndarray | None = None
    ) -> None:
        if not len(n_atoms):
            raise ValueError("there are no frames to draw from")
        self.n_atoms, self.size, self.seed = np.asarray(n_atoms), size, seed
        self.weights = None if weights is None else np.asarray(weights, dtype=float) / np.sum(weights)
        self.state: tuple[int, ...] = (0, 0)
        self._order = self._shuffled(0)

    def _shuffled(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, epoch))
        count = len(self.n_atoms)
        return random.permutation(count) if self.weights is None else random.choice(count, count, p=self.weights)

    def restore(self, state: Sequence[int]) -> None:
        """Continue from a stored `state`."""
        self.state = (int(state[0]), int(state[1]))
        self._order = self._shuffled(self.state[0])

    def __next__(self) -> list[int]:
        chosen: list[int] = []
        atoms = 0
        while True:
            epoch, position = self.state
            if position == len(self._order):
                self.restore((epoch + 1, 0))
                continue
            index = int(self._order[position])
            after = atoms + int(self.n_atoms[index])
            if chosen and self.size.is_limit and after > self.size.size:
                return chosen
            chosen.append(index)
            atoms = after
            self.state = (epoch, position + 1)
            if (self.size.kind == "frames" and len(chosen) == self.size.size) or (
                self.size.kind == "auto" and atoms >= self.size.size
            ):
                return chosen


class SystemSampler:
    """An endless stream of batches of frame numbers, each of one system, as DeePMD-kit draws them.

    A system is drawn with its probability and gives its next frames. They come in a new random order in every pass over
    the system, and the last batch of a pass has what is left. All of it follows from `seed` and `state`, which is the
    number of batches so far and, after it, that of every system.

    Parameters
    ----------
    systems
        Number of the system of every frame.
    sizes
        Frames in a batch of every system.
    probabilities
        Of the systems; zero where there are no frames.
    """

    def __init__(self, systems: np.ndarray, sizes: SystemSizes, seed: int, probabilities: np.ndarray) -> None:
        self.frames = [np.flatnonzero(systems == system) for system in range(len(probabilities))]
        self.sizes, self.seed, self.probabilities = sizes.frames, seed, probabilities
        self.state: tuple[int, ...] = (0,) * (1 + len(self.frames))

    def restore(self, state: Sequence[int]) -> None:
        """Continue from a stored `state`."""
        self.state = tuple(int(number) for number in state)

    def __next__(self) -> list[int]:
        drawn, *counts = self.state
        random = np.random.default_rng((self.seed, 0, drawn))
        system = int(random.choice(len(counts), p=self.probabilities))
        batch = self._batch(system, counts[system])
        counts[system] += 1
        self.state = (drawn + 1, *counts)
        return batch

    def _batch(self, system: int, number: int) -> list[int]:
        frames, size = self.frames[system], self.sizes[system]
        epoch, position = divmod(number, math.ceil(len(frames) / size))
        order = np.random.default_rng((self.seed, 1 + system, epoch)).permutation(frames)
        return order[position * size : (position + 1) * size].tolist()


def fixed_batches(
    n_atoms: Sequence[int] | np.ndarray, size: BatchSize, seed: int, count: int | None
) -> list[list[int]]:
    """`count` batches of different frames that are the same every time; all frames if ``None``."""
    order = np.random.default_rng(seed).permutation(len(n_atoms))
    batches: list[list[int]] = []
    atoms = 0
    for index in order.tolist():
        full = bool(batches) and (
            (size.kind == "frames" and len(batches[-1]) >= size.size)
            or (size.kind == "auto" and atoms >= size.size)
            or (size.is_limit and atoms + n_atoms[index] > size.size)
        )
        if full or not batches:
            if count is not None and len(batches) == count:
                break
            batches.append([])
            atoms = 0
        batches[-1].append(index)
        atoms += int(n_atoms[index])
    return batches
