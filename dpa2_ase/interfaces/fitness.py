"""Whether a head was made for a structure, and the reason, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoint import HeadInfo
from .rigidity import Rigidity


@dataclass(frozen=True)
class Fit:
    """What speaks for a head and against it."""

    fits: bool
    reason: str
    elements: tuple[str, ...]  # the head was trained on, or accepts where the file does not say
    unseen: tuple[str, ...]  # of the structure, that it was not trained on
    distance: float | None = None  # of the strangest atom to known environments; above 1 is unusual; None: not known


def fit_of(
    info: HeadInfo, symbols: Sequence[str], rigidity: Rigidity | None = None, node: np.ndarray | None = None
) -> Fit:
    """Compare a structure with what a head was trained on: elements, and environments where it was calibrated.

    Parameters
    ----------
    info
        Of the head.
    symbols
        Elements of the atoms, (N,).
    rigidity, node
        Calibration of the head and representations (N, C) of the atoms, where there are any.
    """
    present = dict.fromkeys(symbols)
    elements = info.observed or info.elements
    unseen = tuple(symbol for symbol in present if symbol not in elements)
    if unseen:
        verb = "was not trained on" if info.observed else "does not accept"
        return Fit(False, f"{verb} {', '.join(unseen)}", elements, unseen)
    if info.observed is None:
        return Fit(False, "the file does not say which elements it was trained on", elements, ())
    others = len({*elements} - {*present})
    reason = f"trained on {', '.join(present) or 'its elements'}" + (f" and {others} more" if others else " alone")
    if rigidity is None or node is None or not present:
        return Fit(True, f"{reason}; environments not compared (no calibration)", elements, ())
    distance = float(rigidity.distances(np.array(symbols), node).max())
    stop = rigidity.thresholds["representation_distance"][1]
    near = f"strangest atom at {distance:.3g} of the usual distance to known environments"
    return Fit(distance <= stop, f"{reason}; {near}", elements, (), distance)


def ordered(fits: Mapping[str, Fit]) -> list[str]:
    """Names of the heads that fit: nearest known environments first, then those with the fewest other elements."""
    found = [name for name, fit in fits.items() if fit.fits]

    def key(name: str) -> tuple[float, int]:
        distance = fits[name].distance
        return (np.inf if distance is None else max(distance, 1.0), len(fits[name].elements))

    return sorted(found, key=key)
