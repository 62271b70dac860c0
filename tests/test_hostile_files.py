"""Damaged, wrong and hostile files: one clear error, nothing executed, no other file read, no memory beyond measure."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dpa2_ase.checkpoint import Checkpoint, CheckpointError, heads, load_potential, read_checkpoint, summary
from dpa2_ase.config import UnsupportedModelError

DATA = Path(__file__).parent / "data"
SAMPLES = [
    "parity/dpa1-attn.pt",
    "parity/dpa1-attn.pth",
    "parity/dpa1-attn.dp",
    "parity/dpa1-attn.yaml",
    "parity/dpa1-attn.pt2",
    "extra/dpa1-lmax3.pte",
    "extra/multitask-alias.pt",
]


def refused(path: Path, message: str = "", head: str | None = None) -> str:
    """Every entrance refuses the file with one error that names it; returns the message of the last."""
    text = ""
    for entrance in (heads, summary, lambda p: load_potential(p, head)):
        try:
            entrance(path)
        except (CheckpointError, UnsupportedModelError) as error:
            text = str(error)
            assert text.count(str(path)) == 1
            assert len(text) < 1000
            cause = error.__cause__
            assert cause is None or cause.__cause__ is None
    assert text, "nothing was refused"
    assert message in text
    return text


def archive(path: Path, entries: dict[str, bytes], *, compress: bool = False) -> Path:
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def pickled(path: Path, opcodes: bytes, **entries: bytes) -> Path:
    """A torch archive whose ``data.pkl`` is `opcodes`."""
    return archive(path, {"x/data.pkl": b"\x80\x02" + opcodes + b"."} | entries)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def tensor(*, size: tuple = (1,), stride: tuple = (1,), offset: int = 0, key: str = "0") -> bytes:
    storage = b"(" + text("storage") + name("torch", "DoubleStorage") + text(key) + text("cpu") + integer(1) + b"tQ"
    numbers = [b"(" + b"".join(integer(n) for n in axis) + b"t" for axis in (size, stride)]
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + integer(offset) + b"".join(numbers) + b"tR"


@pytest.fixture
def params() -> dict:
    content = torch.load(DATA / "parity/dpa1-attn.pt", weights_only=True)
    return content["model"]["_extra_state"]["model_params"]


def checkpoint_with(params: object, path: Path, **tensors: torch.Tensor) -> Path:
    torch.save({"model": {"_extra_state": {"model_params": params}} | tensors}, path)
    return path


# ------------------------------------------------------------------------------------------------------ wrong files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"   \n", "no model in this document"),
        (b"hello: world\n", "no model in this document"),
        (b"\xff\xfe\x00binary", "it is none of .pt"),
        (b"text with \xe4 in latin-1 and more", "cannot be read as a model"),
        (b"\x80\x02}q\x00.", "it is none of .pt"),
        (b"PK\x03\x04 not a zip", "cannot be read as a model"),
        (b"PK\x05\x06" + bytes(18), "there is no data.pkl"),
        (b"\x89HDF\r\n\x1a\n and nothing", "cannot be read as a model"),
        (b"model: {type: standard", "cannot be read as a model"),
        (b"model: !!python/object/apply:os.system ['touch sentinel']", "cannot be read as a model"),
        (b"model: !!python/name:os.system x", "cannot be read as a model"),
        (b"model: &a [*a]", "YAML aliases do not belong"),
        (b"a: &a [1,1]\nb: &b [*a,*a]\nmodel: {x: [*b,*b]}", "YAML aliases do not belong"),
        (b"model: " + b"[" * 100_000, "nested deeper"),
        (b"- " * 100_000 + b"1", "nested deeper"),
        (b"model: {descriptor: " + b"9" * 10_000 + b"}", "cannot be read as a model"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_files(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    refused(path, message)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_checkpoint(tmp_path / "absent.pt")
    refused(tmp_path, "is a folder; give the model file in it")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file")
    refused(Path("/dev/zero"), "is not a regular file")


def test_a_file_without_permission_is_an_oserror(tmp_path):
    path = tmp_path / "x.pt"
    shutil.copy(DATA / "parity/dpa1-attn.pt", path)
    path.chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            read_checkpoint(path)
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"model": {"_extra_state": {}}}, {"a": torch.ones(2)}, None])
def test_saved_objects_that_are_no_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")


@pytest.mark.parametrize("heads", [{}, [1], {1: {}}, {"a": 3}, {"a": {"descriptor": 3}}])
def test_odd_tables_of_heads(tmp_path, heads):
    refused(checkpoint_with({"model_dict": heads}, tmp_path / "x.pt"))


# ------------------------------------------------------------------------------------------------ damage to real files


def _reference(sample: str) -> Checkpoint:
    return read_checkpoint(DATA / sample, "Cu_alloy" if "multitask" in sample else None)


def _outcome(path: Path, reference: Checkpoint, *, exact: bool) -> str:
    try:
        found = read_checkpoint(path, reference.head)
    except ValueError as error:
        is_ours = isinstance(error, CheckpointError | UnsupportedModelError) or "head" in str(error)
        return "refused" if is_ours and str(path) in str(error) else f"not a clear error: {error}"
    if exact:
        assert found.config == reference.config
        assert all(torch.equal(found.state[key], value) for key, value in reference.state.items())
    return "read"


@pytest.mark.parametrize("sample", SAMPLES)
def test_truncated_files(tmp_path, sample):
    whole, path = (DATA / sample).read_bytes(), tmp_path / Path(sample).name
    reference = _reference(sample)
    lengths = {1, 2, 4, 7, 8, len(whole) - 1, *(len(whole) * k // 24 for k in range(1, 24))}
    outcomes = []
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        outcomes.append(_outcome(path, reference, exact=True))
    assert set(outcomes) <= {"read", "refused"}
    assert outcomes.count("refused") >= len(lengths) - 1  # the last byte of a text file is a line end


@pytest.mark.parametrize("sample", SAMPLES)
def test_flipped_bytes(tmp_path, sample):
    """Zip entries carry checksums, so what is read is right; HDF5 and YAML carry none, but the error is clear."""
    rng = random.Random(sample)
    whole, path = (DATA / sample).read_bytes(), tmp_path / Path(sample).name
    reference = _reference(sample)
    outcomes = set()
    for _ in range(25 if "yaml" in sample else 80):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            where = rng.choice((rng.randrange(len(whole)), rng.randrange(min(3000, len(whole)))))
            damaged[where] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        outcomes.add(_outcome(path, reference, exact=whole.startswith(b"PK")))
    assert outcomes in ({"refused"}, {"read", "refused"})


# ------------------------------------------------------------------------------------------------------------ pickles


class _Call:
    """An object that pickles as the call of a function."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple:
        return self.call


