"""What the model knows of an element before it sees a structure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from .layers import Dense

_SUBSHELLS = "1s 2s 2p 3s 3p 3d 4s 4p 4d 4f 5s 5p 5d 5f 6s 6p 6d 7s 7p".split()
_MADELUNG = "1s 2s 2p 3s 3p 4s 3d 4p 5s 4d 5p 6s 4f 5d 6p 7s 5f 6d 7p".split()
_ORBITALS = {"s": 1, "p": 3, "d": 5, "f": 7}
_EXCEPTIONS = {
    "Cr": "3d5 4s1", "Cu": "3d10 4s1", "Nb": "4d4 5s1", "Mo": "4d5 5s1", "Ru": "4d7 5s1", "Rh": "4d8 5s1",
    "Pd": "4d10 5s0", "Ag": "4d10 5s1", "La": "4f0 5d1", "Ce": "4f1 5d1", "Gd": "4f7 5d1", "Pt": "5d9 6s1",
    "Au": "5d10 6s1", "Ac": "5f0 6d1", "Th": "5f0 6d2", "Pa": "5f2 6d1", "U": "5f3 6d1", "Np": "5f4 6d1",
    "Cm": "5f7 6d1", "Ds": "6d9 7s1", "Rg": "6d10 7s1",
}  # fmt: skip


def occupation(symbol: str) -> dict[str, int]:
    """Electrons per sub-shell of the neutral atom in its ground state."""
    left = atomic_numbers[symbol]
    filling = dict.fromkeys(_SUBSHELLS, 0)
    for shell in _MADELUNG:
        filling[shell] = min(left, 2 * _ORBITALS[shell[1]])
        left -= filling[shell]
    for entry in _EXCEPTIONS.get(symbol, "").split():
        filling[entry[:2]] = int(entry[2:])
    return filling


def electronic_configuration(type_map: Sequence[str]) -> Tensor:
    """Two entries of ±1/√118 per orbital, filled by Hund's rule; shape (T, 118), float64.

    Raises
    ------
    ValueError
        For a name that is not a chemical element.
    """
    unknown = [name for name in type_map if atomic_numbers.get(name, 0) == 0]
    if unknown:
        raise ValueError(f"use_econf_tebd needs chemical elements; {unknown} of the type map are none")
    size = 1 / math.sqrt(118)
    return torch.tensor([[size * spin for spin in _spins(symbol)] for symbol in type_map], dtype=torch.float64)


def _spins(symbol: str) -> list[int]:
    spins: list[int] = []
    for shell, electrons in occupation(symbol).items():
        orbitals = _ORBITALS[shell[1]]
        pairs = max(0, electrons - orbitals)
        single = electrons - 2 * pairs
        spins += [1, 1] * pairs + [-1, 1] * single + [-1, -1] * (orbitals - pairs - single)
    return spins


def one_hot(n_types: int) -> Tensor:
    """The unit matrix (T, T), float64; not `torch.eye`, whose form on the meta device takes a second to import."""
    return torch.tensor([[float(a == b) for b in range(n_types)] for a in range(n_types)], dtype=torch.float64)


class TypeEmbedding(nn.Module):
    r"""One vector per element, :math:`T = XW (+ b) (+ skip)`, X one-hot or the electronic configuration.

    The skip is that of `Dense`: X where `width` equals the input width, [X, X] where it is twice that.
    """

    inputs: Tensor

    def __init__(self, type_map: Sequence[str], width: int, *, econf: bool, bias: bool) -> None:
        super().__init__()
        inputs = electronic_configuration(type_map) if econf else one_hot(len(type_map))
        n_in = inputs.shape[1]
        self.register_buffer("inputs", inputs, persistent=False)
        self.layer = Dense(n_in, width, bias=bias, resnet=True)

    def forward(self) -> Tensor:
        """All rows, shape (T, width)."""
        return self.layer(self.inputs)
