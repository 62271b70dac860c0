"""Data sets as streams of structures: one in memory at a time wherever the format allows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

DATA_SET, FRAME = "data_set", "frame"  # entries of `atoms.info` that say where a structure comes from


class DataSets:
    """Files and folders of structures that can be read again and again.

    Parameters
    ----------
    paths
        What ASE reads (``FILE`` or ``FILE@INDEX``), DeePMD systems, and folders of such. ``NAME=PATH`` gives a data
        set a name; without, it is called by its file.
    index
        Which structures of each file, as in ASE.
    """

    def __init__(self, paths: Sequence[str | Path], index: str = ":") -> None:
        if not paths:
            raise ValueError("no data set; give files or folders of structures")
        self.index = index
        self.parts = [_named(str(path)) for path in paths]
        for _, path in self.parts:
            if not Path(path).exists() and not Path(path.rpartition("@")[0]).is_file():
                raise FileNotFoundError(f"no structure file or DeePMD system {path}")

    @property
    def files(self) -> list[Path]:
        """Files and folders, without indices."""
        return [Path(path if Path(path).exists() else path.rpartition("@")[0]) for _, path in self.parts]

    def __iter__(self) -> Iterator[Atoms]:
        """Structures with their data set's name and their number in it in ``info``."""
        for name, path in self.parts:
            for number, atoms in enumerate(_read(path, self.index)):
                atoms.info[DATA_SET], atoms.info[FRAME] = name, number
                yield atoms


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if equals and name and not Path(text).exists():
        return name, path
    return Path(text.rpartition("@")[0] if "@" in text and not Path(text).exists() else text).stem, text


def _read(path: str, index: str) -> Iterator[Atoms]:
    target = Path(path)
    suffix = Path(path.partition("#")[0]).suffix
    if target.is_dir() or suffix in (".h5", ".hdf5"):
        yield from _read_deepmd(target, path)
        return
    from ase.io import iread

    try:
        found = iread(path, index=index, do_not_split_by_at_sign=True) if target.exists() else iread(path)
        yield from found
    except (OSError, MemoryError):
        raise
    except Exception as error:  # ASE's readers fail in their own ways
        raise ValueError(f"{path} cannot be read as structures ({type(error).__name__}: {error})") from error


def _read_deepmd(target: Path, text: str) -> Iterator[Atoms]:
    """System by system: no more than one is in memory."""
    from ..training.data.files import read_frames
    from ..training.data.frames import atoms_of_frame

    systems = sorted(str(file.parent) for file in target.rglob("type.raw")) if target.is_dir() else []
    for system in systems or [text]:
        for frame in read_frames(system):
            yield atoms_of_frame(frame)


def pick(structures: Iterable[Atoms], wanted: Sequence[int] | np.ndarray) -> dict[int, Atoms]:
    """The structures of these numbers, by number; one pass, and only they are kept.

    Raises
    ------
    ValueError
        If there are fewer structures than a number asks for.
    """
    left, found = {int(number) for number in wanted}, {}
    for number, atoms in enumerate(structures):
        if not left:
            break
        if number in left:
            found[number] = atoms
            left.discard(number)
    if left:
        raise ValueError(f"structures {sorted(left)[:10]} are missing: the data changed since it was described")
    return found
