"""Labelled frames: every format there and back, the layout DeePMD-kit documents, and the checks before a training."""

from __future__ import annotations

import dataclasses
import resource
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import ase.db
import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import define_external_io_format, ioformats

from dpa2_ase.training.data.checks import Limits, check_frames
from dpa2_ase.training.data.files import convert, read_frames, read_systems, write_frames
from dpa2_ase.training.data.frames import Frame, LabelKeys, atoms_of_frame, frame_of_atoms
from dpa2_ase.training.data.work import work_tests

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data" / "training"


def labelled(seed: int, symbols: str, *, cell: np.ndarray | None = None, pbc: object = False) -> Frame:
    """A frame with random labels of every kind, none of which is a round number."""
    rng = np.random.default_rng(seed)
    n = len(Atoms(symbols))
    return Frame(
        symbols=tuple(Atoms(symbols).get_chemical_symbols()),
        positions=rng.normal(0, 3, (n, 3)),
        cell=cell,
        pbc=tuple(np.broadcast_to(pbc, 3).tolist()),
        energy=rng.normal(),
        forces=rng.normal(size=(n, 3)),
        virial=None if cell is None else rng.normal(size=(3, 3)),
        info={"config_type": f"number {seed}", "charge": seed, "levels": rng.normal(size=2), "notes": {"a": [1, None]}},
        arrays={"tags": rng.integers(0, 5, n)},
    )


CELL = np.array([[5.0, 0.1, 0.2], [0.3, 6.0, 0.4], [-0.5, 0.6, 7.0]])
SAME = [labelled(k, "OH2", cell=CELL + k, pbc=True) for k in range(3)]
MIXED = [
    labelled(0, "OH2", cell=CELL, pbc=True),
    labelled(1, "CO2"),
    labelled(2, "CuO", cell=CELL, pbc=(True, True, False)),
    labelled(3, "H2O", cell=CELL, pbc=True),
    labelled(4, "Cu", cell=CELL, pbc=False),
]
NAMES = ["new", "new-mixed", "new.hdf5", "new.lmdb"]


def assert_same(frames: list[Frame], expected: list[Frame]) -> None:
    assert len(frames) == len(expected)
    for frame, other in zip(frames, expected, strict=True):
        for field in dataclasses.fields(Frame):
            a, b = getattr(frame, field.name), getattr(other, field.name)
            assert frame.equals(dataclasses.replace(frame, **{field.name: b})), f"{field.name}: {a} is not {b}"


