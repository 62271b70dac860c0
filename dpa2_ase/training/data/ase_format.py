"""ASE's io format ``deepmd-npy``: ``ase.io.read(folder, index=":", format="deepmd-npy")``.

ASE imports this module while it imports its own formats, so nothing here may need them before a function is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase.utils.plugins import ExternalIOFormat

if TYPE_CHECKING:
    from ase import Atoms

deepmd_npy = ExternalIOFormat(desc="DeePMD-kit system (folder)", code="+S", module=__name__)


def read_deepmd_npy(filename: str, index: slice, **options: Any) -> Iterator[Atoms]:
    """Frames of a system, or of all systems below a folder; `options` as in `read_frames`."""
    from .files import read_frames
    from .frames import atoms_of_frame

    for frame in read_frames(filename, **options)[index]:
        yield atoms_of_frame(frame)


def write_deepmd_npy(filename: str, images: Sequence[Atoms], **options: Any) -> None:
    """Write a new folder; `options` as in `write_frames`."""
    from .files import write_frames
    from .frames import frame_of_atoms

    options.pop("append", None)
    write_frames(Path(filename), [frame_of_atoms(atoms) for atoms in images], **{"format": "deepmd-npy"} | options)
