r"""What a model takes from the data before the first step: environment statistics and energy biases.

Of the environment rows :math:`(s, a_x, a_y, a_z)` of all slots of the neighbor lists of atoms of type t, empty ones
counted as zeros,

.. math:: \mu_t = (\langle s \rangle, 0, 0, 0), \quad
    \sigma_t = (\sqrt{\langle s^2 \rangle - \langle s \rangle^2}, \sigma_a, \sigma_a, \sigma_a)

with :math:`\sigma_a` over the three angular columns together; no less than 0.01, and 0.1 for types that do not occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..graph import AtomicGraph, neighborhood
from ..model import Potential
from ..nn.atomic_models import StandardModel
from ..nn.environment import Environment
from ..nn.repformer import Repformer
from ..nn.se_atten import SeAtten
from ..nn.three_body import ThreeBody
from .biases import fit_biases
from .frameset import FrameSet
from .heads import Heads

SMALLEST_STD = 0.01
ABSENT_STD = 0.1
MAX_FRAMES = 2000  # of one head, for the statistics
FRAMES_AT_ONCE = 8


def _blocks(potential: Potential) -> list[SeAtten | ThreeBody | Repformer]:
    return [m for m in potential.modules() if isinstance(m, SeAtten | ThreeBody | Repformer)]


class EnvironmentSums:
    """Sums over slots for every block of one descriptor."""

    def __init__(self, potential: Potential) -> None:
        self.blocks = _blocks(potential)
        n_types = len(potential.type_map)
        # per type: slots, sum of s, of s², of the angular entries and of their squares
        self.sums = [torch.zeros(n_types, 5, dtype=torch.float64) for _ in self.blocks]
        self.prune = potential.model.exclusions.prune if isinstance(potential.model, StandardModel) else _same

    def add(self, graph: AtomicGraph, weight: float = 1.0) -> None:
        """Count the structures of a graph."""
        graph = self.prune(graph)
        for block, sums in zip(self.blocks, self.sums, strict=True):
            config = block.config
            hood = neighborhood(graph, config.rcut, config.nsel, block.excluded)
            rows = _raw_rows(block.environment, hood.graph)  # (E, 4)
            angular = rows[:, 1:]
            columns = [rows[:, 0], rows[:, 0] ** 2, angular.sum(1) / 3, (angular**2).sum(1) / 3]
            types = graph.types[hood.graph.center]
            slots = torch.bincount(graph.types, minlength=len(sums)).double() * config.nsel
            found = torch.zeros(len(sums), 4, dtype=torch.float64, device=rows.device)
            found.index_add_(0, types, torch.stack(columns, dim=1))
            sums += weight * torch.cat([slots[:, None].to(found), found], dim=1).cpu()

    def apply(self, mean_is_zero: Mapping[type[nn.Module], bool]) -> None:
        """Write mean and standard deviation into the blocks."""
        for block, sums in zip(self.blocks, self.sums, strict=True):
            count = sums[:, :1].clamp_min(1)
            s, s2, a, a2 = (sums[:, 1:] / count).unbind(1)
            radial = (s2 - s**2).clamp_min(0).sqrt().clamp_min(SMALLEST_STD)
            angle = (a2 - a**2).clamp_min(0).sqrt().clamp_min(SMALLEST_STD)
            occurs = sums[:, 0] > 0
            std = torch.stack([radial, angle, angle, angle], dim=1)
            std = torch.where(occurs[:, None], std, torch.full_like(std, ABSENT_STD))
            mean = torch.zeros_like(std)
            if not mean_is_zero.get(type(block), True):
                mean[:, 0] = torch.where(occurs, s, torch.zeros_like(s))
            environment = block.environment
            environment.std.copy_(std)
            environment.mean.copy_(mean)


def _same(graph: AtomicGraph) -> AtomicGraph:
    return graph


def _raw_rows(environment: Environment, graph: AtomicGraph) -> Tensor:
    """Environment rows before normalization, (E, 4), from the normalized ones."""
    types = graph.types[graph.center]
    rows = environment(graph).env.double()
    return rows * environment.std[types].double() + environment.mean[types].double()


def _reset(potential: Potential) -> None:
    for block in _blocks(potential):
        block.environment.std.fill_(1.0)
        block.environment.mean.zero_()


def sample(frames: FrameSet, seed: int, limit: int = MAX_FRAMES) -> list[int]:
    """Numbers of at most `limit` frames, the same for the same seed, in ascending order."""
    if len(frames) <= limit:
        return list(range(len(frames)))
    return sorted(np.random.default_rng(seed).permutation(len(frames))[:limit].tolist())


def set_environment_statistics(
    heads: Heads,
    data: Mapping[str, FrameSet],
    probabilities: Mapping[str, float],
    mean_is_zero: Mapping[type[nn.Module], bool],
    seed: int,
) -> None:
    """Fill mean and standard deviation of all descriptors; heads that share one are pooled by their probabilities."""
    for group in heads.shared_descriptors():
        sums = EnvironmentSums(heads[group[0]])
        _reset(heads[group[0]])
        for name in group:
            frames = data[name]
            chosen = sample(frames, seed)
            weight = probabilities[name] / len(chosen) if len(group) > 1 else 1.0
            for start in range(0, len(chosen), FRAMES_AT_ONCE):
                sums.add(frames.batch(chosen[start : start + FRAMES_AT_ONCE]).graph, weight)
        sums.apply(mean_is_zero)


def energy_bias(potential: Potential) -> np.ndarray:
    """Energy of every type beside the net's, (T,), eV."""
    return potential.model.get_buffer("out_bias")[:, 0].cpu().numpy().copy()


