"""Files that are whole or absent: written beside their place and moved there."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io import write


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Replace the file at `path` by `content` in one step; its folder is made if needed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's files are private
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def write_text(path: str | Path, text: str) -> Path:
    """Replace the file at `path` by `text` in one step."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, data: Any) -> Path:
    """Replace the file at `path` by `data` as indented JSON; numbers that are not finite become null."""
    return write_text(path, json.dumps(_finite(data), indent=1, allow_nan=False) + "\n")


def write_csv(path: str | Path, columns: dict[str, Sequence[Any]]) -> Path:
    """Replace the file at `path` by a table with the columns' names in its first line."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return write_text(path, "\n".join(lines) + "\n")


def write_structures(path: str | Path, structures: Atoms | Sequence[Atoms]) -> Path:
    """Replace the file at `path` by one or several structures in extended XYZ."""
    buffer = io.StringIO()
    write(
        buffer,
        [_own_results(atoms) for atoms in ([structures] if isinstance(structures, Atoms) else structures)],
        format="extxyz",
    )
    return write_text(path, buffer.getvalue())


def _own_results(atoms: Atoms) -> Atoms:
    """Leave out a calculator that has gone on to another structure: ASE would write the results of that one."""
    check = getattr(atoms.calc, "check_state", None)
    return atoms.copy() if check is not None and check(atoms) else atoms


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not -float("inf") < data < float("inf"):
        return None
    return data
