"""Every model file this package reads, behind four functions.

`read_checkpoint` gives one head as configuration and tensors, `heads` says what a file offers, `load_potential` makes
the model, `file_sha256` says which file it was. Nothing in a file is ever executed.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import AnyModelConfig, DPA2Config, ModelConfig, UnsupportedModelError
from ..model import Potential
from ..parsing import parse_model
from .archive import StoredTensor, TorchArchive
from .documents import read_exported, read_hdf5, read_yaml
from .errors import CheckpointError
from .names import our_state
from .raw import RawFile, RawModel, read_torchscript, read_training_checkpoint
from .upgrades import upgrade

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "HeadInfo",
    "file_sha256",
    "heads",
    "load_potential",
    "read_checkpoint",
    "summary",
]

MOST_SHOWN = 20  # elements of a head in a message


@dataclass(frozen=True)
class HeadInfo:
    """One head of a model file."""

    name: str
    elements: tuple[str, ...]  # the type map: what the head accepts
    observed: tuple[str, ...] | None  # the elements it was trained on, where the file says so
    aliases: tuple[str, ...]
    kind: str  # ener, dos, property, dipole, polar


@dataclass(frozen=True)
class Checkpoint:
    """One head of a model file, read."""

    config: AnyModelConfig
    state: dict[str, Tensor]
    head: str
    heads: dict[str, HeadInfo]
    source: Path
    format: str
    writer: str | None = None
    upgrades: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)


def heads(path: str | Path) -> dict[str, HeadInfo]:
    """The heads of a model file by name; a single-task file has the head ``Default``."""
    return _head_infos(_read_raw(Path(path)))


def read_checkpoint(path: str | Path, head: str | None = None) -> Checkpoint:
    """Read one head of a model file.

    Parameters
    ----------
    path
        ``.pt``, ``.pth``, ``.dp``, ``.hdf5``, ``.yaml``, ``.pte`` or ``.pt2``; recognized by content.
    head
        Name or alias of the head; a file with a single head needs none.

    Raises
    ------
    FileNotFoundError
        No such file.
    CheckpointError
        The file is not a model, or damaged.
    UnsupportedModelError
        The model has a part that is not implemented.
    ValueError
        `head` is missing or unknown; the message lists the heads.
    """
    path = Path(path)
    raw = _read_raw(path)
    infos = _head_infos(raw)
    name = _choose(infos, head, path)
    with _naming(path):
        section, applied = upgrade(raw.heads[name])
        config = _config(section.params)
        state = our_state(_read_tensors(section, path), config.type_map)
    return Checkpoint(config, state, name, infos, path, raw.format, raw.writer, applied, raw.training)


def load_potential(source: str | Path | Checkpoint, head: str | None = None) -> Potential:
    """The model of one head of a file, ready to evaluate."""
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source, head)
    try:
        return Potential(checkpoint.config, checkpoint.state).eval()
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.source}: {error}") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make every failure to read `path` one error that names the file; the only place where this is done."""
    try:
        yield
    except (CheckpointError, UnsupportedModelError) as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:  # a damaged or hostile file can fail in any way inside the parsers
        reason = f"the entry {error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.replace(str(path), "file").split())[:300]
        raise CheckpointError(
            f"{path} cannot be read as a model ({reason}); if it should be one, copy or download it again"
        ) from error


