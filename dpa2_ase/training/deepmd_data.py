"""The data part of DeePMD-kit's ``input.json``: systems, sizes of batches, probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..option_values import number, short, table
from .configuration import DataConfig
from .deepmd_model import only, real, whole
from .sampling import BatchSize, SystemSizes, parse_batch_size

_KNOWN = frozenset("systems batch_size auto_prob auto_prob_style sys_probs sys_weights rglob_patterns".split())


def data_of_section(data: Mapping[str, Any], path: str) -> DataConfig:
    """The data of one head: ``training_data`` and ``validation_data`` below `path`."""
    where, where_valid = f"{path}.training_data", f"{path}.validation_data"
    train = table(data.get("training_data"), where)
    only(train, _KNOWN | {"min_pair_dist"}, where)
    valid = table(data.get("validation_data") or {"systems": []}, where_valid)
    only(valid, _KNOWN | {"numb_btch", "numb_batch"}, where_valid)
    return DataConfig(
        train=_systems(train, where),
        valid=_systems(valid, where_valid),
        batch=_batch(train, where),
        valid_batch=_batch(valid, where_valid),
        valid_batches=whole(valid, "numb_btch", whole(valid, "numb_batch", 1, where_valid), where_valid),
        system_weights=_system_weights(train, where),
        pattern=_texts(train.get("rglob_patterns") or [], f"{where}.rglob_patterns"),
        valid_pattern=_texts(valid.get("rglob_patterns") or [], f"{where_valid}.rglob_patterns"),
        places=(where, where_valid),
        min_distance=real(train, "min_pair_dist", 0.0, where),
    )


def _systems(data: Mapping[str, Any], path: str) -> tuple[str, ...]:
    systems = data.get("systems")
    return _texts([systems] if isinstance(systems, str) else systems, f"{path}.systems")


def _texts(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{path} should be a list of paths, found {short(value)}")
    return tuple(value)


def _batch(data: Mapping[str, Any], path: str) -> BatchSize | SystemSizes:
    size, path = data.get("batch_size", "auto"), f"{path}.batch_size"
    if not isinstance(size, list):
        return parse_batch_size(size, path)
    for system, one in enumerate(size):
        if type(one) is not int or one < 1:
            raise ValueError(
                f"{path}[{system}] {short(one)} is not a number of frames; auto:N and the like stand for all systems, "
                "without a list"
            )
    return BatchSize("frames", size[0]) if len(set(size)) == 1 else SystemSizes(tuple(size))


def _system_weights(data: Mapping[str, Any], path: str) -> Any:
    weights = data.get("sys_probs", data.get("sys_weights"))
    if weights is not None:
        return tuple((n, n + 1, number(w, f"{path}.sys_probs[{n}]", least=0)) for n, w in enumerate(weights))
    style = str(data.get("auto_prob", data.get("auto_prob_style", "prob_sys_size")))
    kind, _, blocks = style.partition(";")
    if style == "prob_uniform":
        return "equal"
    if kind != "prob_sys_size":
        raise ValueError(
            f"{path}.auto_prob {short(style)} is not supported; supported: prob_uniform, prob_sys_size[;…]"
        )
    try:
        parts = [block.split(":") for block in blocks.split(";") if block]
        return tuple((int(a), int(b), float(weight)) for a, b, weight in parts) or "frames"
    except ValueError:
        raise ValueError(f"{path}.auto_prob {short(style)}: blocks are START:END:WEIGHT") from None
