"""DeePMD systems: ``type.raw``, ``type_map.raw``, ``nopbc`` and ``set.*/NAME.npy``, standard or mixed type.

Layout: https://docs.deepmodeling.com/projects/deepmd/en/stable/data/system.html. In the mixed type every frame brings
its own types in ``real_atom_types.npy``; atoms of type -1 are place holders and no part of the frame. Labels that are
not known here are kept under their names. What DeePMD-kit has no place for is stored beside it in arrays with the
prefix ``ase_``, which it does not read: nothing is lost between ASE and a system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .frames import Frame
from .stores import Store

# DeePMD-kit's file names of our fields, with the shape of one frame: N atoms, -1 for any number
FIELDS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "positions": ("coord", ("N", 3)),
    "cell": ("box", (3, 3)),
    "energy": ("energy", ()),
    "forces": ("force", ("N", 3)),
    "virial": ("virial", (3, 3)),
    "atomic_energies": ("atom_ener", ("N",)),
    "force_weights": ("atom_pref", ("N",)),
    "fparam": ("fparam", (-1,)),
    "aparam": ("aparam", ("N", -1)),
    "weight": ("frame_weight", ()),
}
PER_ATOM = frozenset(
    "spin force_mag atom_dipole atomic_dipole atom_polarizability atomic_polarizability atom_dos atomic_dos "
    "atom_ener_coeff atom_weight atomic_weight drdq atom_property".split()
)  # labels of atoms that are kept without being used
_ATOMS, _INFO, _JSON = "ase_atoms_", "ase_info_", "ase_json_"
_ORDER = "ase_frame_index"  # place of a frame in the list that was written as several systems
_TYPES, PBC = "real_atom_types", "ase_pbc"
VIRTUAL = -1


def is_system(store: Store) -> bool:
    """Whether there is a DeePMD system right here."""
    return "type.raw" in store.names()


def type_map(store: Store) -> list[str]:
    """Names of the types; empty if the system does not say."""
    return store.words("type_map.raw")


def read_system(store: Store, names: Sequence[str] | None = None) -> list[Frame]:
    """All frames of one system, sets in the order of their names.

    Parameters
    ----------
    names
        Type map of a system that has no ``type_map.raw``.

    Raises
    ------
    ValueError
        When files are missing or shapes disagree; the message names the file.
    """
    known = type_map(store) or list(names or ())
    words = store.words("type.raw")
    if not all(word.removeprefix("-").isdigit() for word in words):
        raise ValueError(f"{store.name}/type.raw should hold one index into the type map per atom, found {words[:3]}")
    types = np.array([int(word) for word in words], dtype=np.int64)
    has_nopbc = "nopbc" in store.names()
    frames: list[Frame] = []
    sets = [name for name in store.names() if name.startswith("set.")]
    if not sets:
        raise ValueError(f"{store.name} has no set.* with frames")
    for name in sets:
        frames += _read_set(store.part(name), types, known, has_nopbc=has_nopbc)
    return frames


def _read_set(store: Store, types: np.ndarray, names: list[str], *, has_nopbc: bool) -> list[Frame]:
    entries = [entry for entry in store.names() if entry.endswith(".npy")]
    columns = {entry.removesuffix(".npy"): store.array(entry) for entry in entries}
    if "coord" not in columns:
        raise ValueError(f"{store.name} has no coord.npy")
    n_frames, n_atoms = len(columns["coord"]), len(types)
    for name, values in columns.items():
        if values.ndim == 0 or len(values) != n_frames:
            raise ValueError(f"{store.name}/{name}.npy has shape {values.shape}; {n_frames} frames were expected")
    if columns["coord"].size != n_frames * n_atoms * 3:
        raise ValueError(
            f"{store.name}/coord.npy has shape {columns['coord'].shape}; type.raw asks for {n_atoms} atoms, that is "
            f"{3 * n_atoms} numbers per frame"
        )
    if not has_nopbc and "box" not in columns:
        raise ValueError(f"{store.name} has no box.npy; a system without periodic boundaries needs the file nopbc")
    real = columns.pop(_TYPES, None)
    all_types = np.tile(types, (n_frames, 1)) if real is None else real.reshape(n_frames, -1).astype(np.int64)
    if all_types.shape[1] != n_atoms or all_types.max(initial=0) >= len(names) or all_types.min(initial=0) < VIRTUAL:
        what = "real_atom_types.npy" if real is not None else "type.raw"
        raise ValueError(
            f"{store.name}: the types in {what} ({all_types.min()} to {all_types.max()}) do not fit {n_atoms} atoms "
            f"and the type map {names}; add type_map.raw or give a type map"
        )
    pbc = columns.pop(PBC, np.tile(not has_nopbc, (n_frames, 3)))
    rows = ({name: values[index] for name, values in columns.items()} for index in range(n_frames))
    return [frame_of_row(row, t, names, p, store.name) for row, t, p in zip(rows, all_types, pbc, strict=True)]


def frame_of_row(
    row: Mapping[str, np.ndarray], types: np.ndarray, names: Sequence[str], pbc: Sequence[bool], where: str
) -> Frame:
    """The frame of one row of all columns, by DeePMD-kit's names; place holders among `types` are left out."""
    keep = types != VIRTUAL
    fields: dict[str, Any] = {}
    rest = dict(row)
    for field, (name, shape) in FIELDS.items():
        if name in rest:
            fields[field] = _row(rest.pop(name), shape, keep, f"{where}/{name}.npy")
    info, arrays = _others(rest, keep)
    symbols = tuple(names[t] for t in types[keep])
    return Frame(symbols=symbols, pbc=tuple(bool(p) for p in pbc), info=info, arrays=arrays, **fields)  # type: ignore[arg-type]  # three of them