def _config(params: Mapping[str, Any]) -> AnyModelConfig:
    try:
        return parse_model(params)
    except UnsupportedModelError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from None


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:  # size and time are part of the cache's key
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    path = Path(path).resolve()
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def _read_raw(path: Path) -> RawFile:
    """Recognize the container by its first bytes and read it."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder; give the model file in it" if stat.S_ISDIR(mode) else "not a regular file"
        raise CheckpointError(f"{path} is {kind}")
    with path.open("rb") as stream:
        start = stream.read(8)
    with _naming(path):
        if not start:
            raise CheckpointError("the file is empty; copy or download it again")
        if start.startswith(b"PK"):
            return _read_zip(path)
        if start == b"\x89HDF\r\n\x1a\n":
            return read_hdf5(path)
        if start[0] >= 0x80 or b"\0" in start:
            raise CheckpointError(
                "it is none of .pt, .pth, .dp, .yaml, .pte, .pt2, or it is damaged; copy or download it again"
            )
        return read_yaml(path)


def _read_zip(path: Path) -> RawFile:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("extra/model.json") for name in archive.namelist()):
            return read_exported(archive)
        opened = TorchArchive(archive)
        raw = read_torchscript(opened) if opened.is_torchscript else read_training_checkpoint(opened)
    if not raw.heads:
        raise CheckpointError("the file lists no heads")
    return raw


def _read_tensors(section: RawModel, path: Path) -> dict[str, Tensor]:
    stored = {name: t for name, t in section.tensors.items() if isinstance(t, StoredTensor)}
    read = {name: t for name, t in section.tensors.items() if isinstance(t, Tensor)}
    if stored:
        with zipfile.ZipFile(path) as archive:
            read |= TorchArchive(archive).tensors(stored)
    return read


def _head_infos(raw: RawFile) -> dict[str, HeadInfo]:
    infos = {}
    for name, model in raw.heads.items():
        params = _table(model.params)
        infos[name] = HeadInfo(
            name=name,
            elements=_strings(params.get("type_map")),
            observed=_strings(_table(params.get("info")).get("observed_type")) or None,
            aliases=_strings(params.get("model_branch_alias")),
            kind=str(_table(params.get("fitting_net")).get("type", "ener")),
        )
    return infos


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: Any) -> tuple[str, ...]:
    entries = [value] if isinstance(value, str) else value
    return tuple(entry for entry in entries if isinstance(entry, str)) if isinstance(entries, list) else ()


def _choose(infos: Mapping[str, HeadInfo], head: str | None, path: Path) -> str:
    if head is None:
        if len(infos) == 1:
            return next(iter(infos))
        raise ValueError(f"{path} has several heads; choose one with head=...\n{describe_heads(infos)}")
    if head in infos:
        return head
    known = [(alias, name) for name, info in infos.items() for alias in (*info.aliases, name)]
    matches = sorted({name for alias, name in known if alias == head})
    matches = matches or sorted({name for alias, name in known if alias.lower() == head.lower()})
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"{path}: {head!r} may be any of {', '.join(matches)}\n{describe_heads(infos)}")
    near = difflib.get_close_matches(head, [alias for alias, _ in known], n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{path} has no head {head!r}{hint}\n{describe_heads(infos)}")


def describe_heads(infos: Mapping[str, HeadInfo]) -> str:
    """One line for each head: name and elements, or their number where there are too many to read."""
    lines = []
    for info in infos.values():
        elements = info.observed or info.elements
        shown = " ".join(elements) if len(elements) <= MOST_SHOWN else f"{len(elements)} elements"
        lines.append(f"  {info.name}: {shown}" + ("" if info.observed else " (accepted)"))
    return "\n".join(lines)


def summary(path: str | Path) -> dict[str, Any]:
    """Facts about a model file that fit on a page and into JSON: format, writer, sha256, and its heads.

    Heads that this package cannot evaluate are listed with the reason.
    """
    path = Path(path)
    raw = _read_raw(path)
    facts: dict[str, Any] = {
        "file": str(path),
        "format": raw.format,
        "writer": raw.writer or "not recorded",
        "sha256": file_sha256(path),
        "size": f"{path.stat().st_size / 1024**2:.2f} MiB",
    }
    if "step" in raw.training:
        facts["training_step"] = raw.training["step"]
    facts["heads"] = {
        name: {"kind": info.kind, "elements": info.elements, "observed": info.observed, "aliases": info.aliases}
        | _head_facts(raw.heads[name])
        for name, info in _head_infos(raw).items()
    }
    return facts


def _head_facts(raw: RawModel) -> dict[str, Any]:
    try:
        section, applied = upgrade(raw)
        config = parse_model(section.params)
    except ValueError as error:
        return {"unsupported": str(error)}
    learned = [t for name, t in section.tensors.items() if name.endswith(_LEARNED)]
    parts = [config] if isinstance(config, ModelConfig) else list(getattr(config, "models", ()))
    descriptors = [part.descriptor for part in parts if isinstance(part, ModelConfig)]
    return {
        "descriptor": " + ".join(type(d).__name__.removesuffix("Config") for d in descriptors) or "pair table",
        "cutoffs": _cutoffs(config),
        "precision": ", ".join(sorted({d.precision for d in descriptors})) or "float64",
        "parameters": sum(math.prod(t.shape) for t in learned),
        "upgrades": applied,
    }


_LEARNED = (".matrix", ".bias", ".idt", "_raw", *(f"_residual.{index}" for index in range(5)))


def _cutoffs(config: AnyModelConfig) -> dict[str, float]:
    descriptor = getattr(config, "descriptor", None)
    if not isinstance(descriptor, DPA2Config):
        return {"model": config.rcut}
    cutoffs = {"repinit": descriptor.repinit.rcut, "repformer": descriptor.repformer.rcut}
    return cutoffs | ({"three-body": descriptor.three_body.rcut} if descriptor.three_body else {})
