"""The fast twin of the repformer against the reference: values and gradients, every option, every structure."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from ase import Atoms

from dpa2_ase.checkpoint import load_potential, read_checkpoint
from dpa2_ase.config import RepformerConfig
from dpa2_ase.graph import AtomicGraph
from dpa2_ase.kernels.folding import constants
from dpa2_ase.kernels.pair_weights import AttentionForm, PairWeights
from dpa2_ase.kernels.repformer import FusedRepformer
from dpa2_ase.kernels.scratch import Scratch
from dpa2_ase.kernels.tiles import make_tiling
from dpa2_ase.model import differentiable
from dpa2_ase.neighbors import build_neighbor_list
from dpa2_ase.nn.repformer import Repformer
from dpa2_ase.ops import softmax_with_empty_slots
from dpa2_ase.topology import graph_of_structures

DATA = Path(__file__).parent / "data"
# summation in another order: some hundred roundings of values, as many again in derivatives
VALUES = {torch.float64: 1e-12, torch.float32: 1e-6}
GRADIENTS = {torch.float64: 1e-11, torch.float32: 2e-6}
BASE = RepformerConfig(
    rcut=4.0,
    rcut_smth=2.0,
    nsel=25,
    nlayers=3,
    g1_dim=10,
    g2_dim=6,
    axis_neuron=3,
    attn2_hidden=5,
    attn2_nhead=2,
    attn2_has_gate=True,
    update_g1_has_attn=False,
    update_g2_has_g1g1=False,
)
OPTIONS: dict[str, dict[str, object]] = {
    "official": {"update_style": "res_residual"},
    "no-gate": {"attn2_has_gate": False},
    "no-attention": {"update_g2_has_attn": False},
    "incremental": {"update_style": "res_incr"},
    "one-layer": {"nlayers": 1},
    "one-layer-no-edge-moment": {"nlayers": 1, "update_g1_has_grrg": False},
    "no-conv": {"update_g1_has_conv": False},
    "no-edge-moment": {"update_g1_has_grrg": False, "update_style": "res_residual"},
    "no-node-moment": {"update_g1_has_drrd": False},
    "conv-is-input": {"g1_out_conv": False, "update_style": "res_residual"},
    "conv-is-only-input": {"g1_out_conv": False, "update_g1_has_grrg": False, "update_g1_has_drrd": False},
    "node-is-input": {"g1_out_mlp": False},
    "both-inputs": {"g1_out_mlp": False, "g1_out_conv": False},
    "direct-distance": {"direct_dist": True},
    "no-root": {"use_sqrt_nnei": False},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu6"},
    "linear": {"activation_function": "linear"},
    "padded-channels": {"g2_dim": 11, "activation_function": "sigmoid"},
}


def random_repformer(
    options: dict[str, object], *, smooth: bool, excluded: tuple[tuple[int, int], ...] = ()
) -> Repformer:
    """A block with random weights and statistics, none of them near a special value."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = dataclasses.replace(BASE, **options)  # type: ignore[arg-type]
        block = Repformer(config, 3, smooth=smooth, exclude_types=excluded, env_protection=0.0).double()
        for parameter in block.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        block.environment.mean += 0.1 * torch.randn(3, 4, dtype=torch.float64)
        block.environment.std *= 0.2 + 0.1 * torch.rand(3, 4, dtype=torch.float64)
    return block.requires_grad_(False)


def graph_of(cutoff: float, n_types: int, *atoms: Atoms) -> AtomicGraph:
    """Structures with their symbols as types, whatever the model calls them."""
    types = [np.array([zoo.SYMBOLS.index(s) % n_types for s in a.get_chemical_symbols()]) for a in atoms]
    return graph_of_structures(atoms, [build_neighbor_list(a, cutoff) for a in atoms], types)


@cache
def models() -> dict[str, tuple[Repformer, float]]:
    """The repformers of all model files, with the cutoff of the whole model."""
    found = {}
    for path in sorted((DATA / "parity").glob("*.pt")) + sorted((DATA / "extra").glob("dpa2*.pt")):
        if path.name.startswith("dpa1"):
            continue
        heads = read_checkpoint(path, head=None).heads if "multitask" not in path.name else ("H2O_PBE0",)
        potential = load_potential(path, heads[0] if "multitask" in path.name else None)
        for module in potential.modules():
            if isinstance(module, Repformer):
                found[f"{path.parent.name}/{path.stem}"] = (module.requires_grad_(False), potential.cutoff)
    return found


