"""Where the files of a DeePMD system are: in a folder, or in a group of an HDF5 file with the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Store(Protocol):
    """A place with named arrays, texts and parts of its own kind."""

    name: str

    def names(self) -> list[str]:
        """Names of what it holds."""

    def words(self, name: str) -> list[str]:
        """Words of a text file; empty if there is none."""

    def array(self, name: str) -> np.ndarray:
        """One array."""

    def part(self, name: str) -> Store:
        """The store below this one; made if it does not exist and this one is written."""

    def put_words(self, name: str, words: list[str]) -> None:
        """Write a text file with one word per line."""

    def put_array(self, name: str, values: np.ndarray) -> None:
        """Write an array."""


class Folder:
    """A store on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def names(self) -> list[str]:
        """Names of what it holds."""
        return sorted(entry.name for entry in self.path.iterdir())

    def words(self, name: str) -> list[str]:
        """Words of a text file; empty if there is none."""
        path = self.path / name
        return path.read_text().split() if path.is_file() else []

    def array(self, name: str) -> np.ndarray:
        """One array; refuses pickled objects."""
        try:
            return np.load(self.path / name, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{self.path / name} cannot be read as an array: {error}") from error

    def part(self, name: str) -> Folder:
        """The folder below; made where a file is put into it."""
        return Folder(self.path / name)

    def put_words(self, name: str, words: list[str]) -> None:
        """Write a text file with one word per line."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text("".join(f"{word}\n" for word in words))

    def put_array(self, name: str, values: np.ndarray) -> None:
        """Write an array."""
        self.path.mkdir(parents=True, exist_ok=True)
        np.save(self.path / name, values, allow_pickle=False)


class HDF5Group:
    """A store in an open HDF5 file."""

    def __init__(self, group: Any, name: str) -> None:
        self.group, self.name = group, name

    def names(self) -> list[str]:
        """Names of what it holds."""
        return sorted(self.group)

    def words(self, name: str) -> list[str]:
        """Words of a text; empty if there is none."""
        if name not in self.group:
            return []
        values = np.ravel(self.group[name][()])
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values]

    def array(self, name: str) -> np.ndarray:
        """One array."""
        values = np.asarray(self.group[name][()])
        return np.char.decode(values.astype(bytes), "utf-8") if values.dtype.kind in "OS" else values

    def part(self, name: str) -> HDF5Group:
        """The group below."""
        group = self.group[name] if name in self.group else self.group.create_group(name)
        return HDF5Group(group, f"{self.name}/{name}")

    def put_words(self, name: str, words: list[str]) -> None:
        """Write integers or a list of strings."""
        if all(word.lstrip("-").isdigit() for word in words):
            self.group.create_dataset(name, data=np.array([int(word) for word in words], dtype=np.int64))
        else:
            self.group.create_dataset(name, data=np.array([word.encode() for word in words], dtype=bytes))

    def put_array(self, name: str, values: np.ndarray) -> None:
        """Write an array; texts as UTF-8 bytes."""
        self.group.create_dataset(name, data=np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values)
