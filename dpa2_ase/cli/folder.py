"""The folder of a run: whose it is, what is in it, and how it is left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .identity import Identity, difference, hash_of

STATE, JOURNAL, REPORT = "run.json", "journal.bin", "report.html"

State = dict[str, Any]


class RunFolder:
    """A folder that belongs to one run, of one process at a time.

    Parameters
    ----------
    path
        Made if it is not there.

    Attributes
    ----------
    is_new
        Whether the run begins here, rather than goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_new = self._was_made = False
        self._before: set[Path] = set()  # what was in the folder
        self._files_before: list[str] = []  # what of that is of this run
        self._lock: int | None = None

    def stored(self, identity: Identity, *, overwrite: bool) -> State | None:
        """The state of the run in the folder, once it is known that this one may use it.

        Raises
        ------
        ValueError
            If the folder holds anything else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give a folder for the results with --out")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return None
        stored = read_state(self.path)
        if stored is None:
            raise ValueError(f"{self.path} is not empty and holds no run of dpa2; choose another folder with --out")
        if overwrite:
            self._take()
            self._remove([STATE, JOURNAL, REPORT, *stored.get("files", [])])
            return None
        if stored["hash"] == hash_of(identity):
            return stored
        what = difference(stored.get("identity", {}), identity) or "other versions of its settings"
        raise ValueError(
            f"{self.path} holds another run ({what}); choose another folder with --out, or begin anew with --overwrite"
        )

    def begin(self, stored: State | None) -> None:
        """Make the folder if needed and keep other processes out."""
        if not self.path.exists():
            self._make()
        self._take()
        self.is_new, self._before = stored is None, set(self.path.iterdir())
        self._files_before = (stored or {}).get("files", [])

    def _make(self) -> None:
        parent = self.path.resolve().parent
        if not parent.is_dir():
            raise FileNotFoundError(f"no folder {parent} to make {self.path.name} in")
        try:
            self.path.mkdir()
        except OSError as error:
            raise OSError(f"cannot make the folder {self.path}: {error.strerror}") from error
        self._was_made = True

    def _take(self) -> None:
        """The lock ends with this process, however it ends."""
        if self._lock is not None:
            return
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise OSError(f"cannot write to folder {self.path}: Permission denied")
        try:
            import fcntl
        except ModuleNotFoundError:  # not a POSIX system
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another dpa2 is at work in {self.path}") from error

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def files(self) -> list[str]:
        """Files of this run, those of earlier processes included; the state is not among them."""
        mine = [path for path in sorted(self.path.rglob("*")) if path.is_file() and path not in self._before]
        names = [path.relative_to(self.path).as_posix() for path in mine]
        return [*self._files_before, *(name for name in names if name not in {*self._files_before, STATE})]

    def clear(self) -> None:
        """Leave the folder as it was before the run began."""
        if not self.path.is_dir() or not (self.is_new or self._was_made):
            return
        for path in set(self.path.iterdir()) - self._before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._was_made:
            self.path.rmdir()

    def _remove(self, names: Sequence[str]) -> None:
        """Delete files of a run, and folders that become empty by that."""
        for name in names:
            path = self.path / name
            if not path.resolve().is_relative_to(self.path.resolve()):
                continue  # somebody edited the list
            path.unlink(missing_ok=True)
            if path.parent != self.path and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state in one step."""
        from ..workflows.files import write_json

        write_json(self.path / STATE, dict(state))


def read_state(folder: Path) -> State | None:
    """What the state of a folder says, if it is one of ours."""
    try:
        stored = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and {"format", "hash", "state"} <= stored.keys() else None
