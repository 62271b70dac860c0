"""Representations of many structures, maps of them, and what they say in numbers."""

from __future__ import annotations

import csv
import json
import re
import runpy
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import zoo
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.io import write
from click.testing import CliRunner
from environments import environments

from dpa2_ase import DPA2Calculator
from dpa2_ase.cli import main
from dpa2_ase.maps import (
    DataSets,
    Environments,
    Layer,
    Projection,
    analysis,
    clusters,
    column,
    describe,
    elements,
    html,
    make_map,
    pictures,
    project,
    prototypes,
    sources,
    tables,
    thinning,
)
from dpa2_ase.maps.distances import nearest, nearest_others
from dpa2_ase.maps.labels import distances_to, energies_above_elements, force_errors
from dpa2_ase.maps.layers import fingerprint, represent
from dpa2_ase.maps.pca import principal_components

MODEL = zoo.DATA / "parity" / "dpa2-strip.pt"
SINGLE = 2e-7  # relative; representations are kept in float32
NAMES = ("skew", "slab", "molecule", "dimer", "one-atom", "left-handed")


@pytest.fixture(scope="module")
def calc():
    return DPA2Calculator(zoo.potential("dpa2-strip"), device="cpu")


@pytest.fixture
def structures():
    return [zoo.structure(name) for name in NAMES]


