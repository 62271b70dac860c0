"""The trainable compiled repformer against the reference: values and first derivatives by everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms
from test_kernels_repformer import OPTIONS, graph_of, random_repformer, structures

from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.cpu import available, library
from dpa2_ase.kernels.cpu.library import Library
from dpa2_ase.kernels.cpu.repformer import CompiledRepformer
from dpa2_ase.kernels.cpu.trainable_repformer import TrainableRepformer
from dpa2_ase.model import differentiable
from dpa2_ase.nn.repformer import Repformer

if not available()[0]:  # an installation without a compiler is a good one; tests/test_packaging.py builds the kernels
    pytest.skip(f"the compiled kernels are not available: {available()[1]}", allow_module_level=True)

_NAMES = library._BEST_FIRST.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
LIBRARIES = {name: Library(path) for name in _NAMES if (path := library._file(name))}
RESIDUAL = {"update_style": "res_residual"}
CASES: dict[str, dict[str, object]] = {  # channels of BASE: 10 and 6, whole numbers of no vector
    "residual": RESIDUAL,
    "average": {"update_style": "res_avg"},
    "incremental": {"update_style": "res_incr"},
    "no-attention": RESIDUAL | {"update_g2_has_attn": False},
    "one-head": RESIDUAL | {"attn2_nhead": 1},
    "four-heads": {"attn2_nhead": 4},
    "no-gate": RESIDUAL | {"attn2_has_gate": False},
    "no-conv": RESIDUAL | {"update_g1_has_conv": False},
    "no-edge-moment": RESIDUAL | {"update_g1_has_grrg": False},
    "no-node-moment": RESIDUAL | {"update_g1_has_drrd": False},
    "no-root": {"use_sqrt_nnei": False},
    "one-layer": RESIDUAL | {"nlayers": 1},
    "two-layers": RESIDUAL | {"nlayers": 2},
    "wide": RESIDUAL | {"g1_dim": 45, "g2_dim": 19, "nlayers": 2},
}


def evaluate(
    block: torch.nn.Module, reference: Repformer, graph: AtomicGraph, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Both outputs, and the derivatives of a random combination of them by vectors, input and parameters."""
    generator = torch.Generator().manual_seed(4)
    graph = differentiable(graph)
    node = torch.randn(graph.n_atoms, block.config.g1_dim, dtype=torch.float64, generator=generator)
    variables = {"vectors": graph.vectors, "node": node.to(dtype).requires_grad_()}
    variables |= dict(reference.named_parameters())
    output = block(graph, variables["node"])
    found = {"output": output.node, "equivariant": output.equivariant}
    weights = [torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype) for x in found.values()]
    total = sum((w * x).sum() for w, x in zip(weights, found.values(), strict=True))
    gradients = torch.autograd.grad(total, list(variables.values()), allow_unused=True, materialize_grads=True)
    return {n: x.detach() for n, x in found.items()} | dict(zip(variables, gradients, strict=True))


def assert_agrees(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> None:
    """Relative to the largest number of each quantity, or to 1e-3 of all where the terms of a sum cancel each other."""
    assert found.keys() == expected.keys()
    largest = max((y.abs().max().item() for y in expected.values() if y.numel()), default=0.0)
    for name, x in found.items():
        y = expected[name]
        assert x.shape == y.shape, name
        error = (x.double() - y).abs().max().item() if x.numel() else 0.0
        scale = max(y.abs().max().item(), 1e-3 * largest) if y.numel() else 0.0
        assert error <= limit * scale, f"{name}: {error:.1e} of {scale:.1e}"


def trained_reference(name: str, **more: object) -> Repformer:
    return random_repformer(CASES[name] | more, smooth=True).requires_grad_(True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LIBRARIES)
def test_all_first_derivatives(name, case):
    """1e-11: some hundred roundings in another order, and differences of sums."""
    reference = trained_reference(case)
    twin = TrainableRepformer(reference, torch.float64, LIBRARIES[name])
    for atoms in [*structures(), [isolated_and_others()]]:
        graph = graph_of(6.0, 3, *atoms)
        expected = evaluate(reference, reference, graph, torch.float64)
        assert_agrees(evaluate(twin, reference, graph, torch.float64), expected, 1e-11)


def isolated_and_others() -> Atoms:
    """A molecule and an atom that nobody sees."""
    return zoo.structure("molecule") + Atoms("Cu", [[30.0, 0.0, 0.0]])


@pytest.mark.parametrize("case", ["residual", "no-gate", "no-attention", "wide"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_single_precision(name, case):
    """4e-6: sums of some thousand terms of either sign, each good to some roundings of 6e-8."""
    reference = trained_reference(case)
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0), zoo.structure("molecule"))
    expected = evaluate(reference, reference, graph, torch.float64)
    found = evaluate(TrainableRepformer(reference, torch.float32, LIBRARIES[name]), reference, graph, torch.float32)
    assert found["output"].dtype == torch.float32
    assert found["vectors"].dtype == torch.float64
    assert_agrees(found, expected, 4e-6)


def test_excluded_types_and_truncated_lists():
    reference = random_repformer({"nsel": 9}, smooth=True, excluded=((0, 1), (2, 2))).requires_grad_(True)
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(40, 8.0))
    expected = evaluate(reference, reference, graph, torch.float64)
    assert_agrees(evaluate(twin, reference, graph, torch.float64), expected, 1e-11)


