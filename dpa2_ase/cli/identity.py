"""What a run is of: structures, settings and models, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from .journal import structure_hash

Identity = dict[str, Any]


def identity_of(
    command: str,
    frames: Sequence[tuple[str, Atoms]],
    settings: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    *,
    with_labels: bool = False,
) -> Identity:
    """All that the results of a run depend on, as plain data; names of files do not count."""
    return {
        "command": command,
        "structures": [_content(atoms, with_labels=with_labels) for _, atoms in frames],
        "settings": json.loads(json.dumps(dict(settings), default=_plain)),
        "models": [dict(model) for model in models],
    }


def hash_of(identity: Identity) -> str:
    """SHA-256 of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def difference(there: Identity, here: Identity) -> str:
    """What differs between two identities, in a few words; empty if nothing does."""
    found = []
    if there.get("command") != here["command"]:
        found.append(f"command {there.get('command')} there, {here['command']} here")
    if there.get("structures") != here["structures"]:
        counts = len(there.get("structures", [])), len(here["structures"])
        found.append(
            "other structures" if counts[0] == counts[1] else f"{counts[0]} structures there, {counts[1]} here"
        )
    if there.get("models") != here["models"]:
        found.append(_models(there.get("models", []), here["models"]))
    old, new = there.get("settings", {}), here["settings"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            found.append(f"{name} {_value(old.get(name))} there, {_value(new.get(name))} here")
    return "; ".join(found)


def _models(there: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> str:
    if len(there) != len(here):
        return f"{len(there)} models there, {len(here)} here"
    for old, new in zip(there, here, strict=True):
        for name in new:
            if old.get(name) != new[name]:
                values = (str(old.get(name)), str(new[name]))
                shown = [value[:12] for value in values] if name == "sha256" else values
                return f"model {name} {shown[0]} there, {shown[1]} here"
    return "other models"


def _value(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _content(atoms: Atoms, *, with_labels: bool) -> str:
    """Hash of a structure with its masses, velocities and constraints, perhaps its labels."""
    content = hashlib.sha256(structure_hash(atoms).encode())
    arrays = [atoms.get_masses(), atoms.get_momenta()]
    results = getattr(atoms.calc, "results", {}) if with_labels else {}
    for name in ("energy", "forces", "stress"):
        if results.get(name) is not None:
            arrays.append(np.asarray(results[name], dtype=float))
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    constraints = [constraint.todict() for constraint in atoms.constraints]
    content.update(json.dumps(constraints, default=_plain).encode())
    return content.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple | set) else str(value)
