"""What to show of errors against labels, and of several calculators side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..workflows.comparison import Comparison
from ..workflows.errors import UNITS, Error, Errors
from ..workflows.results import Result
from .summaries import Quantity, Row, Summary, Table, picture_of
from .tables import Number

COLUMNS = ("MAE", "RMSE", "largest", "count")


def errors(result: Errors) -> Summary:
    """Errors of all quantities, by group and element, and the worst frames."""
    headline = tuple(
        Quantity(f"RMSE of {_spoken(name)}", Number(error.rmse, 2), UNITS[name]) for name, error in result.total.items()
    )
    tables = [
        Table(("quantity", "unit", *COLUMNS), [(name, UNITS[name], *_row(e)) for name, e in result.total.items()])
    ]
    if len(result.by_group) > 1:
        groups: list[Row] = [
            (group, name, UNITS[name], *_row(error))
            for group, found in result.by_group.items()
            for name, error in found.items()
        ]
        tables.append(Table(("group", "quantity", "unit", *COLUMNS), groups, "By group"))
    if len(result.by_element) > 1:
        rows: list[Row] = [(symbol, *_row(error)) for symbol, error in result.by_element.items()]
        tables.append(Table(("element", *COLUMNS), rows, f"Forces by element ({UNITS['forces']})"))
    names = [name for name in UNITS if name in result.total]
    worst: list[Row] = [(frame, *(Number(found[name], 3) for name in names)) for frame, found in result.worst()]
    tables.append(Table(("frame", *(f"{_spoken(name)} ({UNITS[name]})" for name in names)), worst, "Worst frames"))
    if result.shift:
        shift: list[Row] = [(symbol, Number(value, 6)) for symbol, value in result.shift.items()]
        tables.append(Table(("element", "shift (eV)"), shift, "Fitted shift of energies"))
    return Summary(
        "Errors",
        headline,
        pictures=picture_of(result, "Predictions against labels"),
        tables=tuple(tables),
        notes=(f"{len(result.names):,} labelled structures.",),
    )


def _row(error: Error) -> Row:
    return (Number(error.mae, 3), Number(error.rmse, 3), Number(error.worst, 3), error.count)


def _spoken(name: str) -> str:
    return {"energy": "energies", "stress": "stresses"}.get(name, name)


def comparison(result: Comparison) -> Summary:
    """Every structure by every calculator, and how far their forces differ."""
    quantities: Mapping[str, tuple[np.ndarray, int]] = {
        "energy (eV/atom)": (result.energies, 5),
        "energy above the reference (meV/atom)": (result.relative, 2),
        "pressure (GPa)": (result.pressures, 3),
        "relaxed volume (Å³/atom)": (result.relaxed_volumes, 4),
        "relaxed, above the reference (meV/atom)": (result.relaxed_relative, 2),
        "volume of the equation of state (Å³/atom)": (result.eos_volumes, 4),
        "bulk modulus (GPa)": (result.bulk_moduli, 2),
    }
    tables = []
    for title, (values, decimals) in quantities.items():
        if values.size and np.isfinite(values).any() and (title[:6] != "energy" or values.any()):
            rows: list[Row] = [
                (name, *(Number(float(value), decimals) for value in column))
                for name, column in zip(result.names, values.T, strict=True)
            ]
            tables.append(Table(("structure", *result.models), rows, title[0].upper() + title[1:]))
    for title, differences in (
        ("Root mean square difference of forces (meV/Å)", result.force_differences),
        ("Largest difference of a force (meV/Å)", result.largest_differences),
    ):
        pairs: list[Row] = [
            (model, *(Number(float(value), 2) for value in row))
            for model, row in zip(result.models, differences, strict=True)
        ]
        tables.append(Table(("", *result.models), pairs, title))
    largest = float(np.nanmax(result.force_differences, initial=0.0))
    return Summary(
        "Comparison",
        (Quantity("Largest RMS difference of forces", Number(largest, 2), "meV/Å"),),
        pictures=picture_of(result, "Differences of forces"),
        tables=tuple(tables),
        notes=("Energies of different models may count from different zeros; those above a reference compare.",),
    )


KNOWN: dict[str, tuple[type[Result], Callable[[Any], Summary]]] = {
    "errors": (Errors, errors),
    "comparison": (Comparison, comparison),
}
