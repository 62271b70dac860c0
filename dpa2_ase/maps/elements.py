"""The periodic table as maps need it: groups, blocks, colors.

Groups are IUPAC's 1–18; lanthanides (La–Yb) and actinides (Ac–No) have none and stand as families of their own.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

_ROWS = ((1, 2), (3, 10), (11, 18), (19, 36), (37, 54), (55, 86), (87, 118))  # first and last number of a period
LANTHANIDES, ACTINIDES = range(57, 71), range(89, 103)
# non-metals and metalloids
_NON_METALS = frozenset("H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Te I Xe At Rn".split())

# hue (0–1) of every group: alkali metals red, through the transition metals' greens to blue and purple non-metals
_HUES = {
    "1": 0.00, "2": 0.05, "3": 0.09, "4": 0.12, "5": 0.15, "6": 0.19, "7": 0.24, "8": 0.30, "9": 0.36,
    "10": 0.42, "11": 0.48, "12": 0.53, "13": 0.57, "14": 0.62, "15": 0.68, "16": 0.75, "17": 0.82, "18": 0.90,
    "Ln": 0.94, "An": 0.97,
}  # fmt: skip
GROUPS: tuple[str, ...] = tuple(_HUES)


def period(number: int) -> int:
    """Row of the periodic table, 1–7."""
    for row, (first, last) in enumerate(_ROWS, start=1):
        if first <= number <= last:
            return row
    raise ValueError(f"{number} is not the atomic number of an element")


def group(number: int) -> str:
    """Column of the periodic table, ``"1"`` to ``"18"``, ``"Ln"`` or ``"An"``."""
    if number in LANTHANIDES:
        return "Ln"
    if number in ACTINIDES:
        return "An"
    row = period(number)
    first, last = _ROWS[row - 1]
    if number == 2 or number - first >= 2:
        return str(18 - (last - number))  # from the right: the blocks of a period end with the noble gas
    return str(number - first + 1)


def is_metal(number: int) -> bool:
    """Whether the element is a metal; Si, Ge, As and Te count as non-metals."""
    return chemical_symbols[number] not in _NON_METALS


def place(number: int) -> tuple[int, int]:
    """Row and column in the usual table of 18 columns, from 0; the f-block is in rows 7 and 8."""
    if number in LANTHANIDES:
        return 7, number - 57 + 2
    if number in ACTINIDES:
        return 8, number - 89 + 2
    return period(number) - 1, int(group(number)) - 1


def color(number: int) -> tuple[float, float, float]:
    """RGB of an element: the hue of its group, darker in lower periods."""
    lightness = 0.72 - 0.07 * (period(number) - 1)
    if group(number) in ("Ln", "An"):
        lightness += 0.018 * (place(number)[1] - 2)
    return colorsys.hls_to_rgb(_HUES[group(number)], lightness, 0.75)


def group_color(name: str) -> tuple[float, float, float]:
    """RGB of a group."""
    return colorsys.hls_to_rgb(_HUES[name], 0.50, 0.75)


def numbers_of(symbols: Sequence[str]) -> np.ndarray:
    """Atomic numbers of symbols.

    Raises
    ------
    ValueError
        For what is not a chemical element.
    """
    unknown = [symbol for symbol in symbols if atomic_numbers.get(symbol, 0) == 0]
    if unknown:
        raise ValueError(f"{unknown} are no chemical elements; write them as in the periodic table: Cu, O, H")
    return np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)


def symbols_of(numbers: np.ndarray) -> np.ndarray:
    """Symbols of atomic numbers, an array of strings."""
    return np.array(chemical_symbols)[numbers]


def groups_of(numbers: np.ndarray) -> np.ndarray:
    """Groups of atomic numbers, an array of strings."""
    found = {int(number): group(int(number)) for number in np.unique(numbers)}
    return np.array([found[int(number)] for number in numbers], dtype="U2")
