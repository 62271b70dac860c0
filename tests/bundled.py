"""Calculators of the bundled model, whatever its heads are called."""

from __future__ import annotations

from typing import Any

from dpa2_ase import DPA2Calculator
from dpa2_ase.bundled import bundled_model
from dpa2_ase.checkpoint import heads


def head_for(*symbols: str) -> str:
    """The head trained on all these elements and on the fewest others; the most particular one."""
    known = {name: info.observed or info.elements for name, info in heads(bundled_model()).items()}
    fitting = {name: elements for name, elements in known.items() if {*symbols} <= {*elements}}
    assert fitting, f"no head of the bundled model knows {symbols}: {known}"
    return min(fitting, key=lambda name: (len(fitting[name]), name))


def calculator(*symbols: str, **options: Any) -> DPA2Calculator:
    """Of the bundled model's head for these elements; double precision on the CPU unless told otherwise."""
    return DPA2Calculator(head=head_for(*symbols), **({"device": "cpu", "dtype": "float64"} | options))
