"""Structures in and out: any format ASE knows, whole files or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

    from ase import Atoms

    from .options import Output

DATABASES = ("db", "json")  # what ASE keeps in a row's `data` rather than in `atoms.info`
HOLD_RESULTS = ("extxyz", "traj", *DATABASES)


def read_structures(paths: Sequence[str], index: str) -> list[tuple[str, Atoms]]:
    """All frames of all files with a name for each; any failure of a reader becomes one ValueError."""
    from ase.io.formats import string2index

    try:
        chosen = string2index(index)
    except ValueError:
        chosen = index
    if isinstance(chosen, str):
        raise ValueError(f"--index {index!r} is neither a number nor a slice such as -1, : or ::10")
    frames: list[tuple[str, Atoms]] = []
    for path in expanded(paths):
        found = _read_file(path, index)
        label = Path(path).name if "@" in path or index == ":" else f"{Path(path).name}@{index}"
        for number, atoms in enumerate(found):
            position = f"[{number}]" if "@" in label else f"@{number}"
            frames.append((label + (position if len(found) > 1 else ""), atoms))
    if not frames:
        raise ValueError(f"no structures in {', '.join(paths)} at index {index!r}")
    return frames


def expanded(paths: Sequence[str]) -> list[str]:
    """The paths with patterns such as ``data/*.cif`` replaced by the files they fit, in order."""
    found: list[str] = []
    for path in paths:
        is_pattern = any(letter in path for letter in "*?[") and not Path(path.rpartition("@")[0] or path).exists()
        if not is_pattern or Path(path).exists():
            found.append(path)
            continue
        fitting = [name for name in sorted(glob(path, recursive=True)) if not Path(name).is_dir()]
        if not fitting:
            raise FileNotFoundError(f"no structure file fits {path}")
        found += fitting
    return found


def _read_file(path: str, index: str) -> list[Atoms]:
    from ase.io import read

    exists = Path(path).exists()
    if not exists and not Path(path.rpartition("@")[0]).is_file():  # ASE knows FILE@INDEX
        raise FileNotFoundError(f"no structure file {path}")
    try:
        found = read(path, index=index, do_not_split_by_at_sign=True) if exists else read(path)
    except Exception as error:  # ASE's readers fail in their own ways
        where = "" if index == ":" or not exists else f" at index {index}"
        reason = ": ".join(filter(None, (type(error).__name__, str(error))))
        raise ValueError(f"{path} cannot be read as a structure{where} ({reason})") from error
    return found if isinstance(found, list) else [found]


def structure_file(output: Output) -> tuple[Path | None, Output]:
    """Whether ``--out`` names a file for structures, by its suffix or by a name that ASE knows; what is left of it.

    Raises
    ------
    ValueError
        For a file and ``--resume``.
    """
    out = output.out
    if out is None or out.is_dir() or not (out.suffix or format_of(out)):
        return None, output
    if output.resume:
        raise ValueError(f"--resume needs a folder of a run, and {out} is a file for structures")
    return out, replace(output, out=None)


def check_output(out: Path, inputs: Sequence[str], n_frames: int, *, for_results: bool = False) -> None:
    """Find out before the work whether the result can be written after it."""
    from ase.io.formats import ioformats

    target = out.resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"{out} is not a regular file; choose another name to write to")
    if any(target == Path(path).resolve() for path in inputs):
        raise ValueError(f"{out} is also an input, which is never overwritten; choose another name to write to")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {out.name} to")
    kind = ioformats.get(format_of(out))
    if kind is None or not kind.can_write:
        raise ValueError(f"ASE cannot write {out.name}; use a suffix it knows, such as .extxyz")
    if out.suffix[1:] in HOLD_RESULTS and out.suffix[1:] != kind.name:
        raise ValueError(f"ASE takes a file named {out.name} for one of format {kind.name}; choose another name")
    if for_results and kind.name not in HOLD_RESULTS:
        raise ValueError(f"a file of format {kind.name} holds no results; use one of .{', .'.join(HOLD_RESULTS)}")
    if kind.single and n_frames > 1:
        raise ValueError(f"a file of format {kind.name} holds one structure, not {n_frames}; use .extxyz")
    try:
        with _folder_beside(target):
            pass
    except OSError as error:
        raise OSError(f"cannot write to folder {target.parent}: {error.strerror}") from error


def format_of(out: Path) -> str:
    """ASE's name of the format that the name of a file asks for; empty if it does not say."""
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        return filetype(str(out), read=False)
    except UnknownFileTypeError:
        return ""


def _folder_beside(target: Path) -> TemporaryDirectory[str]:
    """A temporary folder on the file system of `target`."""
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix=f".{target.name}.", suffix=".part", dir=target.parent)


def write_structures(out: Path, frames: Sequence[Atoms]) -> None:
    """Write all frames or nothing: to a temporary folder first, then moved."""
    from ase.db import connect
    from ase.io import write as write_file

    target = out.resolve()
    try:
        with _folder_beside(target) as folder:
            temporary = Path(folder) / target.name
            if format_of(out) in DATABASES:
                with connect(temporary, type=format_of(out)) as database:
                    for atoms in frames:
                        database.write(atoms, data={name: _storable(value) for name, value in atoms.info.items()})
            else:
                write_file(temporary, list(frames), format=format_of(out))
            os.replace(temporary, target)
    except Exception as error:  # ASE's writers fail in their own ways
        raise OSError(f"cannot write {out} ({type(error).__name__}: {error})") from error


def _storable(value: Any) -> Any:
    """What a database can hold of an entry of `atoms.info`: readers leave objects there."""
    from ase.db.core import object_to_bytes

    try:
        object_to_bytes(value)
    except Exception:  # the objects fail in their own ways
        return str(value)
    return value