def _calls(sentinel: str) -> dict[str, object]:
    code = f"open({sentinel!r}, 'w')"
    return {
        "os.system": _Call(os.system, f"touch {sentinel}"),
        "eval": _Call(eval, code),
        "exec": _Call(exec, code),
        "open": _Call(open, sentinel, "w"),
        "getattr": _Call(getattr, "text", "format"),
        "torch.load": _Call(torch.load, sentinel),
        "numpy.save": _Call(np.save, sentinel, [1]),
        "numpy.load": _Call(np.load, sentinel),
        "subprocess": _Call(subprocess.run, ["touch", sentinel]),
        "import": _Call(__import__, "os"),
    }


@pytest.mark.parametrize("kind", list(_calls("")))
@pytest.mark.parametrize("place", ["optimizer", "model_params", "train_infos"])
def test_calls_in_a_pickle_are_refused(tmp_path, kind, place):
    sentinel = str(tmp_path / "sentinel.npy")
    call = _calls(sentinel)[kind]
    content: dict = {"model": {"_extra_state": {"model_params": {}}}}
    (content if place == "optimizer" else content["model"]["_extra_state"])[place] = call
    path = archive(tmp_path / "x.pt", {"x/data.pkl": pickle.dumps(content, protocol=2)})
    assert "does not belong in a model" in refused(path)
    assert not Path(sentinel).exists()


