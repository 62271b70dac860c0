"""DeePMD-kit's LMDB data sets: one record per frame, whatever its size and composition.

Records are msgpack tables of arrays ``{type, shape, data}`` under DeePMD-kit's names, four of them in the plural; the
record ``__metadata__`` holds the type map. Layout: https://docs.deepmodeling.com/projects/dpdata/en/master/systems/lmdb.html
and the data sets DeePMD-kit 3.2.0 reads. A frame without cell is not periodic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .frames import Frame
from .systems import PBC, columns_of, frame_of_row

_METADATA = b"__metadata__"
_PLURAL = {"coords": "coord", "cells": "box", "energies": "energy", "forces": "force", "virials": "virial"}
_NOT_LABELS = ("atom_types", "atype", "atom_numbs", "natoms", "real_natoms_vec")
_KINDS = frozenset("float64 float32 float16 int64 int32 int16 int8 uint8 bool".split())


def is_lmdb(path: Path) -> bool:
    """Whether a folder is an LMDB data set."""
    return (path / "data.mdb").is_file()


def _modules() -> tuple[Any, Any]:
    try:
        import lmdb
        import msgpack
    except ImportError as error:
        raise ModuleNotFoundError("LMDB data sets need lmdb and msgpack: pip install 'dpa2-ase[lmdb]'") from error
    return lmdb, msgpack


def read_lmdb(path: Path, names: Sequence[str] | None = None) -> tuple[list[Frame], tuple[str, ...]]:
    """All frames in their order, and the type map.

    Parameters
    ----------
    names
        Type map of a data set that has none.

    Raises
    ------
    ValueError
        When the data set is damaged or incomplete; the message names the frame.
    """
    lmdb, msgpack = _modules()
    try:
        return _read(path, names, lmdb, msgpack)
    except (lmdb.Error, msgpack.UnpackException, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no DeePMD data set ({type(error).__name__}: {error})") from error


def _read(path: Path, names: Sequence[str] | None, lmdb: Any, msgpack: Any) -> tuple[list[Frame], tuple[str, ...]]:
    frames = []
    with lmdb.open(str(path), readonly=True, lock=False, subdir=True) as environment, environment.begin() as read:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if (path / "data.mdb").stat().st_size < needed:  # reading beyond its end kills the process
            raise ValueError(f"{path / 'data.mdb'} is cut off: it should have {needed} bytes")
        stored = read.get(_METADATA)
        if stored is None:
            raise ValueError(f"{path} is no DeePMD data set: it has no record __metadata__")
        metadata = msgpack.unpackb(stored, raw=False)
        known = tuple(metadata.get("type_map") or names or ())
        style = metadata.get("frame_idx_fmt", "012d")
        for number in range(int(metadata["nframes"])):
            record = read.get(format(number, style).encode())
            if record is None:
                raise ValueError(f"{path} lacks frame {number} of {metadata['nframes']}")
            frames.append(_frame(msgpack.unpackb(record, raw=False), known, f"{path}, frame {number}"))
    return frames, known


def _frame(record: Mapping[str, Any], names: Sequence[str], where: str) -> Frame:
    row = {_PLURAL.get(name, name): _array(value, where) for name, value in record.items()}
    types = row.get("atom_types", row.get("atype"))
    if types is None or "coord" not in row:
        raise ValueError(f"{where} lacks atom_types or coords")
    types = types.astype(np.int64).ravel()
    if types.max(initial=0) >= len(names):
        raise ValueError(f"{where}: types up to {types.max()} do not fit the type map {list(names)}; give a type map")
    pbc = row.pop(PBC, None)
    periodic = [bool(row.get("box") is not None)] * 3 if pbc is None else [bool(p) for p in pbc]
    row = {name: value for name, value in row.items() if name not in _NOT_LABELS}
    return frame_of_row(row, types, names, periodic, where)


def _array(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, Mapping):
        return np.asarray(value)
    kind = str(value["type"])
    if kind not in _KINDS:
        raise ValueError(f"{where} holds an array of {kind}, numbers were expected")
    return np.frombuffer(value["data"], dtype=kind).reshape(value["shape"])


def write_lmdb(path: Path, frames: Sequence[Frame], type_map: Sequence[str] | None = None) -> None:
    """Write a new data set; `type_map` defaults to the elements in the order of their appearance."""
    lmdb, msgpack = _modules()
    try:
        _write(path, frames, type_map, lmdb, msgpack)
    except lmdb.Error as error:
        raise OSError(str(error)) from error


def _write(path: Path, frames: Sequence[Frame], type_map: Sequence[str] | None, lmdb: Any, msgpack: Any) -> None:
    known = list(type_map) if type_map is not None else list(dict.fromkeys(s for f in frames for s in f.symbols))
    unknown = sorted({s for frame in frames for s in frame.symbols} - set(known))
    if unknown:
        raise ValueError(f"{unknown} are not in the type map {known}; add them to it")
    systems: dict[tuple[str, ...], int] = {}
    metadata = {
        "nframes": len(frames),
        "frame_idx_fmt": "012d",
        "type_map": known,
        "frame_nlocs": [len(frame) for frame in frames],
        "frame_system_ids": [systems.setdefault(tuple(sorted(f.symbols)), len(systems)) for f in frames],
    }
    size = 2**20 + 4 * sum(1000 + 200 * len(frame) for frame in frames)
    with (
        lmdb.open(str(path), map_size=max(size, 2**24), subdir=True) as environment,
        environment.begin(write=True) as put,
    ):
        put.put(_METADATA, msgpack.packb(metadata, use_bin_type=True))
        for number, frame in enumerate(frames):
            put.put(f"{number:012d}".encode(), msgpack.packb(_record(frame, known), use_bin_type=True))


def _record(frame: Frame, names: Sequence[str]) -> dict[str, Any]:
    plural = {name: stored for stored, name in _PLURAL.items()}
    types = np.array([names.index(symbol) for symbol in frame.symbols], dtype=np.int32)
    columns = {name: values[0] for name, values in columns_of([frame]).items()}
    if frame.cell is not None and not frame.is_periodic:
        columns[PBC] = np.zeros(3, dtype=bool)  # DeePMD-kit would take the cell for periodic
    shapes = {"coord": (-1, 3), "box": (3, 3), "force": (-1, 3), "virial": (3, 3)}
    record: dict[str, Any] = {"atom_types": _encoded(types)}
    for name, values in columns.items():
        record[plural.get(name, name)] = _encoded(np.asarray(values).reshape(shapes.get(name, np.shape(values))))
    record["atom_numbs"] = np.bincount(types, minlength=len(names)).tolist()
    return record


def _encoded(values: np.ndarray) -> Any:
    if values.dtype.kind == "U":
        return values.tolist()
    return {"type": values.dtype.name, "shape": list(values.shape), "data": np.ascontiguousarray(values).tobytes()}
