"""From settings to the models a trainer works with: built or loaded, with statistics filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..checkpoint import heads as heads_of_file
from ..checkpoint import load_potential, read_checkpoint
from ..checkpoint.writing import HeadNotes, write_checkpoint
from ..model import Potential
from ..nn.repformer import Repformer
from ..nn.se_atten import SeAtten
from ..nn.three_body import ThreeBody
from .biases import borrow_biases
from .configuration import HeadConfig, TrainingConfig
from .data.files import read_frames
from .data.frames import LabelKeys
from .frameset import FrameSet
from .head_data import HeadData, frame_set
from .heads import Heads, Sharing, number_heads, random_potential
from .statistics import (
    change_energy_bias,
    energy_bias,
    energy_error,
    set_energy_bias,
    set_environment_statistics,
    write_energy_bias,
)

RANDOM = "RANDOM"


def new_heads(config: TrainingConfig) -> Heads:
    """Models with random weights."""
    potentials = {
        name: random_potential(head.model, head.section, config.seed + 1) for name, head in config.heads.items()
    }
    heads = Heads(potentials, config.sharing)
    number_heads(heads)
    return heads


def prepare_new(config: TrainingConfig, heads: Heads, data: Mapping[str, HeadData]) -> None:
    """Fill in statistics of the environment, biases of energies and normalization of parameters."""
    first = next(iter(config.heads.values()))
    train = {name: d.train for name, d in data.items()}
    set_environment_statistics(heads, train, config.probabilities, _mean_is_zero(first), config.seed)
    for name, potential in heads.items():
        set_energy_bias(potential, train[name], config.seed, energies_of_atoms(config.heads[name]))
        _normalize_parameters(heads, name, train[name])
    _borrow(heads, train, config)


def energies_of_atoms(head: HeadConfig) -> dict[str, float]:
    """Energies of elements that the settings give, eV: by name, or as a file of isolated atoms.

    Raises
    ------
    ValueError
        For a file with anything but single atoms with energies.
    """
    found = {}
    for path in head.data.isolated_atoms:
        for number, frame in enumerate(read_frames(path, keys=LabelKeys(**head.data.keys))):
            if len(frame) != 1 or frame.energy is None:
                raise ValueError(
                    f"{path}, frame {number}: one atom with an energy was expected, found {len(frame)} atoms"
                )
            found[frame.symbols[0]] = frame.energy
    return found | head.atomic_energies


def _borrow(heads: Heads, train: Mapping[str, FrameSet], config: TrainingConfig) -> None:
    """Biases of elements a head has not seen, from heads that have."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, potential in heads.items():
        groups.setdefault(tuple(potential.type_map), []).append(name)
    counts = {name: frames.counts(range(len(frames))).sum(axis=0) for name, frames in train.items()}
    for names, members in groups.items():
        for name in members:  # known energies count as seen
            known = energies_of_atoms(config.heads[name])
            counts[name] = counts[name] + np.array([n in known for n in names])
        biases = {name: energy_bias(heads[name]) for name in members}
        for name, bias in borrow_biases(biases, counts, members).items():
            write_energy_bias(heads[name], bias)


def _mean_is_zero(head: HeadConfig) -> dict[type[nn.Module], bool]:
    descriptor = head.model["descriptor"]
    repinit = bool(descriptor.get("repinit", descriptor).get("set_davg_zero", True))
    repformer = bool(descriptor.get("repformer", {}).get("set_davg_zero", True))
    return {SeAtten: repinit, ThreeBody: repinit, Repformer: repformer}


def _normalize_parameters(heads: Heads, name: str, frames: FrameSet) -> None:
    """Mean and inverse spread of frame and atom parameters over the data."""
    fitting = heads.model(name).fitting
    for kind in ("fparam", "aparam"):
        values = [getattr(frame, kind) for frame in frames.frames if getattr(frame, kind) is not None]
        average = getattr(fitting, f"{kind}_avg")
        if len(average) and values:
            rows = np.concatenate([np.reshape(value, (-1, len(average))) for value in values])
            average.copy_(torch.from_numpy(rows.mean(axis=0)))
            getattr(fitting, f"{kind}_inv_std").copy_(torch.from_numpy(1 / np.maximum(rows.std(axis=0), 1e-2)))