def _row(values: np.ndarray, shape: tuple[int | str, ...], keep: np.ndarray, where: str) -> Any:
    wanted = [len(keep) if size == "N" else size for size in shape]
    try:
        row = np.array(values, dtype=np.float64).reshape(wanted)  # type: ignore[arg-type]  # no text is left in it
    except ValueError:
        raise ValueError(f"{where} has {np.size(values)} numbers per frame; {tuple(wanted)} were expected") from None
    return (row[keep] if "N" in shape else row) if shape else float(row)


def _others(rest: Mapping[str, np.ndarray], keep: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Split what is left into properties of the frame and of its atoms."""
    info: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, values in rest.items():
        if name.startswith(_ATOMS):
            arrays[name.removeprefix(_ATOMS)] = values[keep]
        elif name in PER_ATOM and values.size % len(keep) == 0:
            arrays[name] = values.reshape(len(keep), -1)[keep]
        elif name.startswith(_JSON):
            info[name.removeprefix(_JSON)] = json.loads(str(values))
        else:
            info[name.removeprefix(_INFO)] = values.copy() if values.ndim else values.item()
    return info, arrays


def write_systems(
    store: Store,
    frames: Sequence[Frame],
    *,
    names: Sequence[str] | None = None,
    mixed: bool | None = None,
) -> list[str]:
    """Write frames as one system right here or, where they differ too much for one, as several below.

    Parameters
    ----------
    store
        An empty place.
    names
        Type map; the elements in the order of their appearance if not given.
    mixed
        Mixed type: frames of one system have a number of atoms in common, not the elements. By default only frames
        that do not all consist of the same elements in the same order are written so.

    Returns
    -------
    list of str
        Where systems were written, relative to `store`; ``.`` for right here.
    """
    if not frames:
        raise ValueError("there are no frames to write")
    known = list(names) if names is not None else list(dict.fromkeys(s for frame in frames for s in frame.symbols))
    unknown = sorted({s for frame in frames for s in frame.symbols} - set(known))
    if unknown:
        raise ValueError(f"{unknown} are not in the type map {known}; add them to it")
    if mixed is None:
        mixed = len({frame.symbols for frame in frames}) > 1
    groups: dict[Any, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault((len(frame) if mixed else frame.symbols, _layout(frame)), []).append(index)
    if len(groups) == 1:
        _write_system(store, list(frames), known, mixed=mixed, order=None)
        return ["."]
    written = []
    for number, indices in enumerate(groups.values()):
        part = f"sys.{number:06d}"
        _write_system(store.part(part), [frames[i] for i in indices], known, mixed=mixed, order=np.array(indices))
        written.append(part)
    return written


def _layout(frame: Frame) -> Any:
    """What frames of one system must have in common beside their atoms."""
    fields = tuple(
        (field, np.shape(getattr(frame, field))[1:]) for field in FIELDS if getattr(frame, field) is not None
    )
    info = tuple(sorted((name, *_kind(value)) for name, value in frame.info.items()))
    arrays = tuple(sorted((name, v.dtype.kind, v.shape[1:]) for name, v in frame.arrays.items()))
    fparam = None if frame.fparam is None else frame.fparam.shape
    return frame.is_periodic, fields, fparam, info, arrays


def _kind(value: Any) -> tuple[str, tuple[int, ...]]:
    array = None if isinstance(value, dict | list | tuple | None) else np.asarray(value)
    return ("json", ()) if array is None else (array.dtype.kind, array.shape)


def _write_system(
    store: Store, frames: Sequence[Frame], names: list[str], *, mixed: bool, order: np.ndarray | None
) -> None:
    index = {name: number for number, name in enumerate(names)}
    types = np.array([[index[symbol] for symbol in frame.symbols] for frame in frames])
    store.put_words("type.raw", [str(t) for t in (np.zeros_like(types[0]) if mixed else types[0])])
    store.put_words("type_map.raw", names)
    if not frames[0].is_periodic:
        store.put_words("nopbc", [])
    part = store.part("set.000")
    columns = columns_of(frames) | ({_TYPES: types} if mixed else {}) | ({} if order is None else {_ORDER: order})
    for name, values in columns.items():
        part.put_array(f"{name}.npy", values)


def columns_of(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """All that frames of one layout hold beside their types, by DeePMD-kit's names, one row per frame."""
    columns: dict[str, np.ndarray] = {}
    for field, (name, shape) in FIELDS.items():
        if getattr(frames[0], field) is not None:
            rows = [np.ravel(getattr(frame, field)) for frame in frames]
            columns[name] = np.array(rows, dtype=np.float64).reshape(len(frames), *([-1] if shape else []))
    pbc = np.array([frame.pbc for frame in frames])
    if bool((pbc != pbc[:, :1]).any()):
        columns[PBC] = pbc
    return columns | _other_columns(frames)


def _other_columns(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    reserved = {name for name, _ in FIELDS.values()} | {_TYPES, PBC, _ORDER}
    columns: dict[str, np.ndarray] = {}
    for name in frames[0].arrays:
        values = np.array([frame.arrays[name] for frame in frames])
        if name in PER_ATOM:
            columns[name] = values.reshape(len(frames), -1)
        else:
            columns[_ATOMS + name] = values
    for name, value in frames[0].info.items():
        if _kind(value)[0] in ("json", "O"):
            columns[_JSON + name] = np.array([_json(frame.info[name], name) for frame in frames])
        else:
            values = np.array([frame.info[name] for frame in frames])
            of_deepmd = values.dtype.kind == "f" and values.ndim == 2 and name not in reserved
            columns[name if of_deepmd and name.isidentifier() else _INFO + name] = values
    return columns


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        raise ValueError(f"the entry {name!r} of a frame is a {type(value).__name__}, which no file can hold") from None


def in_order(frames: list[Frame]) -> list[Frame]:
    """Frames of several systems in the order they were written in, if the systems say so."""
    if not frames or not all(_ORDER in frame.info for frame in frames):
        return frames
    ordered = sorted(frames, key=lambda frame: frame.info[_ORDER])
    return [replace(f, info={k: v for k, v in f.info.items() if k != _ORDER}) for f in ordered]
