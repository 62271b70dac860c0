"""Trainable twins of the initializer's blocks: values and derivatives by everything that is trained.

Tables are good to 1e-9 of the largest slope at their worst place. Values there, and the derivatives by parameters,
which are sums of what weighs the values, are a hundred times better; derivatives by vectors add up slopes at many
places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from torch import Tensor, nn

from dpa2_ase.config import SeAttenConfig, ThreeBodyConfig
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.cpu import available, library, trainable_tables
from dpa2_ase.kernels.cpu.library import Library
from dpa2_ase.kernels.cpu.trainable_se_atten import TrainableSeAtten
from dpa2_ase.kernels.cpu.trainable_tables import TrainedTables, tabulate
from dpa2_ase.kernels.cpu.trainable_three_body import TrainableThreeBody
from dpa2_ase.model import differentiable
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.nn.se_atten import SeAtten
from dpa2_ase.nn.three_body import ThreeBody
from dpa2_ase.topology import graph_of_structures

if not available()[0]:  # an installation without a compiler is a good one; tests/test_packaging.py builds the kernels
    pytest.skip(f"the compiled kernels are not available: {available()[1]}", allow_module_level=True)

_NAMES = library._BEST_FIRST.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
LIBRARIES = {name: Library(path) for name in _NAMES if (path := library._file(name))}
N_TYPES = 3
BASE: dict[str, object] = {
    "rcut": 6.0, "rcut_smth": 0.5, "nsel": 120, "neuron": (25, 50, 100), "tebd_dim": 8, "tebd_input_mode": "strip",
    "resnet_dt": False, "activation_function": "tanh", "smooth": True, "exclude_types": (), "env_protection": 0.0,
}  # fmt: skip
SE_ATTEN = SeAttenConfig(**BASE, axis_neuron=12, type_one_side=False)  # type: ignore[arg-type]  # as in DPA-2
THREE_BODY = ThreeBodyConfig(  # type: ignore[arg-type]  # as in DPA-2
    **BASE | {"rcut": 4.0, "rcut_smth": 3.5, "nsel": 48, "neuron": (2, 4, 8)}
)
COMMON: dict[str, dict[str, object]] = {
    "official": {},
    "not-smooth": {"smooth": False},
    "timestep": {"resnet_dt": True},
    "no-skip": {"neuron": (5, 9, 13)},  # no whole number of vectors, no skip connections
    "wide": {"neuron": (4, 8, 8, 16, 32)},
    "one-layer": {"neuron": (3,), "axis_neuron": 2},
    "gelu": {"activation_function": "gelu"},
    "protected": {"env_protection": 0.1},
    "truncated": {"nsel": 9},
    "excluded-types": {"exclude_types": ((0, 1), (2, 2)), "nsel": 9},
}
COMMON |= {
    f"concat-{name}": COMMON[name] | {"tebd_input_mode": "concat"}
    for name in ("official", "timestep", "no-skip", "truncated", "excluded-types")
}
ONE_SIDE: dict[str, dict[str, object]] = {
    "one-side": {"type_one_side": True},
    "concat-one-side": {"type_one_side": True, "tebd_input_mode": "concat"},
}
OPTIONS = {"SeAtten": COMMON | ONE_SIDE, "ThreeBody": COMMON}
MODES = [(kind, mode) for kind in ("SeAtten", "ThreeBody") for mode in ("strip", "concat")]
BLOCKS = [(kind, name) for kind, options in OPTIONS.items() for name in options]
Twin = type[TrainableSeAtten] | type[TrainableThreeBody]
TWINS: dict[str, Twin] = {"SeAtten": TrainableSeAtten, "ThreeBody": TrainableThreeBody}


@pytest.fixture
def always_tables(monkeypatch):
    """Tables also where so few edges or so many pairs of types make the reference quicker."""
    monkeypatch.setattr(trainable_tables, "NODES_PER_ROW", dict.fromkeys(trainable_tables.NODES_PER_ROW, 1e9))


def random_block(kind: str, options: dict[str, object], n_types: int = N_TYPES) -> SeAtten | ThreeBody:
    """A block with random weights and statistics, none of them near a special value."""
    config = SE_ATTEN if kind == "SeAtten" else THREE_BODY
    known = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{k: v for k, v in options.items() if k in known})  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        block = (SeAtten if kind == "SeAtten" else ThreeBody)(config, n_types).double()  # type: ignore[arg-type]
        for parameter in block.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        block.environment.std *= 0.2 + 0.1 * torch.rand(n_types, 1, dtype=torch.float64)
        if kind == "SeAtten":  # the mean of training, which empty slots see
            block.environment.mean[:, 0] += 0.1 * torch.rand(n_types, dtype=torch.float64)
    return block


def graph_of(n_types: int, *structures: Atoms, cutoff: float = 6.0) -> AtomicGraph:
    """Structures with their symbols as types; numbers as types where there are many of them."""
    lists = [build_neighbor_list(atoms, cutoff) for atoms in structures]
    return graph_of_structures(structures, lists, [atoms.numbers % n_types for atoms in structures])


def periodic_table(n_types: int) -> list[Atoms]:
    """Structures of few elements each, of many together; the first has an atom without neighbors."""
    rng = np.random.default_rng(4)
    lonely = zoo.structure("molecule")
    lonely += Atoms("H", [lonely.positions.max(0) + 20.0])
    found = [lonely, zoo.structure("skew"), zoo.structure("one-atom")]
    for seed in range(6):
        atoms = zoo.liquid(20, 14.0, seed)
        atoms.numbers = rng.choice(rng.permutation(n_types)[:4], len(atoms))
        found.append(atoms)
    return found


def type_embedding(block: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = len(block.environment.mean), block.config.tebd_dim
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)


def evaluate(block: nn.Module, reference: nn.Module, graph: AtomicGraph) -> dict[str, Tensor]:
    """Outputs, and the gradients of a random combination of them by everything."""
    dtype = reference.environment.mean.dtype
    embedding = type_embedding(reference, dtype).requires_grad_()
    graph = differentiable(graph)
    output = block(graph, embedding)
    values = {"sums": output} if isinstance(output, Tensor) else {"node": output.node, "vector": output.equivariant}
    generator = torch.Generator().manual_seed(1)
    total = sum(
        (torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x) * x).sum() for x in values.values()
    )
    variables = {"vectors": graph.vectors, "type embedding": embedding, **dict(reference.named_parameters())}
    total = total + 0 * embedding.sum()  # without edges the reference depends on nothing
    gradients = torch.autograd.grad(total, list(variables.values()), materialize_grads=True)
    return {n: x.detach() for n, x in values.items()} | dict(zip(variables, gradients, strict=True))


def assert_agrees(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    """Relative to the largest number of each quantity; some vanish by symmetry, to the rounding of their terms."""
    assert found.keys() == expected.keys()
    for name, x in found.items():
        y = expected[name].double()
        assert x.shape == y.shape
        error = (x.double() - y).abs().max().item() if x.numel() else 0.0
        scale = y.abs().max().item() if y.numel() else 0.0
        assert error <= limit * scale + 1e-15, f"{name}: {error:.1e} of {scale:.1e}"


@pytest.mark.parametrize(("kind", "option"), BLOCKS)
@pytest.mark.usefixtures("always_tables")
def test_options(kind, option):
    """All derivatives of every structure, alone and as one batch."""
    reference = random_block(kind, OPTIONS[kind][option])
    twin = TWINS[kind].from_reference(reference, torch.float64)
    assert TWINS[kind].obstacle(reference) is None
    single = [parameter.values[0] for parameter in zoo.structures()]
    for structures in [*([atoms] for atoms in single), single, [zoo.liquid(40, 8.0)]]:
        graph = graph_of(N_TYPES, *structures)
        assert_agrees(evaluate(twin, reference, graph), evaluate(reference, reference, graph), 1e-9)


@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.usefixtures("always_tables")
def test_many_elements(kind, mode):
    """Only pairs of elements that are neighbors take part."""
    reference = random_block(kind, {"tebd_input_mode": mode}, n_types=90)
    twin = TWINS[kind].from_reference(reference, torch.float64)
    graph = graph_of(90, *periodic_table(90))
    assert len(graph.types.unique()) > 15
    assert_agrees(evaluate(twin, reference, graph), evaluate(reference, reference, graph), 1e-9)


@pytest.mark.parametrize("kind", TWINS)
def test_tables_of_pairs_where_they_pay(kind):
    """Few pairs of types and many edges: tables, close to the reference. Many pairs, few edges: the very reference."""
    reference = random_block(kind, {"tebd_input_mode": "concat"}, n_types=90)
    twin = TWINS[kind].from_reference(reference, torch.float64)
    water = zoo.liquid(150, 12.0)
    water.numbers = water.numbers % 2
    for structures, is_tabulated in ([water], True), (periodic_table(90), False):
        graph = graph_of(90, *structures)
        found, expected = evaluate(twin, reference, graph), evaluate(reference, reference, graph)
        assert_agrees(found, expected, 1e-9)
        assert torch.equal(found["vectors"], expected["vectors"]) != is_tabulated


@pytest.mark.parametrize("own_precision", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.usefixtures("always_tables")
def test_single_precision(kind, mode, own_precision):
    """Sums of hundreds of terms of either sign, each with a few roundings of 6e-8, and tables good to 3e-7."""
    exact = random_block(kind, {"tebd_input_mode": mode})
    reference = random_block(kind, {"tebd_input_mode": mode}).to(own_precision)
    twin = TWINS[kind].from_reference(reference, torch.float32)
    graph = graph_of(N_TYPES, zoo.liquid(60, 10.0), zoo.structure("molecule"))
    found = evaluate(twin, reference, graph)
    assert {x.dtype for n, x in found.items() if n in ("sums", "node", "vector")} == {torch.float32}
    assert found["vectors"].dtype == torch.float64
    assert_agrees(found, evaluate(exact, exact, graph), 4e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.usefixtures("always_tables")
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries(name, kind, mode, dtype):
    """Vectors of other lengths."""
    reference = random_block(kind, {"tebd_input_mode": mode})
    twin = TWINS[kind](reference, dtype, LIBRARIES[name])  # type: ignore[arg-type]
    graph = graph_of(N_TYPES, zoo.structure("skew"), zoo.structure("molecule"))
    limit = {torch.float64: 1e-9, torch.float32: 4e-6}[dtype]
    assert_agrees(evaluate(twin, reference, graph), evaluate(reference, reference, graph), limit)


@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.usefixtures("always_tables")
def test_some_derivatives_only(kind, mode):
    """A pass for forces computes no gradients of weights, and the other way around; the numbers are the same."""
    reference = random_block(kind, {"tebd_input_mode": mode})
    twin = TWINS[kind].from_reference(reference, torch.float64)
    graph, embedding = graph_of(N_TYPES, zoo.structure("skew")), type_embedding(reference)
    parameters = list(reference.parameters())

    def total(of: AtomicGraph) -> Tensor:
        output = twin(of, embedding)
        return (output if isinstance(output, Tensor) else output.node).square().sum()

    moved = differentiable(graph)
    both = torch.autograd.grad(total(moved), [moved.vectors, *parameters])
    by_weights = torch.autograd.grad(total(graph), parameters)
    reference.requires_grad_(False)
    (by_vectors,) = torch.autograd.grad(total(moved), moved.vectors)
    for x, y in zip([by_vectors, *by_weights], both, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.usefixtures("always_tables")
def test_weights_of_the_moment(kind, mode):
    """Nothing is remembered of earlier weights and statistics."""
    reference = random_block(kind, {"tebd_input_mode": mode})
    twin = TWINS[kind].from_reference(reference, torch.float64)
    graph = graph_of(N_TYPES, zoo.structure("skew"))
    evaluate(twin, reference, graph)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter *= 1.3
        reference.environment.std *= 0.8
    assert_agrees(evaluate(twin, reference, graph), evaluate(reference, reference, graph), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("kind", "mode"), MODES)
@pytest.mark.usefixtures("always_tables")
def test_threads(kind, mode, dtype):
    """Bit for bit the same."""
    reference = random_block(kind, {"tebd_input_mode": mode}).to(dtype)
    twin = TWINS[kind].from_reference(reference, dtype)
    graph = graph_of(N_TYPES, zoo.liquid(150, 12.0), zoo.structure("molecule"))
    one = evaluate(twin, reference, graph)
    torch.set_num_threads(2)
    try:
        two = evaluate(twin, reference, graph)
    finally:
        torch.set_num_threads(1)
    for name, values in one.items():
        assert torch.equal(values, two[name]), name


@pytest.mark.parametrize("kind", TWINS)
def test_without_neighbors(kind):
    reference = random_block(kind, {})
    twin = TWINS[kind].from_reference(reference, torch.float64)
    for graph in (graph_of(N_TYPES, zoo.structure("one-atom")), graph_of(N_TYPES, Atoms())):
        assert graph.n_edges == 0
        assert_agrees(evaluate(twin, reference, graph), evaluate(reference, reference, graph), 0.0)


@pytest.mark.parametrize("kind", TWINS)
def test_atoms_on_top_of_each_other(kind):
    """A table would need far too many cells: the reference answers."""
    reference = random_block(kind, {})
    twin = TWINS[kind].from_reference(reference, torch.float64)
    atoms = zoo.structure("skew")
    atoms.positions[1] = atoms.positions[0] + [1e-4, 0, 0]
    graph = graph_of(N_TYPES, atoms)
    assert_agrees(evaluate(twin, reference, graph), evaluate(reference, reference, graph), 0.0)


@pytest.mark.parametrize("kind", TWINS)
def test_broken_numbers_stay_broken(kind):
    """A training that diverged must not look healthy."""
    reference = random_block(kind, {})
    twin = TWINS[kind].from_reference(reference, torch.float64)
    graph = graph_of(N_TYPES, zoo.structure("skew"))
    broken = graph.with_vectors(torch.full_like(graph.vectors, torch.nan))
    assert all(x.isnan().any() for n, x in evaluate(twin, reference, broken).items() if n in ("sums", "node"))
    next(reference.features.net.parameters()).data[0] = torch.nan
    assert all(x.isnan().any() for n, x in evaluate(twin, reference, graph).items() if n in ("sums", "node"))


@pytest.mark.parametrize("kind", TWINS)
def test_no_second_derivatives(kind):
    reference = random_block(kind, {})
    twin = TWINS[kind].from_reference(reference, torch.float64)
    graph = differentiable(graph_of(N_TYPES, zoo.structure("skew")))
    output = twin(graph, type_embedding(reference))
    total = (output if isinstance(output, Tensor) else output.node).sum()
    with pytest.raises(RuntimeError, match="second derivatives need the reference path"):
        torch.autograd.grad(total, graph.vectors, create_graph=True)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("SeAtten", {"attn_layer": 1, "attn": 4}, "attention"),
        ("SeAtten", {"lmax": 2}, "lmax"),
        *((kind, {"activation_function": "relu"}, "kinks") for kind in TWINS),
    ],
)
def test_obstacles(kind, options, reason):
    assert reason in (TWINS[kind].obstacle(random_block(kind, options)) or "")


def test_obstacle_of_angular_statistics():
    block = random_block("ThreeBody", {})
    block.environment.mean[:, 1:] = 0.1
    assert "empty neighbor slots" in (TrainableThreeBody.obstacle(block) or "")


def tables_of(
    functions: Callable[[Tensor, Tensor], Tensor], ranges: list[list[float]], *options: float
) -> TrainedTables:
    found = tabulate(functions, *torch.tensor(ranges, dtype=torch.float64).T, *options, 4096)
    assert found is not None
    return found


def test_tables_do_not_depend_on_the_range():
    """Where two of them overlap they are the same: a difference of two passes sees no error of tables jump."""
    small, large = (
        tables_of(lambda x, _: torch.sin(3 * x)[:, None], [[-limit, limit]], 0.25, 1e-9) for limit in (2.03, 3.9)
    )
    assert small.lattice.width == large.lattice.width
    skipped = int(small.lattice.start - large.lattice.start)
    n_cells = len(small.coefficients)
    assert torch.equal(small.coefficients, large.coefficients[skipped : skipped + n_cells])


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9])
def test_the_error_of_tables_is_what_was_asked_for(tolerance):
    """The estimate is good to a factor of two; in every table of several, of unequal ranges."""
    ranges = [[-4.0, 4.0], [0.5, 0.6], [-3.3, 1.2]]
    slopes = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    tables = tables_of(lambda x, table: torch.stack([torch.tanh(slopes[table] * x), x * x], 1), ranges, 1.0, tolerance)
    lattice = tables.lattice
    for number, (lower, upper) in enumerate(ranges):
        x, steepness = torch.linspace(lower, upper, 10_001, dtype=torch.float64), slopes[number]
        place = (x / lattice.width).floor()
        local = 2 * (x / lattice.width - place) - 1
        cell = place.to(torch.int64) - lattice.start[number] + lattice.first[number]
        assert lattice.owner[cell].eq(number).all()
        degrees = torch.arange(1, 6)
        powers = degrees * local[:, None] ** (degrees - 1)
        slope = torch.einsum("nq,nqc->nc", powers, tables.coefficients[cell, 1:]) * 2 / lattice.width
        exact = torch.stack([steepness / torch.cosh(steepness * x) ** 2, 2 * x], dim=1)
        assert (slope - exact).abs().max() <= 2 * tolerance * 8.0  # the largest slope of all
