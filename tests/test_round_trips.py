"""Files for DeePMD-kit: what it answered for files written here, documents against its own, and the way there and back.

`tests/data/training/make_round_trips.py` had DeePMD-kit 3.2.0 freeze, convert, evaluate, fine-tune and go on from
checkpoints of this package; `round-trips.npz` keeps the models and the answers.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dpa2_ase.checkpoint import heads, load_potential, read_checkpoint
from dpa2_ase.checkpoint.document_nodes import document_tree
from dpa2_ase.checkpoint.document_writing import write_document
from dpa2_ase.checkpoint.writing import write_checkpoint
from dpa2_ase.cli.convert import convert
from dpa2_ase.config import UnsupportedModelError
from dpa2_ase.model import Potential
from dpa2_ase.parsing import parse_model
from dpa2_ase.training.data.frames import Frame
from dpa2_ase.training.head_data import frame_set
from dpa2_ase.training.trainer import predict

DATA = Path(__file__).parent / "data"
STORED = np.load(DATA / "training" / "round-trips.npz")
ANSWERS = sorted({key.rsplit("/", 1)[0] for key in STORED.files if key.endswith("/model")})
MODELS = ["parity/dpa2-everything", "parity/dpa2-strip", "parity/dpa1-attn", "parity/dpa2-exclude", "extra/dpa1-lmax3"]
MODELS += ["extra/dpa2-default-fparam", "extra/dpa1-econf", "extra/dpa2-equalwidth", "parity/dpa2-resincr-layer"]


def potential_of(name: str) -> Potential:
    """A model that was trained and written by the script."""
    prefix = f"state/{name}/"
    state = {k.removeprefix(prefix): torch.from_numpy(STORED[k]) for k in STORED.files if k.startswith(prefix)}
    potential = Potential(parse_model(json.loads(str(STORED["section"]))))
    potential.load_state_dict(state)
    return potential


@pytest.mark.parametrize("label", ANSWERS)
def test_deepmd_computes_the_same_from_our_files(label):
    """Energies, forces and virials in float64; the file DeePMD-kit read is the label."""
    potential = potential_of(str(STORED[f"{label}/model"]))
    symbols = tuple(potential.type_map[t] for t in STORED["types"])
    geometries = zip(STORED["positions"], STORED["cell"], strict=True)
    frames = [Frame(symbols, x.reshape(-1, 3), cell.reshape(3, 3), (True,) * 3) for x, cell in geometries]
    found = predict(potential, frame_set(frames, potential.config).batch([0, 1]), gradient=True, training=False)
    np.testing.assert_allclose(found.energy.detach(), STORED[f"{label}/energy"].ravel(), rtol=1e-10)
    forces, virial = STORED[f"{label}/forces"].reshape(-1, 3), STORED[f"{label}/virial"].reshape(-1, 3, 3)
    np.testing.assert_allclose(found.forces.detach(), forces, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.virial.detach(), virial, rtol=1e-10, atol=1e-12)


def test_all_kinds_of_files_were_tried():
    kinds = {"single.pt", "single.pth", "multi.pt:b", "multi-b.pth", "document.dp.pth", "document.yaml.pth"}
    assert set(ANSWERS) == kinds


@pytest.mark.parametrize("suffix", [".dp", ".yaml", ".pt"])
@pytest.mark.parametrize("name", MODELS)
def test_models_go_there_and_back(name, suffix, tmp_path):
    source = read_checkpoint(DATA / f"{name}.pt")
    potential = load_potential(source)
    target = tmp_path / f"x{suffix}"
    if suffix == ".pt":
        write_checkpoint(target, {"Default": potential})
    else:
        write_document(target, potential)
    back = read_checkpoint(target)
    assert back.config == source.config
    assert back.state.keys() == source.state.keys()
    for key, tensor in source.state.items():
        assert torch.equal(back.state[key], tensor), key
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def without_arrays(node: object, file: h5py.File | None = None) -> object:
    """A tree with every array as its type, shape and numbers in text."""
    if isinstance(node, str) and file is not None and node.startswith("/variable"):
        node = torch.from_numpy(file[node][()])
    if isinstance(node, torch.Tensor):
        return f"{node.dtype} {tuple(node.shape)} {node.flatten().tolist()}"
    if isinstance(node, dict):
        return {key: without_arrays(value, file) for key, value in node.items()}
    return [without_arrays(value, file) for value in node] if isinstance(node, list | tuple) else node


@pytest.mark.parametrize("name", ["dpa1-attn", "dpa2-medium", "dpa2-strip"])
def test_documents_are_those_of_deepmd(name):
    """Node by node; two options of the random start, which a model does not remember, are missing."""
    with h5py.File(DATA / "parity" / f"{name}.dp") as file:
        expected = without_arrays(json.loads(file.attrs["json"])["model"], file)
    arguments = expected["descriptor"].get("repformer_args", {})
    for key in ("update_residual", "update_residual_init"):
        arguments.pop(key, None)
    assert without_arrays(document_tree(load_potential(DATA / "parity" / f"{name}.pt"))) == expected


def test_what_no_document_holds_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="a model of polar cannot be written as a document"):
        write_document(tmp_path / "x.dp", load_potential(DATA / "extra" / "dpa2-polar-diag-scale.pt"))
    with pytest.raises(ValueError, match=r"x.json: documents have one of the suffixes .dp"):
        write_document(tmp_path / "x.json", potential_of("single"))
    assert not list(tmp_path.iterdir())


def test_command_converts_models(tmp_path):
    source = DATA / "parity" / "multitask-heads.pt"
    run = CliRunner().invoke
    names = list(heads(source))
    assert run(convert, [str(source), str(tmp_path / "x.dp"), "--head", names[1]]).exit_code == 0
    expected = load_potential(source, names[1]).state_dict()
    for key, tensor in load_potential(tmp_path / "x.dp").state_dict().items():
        assert torch.equal(tensor, expected[key])
    assert run(convert, [str(source), str(tmp_path / "x.pt")]).exit_code == 0
    assert list(heads(tmp_path / "x.pt")) == names
    assert (tmp_path / "x.pt").stat().st_size < 1.3 * source.stat().st_size  # what heads share is stored once
    for arguments, message in (
        (["x.dp"], "nothing is overwritten"),
        (["y.yaml"], "several heads"),
        (["y.pt", "--head", names[0]], "gets all heads"),
    ):
        found = run(convert, [str(source), str(tmp_path / arguments[0]), *arguments[1:]])
        assert message in str(found.exception)