HOSTILE = {
    "dotted name": b"\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93",
    "builtins": name("builtins", "eval") + text("1") + b"\x85R",
    "attribute of torch": name("torch", "load"),
    "state of a function": name("torch._utils", "_rebuild_tensor_v2") + b"}b",
    "state of a table class": name("collections", "OrderedDict") + b"}" + text("fromkeys") + b"Nsb",
    "state of a storage": name("torch", "FloatStorage") + b"}" + text("dtype") + b"Nsb",
    "state of a tensor": tensor() + b"}" + text("shape") + b"Nsb",
    "state of a dtype class": name("numpy", "dtype") + b"}b",
    "odd numpy type": name("numpy", "dtype") + text("O8") + b"\x85R",
    "big-endian numpy type": name("numpy", "dtype") + text("f8") + b"\x85R(K\x03" + text(">") + b"tb",
    "numpy without type": name("numpy.core.multiarray", "scalar") + b"N" + text("x") + b"\x86R",
    "encode of a number": name("_codecs", "encode") + b"K\x01\x85R",
    "new of a function": name("torch._utils", "_rebuild_tensor_v2") + b")\x81",
    "extension": b"\x82\x01",
    "instance": b"(" + b"ios\nsystem\n",
    "memo of 64 GiB": b"Nr\xff\xff\xff\xff",
    "bytes of 16 EiB": b"\x8e" + b"\xff" * 8,
    "bytearray of 1 TiB": b"\x96" + struct.pack("<Q", 2**40),
    "text of 4 GiB": b"X\xff\xff\xff\xff",
    "text identifier": b"P0\n",
    "unknown identifier": b"(" + text("module") + text("os") + text("x") + b"tQ",
    "storage outside": tensor(key="../../etc/passwd"),
    "tensor without storage": name("torch._utils", "_rebuild_tensor_v2") + b"(K\x00K\x00)" + b")tR",
    "negative stride": tensor(stride=(-1,)),
    "negative size": tensor(size=(-4,)),
    "negative offset": tensor(offset=-8),
    "too many axes": tensor(size=(1,) * 70, stride=(1,) * 70),
    "stride too short": tensor(size=(1, 1), stride=(1,)),
    "empty": b"",
    "nothing on the stack": b"0",
    "unknown opcode": b"\xff",
    "scripted class with an odd name": name("__torch__.os", "system") + b")\x81}b",
    "state of a scripted class": name("__torch__", "x") + b"}b",
    "called scripted class": name("__torch__.builtins", "eval") + text("1") + b"\x85R",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(tmp_path, kind):
    entries = {"x/data/0": bytes(8)}
    refused(pickled(tmp_path / "x.pt", HOSTILE[kind], **entries))
    refused(pickled(tmp_path / "x.pth", HOSTILE[kind], **entries, **{"x/constants.pkl": b""}))


def test_the_state_of_a_table_changes_nothing(tmp_path, params):
    """Torch hangs ``_metadata`` on state dicts; a hostile file could hang ``get`` there."""
    content = torch.load(DATA / "parity/dpa1-attn.pt", weights_only=True)
    content["model"].get = "not a function"
    torch.save(content, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").config == read_checkpoint(DATA / "parity/dpa1-attn.pt").config


@pytest.mark.parametrize(
    "options",
    [
        {"size": (10**12,), "stride": (1,)},
        {"size": (10**6, 10**6), "stride": (0, 0)},
        {"size": (2,), "stride": (1,)},
        {"size": (1,), "stride": (1,), "offset": 1},
        {"size": (1,), "stride": (1,), "key": "1"},
        {"size": (1,), "stride": (1,), "key": "7"},
    ],
    ids=str,
)
def test_tensors_never_exceed_their_storage(tmp_path, params, options):
    extra = b"}" + text("model_params") + _as_pickle(params) + b"s"
    content = b"}(" + text("_extra_state") + extra + text("model.Default.x") + tensor(**options) + b"u"
    path = pickled(tmp_path / "x.pt", content, **{"x/data/0": bytes(8), "x/data/1": bytes(9)})
    with pytest.raises(CheckpointError, match=r"too few for its shape|the archive lacks x/data/7"):
        read_checkpoint(path)


def _as_pickle(value: object) -> bytes:
    """The opcodes that leave `value` on the stack."""
    return pickle.dumps(json.loads(json.dumps(value)), protocol=2)[2:-1]


# -------------------------------------------------------------------------------------------------------------- bombs


def _limited(path: Path, gigabytes: float = 3.0) -> subprocess.CompletedProcess:
    """Read `path` in a process of bounded memory and time; it ends with 7 when the file is refused properly."""
    code = (
        "import resource, sys, time\n"
        "import torch, h5py, yaml\n"
        "from dpa2_ase.checkpoint import CheckpointError, load_potential\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (pages + {int(gigabytes * 2**28)},) * 2)\n"
        "start = time.monotonic()\n"
        "try:\n    load_potential(sys.argv[1])\n"
        "except CheckpointError as error:\n"
        "    slow = time.monotonic() - start > 10\n"
        "    sys.exit(9 if 'MemoryError' in str(error) or slow else 7)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space as Linux knows them")
@pytest.mark.parametrize("kind", ["memo", "zip", "json", "many tensors", "yaml", "hdf5"])
def test_bombs_do_not_take_memory(tmp_path, params, kind):
    """Less than a gigabyte above what the imports take; the files claim from 2 GiB to 64 GiB."""
    path = tmp_path / "x.pt"
    if kind == "memo":
        pickled(path, HOSTILE["memo of 64 GiB"])
    elif kind == "zip":
        archive(path, {"x/data.pkl": b"\x80\x02" + b"]" * 2**28}, compress=True)
    elif kind == "json":
        archive(path, {"x/extra/model.json": b"[" + b"[]," * 2**26 + b"[]]"}, compress=True)
    elif kind == "many tensors":
        pool = torch.zeros(2**17, dtype=torch.float64)  # 1 MiB, seen 3000 times
        checkpoint_with(params, path, **{f"model.Default.{index}": pool[:] for index in range(3000)})
    elif kind == "yaml":
        levels = "".join(f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
        path.write_text(f"l0: &l0 [1]\n{levels}model: {{type: standard, descriptor: *l11}}\n")
    else:
        _document_with(path, lambda file: file.create_dataset("v", shape=(2**33,), dtype="f8", fillvalue=1.0))
    result = _limited(path)
    assert result.returncode == 7, (result.returncode, result.stderr[-500:])


def test_what_unpacks_beyond_measure_is_refused(tmp_path, params):
    bomb = archive(tmp_path / "x.pt", {"x/data.pkl": b"\x80\x02" + b"]" * 2**23}, compress=True)
    refused(bomb, "x/data.pkl would unpack to 8388610 bytes")
    pool = torch.zeros(2**17, dtype=torch.float64)
    path = checkpoint_with(params, tmp_path / "y.pt", **{f"model.Default.{index}": pool for index in range(150)})
    with pytest.raises(CheckpointError, match="are larger than the file can hold"):
        read_checkpoint(path)


@pytest.mark.parametrize("where", ["descriptor", "info", "unknown"])
def test_shared_and_endless_configurations_are_refused(tmp_path, params, where):
    """Lists that hold the same list twice would take 2^60 steps to walk; lists that hold themselves never end."""
    shared: list = [1]
    for _ in range(60):
        shared = [shared, shared]
    endless: list = []
    endless.append(endless)
    wide = [[0] * 2000] * 1000
    for value in (shared, endless, wide):
        refused(checkpoint_with(params | {where: value}, tmp_path / "x.pt"), "nested deeper, or has more entries")


def test_shared_modules_of_a_scripted_file_are_refused(tmp_path):
    """A tree of modules, every one holding the next twice."""
    module = name("__torch__", "M") + b")\x81"
    tree = module + b"}b"
    for _ in range(40):
        tree = module + b"}(" + text("a") + tree + b"q\x01" + text("b") + b"h\x01ub"
    script = text("model_def_script") + text("{}")
    root = module + b"}(" + script + text("tree") + tree + b"ub"
    refused(pickled(tmp_path / "x.pth", root, **{"x/constants.pkl": b""}), "deeper or larger than any model's")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repformer": {"g1_dim": 1_000_000}}, "the configuration asks for"),
        ({"repformer": {"nlayers": 200}}, "do not fit its own configuration"),
        ({"repformer": {"nlayers": 1_000_000}}, "nlayers should be an integer"),
    ],
)
def test_huge_configurations_are_compared_before_anything_is_built(tmp_path, change, message):
    content = torch.load(DATA / "parity/dpa2-medium.pt", weights_only=True)
    descriptor = content["model"]["_extra_state"]["model_params"]["descriptor"]
    for part, options in change.items():
        descriptor[part].update(options)
    torch.save(content, tmp_path / "x.pt")
    assert message in refused(tmp_path / "x.pt")


def test_deep_and_odd_json(tmp_path):
    for script in (
        "[" * 100_000,
        '{"model": ' * 5000,
        "NaN",
        '{"model": NaN}',
        '{"model": {"type": Infinity}}',
        "1" * 9999,
    ):
        refused(archive(tmp_path / "x.pte", {"x/extra/model.json": script.encode()}))


# --------------------------------------------------------------------------------------------------------------- HDF5


def _document_with(path: Path, fill: object) -> Path:
    """A ``.dp`` file whose output bias is the array ``v`` that `fill` makes."""
    with h5py.File(DATA / "parity/dpa1-attn.dp") as file:
        tree = json.loads(file.attrs["json"])
    tree["model"]["@variables"]["out_bias"] = "/v"
    shutil.copy(DATA / "parity/dpa1-attn.dp", path)
    with h5py.File(path, "r+") as file:
        fill(file)
        file.attrs["json"] = json.dumps(tree)
    return path


def _virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=(4,))
    file.create_virtual_dataset("v", layout)