def evaluate(block: torch.nn.Module, graph: AtomicGraph, dtype: torch.dtype, seed: int = 3) -> list[torch.Tensor]:
    """Both outputs, and the gradients of a random combination of them with respect to vectors and input."""
    generator = torch.Generator().manual_seed(seed)
    width = block.config.g1_dim
    graph = differentiable(graph)
    node = torch.randn(graph.n_atoms, width, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    output = block(graph, node)
    parts = (output.node, output.equivariant)
    weights = [torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype) for x in parts]
    total = sum((w * x).sum() for w, x in zip(weights, parts, strict=True))
    gradients = torch.autograd.grad(total, [graph.vectors, node])
    return [*(x.detach() for x in parts), *gradients]


def assert_agrees(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    """Relative to the largest number of each quantity."""
    limits = [VALUES[dtype]] * 2 + [GRADIENTS[dtype]] * 2
    names = "atoms", "equivariant", "gradient of vectors", "gradient of atoms"
    for name, x, y, limit in zip(names, found, expected, limits, strict=True):
        assert x.shape == y.shape
        error = (x - y).abs().max().item() if x.numel() else 0.0
        scale = y.abs().max().item() if y.numel() else 0.0
        assert error <= limit * scale, f"{name}: {error:.1e} of {scale:.1e}"


def structures() -> list[list[Atoms]]:
    """Every structure alone, and all of them as one batch."""
    single = [parameter.values[0] for parameter in zoo.structures()]
    return [*([atoms] for atoms in single), single, [zoo.liquid(40, 8.0)]]


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "not-smooth"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, smooth):
    reference = random_repformer(OPTIONS[name], smooth=smooth)
    twin = FusedRepformer.from_reference(reference, torch.float64)
    for atoms in structures():
        graph = graph_of(6.0, 3, *atoms)
        assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "not-smooth"])
def test_excluded_types_and_truncated_lists(smooth):
    reference = random_repformer({"nsel": 9}, smooth=smooth, excluded=((0, 1), (2, 2)))
    twin = FusedRepformer.from_reference(reference, torch.float64)
    for atoms in structures():
        graph = graph_of(6.0, 3, *atoms)
        assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


COVERED = [name for name, (block, _) in models().items() if FusedRepformer.obstacle(block) is None]


@pytest.mark.parametrize("name", COVERED)
def test_model_files(name):
    block, cutoff = models()[name]
    reference = block.double()
    n_types = len(reference.environment.mean)
    twin = FusedRepformer.from_reference(reference, torch.float64)
    for atoms in structures():
        graph = graph_of(cutoff, n_types, *atoms)
        assert_agrees(evaluate(twin, graph, torch.float64), evaluate(reference, graph, torch.float64), torch.float64)


def test_most_model_files_are_covered():
    assert len(COVERED) >= 25
    for name, (block, _) in models().items():
        if name not in COVERED:
            obstacle = FusedRepformer.obstacle(block)
            assert obstacle is not None
            assert "update_" in obstacle
            with pytest.raises(ValueError, match="update_"):
                FusedRepformer.from_reference(block, torch.float64)


@pytest.mark.parametrize("name", ["official", "no-gate", "no-attention", "gelu"])
def test_single_precision(name):
    """1e-6 of the largest value, some ten roundings of 6e-8; derivatives pass through twice as many operations."""
    reference = random_repformer(OPTIONS[name], smooth=True)
    twin = FusedRepformer.from_reference(reference, torch.float32)
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0))
    found = evaluate(twin, graph, torch.float32)
    assert found[0].dtype == torch.float32
    assert found[2].dtype == torch.float64
    assert_agrees([x.double() for x in found], evaluate(reference, graph, torch.float64), torch.float32)


def test_gradients_are_derivatives():
    """Central differences of the twin itself; 1e-6 is their error at steps of 1e-4 Å."""
    twin = FusedRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = graph_of(6.0, 3, zoo.structure("molecule"))
    node = torch.linspace(-1, 1, graph.n_atoms * 10, dtype=torch.float64).view(-1, 10)

    def value(vectors: torch.Tensor) -> torch.Tensor:
        return twin(graph.with_vectors(vectors), node).node.square().sum()

    vectors = graph.vectors.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(vectors), vectors)
    for edge, axis in ((0, 0), (3, 1), (graph.n_edges - 1, 2)):
        step = torch.zeros_like(graph.vectors)
        step[edge, axis] = 1e-4
        difference = (value(graph.vectors + step) - value(graph.vectors - step)) / 2e-4
        assert abs(difference - gradient[edge, axis]) <= 1e-6 * gradient.abs().max()


