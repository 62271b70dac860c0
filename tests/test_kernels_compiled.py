"""The compiled kernels: every library that runs here against the reference, and their functions against libm."""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import zoo
from test_kernels_repformer import (
    OPTIONS,
    assert_agrees,
    evaluate,
    graph_of,
    models,
    random_repformer,
    structures,
)

from dpa2_ase.checkpoint import load_potential
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels import accelerate
from dpa2_ase.kernels.cpu import available, describe, library
from dpa2_ase.kernels.cpu.dense import CompiledDense, Layer
from dpa2_ase.kernels.cpu.descriptor import CompiledDPA2
from dpa2_ase.kernels.cpu.library import Library
from dpa2_ase.kernels.cpu.repformer import CompiledRepformer
from dpa2_ase.kernels.cpu.se_atten import CompiledSeAtten
from dpa2_ase.kernels.cpu.three_body import CompiledThreeBody
from dpa2_ase.model import differentiable
from dpa2_ase.nn.descriptors import DPA2
from dpa2_ase.nn.layers import Dense
from dpa2_ase.nn.se_atten import BlockOutput

if not available()[0]:  # an installation without a compiler is a good one; tests/test_packaging.py builds the kernels
    pytest.skip(f"the compiled kernels are not available: {available()[1]}", allow_module_level=True)

_NAMES = library._BEST_FIRST.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
LIBRARIES = {name: Library(path) for name in _NAMES if (path := library._file(name))}
COVERED_OPTIONS = [
    name for name in OPTIONS if CompiledRepformer.obstacle(random_repformer(OPTIONS[name], smooth=True)) is None
]
COVERED_FILES = [name for name, (block, _) in models().items() if CompiledRepformer.obstacle(block) is None]
EPSILON = {torch.float64: 2.3e-16, torch.float32: 1.2e-7}


def best() -> Library:
    """The library a calculator would use."""
    return library.require()


def address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr()


# ---- elementary functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("name", LIBRARIES)
def test_tanh_everywhere(name, dtype):
    """Four roundings, over the whole range and near zero, where 1 - e^x would lose everything."""
    sizes = torch.logspace(-30, 2, 20_001, dtype=torch.float64)
    x = torch.cat([sizes, -sizes, torch.linspace(-25, 25, 40_003, dtype=torch.float64), torch.zeros(1)]).to(dtype)
    found = x.clone()
    LIBRARIES[name]["tanh", dtype](len(found), address(found))
    expected = torch.tanh(x.double())
    error = (found.double() - expected).abs() / expected.abs().clamp_min(1e-300)
    assert error.max() <= 4 * EPSILON[dtype]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("name", LIBRARIES)
def test_exp_everywhere(name, dtype):
    """Three roundings where the result is a normal number; beyond, it stops at the smallest one."""
    lowest = -700.0 if dtype == torch.float64 else -86.0
    x = torch.linspace(lowest, -lowest, 100_003, dtype=dtype)
    found = x.clone()
    LIBRARIES[name]["exp", dtype](len(found), address(found))
    expected = torch.exp(x.double())
    assert ((found.double() - expected).abs() / expected).max() <= 3 * EPSILON[dtype]
    beyond = torch.tensor([-1e30, 2 * lowest], dtype=dtype)
    LIBRARIES[name]["exp", dtype](2, address(beyond))
    assert (beyond > 0).all()
    assert (beyond < 1e-37).all()


@pytest.mark.parametrize("function", ["tanh", "exp"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_nan_stays_nan(name, function):
    """A broken geometry must not give a plausible energy."""
    x = torch.tensor([0.5, torch.nan, -3.0], dtype=torch.float64)
    LIBRARIES[name][function, torch.float64](3, address(x))
    assert x.isnan().tolist() == [False, True, False]


# ---- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", COVERED_OPTIONS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_repformer_options(name, option):
    """Channels that are no whole number of vectors, isolated atoms, batches, overfull lists."""
    reference = random_repformer(OPTIONS[option], smooth=True)
    twin = CompiledRepformer(reference, torch.float64, LIBRARIES[name])
    for atoms in structures():
        graph = graph_of(6.0, 3, *atoms)
        assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_official_options_are_covered():
    assert {"official", "no-gate", "no-attention", "incremental", "no-conv", "no-root"} <= set(COVERED_OPTIONS)
    assert len(COVERED_FILES) >= 10


@pytest.mark.parametrize("file", COVERED_FILES)
def test_repformers_of_files(file):
    block, cutoff = models()[file]
    reference = block.double()
    twin = CompiledRepformer.from_reference(reference, torch.float64)
    for atoms in structures():
        graph = graph_of(cutoff, len(reference.environment.mean), *atoms)
        assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


@pytest.mark.parametrize("option", ["official", "no-gate", "no-attention"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_single_precision(name, option):
    reference = random_repformer(OPTIONS[option], smooth=True)
    twin = CompiledRepformer(reference, torch.float32, LIBRARIES[name])
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0))
    found = evaluate(twin, graph, torch.float32)
    assert_agrees([x.double() for x in found], evaluate(reference, graph, torch.float64), torch.float32)


def test_excluded_types():
    reference = random_repformer({"nsel": 9}, smooth=True, excluded=((0, 1), (2, 2)))
    twin = CompiledRepformer.from_reference(reference, torch.float64)
    for atoms in structures():
        graph = graph_of(6.0, 3, *atoms)
        assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_crowded_neighborhoods():
    """Far more neighbors than any table of sizes would foresee: scratch memory follows the structure."""
    reference = random_repformer({"nsel": 400, "nlayers": 2}, smooth=True)
    twin = CompiledRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(60, 1.0))
    assert graph.within(4.0, 400).max_degree > 200
    assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_saving_memory_changes_nothing(monkeypatch):
    """Large systems compute some intermediates again, by the same instructions."""
    reference = random_repformer(OPTIONS["official"], smooth=True)
    twin = CompiledRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0))
    expected = evaluate(twin, graph, torch.float64)
    monkeypatch.setattr("dpa2_ase.kernels.cpu.repformer.FRUGAL_FROM", 0)
    for found, value in zip(evaluate(twin, graph, torch.float64), expected, strict=True):
        assert torch.equal(found, value)


