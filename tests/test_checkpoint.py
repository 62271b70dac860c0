"""All containers, versions and dialects of files: the same weights give the same state, strictly."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from dpa2_ase.checkpoint import (
    Checkpoint,
    CheckpointError,
    describe_heads,
    file_sha256,
    heads,
    load_potential,
    read_checkpoint,
    summary,
)
from dpa2_ase.checkpoint.names import our_state
from dpa2_ase.checkpoint.upgrades import UPGRADES
from dpa2_ase.config import LinearConfig, UnsupportedModelError, ZBLConfig
from dpa2_ase.nn.tables import QuinticTable
from dpa2_ase.nn.type_embedding import electronic_configuration

PARITY = Path(__file__).parent / "data" / "parity"
EXTRA = Path(__file__).parent / "data" / "extra"
PREFIX = "model.Default."


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def tensors_of(content: dict) -> dict:
    return content["model"]


def params_of(content: dict) -> dict:
    return content["model"]["_extra_state"]["model_params"]


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.config == other.config
    assert one.state.keys() == other.state.keys()
    for name, tensor in one.state.items():
        torch.testing.assert_close(other.state[name], tensor, rtol=0, atol=0, msg=name)


@pytest.fixture
def small() -> dict:
    """A training checkpoint as Python objects, to be changed and saved again."""
    return load(PARITY / "dpa2-medium.pt")


# ------------------------------------------------------------------------------------------------------- containers

SAME = [(name, suffix) for name in ("dpa2-medium", "dpa2-strip", "dpa1-attn") for suffix in (".pth", ".dp", ".yaml")]


@pytest.mark.parametrize(("name", "suffix"), [*SAME, ("dpa1-attn", ".pt2")])
def test_every_container_gives_the_same_model(name, suffix):
    reference = read_checkpoint(PARITY / f"{name}.pt")
    other = read_checkpoint(PARITY / f"{name}{suffix}")
    assert_same(reference, other)
    assert (other.head, other.source, suffix in other.format) == ("Default", PARITY / f"{name}{suffix}", True)


OTHERS = [p for p in sorted(EXTRA.iterdir()) if p.suffix in (".pte", ".pt2", ".dp") and "refuse" not in p.name]


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.name)
def test_other_containers_of_the_extra_cases(path):
    assert_same(read_checkpoint(path.with_suffix(".pt")), read_checkpoint(path))


@pytest.mark.parametrize("name", ["dpa1-econf", "dpa1-dos"])
def test_constants_of_frozen_files_are_no_part_of_the_state(name):
    assert_same(read_checkpoint(EXTRA / f"{name}.pt"), read_checkpoint(EXTRA / f"{name}.pth"))


def test_a_frozen_file_means_the_same_by_its_elements():
    constant = {"descriptor.type_embedding.embedding.econf_tebd": electronic_configuration(["O", "H"]).float()}
    assert our_state(constant, ["O", "H"]) == {}
    with pytest.raises(CheckpointError, match="electronic configurations"):
        our_state(constant, ["H", "O"])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("dpa1-attn.dp", "x.hdf5"), ("dpa1-attn.yaml", "x.pt"), ("dpa1-attn.pth", "x.yaml"), ("dpa1-attn.pt", "x")],
)
def test_the_content_decides_not_the_suffix(tmp_path, name, wrong):
    shutil.copy(PARITY / name, tmp_path / wrong)
    assert_same(read_checkpoint(PARITY / name), read_checkpoint(tmp_path / wrong))


def test_older_protocols_of_pickle_and_the_bare_state(tmp_path, small):
    reference = read_checkpoint(PARITY / "dpa2-medium.pt")
    for protocol in (2, 3, 4):
        torch.save(small, tmp_path / "x.pt", pickle_protocol=protocol)
        assert_same(reference, read_checkpoint(tmp_path / "x.pt"))
    assert_same(reference, read_checkpoint(save(tensors_of(small), tmp_path / "bare.pt")))


def test_tensors_are_windows_on_shared_storages(tmp_path, small):
    """Transposed, shifted and shared tensors come out as they were."""
    reference = read_checkpoint(PARITY / "dpa2-medium.pt")
    names = [n for n, t in tensors_of(small).items() if isinstance(t, torch.Tensor) and t.ndim == 2]
    pool = torch.cat([tensors_of(small)[n].T.flatten() for n in names])
    start = 0
    for name in names:
        shape = tensors_of(small)[name].T.shape
        tensors_of(small)[name] = pool[start : start + shape.numel()].view(shape).T
        start += shape.numel()
    assert_same(reference, read_checkpoint(save(small, tmp_path / "x.pt")))


def test_big_endian_numbers_of_a_document_are_read(tmp_path):
    shutil.copy(PARITY / "dpa1-attn.dp", tmp_path / "x.dp")
    with h5py.File(tmp_path / "x.dp", "r+") as file:
        for name in list(file):
            values = file[name][()]
            del file[name]
            file[name] = np.asarray(values, dtype=np.asarray(values).dtype.newbyteorder(">"))
    assert_same(read_checkpoint(PARITY / "dpa1-attn.dp"), read_checkpoint(tmp_path / "x.dp"))


def test_reading_documents_without_h5py_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(CheckpointError, match=r"dpa2-ase\[hdf5\]"):
        read_checkpoint(PARITY / "dpa1-attn.dp")


def test_compressed_models_keep_their_tables():
    potential = load_potential(PARITY / "dpa2-strip-compressed.pth")
    tables = [module for module in potential.modules() if isinstance(module, QuinticTable)]
    assert len(tables) == 1


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".dp"])
def test_zbl_files(suffix):
    checkpoint = read_checkpoint(EXTRA / f"zbl-dpa1{suffix}")
    assert isinstance(checkpoint.config, ZBLConfig)
    reference = read_checkpoint(EXTRA / "zbl-dpa1.pt")
    for name, tensor in load_potential(checkpoint).state_dict().items():
        torch.testing.assert_close(tensor, load_potential(reference).state_dict()[name], rtol=1e-15, atol=0)


def test_linear_files():
    one, other = read_checkpoint(EXTRA / "linear-mean.pt"), read_checkpoint(EXTRA / "linear-mean.dp")
    assert isinstance(one.config, LinearConfig)
    assert one.config.weights == other.config.weights == (0.5, 0.5)
    with pytest.raises(CheckpointError, match=r"LinearEnergyModel.*use the \.pt or \.dp file"):
        read_checkpoint(EXTRA / "linear-mean.pth")


# ------------------------------------------------------------------------------------------------------------ heads


def test_heads_of_a_single_task_file():
    infos = heads(PARITY / "dpa2-medium.pt")
    assert list(infos) == ["Default"]
    assert infos["Default"].elements == read_checkpoint(PARITY / "dpa2-medium.pt").config.type_map
    assert infos["Default"].kind == "ener"
    assert heads(PARITY / "dpa2-polar.pt")["Default"].kind == "polar"


def test_heads_of_a_multi_task_file():
    infos = heads(EXTRA / "multitask-alias.pt")
    assert list(infos) == ["water-model", "Cu_alloy"]
    assert infos["water-model"].elements == ("H", "O")
    assert infos["water-model"].aliases == ("Water", "h2o")
    assert infos["water-model"].observed is None
    assert heads(PARITY / "multitask-heads.pt")["H2O_PBE0"].observed == ("H", "O")
    assert describe_heads(infos).splitlines()[0] == "  water-model: H O (accepted)"


@pytest.mark.parametrize(
    ("asked", "found"),
    [("Cu_alloy", "Cu_alloy"), ("Default", "Cu_alloy"), ("Water", "water-model"), ("WATER-model", "water-model")],
)
def test_heads_are_found_by_name_and_alias(asked, found):
    assert read_checkpoint(EXTRA / "multitask-alias.pt", asked).head == found


def test_a_head_has_to_be_chosen():
    with pytest.raises(ValueError, match=r"several heads[^~]*water-model: H O[^~]*Cu_alloy: O H Cu"):
        read_checkpoint(EXTRA / "multitask-alias.pt")
    with pytest.raises(ValueError, match=r"no head 'waterr'; did you mean '[Ww]ater'\?"):
        read_checkpoint(EXTRA / "multitask-alias.pt", "waterr")
    with pytest.raises(ValueError, match=r"no head '~'\n"):
        read_checkpoint(EXTRA / "multitask-alias.pt", "~")


def test_an_alias_of_two_heads_is_refused(tmp_path):
    content = load(EXTRA / "multitask-alias.pt")
    params_of(content)["model_dict"]["Cu_alloy"]["model_branch_alias"] = "WATER"
    path = save(content, tmp_path / "x.pt")
    assert heads(path)["Cu_alloy"].aliases == ("WATER",)
    assert read_checkpoint(path, "Water").head == "water-model"
    with pytest.raises(ValueError, match="'wAter' may be any of Cu_alloy, water-model"):
        read_checkpoint(path, "wAter")


def test_names_of_heads_may_hold_dots_and_begin_alike(tmp_path, small):
    names = ["A", "A.model", "A.model.B", "A.model.B "]
    inner = {key: value for key, value in tensors_of(small).items() if key != "_extra_state"}
    state: dict = {"_extra_state": {"model_params": {"model_dict": {n: params_of(small) for n in names}}}}
    for index, name in enumerate(names):
        state |= {key.replace(PREFIX, f"model.{name}."): value + index for key, value in inner.items()}
    path = save({"model": state}, tmp_path / "x.pt")
    first = read_checkpoint(path, "A")
    for index, name in enumerate(names):
        checkpoint = read_checkpoint(path, name)
        load_potential(checkpoint)
        torch.testing.assert_close(checkpoint.state["out_bias"], first.state["out_bias"] + index)


def test_infos_of_odd_sections_do_not_fail(tmp_path, small):
    params_of(small).update(type_map="HO", info=3, fitting_net=None, model_branch_alias=[1, "x"])
    info = heads(save(small, tmp_path / "x.pt"))["Default"]
    assert (info.elements, info.observed, info.aliases, info.kind) == (("HO",), None, ("x",), "ener")


# --------------------------------------------------------------------------------------------------------- versions


def _upgraded(path: Path, caplog: pytest.LogCaptureFixture, head: str | None = None) -> tuple[Checkpoint, str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "dpa2_ase"):
        checkpoint = read_checkpoint(path, head)
    return checkpoint, caplog.text


def test_every_upgrade_is_tested():
    assert [step.__name__ for step in UPGRADES] == [
        "rename_exportable_dialect",
        "drop_derived_tensors",
        "use_type_embedding_bias_of_old_files",
        "repformer_options_before_2024",
    ]


@pytest.mark.parametrize("name", ["exportable-dpa1", "exportable-dpa2"])
def test_upgrade_of_the_exportable_dialect(name, caplog):
    checkpoint, log = _upgraded(EXTRA / f"{name}.pt", caplog)
    assert checkpoint.upgrades == ("rename_exportable_dialect",)
    assert "rename_exportable_dialect" in log
    load_potential(checkpoint)


def test_upgrade_drops_derived_tensors_silently(tmp_path, small, caplog):
    path = PARITY / "dpa2-medium.pt"
    assert any("._networks." in key for key in tensors_of(small))
    checkpoint, log = _upgraded(path, caplog)
    assert checkpoint.upgrades == ()
    assert not log
    tensors_of(small)[f"{PREFIX}atomic_model.fitting_net.emask.type_mask"] = torch.ones(2, dtype=torch.int32)
    tensors_of(small)[f"{PREFIX}min_nbor_dist"] = torch.tensor(0.5)
    assert_same(checkpoint, read_checkpoint(save(small, tmp_path / "x.pt")))


def test_nets_stored_only_under_their_second_name(tmp_path, small):
    for key in [key for key in tensors_of(small) if ".networks." in key]:
        del tensors_of(small)[key]
    assert_same(read_checkpoint(PARITY / "dpa2-medium.pt"), read_checkpoint(save(small, tmp_path / "x.pt")))


def test_upgrade_of_a_type_embedding_bias_without_its_key(tmp_path, caplog):
    content = load(EXTRA / "dpa2-tebd-nt-bias.pt")
    assert params_of(content)["descriptor"].pop("use_tebd_bias") is True
    checkpoint, log = _upgraded(save(content, tmp_path / "x.pt"), caplog)
    assert checkpoint.upgrades == ("use_type_embedding_bias_of_old_files",)
    assert "use_type_embedding_bias_of_old_files" in log
    assert_same(read_checkpoint(EXTRA / "dpa2-tebd-nt-bias.pt"), checkpoint)


def test_upgrade_of_repformers_before_2024(tmp_path, caplog):
    content = load(EXTRA / "dpa2-conv-in-nosmooth-nodrrd.pt")
    options = params_of(content)["descriptor"]["repformer"]
    assert (options["use_sqrt_nnei"], options["g1_out_conv"]) == (False, False)
    if options["g1_out_mlp"]:  # as old as the two others: remove what came with it
        options["g1_out_mlp"] = False
        width = options["g1_dim"]
        for key in [key for key in tensors_of(content) if ".repformers.layers." in key]:
            if ".g1_self_mlp." in key or ".g1_residual.1" in key:
                del tensors_of(content)[key]
            elif key.endswith(".linear1.matrix"):
                tensors_of(content)[key] = torch.cat([torch.ones(width, width).double(), tensors_of(content)[key]])
    reference = read_checkpoint(save(content, tmp_path / "new.pt"))
    for key in ("use_sqrt_nnei", "g1_out_conv", "g1_out_mlp"):
        del options[key]
    checkpoint, log = _upgraded(save(content, tmp_path / "old.pt"), caplog)
    assert checkpoint.upgrades == ("repformer_options_before_2024",)
    assert "repformer_options_before_2024" in log
    assert_same(reference, checkpoint)
    load_potential(checkpoint)


@pytest.mark.parametrize("head", list(heads(PARITY / "multitask-shared-fitting.pt")))
def test_the_layout_of_earlier_versions(head):
    new = load_potential(PARITY / "multitask-shared-fitting.pt", head)
    old = load_potential(PARITY / "multitask-old-layout.pt", head)
    assert old.config == new.config
    for name, tensor in new.state_dict().items():
        if not name.endswith("out_std"):  # absent from the old file, and of no effect on energies
            torch.testing.assert_close(old.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_checkpoints_of_a_training():
    one, averaged = read_checkpoint(EXTRA / "trained-dpa1.pt"), read_checkpoint(EXTRA / "trained-dpa1-ema.pt")
    assert one.training["step"] == 1
    assert one.config == averaged.config
    load_potential(one)
    load_potential(averaged)


def test_numpy_scalars_of_a_training(tmp_path, small):
    scalars = {"a": np.float64(0.5), "b": np.int64(3), "c": np.float32(0.25), "d": np.bool_(True)}
    tensors_of(small)["_extra_state"]["train_infos"] = scalars
    tensors_of(small)["ema_decay"] = torch.ones(2, 0)  # belongs to no head
    small["optimizer"] = {
        "param_groups": [{"lr": np.float64(1e-3), "betas": (0.9, 0.999)}],
        "state": {0: torch.ones(3)},
    }
    assert read_checkpoint(save(small, tmp_path / "x.pt")).training == {"a": 0.5, "b": 3, "c": 0.25, "d": True}


def test_a_file_without_the_output_scale(tmp_path, small):
    del tensors_of(small)[f"{PREFIX}atomic_model.out_std"]
    assert load_potential(save(small, tmp_path / "x.pt")).model.out_std.eq(1).all()


# ------------------------------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"missing \['descriptor\.repinit\.features\.net\.0\.weight'\]"),
        ("extra", r"not used \['descriptor\.repinit\.surprise'\]"),
        ("shape", r"fitting\.net\.0\.bias has shape \(3,\), the configuration asks for"),
        ("integers", r"fitting_net\.filter_layers.*holds torch\.int64"),
        ("slots", r"repinit\.mean differs between slots"),
        ("no slots", r"repinit\.mean has shape \(3, 4\); \(types, nsel, 4\)"),
        ("bias", r"out_bias has shape \(2, 2, 1\); one output"),
        ("twice", r"stored twice"),
        ("table", r"compressed table descriptor\.repinit\.compress_data\.0 is incomplete"),
        ("wide table", r"compress_data\.0 has shape \(5, 7\), \(cells, \d+\) was expected"),
    ],
)
def test_tensors_have_to_fit(tmp_path, small, change, message):
    state, inner = tensors_of(small), f"{PREFIX}atomic_model."
    weight = f"{inner}descriptor.repinit.filter_layers.networks.0.layers.0.matrix"
    bias = f"{inner}fitting_net.filter_layers.networks.0.layers.0.bias"
    mean = f"{inner}descriptor.repinit.mean"
    table = f"{inner}descriptor.repinit.compress_data.0"
    if change == "missing":
        del state[weight], state[weight.replace(".networks.", "._networks.")]
    elif change == "extra":
        state[f"{inner}descriptor.repinit.surprise"] = torch.ones(1)
    elif change == "shape":
        state[bias] = torch.ones(3)
    elif change == "integers":
        state[bias] = state[bias].long()
    elif change == "slots":
        state[mean] = state[mean].clone()
        state[mean][0, 1, 2] += 1e-9
    elif change == "no slots":
        state[mean] = state[mean][:, 0]
    elif change == "bias":
        state[f"{inner}out_bias"] = torch.ones(2, 2, 1)
    elif change == "twice":
        state[bias.replace("fitting_net.filter_layers.networks.0.layers.", "fitting.net.")] = state[bias]
    else:
        state[table] = torch.ones(5, 7)
        if change == "wide table":
            state[table.replace("data", "info")] = torch.ones(6)
    path = save(small, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_potential(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("refuse-spin-dpa1.pt", "spin"),
        ("refuse-spin-dpa1.dp", "spin_ener"),
        ("refuse-hybrid-dpa1-dpa2.pt", "hybrid"),
        ("refuse-se-e2-a.pt", "se_e2_a"),
    ],
)
def test_files_of_other_models_are_refused_by_name(path, message):
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        read_checkpoint(EXTRA / path)
    assert str(EXTRA / path) in str(caught.value)
    facts = str(summary(EXTRA / path)) if path.endswith(".pt") else ""
    assert message in facts or path.endswith(".dp")


def test_errors_in_the_configuration_name_the_file_once(tmp_path, small):
    params_of(small)["descriptor"]["repformer"]["nlayer"] = 3
    path = save(small, tmp_path / "x.pt")
    with pytest.raises(UnsupportedModelError, match=r"repformer\.nlayer .* did you mean nlayers\?") as caught:
        read_checkpoint(path)
    assert str(caught.value).count(str(path)) == 1
    assert caught.value.__cause__ is None
    params_of(small)["descriptor"]["repformer"] = {"rcut": "4"}
    with pytest.raises(CheckpointError, match=r"repformer\.rcut should be a number") as wrong:
        read_checkpoint(save(small, path))
    assert str(wrong.value).startswith(str(path))


def test_a_data_modifier_is_refused(tmp_path):
    shutil.copy(PARITY / "dpa1-attn.pth", tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
        archive.writestr("x/extra/data_modifier.pth", b"something")
    with pytest.raises(UnsupportedModelError, match="data modifier"):
        read_checkpoint(tmp_path / "x.pth")


def _document(path: Path) -> dict:
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@pytest.fixture(scope="module")
def document() -> dict:
    return _document(PARITY / "dpa1-attn.yaml")


def _saved(tree: dict, tmp_path: Path) -> Path:
    path = tmp_path / "x.pte"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/extra/model.json", json.dumps(tree))
    return path


@pytest.mark.parametrize(
    ("where", "value", "error", "message"),
    [
        ("@class", "Module", UnsupportedModelError, r"model: @class 'Module'"),
        ("@version", 99, UnsupportedModelError, r"model: @version 99 of Model .* known: 1 to 3"),
        ("type", "spin_ener", UnsupportedModelError, r"model\.type 'spin_ener'"),
        ("descriptor/@version", 5, UnsupportedModelError, r"descriptor: @version 5"),
        ("descriptor/@class", "X", UnsupportedModelError, r"descriptor: @class 'X'"),
        ("descriptor/type", "dpa3", UnsupportedModelError, r"descriptor\.type 'dpa3'"),
        ("descriptor", None, UnsupportedModelError, r"descriptor\.type None"),
        ("descriptor/embeddings/@class", "X", UnsupportedModelError, r"filter_layers: @class 'X'"),
        ("descriptor/type_embedding/@version", 3, UnsupportedModelError, r"type_embedding: @version 3"),
        ("descriptor/attention_layers/@version", "1", UnsupportedModelError, r"attention_layers: @version '1'"),
        ("fitting", [], CheckpointError, r"fitting: expected a Fitting, found \[\]"),
        ("fitting/@version", 7, UnsupportedModelError, r"fitting: @version 7"),
        ("fitting/type", "direct_force", UnsupportedModelError, r"fitting_net\.type 'direct_force'"),
        ("fitting/nets/networks", [{}, {}], CheckpointError, r"nets that differ between types"),
        ("descriptor/@variables/davg", 3, CheckpointError, r"expected an array in the document, found int"),
        ("descriptor/@variables/davg/dtype", "object", CheckpointError, r"array type 'object'"),
        ("descriptor/@variables/davg/value", [[1], [2, 3]], CheckpointError, r"cannot be read as a model"),
        ("descriptor/type_embedding", ..., CheckpointError, r"the entry 'type_embedding' is missing"),
    ],
)
def test_documents_are_read_strictly(tmp_path, document, where, value, error, message):
    tree = copy.deepcopy(document)
    *parents, key = f"model/{where}".split("/")
    node = tree
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[key]
    else:
        node[key] = value
    path = _saved(tree, tmp_path)
    with pytest.raises(error, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_older_documents(tmp_path, document):
    """Before its version 2 a type embedding had a bias and no key for it; absent parameters are null."""
    reference = read_checkpoint(PARITY / "dpa1-attn.yaml")
    tree = copy.deepcopy(document)
    assert tree["model"]["descriptor"].pop("use_tebd_bias") is False
    checkpoint = read_checkpoint(_saved(tree, tmp_path))
    assert checkpoint.config.descriptor.use_tebd_bias
    with pytest.raises(CheckpointError, match=r"missing \['descriptor\.type_embedding\.layer\.bias'\]"):
        load_potential(checkpoint)
    assert_same(reference, read_checkpoint(_saved(document, tmp_path)))


def test_old_repformer_documents(tmp_path):
    tree = _document(PARITY / "dpa2-medium.yaml")
    tree["model"]["descriptor"]["@version"] = 2
    for layer in tree["model"]["descriptor"]["repformers_variable"]["repformer_layers"]:
        layer.update(layer.pop("@variables"))  # residuals once stood in the node itself
    checkpoint = read_checkpoint(_saved(tree, tmp_path))
    repformer = checkpoint.config.descriptor.repformer
    assert (repformer.use_sqrt_nnei, repformer.g1_out_conv, repformer.g1_out_mlp) == (False, False, False)
    assert checkpoint.state.keys() >= read_checkpoint(PARITY / "dpa2-medium.pt").state.keys() - {"out_std"}


def test_compressed_documents(tmp_path):
    """Tables of the exportable backend; the PyTorch backend leaves them out."""
    tree = _document(PARITY / "dpa2-strip.yaml")
    frozen = read_checkpoint(PARITY / "dpa2-strip-compressed.pth").state
    block = tree["model"]["descriptor"]["repinit_variable"]
    block["geo_compress"] = True
    block["compress"] = {"@variables": {key: [_array(frozen, key)] for key in ("compress_data", "compress_info")}}
    state = read_checkpoint(_saved(tree, tmp_path)).state
    name = "descriptor.repinit.compress_data.0"
    torch.testing.assert_close(state[name], frozen[name], rtol=0, atol=0)


def _array(state: dict, key: str) -> dict:
    value = state[f"descriptor.repinit.{key}.0"]
    return {"@class": "np.ndarray", "dtype": "float64", "value": value.tolist()}


def test_documents_of_joined_models_refuse_what_they_cannot_hold(tmp_path):
    with h5py.File(EXTRA / "zbl-dpa1.dp") as file:
        text = file.attrs["json"]
    for change, message in (({"smin_alpha": 0.2}, "smin_alpha 0.2"), ({"models": [{"type": "zbl"}]}, "type 'zbl'")):
        tree = json.loads(text)
        tree["model"].update(change)
        shutil.copy(EXTRA / "zbl-dpa1.dp", tmp_path / "x.dp")
        with h5py.File(tmp_path / "x.dp", "r+") as file:
            file.attrs["json"] = json.dumps(tree)
        with pytest.raises(UnsupportedModelError, match=message):
            read_checkpoint(tmp_path / "x.dp")


@pytest.mark.parametrize(
    ("info", "cells"),
    [([0, 1, 2, 0.1, 0], 30), ([0, 1, 2, 0.1, float("nan")], 30), ([1, 0, 2, 0.1, 0.1], 30), ([0, 1, 2, 0.1, 0.1], 9)],
)
def test_tables_that_contradict_themselves(info, cells):
    with pytest.raises(ValueError, match="compressed table of this file"):
        QuinticTable(torch.tensor(info), torch.zeros(cells, 12))
    with pytest.raises(ValueError, match="six coefficients"):
        QuinticTable(torch.tensor([0, 1, 2, 0.1, 0.1]), torch.zeros(30, 13))


# ------------------------------------------------------------------------------------------------------------- facts


def test_sha256_follows_the_file(tmp_path):
    path = tmp_path / "x"
    for content in (b"one", b"other"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "absent")


def test_summary_is_json():
    facts = summary(EXTRA / "trained-dpa1.pt")
    assert facts["training_step"] == 1
    assert facts["sha256"] == file_sha256(EXTRA / "trained-dpa1.pt")
    both = summary(EXTRA / "linear-list.pt")["heads"]["Default"]
    assert both["descriptor"] == "DPA2 + DPA1"
    cutoffs = summary(PARITY / "dpa2-medium.dp")["heads"]["Default"]["cutoffs"]
    assert {"repinit", "repformer"} <= cutoffs.keys()
    assert json.loads(json.dumps(facts))["format"] == "DeePMD-kit training checkpoint (.pt)"
