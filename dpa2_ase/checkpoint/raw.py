"""What a file holds before any of its meaning is looked at, and how each container gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..config import UnsupportedModelError
from .archive import StoredTensor, Stub, TorchArchive
from .errors import CheckpointError


@dataclass(frozen=True)
class RawModel:
    """One head as found: its section of the configuration and its tensors by DeePMD-kit's names."""

    params: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor | Tensor]


@dataclass(frozen=True)
class RawFile:
    """All heads of a file, in the file's order."""

    format: str
    heads: dict[str, RawModel]
    writer: str | None = None
    training: dict[str, Any] = field(default_factory=dict)


def read_training_checkpoint(archive: TorchArchive) -> RawFile:
    """Heads of a ``.pt`` file: a state dict whose ``_extra_state`` is the configuration."""
    content = archive.load()
    if not isinstance(content, Mapping):
        raise CheckpointError(f"expected a training checkpoint, found a saved {type(content).__name__}")
    state = content.get("model", content)
    extra = state.get("_extra_state") if isinstance(state, Mapping) else None
    if not isinstance(extra, Mapping) or not isinstance(extra.get("model_params"), Mapping):
        raise CheckpointError("no model configuration in it (_extra_state.model_params): not a DeePMD-kit checkpoint")
    params = extra["model_params"]
    sections = params.get("model_dict", {"Default": params})
    if not isinstance(sections, Mapping) or not all(
        isinstance(head, str) and isinstance(section, Mapping) for head, section in sections.items()
    ):
        raise CheckpointError("model_dict should be a table of heads with their configurations")
    tensors: dict[str, dict[str, StoredTensor | Tensor]] = {head: {} for head in sections}
    most_parts = 1 + max((head.count(".") for head in sections), default=0)
    for key, value in state.items():
        owner = _owner(key, sections, most_parts) if isinstance(value, StoredTensor) else None
        if owner is not None:
            tensors[owner][key.removeprefix(f"model.{owner}.")] = value
    heads = {head: RawModel(plain(section), tensors[head]) for head, section in sections.items()}
    return RawFile("DeePMD-kit training checkpoint (.pt)", heads, training=dict(extra.get("train_infos") or {}))


def _owner(key: Any, heads: Mapping[str, Any], most_parts: int) -> str | None:
    """The head a tensor belongs to; names may contain dots or begin with another's: the longest that fits."""
    if not isinstance(key, str) or not key.startswith("model.") or len(key) > MAX_NAME:
        return None
    parts = key.split(".")[1:]
    names = (".".join(parts[:n]) for n in range(min(len(parts) - 1, most_parts), 0, -1))
    return next((name for name in names if name in heads), None)


MAX_NAME = 1_000  # characters
MAX_ENTRIES = 200_000
MAX_DEPTH = 32


def plain(value: Any) -> Any:
    """A copy of a configuration as nested tables and lists that share nothing, of bounded size and depth."""
    left = MAX_ENTRIES

    def copied(part: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > MAX_DEPTH or left < 0:
            raise CheckpointError("its configuration is nested deeper, or has more entries, than any model needs")
        if isinstance(part, Mapping):
            return {key: copied(item, depth + 1) for key, item in part.items()}
        return [copied(item, depth + 1) for item in part] if isinstance(part, list | tuple) else part

    return copied(value, 0)


def read_torchscript(archive: TorchArchive) -> RawFile:
    """The head of a frozen ``.pth`` file: a tree of scripted modules, read as data."""
    modifiers = [n for n in archive.names if n.endswith("extra/data_modifier.pth") and archive.names[n].file_size]
    if modifiers:
        raise UnsupportedModelError("the model needs a data modifier (an extra additive model), which is not supported")
    root = archive.load()
    if not isinstance(root, Stub):
        raise CheckpointError("the archive holds no module")
    if root.name == "SpinEnergyModel":
        raise UnsupportedModelError("DeepSpin models are not supported")
    script = root.state.get("model_def_script")
    if not script or not isinstance(script, str):
        raise CheckpointError(
            f"no configuration in it (model_def_script of {root.name}): not a model frozen by DeePMD-kit, or of a kind "
            "whose frozen form lacks it; use the .pt or .dp file of the model"
        )
    heads = {"Default": RawModel(_section(script), _collect(root))}
    return RawFile("DeePMD-kit frozen model (.pth, TorchScript)", heads)


def _section(script: str) -> Mapping[str, Any]:
    section = plain(json.loads(script))
    if not isinstance(section, Mapping):
        raise CheckpointError("model_def_script should be a table of options")
    return section


def _collect(root: Stub) -> dict[str, StoredTensor | Tensor]:
    """All tensors below a module by their dotted names."""
    tensors: dict[str, StoredTensor | Tensor] = {}
    modules = [("", root)]
    left = MAX_ENTRIES
    while modules:
        prefix, module = modules.pop()
        left -= 1 + len(module.state)
        if left < 0 or len(prefix) > MAX_NAME:
            raise CheckpointError("its tree of modules is deeper or larger than any model's")
        for name, value in module.state.items():
            if isinstance(value, StoredTensor):
                tensors[prefix + name] = value
            elif isinstance(value, Stub):
                modules.append((f"{prefix}{name}.", value))
    return tensors
