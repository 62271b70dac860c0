"""The model part of DeePMD-kit's ``input.json``: heads, what they share, and what is refused by its path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ..option_values import integer, number, short, table
from .configuration import DataConfig, HeadConfig
from .heads import Sharing
from .loss import LossConfig
from .neighbor_counts import auto_lengths
from .options import joined, unknown_key

_NO_MATTER = frozenset(  # messages, files and speed
    "_comment comment disp_training time_training profiling profiling_file enable_profiler disp_avg stat_file "
    "stat_file_mode tensorboard_freq enable_compile enable_tf32 zero_stage neighbor_graph_method ema_ckpt_keep "
    "set_prefix".split()
)
_ADVICE = {  # what to do about options that DeePMD-kit documents and this package does not have
    "nvnmd": "training for that hardware needs DeePMD-kit; remove it",
    "training.mixed_precision": "remove it; precision of descriptor and fitting_net says how nets compute",
}
_MODEL = frozenset(
    "type type_map descriptor fitting_net data_stat_nbatch data_stat_protect data_bias_nsample use_srtab smin_alpha "
    "sw_rmin sw_rmax srtab_add_bias pair_exclude_types atom_exclude_types preset_out_bias type_embedding modifier "
    "compress spin finetune_head model_branch_alias info bridging_method bridging_r_inner bridging_r_outer".split()
)
# what an input means that does not say; files of models say everything
_DPA1 = {"rcut": 6.0, "rcut_smth": 0.5, "sel": "auto", "neuron": [10, 20, 40], "axis_neuron": 4}
_DEFAULTS: dict[Any, dict[str, Any]] = {
    "dpa1": _DPA1 | {"smooth_type_embedding": False},
    "se_atten": _DPA1 | {"smooth_type_embedding": False},
    "se_atten_v2": _DPA1 | {"set_davg_zero": False},
    "fitting_net": {"neuron": [120, 120, 120]},
}
_ALIASES = {"smooth_type_embedding": "smooth_type_embdding", "axis_neuron": "n_axis_neuron", "neuron": "n_neuron"}


def only(data: Mapping[str, Any], known: Any, path: str) -> None:
    """Refuse keys that are neither `known` nor without matter."""
    for key in data:
        if key not in known and key not in _NO_MATTER and not str(key).startswith("_comment"):
            advice = _ADVICE.get(joined(path, key))
            if advice is not None:
                raise ValueError(f"{joined(path, key)} is not supported: {advice}")
            raise ValueError(unknown_key(path, key, known).replace("not a known key", "not supported"))


def real(data: Mapping[str, Any], key: str, default: float, path: str) -> float:
    """A number of a section; the default where there is none or null."""
    return default if data.get(key) is None else number(data[key], joined(path, key))


def whole(data: Mapping[str, Any], key: str, default: int, path: str) -> int:
    """An integer of a section; the default where there is none or null."""
    return default if data.get(key) is None else integer(data[key], joined(path, key), most=10**12)


def refuse(data: Mapping[str, Any], path: str, **neutral: Any) -> None:
    """Refuse options that are set to anything but what does nothing."""
    for key, value in neutral.items():
        if data.get(key, value) not in (value, None):
            wanted = str(value).lower() if isinstance(value, bool) else value
            raise ValueError(
                f"{joined(path, key)} = {short(data[key])} is not supported; remove it or set it to {wanted}"
            )


def multi_task(model: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], tuple[Sharing, ...]]:
    """Sections of all heads with links to the shared dictionary resolved, and what is shared by them."""
    only(model, {"shared_dict", "model_dict", "finetune_head"}, "model")
    shared = table(model.get("shared_dict", {}), "model.shared_dict")
    sections: dict[str, dict[str, Any]] = {}
    links: dict[tuple[str, str], dict[str, int]] = {}
    for head, raw in table(model["model_dict"], "model.model_dict").items():
        path = f"model.model_dict.{head}"
        section = dict(table(raw, path))
        for part in ("type_map", "descriptor", "fitting_net"):
            if not isinstance(section.get(part), str):
                continue
            name, _, level = section[part].partition(":")
            if name not in shared:
                raise ValueError(
                    f"{path}.{part}: there is no {name!r} in model.shared_dict, which has {sorted(shared)}"
                )
            section[part] = copy.deepcopy(shared[name])
            if part != "type_map":
                links.setdefault((part, name), {})[head] = int(level or 0)
        sections[head] = section
    sharing = [Sharing(part, levels) for (part, _), levels in links.items() if len(levels) > 1]  # type: ignore[arg-type]  # one of two parts
    return sections, tuple(sharing)


def check_section(section: Mapping[str, Any], path: str) -> None:
    """Refuse what cannot be trained."""
    if section.get("type", "standard") not in ("standard", "ener") or section.get("use_srtab") is not None:
        key = "use_srtab" if section.get("use_srtab") is not None else "type"
        raise ValueError(
            f"{path}.{key} {short(section[key])}: sums with pair tables or other models cannot be trained, only a "
            "descriptor with a fitting net; train that alone, or use DeePMD-kit"
        )
    only(section, _MODEL, path)
    descriptor = table(section.get("descriptor"), f"{path}.descriptor")
    refuse(descriptor, f"{path}.descriptor", trainable_ln=True)
    if isinstance(descriptor.get("repformer"), Mapping):
        refuse(descriptor["repformer"], f"{path}.descriptor.repformer", trainable_ln=True)
    auto_lengths(section, path)
    fitting = table(section.get("fitting_net"), f"{path}.fitting_net")
    if fitting.get("type", "ener") != "ener":
        raise ValueError(f"{path}.fitting_net.type {short(fitting['type'])}: only energies can be trained so far")
    if any(fitting.get("layer_name") or ()):
        raise ValueError(
            f"{path}.fitting_net.layer_name: layers cannot be shared one by one; share a whole fitting net"
        )


def head_of_section(
    section: Mapping[str, Any], path: str, data: DataConfig, loss: LossConfig, probability: float = 1.0
) -> HeadConfig:
    """A head from its model section, without what is no part of the model."""
    model = _with_defaults(_without_comments(section))
    start, energies = model.pop("finetune_head", None), model.pop("preset_out_bias", None)
    aliases, info = model.pop("model_branch_alias", None) or [], model.pop("info", None) or {}
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise ValueError(f"{path}.model_branch_alias should be a list of names, found {short(aliases)}")
    return HeadConfig(
        model=model,
        data=data,
        loss=loss,
        probability=probability,
        finetune_head=None if start is None else str(start),
        atomic_energies=_preset(energies, list(model.get("type_map", ())), f"{path}.preset_out_bias"),
        aliases=tuple(aliases),
        info=dict(table(info, f"{path}.info")),
        section=path,
    )


def _with_defaults(section: dict[str, Any]) -> dict[str, Any]:
    """The section with DeePMD-kit's defaults of an input where they are not those of its classes."""
    parts = dict(section)
    kind = parts["descriptor"].get("type")
    for part, defaults in (("descriptor", _DEFAULTS.get(kind, {})), ("fitting_net", _DEFAULTS["fitting_net"])):
        given = parts[part]
        missing = {k: v for k, v in defaults.items() if k not in given and _ALIASES.get(k) not in given}
        parts[part] = {**given, **missing}
    return parts


