"""Single boxes of the network against formulas written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols

from dpa2_ase.config import ThreeBodyConfig
from dpa2_ase.nn.layers import Dense, LayerNorm, activation_function, embedding_net, fitting_net
from dpa2_ase.nn.pair_features import PairFeatures
from dpa2_ase.nn.repformer import Combine
from dpa2_ase.nn.spherical import solid_harmonics
from dpa2_ase.nn.tables import QuinticTable
from dpa2_ase.nn.type_embedding import TypeEmbedding, electronic_configuration, occupation


def vectors(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- solid harmonics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_addition_theorem(degree):
    """Sum over one degree of R(a) R(b) = |a|^l |b|^l P_l(cos): normalization, orthogonality and rotations at once."""
    a, b = vectors(20), vectors(20, seed=1)
    rows = slice(degree**2 - 4, (degree + 1) ** 2 - 4)
    found = (solid_harmonics(a, degree)[:, rows] * solid_harmonics(b, degree)[:, rows]).sum(1)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    legendre = np.polynomial.legendre.Legendre.basis(degree)(((a * b).sum(1) / lengths).numpy())
    np.testing.assert_allclose(found, lengths.numpy() ** degree * legendre, atol=1e-12, rtol=1e-12)
    squared = (solid_harmonics(a, degree)[:, rows] ** 2).sum(1)
    np.testing.assert_allclose(squared, a.norm(dim=1) ** (2 * degree), rtol=1e-13)


def test_harmonics_solve_the_laplace_equation():
    """Every component on its own: the trace of its Hessian vanishes."""
    point = vectors(1)[0]
    for component in range(21):
        hessian = torch.autograd.functional.hessian(lambda x, c=component: solid_harmonics(x[None], 4)[0, c], point)
        assert abs(hessian.trace()) < 1e-12
        assert hessian.abs().max() > 1e-3


def test_lmax_chooses_degrees():
    assert [solid_harmonics(vectors(1), lmax).shape[1] for lmax in (2, 3, 4)] == [5, 12, 21]


# ---- activations and layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 3.0, 10.0])
def test_silut_is_continuous(threshold):
    """Value and slope where SiLU becomes tanh; above, the tanh is bounded."""
    function = activation_function(f"silut:{threshold}")
    x = torch.tensor([threshold - 1e-9, threshold + 1e-9], dtype=torch.float64, requires_grad=True)
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert abs(value[1] - value[0]) < 1e-8  # slope about one
    assert abs(slope[1] - slope[0]) < 1e-8
    below = torch.tensor([-3.0, 0.1])
    assert torch.equal(function(below), torch.nn.functional.silu(below))
    top = threshold / (1 + math.exp(-threshold)) + 1
    assert function(torch.tensor([1e4])).item() == pytest.approx(top, rel=1e-6)
    assert activation_function("silut").keywords == {"threshold": 3.0}


def test_activation_names():
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)
    assert torch.equal(activation_function("GELU_TF")(x), activation_function("gelu")(x))
    tanh_form = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert torch.allclose(activation_function("gelu")(x), tanh_form, atol=1e-14)
    assert torch.equal(activation_function(None)(x), x)
    assert activation_function("relu6")(x).max() == 6
    for name in ("swish", "tanh:2"):
        with pytest.raises(ValueError, match="activation_function"):
            activation_function(name)


@pytest.mark.parametrize(("n_out", "copies"), [(3, 1), (6, 2), (4, 0), (9, 0)])
@pytest.mark.parametrize("timestep", [False, True])
def test_dense_skips_by_width(n_out, copies, timestep):
    layer = Dense(3, n_out, activation="tanh", timestep=timestep, resnet=True).double()
    x = vectors(5)
    y = torch.tanh(x @ layer.weight + layer.bias)
    assert (layer.timestep is not None) == (timestep and copies > 0)
    y = y if layer.timestep is None else y * layer.timestep
    expected = y + torch.cat([x] * copies, 1) if copies else y
    assert torch.allclose(layer(x), expected, atol=1e-15)
    plain = Dense(3, n_out, activation="tanh")
    assert torch.allclose(plain(x.float()), torch.tanh(x.float() @ plain.weight + plain.bias), atol=1e-6)


def test_nets_end_as_trained():
    """The last layer of an embedding net is active, that of a fitting net linear; no skip without equal widths."""
    embedding, fitting = embedding_net(2, (2, 4, 5), "tanh", False), fitting_net(2, (4, 4), 3, "tanh", True)
    assert [layer.copies for layer in embedding] == [1, 2, 0]
    assert [layer.copies for layer in fitting] == [2, 1, 0]
    assert embedding(1e3 * torch.ones(1, 2)).abs().max() <= 1
    assert fitting[-1].timestep is None
    assert torch.equal(fitting[-1].activation(torch.tensor([9.0])), torch.tensor([9.0]))
    assert fitting_net(2, (), 3, "tanh", False)(torch.ones(1, 2)).shape == (1, 3)


def test_layer_norm():
    norm, x = LayerNorm(3, 0.1).double(), vectors(4)
    variance = ((x - x.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
    assert torch.allclose(norm(x), (x - x.mean(1, keepdim=True)) / (variance + 0.1).sqrt(), atol=1e-14)
    assert LayerNorm(3, None).eps == 1e-5


def test_combine():
    old, updates = vectors(4), [vectors(4, seed=1), vectors(4, seed=2)]
    assert torch.allclose(Combine("res_avg", 2, 3)(old, updates), (old + sum(updates)) / 3**0.5)
    assert torch.allclose(Combine("res_incr", 2, 3)(old, updates), old + sum(updates) / 2**0.5)
    residual = Combine("res_residual", 2, 3).double()
    expected = old + residual.scales[0] * updates[0] + residual.scales[1] * updates[1]
    assert torch.allclose(residual(old, updates), expected, atol=1e-15)
    assert Combine("res_avg", 0, 3)(old, []) is old


@pytest.mark.parametrize("one_side", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_strip_features(one_side, smooth):
    """g = N(x) (1 + w N_t(T_1, T_2)), with the net of the types evaluated once per kind of pair."""
    config = ThreeBodyConfig(
        rcut=4.0,
        rcut_smth=3.0,
        nsel=6,
        neuron=(4, 4),
        tebd_dim=2,
        tebd_input_mode="strip",
        resnet_dt=False,
        activation_function="tanh",
        smooth=smooth,
        exclude_types=(),
        env_protection=0.0,
    )
    features = PairFeatures(config, one_side=one_side)
    x, switch, types = torch.rand(6), torch.rand(6), torch.tensor([[0, 1, 2, 2, 0, 1], [1, 1, 0, 2, 1, 0]])
    embedding = torch.randn(3, 2)
    rows = [embedding[types[0]]] if one_side else [embedding[types[0]], embedding[types[1]]]
    weight = switch[:, None] if smooth else 1.0
    expected = features.net(x[:, None]) * (1 + weight * features.type_net(torch.cat(rows, 1)))
    found = features(x, types[0], types[1], embedding, switch)
    assert torch.allclose(found, expected, atol=1e-6)


# ---- elements -------------------------------------------------------------------------------------------------------


def test_all_electrons_are_there():
    rows = electronic_configuration(chemical_symbols[1:119])
    assert rows.shape == (118, 118)
    assert torch.allclose(rows.abs(), torch.full((118, 118), 1 / math.sqrt(118), dtype=torch.float64))
    assert [int((row > 0).sum()) for row in rows] == list(range(1, 119))
    assert len({tuple((row > 0).tolist()) for row in rows}) == 118
    for z, symbol in enumerate(chemical_symbols[1:119], start=1):
        assert sum(occupation(symbol).values()) == z


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("C", "1s2 2s2 2p2"),
        ("Cr", "1s2 2s2 2p6 3s2 3p6 3d5 4s1"),
        ("Cu", "1s2 2s2 2p6 3s2 3p6 3d10 4s1"),
        ("Pd", "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10"),
        ("Gd", "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10 4f7 5s2 5p6 5d1 6s2"),
        ("Au", "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10 4f14 5s2 5p6 5d10 6s1"),
        ("Lr", "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10 4f14 5s2 5p6 5d10 5f14 6s2 6p6 6d1 7s2"),
    ],
)
def test_ground_states(symbol, expected):
    filled = {shell: n for shell, n in occupation(symbol).items() if n}
    assert filled == {entry[:2]: int(entry[2:]) for entry in expected.split()}


def test_hund():
    """Carbon: 1s and 2s full, two 2p orbitals with one electron each, the rest empty."""
    signs = (electronic_configuration(["C"])[0] > 0).tolist()
    assert signs[:4] == [True] * 4
    assert signs[4:10] == [False, True, False, True, False, False]
    assert not any(signs[10:])


def test_names_that_are_no_elements():
    with pytest.raises(ValueError, match="MW"):
        electronic_configuration(["O", "MW"])


@pytest.mark.parametrize(("width", "copies"), [(3, 1), (6, 2), (5, 0)])
def test_type_embedding_skips_by_width(width, copies):
    """X + W for as many channels as types, [X, X] + W for twice as many, W otherwise."""
    embedding = TypeEmbedding(["O", "H", "Cu"], width, econf=False, bias=True).double()
    skip = torch.cat([torch.eye(3).double()] * copies, 1) if copies else 0.0
    assert torch.allclose(embedding(), embedding.layer.weight + embedding.layer.bias + skip)
    assert "inputs" not in embedding.state_dict()


# ---- tables ---------------------------------------------------------------------------------------------------------


def quintic() -> tuple[QuinticTable, np.ndarray]:
    """Two fine cells of 0.5 from -1 to 0, three coarse ones of 1.0 up to 3; two channels with random coefficients."""
    coefficients = np.random.default_rng(0).normal(size=(5, 2, 6))
    info = torch.tensor([-1.0, 0.0, 3.0, 0.5, 1.0, -1.0])
    return QuinticTable(info, torch.as_tensor(coefficients.reshape(5, 12))), coefficients


def test_table_inside():
    table, coefficients = quintic()
    starts, x = [-1.0, -0.5, 0.0, 1.0, 2.0], [-0.9, -0.1, 0.7, 1.0, 2.99]
    for cell, value in enumerate(x):
        expected = [np.polynomial.Polynomial(c)(value - starts[cell]) for c in coefficients[cell]]
        np.testing.assert_allclose(table(torch.tensor([[value]], dtype=torch.float64))[0], expected, atol=1e-13)
    assert table(torch.zeros(2, 3, 1).double()).shape == (2, 3, 2)


@pytest.mark.parametrize(("end", "cell", "local"), [(-1.0, 0, 0.0), (3.0, 4, 1.0)])
def test_table_goes_on_as_a_line(end, cell, local):
    table, coefficients = quintic()
    polynomials = [np.polynomial.Polynomial(c) for c in coefficients[cell]]
    value, slope = (np.array([p(local) for p in ps]) for ps in (polynomials, [p.deriv() for p in polynomials]))
    for beyond in (0.25, 7.0):
        x = end + math.copysign(beyond, end)
        np.testing.assert_allclose(
            table(torch.tensor([[x]], dtype=torch.float64))[0], value + slope * (x - end), atol=1e-12, rtol=1e-12
        )


def test_table_gradient():
    """Inside and beyond both ends, first and second derivatives."""
    table, _ = quintic()
    x = torch.tensor([[-2.3], [-0.8], [-0.2], [0.6], [1.7], [2.4], [5.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(table, (x,))
    assert torch.autograd.gradgradcheck(table, (x,))


def test_damaged_tables_are_refused():
    good = torch.tensor([-1.0, 0.0, 3.0, 0.5, 1.0, -1.0])
    with pytest.raises(ValueError, match="six coefficients"):
        QuinticTable(good, torch.zeros(5, 13))
    with pytest.raises(ValueError, match="compressed table of this file"):
        QuinticTable(good, torch.zeros(4, 12))
