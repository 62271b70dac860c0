"""The benchmark scripts on a tiny setting: that they run, count rightly and notice failures. No time is judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from torch.utils.flop_counter import FlopCounterMode

from dpa2_ase import read_checkpoint
from dpa2_ase.nn.layers import fitting_net
from dpa2_ase.parsing import parse_model

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "benchmarks"))  # scripts, not a package

import compare  # noqa: E402
import heads_cost  # noqa: E402
import make_models  # noqa: E402
import measurements  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import structures  # noqa: E402
import useful_work  # noqa: E402

MODEL = "dpa2-medium"
CONFIGS = sorted((HERE / "benchmarks" / "configs").glob("*.json"))
SETTINGS = measurements.Settings(threads=1, **compare.QUICK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quick run of everything; "DeePMD-kit" is a python without it, and fails."""
    path = tmp_path_factory.mktemp("benchmark") / "results.json"
    words = f"run {path} --models {HERE / 'data' / 'parity'} --deepmd-python {sys.executable} --only {MODEL} --sizes 9 "
    words += f"--ours reference-float64 --formats .pt --threads 1 --quick --markdown {path.with_suffix('.md')}"
    arguments = compare.parser().parse_args(words.split())
    return arguments, compare.run(arguments)


@pytest.mark.slow
def test_a_run_measures_everything_and_survives_a_failing_program(finished):
    arguments, status = finished
    results = json.loads(arguments.results.read_text())
    programs = results["calls"][f"{MODEL}/9"]["programs"]
    ours = programs["reference-float64"]
    assert status == 0
    assert "deepmd" in programs["deepmd.pt"]["error"]
    assert ours["minimum"] <= ours["median"]
    assert ours["fraction"] > 0
    assert 0 < ours["overhead"]["share"] < 1
    assert results["batch"][MODEL]["programs"]["reference-float64"]["median"] > 0
    assert results["start"]["dpa2-multitask"]["programs"]["reference-float64"]["median"] > 0
    table = arguments.markdown.read_text()
    assert f"| {MODEL}, 9 | reference-float64 |" in table
    assert f"| {MODEL}, 9 | deepmd.pt | – (" in table