def test_messages_of_many_chunks(monkeypatch):
    """Sums over chunks of centers; 1e-14: they are joined in another order."""
    reference = random_repformer(OPTIONS["official"], smooth=True)
    twin = CompiledRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(150, 12.0), zoo.structure("molecule"), zoo.structure("one-atom"))
    expected = evaluate(twin, graph, torch.float64)
    for size in (1, 7, 64):
        monkeypatch.setattr("dpa2_ase.kernels.cpu.repformer.ATOMS_PER_CHUNK", size)
        for found, value in zip(evaluate(twin, graph, torch.float64), expected, strict=True):
            assert (found - value).abs().max() <= 1e-14 * value.abs().max()


def blocks_of(file: str) -> tuple[torch.nn.Module, torch.Tensor]:
    descriptor = load_potential(zoo.DATA / "parity" / f"{file}.pt").model.descriptor.double()
    return descriptor, descriptor.type_embedding()


def value_and_gradient(
    block: torch.nn.Module, graph: AtomicGraph, embedding: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output of a block of the initializer and the gradient of a random combination of it."""
    graph = differentiable(graph)
    output = block(graph, embedding)
    value = output if isinstance(output, torch.Tensor) else output.node
    weight = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = (weight * value).sum() + 0 * graph.vectors.sum()  # without edges the reference depends on nothing
    (gradient,) = torch.autograd.grad(total, graph.vectors)
    return value.detach(), gradient


@pytest.mark.parametrize("file", ["dpa2-medium", "dpa2-medium-davg", "dpa2-strip", "dpa2-truncated-sel"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_initializer(name, file):
    """Tables are good to 1e-13 of values and 2e-12 of slopes, relative to the largest; so are sums of them."""
    descriptor, embedding = blocks_of(file)
    twins = {CompiledSeAtten: descriptor.repinit, CompiledThreeBody: descriptor.three_body}
    for twin, reference in twins.items():
        if reference is None or twin.obstacle(reference) is not None:
            continue
        compiled = twin(reference, torch.float64, LIBRARIES[name])
        for atoms in structures():
            graph = graph_of(6.0, len(embedding), *atoms)
            expected = value_and_gradient(reference, graph, embedding)
            found = value_and_gradient(compiled, graph, embedding)
            for x, y, limit in zip(found, expected, (1e-12, 1e-11), strict=True):
                assert torch.equal(x, y) or (x - y).abs().max() <= limit * y.abs().max()


def test_neighbors_closer_than_the_tables():
    """The exact nets answer, as in the torch twin."""
    descriptor, embedding = blocks_of("dpa2-medium")
    atoms = zoo.structure("skew")
    atoms.positions[1] = atoms.positions[0] + [0.15, 0.1, 0.05]
    graph = graph_of(6.0, len(embedding), atoms)
    for twin, reference in {CompiledSeAtten: descriptor.repinit, CompiledThreeBody: descriptor.three_body}.items():
        found = value_and_gradient(twin.from_reference(reference, torch.float64), graph, embedding)
        expected = value_and_gradient(reference, graph, embedding)
        for x, y, limit in zip(found, expected, (1e-12, 1e-11), strict=True):
            assert (x - y).abs().max() <= limit * y.abs().max()


def joined_descriptor(file: str, name: str, dtype: torch.dtype) -> CompiledDPA2:
    """A descriptor of twins, which `DPA2.forward` runs one by one."""
    descriptor, _ = blocks_of(file)
    parts = {
        "repinit": CompiledSeAtten, "three_body": CompiledThreeBody, "repformer": CompiledRepformer,
    }  # fmt: skip
    twins = {
        part: twin(getattr(descriptor, part), dtype, LIBRARIES[name])
        for part, twin in parts.items()
        if getattr(descriptor, part) is not None
    }
    descriptor = descriptor.to(dtype)
    for part, twin in twins.items():
        setattr(descriptor, part, twin)
    assert CompiledDPA2.obstacle(descriptor) is None
    return CompiledDPA2(descriptor)


def outputs_and_gradient(forward: Callable[[AtomicGraph], BlockOutput], graph: AtomicGraph) -> list[torch.Tensor]:
    """Both outputs, and the gradient of a random combination of them."""
    graph = differentiable(graph)
    output = forward(graph)
    values = [output.node, output.equivariant]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(value.shape, dtype=torch.float64, generator=generator) for value in values]
    total = sum(((weight * value).sum() for weight, value in zip(weights, values, strict=True)), torch.zeros(()))
    (gradient,) = torch.autograd.grad(total + 0 * graph.vectors.sum(), graph.vectors)
    return [*(value.detach() for value in values), gradient]


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("file", ["dpa2-medium", "dpa2-small-noattn", "dpa2-strip", "dpa2-truncated-sel"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_blocks_in_one_call(name, file, dtype):
    """The same kernels as one by one: a hundred roundings."""
    joined = joined_descriptor(file, name, dtype)
    for atoms in structures():
        graph = graph_of(6.0, len(joined.type_rows), *atoms)
        joined(graph)  # tables that reach the closest neighbors
        found = outputs_and_gradient(joined, graph)
        expected = outputs_and_gradient(partial(DPA2.forward, joined), graph)
        for x, y in zip(found, expected, strict=True):
            assert torch.equal(x, y) or (x - y).abs().max() <= 100 * EPSILON[dtype] * y.abs().max()
        with torch.no_grad():
            assert torch.equal(joined(graph).node, found[0])


def test_blocks_in_one_call_of_close_neighbors():
    """They answer one by one, with the exact nets and wider tables, and in one call again afterwards."""
    joined = joined_descriptor("dpa2-medium", _NAMES[0], torch.float64)
    close = zoo.structure("skew")
    close.positions[1] = close.positions[0] + [0.15, 0.1, 0.05]
    for atoms in (zoo.structure("skew"), close, zoo.structure("skew")):
        graph = graph_of(6.0, len(joined.type_rows), atoms)
        found = outputs_and_gradient(joined, graph)
        for x, y in zip(found, outputs_and_gradient(partial(DPA2.forward, joined), graph), strict=True):
            assert (x - y).abs().max() <= 1e-13 * y.abs().max()


@pytest.mark.parametrize("file", ["dpa2-exclude", "dpa2-medium-davg"])
def test_blocks_that_run_one_by_one(file):
    """Excluded pairs and empty slots that contribute are left to the blocks."""
    fast = accelerate(load_potential(zoo.DATA / "parity" / f"{file}.pt"), "kernels")
    assert type(fast.model.descriptor) is DPA2


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("name", LIBRARIES)
def test_dense_layers(name, dtype):
    """Every kind of layer the models have; a hundred roundings."""
    torch.manual_seed(4)
    kinds = [
        {"n_in": 70, "n_out": 33},
        {"n_in": 13, "n_out": 26, "activation": "tanh", "resnet": True, "timestep": True},
        {"n_in": 40, "n_out": 40, "activation": "tanh", "resnet": True},
        {"n_in": 9, "n_out": 1, "bias": False},
    ]
    for kind in kinds:
        reference = Dense(**kind).double().requires_grad_(False)
        layer = Layer(reference, dtype, LIBRARIES[name])
        x = torch.randn(61, kind["n_in"], dtype=torch.float64, requires_grad=True)
        expected = reference(x)
        weight = torch.randn_like(expected)
        (slope,) = torch.autograd.grad((weight * expected).sum(), x)
        found, active = layer.forward(x.detach().to(dtype), keep=True)
        for one, other in ((found, expected), (layer.backward(active, weight.to(dtype)), slope)):
            assert (one.double() - other).abs().max() <= 100 * EPSILON[dtype] * other.abs().max()


def test_wide_layers_of_any_shape():
    """Leading axes stay; narrow layers and other activations are left alone, the former without a word."""
    reference = Dense(70, 20).double().requires_grad_(False)
    assert CompiledDense.obstacle(reference) is None
    twin = CompiledDense.from_reference(reference, torch.float64)
    x = torch.randn(2, 3, 70, dtype=torch.float64)
    assert (twin(x) - reference(x)).abs().max() < 1e-13
    assert twin(x[:0]).shape == (0, 3, 20)
    assert CompiledDense.obstacle(Dense(8, 20)) == ""
    assert CompiledDense.obstacle(Dense(70, 20, activation="gelu")) == "its activation"


# ---- threads and processes ------------------------------------------------------------------------------------------


def test_numbers_do_not_depend_on_threads():
    """Not in the last bit: a piece of work is the same whoever does it."""
    twin = CompiledRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(200, 12.0))
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 7):
            torch.set_num_threads(n_threads)
            found.append(evaluate(twin, graph, torch.float64))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for x, y in zip(found[0], others, strict=True):
            assert torch.equal(x, y)


def test_threads_are_given_back():
    """PyTorch computes with one thread meanwhile, whoever else evaluates, and has its own again after an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with library.borrowed_threads():
            assert torch.get_num_threads() == 1
            assert library.thread_count() == 3
            with library.borrowed_threads():
                assert library.thread_count() == 3
            assert torch.get_num_threads() == 1
        with pytest.raises(KeyError), library.borrowed_threads():
            raise KeyError
        assert torch.get_num_threads() == library.thread_count() == 3
    finally:
        torch.set_num_threads(before)


def test_two_calculations_at_once():
    """Whoever finds the threads taken computes alone."""
    reference = random_repformer(OPTIONS["official"], smooth=True)
    twin = CompiledRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(60, 12.0))
    expected = evaluate(twin, graph, torch.float64)
    found: list[list[torch.Tensor]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = [
            threading.Thread(target=lambda: [found.append(evaluate(twin, graph, torch.float64)) for _ in range(5)])
            for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(before)
    assert len(found) == 20
    for result in found:
        for x, y in zip(result, expected, strict=True):
            assert torch.equal(x, y)


_LAYER = Layer(Dense(1, 1, activation="tanh").double().requires_grad_(False), torch.float64, best())


def _in_child(queue: multiprocessing.SimpleQueue, n: int) -> None:
    x = torch.from_numpy(np.linspace(-1, 1, n))
    torch.set_num_threads(2)
    _LAYER.write(n, x, x)
    queue.put(x.numpy().sum())  # not by torch, whose threads do not survive a fork


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_threads_after_a_fork():
    """A child has none of its parent's threads and makes its own."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    _in_child(queue, 10_000)  # the parent has threads now
    expected = queue.get()
    child = context.Process(target=_in_child, args=(queue, 10_000))
    child.start()
    child.join(30)
    child.kill()  # if it hangs, the test ends all the same
    assert child.exitcode == 0
    assert queue.get() == expected


# ---- loading --------------------------------------------------------------------------------------------------------


def test_the_best_library_is_taken(monkeypatch):
    assert best().path == LIBRARIES[_NAMES[0]].path
    assert describe()["compiled kernels"].startswith(_NAMES[0])
    assert best().vector_bytes == {"avx512": 64, "avx2": 32, "baseline": 16}[_NAMES[0]]


def test_a_library_that_is_missing_or_of_another_version(monkeypatch, tmp_path):
    load = library.load.__wrapped__
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    found, reason = load()
    assert found is None
    assert "belongs to another version of this package; install it again" in reason
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    found, reason = load()
    assert found is None
    assert "baseline was not built" in reason
    (tmp_path / f"_baseline{library.EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    found, reason = load()
    assert found is None
    assert "baseline: " in reason


def test_structures_have_the_size_of_their_c_twins():
    """Eight bytes per field: numbers, reals and addresses alike."""
    from dpa2_ase.kernels.cpu import structures as c

    for structure in (c.PairWeights, c.NodeWeights, c.Edges, c.Arena, c.Table, c.EnvironmentOptions):
        assert ctypes.sizeof(structure) == 8 * len(structure._fields_)


def test_out_of_memory_is_an_error_not_a_crash():
    """A neighborhood so large that its pairs cannot be held."""
    reference = random_repformer({"nlayers": 2, "nsel": 3_000_000, "g1_dim": 1, "g2_dim": 1}, smooth=True)
    twin, n = CompiledRepformer.from_reference(reference, torch.float64), 3_000_000
    none = torch.zeros(n, dtype=torch.int64)
    graph = AtomicGraph(none[:1], none, none, torch.ones(n, 3, dtype=torch.float64), none[:1], None, 1, 4.0)
    with torch.no_grad(), pytest.raises(MemoryError, match="intermediates of repformer"):
        twin(graph, torch.zeros(1, 1, dtype=torch.float64))


def test_energy_alone_keeps_nothing():
    twin = CompiledRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = graph_of(6.0, 3, zoo.structure("skew"))
    node = torch.ones(graph.n_atoms, 10, dtype=torch.float64)
    output = twin(graph, node).node
    assert not output.requires_grad
    np.testing.assert_array_equal(output, twin(differentiable(graph), node).node.detach())
