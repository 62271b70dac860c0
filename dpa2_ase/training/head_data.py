"""Frames of a head as its model takes them: read, checked, broken ones left out, with the probability of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ..config import AnyModelConfig
from ..neighbors import build_neighbor_list
from .configuration import DataConfig
from .data.checks import check_frames
from .data.files import System, read_frames, read_systems
from .data.frames import Frame, LabelKeys
from .frameset import FrameSet
from .sampling import BatchSize, SystemSizes

logger = logging.getLogger("dpa2_ase")


@dataclass(frozen=True)
class HeadData:
    """Frames of one head."""

    train: FrameSet
    valid: FrameSet | None
    weights: np.ndarray | None  # probability of every training frame
    systems: np.ndarray | None = None  # number of the system of every training frame; None for one system
    valid_systems: np.ndarray | None = None  # the same of validation frames, where systems have batches of their own


def read_data(data: DataConfig, model: AnyModelConfig) -> HeadData:
    """Read the frames of one head, leave out broken ones, and say what looks wrong.

    Raises
    ------
    ValueError
        For elements the model does not know, or if nothing is left.
    """
    keys, (place, place_valid) = LabelKeys(**data.keys), data.places
    entries = [read_systems(e, keys=keys, names=model.type_map, pattern=data.pattern) for e in data.train]
    systems = [system for entry in entries for system in entry]
    numbers = _numbers(systems, data.batch, place)
    weights = _frame_weights(data, entries)
    if data.by_forces is not None:
        weights = _by_forces(entries, weights, data.by_forces)
    frames = [frame for system in systems for frame in system.frames]
    report = check_frames(frames, model.type_map, data.limits)
    unknown = [f for f in report.findings if f.kind == "unknown-element"]
    if unknown:
        raise ValueError(f"{place}: frame {unknown[0].frame}: {unknown[0].text}")
    if not report.is_clean:
        logger.warning("%s: %s", place, report.text(examples=1))
    bad = set(report.frames(data.filter))
    keep = _small_enough(frames, [i for i in range(len(frames)) if i not in bad], data.batch, place)
    keep = _far_enough(frames, keep, data.min_distance, place)
    if not keep:
        raise ValueError(f"{place}: no frame is left to train on: {', '.join(data.train)}")
    valid, valid_numbers = _read_valid(data, model.type_map)
    _check_parameters([frames[i] for i in keep], model, place)
    _check_parameters(valid, model, place_valid)
    return HeadData(
        train=frame_set([frames[i] for i in keep], model),
        valid=frame_set(valid, model) if valid else None,
        weights=None if weights is None else weights[keep],
        systems=numbers[keep],
        valid_systems=valid_numbers,
    )


def _read_valid(data: DataConfig, names: Sequence[str]) -> tuple[list[Frame], np.ndarray | None]:
    """Validation frames; where systems have batches of their own, also the number of the system of each."""
    keys, place, size = LabelKeys(**data.keys), data.places[1], data.valid_batch
    pattern = data.pattern if data.valid_pattern is None else data.valid_pattern
    if isinstance(size, SystemSizes):
        systems = [s for e in data.valid for s in read_systems(e, keys=keys, names=names, pattern=pattern)]
        frames, numbers = [f for s in systems for f in s.frames], _numbers(systems, size, place)
    else:
        frames = [f for e in data.valid for f in read_frames(e, keys=keys, names=names, pattern=pattern)]
        numbers = None
    bad = set(check_frames(frames, limits=data.limits).frames(data.filter))
    keep = _small_enough(frames, [i for i in range(len(frames)) if i not in bad], size, place)
    return [frames[i] for i in keep], None if numbers is None else numbers[keep]


def _numbers(systems: Sequence[System], size: BatchSize | SystemSizes, path: str) -> np.ndarray:
    """Number of the system of every frame, for as many systems as there are sizes."""
    if isinstance(size, SystemSizes) and len(size.frames) != len(systems):
        raise ValueError(
            f"{path}.batch_size has {len(size.frames)} numbers for the {len(systems)} systems found in {path}.systems; "
            "give one number for each system, those below a folder by path, or one for all"
        )
    return np.repeat(np.arange(len(systems)), [len(system.frames) for system in systems])


def _small_enough(frames: Sequence[Frame], keep: Sequence[int], size: BatchSize | SystemSizes, path: str) -> list[int]:
    """Those of the frames `keep` that a batch size ``filter:N`` lets through."""
    if isinstance(size, SystemSizes) or size.kind != "filter":
        return list(keep)
    small = [index for index in keep if len(frames[index]) <= size.size]
    if len(small) < len(keep):
        logger.warning(
            "%s: %d of %d frames have more than %d atoms and are left out (batch size filter:%d)",
            *(path, len(keep) - len(small), len(keep), size.size, size.size),
        )
    return small


def _far_enough(frames: Sequence[Frame], keep: list[int], distance: float, path: str) -> list[int]:
    """Those of the frames `keep` whose atoms are no closer than a distance, Å."""
    if not distance:
        return keep
    far = [index for index in keep if not _has_pair(frames[index], distance)]
    if len(far) < len(keep):
        logger.warning(
            "%s: %d of %d frames have atoms closer than %g Å and are left out",
            *(path, len(keep) - len(far), len(keep), distance),
        )
    return far


def _has_pair(frame: Frame, distance: float) -> bool:
    atoms = Atoms(positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    return len(build_neighbor_list(atoms, distance).center) > 0


def _check_parameters(frames: Sequence[Frame], model: AnyModelConfig, path: str) -> None:
    """Refuse frames that lack the parameters the model takes."""
    fitting = getattr(model, "fitting_net", None)
    if fitting is None:
        return
    wanted = {"fparam": fitting.numb_fparam * (fitting.default_fparam is None)}
    wanted["aparam"] = fitting.numb_aparam * (not fitting.use_aparam_as_mask)
    for number, frame in enumerate(frames):
        for name, size in wanted.items():
            values = getattr(frame, name)
            if size and (values is None or values.shape[-1] != size):
                found = "none" if values is None else f"{values.shape[-1]}"
                raise ValueError(f"{path}: frame {number} has {found} of the {size} numbers of {name} the model takes")


def frame_set(frames: Sequence[Frame], model: AnyModelConfig) -> FrameSet:
    """Frames as the input of a model."""
    return FrameSet(frames, model.type_map, model.rcut, excluded=getattr(model, "atom_exclude_types", ()))


def _frame_weights(data: DataConfig, entries: list[list[System]]) -> np.ndarray | None:
    """Probabilities of frames from those of entries or systems; ``None`` where all frames are alike."""
    sizes = [len(system.frames) for entry in entries for system in entry]
    if data.weights is not None:
        if len(data.weights) != len(entries):
            raise ValueError(f"weights has {len(data.weights)} numbers for {len(entries)} entries of train")
        counts = [sum(len(system.frames) for system in entry) for entry in entries]
        return np.concatenate([np.full(n, w / n) for n, w in zip(counts, data.weights, strict=True)])
    if data.system_weights == "frames":
        return None
    if data.system_weights == "equal":
        return np.concatenate([np.full(size, 1 / size) for size in sizes])
    weights = np.zeros(sum(sizes))
    ends = np.cumsum([0, *sizes])
    for first, last, weight in data.system_weights:
        if not 0 <= first < last <= len(sizes):
            raise ValueError(f"probabilities of systems {first} to {last}: there are {len(sizes)} systems")
        weights[ends[first] : ends[last]] = weight / (ends[last] - ends[first])
    return weights


def _by_forces(entries: list[list[System]], weights: np.ndarray | None, least: float) -> np.ndarray:
    """Probabilities in proportion to root mean square forces plus `least`; every entry keeps its share."""
    sizes = []
    for entry in entries:
        size = np.array([_force(frame) + least for system in entry for frame in system.frames])
        sizes.append(size / size.mean())
    return np.concatenate(sizes) * (1.0 if weights is None else weights)


def _force(frame: Frame) -> float:
    """Root mean square of all components that are known, eV/Å."""
    known = np.zeros(1) if frame.forces is None else frame.forces[np.isfinite(frame.forces)]
    return float(np.sqrt(np.mean(known**2))) if known.size else 0.0