def blobs(seed: int = 0, size: int = 40, apart: float = 8.0, width: int = 6):
    """Two clouds of points `apart` from each other along every axis, and which is which."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(2 * size, width))
    points[size:] += apart
    return points, np.repeat([0, 1], size)


# ---- representations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpa2-strip", "dpa2-everything", "dpa1-attn-strip-smooth"])
def test_the_final_layer_is_what_the_calculator_gives(name, structures):
    calc = DPA2Calculator(zoo.potential(name), device="cpu")
    expected = np.concatenate([calc.get_descriptors(atoms) for atoms in structures])
    found = describe(iter(structures), calc, layer=Layer(types=True))
    np.testing.assert_allclose(found.vectors(), expected, rtol=SINGLE, atol=SINGLE * np.abs(expected).max())
    bare = describe(structures, calc).vectors()
    np.testing.assert_array_equal(bare, found.vectors()[:, : bare.shape[1]])
    assert found.elements.tolist() == [s for atoms in structures for s in atoms.get_chemical_symbols()]
    assert found.atom.tolist() == [i for atoms in structures for i in range(len(atoms))]


def test_message_passing_leads_from_the_initial_to_the_final_layer():
    potential = zoo.potential("dpa2-strip")
    graph, descriptor = zoo.graph_of(potential, zoo.structure("skew")), potential.model.descriptor
    first = represent(potential, graph, Layer("initial"))
    final = represent(potential, graph, Layer("final"))
    np.testing.assert_array_equal(descriptor.repformer(graph, first).node, final)
    block = represent(potential, graph, Layer("repinit"))
    np.testing.assert_array_equal(descriptor.to_node(block), first)
    assert not first.requires_grad


@pytest.mark.parametrize("layer", ["repinit", "initial", "final"])
def test_fast_paths_give_every_layer(layer, structures):
    """Kernels and reference agree to rounding; 1e-6 is that of the float32 in which representations are kept."""
    slow = DPA2Calculator(zoo.potential("dpa2-strip"), device="cpu", mode="reference")
    fast = DPA2Calculator(zoo.potential("dpa2-strip"), device="cpu", mode="auto")
    a, b = (describe(structures, c, layer=Layer(layer)).vectors() for c in (slow, fast))
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_representations_are_invariant(calc):
    atoms = zoo.structure("skew")
    moved = atoms.copy()
    moved.rotate(40, (1, 2, 3), rotate_cell=True)
    moved.positions += [0.3, -0.2, 5.0]
    order = np.random.default_rng(0).permutation(len(atoms))
    found = describe([atoms, moved, atoms[order]], calc).vectors().reshape(3, len(atoms), -1)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)  # float32, and a model with tables
    np.testing.assert_allclose(found[2], found[0][order], atol=1e-5)


def test_pooled_is_the_mean_of_the_atoms(calc, structures):
    found = describe([*structures[:2], Atoms(), *structures[2:]], calc)
    parts = np.split(found.vectors(), found.first[1:])
    expected = [part.mean(0) if len(part) else np.zeros(found.width) for part in parts]
    np.testing.assert_allclose(found.pooled(), expected, rtol=1e-5, atol=1e-6)
    assert found.n_structures == len(NAMES) + 1


def test_batches_do_not_change_anything(structures):
    potential = zoo.potential("dpa2-strip")
    together = describe(structures, DPA2Calculator(potential, device="cpu")).vectors()
    alone = describe(structures, DPA2Calculator(potential, device="cpu", batch_memory=1e-6)).vectors()
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_structures_are_forgotten_once_described(calc, monkeypatch):
    """Of a stream no more than one chunk is alive, however long it is."""
    monkeypatch.setattr("dpa2_ase.maps.describing.ATOMS_PER_CHUNK", 8)
    made: list[weakref.ref[Atoms]] = []
    most = 0

    def stream():
        nonlocal most
        for seed in range(24):
            atoms = Atoms("CuO", [[0, 0, 0], [1.9 + 0.01 * seed, 0, 0]])
            made.append(weakref.ref(atoms))
            most = max(most, sum(seen() is not None for seen in made))
            yield atoms

    assert len(describe(stream(), calc)) == 48
    assert most <= 6  # four of a chunk, the next one, and the one just made


# ---- chunks on disk --------------------------------------------------------------------------------------------------


def test_interrupted_work_goes_on_where_it_stopped(calc, tmp_path, monkeypatch):
    monkeypatch.setattr("dpa2_ase.maps.describing.ATOMS_PER_CHUNK", 6)
    frames = [zoo.liquid(6, 25.0, seed) for seed in range(4)]

    def interrupted():
        yield from frames[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(interrupted(), calc, store=tmp_path)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert len(first) == 2
    assert not (tmp_path / "environments.npz").exists()
    found = describe(frames, calc, store=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len([*tmp_path.glob("*.npy")]) == 4
    again = Environments.load(tmp_path)
    np.testing.assert_array_equal(again.vectors(), found.vectors())
    np.testing.assert_array_equal(again.structure, found.structure)
    assert again.about == found.about


def test_chunks_are_named_by_what_they_hold(calc, tmp_path, structures):
    names = {describe(structures, calc, store=tmp_path, layer=Layer(layer)).chunks for layer in ("initial", "final")}
    moved = [atoms.copy() for atoms in structures]
    moved[-1].positions[0, 0] += 1e-9
    names.add(describe(moved, calc, store=tmp_path).chunks)
    names.add(describe(structures, DPA2Calculator(zoo.potential("dpa2-everything")), store=tmp_path).chunks)
    assert len(names) == 4
    assert describe(structures, calc, store=tmp_path).chunks in names


def test_a_damaged_chunk_is_named(calc, tmp_path, structures):
    found = describe(structures, calc, store=tmp_path)
    (tmp_path / found.chunks[0]).write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="remove it"):
        describe(structures, calc, store=tmp_path)


def test_heads_share_their_representations():
    file = zoo.DATA / "parity" / "multitask-heads.pt"
    from dpa2_ase import heads

    calcs = [DPA2Calculator(file, head=head, device="cpu") for head in heads(file)]
    assert len(calcs) > 1
    assert len({fingerprint(c.evaluator.reference) for c in calcs}) == 1
    assert len({fingerprint(c.evaluator.reference, whole=True) for c in calcs}) == len(calcs)
    water = [molecule("H2O"), zoo.liquid(6, 15.0, names=("O", "H"))]
    a, b = (describe(water, c).vectors() for c in calcs[:2])
    assert analysis.same_environments(a, b) == 0.0


def test_any_rows_in_any_order(tmp_path):
    vectors = np.arange(60.0).reshape(20, 3)
    env = environments(tmp_path / "e", vectors, np.ones(20), chunk=6)
    chosen = np.array([19, 3, 3, 0, 12])
    np.testing.assert_array_equal(env.vectors(chosen), vectors[chosen])
    np.testing.assert_array_equal(env.vectors(vectors[:, 0] > 30), vectors[vectors[:, 0] > 30])
    with pytest.raises(ValueError, match="numbered 0 to 19"):
        env.vectors(np.array([20]))


# ---- where structures come from --------------------------------------------------------------------------------------


def test_data_sets_are_read_again_and_again(tmp_path):
    write(tmp_path / "a.extxyz", [bulk("Cu"), bulk("Cu") * 2])
    write(tmp_path / "b.extxyz", [molecule("H2O")])
    data = DataSets([f"metal={tmp_path / 'a.extxyz'}", tmp_path / "b.extxyz", f"{tmp_path / 'a.extxyz'}@1"])
    for _ in range(2):
        assert [(a.info["data_set"], a.info["frame"], len(a)) for a in data] == [
            ("metal", 0, 1), ("metal", 1, 8), ("b", 0, 3), ("a", 0, 8),
        ]  # fmt: skip
    assert len(sources.pick(data, [1, 3])[3]) == 8
    with pytest.raises(ValueError, match="changed"):
        sources.pick(data, [9])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.xyz"):
        DataSets(["nowhere.xyz"])


def test_deepmd_systems_are_data_sets(tmp_path):
    from dpa2_ase.training.data.files import write_frames
    from dpa2_ase.training.data.frames import frame_of_atoms

    frames = [frame_of_atoms(zoo.liquid(6, 15.0, seed)) for seed in range(3)]
    write_frames(tmp_path / "systems", frames, format="deepmd-npy")
    found = [*DataSets([tmp_path / "systems"])]
    assert sorted(a.positions[0, 0] for a in found) == pytest.approx(sorted(f.positions[0, 0] for f in frames))


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_distances_count_images():
    atoms = Atoms("CuCuO", [[0.5, 0, 0], [4.0, 0, 0], [9.5, 0, 0]], cell=[10, 10, 10], pbc=True)
    np.testing.assert_allclose(distances_to(atoms, atoms.numbers == 8), [1.0, 4.5, 0.0])
    assert np.isinf(distances_to(atoms, atoms.numbers == 1)).all()


def test_energies_above_elements_leave_nothing_of_a_sum(tmp_path, calc):
    frames = []
    for seed in range(9):
        atoms = zoo.liquid(5 + seed % 4, 25.0, seed)
        energy = sum({"O": -430.0, "H": -13.0, "Cu": -1300.0}[s] for s in atoms.get_chemical_symbols())
        atoms.calc = SinglePointCalculator(atoms, energy=energy + 0.5 * len(atoms) * (seed == 8))
        frames.append(atoms)
    env = describe(frames[:8], calc, columns=[column("energy", calc)])
    np.testing.assert_allclose(energies_above_elements(env), 0.0, atol=1e-9)
    env = describe(frames, calc, columns=[column("energy", calc)])
    assert energies_above_elements(env).argmax() == 8


def test_a_structure_alone_with_its_element_has_no_energy_above_it(tmp_path):
    env = environments(tmp_path / "e", np.zeros((5, 1)), [8, 8, 8, 79, 79], [1, 2, 2], energy=[-430.0, -861.0, -3.0])
    assert np.isnan(energies_above_elements(env)).tolist() == [False, False, True]
    env = environments(tmp_path / "f", np.zeros((3, 1)), [8, 79, 79], [1, 2], energy=[-430.0, -3.0])
    with pytest.raises(ValueError, match="fit these few structures exactly"):
        energies_above_elements(env)


def test_force_errors_are_kept_and_zero_for_own_forces(calc, tmp_path):
    frames = [zoo.structure("skew"), zoo.structure("slab"), zoo.structure("dimer")]
    for atoms, result in zip(frames[:2], calc.evaluate(frames[:2], ["forces"]), strict=True):
        atoms.calc = SinglePointCalculator(atoms, forces=result["forces"] + [0.0, 0.3, 0.4])
    env = describe(frames, calc, store=tmp_path, columns=[column("force-error", calc)])
    errors = env.label("force-error")
    np.testing.assert_allclose(errors[:-2], 0.5, rtol=1e-6)
    assert np.isnan(errors[-2:]).all()  # nothing is known of the dimer
    assert len([*tmp_path.glob("*.npy")]) == 2
    np.testing.assert_array_equal(force_errors([], calc), [])


def test_entries_of_structures_and_of_atoms(calc):
    frames = [zoo.structure("dimer"), zoo.structure("molecule")]
    frames[0].info |= {"head": "a", "spread": 0.5}
    frames[0].arrays["charge"] = np.array([0.1, -0.1])
    names = ("head", "spread", "charge", "distance:O")
    env = describe(frames, calc, columns=[column(name, calc) for name in names])
    assert env.label("head").tolist() == ["a"] * 2 + [""] * 7
    np.testing.assert_array_equal(env.label_of_structures("spread"), [0.5, np.nan])
    np.testing.assert_allclose(env.label("charge"), [0.1, -0.1] + [np.nan] * 7, rtol=1e-6)
    assert env.label_of_structures("charge")[0] == pytest.approx(0.0)
    assert env.with_labels(mine=np.arange(9)).label("mine").tolist() == [*range(9)]
    with pytest.raises(ValueError, match="no label 'nothing'"):
        env.label("nothing")
    with pytest.raises(ValueError, match="no chemical elements"):
        column("distance:Xx", calc)


# ---- the periodic table ----------------------------------------------------------------------------------------------


def test_groups_are_those_of_the_periodic_table():
    known = {
        "H": "1",
        "He": "18",
        "B": "13",
        "Al": "13",
        "Sc": "3",
        "Cu": "11",
        "Zn": "12",
        "Au": "11",
        "La": "Ln",
        "Yb": "Ln",
        "Lu": "3",
        "Hf": "4",
        "U": "An",
        "Og": "18",
        "Ca": "2",
        "Sr": "2",
        "Cd": "12",
        "Te": "16",
    }
    assert {symbol: elements.group(chemical_symbols.index(symbol)) for symbol in known} == known
    assert len({elements.place(z) for z in range(1, 119)}) == 118
    assert len({elements.color(z) for z in range(1, 119)}) == 118
    with pytest.raises(ValueError, match="Xy"):
        elements.numbers_of(["Xy"])


# ---- distances and components ----------------------------------------------------------------------------------------


def test_nearest_is_what_all_distances_say(monkeypatch):
    monkeypatch.setattr("dpa2_ase.maps.distances.ROWS", 7)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 4)) + 100, rng.normal(size=(31, 4)) + 100
    table = np.linalg.norm(a[:, None] - b[None], axis=2)
    distance, index = nearest(a, b, 5)
    np.testing.assert_allclose(distance, np.sort(table, axis=1)[:, :5], atol=1e-10)
    np.testing.assert_array_equal(index, np.argsort(table, axis=1)[:, :5])
    assert (nearest_others(a, 3)[1] != np.arange(20)[:, None]).all()
    distance, index = nearest(a[:3], a[:3], 3, forbidden=(np.array([0, 0, 1]), np.array([0, 0, 1])))
    assert np.isinf(distance).sum() == (index == -1).sum() == 5  # one allowed neighbor for two, two for the third


def test_components_of_blocks_are_those_of_all():
    """Against the singular value decomposition of everything at once, far from the origin."""
    vectors = np.random.default_rng(2).normal(size=(50, 5)) * [5, 3, 1, 0.5, 0.1] + 1000
    found = principal_components(np.array_split(vectors, 7), 3)
    _, sizes, directions = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.variances, sizes[:3] ** 2 / 50, rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.directions @ directions[:3].T), np.eye(3), atol=1e-8)
    np.testing.assert_allclose(found.transform(vectors).var(0), found.variances, rtol=1e-9)
    with pytest.raises(ValueError, match="two vectors"):
        principal_components([vectors[:1]], 2)


# ---- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_new_points_land_on_their_own_kind(method, tmp_path):
    points, kind = blobs()
    made = project(points, method, seed=1)
    new, new_kind = blobs(seed=9, size=10)
    placed = made.transform(new)
    _, index = nearest(placed, made.coordinates, 1)
    np.testing.assert_array_equal(kind[index[:, 0]], new_kind)
    stored = Projection.load(made.save(tmp_path / "map.npz"))
    np.testing.assert_array_equal(stored.transform(new), placed)
    np.testing.assert_array_equal(project(points, method, seed=1).coordinates, made.coordinates)
    with pytest.raises(ValueError, match="vectors of 6 numbers"):
        made.transform(points[:, :4])


def test_umap_without_its_compiler(tmp_path):
    """In a process of its own: compiling takes a minute, which a handful of points are not worth."""
    code = f"""
