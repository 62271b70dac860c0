"""`read_frames`, `write_frames` and `convert`: one entrance for every format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ...hdf5 import new_hdf5, open_hdf5
from .databases import SUFFIXES as DATABASE_SUFFIXES
from .databases import read_database, write_database
from .extxyz import write_extxyz
from .frames import Frame, LabelKeys, atoms_of_frame, frame_of_atoms
from .stores import Folder, HDF5Group, Store
from .systems import in_order, is_system, read_system, type_map, write_systems

if TYPE_CHECKING:
    from ase import Atoms

HDF5_SUFFIXES = (".hdf5", ".h5")
Format = Literal["deepmd-npy", "deepmd-mixed", "deepmd-hdf5", "deepmd-lmdb"]


@dataclass(frozen=True)
class System:
    """Frames that were found together."""

    name: str
    frames: list[Frame]
    type_map: tuple[str, ...] = ()  # what the files say; empty for what ASE reads


def read_frames(
    path: str | Path,
    *,
    keys: LabelKeys | None = None,
    names: Sequence[str] | None = None,
    pattern: str | Sequence[str] | None = None,
) -> list[Frame]:
    """All frames of a file or folder.

    Parameters
    ----------
    path
        A DeePMD system or a folder of such at any depth, a DeePMD HDF5 file (``FILE#/GROUP`` for a part of it), or
        whatever ASE reads (``FILE@INDEX`` for some of it).
    keys
        Where labels are that ASE does not take for results of a calculator.
    names
        Type map of systems that have none.
    pattern
        Glob pattern of the systems below a folder, or several.

    Raises
    ------
    FileNotFoundError
        Nothing there.
    ValueError
        What is there cannot be read; the message names the file.
    """
    return in_order([f for s in read_systems(path, keys=keys, names=names, pattern=pattern) for f in s.frames])


def read_systems(
    path: str | Path,
    *,
    keys: LabelKeys | None = None,
    names: Sequence[str] | None = None,
    pattern: str | Sequence[str] | None = None,
) -> list[System]:
    """The systems of a file or folder, parameters as in `read_frames`; what ASE reads is one system."""
    text = str(path)
    file, _, group = text.partition("#")
    if Path(file).suffix in HDF5_SUFFIXES and Path(file).is_file():
        with _opened(file) as opened:
            root = opened[group] if group.strip("/") else opened
            return _stored(_below_group(HDF5Group(root, file)), names, text)
    if Path(text).is_dir():
        from .lmdb import is_lmdb, read_lmdb

        if is_lmdb(Path(text)):
            frames, known = read_lmdb(Path(text), names)
            return [System(text, frames, known)]
        return _stored(_below_folder(Path(text), pattern), names, text)
    return [System(text, _read_ase(text, keys))]


def _opened(file: str) -> Any:
    try:
        return open_hdf5(Path(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read as HDF5: {error}") from error


def _stored(stores: list[Store], names: Sequence[str] | None, path: str) -> list[System]:
    if not stores:
        raise ValueError(f"{path} holds no DeePMD system: there is no type.raw in it")
    return [System(store.name, read_system(store, names), tuple(type_map(store))) for store in stores]


def _below_folder(path: Path, pattern: str | Sequence[str] | None) -> list[Store]:
    if not pattern and (path / "type.raw").is_file():
        return [Folder(path)]
    patterns = [pattern] if isinstance(pattern, str) else pattern or ()
    found = [folder for one in patterns for folder in path.rglob(one)]
    if not patterns:
        found = [file.parent for file in path.rglob("type.raw")]
    return [Folder(folder) for folder in sorted(set(found)) if (folder / "type.raw").is_file()]


def _below_group(group: HDF5Group) -> list[Store]:
    if is_system(group):
        return [group]
    parts = [name for name in group.names() if hasattr(group.group[name], "keys")]
    return [store for name in parts for store in _below_group(group.part(name))]


def _read_ase(path: str, keys: LabelKeys | None) -> list[Frame]:
    if not Path(path).exists() and not Path(path.rpartition("@")[0]).is_file():
        raise FileNotFoundError(f"no file or folder {path}")
    try:
        found = _structures(path)
    except Exception as error:  # ASE's readers fail in their own ways
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    frames = []
    for number, atoms in enumerate(found):
        try:
            frames.append(frame_of_atoms(atoms, keys))
        except ValueError as error:
            raise ValueError(f"{path}, frame {number}: {error}") from error
    return frames


def _structures(path: str) -> list[Atoms]:
    from ase.io import read

    exists = Path(path).exists()
    file, _, index = (path, "", ":") if exists else path.rpartition("@")
    if Path(file).suffix in DATABASE_SUFFIXES:
        return read_database(Path(file), index)
    found: Any = read(path, index=":", do_not_split_by_at_sign=True) if exists else read(path)
    return found if isinstance(found, list) else [found]


def write_frames(
    path: str | Path,
    frames: Sequence[Frame],
    *,
    format: Format | str | None = None,  # ASE's name for it
    type_map: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write frames to a new file or folder, which is complete or not there.

    Parameters
    ----------
    path
        Must not exist, or be an empty folder.
    format
        ``deepmd-npy`` (a folder; mixed type where frames differ in their elements), ``deepmd-mixed``, ``deepmd-hdf5``,
        ``deepmd-lmdb`` or a format of ASE. By default the suffix decides: ``.hdf5`` and ``.h5``, ``.lmdb``, none for
        ``deepmd-npy``, all others ASE.
    type_map
        Order of the types in DeePMD formats.
    names
        For ASE: chemical elements for names of the type map that are none.

    Raises
    ------
    FileExistsError, FileNotFoundError
        The target exists, or its folder does not.
    OSError
        The disk is full.
    ValueError
        The format cannot hold the frames.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists; nothing is overwritten, choose another name or remove it")
    if not target.resolve().parent.is_dir():
        raise FileNotFoundError(f"no folder {target.resolve().parent} to write {target.name} to")
    kind = format or _format_of(target)
    with _whole(target) as place:
        _write(place, frames, kind, type_map, names)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A place for a file or folder that becomes `target` when all went well; else nothing is left of it."""
    try:
        with TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.resolve().parent) as folder:
            place = Path(folder) / target.name
            yield place
            os.replace(place, target)
    except OSError as error:
        raise OSError(f"{target} cannot be written: {error}") from error


