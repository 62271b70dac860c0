"""Read the zip archives of ``torch.save`` and TorchScript without executing anything in them.

Both hold a pickle, ``data.pkl``, that describes tensors kept as raw bytes in ``data/<key>``. The pickle is read with
an unpickler that knows a handful of harmless names and refuses every other; nothing of torch's own loader is used,
whose ``weights_only`` mode had an execution hole before torch 2.6 (CVE-2025-32434). Tensors stay on disk until asked.
"""

from __future__ import annotations

import io
import math
import pickle
import reprlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


MAX_RATIO = 100  # text and tables of a model never compress better; what claims to is a bomb
MAX_DIMENSIONS = 8
MAX_SIZE = 2**40
SMALL = 4 * 1024**2  # bytes that may be unpacked whatever the ratio


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Bytes of one entry, checked against its checksum; refuses what unpacks beyond measure."""
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        raise CheckpointError(f"{info.filename} would unpack to {info.file_size} bytes, more than a model ever does")
    return archive.read(info)


class _Passive:
    """Base of what a pickle may name: a pickle can call it but cannot change it."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"the state of a {type(self).__name__} does not belong in a model")


class TorchArchive:
    """An open archive of ``torch.save`` (``.pt``) or ``torch.jit.save`` (``.pth``)."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self.names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("this zip archive holds no model: there is no data.pkl in it")
        self.root = pickles[0].removesuffix("data.pkl")
        if self._text("byteorder", "little") != "little":
            raise CheckpointError("this file was written on a big-endian machine, which is not supported")

    @property
    def is_torchscript(self) -> bool:
        """Whether the archive was written by ``torch.jit.save``."""
        return f"{self.root}constants.pkl" in self.names

    def _text(self, name: str, default: str) -> str:
        entry = self.root + name
        return self.read(entry).decode("ascii", "replace").strip() if entry in self.names else default

    def read(self, name: str) -> bytes:
        """Bytes of the entry called `name`."""
        if name not in self.names:
            raise CheckpointError(f"the archive lacks {name}; the file is incomplete, copy or download it again")
        return read_entry(self.archive, self.names[name])

    def load(self) -> Any:
        """The object of ``data.pkl``, with a `StoredTensor` for every tensor and a `Stub` for every class."""
        return _Unpickler(io.BytesIO(self.read(f"{self.root}data.pkl"))).load()

    def tensors(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Values of tensors, on the CPU; each storage is read once, and all stay in proportion to the file."""
        budget = max(SMALL, MAX_RATIO * Path(str(self.archive.filename)).stat().st_size)
        storages: dict[str, bytearray] = {}
        values = {}
        for name, tensor in wanted.items():
            if tensor.key not in storages:
                storages[tensor.key] = bytearray(self.read(f"{self.root}data/{tensor.key}"))
                budget -= len(storages[tensor.key])
            values[name] = tensor.view(storages[tensor.key]).clone()
            budget -= values[name].nbytes
            if budget < 0:
                raise CheckpointError(f"its tensors, up to {name}, are larger than the file can hold")
        return values


@dataclass(frozen=True)
class StoredTensor(_Passive):
    """A tensor that is still on disk."""

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, raw: bytearray) -> Tensor:
        """The tensor as a window on the bytes of its storage; never more elements than the storage has."""
        count = len(raw) // self.dtype.itemsize
        size = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if len(raw) % self.dtype.itemsize or size > count or (size and last >= count):
            raise CheckpointError(
                f"tensor data/{self.key} has {count} values, too few for its shape {self.shape}; the file is damaged, "
                "copy or download it again"
            )
        if not size:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(raw, dtype=self.dtype).as_strided(self.shape, self.stride, self.offset)


class Stub(_Passive):
    """An object of a class we do not load: its name and its attributes."""

    name = ""
    state: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state)


class _Table(OrderedDict):
    """An ordered dictionary without the attributes that torch hangs on it."""

    def __setstate__(self, state: Any) -> None:
        """Versions of modules: of no use here."""


class _Storage(_Passive):
    """A storage class of torch, by name only."""

    def __init__(self, name: str) -> None:
        self.dtype = _STORAGES[name]


@dataclass(frozen=True)
class _StorageKey(_Passive):
    key: str
    dtype: torch.dtype


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _StorageKey) or len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError("a tensor without a storage")
    if not all(type(n) is int and 0 <= n <= MAX_SIZE for n in numbers):
        raise pickle.UnpicklingError(f"a tensor of the shape {reprlib.repr(size)}")
    return StoredTensor(storage.key, storage.dtype, offset, tuple(size), tuple(stride))


def _first(value: Any, *_: Any) -> Any:
    return value


class _NumpyType(_Passive):
    """A numpy type, by name only; old training states carry numpy scalars."""

    def __init__(self, name: str, *_: Any) -> None:
        if name not in ("f8", "f4", "i8", "i4", "b1"):
            raise pickle.UnpicklingError(f"numpy type {name!r} does not belong in a model")
        self.name = name

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|"):
            raise pickle.UnpicklingError("big-endian numbers are not supported")


def _numpy_scalar(kind: _NumpyType, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=kind.name, count=1)[0].item()


def _latin1(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


class _Function(_Passive):
    """A function under a foreign name."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


_HARMLESS: dict[tuple[str, str], _Function] = {
    ("collections", "OrderedDict"): _Function(_Table),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_first),
    ("torch.jit._pickle", "build_intlist"): _Function(_first),
    ("torch.jit._pickle", "build_doublelist"): _Function(_first),
    ("torch.jit._pickle", "build_boollist"): _Function(_first),
    ("torch.jit._pickle", "build_tensorlist"): _Function(_first),
    ("torch.jit._pickle", "restore_type_tag"): _Function(_first),
    ("numpy.core.multiarray", "scalar"): _Function(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): _Function(_numpy_scalar),
    ("numpy", "dtype"): _Function(_NumpyType),
    ("_codecs", "encode"): _Function(_latin1),
}

# what torch writes, and what Python's protocols 2 to 4 need for the same; nothing that reserves memory by its argument
_OPCODES = (
    "PROTO STOP FRAME MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 "
    "BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM "
    "SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ "
    "BINPERSID"
)
_ALLOWED = frozenset(getattr(pickle, name)[0] for name in _OPCODES.split())


def _refuse(unpickler: Any) -> None:
    raise pickle.UnpicklingError("it uses a part of the pickle language that no model needs")


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python: the one in C reserves gigabytes when a pickle of a few bytes asks for it."""

    dispatch: ClassVar = {n: pickle._Unpickler.dispatch[n] if n in _ALLOWED else _refuse for n in range(256)}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        if module.partition(".")[0] == "__torch__":  # a scripted module: passive, its code is never looked at
            return type("Stub", (Stub,), {"name": name})
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a model")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(key, str) or "/" in key:
            raise pickle.UnpicklingError(f"unknown kind of stored data {reprlib.repr(kind)}")
        return _StorageKey(key, storage.dtype)