def write_energy_bias(potential: Potential, bias: np.ndarray) -> None:
    """Replace the energies of the types."""
    potential.model.get_buffer("out_bias").copy_(torch.from_numpy(bias)[:, None])


def set_energy_bias(
    potential: Potential, frames: FrameSet, seed: int, known: Mapping[str, float] | None = None
) -> None:
    """Fit the bias of every type to the energies of the data.

    Parameters
    ----------
    known
        Energies of elements that are not fitted, eV, such as those of isolated atoms. Types that neither occur in the
        data nor are known get zero, as in DeePMD-kit.
    """
    names = potential.type_map
    unknown = sorted(set(known or ()) - set(names))
    if unknown:
        raise ValueError(f"energies of atoms are given for {unknown}, which are not in the type map {list(names)}")
    bias = np.array([(known or {}).get(name, 0.0) for name in names], dtype=float)
    chosen = [i for i in sample(frames, seed) if frames.frames[i].energy is not None]
    if chosen:
        counts = frames.counts(chosen)
        rest = np.array([frames.frames[i].energy for i in chosen], dtype=float) - counts @ bias
        counts[:, [name in (known or {}) for name in names]] = 0
        bias += fit_biases(counts, rest, around_mean=True)
    write_energy_bias(potential, bias)


def change_energy_bias(potential: Potential, frames: FrameSet, seed: int, limit: int = 200) -> None:
    """Shift the bias by a fit to the errors of the model's energies; for a model that meets another level of theory.

    The errors are those of an atom: large structures, which miss more in all, do not count for more. Elements that do
    not occur in `frames` keep their bias.
    """
    counts, missed = _missed_energies(potential, frames, seed, limit)
    if len(missed):
        n_atoms = counts.sum(axis=1)
        shift = fit_biases(counts / n_atoms[:, None], missed / n_atoms)
        write_energy_bias(potential, energy_bias(potential) + shift)


def energy_error(potential: Potential, frames: FrameSet, seed: int, limit: int = 200) -> float:
    """Root mean square error of energies, eV/atom."""
    counts, missed = _missed_energies(potential, frames, seed, limit)
    return float(np.sqrt(np.mean((missed / counts.sum(axis=1)) ** 2)))


def _missed_energies(potential: Potential, frames: FrameSet, seed: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of atoms (F, T) and errors of the model's energies (F,), eV, of frames that have one."""
    chosen = [i for i in sample(frames, seed, limit) if frames.frames[i].energy is not None]
    predicted: list[float] = []
    for part in _parts(chosen):
        batch = frames.batch(part, potential.model.get_buffer("out_bias").device)
        with torch.no_grad():
            predicted += potential(batch.graph, batch.fparam, batch.aparam).tolist()
    energies = np.array([frames.frames[i].energy for i in chosen], dtype=float)
    return frames.counts(chosen), energies - np.array(predicted)


def _parts(indices: Sequence[int]) -> Iterable[Sequence[int]]:
    return (indices[start : start + FRAMES_AT_ONCE] for start in range(0, len(indices), FRAMES_AT_ONCE))