@pytest.mark.parametrize("case", ["residual", "no-conv"])
def test_no_atoms(case):
    """Derivatives of nothing are zero."""
    reference = trained_reference(case)
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    found = evaluate(twin, reference, graph_of(6.0, 3, Atoms()), torch.float64)
    assert found["output"].shape == (0, 10)
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("case", ["residual", "no-gate", "no-attention"])
def test_passes_for_one_purpose(case):
    """Derivatives by geometry alone and by weights alone, as those of one pass for both, in the last bit."""
    reference = trained_reference(case)
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0))
    both = evaluate(twin, reference, graph, torch.float64)
    node = torch.randn(graph.n_atoms, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weights = _weights_of(both)

    def total(vectors: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        output = twin(graph.with_vectors(vectors), start)
        return (weights[0] * output.node).sum() + (weights[1] * output.equivariant).sum()

    parameters = dict(reference.named_parameters())
    by_weights = torch.autograd.grad(total(graph.vectors, node), list(parameters.values()))
    for name, gradient in zip(parameters, by_weights, strict=True):
        assert torch.equal(gradient, both[name]), name
    reference.requires_grad_(False)
    vectors = graph.vectors.clone().requires_grad_()
    assert torch.equal(*torch.autograd.grad(total(vectors, node), vectors), both["vectors"])
    start = node.clone().requires_grad_()
    assert torch.equal(*torch.autograd.grad(total(graph.vectors, start), start), both["node"])
    assert not total(graph.vectors, node).requires_grad


def _weights_of(found: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The factors of `evaluate`, drawn after the input."""
    generator = torch.Generator().manual_seed(4)
    torch.randn(found["node"].shape, dtype=torch.float64, generator=generator)
    return [torch.randn(found[n].shape, dtype=torch.float64, generator=generator) for n in ("output", "equivariant")]


def test_parameters_of_the_moment():
    """After a step of an optimizer the twin computes with what it stepped to."""
    reference = trained_reference("residual")
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.structure("molecule"))
    evaluate(twin, reference, graph, torch.float64)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        reference.environment.mean += 0.05
    expected = evaluate(reference, reference, graph, torch.float64)
    assert_agrees(evaluate(twin, reference, graph, torch.float64), expected, 1e-11)


def test_numbers_are_those_of_inference():
    """In the last bit: the same kernels on the same folded weights."""
    reference = trained_reference("residual")
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0))
    node = torch.linspace(-1, 1, graph.n_atoms * 10, dtype=torch.float64).view(-1, 10)
    found = TrainableRepformer.from_reference(reference, torch.float64)(graph, node)
    expected = CompiledRepformer.from_reference(reference, torch.float64)(graph, node)
    assert found.node.requires_grad
    assert not expected.node.requires_grad
    assert torch.equal(found.node, expected.node)
    assert torch.equal(found.equivariant, expected.equivariant)


@pytest.mark.parametrize("n_atoms", [5, 200])
def test_numbers_do_not_depend_on_threads(n_atoms):
    """Not in the last bit: sums are taken by blocks of atoms that are fixed."""
    reference = trained_reference("residual")
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(n_atoms, 12.0))
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 7):
            torch.set_num_threads(n_threads)
            found.append(evaluate(twin, reference, graph, torch.float64))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for name, x in found[0].items():
            assert torch.equal(x, others[name]), name


def test_gradients_of_weights_are_derivatives():
    """Central differences of the twin itself; 1e-7 is their error at steps of 1e-4 of a weight."""
    reference = trained_reference("residual")
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    graph = graph_of(6.0, 3, zoo.structure("molecule"))
    node = torch.linspace(-1, 1, graph.n_atoms * 10, dtype=torch.float64).view(-1, 10)

    def value() -> torch.Tensor:
        output = twin(graph, node)
        return output.node.square().sum() + output.equivariant.square().sum()

    parameters = dict(reference.named_parameters())
    gradients = torch.autograd.grad(value(), list(parameters.values()))
    rng = np.random.default_rng(1)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        place = tuple(rng.integers(size) for size in parameter.shape)
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter[place] += sign * 1e-4
                ends.append(value())
                parameter[place] -= sign * 1e-4
        difference = (ends[0] - ends[1]) / 2e-4
        assert abs(difference - gradient[place]) <= 1e-7 * max(gradient.abs().max(), difference.abs()) + 1e-10, name


def test_second_derivatives_are_refused():
    reference = trained_reference("residual")
    twin = TrainableRepformer.from_reference(reference, torch.float64)
    graph = differentiable(graph_of(6.0, 3, zoo.structure("molecule")))
    node = torch.ones(graph.n_atoms, 10, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="second derivatives need the reference path"):
        torch.autograd.grad(twin(graph, node).node.sum(), graph.vectors, create_graph=True)


def test_what_is_not_covered():
    """The same as for inference."""
    for options in OPTIONS.values():
        reference = random_repformer(options, smooth=True)
        assert TrainableRepformer.obstacle(reference) == CompiledRepformer.obstacle(reference)
