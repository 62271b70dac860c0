"""Read the zip archives of ``torch.save`` and TorchScript without executing anything in them.

Both hold a pickle, ``data.pkl``, that describes tensors kept as raw bytes in ``data/<key>``. The pickle is read with
an unpickler that knows a handful of harmless names and refuses every other; nothing of torch's own loader is used,
whose ``weights_only`` mode had an execution hole before torch 2.6 (CVE-2025-32434). Tensors stay on disk until asked.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
SMALL = 64 * 1024**2  # bytes that may be unpacked whatever the ratio


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Bytes of one entry, checked against its checksum; refuses what unpacks beyond measure."""
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        raise CheckpointError(f"{info.filename} would unpack to {info.file_size} bytes, more than a model ever does")
    return archive.read(info)


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


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still on disk."""

    key: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self, archive: TorchArchive) -> Tensor:
        """Its values, on the CPU; `archive` is the file it was found in."""
        raw = archive.read(f"{archive.root}data/{self.key}")
        if len(raw) % self.dtype.itemsize:
            raise CheckpointError(f"tensor data/{self.key} is truncated; copy or download the file again")
        flat = torch.frombuffer(bytearray(raw), dtype=self.dtype) if raw else torch.empty(0, dtype=self.dtype)
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if (
            min((*self.shape, *self.stride, self.offset), default=0) < 0
            or count > len(flat)
            or (count and last >= len(flat))
        ):
            raise CheckpointError(f"tensor data/{self.key} is smaller than its shape {self.shape}; the file is damaged")
        return flat.as_strided(self.shape, self.stride, self.offset).clone() if count else flat.new_empty(self.shape)


@dataclass
class Stub:
    """An object of a class we do not load: its name and its attributes."""

    name: str
    state: dict[str, Any] = field(default_factory=dict)


class _Storage:
    """A storage class of torch, by name only."""

    def __init__(self, name: str) -> None:
        self.dtype = _STORAGES[name]


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    key, dtype = storage
    return StoredTensor(key, dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _first(value: Any, *_: Any) -> Any:
    return value


class _NumpyType:
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


_HARMLESS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("numpy", "dtype"): _NumpyType,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        if module.split(".")[0] == "__torch__":  # a scripted module: passive, its code is never looked at
            return type(name, (Stub,), {"__new__": _new_stub, "__setstate__": _set_stub_state})
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a model")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(key, str) or "/" in key:
            raise pickle.UnpicklingError(f"unknown kind of stored data {kind!r}")
        return key, storage.dtype


def _new_stub(cls: type[Stub], *_: Any) -> Stub:
    stub = object.__new__(cls)
    Stub.__init__(stub, cls.__name__)
    return stub


def _set_stub_state(stub: Stub, state: Any) -> None:
    stub.state = dict(state)
