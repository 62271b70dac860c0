r"""Lengths of neighbor lists that follow from the data: ``sel: auto`` and ``auto:FACTOR`` of DeePMD-kit's inputs.

The largest number of neighbors within the cutoff of any atom of the training frames, times the factor (1.1 if not
given), without its decimals, up to the next multiple of four.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import ModelConfig, UnsupportedModelError
from ..option_values import TOO_LARGE, short
from ..parsing import parse_model
from .configuration import HeadConfig, TrainingConfig
from .frameset import FrameSet
from .head_data import HeadData

FACTOR = 1.1
# where such a length stands in a descriptor: its block, its key, the cutoff it belongs to
_PLACES = (
    ("", "sel", "rcut"),
    ("repinit", "nsel", "rcut"),
    ("repinit", "three_body_sel", "three_body_rcut"),
    ("repformer", "nsel", "rcut"),
)


@dataclass(frozen=True)
class AutoLength:
    """A length to be counted."""

    block: str
    key: str
    radius_key: str
    factor: float

    def put(self, section: dict[str, Any], length: int) -> None:
        """Write the length into a model section."""
        descriptor = section["descriptor"]
        (descriptor[self.block] if self.block else descriptor)[self.key] = length

    def radius(self, config: ModelConfig) -> float:
        """The cutoff, Å."""
        return float(getattr(getattr(config.descriptor, self.block, config.descriptor), self.radius_key))

    def length(self, count: int) -> int:
        """The length for at most `count` neighbors; four for none."""
        return max(-(-int(count * self.factor) // 4) * 4, 4)


def auto_lengths(section: Mapping[str, Any], path: str) -> list[AutoLength]:
    """What a model section leaves to the data.

    Raises
    ------
    ValueError
        For text that is neither ``auto`` nor ``auto:FACTOR``.
    """
    descriptor = section.get("descriptor")
    found = []
    for block, key, radius_key in _PLACES:
        part = descriptor.get(block) if block and isinstance(descriptor, Mapping) else descriptor
        value = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(value, str):
            where = ".".join(name for name in (path, "descriptor", block, key) if name)
            found.append(AutoLength(block, key, radius_key, _factor(value, where)))
    return found


def _factor(value: str, path: str) -> float:
    kind, _, text = value.partition(":")
    try:
        factor = float(text) if text else FACTOR
    except ValueError:
        factor = 0.0
    if kind != "auto" or not 1 <= factor <= TOO_LARGE:
        raise ValueError(
            f"{path} {short(value)} is not a number of neighbors, auto, or auto:FACTOR with a factor from 1"
        )
    return factor


def config_of_head(head: HeadConfig) -> ModelConfig:
    """The configuration of the model of a head; lengths that are still to be counted are of no meaning in it."""
    section = copy.deepcopy(head.model)
    for place in auto_lengths(section, head.section):
        is_outer = place.block != "repformer" and place.key != "three_body_sel"
        place.put(section, TOO_LARGE if is_outer else 1)  # inner lists may not be longer than the outer one
    config = parse_model(section, head.section)
    if not isinstance(config, ModelConfig):
        raise UnsupportedModelError(
            f"{head.section}: only energy models of a descriptor and a fitting net can be trained"
        )
    return config


def with_counted_neighbors(config: TrainingConfig, data: Mapping[str, HeadData]) -> TrainingConfig:
    """The settings with all lengths as numbers; heads that share a descriptor get the largest of theirs."""
    lengths = {name: _lengths(head, data[name].train) for name, head in config.heads.items()}
    for sharing in config.sharing:
        if sharing.part == "descriptor":
            members = [name for name in sharing.levels if name in lengths]
            largest = {p: max(lengths[name][p] for name in members) for p in lengths[members[0]]}
            lengths |= dict.fromkeys(members, largest)
    heads = {}
    for name, head in config.heads.items():
        section = copy.deepcopy(head.model)
        for place, length in lengths[name].items():
            place.put(section, length)
        heads[name] = replace(head, model=section)
    return replace(config, heads=heads)


def _lengths(head: HeadConfig, frames: FrameSet) -> dict[AutoLength, int]:
    places = auto_lengths(head.model, head.section)
    if not places:
        return {}
    model = config_of_head(head)
    counts = most_neighbors(frames, [place.radius(model) for place in places])
    return {place: place.length(count) for place, count in zip(places, counts, strict=True)}


def most_neighbors(frames: FrameSet, radii: Sequence[float]) -> list[int]:
    """The largest number of neighbors of any atom within each of some radii, Å, up to the cutoff of the frames."""
    most = [0] * len(radii)
    for index in range(len(frames)):
        center, distances = frames.distances(index)
        for number, radius in enumerate(radii):
            counts = np.bincount(center[distances <= radius])
            most[number] = max(most[number], int(counts.max(initial=0)))
    return most