def _write(
    target: Path,
    frames: Sequence[Frame],
    kind: str,
    type_map: Sequence[str] | None,
    names: Mapping[str, str] | None,
) -> None:
    if kind in ("deepmd-npy", "deepmd-mixed"):
        write_systems(Folder(target), frames, names=type_map, mixed=True if kind == "deepmd-mixed" else None)
    elif kind == "deepmd-hdf5":
        with new_hdf5(target) as opened:
            write_systems(HDF5Group(opened, str(target)), frames, names=type_map)
    elif kind == "deepmd-lmdb":
        from .lmdb import write_lmdb

        write_lmdb(target, frames, type_map)
    else:
        _write_ase(target, frames, kind, names)


def _format_of(target: Path) -> str:
    if target.suffix in HDF5_SUFFIXES:
        return "deepmd-hdf5"
    if target.suffix == ".lmdb":
        return "deepmd-lmdb"
    return "deepmd-npy" if not target.suffix or target.is_dir() else "ase"


def _write_ase(target: Path, frames: Sequence[Frame], kind: str, names: Mapping[str, str] | None) -> None:
    from ase.io import write
    from ase.io.formats import filetype

    structures = [atoms_of_frame(frame, names) for frame in frames]
    found = filetype(str(target), read=False) if kind == "ase" else kind
    if found == "extxyz":
        write_extxyz(target, structures)
    elif found in ("db", "json"):
        write_database(target, structures, found)
    else:
        write(target, structures, format=found)


def convert(  # noqa: PLR0913  # what can be chosen
    source: str | Path,
    target: str | Path,
    *,
    format: Format | str | None = None,  # as in `write_frames`
    keys: LabelKeys | None = None,
    names: Mapping[str, str] | None = None,
    choose: Callable[[list[Frame]], list[Frame]] | None = None,
) -> int:
    """Bring labelled frames from one format into another; returns the number of those written.

    Parameters
    ----------
    source, keys
        As in `read_frames`.
    target, format, names
        As in `write_frames`.
    choose
        Which of the frames to write, in a list of its own; all if not given.
    """
    systems = read_systems(source, keys=keys)
    frames = in_order([frame for system in systems for frame in system.frames])
    if choose is not None:
        frames = choose(frames)
        if not frames:
            raise ValueError(f"{source}: no frame is left to write")
    known = list(dict.fromkeys(name for system in systems for name in system.type_map))
    write_frames(target, frames, format=format, type_map=known or None, names=names)
    return len(frames)