import sys, numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dpa2_ase.maps import Projection, project
rng = np.random.default_rng(0)
points = rng.normal(size=(24, 3)); points[12:] += 20
made = project(points, "umap", perplexity=4)
placed = Projection.load(made.save({str(tmp_path / "map.npz")!r})).transform(points[:2] + 0.01)
gap = np.linalg.norm(made.coordinates[:12].mean(0) - made.coordinates[12:].mean(0))
print(np.linalg.norm(placed - made.coordinates[:12].mean(0), axis=1).max() < gap / 2)
"""
    import os

    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_a_map_that_cannot_be_says_why(tmp_path, monkeypatch):
    points, _ = blobs(size=5)
    with pytest.raises(ValueError, match="perplexity 9 should be 2 to 3 for 10 points"):
        project(points, "tsne", perplexity=9)
    with pytest.raises(ValueError, match="7 points or more, found 6"):
        project(points[:6], "tsne")
    with pytest.raises(ValueError, match="not one of"):
        project(points, "magic")
    (tmp_path / "no.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="not a map"):
        Projection.load(tmp_path / "no.npz")
    monkeypatch.setitem(sys.modules, "openTSNE", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "dpa2-ase[maps]"')):
        project(points, "tsne")


def test_maps_of_different_models_do_not_mix(calc, structures):
    one = make_map(describe(structures, calc), "pca")
    other = describe(structures, calc, layer=Layer("initial"))
    with pytest.raises(ValueError, match="cannot be compared"):
        make_map(other, onto=one.projection)
    again = make_map(describe(structures, calc), onto=one.projection)
    np.testing.assert_allclose(again.coordinates, one.coordinates)
    assert again.background is one.projection.coordinates


def test_rare_labels_keep_their_points():
    labels = np.repeat(["Cu", "O", "H"], [1000, 400, 3])
    kept = labels[thinning.thin(labels, 103)]
    assert dict(zip(*np.unique(kept, return_counts=True), strict=True)) == {"Cu": 50, "H": 3, "O": 50}
    assert len(thinning.thin(labels, 5000)) == len(labels)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_purity_of_separate_and_of_mixed_points():
    points, kind = blobs()
    score = analysis.purity(points, kind, k=5)
    assert score.value == 1.0
    assert score.baseline == pytest.approx(0.5, abs=0.03)
    assert score.sigmas > 10
    mixed = analysis.purity(points[:40], kind[::2], k=5)
    assert abs(mixed.sigmas) < 4


def test_purity_by_group_looks_at_other_elements_only(tmp_path):
    """Four elements on a line, Cu–Ag and O–S beside each other; their own atoms do not count."""
    rng = np.random.default_rng(0)
    numbers = np.repeat(elements.numbers_of(["Cu", "Ag", "O", "S", "Li"]), 20)
    place = np.repeat([0.0, 1.0, 10.0, 11.0, 30.0], 20)
    score = analysis.group_purity(place[:, None] + 0.1 * rng.normal(size=(100, 2)), numbers, k=5)
    assert score.value == 1.0
    assert score.baseline < 0.7
    swapped = np.repeat(elements.numbers_of(["Cu", "O", "Ag", "S", "Li"]), 20)
    assert analysis.group_purity(place[:, None] + 0.1 * rng.normal(size=(100, 2)), swapped, k=5).value == 0.0


def test_silhouette_is_that_of_scikit_learn(monkeypatch):
    from sklearn.metrics import silhouette_score

    monkeypatch.setattr("dpa2_ase.maps.distances.ROWS", 17)
    points, _ = blobs(apart=2.0)
    kinds = np.random.default_rng(3).integers(0, 4, len(points))
    kinds[0] = 9  # alone
    assert analysis.silhouette(points, kinds) == pytest.approx(silhouette_score(points, kinds), abs=1e-10)


def test_elements_near_each_other():
    points = np.array([[0.0, 0], [0.2, 0], [1.0, 0], [5.0, 0]])
    found = analysis.element_distances(points, elements.numbers_of(["Cu", "Cu", "Li", "Ni"]))
    assert [symbol for symbol, _ in found.nearest("Cu")] == ["Li", "Ni"]
    assert found.nearest("Cu")[0][1] == pytest.approx(0.9)
    assert found.rank("Cu", "Li", ["Cu", "Ni"]) == 0.0
    assert found.rank("Ni", "Li", ["Cu", "Ni"]) == 1.0
    with pytest.raises(ValueError, match="no atoms of 'H'"):
        found.nearest("H")


def test_hydrogen_splits_where_there_are_two_kinds():
    points, kind = blobs(apart=20.0)
    metal = points[:40] + 3
    vectors = np.concatenate([points, metal, points[40:] - 3])
    numbers = np.repeat(elements.numbers_of(["H", "Cu", "C"]), [80, 40, 40])
    found = clusters.split(vectors, numbers, 1, classes=np.concatenate([kind, np.zeros(80)]))
    assert found.agreement == 1.0
    assert found.metal_neighbors == (0.0, 1.0)
    assert found.silhouette > 0.5
    assert "agreement" in str(found)


def test_a_few_strange_atoms_are_no_cluster():
    """Two outliers far away would be the best of all pairs of clusters."""
    points, kind = blobs(apart=20.0)
    far = points.mean(0) + 1000.0 * np.eye(2, points.shape[1])
    vectors, numbers = np.concatenate([points, far]), np.ones(len(points) + 2, int)
    found = clusters.split(vectors, numbers, 1, classes=np.concatenate([kind, [0, 1]]))
    assert (found.cluster == clusters.OUTLIER).tolist() == [False] * len(points) + [True] * 2
    assert found.agreement == 1.0
    assert "2 set aside" in str(found)
    assert (clusters.split(vectors, numbers, 1, fewest=0.0).cluster != clusters.OUTLIER).all()


def test_a_gradient_and_none():
    rng = np.random.default_rng(0)
    distance = rng.uniform(1, 8, 60)
    reference = 1e-5 * rng.normal(size=(30, 4))
    felt = np.exp(-distance)[:, None] * np.ones(4)
    assert analysis.gradient(felt, reference, distance) < -0.9
    assert abs(analysis.gradient(rng.normal(size=(60, 4)), reference, distance)) < 0.4


def test_overlap_of_one_cloud_and_of_two():
    points, _ = blobs(size=60)
    assert analysis.overlap(points[:30], points[30:60]).value == pytest.approx(1.0, abs=0.15)
    assert analysis.overlap(points[:60], points[60:]).value == 0.0
    with pytest.raises(ValueError, match="11 environments or more"):
        analysis.overlap(points[:5], points[5:10])


def test_prototypes_are_sensible_structures():
    found = [*prototypes.prototypes(["H", "O", "Cu", "Ni"], copies=1)]
    kinds = {atoms.info["kind"] for atoms in found}
    assert kinds == {"element", "compound", "molecule", "surface"}
    assert any(sorted(a.get_chemical_symbols()) == ["H", "H", "O"] for a in found)
    for atoms in found:
        repeated = atoms * [2 if p else 1 for p in atoms.pbc]
        lengths = repeated.get_all_distances(mic=True)[np.triu_indices(len(repeated), 1)]
        assert lengths.min(initial=9.0) > 0.5  # Å
    distances = np.sort(prototypes.surface("Cu", "O").get_distances(36, range(36), mic=True))
    np.testing.assert_allclose(distances[:3], distances[0], rtol=1e-6)  # a hollow has three neighbors


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def atom_map(calc):
    frames = [zoo.structure(name) for name in NAMES]
    for number, atoms in enumerate(frames):
        atoms.info |= {"kind": "</script><b>odd" if number else "usual", "weight": 1.5 * number}
    env = describe(frames, calc, columns=[column(name, calc) for name in ("kind", "weight", "distance:O")])
    env = env.with_labels(name=np.array([f"atom {number}" for number in range(len(env))]))  # more than categories go
    return make_map(env, "pca"), frames


def test_tables_hold_every_point(atom_map, tmp_path):
    points, _ = atom_map
    with tables.write_csv(tmp_path / "map.csv", tables.columns(points)).open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert len(rows) == len(points)
    assert [row["element"] for row in rows] == points.environments.elements.tolist()
    assert float(rows[3]["x"]) == points.coordinates[3, 0]
    assert rows[0]["kind"] == "usual"


@pytest.mark.parametrize("by", ["element", "group", "kind", "distance:O"])
def test_pictures(atom_map, tmp_path, by):
    png = pictures.save_map(atom_map[0], tmp_path / "map.png", by)
    assert png.read_bytes().startswith(b"\x89PNG")
    svg = pictures.save_map(atom_map[0], tmp_path / "map.svg", by).read_text()
    assert "PC 1" in svg
    if by in ("element", "group"):
        assert "Og" in svg  # the whole periodic table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map.svg"]


def test_the_page_works_without_network(atom_map, tmp_path, open_page):
    """Chromium logs hints about speed as warnings; errors, exceptions and requests there are none."""
    points, frames = atom_map
    page = html.write_html(tmp_path / "map.html", points, dict(enumerate(frames)), by="group", title="<A & B>")
    with open_page(page, size=(640, 480)) as visit:  # software draws it
        visit.page.wait_for_function("document.body.dataset.ready === 'yes'", timeout=180_000)
        assert visit.page.inner_text("h1") == "<A & B>"
        assert visit.page.locator("#map canvas, #map svg").count() > 0
        assert visit.page.locator("#structure canvas").count() > 0
        assert visit.page.inner_text("#warning") == ""
        assert [text for text in visit.console_errors if text.startswith("error")] == []
        assert visit.page_errors == []
        assert visit.requests == []


def test_the_page_holds_all_points_and_their_structures(atom_map):
    points, frames = atom_map
    data = json.loads(
        json.dumps(html.dataset(points, dict(enumerate(frames)), by="weight", title="t"), allow_nan=False)
    )
    assert len(data["environments"]) == len(points)
    assert [s["size"] for s in data["structures"]] == [len(atoms) for atoms in frames]
    for entry, symbol in zip(data["environments"], data["properties"]["element"]["values"], strict=True):
        assert data["structures"][entry["structure"]]["names"][entry["center"]] == symbol
    assert data["settings"]["map"]["color"]["property"] == "weight"
    of_structures = make_map(points.environments, "pca", per="structure")
    assert len(html.dataset(of_structures, dict(enumerate(frames)), by="kind", title="t")["structures"]) == len(frames)


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "a.extxyz", [zoo.structure("skew"), zoo.structure("slab"), zoo.liquid(12, 25.0)])
    return tmp_path / "a.extxyz"


def test_a_folder_gets_everything(data, tmp_path):
    found = run("map", data, "-m", MODEL, "-o", tmp_path / "out", "--method", "pca", "--color", "distance:O")
    assert found.exit_code == 0, found.output
    assert "19 atoms of 3 structures, 19 points" in found.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "map.html", "map.png", "map.svg", "map.csv", "map.npz", "descriptors", "map.json", "report.html"
    }  # fmt: skip
    facts = json.loads((tmp_path / "out" / "map.json").read_text())
    assert facts["points"] == sum(facts["points_of"].values()) == 19
    assert facts["provenance"]["settings"]["method"] == "pca"
    assert len(facts["provenance"]["calculator"]["source"]["sha256"]) == 64
    onto = run(
        "map", data, "-m", MODEL, "--onto", tmp_path / "out" / "map.npz", "--only", "O", "-o", tmp_path / "o.csv"
    )
    assert onto.exit_code == 0, onto.output
    stored = Projection.load(tmp_path / "out" / "map.npz")
    with (tmp_path / "o.csv").open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert {row["element"] for row in rows} == {"O"}
    where = [int(row["structure"]) for row in rows]
    assert 0 < len(rows) < len(stored.coordinates)
    assert where == sorted(where)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "tsne", "--perplexity", "50"], "perplexity 50 should be 2 to 6 for 19 points"),
        (["--only", "Au"], "no atoms of that element"),
        (["--only", "Xx"], "no chemical elements"),
        (["--color", "distance:Q"], "no chemical elements"),
        (["--out", "map.bmp"], "should end with one of .html"),
        (["--layer", "repinit", "-m", zoo.DATA / "parity" / "dpa1-noattn-strip.pt"], "no layer 'repinit'"),
    ],
)
def test_one_line_says_what_is_wrong(data, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    found = run("map", data, "-m", MODEL, *words)
    assert found.exit_code == 2
    assert message in found.output
    assert not (tmp_path / "map.html").exists()


def test_any_head_will_do_for_a_map_and_one_is_named(tmp_path):
    write(tmp_path / "water.extxyz", [molecule("H2O"), zoo.liquid(6, 25.0, names=("O", "H"))])
    many = zoo.DATA / "parity" / "multitask-heads.pt"
    found = run("map", tmp_path / "water.extxyz", "-m", many, "--method", "pca", "-o", tmp_path / "map.csv")
    assert found.exit_code == 0, found.output
    assert "representations of head" in found.output
    errors = run("map", tmp_path / "water.extxyz", "-m", many, "--color", "force-error", "-o", tmp_path / "e.csv")
    assert errors.exit_code == 2
    assert "head" in errors.output
    assert not (tmp_path / "e.csv").exists()


def test_missing_packages_are_named_before_the_work(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "chemiscope", None)  # as if it were not installed
    found = run("map", data, "-m", MODEL, "--method", "pca", "-o", tmp_path / "map.html")
    assert found.exit_code == 2
    assert 'pip install "dpa2-ase[maps]"' in found.output
    assert run("map", data, "-m", MODEL, "--method", "pca", "-o", tmp_path / "map.csv").exit_code == 0


def test_ctrl_c_says_what_is_kept(calc, tmp_path, monkeypatch):
    from dpa2_ase.cli.describing import describe_data

    monkeypatch.setattr("dpa2_ase.maps.describing.ATOMS_PER_CHUNK", 2)

    class Interrupted(DataSets):
        def __iter__(self):
            yield from super().__iter__()
            raise KeyboardInterrupt

    write(tmp_path / "a.extxyz", [zoo.structure("dimer"), zoo.structure("skew")])
    data = Interrupted([tmp_path / "a.extxyz"])
    with pytest.raises(KeyboardInterrupt, match="2 structures described; they are kept in .*store"):
        describe_data(data, calc, tmp_path / "store", ("final", False))
    assert len([*(tmp_path / "store").glob("*.npy")]) == 2


def test_unknown_elements_are_named(tmp_path):
    write(tmp_path / "gold.extxyz", bulk("Au"))
    found = run("map", tmp_path / "gold.extxyz", "-m", MODEL, "-o", tmp_path / "x.csv")
    assert found.exit_code == 2
    assert "gold@0: elements ['Au']" in found.output


# ---- the tutorial ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tutorial_answers_its_questions(tmp_path, monkeypatch, capsys):
    tutorials = Path(__file__).parent.parent / "tutorials"
    monkeypatch.setenv("DPA2_ASE_TUTORIAL_FAST", "1")
    monkeypatch.setenv("DPA2_ASE_TUTORIAL_OUTPUT", str(tmp_path))
    monkeypatch.syspath_prepend(str(tutorials))
    monkeypatch.setattr(sys, "argv", ["maps_periodic_table.py"])
    monkeypatch.delitem(sys.modules, "setting", raising=False)
    try:
        runpy.run_path(str(tutorials / "maps_periodic_table.py"), run_name="__main__")
    finally:
        sys.modules.pop("setting", None)  # it has read this test's environment
    lines = re.findall(r"^CHECK (\w+) = ([-\d.]+)(?: ([-\d.]+))?", capsys.readouterr().out, flags=re.MULTILINE)
    found = {name: [float(value) for value in values if value] for name, *values in lines}
    purity, chance = found["element"]
    assert purity > chance
    assert found["heads"] == [0.0]  # of one descriptor
    assert sum(found[name][0] for name in ("holding", "failing", "open")) == 13  # every question has an answer
    squeezed, usual = found["outside"]
    assert usual <= squeezed
    assert -1 <= found["gradient"][0] <= 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "periodic-table-map.png", "periodic-table-heads.png", "periodic-table-elements.png", "periodic-table-map.html",
    }  # fmt: skip


def test_the_benchmark_of_memory_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    import map_memory

    assert re.match(r" +9 +48 +\d+ +\d+ +[\d.]+$", map_memory.measure(9))
