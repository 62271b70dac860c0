"""Checkpoints written for DeePMD-kit: the same keys, shapes, precisions and numbers as in its own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpa2_ase.bundled import bundled_model
from dpa2_ase.checkpoint import heads, load_potential, read_checkpoint, summary
from dpa2_ase.checkpoint.names import our_name
from dpa2_ase.checkpoint.writing import HeadNotes, their_name, write_checkpoint
from dpa2_ase.config import UnsupportedModelError

DATA = Path(__file__).parent / "data"
LATER = {"multitask-old-layout", "exportable-dpa1", "exportable-dpa2"}  # of other layouts than the one written
FILES = sorted(
    path
    for folder in ("parity", "extra")
    for path in (DATA / folder).glob("*.pt")
    if not path.stem.startswith(("refuse", "linear", "zbl")) and path.stem not in LATER
)


def stored(path: Path) -> dict:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize("source", [*FILES, Path(bundled_model())], ids=lambda path: path.stem)
def test_written_files_are_those_that_were_read(source, tmp_path):
    """All tensors equal; `bias_atom_e` of single-precision nets only to the precision it is used in."""
    potentials = {name: load_potential(source, name) for name in heads(source)}
    write_checkpoint(tmp_path / "model.pt", potentials)
    found, expected = stored(tmp_path / "model.pt"), stored(source)
    found.pop("_extra_state")
    expected.pop("_extra_state")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        if name.endswith("bias_atom_e") and any(t.dtype == torch.float32 for t in expected.values()):
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=0)
        elif not name.endswith("min_nbor_dist"):
            assert torch.equal(found[name], tensor), name
    for name, potential in potentials.items():
        assert read_checkpoint(tmp_path / "model.pt", name).config == potential.config


def test_names_translate_there_and_back():
    for source in FILES:
        for head in heads(source):
            for name in load_potential(source, head).model.state_dict():
                assert our_name(their_name(name)) == name


def test_shared_tensors_are_stored_once(tmp_path):
    source = DATA / "parity" / "multitask-shared-fitting.pt"
    potential = load_potential(source, "H2O_PBE0")
    write_checkpoint(tmp_path / "one.pt", {"a": potential})
    write_checkpoint(tmp_path / "two.pt", {"a": potential, "b": potential})
    one, two = ((tmp_path / f"{name}.pt").stat().st_size for name in ("one", "two"))
    assert two < 1.3 * one  # names and configuration again, numbers not


def test_notes_and_progress_are_kept(tmp_path):
    potential = load_potential(DATA / "parity" / "dpa1-attn.pt")
    notes = {"water": HeadNotes(observed=["H", "O"], aliases=["wet"], info={"level": "PBE0"})}
    write_checkpoint(tmp_path / "x.pt", {"water": potential, "dry": potential}, step=7, learning_rate=1e-4, notes=notes)
    assert heads(tmp_path / "x.pt")["water"].observed == ("H", "O")
    assert read_checkpoint(tmp_path / "x.pt", "wet").head == "water"
    assert summary(tmp_path / "x.pt")["training_step"] == 7


@pytest.mark.parametrize("name", ["extra/zbl-dpa1.pt", "extra/linear-mean.pt", "parity/dpa2-strip-compressed.pth"])
def test_what_cannot_be_written_is_refused(name, tmp_path):
    with pytest.raises(UnsupportedModelError, match="cannot be written"):
        write_checkpoint(tmp_path / "x.pt", {"Default": load_potential(DATA / name)})
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    potential = load_potential(DATA / "parity" / "dpa1-attn.pt")
    path = tmp_path / "x.pt"
    write_checkpoint(path, {"Default": potential})
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(path, {"Default": potential}, step=9)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_checkpoint(tmp_path / "no" / "x.pt", {"Default": potential})