def load_heads(config: TrainingConfig, path: str | Path) -> Heads:
    """The heads of a checkpoint that was written for the same settings (``--init-model``)."""
    found = heads_of_file(path)
    missing = [name for name in config.heads if name not in found]
    if missing:
        raise ValueError(f"{path} has no head {missing[0]!r}; it has {sorted(found)}")
    return Heads({name: load_potential(path, name) for name in config.heads}, config.sharing)


def finetuned_heads(config: TrainingConfig, path: str | Path, head: str | None) -> Heads:
    """Heads that start from those of a pretrained model; its configuration replaces the one of the settings.

    Parameters
    ----------
    head
        Head to start from where the settings do not say; ``RANDOM`` keeps the descriptor alone, and draws a new fitting
        net.
    """
    available = heads_of_file(path)
    potentials = {}
    for name, wanted in config.heads.items():
        chosen = wanted.finetune_head or head or (next(iter(available)) if len(available) == 1 else None)
        if chosen is None and name in available:
            chosen = name
        if chosen is None:
            raise ValueError(
                f"{path} has the heads {sorted(available)}; say which to start from with --head, or {RANDOM}"
            )
        source = next(iter(available)) if chosen == RANDOM else chosen
        potentials[name] = potential = load_potential(path, source)
        _check_elements(wanted, potential, path)
        if chosen == RANDOM:
            _renew_fitting(potential, config.seed + 1)
    sharing = config.sharing or ((Sharing("descriptor", dict.fromkeys(potentials, 0)),) if len(potentials) > 1 else ())
    return Heads(potentials, sharing)


def _check_elements(wanted: HeadConfig, potential: Potential, path: str | Path) -> None:
    missing = [name for name in wanted.model.get("type_map", ()) if name not in potential.type_map]
    if missing:
        raise ValueError(f"{path} does not know {missing}; its elements are {list(potential.type_map)}")


def _renew_fitting(potential: Potential, seed: int) -> None:
    """Random weights for the fitting net, no bias."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Potential(potential.config)
    target, source = potential.model.get_submodule("fitting.net"), fresh.model.get_submodule("fitting.net")
    target.load_state_dict(source.state_dict())
    potential.model.get_buffer("out_bias").zero_()


def prepare_finetuned(heads: Heads, data: Mapping[str, HeadData], seed: int) -> None:
    """Fit the energy bias to the new data: what is left after the model's own energies."""
    for name, potential in heads.items():
        bias = potential.model.get_buffer("out_bias")
        if not bool(bias.any()):
            set_energy_bias(potential, data[name].train, seed)
        change_energy_bias(potential, data[name].train, seed)


def change_bias(
    model: str | Path, data: Sequence[str], output: Path, head: str | None = None, seed: int = 0
) -> tuple[float, float]:
    """Fit the energies of atoms of one head to the energies of `data`, and write all heads to a new checkpoint.

    Returns
    -------
    before, after
        Root mean square errors of the energies, eV/atom, of up to 200 frames.
    """
    known = heads_of_file(model)
    potentials = {name: load_potential(model, name) for name in known}
    chosen = read_checkpoint(model, head).head
    frames = frame_set([frame for entry in data for frame in read_frames(entry)], potentials[chosen].config)
    if not any(frame.energy is not None for frame in frames.frames):
        raise ValueError(f"{', '.join(data)}: no frame has an energy to fit to")
    before = energy_error(potentials[chosen], frames, seed)
    change_energy_bias(potentials[chosen], frames, seed)
    notes = {name: HeadNotes(observed=info.observed or (), aliases=info.aliases) for name, info in known.items()}
    write_checkpoint(output, potentials, notes=notes)
    return before, energy_error(potentials[chosen], frames, seed)


def with_model(config: TrainingConfig, heads: Heads) -> TrainingConfig:
    """The settings with the elements of the loaded models."""
    updated = {
        name: replace(head, model={**head.model, "type_map": list(heads[name].type_map)})
        for name, head in config.heads.items()
    }
    return replace(config, heads=updated)
