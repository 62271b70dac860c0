"""Whether a number still changes with a setting: size of a cell, thickness of a slab, length of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import plots
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Convergence(Result):
    """Values of a quantity for one setting after the other.

    Attributes
    ----------
    settings
        Those tried, in order.
    values
        Of the quantity, in its own unit, shape (S,).
    tolerance
        In the same unit.
    converged
        Whether the last changes were within the tolerance.
    setting
        The first one from which on nothing changed by more; ``None`` if not converged.
    """

    name: ClassVar[str] = "convergence"

    settings: tuple[Any, ...]
    values: np.ndarray
    tolerance: float
    converged: bool
    setting: Any

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the values, with the tolerance around the last."""
        ax = plots.axes(ax)
        places = np.arange(len(self.values))
        last = self.values[-1]
        ax.axhspan(last - self.tolerance, last + self.tolerance, color=plots.COLORS["sky"], alpha=0.25, lw=0)
        ax.plot(places, self.values, "o-", color=plots.COLORS["blue"])
        ax.set_xticks(places, [str(setting) for setting in self.settings])
        ax.set(xlabel="setting", ylabel="value")
        ax.set_title("converged" if self.converged else "not converged")
        return ax


def convergence(
    quantity: Callable[[Any], float],
    settings: Sequence[Any],
    *,
    tolerance: float,
    stable: int = 2,
    on_value: Callable[[Any, float], None] | None = None,
) -> Convergence:
    """Evaluate `quantity` for one setting after the other until it stays the same.

    Parameters
    ----------
    quantity
        A number as a function of a setting, for example
        ``lambda n: vacancy(atoms, repeats=(n, n, n)).sites[0].formation_energy``.
    settings
        From coarse to fine.
    tolerance
        How much it may change, in its unit.
    stable
        Number of consecutive changes that must be within it; one alone may be chance.
    on_value
        Called with each setting and its value.

    Raises
    ------
    ValueError
        For choices that cannot be, or a value that is not a number.
    """
    if not 0 < tolerance < np.inf or stable < 1 or len(settings) <= stable:
        raise ValueError(
            f"tolerance should be positive and the settings more than stable={stable} (at least 1), "
            f"found {tolerance} and {len(settings)} settings"
        )
    tried: list[Any] = []
    values: list[float] = []
    for setting in settings:
        value = float(quantity(setting))
        if not np.isfinite(value):
            raise ValueError(f"the quantity is {value} at setting {setting!r}")
        tried.append(setting)
        values.append(value)
        if on_value is not None:
            on_value(setting, value)
        if _settled(values, tolerance, stable):
            break
    converged = _settled(values, tolerance, stable)
    return Convergence(
        settings=tuple(tried),
        values=np.array(values),
        tolerance=tolerance,
        converged=converged,
        setting=tried[-stable - 1] if converged else None,
    )


def _settled(values: list[float], tolerance: float, stable: int) -> bool:
    """Whether the last `stable` values are within `tolerance` of the one before them, and of each other."""
    last = values[-stable - 1 :]
    return len(last) == stable + 1 and max(last) - min(last) <= tolerance
