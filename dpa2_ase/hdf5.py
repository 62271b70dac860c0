"""The only place that imports h5py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def hdf5_module() -> Any:
    """The module h5py.

    Raises
    ------
    ModuleNotFoundError
        With what to install.
    """
    try:
        import h5py
    except ImportError as error:
        raise ModuleNotFoundError("HDF5 files need h5py: pip install 'dpa2-ase[hdf5]'") from error
    return h5py


def open_hdf5(path: Path) -> Any:
    """An HDF5 file (``h5py.File``) to read."""
    return hdf5_module().File(path)


@contextmanager
def new_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file to fill, which is put together in memory: HDF5 cannot let go of one that finds the disk full."""
    with hdf5_module().File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    path.write_bytes(content)
