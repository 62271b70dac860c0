"""Muon: what it does to matrices, and that everything else is Adam."""

from __future__ import annotations

import pytest
import torch

from dpa2_ase.training.muon import Muon, is_matrix, orthogonalized


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 16)])
def test_singular_vectors_stay_and_singular_values_become_alike(shape):
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), dtype=torch.float64))
    values = torch.logspace(0, -2, min(shape), dtype=torch.float64)
    within = left.T @ orthogonalized(left * values @ right.T * 1e-3) @ right
    found = within.diagonal()
    assert float((within - torch.diag(found)).abs().max()) < 1e-12
    assert 0.6 < float(found.min()) <= float(found.max()) < 1.3  # what five iterations of the polynomial leave


def test_a_step_has_the_size_of_the_learning_rate_whatever_the_gradient():
    torch.manual_seed(1)
    for scale in (1e-6, 1e6):
        matrix = torch.nn.Parameter(torch.zeros(64, 32, dtype=torch.float64))
        matrix.grad = scale * torch.randn_like(matrix)
        Muon([{"params": [matrix], "matrices": True}], lr=1e-2).step()
        assert float(matrix.detach().square().mean().sqrt()) == pytest.approx(
            0.2e-2, rel=0.2
        )  # singular values vary so


def test_zero_gradients_move_nothing():
    matrix = torch.nn.Parameter(torch.ones(9, 8))
    matrix.grad = torch.zeros_like(matrix)
    Muon([{"params": [matrix], "matrices": True}], lr=1.0).step()
    assert torch.equal(matrix.detach(), torch.ones(9, 8))


def test_other_parameters_move_as_by_adamw():
    torch.manual_seed(2)
    start, ours, theirs = torch.randn(7, dtype=torch.float64), [], []
    for found, kind in ((ours, Muon), (theirs, torch.optim.AdamW)):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([{"params": [parameter]}], lr=0.1, betas=(0.8, 0.9), weight_decay=0.3)
        for _ in range(10):
            optimizer.zero_grad()
            (parameter**4).sum().backward()
            optimizer.step()
            found.append(parameter.detach().clone())
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-12, atol=1e-12)


def test_a_regression_ends_at_its_solution():
    torch.manual_seed(3)
    inputs, solution = torch.randn(256, 16, dtype=torch.float64), torch.randn(16, 12, dtype=torch.float64)
    matrix = torch.nn.Parameter(torch.zeros(16, 12, dtype=torch.float64))
    optimizer = Muon([{"params": [matrix], "matrices": True}], lr=0.1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        optimizer.zero_grad()
        (inputs @ (matrix - solution)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(matrix.detach(), solution, rtol=0, atol=1e-3)  # the last steps are 0.1/400 * 0.2 long


def test_type_embeddings_and_thin_matrices_are_left_to_adam():
    assert is_matrix("descriptor.repformer.layers.0.linear1.matrix", torch.zeros(640, 128))
    assert not is_matrix("descriptor.type_embedding.embedding.matrix", torch.zeros(118, 16))
    assert not is_matrix("descriptor.repformer.g2_embd.matrix", torch.zeros(1, 32))
    assert not is_matrix("fitting.bias", torch.zeros(128))