@pytest.mark.parametrize("frames", [SAME, MIXED, SAME[:1]], ids=["same", "mixed", "one"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_in_deepmd_formats(tmp_path, frames, name):
    write_frames(tmp_path / name, frames, format="deepmd-mixed" if "mixed" in name else None)
    assert_same(read_frames(tmp_path / name), frames)


@pytest.mark.parametrize("name", [*NAMES, "x.extxyz", "x.traj", "x.db", "x.json"])
def test_conversion_there_and_back(tmp_path, name):
    """From ASE's results to a format and back, to the last bit."""
    structures = []
    for number, atoms in enumerate([bulk("Cu", "hcp", a=2.5, c=4.3) * (2, 1, 1), molecule("CH3CH2OH")]):
        atoms.rattle(0.1, seed=number)
        atoms.info["source"] = f"run {number}"
        atoms.calc = EMT()
        atoms.get_forces()
        if atoms.pbc.any():
            atoms.get_stress()
        structures.append(atoms)
    frames = [frame_of_atoms(atoms) for atoms in structures]
    ase.io.write(tmp_path / "start.traj", structures)
    assert convert(tmp_path / "start.traj", tmp_path / name) == 2
    convert(tmp_path / name, tmp_path / "back.traj")
    for frame, expected in zip(read_frames(tmp_path / "back.traj"), frames, strict=True):
        assert frame.symbols == expected.symbols
        assert frame.pbc == expected.pbc
        for label in ("positions", "forces", "virial", "atomic_energies", "energy"):
            np.testing.assert_array_equal(getattr(frame, label), getattr(expected, label))
        assert frame.info["source"] == expected.info["source"]
        np.testing.assert_allclose(  # the stress comes from the virial, which rounds once
            atoms_of_frame(frame).calc.results.get("stress", 0.0),
            expected.stress if expected.stress is not None else 0.0,
        )


def test_nothing_is_lost_in_databases(tmp_path):
    """Entries, arrays, parameters and weights, none of which ASE's own reader gives back."""
    frames = [dataclasses.replace(f, fparam=np.array([0.1, 0.2]), weight=0.3) for f in (SAME[0], MIXED[1])]
    for name in ("x.db", "x.json"):
        write_frames(tmp_path / name, frames)
        assert_same(read_frames(tmp_path / name), frames)
        assert_same(read_frames(f"{tmp_path / name}@1:"), frames[1:])
        assert_same(read_frames(f"{tmp_path / name}@C"), frames[1:])  # a query of ASE
    with ase.db.connect(tmp_path / "own.db") as database:
        atoms = bulk("Cu")
        database.write(atoms, key_value_pairs={"dft_energy": -3.5}, data={"dft_forces": np.ones((1, 3))})
    (frame,) = read_frames(tmp_path / "own.db", keys=LabelKeys(energy="dft_energy", forces="dft_forces"))
    assert frame.energy == -3.5
    np.testing.assert_array_equal(frame.forces, np.ones((1, 3)))
    with pytest.raises(ValueError, match="cannot be stored in a database"):
        write_frames(tmp_path / "y.db", [dataclasses.replace(SAME[0], info={"code": print})])


@pytest.mark.parametrize("name", [*NAMES, "x.extxyz", "x.traj", "x.db", "x.json"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, name):
    """Files may not grow beyond a quarter of what is written to them."""
    frames = [labelled(k, "Cu60", cell=CELL, pbc=True) for k in range(12)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError, match=f"{name} cannot be written"):
            write_frames(tmp_path / name, frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_layout_is_that_of_deepmd(tmp_path):
    frames = [dataclasses.replace(f, info={}, arrays={}) for f in SAME]
    write_frames(tmp_path / "sys", frames, type_map=["H", "O"])
    assert sorted(p.name for p in (tmp_path / "sys").iterdir()) == ["set.000", "type.raw", "type_map.raw"]
    assert (tmp_path / "sys/type.raw").read_text().split() == ["1", "0", "0"]
    assert (tmp_path / "sys/type_map.raw").read_text().split() == ["H", "O"]
    shapes = {p.stem: np.load(p).shape for p in (tmp_path / "sys/set.000").iterdir()}
    assert shapes == {"coord": (3, 9), "box": (3, 9), "energy": (3,), "force": (3, 9), "virial": (3, 9)}
    np.testing.assert_array_equal(np.load(tmp_path / "sys/set.000/virial.npy")[1], frames[1].virial.ravel())


def write_system(folder: Path, **arrays: np.ndarray) -> Path:
    """A system written by hand."""
    part = folder / "set.000"
    part.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(part / f"{name}.npy", values)
    (folder / "type.raw").write_text("0\n1\n1\n")
    (folder / "type_map.raw").write_text("O\nH\n")
    return folder


def test_place_holders_are_no_atoms(tmp_path):
    coordinates = np.arange(18.0).reshape(2, 9)
    folder = write_system(
        tmp_path / "sys",
        coord=coordinates,
        force=-coordinates,
        box=np.tile(np.eye(3).ravel() * 9, (2, 1)),
        real_atom_types=np.array([[0, 1, -1], [1, 0, 1]]),
        atom_ener=np.arange(6.0).reshape(2, 3),
        atom_dipole=np.arange(18.0).reshape(2, 9),
    )
    first, second = read_frames(folder)
    assert first.symbols == ("O", "H")
    assert second.symbols == ("H", "O", "H")
    np.testing.assert_array_equal(first.forces, -coordinates[0].reshape(3, 3)[:2])
    np.testing.assert_array_equal(first.atomic_energies, [0, 1])
    assert first.arrays["atom_dipole"].shape == (2, 3)


def test_several_sets_and_single_precision(tmp_path):
    folder = write_system(tmp_path / "sys", coord=np.ones((2, 9), np.float32), energy=np.array([[1], [2]], np.float32))
    (folder / "nopbc").touch()
    write_system(tmp_path / "other", coord=np.zeros((1, 9)), energy=np.array([3.0]))
    (tmp_path / "other/set.000").rename(folder / "set.001")
    frames = read_frames(folder)
    assert [f.energy for f in frames] == [1.0, 2.0, 3.0]
    assert frames[0].positions.dtype == np.float64
    assert not frames[0].is_periodic
    assert [len(s.frames) for s in read_systems(tmp_path, pattern="s?s")] == [3]


def test_labels_of_unknown_names_are_kept(tmp_path):
    folder = write_system(
        tmp_path / "sys", coord=np.ones((1, 9)), polarizability=np.arange(9.0)[None], spin=np.ones((1, 9))
    )
    (folder / "nopbc").touch()
    convert(folder, tmp_path / "copy")
    np.testing.assert_array_equal(np.load(tmp_path / "copy/set.000/polarizability.npy"), np.arange(9.0)[None])
    np.testing.assert_array_equal(np.load(tmp_path / "copy/set.000/spin.npy"), np.ones((1, 9)))


def test_type_map_is_kept_by_conversion(tmp_path):
    folder = write_system(tmp_path / "sys", coord=np.ones((1, 9)))
    (folder / "nopbc").touch()
    (folder / "type_map.raw").write_text("OW\nHW\nNa\n")
    convert(folder, tmp_path / "x.hdf5")
    convert(tmp_path / "x.hdf5", tmp_path / "copy")
    assert (tmp_path / "copy/type_map.raw").read_text().split() == ["OW", "HW", "Na"]
    with pytest.raises(ValueError, match=r"'HW', 'OW'.* no chemical elements"):
        convert(folder, tmp_path / "x.xyz")
    convert(folder, tmp_path / "x.traj", names={"OW": "O", "HW": "H"})
    assert ase.io.read(tmp_path / "x.traj").get_chemical_formula() == "H2O"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "set.000/coord.npy").unlink(), "has no coord.npy"),
        (lambda f: np.save(f / "set.000/coord.npy", np.ones((2, 6))), r"9 numbers per frame"),
        (lambda f: np.save(f / "set.000/energy.npy", np.ones(3)), r"energy.npy has shape \(3,\); 2 frames"),
        (lambda f: np.save(f / "set.000/force.npy", np.ones((2, 5))), r"force.npy has 5 numbers per frame; \(3, 3\)"),
        (lambda f: (f / "nopbc").unlink(), "no box.npy.*needs the file nopbc"),
        (lambda f: (f / "type_map.raw").write_text("O"), r"do not fit 3 atoms and the type map \['O'\]"),
        (lambda f: (f / "set.000/coord.npy").write_bytes(b"junk"), "cannot be read as an array"),
        (lambda f: (f / "type.raw").write_text("O H H"), r"type.raw should hold one index .* found \['O', 'H', 'H'\]"),
    ],
)
def test_what_is_wrong_with_a_system_is_said(tmp_path, change, message):
    folder = write_system(tmp_path / "sys", coord=np.ones((2, 9)))
    (folder / "nopbc").touch()
    change(folder)
    with pytest.raises(ValueError, match=message):
        read_frames(folder)