@pytest.mark.slow
def test_a_run_continues_where_it_stopped(finished, monkeypatch):
    arguments, _ = finished
    monkeypatch.setattr(compare, "measure_calls", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(compare, "measure_batch", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(compare, "measure_start", lambda *_: pytest.fail("measured again"))
    assert compare.run(arguments) == 0


@pytest.mark.slow
def test_results_of_two_machines_are_not_mixed(finished):
    arguments, _ = finished
    with pytest.raises(ValueError, match="choose a new file"):
        compare.Results(arguments.results).start(replace(SETTINGS, threads=7))


def _record(name: str, dtype: str, seconds: float, force_error: float) -> dict:
    record = {"dtype": dtype, "median": seconds, "minimum": seconds, "memory_mb": 10.0, "fraction": 0.5}
    return record | {"force_error": force_error, "compared_with": "deepmd.pt"}


@pytest.fixture
def results() -> dict:
    """What a run could have found."""
    calls = {}
    for n_atoms in (21, 192):
        programs = {"deepmd.pt": 1.0, "deepmd.pt2": 0.5, "kernels-float64": 0.1, "torch-float32": 0.2}
        calls[f"{MODEL}/{n_atoms}"] = {
            "n_atoms": n_atoms,
            "gemm_gflops": {"float64": 10.0, "float32": 20.0},
            "programs": {n: _record(n, "float32" if "32" in n else "float64", s, 1e-7) for n, s in programs.items()},
        }
    meta = {"date": "2026-01-01", "versions": {}, "titles": {}, "settings": {"threads": 2}}
    return {"meta": meta | {"hardware": {"cpu": "abacus", "cores": 2, "gpu": None}}, "calls": calls}


def test_wrong_float64_forces_are_reported(results):
    """Forces that differ by 1e-7 are wrong in float64 and right in float32; DeePMD-kit's own are not judged."""
    assert len(report.wrong_numbers(results)) == 2
    assert report.count_comparisons(results) == 2
    assert all("kernels-float64" in line for line in report.wrong_numbers(results))
    for record in results["calls"].values():
        record["programs"]["kernels-float64"]["force_error"] = float("nan")
    assert len(report.wrong_numbers(results)) == 2


def test_ratios_are_to_the_best_of_deepmd(results):
    row = next(line for line in report.markdown(results).splitlines() if "21 | kernels-float64" in line)
    assert "5.0×" in row


def test_the_plot_is_drawn(results, tmp_path):
    report.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_limits_of_time_and_memory_end_a_program():
    program = peers.Program("slow", sys.executable, "float64", {}, True)
    for seconds, keep_free, reason in ((0.0, 0.0, "longer than 0 s"), (60.0, 1e9, "memory free")):
        with peers.Peer(program, 1, seconds, keep_free) as peer, pytest.raises(peers.PeerError, match=reason):
            peer.ask("gemm", size=64, repeats=1, threads=1, device="cpu")


def test_numbers_are_compared_with_the_first_program(tmp_path):
    programs = [peers.Program(name, "", "float64", {}, True) for name in ("absent", "first", "second")]
    forces = np.array([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]])
    np.savez(tmp_path / "first.npz", energy=1.0, forces=forces)
    np.savez(tmp_path / "second.npz", energy=1.5, forces=forces + 0.001)
    records = {program.name: {} for program in programs}
    measurements.compare_numbers(programs, records, tmp_path)
    assert records["absent"] == {}
    assert records["second"] == {
        "compared_with": "first",
        "force_error": pytest.approx(0.001 / 4),
        "energy_error": pytest.approx(0.25),
    }


@pytest.mark.parametrize("n_atoms", [3, 21, 192, 1536])
def test_structures_are_whole_molecules(n_atoms):
    atoms = structures.structure(n_atoms)
    first, second = neighbor_list("ij", atoms, 1.25)
    bonds = [(a, b) for a, b in zip(first, second, strict=True) if atoms.numbers[a] == 8]
    assert len(atoms) == n_atoms
    assert len(bonds) == len({b for _, b in bonds}) == 2 * (n_atoms // 3)
    assert all(atoms.numbers[b] == 1 for _, b in bonds)


def test_heads_are_counted_and_compared(tmp_path):
    """A tiny model: nets of 32 and 32 on 24 + 4 channels, (28 * 32 + 32 * 32 + 32) products and sums."""
    heads_cost.write_model(tmp_path / "model.pt", "tiny", n_heads=2)
    atoms = heads_cost.copper()
    cost, how = heads_cost.measure(tmp_path / "model.pt", atoms, "float64", repeats=1)
    assert (cost.n_heads, cost.n_atoms, cost.operations) == (2, 108, 2 * (28 * 32 + 32 * 32 + 32))
    assert cost.one > 0
    assert "2 heads" in heads_cost.line("tiny", atoms, cost, how)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="choose 3, 6"):
        structures.structure(200)


def test_neighbors_are_counted_up_to_the_list_length():
    atoms = structures.structure(192)
    degree = np.bincount(neighbor_list("i", atoms, 4.0), minlength=192)
    counted = useful_work.count_neighbors(atoms, 4.0, 48)
    assert (counted.n, counted.squared) == (degree.mean(), (degree**2).mean())
    assert useful_work.count_neighbors(atoms, 4.0, 5).squared == 25


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_models_of_the_comparison_can_be_counted(path):
    parts = useful_work.useful_flop(parse_model(json.loads(path.read_text())), structures.structure(192))
    assert all(value >= 0 for value in parts.values())
    assert parts["fitting"] > 0
    assert {config.stem for config in CONFIGS} == set(compare.MODELS)


def test_the_published_count_of_medium_is_met():
    """18 MFLOP per atom were counted by hand for liquid water with 26 neighbors; few terms differ."""
    config = parse_model(json.loads((HERE / "benchmarks" / "configs" / "dpa2-medium.json").read_text()))
    total = sum(useful_work.useful_flop(config, structures.structure(192)).values())
    assert total == pytest.approx(18e6, rel=0.03)


def _counted(function, *inputs: torch.Tensor) -> int:
    """Products that torch does for a value and the gradients of those inputs that ask for one."""
    with FlopCounterMode(display=False) as counter:
        function(*inputs).sum().backward()
    return counter.get_total_flops()


def test_fitting_is_counted_as_torch_does_it():
    config = read_checkpoint(HERE / "data" / "parity" / f"{MODEL}.pt").config.fitting_net
    net = fitting_net(20, config.neuron, 1, "tanh", True).requires_grad_(False)
    assert _counted(net, torch.rand(7, 20, requires_grad=True)) == 7 * useful_work._fitting(config, 20)


@pytest.mark.parametrize("n", [1, 5])
def test_pair_attention_is_counted_as_torch_does_it(n):
    """One center with n neighbors, folded: logits (g M) gᵀ and values (B g) O for every head, B from the logits."""
    config = parse_model(json.loads((HERE / "benchmarks" / "configs" / "dpa2-medium.json").read_text()))
    part = config.descriptor.repformer
    folded = torch.rand(2, part.attn2_nhead, part.g2_dim, part.g2_dim)

    def attend(g: torch.Tensor) -> torch.Tensor:
        every = g.expand(part.attn2_nhead, n, part.g2_dim)
        logits = torch.bmm(torch.bmm(every, folded[0]), every.mT)
        return torch.bmm(torch.bmm(logits.softmax(-1), every), folded[1])

    counted = _counted(attend, torch.rand(n, part.g2_dim, requires_grad=True))
    assert counted == useful_work._pair_attention(part, useful_work.Neighbors(n, n**2))


def test_options_without_a_count_are_refused():
    config = parse_model(json.loads((HERE / "benchmarks" / "configs" / "dpa2-medium.json").read_text()))
    odd = replace(config.descriptor, repformer=replace(config.descriptor.repformer, update_h2=True))
    with pytest.raises(ValueError, match="update_h2"):
        useful_work.useful_flop(replace(config, descriptor=odd), structures.structure(21))


def test_training_boxes_are_water():
    """Molecules of neighboring sites keep their distance, so that statistics are those of a liquid."""
    for box in make_models.water_boxes(2, seed=4):
        distances = box.get_all_distances(mic=True)[np.triu_indices(24, 1)]
        assert box.get_chemical_formula() == "H16O8"
        assert np.sort(distances)[:16].max() < 1.0 < np.sort(distances)[16]


def test_perturbing_changes_weights_and_leaves_statistics(tmp_path):
    source = HERE / "data" / "parity" / f"{MODEL}.pt"
    make_models.perturb(source, tmp_path / "model.pt", seed=1)
    before, after = (read_checkpoint(path).state for path in (source, tmp_path / "model.pt"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kept = {name for name in before if name.endswith(("environment.mean", "environment.std", "out_std"))}
    assert changed == before.keys() - kept
