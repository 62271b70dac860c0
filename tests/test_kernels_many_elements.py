"""Tabulated twins where structures bring ever other elements: the same numbers, and no memory for each of them."""

from __future__ import annotations

import pytest
import torch
import zoo
from ase import Atoms
from test_kernels_blocks import GRADIENT, VALUE, Block, close, value_and_gradient

from dpa2_ase.config import SeAttenConfig, ThreeBodyConfig
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.cpu import available
from dpa2_ase.kernels.cpu.se_atten import CompiledSeAtten
from dpa2_ase.kernels.cpu.three_body import CompiledThreeBody
from dpa2_ase.kernels.se_atten import MOST_COLUMNS, MOST_SQUARES, TabulatedSeAtten
from dpa2_ase.kernels.tabulation import MOST_NEW, MOST_PAIRS
from dpa2_ase.kernels.three_body import TabulatedThreeBody
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.nn.se_atten import SeAtten
from dpa2_ase.nn.three_body import ThreeBody
from dpa2_ase.topology import graph_of_structures

N_TYPES = 30
BASE: dict[str, object] = {
    "nsel": 60, "tebd_dim": 4, "resnet_dt": False, "activation_function": "tanh", "smooth": True, "exclude_types": (),
    "env_protection": 0.0,
}  # fmt: skip
TWINS = [TabulatedSeAtten, TabulatedThreeBody]
if available()[0]:  # without a compiler the torch path is all there is
    TWINS += [CompiledSeAtten, CompiledThreeBody]


def block(twin: type, mode: str) -> Block:
    """Random weights; the statistics of every element are its own, by a factor of five."""
    options = BASE | {"tebd_input_mode": mode}
    torch.manual_seed(5)
    found: Block
    if twin in (TabulatedSeAtten, CompiledSeAtten):
        config = SeAttenConfig(  # type: ignore[arg-type]
            **options, rcut=5.0, rcut_smth=0.5, neuron=(5, 10, 20), axis_neuron=4, type_one_side=False
        )
        found = SeAtten(config, N_TYPES).double()
    else:
        config = ThreeBodyConfig(**options, rcut=3.5, rcut_smth=3.0, neuron=(2, 4, 8))  # type: ignore[arg-type]
        found = ThreeBody(config, N_TYPES).double()
    order = torch.linspace(1.0, 0.2, N_TYPES, dtype=torch.float64)
    found.environment.std *= 0.3 * order[:, None]  # later elements have larger arguments: tables have to grow
    return found.requires_grad_(False)


def graph(types: list[int], n_atoms: int, seed: int) -> AtomicGraph:
    atoms: Atoms = zoo.liquid(n_atoms, 16.0, seed)
    cycle = torch.tensor(types).repeat(n_atoms)[:n_atoms].numpy()
    return graph_of_structures([atoms], [build_neighbor_list(atoms, 5.0)], [cycle])


@pytest.mark.parametrize("mode", ["strip", "concat"])
@pytest.mark.parametrize("kind", TWINS, ids=lambda kind: kind.__name__)
def test_elements_that_come_one_after_the_other(kind, mode):
    """Of few, of many and of all elements, with old ones in between."""
    reference = block(kind, mode)
    twin = kind.from_reference(reference, torch.float64)
    embedding = torch.randn(N_TYPES, 4, dtype=torch.float64)
    sets = [[0, 1], [2], [0, 5, 29], [*range(12)], [3, 4], [*range(N_TYPES)], [0, 1], [28, 29, 7]]
    for seed, types in enumerate(sets):
        structure = graph(types, 2 * max(len(types), 6), seed)
        expected, expected_gradient = value_and_gradient(reference, structure, embedding)
        found, gradient = value_and_gradient(twin, structure, embedding)
        for one, other in zip(found, expected, strict=True):
            close(one, other, VALUE, expected[0].abs().max().item() ** 0.5 if other.ndim == 3 else 0.0)
        close(gradient, expected_gradient, GRADIENT)


@pytest.mark.parametrize("mode", ["strip", "concat"])
@pytest.mark.parametrize("kind", [TabulatedSeAtten, TabulatedThreeBody], ids=lambda kind: kind.__name__)
def test_a_stream_of_structures_needs_no_more_memory(kind, mode):
    """Every structure is of elements that have not been together."""
    twin = kind.from_reference(block(kind, mode), torch.float64)
    embedding = torch.randn(N_TYPES, 4, dtype=torch.float64)
    for number in range(90):
        types = sorted({number % N_TYPES, (7 * number + 3) % N_TYPES, (number // 3) % N_TYPES})
        twin.plan(torch.tensor(types), embedding)
    tables = [twin._book.tables, *(plan.tables for plan in twin._plans.values())]
    assert len({part.coefficients.data_ptr() for part in tables}) == 1  # all plans share one set of tables
    assert len(tables[0].lower) == 1 if mode == "strip" else len(tables[0].lower) <= MOST_PAIRS
    if kind is TabulatedSeAtten:
        assert sum(len(plan.elements) ** 2 for plan in twin._plans.values()) <= MOST_SQUARES
        if mode == "strip":
            assert len({plan.factor.data_ptr() for plan in twin._plans.values()}) == 1


def test_more_elements_than_tables_pay_for():
    """Tables of that many pairs would take longer to make than the exact nets take."""
    many = [*range(N_TYPES)]
    assert len(many) > MOST_COLUMNS
    assert len(many) * (len(many) + 1) // 2 > MOST_NEW
    for kind in (TabulatedSeAtten, TabulatedThreeBody):
        twin = kind.from_reference(block(kind, "concat"), torch.float64)
        embedding = torch.randn(N_TYPES, 4, dtype=torch.float64)
        twin(graph(many, 60, 0), embedding)
        assert len(twin._book.pairs) == 1
