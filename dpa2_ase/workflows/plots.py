"""How pictures look, and the only place that knows matplotlib.

Results draw with methods of the axes they are given; they need nothing from here but `axes`, `colors` and `save`.
No global setting of matplotlib is changed, and no window is opened.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's eight colors without yellow, https://jfly.uni-koeln.de/color/: told apart by all viewers
COLORS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "gold": "#E69F00",
    "black": "#000000",
    "gray": "#999999",
}
SIZE = (4.8, 3.6)  # inches, one column of a journal and a half
DPI = 160

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dpa2",  # equal figures give equal files
}


def colors() -> list[str]:
    """Colors of curves in the order of use."""
    return [COLORS[name] for name in ("blue", "orange", "green", "purple", "sky", "gold", "black", "gray")]


def figure(size: tuple[float, float] = SIZE) -> Figure:
    """A new empty figure in the common style that belongs to no window.

    Raises
    ------
    ModuleNotFoundError
        Without matplotlib.
    """
    with _style():
        from matplotlib.figure import Figure as NewFigure

        return NewFigure(figsize=size, dpi=DPI, layout="constrained")


def _style() -> AbstractContextManager[None]:
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("pictures need matplotlib; install it with: pip install matplotlib") from error
    return rc_context(STYLE)


def axes(ax: Axes | None, size: tuple[float, float] = SIZE) -> Axes:
    """The given axes, or those of a new figure in the common style."""
    return ax if ax is not None else subplots(1, 1, size)[0]


def subplots(rows: int, columns: int, size: tuple[float, float] = SIZE, **options: Any) -> list[Axes]:
    """The axes of a new figure, row by row; `options` as those of ``Figure.subplots``."""
    new = figure(size)
    with _style():
        return list(new.subplots(rows, columns, squeeze=False, **options).flatten())


def render(draw: Callable[[], Axes], formats: tuple[str, ...] = ("png", "svg")) -> dict[str, bytes]:
    """Draw in the common style and return the contents of a file in each format.

    Parameters
    ----------
    draw
        Returns axes; their whole figure is taken.
    formats
        What matplotlib can write.
    """
    contents = {}
    with _style():
        drawn: Any = draw().get_figure(root=True)
        for suffix in formats:
            buffer = io.BytesIO()
            options = {"metadata": {"Date": None}} if suffix == "svg" else {}
            drawn.savefig(buffer, format=suffix, dpi=DPI, **options)
            contents[suffix] = buffer.getvalue()
    return contents


def before_and_after(ax: Axes, before: Sequence[float], after: Sequence[float], labels: Sequence[str]) -> None:
    """Pairs of bars: energies before and after a relaxation."""
    places = range(len(labels))
    ax.bar([place - 0.2 for place in places], before, 0.4, color=COLORS["gray"], label="unrelaxed")
    ax.bar([place + 0.2 for place in places], after, 0.4, color=COLORS["blue"], label="final")
    ax.set_xticks(list(places), labels)


def save(draw: Callable[[], Axes], path: str | Path, formats: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Write what `render` draws as ``PATH.png`` and ``PATH.svg``, `path` being without suffix; returns their paths."""
    base = Path(path)
    contents = render(draw, formats)
    return [write_bytes(base.with_name(f"{base.name}.{suffix}"), content) for suffix, content in contents.items()]