def test_backward_can_be_repeated():
    """Nothing that was kept for the way back is overwritten by it."""
    twin = FusedRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = differentiable(graph_of(6.0, 3, zoo.liquid(40, 12.0)))
    node = torch.ones(graph.n_atoms, 10, dtype=torch.float64, requires_grad=True)
    total = twin(graph, node).node.square().sum()
    first = torch.autograd.grad(total, [graph.vectors, node], retain_graph=True)
    second = torch.autograd.grad(total, [graph.vectors, node])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_nothing_kept(monkeypatch):
    """Systems whose attention outputs are too many to be kept compute them again."""
    twin = FusedRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(40, 12.0))
    expected = evaluate(twin, graph, torch.float64)
    monkeypatch.setattr("dpa2_ase.kernels.repformer.KEPT_BYTES", 0)
    for x, y in zip(evaluate(twin, graph, torch.float64), expected, strict=True):
        assert torch.equal(x, y)


def test_second_derivatives_are_refused():
    twin = FusedRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = differentiable(graph_of(6.0, 3, zoo.structure("molecule")))
    node = torch.ones(graph.n_atoms, 10, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="second derivatives need the reference path"):
        torch.autograd.grad(twin(graph, node).node.sum(), graph.vectors, create_graph=True)


def test_numbers_do_not_depend_on_threads():
    """1e-14: BLAS may cut a product differently among threads; sums over neighbors have a fixed order."""
    twin = FusedRepformer.from_reference(random_repformer(OPTIONS["official"], smooth=True), torch.float64)
    graph = graph_of(6.0, 3, zoo.liquid(200, 12.0))
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(evaluate(twin, graph, torch.float64))
    finally:
        torch.set_num_threads(before)
    for x, y in zip(*found, strict=True):
        assert (x - y).abs().max() <= 1e-14 * x.abs().max()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "not-smooth"])
def test_softmax_of_any_size(scale, smooth):
    """Exponentials that overflow or vanish without a shift; 1e-9: the exponent of a large logit has a large error."""
    torch.manual_seed(2)
    form = AttentionForm(n_heads=2, has_gate=False, has_cosine=True, smooth=smooth, nsel=12)
    direction, weight = torch.randn(3, 7, 3, dtype=torch.float64), torch.rand(3, 7, dtype=torch.float64)
    raw = scale * torch.randn(3, 14, 7, dtype=torch.float64)
    weights = PairWeights(form, direction, weight if smooth else torch.ones_like(weight), Scratch(raw))
    found = weights.softmax(raw * np.log2(np.e), torch.empty_like(raw))
    pair = weight[:, :, None] * weight[:, None, :]
    if smooth:
        logits = (raw.view(3, 7, 2, 7) + 20) * pair[:, :, None] - 20
        expected = softmax_with_empty_slots(logits, torch.ones_like(logits), torch.tensor(5)).flatten(1, 2)
    else:
        expected = raw.softmax(-1)
    assert (found - expected).abs().max() <= 1e-15 * max(scale, 10) * 10


def test_tiles_hold_every_edge_once():
    """And waste little: at most the share of padding that a cut tolerates."""
    graph = graph_of(4.0, 3, *(zoo.liquid(n, 10.0, seed=n) for n in (1, 7, 40, 200)))
    for limit in (1, 500, 20_000):
        tiling = make_tiling(graph, limit)
        assert torch.equal(tiling.order.sort().values, torch.arange(graph.n_atoms))
        assert len(tiling.slot.unique()) == graph.n_edges
        owner = torch.empty(tiling.n_slots, dtype=torch.int64)
        for tile in tiling.tiles:
            assert tile.n_atoms == 1 or tile.n_atoms * tile.width**2 <= limit
            owner[tile.slots] = tiling.order[tile.atoms].repeat_interleave(tile.width)
        assert torch.equal(owner[tiling.slot], graph.center)
        assert torch.equal(tiling.order[tiling.neighbor[tiling.slot]], graph.neighbor)
        assert torch.equal(tiling.unsort(tiling.sort(graph.types)), graph.types)


def test_a_molecule_is_one_tile():
    graph = graph_of(4.0, 3, zoo.liquid(21, 10.0, seed=1))
    assert graph.degree.min() < graph.degree.max()
    assert len(make_tiling(graph, graph.n_atoms * graph.max_degree**2).tiles) == 1


def test_folding_changes_nothing_of_the_reference():
    """And a twin keeps its weights when the reference is trained on."""
    reference = random_repformer(OPTIONS["official"], smooth=True)
    before = [p.clone() for p in reference.parameters()]
    folded = constants(reference, torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(before, reference.parameters(), strict=True))
    kept = folded.layers[0].node_bias.clone(), folded.embedding_bias.clone()
    for parameter in reference.parameters():
        parameter.data.zero_()
    assert torch.equal(folded.layers[0].node_bias, kept[0])
    assert torch.equal(folded.embedding_bias, kept[1])
