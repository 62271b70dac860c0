"""The only place that imports h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal


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


def open_hdf5(path: Path, mode: Literal["r", "w", "a"] = "r") -> Any:
    """An open HDF5 file (``h5py.File``)."""
    return hdf5_module().File(path, mode)