def _without_comments(section: Any) -> Any:
    if isinstance(section, Mapping):
        return {key: _without_comments(v) for key, v in section.items() if not str(key).startswith("_comment")}
    return section


def _preset(value: Any, names: list[str], path: str) -> dict[str, float]:
    """Energies of types that are given: ``{"energy": [null, -13.6]}``, one entry per type."""
    if value is None:
        return {}
    energies = table(value, path).get("energy")
    if set(value) != {"energy"} or not isinstance(energies, list) or len(energies) != len(names):
        raise ValueError(f"{path} should be {{energy: [...]}} with a number or null for each of {names}")
    return {name: float(energy) for name, energy in zip(names, energies, strict=True) if energy is not None}


def frozen_parts(sections: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Parts with ``trainable: false``, which must be the same in all heads.

    A list with a value of every layer of a fitting net makes all of it trainable, or none, as in DeePMD-kit's PyTorch.
    """
    frozen = []
    for part, name in (("descriptor", "descriptor"), ("fitting_net", "fitting")):
        values = [section[part].get("trainable", True) for section in sections.values()]
        if part == "fitting_net":
            values = [all(v) if isinstance(v, list) and all(isinstance(x, bool) for x in v) else v for v in values]
        if any(value is not values[0] for value in values) or not isinstance(values[0], bool):
            raise ValueError(f"{part}.trainable should be true or false, the same in all heads, found {values}")
        if not values[0]:
            frozen.append(name)
    return tuple(frozen)
