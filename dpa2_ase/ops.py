"""Sums, softmaxes and switches over edge lists: the only places where edges meet their centers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

EMPTY_LOGIT = -20.0  # what the padded training code gives a slot that holds no neighbor


def segment_sum(values: Tensor, index: Tensor, n_segments: int) -> Tensor:
    """Sum rows of `values` (E, ...) that share an entry of `index` (E,); returns (n_segments, ...)."""
    return values.new_zeros(n_segments, *values.shape[1:]).index_add(0, index, values)


def smooth_switch(distances: Tensor, onset: float, cutoff: float) -> Tensor:
    r"""Fall smoothly from one at `onset` to zero at `cutoff` (Å), with two continuous derivatives.

    .. math:: w = v^3 (6v^2 - 15v + 10), \quad v = \mathrm{clamp}((r_c - r) / (r_c - r_s), 0, 1)

    DeePMD-kit writes the same polynomial in :math:`u = 1 - v`. In float32 that form is noise of either sign where it
    falls to zero, and attention that is not smooth divides by it: forces were wrong by eV/Å.
    """
    v = ((cutoff - distances) / (cutoff - onset)).clamp(0, 1)
    return v**3 * (6 * v**2 - 15 * v + 10)


def softmax_with_empty_slots(logits: Tensor, weight: Tensor, empty: Tensor) -> Tensor:
    r"""Softmax over the last axis as the padded training code computes it, without the padding.

    .. math:: A_k = w_k e^{l_k} / (\sum_{k'} e^{l_{k'}} + a\, e^{-20})

    Parameters
    ----------
    logits, weight
        Shape (..., n).
    empty
        Number of slots `a` of the padded list that held no neighbor; broadcasts over (..., 1).
    """
    shift = logits.detach().amax(-1, keepdim=True).clamp_min(EMPTY_LOGIT)
    exponential = (logits - shift).exp()
    total = exponential.sum(-1, keepdim=True) + empty * (EMPTY_LOGIT - shift).exp()
    return weight * exponential / total


def segment_softmax(logits: Tensor, weight: Tensor, index: Tensor, empty: Tensor | None, n_segments: int) -> Tensor:
    """Softmax of `logits` (E, H) over edges that share an entry of `index` (E,).

    Parameters
    ----------
    weight
        Factor of every edge in the numerator, shape (E,).
    empty
        Empty slots per segment (n_segments,), as in `softmax_with_empty_slots`; ``None`` for a plain softmax.
    """
    start = -torch.inf if empty is None else EMPTY_LOGIT
    expanded = index[:, None].expand_as(logits)
    shift = logits.new_full((n_segments, logits.shape[1]), start)
    shift = shift.scatter_reduce(0, expanded, logits.detach(), "amax")
    exponential = (logits - shift[index]).exp()
    total = segment_sum(exponential, index, n_segments)
    if empty is not None:
        total = total + empty[:, None] * (EMPTY_LOGIT - shift).exp()
    return weight[:, None] * exponential / total[index]


def type_pair_mask(pairs: tuple[tuple[int, int], ...], n_types: int) -> Tensor:
    """Symmetric table (T, T), true where a pair of types is listed in `pairs`."""
    mask = torch.zeros(n_types, n_types, dtype=torch.bool)
    for a, b in pairs:
        mask[a, b] = mask[b, a] = True
    return mask


_KNOWN = WeakTensorKeyDictionary()  # tensor -> (version, {column: answer})


def has_nonzero(table: Tensor, first_column: int = 0) -> bool:
    """Whether `table` (T, C) or (T,) holds anything but zeros from a column on; looked up once while it is not changed.

    To read a number on a GPU is to wait for all the work it still has; the tables of a model are always the same.
    """
    if table.is_inference():  # such tensors do not count their changes
        return bool(table[..., first_column:].any())
    version, answers = _KNOWN.get(table, (None, {}))
    if version != table._version:
        version, answers = table._version, {}
        _KNOWN[table] = version, answers
    if first_column not in answers:
        answers[first_column] = bool(table[..., first_column:].any())
    return answers[first_column]
