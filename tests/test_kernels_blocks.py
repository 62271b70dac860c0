"""Tabulated twins of `SeAtten` and `ThreeBody` against the reference: values, gradients, and how tables are made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import zoo
from ase import Atoms
from test_parity import DATA, samples

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels import column_sums, pair_sums, se_atten, three_body
from dpa2_ase.kernels.se_atten import TabulatedSeAtten
from dpa2_ase.kernels.tables import powers, weighted_coefficients
from dpa2_ase.kernels.tabulation import PairFunctions, TableBook, net_and_slope, tabulate
from dpa2_ase.kernels.three_body import TabulatedThreeBody
from dpa2_ase.model import Potential, differentiable
from dpa2_ase.nn.descriptors import DPA1, DPA2
from dpa2_ase.nn.layers import embedding_net
from dpa2_ase.nn.se_atten import BlockOutput, SeAtten
from dpa2_ase.nn.three_body import ThreeBody

pytestmark = pytest.mark.filterwarnings("ignore:head .* was not trained on:UserWarning")
Block = SeAtten | ThreeBody
TWINS = {SeAtten: TabulatedSeAtten, ThreeBody: TabulatedThreeBody}
MODELS = ("dpa2-everything", "dpa2-strip", "dpa2-resavg-nosmooth")  # concatenated and strip, with a mean
# sums over a hundred neighbors of functions good to 1e-13, and of their slopes, good to 1e-12; relative to the largest
VALUE, GRADIENT = 1e-12, 1e-11
SINGLE = 1e-6  # float32: ten roundings of 1e-7


def files() -> list:
    """Files with numbers of DeePMD-kit, all of which the reference reproduces."""
    found = [path for folder in ("parity", "extra") for path in sorted((DATA / folder).glob("*.pt"))]
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.stem}")
        for path in found
        if path.with_suffix(".npz").exists() and "multitask" not in path.stem
    ]


def blocks(potential: Potential) -> list[tuple[Block, torch.Tensor]]:
    """All blocks of a model that could have a twin, in float64, with the type embedding they get."""
    found = []
    for descriptor in potential.modules():
        if isinstance(descriptor, DPA1 | DPA2):
            descriptor.double()
            embedding = descriptor.type_embedding()
            found += [(block, embedding) for block in descriptor.children() if isinstance(block, Block)]
    return found


def twin_of(block: Block, dtype: torch.dtype = torch.float64) -> TabulatedSeAtten | TabulatedThreeBody:
    twin = TWINS[type(block)]
    assert twin.obstacle(block) is None
    return twin.from_reference(block, dtype)


def has_twin(block: Block) -> bool:
    return TWINS[type(block)].obstacle(block) is None


def value_and_gradient(
    block: torch.nn.Module, graph: AtomicGraph, embedding: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Outputs of a block, and the gradient of a random sum of them by the vectors of the edges."""
    graph = differentiable(graph)
    output = block(graph, embedding)
    values = [output.node, output.equivariant] if isinstance(output, BlockOutput) else [output]
    generator = torch.Generator().manual_seed(3)
    total = sum((torch.randn(v.shape, generator=generator, dtype=torch.float64) * v).sum() for v in values)
    assert isinstance(total, torch.Tensor)
    if not graph.n_edges or not total.requires_grad:  # nothing within the cutoff of the block
        return [value.detach() for value in values], torch.zeros_like(graph.vectors)
    (gradient,) = torch.autograd.grad(total, graph.vectors)
    return [value.detach() for value in values], gradient


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float, least: float = 0.0) -> None:
    size = max(expected.abs().max().item() if expected.numel() else 0.0, least)
    torch.testing.assert_close(found.double(), expected, atol=tolerance * size, rtol=0)


def compare(
    block: Block,
    graph: AtomicGraph,
    embedding: torch.Tensor,
    dtype: torch.dtype = torch.float64,
    twin: torch.nn.Module | None = None,
) -> None:
    value_tolerance, gradient_tolerance = (VALUE, GRADIENT) if dtype == torch.float64 else (SINGLE, SINGLE)
    expected, expected_gradient = value_and_gradient(block, graph, embedding)
    found, gradient = value_and_gradient(twin or twin_of(block, dtype), graph, embedding)
    least = expected[0].abs().max().item() ** 0.5  # the equivariant part, whose square it is, may be zero by symmetry
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        close(one, other, value_tolerance, least if other.ndim == 3 else 0.0)
    assert gradient.dtype == torch.float64
    close(gradient, expected_gradient, gradient_tolerance)