def _outside(file: h5py.File, other: Path) -> None:
    raw = other.with_suffix(".raw")
    raw.write_bytes(np.arange(4.0).tobytes())
    file.create_dataset("v", shape=(4,), dtype="f8", external=[(str(raw), 0, 32)])


HDF5 = {
    "external link": lambda f, other: f.__setitem__("v", h5py.ExternalLink(str(other), "secret")),
    "soft link": lambda f, other: f.__setitem__("v", h5py.SoftLink("/variable_0000")),
    "external storage": _outside,
    "virtual": _virtual,
    "group": lambda f, other: f.create_group("v"),
    "absent": lambda f, other: None,
    "never written": lambda f, other: f.create_dataset("v", shape=(4,), dtype="f8"),
    "text": lambda f, other: f.create_dataset("v", data="text"),
    "compound": lambda f, other: f.create_dataset("v", data=np.zeros(2, dtype=[("a", "f8")])),
    "null": lambda f, other: f.create_dataset("v", data=h5py.Empty("f8")),
    "huge chunk": lambda f, other: f.create_dataset(
        "v", shape=(1,), maxshape=(None,), chunks=(2**28,), dtype="f8", compression="gzip"
    ),
}


@pytest.mark.parametrize("kind", HDF5)
def test_arrays_of_a_document_are_in_this_file(tmp_path, kind):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(4.0)
    refused(_document_with(tmp_path / "x.dp", lambda file: HDF5[kind](file, other)))


