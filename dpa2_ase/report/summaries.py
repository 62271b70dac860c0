"""What of a result a reader wants to see: numbers with units, pictures, structures, warnings.

One function per kind of result, found by its `name`; results of other kinds show all fields that can be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ..workflows.results import Result
from .tables import Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = tuple[Any, ...]
MAX_FRAMES = 240  # more cannot be told apart on a slider


@dataclass(frozen=True)
class Quantity:
    """One of the few numbers for which the calculation was made."""

    label: str
    value: Number | str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns that name their units."""

    columns: tuple[str, ...]
    rows: list[Row]
    heading: str = ""


@dataclass(frozen=True)
class Mode:
    """A direction in which atoms swing."""

    label: str
    vectors: np.ndarray  # (N, 3), of any length


@dataclass(frozen=True)
class View:
    """A structure, or several as frames; one alone may have modes.

    `total` is the number of frames from which these were chosen, if some were left out.
    """

    heading: str
    frames: Sequence[Atoms]
    labels: Sequence[str] = ()
    modes: Sequence[Mode] = ()
    total: int = 0

    @property
    def is_collection(self) -> bool:
        """Whether frames are of different atoms."""
        return any(not np.array_equal(atoms.numbers, self.frames[0].numbers) for atoms in self.frames)


@dataclass(frozen=True)
class Summary:
    """What is shown of a result, in this order: warnings, headline, pictures, tables, structures, notes."""

    title: str
    headline: tuple[Quantity, ...] = ()
    warnings: tuple[str, ...] = ()
    pictures: tuple[tuple[str, Callable[[], Axes]], ...] = ()
    tables: tuple[Table, ...] = ()
    structures: tuple[View, ...] = ()
    notes: tuple[str, ...] = ()


def summarize(result: Result) -> Summary:
    """What to show of any result."""
    from . import comparison_summaries, crystal_summaries, defect_summaries, dynamics_summaries, static_summaries

    rooms = (static_summaries, crystal_summaries, defect_summaries, dynamics_summaries, comparison_summaries)
    known = {name: entry for room in rooms for name, entry in room.KNOWN.items()}
    kind, describe = known.get(result.name, (Result, None))
    return describe(result) if describe is not None and isinstance(result, kind) else anything(result)


def picture_of(result: Result, caption: str) -> tuple[tuple[str, Callable[[], Axes]], ...]:
    """The picture of a result that has one."""
    return () if type(result).plot is Result.plot else ((caption, result.plot),)


def views_of(result: Result) -> tuple[View, ...]:
    """All structures of a result."""
    return tuple(View(name.replace("_", " ").capitalize(), [atoms]) for name, atoms in result.structures().items())


def anything(result: Result) -> Summary:
    """All fields of a result nobody described: numbers and text in one table, columns of equal length in another."""
    title = result.name.replace("_", " ").replace("-", " ").capitalize()
    rows: list[Row] = []
    columns: dict[str, np.ndarray] = {}
    for item in fields(result):
        value = getattr(result, item.name)
        label = item.name.strip("_").replace("_", " ")
        if item.name == "provenance" or isinstance(value, Atoms):
            continue
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.size > 3:
            columns[label] = value
        elif isinstance(value, np.ndarray) and value.size > 9:
            rows.append((label, f"array of shape {value.shape}"))
        elif is_dataclass(value) and not isinstance(value, type):
            rows += [(f"{label}, {part.name}", getattr(value, part.name)) for part in fields(value)]
        else:
            rows.append((label, value))
    tables = [Table(("quantity", "value"), rows)] if rows else []
    for length in dict.fromkeys(map(len, columns.values())):
        same = {name: values for name, values in columns.items() if len(values) == length}
        tables.append(Table(tuple(same), list(zip(*same.values(), strict=True))))
    return Summary(title, pictures=picture_of(result, title), tables=tuple(tables), structures=views_of(result))
