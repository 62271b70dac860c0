"""Choosing structures: coverage, density, outliers, duplicates, and atoms like a given one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import zoo
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from click.testing import CliRunner
from environments import environments

from dpa2_ase import DPA2Calculator
from dpa2_ase.cli import main
from dpa2_ase.maps import Layer, describe
from dpa2_ase.maps.describing import represent_structures
from dpa2_ase.maps.duplicates import find_duplicates
from dpa2_ase.maps.selection import (
    environment_novelty,
    farthest_points,
    find_like,
    select_by_density,
    select_farthest,
    select_outliers,
    sparsity,
    uncovered,
)

MODEL = zoo.DATA / "parity" / "dpa2-strip.pt"


@pytest.fixture(scope="module")
def calc():
    return DPA2Calculator(zoo.potential("dpa2-strip"), device="cpu")


def dimers(*lengths: float) -> list[Atoms]:
    return [Atoms("CuO", [[0, 0, 0], [0, 0, length]]) for length in lengths]


# ---- coverage --------------------------------------------------------------------------------------------------------


def test_farthest_points_leave_at_most_twice_the_best_gap():
    """Gonzalez' bound, against the best of all choices of three among twelve points."""
    from itertools import combinations

    points = np.random.default_rng(0).normal(size=(12, 2))
    table = np.linalg.norm(points[:, None] - points[None], axis=2)

    def gap(chosen) -> float:
        return table[:, [*chosen]].min(1).max()

    for start in range(12):
        chosen, distances = farthest_points(points, 3, start=start)
        assert gap(chosen) <= 2 * min(gap(trial) for trial in combinations(range(12), 3)) + 1e-12
        assert distances[1] >= distances[2]
        assert distances[2] == pytest.approx(table[chosen[2], chosen[:2]].min())


def test_what_is_known_is_not_chosen_again():
    points = np.array([[0.0, 0], [1, 0], [10, 0], [10, 0], [0, 5]]) + 300
    chosen, distances = farthest_points(points, 5, known=points[:1])
    assert chosen.tolist() == [2, 4, 1]  # neither the known point nor the second of two equal ones
    np.testing.assert_allclose(distances, [10, 5, 1])
    assert len(farthest_points(points, 9)[0]) == 4


def test_structures_that_cover(calc):
    frames = dimers(1.7, 1.71, 1.72, 1.9, 2.4, 1.7)
    env = describe(frames, calc)
    found = select_farthest(env, 3, known=describe(frames[:1], calc))
    assert found.chosen[0] == 4
    assert 0 not in found.chosen
    assert 5 not in found.chosen
    assert "known" in found.reasons[0]
    with pytest.raises(ValueError, match="1 or more"):
        select_farthest(env, 0)


def test_density_thins_out_what_is_repeated(tmp_path):
    """A tight cloud of 200 points and a wide one of 20: they come out about even, not ten to one."""
    rng = np.random.default_rng(1)
    points = np.concatenate([0.05 * rng.normal(size=(200, 2)), 2 * rng.normal(size=(20, 2)) + 20])
    env = environments(tmp_path / "e", points, np.ones(220))
    picked = np.concatenate([select_by_density(env, 10, seed=seed).chosen for seed in range(20)])
    assert 0.4 < (picked >= 200).mean() < 0.95
    assert len({*select_by_density(env, 500).chosen.tolist()}) == 220
    assert sparsity(points)[:200].mean() < 0.1 * sparsity(points)[200:].mean()


# ---- outliers --------------------------------------------------------------------------------------------------------


def test_the_odd_one_is_found(tmp_path):
    rng = np.random.default_rng(2)
    points = rng.normal(size=(80, 3))
    points[17] += 12.0
    env = environments(tmp_path / "e", points, np.repeat([8, 29], 40), sizes=[2] * 40)
    found = select_outliers(env, 3)
    assert found.chosen[0] == 17 // 2
    assert found.scores[0] > 4
    assert "atom 1 (O)" in found.reasons[0]
    usual = environment_novelty(env)
    assert np.median(usual) == pytest.approx(1.0, abs=0.15)
    assert len(select_outliers(env, 40, threshold=4.0)) == 1


def test_new_structures_beside_known_ones(tmp_path):
    rng = np.random.default_rng(3)
    known = environments(tmp_path / "known", rng.normal(size=(60, 3)), np.full(60, 29))
    points = np.concatenate([rng.normal(size=(5, 3)), rng.normal(size=(1, 3)) + 15, rng.normal(size=(1, 3))])
    new = environments(tmp_path / "new", points, [29] * 6 + [8])
    np.testing.assert_array_equal(uncovered(new, known, threshold=4.0), [False] * 5 + [True, True])
    found = select_outliers(new, 2, known)
    assert found.chosen.tolist() == [6, 5]
    assert "too few environments of O" in found.reasons[0]