@pytest.mark.parametrize("value", [None, 3, "not json", "[]", "{}", np.zeros(3), '{"model": {"@variables": {}}}'])
def test_documents_without_a_proper_root(tmp_path, value):
    with h5py.File(tmp_path / "x.dp", "w") as file:
        if value is not None:
            file.attrs["json"] = value
    refused(tmp_path / "x.dp")


# --------------------------------------------------------------------------------------------------------------- zips


@pytest.mark.parametrize(
    "entries",
    [
        {"a.txt": b"x"},
        {"a/data.pkl": b"", "b/data.pkl": b""},
        {"x/data.pkl": b"", "x/byteorder": b"big"},
        {"x/data.pkl": b"."},
        {"../data.pkl": b"N."},
        {"x/extra/model.json": b""},
        {"x/extra/model.json": b"[]"},
        {"x/extra/model.json": b'{"model": {"descriptor": {"type": "dpa2"}}}'},
        {"x/data.pkl": b"N.", "x/constants.pkl": b""},
    ],
    ids=str,
)
def test_odd_archives(tmp_path, entries):
    refused(archive(tmp_path / "x.pt", entries))


def test_scripted_files_without_configuration(tmp_path):
    module = name("__torch__.deepmd", "EnergyModel") + b")\x81}b"
    refused(pickled(tmp_path / "x.pth", module, **{"x/constants.pkl": b""}), "no configuration in it")
    number = name("__torch__", "X") + b")\x81}" + text("model_def_script") + text("3") + b"sb"
    refused(pickled(tmp_path / "x.pth", number, **{"x/constants.pkl": b""}), "should be a table of options")
    spin = name("__torch__.deepmd", "SpinEnergyModel") + b")\x81}b"
    refused(pickled(tmp_path / "x.pth", spin, **{"x/constants.pkl": b""}), "DeepSpin")