def perturbed(potential: Potential, size: float, seed: int) -> Potential:
    """Other weights of the same sizes, far from what a training begins with."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in potential.parameters():
        parameter.data *= 1 + size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return potential


def fresh(name: str) -> Potential:
    return load_potential(DATA / "parity" / f"{name}.pt")


# ---- twin and reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files())
def test_twins_equal_their_references(path: Path):
    """Every option of the stored models: strip, one side, means, exclusions, lmax, smooth or not."""
    potential = load_potential(path)
    pairs = [(block, embedding, twin_of(block)) for block, embedding in blocks(potential) if has_twin(block)]
    for sample in samples(path.with_suffix(".npz")) if pairs else []:
        graph = zoo.graph_of(potential, sample.atoms)
        for block, embedding, twin in pairs:
            compare(block, graph, embedding, twin=twin)


def test_most_stored_models_have_twins():
    """The test above would pass without any."""
    n_twins = sum(has_twin(block) for path in files() for block, _ in blocks(load_potential(path.values[0])))
    assert n_twins > 60


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("atoms", zoo.structures())
def test_perturbed_weights_on_all_structures(atoms: Atoms, name: str):
    potential = perturbed(fresh(name), 0.3, seed=len(atoms))
    graph = zoo.graph_of(potential, atoms)
    for block, embedding in blocks(potential):
        compare(block, graph, embedding)


def test_many_structures_at_once():
    potential = fresh("dpa2-everything")
    graph = zoo.graph_of(potential, *[parameter.values[0] for parameter in zoo.structures()])
    for block, embedding in blocks(potential):
        compare(block, graph, embedding)


@pytest.mark.parametrize("name", MODELS)
def test_very_close_neighbors_get_the_exact_nets(name: str):
    """At 0.2 Å and 0.5 Å w / r is beyond the tables, whatever the statistics."""
    potential = perturbed(fresh(name), 0.1, seed=1)
    atoms = Atoms("OHCuHO", [[0, 0, 0], [0.1, 0.1, 0.14], [1.2, 0.3, 0.1], [-0.4, 1.1, 0.2], [-0.3, 1.5, 0.5]])
    graph = zoo.graph_of(potential, atoms)
    assert (graph.distances < 0.6).sum() == 4
    for block, embedding in blocks(potential):
        compare(block, graph, embedding)
        close(*(b(graph, embedding).node if isinstance(block, SeAtten) else b(graph, embedding)
                for b in (twin_of(block), block)), VALUE)  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_float32(name: str):
    """Sums are accurate, so that only the functions are rounded."""
    potential = fresh(name)
    graph = zoo.graph_of(potential, zoo.liquid(24, 9.0))
    for block, embedding in blocks(potential):
        compare(block, graph, embedding, torch.float32)


@pytest.mark.parametrize("name", ["parity/dpa2-strip-compressed", "extra/dpa1-compressed"])
def test_compressed_files_keep_their_numbers(name: str):
    """The nets of the second differ from its coarse tables by 1e-8."""
    potential = load_potential(DATA / f"{name}.pth")
    for sample in samples(DATA / "parity/dpa2-strip.npz" if "dpa2" in name else DATA / f"{name}.npz"):
        graph = zoo.graph_of(potential, sample.atoms)
        for block, embedding in blocks(potential):
            compare(block, graph, embedding)


def test_a_float32_file():
    """Its own nets, but the geometry is rounded before they see it."""
    potential, exact = fresh("dpa2-float32"), fresh("dpa2-float32")
    graph = zoo.graph_of(potential, zoo.structure("molecule"))
    descriptor = next(module for module in potential.modules() if isinstance(module, DPA2))
    for block, (reference, embedding) in zip((descriptor.repinit, descriptor.three_body), blocks(exact), strict=True):
        assert isinstance(block, Block)
        assert block.environment.std.dtype == torch.float32
        found, gradient = value_and_gradient(twin_of(block, torch.float32), graph, descriptor.type_embedding())
        expected, expected_gradient = value_and_gradient(reference, graph, embedding)
        close(found[0], expected[0], SINGLE)
        close(gradient, expected_gradient, SINGLE)


def test_small_tiles_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch):
    potential = fresh("dpa2-everything")
    graph = zoo.graph_of(potential, zoo.structure("slab"), zoo.structure("one-atom"), zoo.structure("molecule"))
    monkeypatch.setattr(column_sums, "SLOTS", 1)
    monkeypatch.setattr(pair_sums, "PAIRS", 1)
    for block, embedding in blocks(potential):
        compare(block, graph, embedding)


@pytest.mark.parametrize("name", ["dpa2-everything", "dpa2-strip"])
def test_backward_can_be_repeated(name: str):
    potential = fresh(name)
    graph = zoo.graph_of(potential, zoo.structure("molecule"))
    graph = differentiable(graph)
    for block, embedding in blocks(potential):
        output = twin_of(block)(graph, embedding)
        total = (output.node if isinstance(output, BlockOutput) else output).sum()
        first, second = (torch.autograd.grad(total, graph.vectors, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)


def test_without_gradients():
    potential = fresh("dpa2-everything")
    graph = zoo.graph_of(potential, zoo.structure("molecule"))
    for block, embedding in blocks(potential):
        output = twin_of(block)(graph, embedding)
        assert not (output.node if isinstance(output, BlockOutput) else output).requires_grad


def test_obstacles_are_named():
    reasons = {
        "dpa1-attn": "attention layers",
        "dpa2-strip-compressed.pth": None,
        "extra/dpa2-relu-relu6-softplus": "relu has kinks",
        "extra/dpa2-sigmoid-silut": None,
    }
    for name, reason in reasons.items():
        folder, _, stem = name.rpartition("/")
        path = DATA / (folder or "parity") / (stem if "." in stem else f"{stem}.pt")
        block, _ = blocks(load_potential(path))[0]
        obstacle = TWINS[type(block)].obstacle(block)
        assert obstacle is None if reason is None else reason in str(obstacle)


# ---- making tables --------------------------------------------------------------------------------------------------


def test_slope_of_a_net():
    """Against autograd, with timesteps and both kinds of skips."""
    net = embedding_net(3, [3, 6, 6, 4], "gelu", timestep=True).double().requires_grad_(False)
    inputs = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, slope = net_and_slope(net, inputs)
    assert torch.allclose(value, net(inputs), rtol=1e-14)
    jacobian = torch.stack([torch.autograd.functional.jacobian(net, row)[:, 0] for row in inputs])
    assert torch.allclose(slope, jacobian, rtol=1e-12, atol=1e-14)


class Waves:
    """Functions sin(a x + c) and their slopes, counting the arguments asked for; a pair (i, j) has a = i + steep j."""

    def __init__(self, steep: float) -> None:
        self.steep, self.count = steep, 0

    def evaluate(self, pairs: torch.Tensor, argument: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.count += argument.numel()
        rate = (pairs[:, 0] + self.steep * pairs[:, 1])[:, None, None]
        phase = rate * argument[..., None] + torch.arange(10, dtype=torch.float64)
        return torch.sin(phase), rate * torch.cos(phase)

    def ranges(self, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        upper = torch.full((len(pairs),), 2.5, dtype=torch.float64)
        return -upper / 2, upper

    def functions(self, *, low_rank: bool, reader: torch.dtype = torch.float64) -> PairFunctions:
        return PairFunctions(self.evaluate, self.ranges, low_rank, reader)


@pytest.mark.parametrize("low_rank", [True, False])
def test_tables_of_known_functions(low_rank: bool):
    """Ten shifted waves span two functions; the error was asked for as 1e-13."""
    waves = Waves(steep=3.0)
    pairs = torch.tensor([[1, 1], [2, 0]])
    tables, accurate = tabulate(waves.functions(low_rank=low_rank), pairs, 128)
    assert accurate.all()
    assert tables.rank == (4 if low_rank else 12)
    assert tables.n_cells & (tables.n_cells - 1) == 0
    argument = torch.linspace(-1.25, 2.5, 1001, dtype=torch.float64)
    for kind in range(2):
        numbers = torch.full_like(argument, kind, dtype=torch.int64)
        row, x = tables.locate(argument, numbers)
        found = weighted_coefficients(tables, row, powers(x)) @ tables.basis[kind]
        assert (found - waves.evaluate(pairs[kind : kind + 1], argument[None])[0][0]).abs().max() < 1e-13
        assert tables.covers(argument[1:-1], numbers[1:-1]).all()
        assert not tables.covers(torch.tensor([-1.26, 2.51, math.nan]), numbers[:3]).any()


def test_tables_for_single_precision_are_smaller():
    """An error of 1e-9 was asked for, a sixtieth of the rounding of those who read them."""
    pairs, argument = torch.tensor([[1, 1]]), torch.linspace(-1.25, 2.5, 1001, dtype=torch.float64)
    waves = Waves(steep=60.0)
    exact, rough = (
        tabulate(waves.functions(low_rank=True, reader=dtype), pairs, 128)[0]
        for dtype in (torch.float64, torch.float32)
    )
    assert rough.n_cells <= exact.n_cells // 4
    row, x = rough.locate(argument, torch.zeros_like(argument, dtype=torch.int64))
    found = weighted_coefficients(rough, row, powers(x)) @ rough.basis[0]
    assert (found - waves.evaluate(pairs, argument[None])[0][0]).abs().max() < 1e-9


def test_tables_grow_with_the_pairs():
    """What is there is not made again, unless finer cells are needed; all rows stay right."""
    waves = Waves(steep=40.0)
    book = TableBook(waves.functions(low_rank=True), 4)
    first = book.covering([(2, 0), (3, 0)])
    count = waves.count
    assert book.covering([(2, 0)]) is first
    assert waves.count == count
    second = book.covering([(1, 0), (3, 0)])
    assert waves.count < 2 * count
    assert torch.equal(second.coefficients[:2], first.coefficients)
    third = book.covering([(1, 1)])
    assert third.n_cells > first.n_cells
    argument = torch.linspace(-1.2, 2.4, 50, dtype=torch.float64)
    for pair in [(1, 0), (2, 0), (3, 0), (1, 1)]:
        kind = third.kind[pair].expand(50)
        row, x = third.locate(argument, kind)
        found = weighted_coefficients(third, row, powers(x)) @ third.basis[kind[0]]
        assert (found - waves.evaluate(torch.tensor([pair]), argument[None])[0][0]).abs().max() < 1e-13
    assert (third.kind >= 0).sum() == 4


def test_building_needs_few_evaluations(monkeypatch: pytest.MonkeyPatch):
    """Only for the pairs that are present, and once.

    A hundred thousand evaluations of the nets of repinit take about half a second; those of the three-body block have
    a tenth of their width.
    """
    count = 0

    def counted(net: torch.nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal count
        count += len(inputs)
        return net_and_slope(net, inputs)

    monkeypatch.setattr(se_atten, "net_and_slope", counted)
    monkeypatch.setattr(three_body, "net_and_slope", counted)
    potential = fresh("dpa2-medium")
    water = zoo.liquid(12, 10.0, names=("O", "H"))
    graph = zoo.graph_of(potential, water)
    for block, embedding in blocks(potential):
        twin = twin_of(block)
        twin(graph, embedding)
        assert 0 < count < (1e5 if isinstance(block, SeAtten) else 5e5)
        count = 0
        twin(graph, embedding)
        assert count == 0
        assert (twin.plan(graph.types, embedding).tables.kind >= 0).sum() == 4


@pytest.mark.parametrize("name", ["dpa2-everything", "dpa2-strip"])
def test_too_steep_functions_are_evaluated_exactly(name: str):
    """Weights a thousand times too large, for which no reasonable number of cells is enough."""
    potential = fresh(name)
    graph = zoo.graph_of(potential, zoo.structure("molecule"))
    for block, embedding in blocks(potential):
        layer = block.features.net[0]
        layer.weight.data *= 1e3
        twin = twin_of(block)
        found, gradient = value_and_gradient(twin, graph, embedding)
        assert twin._book.refused
        expected, expected_gradient = value_and_gradient(block, graph, embedding)
        for one, other in zip(found, expected, strict=True):
            close(one, other, VALUE)
        close(gradient, expected_gradient, GRADIENT)


def test_reach_follows_the_closest_neighbors():
    """Tables of a small range have fewer functions; they are made anew when atoms come closer, and never shrink."""
    potential = fresh("dpa2-medium")
    block, embedding = blocks(potential)[0]
    twin = twin_of(block)
    assert isinstance(twin, TabulatedSeAtten)
    ranks = []
    for distance, reach in [(2.1, 0.5), (1.0, 1.6), (0.3, 1.6), (1.5, 1.6)]:
        graph = zoo.graph_of(potential, Atoms("OH", [[0, 0, 0], [0.6 * distance, 0, 0.8 * distance]]))
        found, _ = value_and_gradient(twin, graph, embedding)
        expected, _ = value_and_gradient(block, graph, embedding)
        close(found[0], expected[0], VALUE)
        assert twin.reach == reach
        ranks.append(twin.plan(graph.types, embedding).tables.rank)
    assert ranks[0] < ranks[1] == ranks[2] == ranks[3]


def test_statistics_of_a_type_shift_its_range():
    """Argument s = w / r is between 0 and 1.6 / Å for every center, whatever its mean and deviation."""
    potential = fresh("dpa2-everything")
    block, embedding = blocks(potential)[0]
    block.environment.mean[:, 0] = torch.tensor([0.3, -0.2, 0.05])
    block.environment.std[:, 0] = torch.tensor([0.1, 0.4, 1.3])
    graph = zoo.graph_of(potential, zoo.structure("molecule"))
    twin = twin_of(block)
    assert isinstance(twin, TabulatedSeAtten)
    twin.widen(1.0)
    tables = twin.plan(graph.types, embedding).tables
    width = tables.n_cells / tables.inverse_width
    for center in range(3):
        kind = tables.kind[center, 1]
        lower = -block.environment.mean[center, 0] / block.environment.std[center, 0]
        assert tables.lower[kind].item() == pytest.approx(lower.item(), abs=1e-3)
        assert (width[kind] * block.environment.std[center, 0]).item() == pytest.approx(1.6, rel=1e-3)
    compare(block, graph, embedding)
