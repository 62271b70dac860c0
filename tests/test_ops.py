"""Sums and softmaxes over edge lists against the padded arrays they replace."""

from __future__ import annotations

import pytest
import torch

from dpa2_ase.ops import segment_softmax, segment_sum, smooth_switch, softmax_with_empty_slots, type_pair_mask

DEGREES = torch.tensor([3, 0, 1, 5])  # of four centers, in a list of 6 slots
SLOTS = 6


@pytest.fixture
def edges():
    """Logits (E, 2), switches (E,) and centers (E,) of all edges."""
    generator = torch.Generator().manual_seed(0)
    n_edges = int(DEGREES.sum())
    logits = 5 * torch.randn(n_edges, 2, generator=generator, dtype=torch.float64)
    return (
        logits,
        torch.rand(n_edges, generator=generator, dtype=torch.float64),
        torch.arange(4).repeat_interleave(DEGREES),
    )


def padded(values: torch.Tensor, fill: float) -> torch.Tensor:
    """Rows of edges (E, ...) as a dense array (4, SLOTS, ...)."""
    result = values.new_full((len(DEGREES), SLOTS, *values.shape[1:]), fill)
    for row, part in zip(result, values.split(DEGREES.tolist()), strict=True):
        row[: len(part)] = part
    return result


def unpadded(array: torch.Tensor) -> torch.Tensor:
    return torch.cat([row[:n] for row, n in zip(array, DEGREES.tolist(), strict=True)])


def test_segment_sum(edges):
    logits, _, index = edges
    assert torch.allclose(segment_sum(logits, index, 4), padded(logits, 0.0).sum(1), atol=1e-14)
    assert segment_sum(logits[:0], index[:0], 4).shape == (4, 2)
    assert segment_sum(logits.float(), index, 4).dtype == torch.float32


def test_segment_softmax_counts_empty_slots(edges):
    """The padded form: empty slots have the logit -20 and weight zero, as in the training code."""
    logits, switch, index = edges
    logits = (logits + 20) * switch[:, None] - 20
    expected = unpadded(padded(logits, -20.0).softmax(1) * padded(switch, 0.0)[..., None])
    found = segment_softmax(logits, switch, index, SLOTS - DEGREES, 4)
    assert torch.allclose(found, expected, atol=1e-15)
    # and they matter: with small switches most of the weight is theirs
    without = segment_softmax(logits, switch, index, torch.zeros(4, dtype=torch.int64), 4)
    assert (without - found).abs().max() > 1e-12


def test_segment_softmax_all_slots_dark():
    """Every switch near zero: a center's own edge and its empty slots share the weight equally."""
    index, logits = torch.zeros(2, dtype=torch.int64), torch.full((2, 1), -20.0, dtype=torch.float64)
    found = segment_softmax(logits, torch.ones(2, dtype=torch.float64), index, torch.tensor([6]), 1)
    assert torch.allclose(found, torch.full((2, 1), 1 / 8, dtype=torch.float64), atol=1e-15)


def test_plain_segment_softmax(edges):
    """Without empty slots: logits of any size, also far below the floor."""
    logits, _, index = edges
    logits = logits - 1000
    expected = unpadded(padded(logits, -torch.inf).softmax(1))
    assert torch.allclose(
        segment_softmax(logits, torch.ones(len(index)).double(), index, None, 4), expected, atol=1e-15
    )


@pytest.mark.parametrize("size", [1e-3, 1.0, 500.0])
def test_softmax_with_empty_slots(size):
    """Against explicit padding; large logits neither overflow nor lose the floor."""
    generator = torch.Generator().manual_seed(1)
    logits = size * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    weight = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    empty = torch.tensor([[0], [2], [7]])
    for row in range(3):
        full = torch.cat([logits[row], torch.full((int(empty[row]),), -20.0)]).softmax(0)[:4]
        found = softmax_with_empty_slots(logits, weight, empty)[row]
        assert torch.allclose(found, weight[row] * full, atol=1e-15)


def test_softmax_gradients():
    """The shift is detached; that must not change derivatives. Logits near that of an empty slot make both count."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, generator=generator, dtype=torch.float64) - 20
    weight, empty = torch.rand(2, 3, generator=generator, dtype=torch.float64), torch.tensor([[1], [4]])
    logits.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: softmax_with_empty_slots(x, weight, empty), (logits,))
    index, count = torch.tensor([0, 0]), torch.tensor([3])
    assert torch.autograd.gradgradcheck(lambda x: segment_softmax(x, weight[:, 0], index, count, 1), (logits,))
    assert torch.autograd.gradgradcheck(lambda x: segment_softmax(x, weight[:, 0], index, None, 1), (logits,))


def test_switch_is_the_polynomial_of_deepmd():
    r = torch.linspace(0.0, 7.0, 701, dtype=torch.float64)
    u = ((r - 2.0) / 3.5).clamp(0, 1)
    assert torch.allclose(smooth_switch(r, 2.0, 5.5), u**3 * (-6 * u**2 + 15 * u - 10) + 1, atol=1e-15)
    assert (smooth_switch(r[r <= 2.0], 2.0, 5.5) == 1).all()
    assert (smooth_switch(r[r >= 5.5], 2.0, 5.5) == 0).all()


def test_switch_has_no_cancellation():
    """In float32 too it is positive and accurate all the way to the cutoff: attention divides by it."""
    r = torch.linspace(5.9, 6.0, 1001)[:-1]
    found, exact = smooth_switch(r, 0.5, 6.0), smooth_switch(r.double(), 0.5, 6.0)
    assert (found > 0).all()
    assert torch.allclose(found.double(), exact, rtol=1e-6, atol=0)  # about ten roundings of 6e-8


def test_type_pair_mask():
    expected = torch.zeros(3, 3, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 1] = True
    assert torch.equal(type_pair_mask(((2, 0), (1, 1)), 3), expected)
    assert not type_pair_mask((), 3).any()