def test_pickled_arrays_are_refused(tmp_path):
    folder = write_system(tmp_path / "sys", coord=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read as an array"):
        read_frames(folder)


def test_nothing_is_overwritten(tmp_path):
    write_frames(tmp_path / "sys", SAME)
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        write_frames(tmp_path / "sys", SAME)
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_frames(tmp_path / "a/b.xyz", SAME)
    with pytest.raises(ValueError, match=r"\['O'\] are not in the type map \['H'\]"):
        write_frames(tmp_path / "other", SAME, type_map=["H"])
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "nowhere.xyz")


def test_hdf5_holds_what_the_folder_holds(tmp_path):
    write_frames(tmp_path / "x.hdf5", SAME)
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert file["set.000/coord.npy"].shape == (3, 9)
        assert file["type.raw"][:].tolist() == [0, 1, 1]
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        for name in ("a", "b"):
            with h5py.File(tmp_path / "x.hdf5") as other:
                other.copy(other["/"], file, name)
    assert len(read_frames(tmp_path / "two.hdf5")) == 6
    assert_same(read_frames(f"{tmp_path / 'two.hdf5'}#/b"), SAME)


def test_lmdb_written_by_others():
    """Two frames of the 3BPA set, written by dpdata 1.1."""
    (system,) = read_systems(DATA / "dpdata.lmdb")
    assert system.type_map == ("C", "H", "O", "N")
    assert [f.energy for f in system.frames] == pytest.approx([-17660.335727520956, -17660.30586797954], abs=1e-9)
    assert len(system.frames[0]) == 27
    assert not system.frames[0].is_periodic


