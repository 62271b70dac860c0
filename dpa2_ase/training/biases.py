r"""Energies of atoms from energies of structures.

.. math:: \min_b \; \sum_f \Big(E_f - \sum_t n_{ft} b_t\Big)^2 + \lambda \sum_t (b_t - b_0)^2

Plain least squares give an element that occurs in one frame alone whatever is left of that frame. The ridge
:math:`\lambda` draws such elements to :math:`b_0`; how much is told by generalized cross-validation (Golub, Heath and
Wahba, Technometrics 21, 215 (1979)), which leaves data that atomic energies describe well as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

RIDGES = (0.0, *np.logspace(-6, 3, 37))  # over the mean square of the singular values
SMALL = 1e-10  # singular values over the largest, below which data does not tell a difference


def fit_biases(counts: np.ndarray, energies: np.ndarray, *, around_mean: bool = False) -> np.ndarray:
    """Energies of the types (T,), eV, whose sums describe `energies` (F,) of `counts` (F, T) of atoms.

    What the data does not tell, such as how to share an energy among elements that always come together, is as near to
    zero as possible or, if `around_mean`, to the mean energy of an atom. Types that do not occur get zero.
    """
    n_atoms = counts.sum(axis=1)
    center = float(energies @ n_atoms / max(n_atoms @ n_atoms, 1)) if around_mean else 0.0
    left, values, right = np.linalg.svd(counts, full_matrices=False)
    told = values > SMALL * max(values.max(initial=0.0), SMALL)
    left, values, right = left[:, told], values[told], right[told]
    target = energies - center * n_atoms
    shares = left.T @ target
    ridge = _ridge(target, shares, values)
    found = right.T @ (shares * values / (values**2 + ridge)) if len(values) else np.zeros(counts.shape[1])
    return np.where(counts.any(axis=0), found + center, 0.0)


def _ridge(target: np.ndarray, shares: np.ndarray, values: np.ndarray) -> float:
    """The ridge of smallest generalized cross-validation error; none where there is nothing to validate with."""
    n, outside = len(target), float(target @ target - shares @ shares)
    if not len(values) or n <= len(values) or outside <= SMALL * float(target @ target):
        return 0.0
    best, chosen = np.inf, 0.0
    for ridge in np.multiply(RIDGES, np.mean(values**2)):
        kept = values**2 / (values**2 + ridge)
        error = (outside + float(((1 - kept) * shares) @ ((1 - kept) * shares))) / (n - kept.sum()) ** 2
        if error < best:
            best, chosen = error, float(ridge)
    return chosen


def borrow_biases(
    biases: Mapping[str, np.ndarray], occurs: Mapping[str, np.ndarray], heads: Sequence[str]
) -> dict[str, np.ndarray]:
    """Biases (T,) by head in which elements that do not occur in a head take those of the head that has most of them.

    The bias is moved by the mean difference of the two heads in the elements that both have: different levels of theory
    have different zeros. An element no head has keeps its bias.

    Parameters
    ----------
    occurs
        Number of atoms of every type in the data of each head, (T,).
    heads
        Heads with the same type map.
    """
    found = {name: biases[name].copy() for name in heads}
    for name in heads:
        for kind in np.flatnonzero(occurs[name] == 0):
            donor = max(heads, key=lambda other: occurs[other][kind])
            if occurs[donor][kind] == 0:
                continue
            both = (occurs[name] > 0) & (occurs[donor] > 0)
            shift = float(np.mean((biases[name] - biases[donor])[both])) if both.any() else 0.0
            found[name][kind] = biases[donor][kind] + shift
    return found
