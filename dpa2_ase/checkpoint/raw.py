"""What a file holds before any of its meaning is looked at, and how each container gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

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
    tensors: dict[str, dict[str, StoredTensor | Tensor]] = {head: {} for head in sections}
    # a head's name may contain dots or begin with another's: the longest that fits owns the tensor
    by_length = sorted(sections, key=len, reverse=True)
    for key, value in state.items():
        if isinstance(value, StoredTensor):
            owner = next((head for head in by_length if key.startswith(f"model.{head}.")), None)
            if owner is not None:
                tensors[owner][key.removeprefix(f"model.{owner}.")] = value
    heads = {head: RawModel(section, tensors[head]) for head, section in sections.items()}
    return RawFile("DeePMD-kit training checkpoint (.pt)", heads, training=dict(extra.get("train_infos") or {}))


def read_torchscript(archive: TorchArchive) -> RawFile:
    """The head of a frozen ``.pth`` file: a tree of scripted modules, read as data."""
    modifiers = [n for n in archive.names if n.endswith("extra/data_modifier.pth") and archive.names[n].file_size]
    if modifiers:
        raise CheckpointError("the model needs a data modifier (an extra additive model), which is not supported")
    root = archive.load()
    if not isinstance(root, Stub):
        raise CheckpointError("the archive holds no module")
    if root.name == "SpinEnergyModel":
        raise CheckpointError("DeepSpin models are not supported")
    script = root.state.get("model_def_script")
    if not script or not isinstance(script, str):
        raise CheckpointError(
            f"no configuration in it (model_def_script of {root.name}): not a model frozen by DeePMD-kit, or of a kind "
            "whose frozen form lacks it; use the .pt or .dp file of the model"
        )
    tensors: dict[str, StoredTensor | Tensor] = {}
    _collect(root, "", tensors)
    params = json.loads(script)
    return RawFile("DeePMD-kit frozen model (.pth, TorchScript)", {"Default": RawModel(params, tensors)})


def _collect(stub: Stub, prefix: str, tensors: dict[str, StoredTensor | Tensor]) -> None:
    for name, value in stub.state.items():
        if isinstance(value, StoredTensor):
            tensors[prefix + name] = value
        elif isinstance(value, Stub):
            _collect(value, f"{prefix}{name}.", tensors)