@pytest.mark.parametrize("size", [0, 3000, 12000, 20000])
@pytest.mark.parametrize("name", ["x.lmdb/data.mdb", "x.hdf5", "x.db"])
def test_files_that_are_cut_off(tmp_path, name, size):
    path = tmp_path / name
    write_frames(tmp_path / name.split("/")[0], [labelled(k, "Cu20", cell=CELL, pbc=True) for k in range(20)])
    assert path.stat().st_size > size
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises((ValueError, OSError), match=rf"{path.name}|{path.parent.name}"):
        read_frames(tmp_path / name.split("/")[0])


def test_lmdb_with_other_bytes(tmp_path):
    write_frames(tmp_path / "x.lmdb", SAME)
    content = bytearray((tmp_path / "x.lmdb/data.mdb").read_bytes())
    content[8192:] = bytes(byte ^ 0x5A for byte in content[8192:])  # behind the two pages that say where things are
    (tmp_path / "x.lmdb/data.mdb").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.lmdb is damaged or no DeePMD data set"):
        read_frames(tmp_path / "x.lmdb")


@pytest.mark.parametrize(("module", "name"), [("h5py", "x.hdf5"), ("lmdb", "x.lmdb")])
def test_what_to_install_is_said(tmp_path, monkeypatch, module, name):
    write_frames(tmp_path / name, SAME)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dpa2-ase\[(hdf5|lmdb)\]'"):
        read_frames(tmp_path / name)


def test_ase_reads_and_writes_systems(tmp_path):
    name = "deepmd-npy"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    value = settings["project"]["entry-points"]["ase.ioformats"][name]
    if name not in ioformats:  # an installation that is older than the entry
        define_external_io_format(EntryPoint(name, value, "ase.ioformats"))
    structures = [atoms_of_frame(frame) for frame in SAME]
    ase.io.write(tmp_path / "sys", structures, format=name)
    found = ase.io.read(tmp_path / "sys", index=":", format=name)
    assert len(found) == 3
    assert ase.io.read(tmp_path / "sys", format=name).get_potential_energy() == SAME[-1].energy
    np.testing.assert_array_equal(found[1].get_forces(), SAME[1].forces)
    np.testing.assert_array_equal(found[1].info["virial"], SAME[1].virial)
    np.testing.assert_allclose(found[1].get_stress(), SAME[1].stress, rtol=1e-14)


def test_labels_by_name():
    atoms = bulk("Cu")
    atoms.info |= {"dft_energy": -3.5, "dft_stress": np.arange(6.0)}
    atoms.arrays["dft_forces"] = np.ones((1, 3))
    frame = frame_of_atoms(atoms, LabelKeys(energy="dft_energy", forces="dft_forces", stress="dft_stress"))
    assert frame.energy == -3.5
    np.testing.assert_array_equal(frame.forces, np.ones((1, 3)))
    np.testing.assert_allclose(frame.stress, np.arange(6.0), rtol=1e-14)
    assert not frame.info
    with pytest.raises(ValueError, match=r"no entry 'DFT' .* it has \['dft_energy'"):
        frame_of_atoms(atoms, LabelKeys(energy="DFT"))