def test_atoms_of_one_structure_do_not_vouch_for_each_other(tmp_path):
    """Ten equal atoms of one odd structure are each other's neighbors, and odd all the same."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.normal(size=(40, 3)), np.full((10, 3), 9.0)])
    env = environments(tmp_path / "e", points, np.full(50, 29), sizes=[1] * 40 + [10])
    assert select_outliers(env, 1).chosen.tolist() == [40]


# ---- duplicates ------------------------------------------------------------------------------------------------------


def test_copies_are_found_however_they_are_turned(calc):
    atoms = zoo.structure("skew")
    turned = atoms[[2, 0, 1]]
    turned.rotate(70, (1, 1, 0), rotate_cell=True)
    turned.positions += 1.3
    shaken = atoms.copy()
    shaken.rattle(0.05, seed=1)
    env = describe([atoms, shaken, turned, atoms * (2, 1, 1), atoms.copy()], calc)
    found = find_duplicates(env)
    assert found.chosen.tolist() == [2, 4]
    assert found.reasons == ("same as structure 0",) * 2
    assert find_duplicates(env, tolerance=10.0).chosen.tolist() == [1, 2, 4]  # anything with the same atoms


def test_equal_means_are_not_enough(tmp_path):
    """Two structures whose atoms differ and whose means do not."""
    vectors = [[-1, 0], [1, 0], [0, -1], [0, 1], [1, 0], [-1, 0]]
    env = environments(tmp_path / "e", vectors, [8] * 6, sizes=[2, 2, 2])
    assert find_duplicates(env).chosen.tolist() == [2]


# ---- atoms like this one ---------------------------------------------------------------------------------------------


def test_an_atom_is_most_like_itself(calc):
    frames = [zoo.liquid(6, 25.0, seed) for seed in range(5)]
    env = describe(frames, calc)
    query = represent_structures(frames[3:4], calc, Layer())[2]
    found = find_like(env, query, 3, number=int(frames[3].numbers[2]))
    assert found.structures(env).tolist()[0] == 3
    assert env.atom[found.chosen[0]] == 2
    assert found.scores[0] == pytest.approx(0.0, abs=1e-5)  # float32, and tables that have grown
    assert len({*found.structures(env).tolist()}) == 3
    assert {env.numbers[i] for i in found.chosen} == {frames[3].numbers[2]}
    assert len(find_like(env, query, 100, one_each=False)) == 30
    with pytest.raises(ValueError, match="use one layer"):
        find_like(env, query[:3], 1)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    frames = dimers(1.7, 1.72, 1.9, 1.7, 2.4)
    for number, atoms in enumerate(frames):
        atoms.info["mine"] = number
    write(tmp_path / "a.extxyz", frames)
    return tmp_path / "a.extxyz"


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_structures_come_with_reasons(data, tmp_path):
    outs = [tmp_path / f"chosen{suffix}" for suffix in (".extxyz", ".csv", ".png")]
    found = run("select", data, "-m", MODEL, "-n", 3, *[word for out in outs for word in ("-o", out)])
    assert found.exit_code == 0, found.output
    frames = read(outs[0], ":")
    assert [atoms.info["select_rank"] for atoms in frames] == [1, 2, 3]
    assert {atoms.info["frame"] for atoms in frames} == {atoms.info["mine"] for atoms in frames}
    assert all(atoms.info["select_reason"] in found.output for atoms in frames)
    with outs[1].open(newline="") as stream:
        rows = [*csv.DictReader(stream)]
    assert [int(row["frame"]) for row in rows] == [atoms.info["mine"] for atoms in frames]
    assert [row["reason"] for row in rows] == [atoms.info["select_reason"] for atoms in frames]
    assert outs[2].read_bytes().startswith(b"\x89PNG")


def test_a_folder_says_where_the_selection_comes_from(data, tmp_path):
    folder = tmp_path / "out"
    found = run("select", data, "-m", MODEL, "-n", 3, "--seed", 4, "-o", folder)
    assert found.exit_code == 0, found.output
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "selected.extxyz", "selection.csv", "selection.png", "selection.svg", "select.json", "report.html"
    }  # fmt: skip
    facts = json.loads((folder / "select.json").read_text())
    frames = read(folder / "selected.extxyz", ":")
    assert [int(part["frame"]) for part in facts["selected"]] == [atoms.info["mine"] for atoms in frames]
    assert facts["provenance"]["settings"]["seed"] == 4
    assert len(facts["provenance"]["calculator"]["source"]["sha256"]) == 64
    assert facts["selected"][0]["reason"] in (folder / "report.html").read_text()
    assert "is a file" in run("select", data, "-m", MODEL, "-o", _taken(tmp_path)).output


def _taken(folder: Path) -> Path:
    (folder / "taken").write_text("")
    return folder / "taken"


def test_a_data_set_without_its_duplicates(data, tmp_path):
    found = run("select", data, "-m", MODEL, "--by", "duplicates", "--invert", "-o", tmp_path / "clean.extxyz")
    assert found.exit_code == 0, found.output
    assert "same as a@0" in found.output
    assert [atoms.info["mine"] for atoms in read(tmp_path / "clean.extxyz", ":")] == [0, 1, 2, 4]


def test_atoms_like_that_of_a_file(data, tmp_path):
    out = tmp_path / "like.extxyz"
    found = run("select", data, "-m", MODEL, "--by", "like", "--query", f"{data}@2", "--atom", 1, "-n", 2, "-o", out)
    assert found.exit_code == 0, found.output
    first = read(out, "0")
    assert (first.info["mine"], first.info["select_atom"]) == (2, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "like"], "--by like and --query go together"),
        (["--query", "a.extxyz"], "--by like and --query go together"),
        (["--by", "density", "--known", "a.extxyz"], "--known says nothing to --by density"),
        (["-n", "0"], "1 or more"),
        (["-o", "a.extxyz"], "never overwritten"),
        (["-o", "a.pdb"], "should end with one of"),
        (["--by", "like", "--query", "a.extxyz", "--atom", "2"], "no atom 2"),
        (["--known", "gold.extxyz"], "gold@0: elements ['Au']"),
    ],
)
def test_one_line_says_what_is_wrong(data, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write("gold.extxyz", bulk("Au"))
    found = run("select", "a.extxyz", "-m", MODEL, *words)
    assert found.exit_code == 2
    assert message in found.output
    assert not (tmp_path / "selected.extxyz").exists()
