"""Tables of numbers and text, sorted and copied by the page's script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .markup import Html, element, escape, join

MAX_ROWS = 400  # more cannot be read, and make the file heavy
WRAPPED = 48  # characters; longer text may take several lines
MINUS = "\u2212"


@dataclass(frozen=True)
class Number:
    """A number with its precision, and its error if it is known.

    Attributes
    ----------
    value
        Not a number where it does not exist.
    decimals
        Digits behind the point; ``None`` shows six significant ones, or as many as the error leaves.
    error
        Standard error in the same unit.
    """

    value: float
    decimals: int | None = None
    error: float | None = None

    def __str__(self) -> str:
        if self.error is None or not (math.isfinite(self.error) and math.isfinite(self.value)):
            return number_text(self.value, self.decimals)
        decimals = _decimals(self.error) if self.decimals is None else self.decimals
        if self.error == 0 and decimals is None:
            return number_text(self.value)
        return f"{number_text(self.value, decimals)} ± {number_text(self.error, decimals)}"


def _decimals(error: float) -> int | None:
    """Digits behind the point that an error leaves to its number, two of its own among them."""
    return max(0, 1 - math.floor(math.log10(error))) if error > 0 else None


def number_text(value: float, decimals: int | None = None) -> str:
    """`value` as one prints it, with a minus sign."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    if isinstance(value, int):
        return str(value).replace("-", MINUS)
    text = f"{value:.6g}" if decimals is None else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    mantissa, _, exponent = text.partition("e")
    text = f"{mantissa} × 10{_superscript(int(exponent))}" if exponent else mantissa
    return text.replace("-", MINUS)


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def cell_text(value: Any) -> str:
    """What a reader sees of any value."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return ", ".join(map(cell_text, value)) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell_text(item)}" for key, item in value.items()) or "–"
    return str(value)


def _number(value: Any) -> int | float | None:
    """The number in a cell, if that is what it holds."""
    value = value.value if isinstance(value, Number) else value
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if isinstance(value, float | np.floating) else int(value)


def _cell(value: Any) -> Html:
    """A cell; numbers carry all their digits for sorting and copying."""
    number = _number(value)
    text = value if isinstance(value, Html) else str(value) if isinstance(value, Number) else cell_text(value)
    if number is None:
        return element("td", text, class_="long" if len(text) > WRAPPED else None)
    return element("td", text, class_="number", data_value=repr(number))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """A table; of very many rows evenly chosen ones, and a note that says so.

    Raises
    ------
    ValueError
        For a row that has not one value for every column.
    """
    every = [tuple(row) for row in rows]
    for index, row in enumerate(every):
        if len(row) != len(columns):
            raise ValueError(f"row {index} has {len(row)} values for {len(columns)} columns {list(columns)}: {row}")
    shown = [every[index] for index in thinned(len(every), MAX_ROWS)]
    right = [bool(shown) and all(_number(row[k]) is not None for row in shown) for k in range(len(columns))]
    head = [
        element("th", title, scope="col", class_="number" if is_number else None)
        for title, is_number in zip(columns, right, strict=True)
    ]
    body = [element("tr", *map(_cell, row)) for row in shown]
    whole = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    note = f"{len(shown)} of {len(every):,} rows, evenly chosen." if len(shown) < len(every) else ""
    return join([element("div", whole, class_="table"), element("p", note, class_="note") if note else ""])


def thinned(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` indices, evenly spread, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return np.linspace(0, count - 1, max(limit, 1)).round().astype(int).tolist() if limit > 1 else [count - 1]


def definitions(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Names and what they stand for, as a plain list of two columns."""
    rows = [(name, value if isinstance(value, Html) else escape(cell_text(value))) for name, value in pairs]
    return element("dl", *(join([element("dt", name), element("dd", value)]) for name, value in rows))