def test_stress_and_virial_have_opposite_signs():
    """An expanded crystal pulls: positive stress in ASE, negative virial."""
    atoms = bulk("Cu", a=3.8)
    atoms.calc = EMT()
    atoms.get_stress()
    frame = frame_of_atoms(atoms)
    assert frame.stress[0] > 0 > frame.virial[0, 0]
    np.testing.assert_allclose(frame.virial, -atoms.get_stress(voigt=False) * atoms.get_volume())


# ---- checks --------------------------------------------------------------------------------------------------------


def emt_frames(n: int = 8) -> list[Frame]:
    """Strained and rattled copper with EMT's labels."""
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        rng = np.random.default_rng(k)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.02, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        frames.append(frame_of_atoms(atoms))
    return frames


def kinds(frames: list[Frame], **options: object) -> set[str]:
    return {finding.kind for finding in check_frames(frames, **options).findings}


def test_sound_frames_pass():
    report = check_frames(emt_frames(), ["Cu"])
    assert report.is_clean, report.text()
    test = next(test for test in work_tests(emt_frames()) if test.quantity == "stress")
    assert test.slope == pytest.approx(1, abs=0.05)  # third order in strains of two percent


def broken(frame: Frame, **changes: object) -> Frame:
    return dataclasses.replace(frame, **changes)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("shape", lambda f: broken(f, forces=f.forces[:2])),
        ("shape", lambda f: broken(f, cell=None)),
        ("not-finite", lambda f: broken(f, energy=np.nan)),
        ("not-finite", lambda f: broken(f, forces=f.forces * np.inf)),
        ("unknown-element", lambda f: broken(f, symbols=("Ag", *f.symbols[1:]))),
        ("no-labels", lambda f: broken(f, energy=None, forces=None, virial=None, atomic_energies=None)),
        ("net-force", lambda f: broken(f, forces=f.forces + 0.1)),
        ("large-force", lambda f: broken(f, forces=f.forces + 30 * np.array([[1], [-1], [1], [-1]]))),
        ("large-pressure", lambda f: broken(f, virial=f.virial + 100 * np.eye(3))),
        ("short-distance", lambda f: broken(f, positions=f.positions * np.array([[1], [0.1], [1], [1]]))),
        ("energy-outlier", lambda f: broken(f, energy=f.energy + 10)),
        ("duplicate", lambda f: emt_frames(1)[0]),
    ],
)
def test_one_bad_frame_is_found_and_can_be_left_out(kind, change):
    frames = emt_frames()
    frames[5] = change(frames[5])
    report = check_frames(frames, ["Cu"])
    assert {f.kind for f in report.findings} == {kind}, report.text()
    assert report.frames() == [5]
    assert len(report.without(frames, {kind})) == 7
    assert kind in report.text()


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("wrong sign", lambda f: broken(f, virial=-f.virial)),
        ("GPa beside", lambda f: broken(f, virial=f.virial * 160.2)),
        ("Hartree beside eV", lambda f: broken(f, energy=f.energy / 27.2114)),
        ("Bohr", lambda f: broken(f, positions=f.positions / 0.529, cell=f.cell / 0.529)),
    ],
)
def test_signs_and_units(message, change):
    findings = check_frames([change(f) for f in emt_frames()], limits=Limits(pressure=np.inf, force=np.inf)).findings
    assert any(message in finding.text for finding in findings if finding.frame is None), findings


def test_forces_against_energies():
    frames = []
    start = bulk("Cu", cubic=True)
    for k in range(6):
        atoms = start.copy()
        atoms.rattle(0.02, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(frame_of_atoms(atoms))
    assert check_frames(frames).is_clean
    wrong = [broken(f, forces=-f.forces) for f in frames]
    assert any("wrong sign" in f.text for f in check_frames(wrong).findings)


def test_molecules_wires_and_single_atoms_are_checked():
    lone = Atoms("H")
    lone.calc = SinglePointCalculator(lone, energy=-13.6)
    frames = [frame_of_atoms(lone), labelled(3, "CuO", cell=CELL, pbc=(True, False, False))]
    check_frames(frames)
