"""DPA-1 and DPA-2 deep-potential models in ASE, native PyTorch.

>>> from dpa2_ase import DPA2Calculator
>>> atoms.calc = DPA2Calculator("model.pt")  # doctest: +SKIP

Importing the package does not import torch; making a calculator does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import external_calculators, register_calculator_class

from .interfaces.ase import DPA2Calculator

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, CheckpointError, HeadInfo, heads, load_potential, read_checkpoint
    from .config import UnsupportedModelError
    from .model import Potential, Prediction

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DPA2Calculator",
    "HeadInfo",
    "Potential",
    "Prediction",
    "UnsupportedModelError",
    "__version__",
    "heads",
    "load_potential",
    "read_checkpoint",
]

_HOME = dict.fromkeys(("Checkpoint", "CheckpointError", "HeadInfo", "heads", "load_potential"), ".checkpoint")
_HOME |= {"read_checkpoint": ".checkpoint", "UnsupportedModelError": ".config"}
_HOME |= {"Potential": ".model", "Prediction": ".model"}

if DPA2Calculator.name not in external_calculators:  # a reload of the package is no error
    register_calculator_class(DPA2Calculator.name, DPA2Calculator)


def __getattr__(name: str) -> Any:
    """Names that need torch, imported when first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
