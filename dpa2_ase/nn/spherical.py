"""Solid harmonics for the ``lmax`` option of DPA-1."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor


def solid_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """Real solid harmonics of degrees 2 to `lmax` (at most 4) in Racah normalization.

    Parameters
    ----------
    vectors
        Shape (E, 3), usually of unit length.

    Returns
    -------
    harmonics
        Shape (E, (lmax + 1)² - 4), degree by degree.
    """
    x, y, z = vectors.unbind(-1)
    q = x * x + y * y + z * z
    degrees = [_degree2(x, y, z, q), _degree3(x, y, z, q), _degree4(x, y, z, q)][: lmax - 1]
    return torch.stack([value for degree in degrees for value in degree], dim=-1)


def _degree2(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> list[Tensor]:
    s3 = sqrt(3)
    return [s3 * x * y, s3 * y * z, (3 * z * z - q) / 2, s3 * x * z, s3 / 2 * (x * x - y * y)]


def _degree3(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> list[Tensor]:
    a, b, s15 = sqrt(5 / 8), sqrt(3 / 8), sqrt(15)
    return [
        a * y * (3 * x * x - y * y),
        s15 * x * y * z,
        b * y * (5 * z * z - q),
        z * (5 * z * z - 3 * q) / 2,
        b * x * (5 * z * z - q),
        s15 / 2 * z * (x * x - y * y),
        a * x * (x * x - 3 * y * y),
    ]


def _degree4(x: Tensor, y: Tensor, z: Tensor, q: Tensor) -> list[Tensor]:
    s5, s10, s35, s70 = sqrt(5), sqrt(10), sqrt(35), sqrt(70)
    x2, y2, z2 = x * x, y * y, z * z
    return [
        s35 / 2 * x * y * (x2 - y2),
        s70 / 4 * y * z * (3 * x2 - y2),
        s5 / 2 * x * y * (7 * z2 - q),
        s10 / 4 * y * z * (7 * z2 - 3 * q),
        (35 * z2 * z2 - 30 * z2 * q + 3 * q * q) / 8,
        s10 / 4 * x * z * (7 * z2 - 3 * q),
        s5 / 4 * (x2 - y2) * (7 * z2 - q),
        s70 / 4 * x * z * (x2 - 3 * y2),
        s35 / 8 * (x2 * x2 - 6 * x2 * y2 + y2 * y2),
    ]
