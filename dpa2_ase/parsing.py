"""Read the model section of a DeePMD-kit file into the classes of `dpa2_ase.config`.

A key that changes numbers and is not implemented is refused with its full path; keys that only matter in training are
listed in ``TRAINING_KEYS`` and passed over.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from . import option_values as values
from .config import (
    AnyModelConfig,
    DPA1Config,
    DPA2Config,
    FittingConfig,
    LinearConfig,
    ModelConfig,
    PairTableConfig,
    RepformerConfig,
    RepinitConfig,
    UnsupportedModelError,
    ZBLConfig,
)
from .option_values import FITTINGS, short

TRAINING_KEYS = frozenset(
    "trainable trainable_ln seed set_davg_zero update_residual update_residual_init rcond layer_name "
    "bias_method var_name tot_ener_zero mixed_types data_stat_nbatch data_stat_protect data_bias_nsample "
    "preset_out_bias srtab_add_bias finetune_head model_branch_alias info ntypes type_map dim_descrpt constant_matrix "
    "bridging_method bridging_r_inner bridging_r_outer comment _comment compress".split()
)
# what a model section may say; smin_alpha is never used in the training, whose value is always 0.1 Å
MODEL_KEYS = frozenset(
    "type descriptor fitting_net pair_exclude_types atom_exclude_types models weights rcut sel tab_file use_srtab "
    "sw_rmin sw_rmax smin_alpha modifier spin type_embedding shared_dict hessian_mode resuming".split()
)
_DPA1_ALIASES = {"smooth_type_embdding": "smooth_type_embedding", "n_axis_neuron": "axis_neuron"}
_DPA2_ALIASES = {"repformer_add_type_ebd_to_seq": "add_tebd_to_repinit_out"}
_BLOCK_ALIASES = {"n_axis_neuron": "axis_neuron"}
_FIT_ALIASES = {"n_neuron": "neuron", "embedding_net_resnet_dt": "resnet_dt", "dim_out": "", "embedding_width": ""}
_ALPHA_KEYS = ("repinit_", "repformer_")
_TOO_DEEP = 4  # linear models within linear models
T = TypeVar("T")


def parse_model(data: Mapping[str, Any], path: str = "model") -> AnyModelConfig:
    """Read a model section of DeePMD-kit (``model_params`` of one head).

    Raises
    ------
    UnsupportedModelError
        For a model, descriptor, fitting or option that is not implemented; the message names it by its path.
    ValueError
        For unknown keys, wrong types and missing entries.
    """
    data = values.table(data, path)
    if "model_dict" in data:
        heads = sorted(values.table(data["model_dict"], f"{path}.model_dict"))
        raise ValueError(f"{path} is a multi-task configuration; choose one of its heads {heads}")
    if data.get("spin"):
        raise UnsupportedModelError(f"{path}.spin: DeepSpin models are not supported")
    _refuse_modifiers(data, path)
    _refuse_misspelled(data, path)
    kind = data.get("type", "standard")
    if data.get("use_srtab") or kind == "zbl":
        return _parse_zbl(data, path)
    if kind == "linear_ener":
        return _parse_linear(data, path)
    if kind == "pairtab":
        return _parse_pair_table(data, path)
    if kind not in ("standard", *FITTINGS):
        raise UnsupportedModelError(
            f"{path}.type {short(kind)} is not supported; supported: standard, linear_ener, pairtab, zbl"
        )
    return _parse_standard(data, path)


def _refuse_modifiers(data: Mapping[str, Any], path: str) -> None:
    if data.get("modifier"):
        raise UnsupportedModelError(f"{path}.modifier: data modifiers are not supported")
    bridging = data.get("bridging_method")
    if bridging is not None and not (isinstance(bridging, str) and bridging.lower() in ("none", "")):
        raise UnsupportedModelError(f"{path}.bridging_method {short(bridging)} is not supported")


def _refuse_misspelled(data: Mapping[str, Any], path: str) -> None:
    """Every version of the training code leaves other notes at this level: only near misses are errors."""
    for key in data:
        if key not in MODEL_KEYS and key not in TRAINING_KEYS and not key.startswith("@"):
            near = difflib.get_close_matches(key[:100], MODEL_KEYS, n=1, cutoff=0.8)
            if near:
                raise UnsupportedModelError(f"{path}.{key[:100]} is not a known key; did you mean {near[0]}?")


def _parse_standard(data: Mapping[str, Any], path: str) -> ModelConfig:
    type_map = values.type_map(data, path)
    config = ModelConfig(
        type_map=type_map,
        descriptor=_parse_descriptor(values.table(data.get("descriptor"), f"{path}.descriptor"), f"{path}.descriptor"),
        fitting_net=_parse_fitting(values.table(data.get("fitting_net"), f"{path}.fitting_net"), f"{path}.fitting_net"),
        pair_exclude_types=values.type_pairs(data.get("pair_exclude_types"), f"{path}.pair_exclude_types"),
        atom_exclude_types=values.types(data.get("atom_exclude_types"), f"{path}.atom_exclude_types"),
    )
    _check_types_in_range(config, path)
    _check_type_values(config.fitting_net, len(type_map), f"{path}.fitting_net")
    not_silenced = set(values.types(data["fitting_net"].get("exclude_types"), f"{path}.fitting_net.exclude_types"))
    if not_silenced - set(config.atom_exclude_types):
        raise UnsupportedModelError(
            f"{path}.fitting_net.exclude_types {sorted(not_silenced)} is supported only as part of "
            f"{path}.atom_exclude_types"
        )
    return config


def _parse_zbl(data: Mapping[str, Any], path: str) -> ZBLConfig:
    inner = {
        k: v for k, v in data.items() if k not in ("use_srtab", "type", "pair_exclude_types", "atom_exclude_types")
    }
    deep = _parse_standard(inner, path)
    if deep.kind != "ener":
        raise UnsupportedModelError(f"{path}.fitting_net.type {deep.kind!r} cannot be joined to a pair table")
    table = PairTableConfig(deep.type_map, deep.rcut, deep.nsel)
    sw_rmin, sw_rmax = (values.number(data.get(key), f"{path}.{key}") for key in ("sw_rmin", "sw_rmax"))
    if not 0 <= sw_rmin < sw_rmax:
        raise ValueError(f"{path} needs 0 <= sw_rmin < sw_rmax (Å), found sw_rmin={sw_rmin}, sw_rmax={sw_rmax}")
    config = ZBLConfig(
        type_map=deep.type_map,
        models=(deep, table),
        sw_rmin=sw_rmin,
        sw_rmax=sw_rmax,
        pair_exclude_types=values.type_pairs(data.get("pair_exclude_types"), f"{path}.pair_exclude_types"),
        atom_exclude_types=values.types(data.get("atom_exclude_types"), f"{path}.atom_exclude_types"),
    )
    _check_types_in_range(config, path)
    return config


def _parse_pair_table(data: Mapping[str, Any], path: str) -> PairTableConfig:
    rcut = values.number(data.get("rcut"), f"{path}.rcut", most=values.TOO_FAR)
    return PairTableConfig(values.type_map(data, path), rcut, values.sel(data.get("sel"), f"{path}.sel"))


def _parse_linear(data: Mapping[str, Any], path: str) -> LinearConfig:
    parts = data.get("models")
    if not isinstance(parts, list | tuple) or not 0 < len(parts) <= values.TOO_MANY_LAYERS:
        raise ValueError(f"{path}.models should be a list of models, found {short(parts)}")
    if path.count(".models[") >= _TOO_DEEP:
        raise UnsupportedModelError(f"{path}: linear models within linear models are not supported to this depth")
    models = []
    for index, part in enumerate(parts):
        where = f"{path}.models[{index}]"
        model = parse_model({"type_map": data.get("type_map"), **values.table(part, where)}, where)
        if model.kind != "ener":
            raise UnsupportedModelError(f"{where}: only energies can be summed, found {model.kind!r}")
        models.append(model)
    config = LinearConfig(
        type_map=values.type_map(data, path),
        models=tuple(models),
        weights=_weights(data.get("weights", "mean"), len(models), f"{path}.weights"),
        pair_exclude_types=values.type_pairs(data.get("pair_exclude_types"), f"{path}.pair_exclude_types"),
        atom_exclude_types=values.types(data.get("atom_exclude_types"), f"{path}.atom_exclude_types"),
    )
    _check_types_in_range(config, path)
    return config


def _weights(value: Any, n_models: int, path: str) -> tuple[float, ...]:
    if value == "mean":
        return (1.0 / n_models,) * n_models
    if value == "sum":
        return (1.0,) * n_models
    if not isinstance(value, list | tuple) or len(value) != n_models:
        raise ValueError(f"{path} should be 'mean', 'sum' or {n_models} numbers, found {short(value)}")
    return tuple(values.number(weight, f"{path}[{index}]") for index, weight in enumerate(value))


def _parse_descriptor(data: Mapping[str, Any], path: str) -> DPA1Config | DPA2Config:
    kind = data.get("type")
    if kind in ("dpa1", "se_atten", "se_atten_v2"):
        return _parse_dpa1(data, path, str(kind))
    if kind == "dpa2":
        return _parse_dpa2(data, path)
    raise UnsupportedModelError(
        f"{path}.type {short(kind)} is not supported; this package reads DPA-1 (dpa1, se_atten) and DPA-2 (dpa2)"
    )


def _parse_dpa1(data: Mapping[str, Any], path: str, kind: str) -> DPA1Config:
    options = {k: v for k, v in data.items() if k != "type"}
    if options.pop("attn_mask", False):
        raise UnsupportedModelError(f"{path}.attn_mask = true is not supported")
    if options.pop("spin", None) is not None:
        raise UnsupportedModelError(f"{path}.spin is not supported")
    stripped = options.pop("stripped_type_embedding", None)
    if kind == "se_atten_v2":
        options |= {"tebd_input_mode": "strip", "smooth_type_embedding": True}
    elif stripped is not None:
        options["tebd_input_mode"] = "strip" if stripped else "concat"
    config = _fill(DPA1Config, options, path, _DPA1_ALIASES)
    if not 1 <= config.lmax <= 4:
        raise UnsupportedModelError(f"{path}.lmax {config.lmax} is not supported; supported: 1, 2, 3, 4")
    if config.attn_layer and not (config.attn and config.scaling_factor > 0):
        raise ValueError(f"{path}: attention layers need attn and scaling_factor above zero")
    _check_radii(config.rcut, config.rcut_smth, path)
    _check_axis(config.axis_neuron, config.neuron[-1], path)
    return config


def _parse_dpa2(data: Mapping[str, Any], path: str) -> DPA2Config:
    alpha = [k for k in data if k.startswith(_ALPHA_KEYS) and k not in _DPA2_ALIASES]
    if alpha:
        raise UnsupportedModelError(
            f"{path}.{alpha[0]}: flat DPA-2 configurations of the 3.0 alpha releases are not supported; "
            "their tensors differ from every later version, so the model has to be trained anew"
        )
    repinit_table, repformer_table = (values.table(data.get(k), f"{path}.{k}") for k in ("repinit", "repformer"))
    repinit = _fill(RepinitConfig, repinit_table, f"{path}.repinit", _BLOCK_ALIASES)
    repformer = _fill(RepformerConfig, repformer_table, f"{path}.repformer", _BLOCK_ALIASES)
    options = {k: v for k, v in data.items() if k != "type"} | {"repinit": repinit, "repformer": repformer}
    config = _fill(DPA2Config, options, path, _DPA2_ALIASES)
    _check_radii(repinit.rcut, repinit.rcut_smth, f"{path}.repinit")
    _check_radii(repformer.rcut, repformer.rcut_smth, f"{path}.repformer")
    _check_axis(repinit.axis_neuron, repinit.neuron[-1], f"{path}.repinit")
    if repformer.update_g1_has_drrd:
        _check_axis(repformer.axis_neuron, repformer.g1_dim, f"{path}.repformer")
    if repformer.update_g1_has_grrg:
        _check_axis(repformer.axis_neuron, repformer.g2_dim, f"{path}.repformer")
    if repinit.rcut < repformer.rcut or repinit.nsel < repformer.nsel:
        raise ValueError(f"{path}: repformer needs a shorter cutoff and a smaller nsel than repinit")
    if config.three_body:
        _check_radii(repinit.three_body_rcut, repinit.three_body_rcut_smth, f"{path}.repinit, three-body part,")
        if repinit.rcut < repinit.three_body_rcut or repinit.nsel < repinit.three_body_sel:
            raise ValueError(f"{path}.repinit: three_body_rcut and three_body_sel must not exceed rcut and nsel")
    return config


def _parse_fitting(data: Mapping[str, Any], path: str) -> FittingConfig:
    if data.get("type", "ener") not in FITTINGS:
        raise UnsupportedModelError(
            f"{path}.type {short(data['type'])} is not supported; supported: {', '.join(FITTINGS)}"
        )
    if data.get("spin") is not None:
        raise UnsupportedModelError(f"{path}.spin is not supported")
    for key, only in (("mixed_types", True), ("tot_ener_zero", False)):
        if data.get(key, only) is not only:
            raise UnsupportedModelError(f"{path}.{key} = {short(data[key])} is not supported")
    options = {k: v for k, v in data.items() if k not in ("spin", "exclude_types")}
    config = _fill(FittingConfig, options, path, _FIT_ALIASES)
    if config.default_fparam is not None and len(config.default_fparam) != config.numb_fparam:
        raise ValueError(f"{path}.default_fparam should hold numb_fparam = {config.numb_fparam} numbers")
    return config


def _fill(cls: type[T], data: Mapping[str, Any], path: str, aliases: Mapping[str, str]) -> T:
    """Make `cls` from `data`; strict about names, types and sizes."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass here
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = aliases.get(key, key)
        if name == "ln_eps" and value is None:
            continue  # written for "the default"
        if name in names:
            found[name] = values.convert(name, value, f"{path}.{key}")
        elif name and name not in TRAINING_KEYS and not name.startswith("@"):
            near = difflib.get_close_matches(key[:100], names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; it is not implemented here"
            raise UnsupportedModelError(f"{path}.{key[:100]} is not a known key{hint}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]  # as above
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in found
    ]
    if missing:
        raise ValueError(f"{path}.{missing[0]} is missing")
    return cls(**found)


def _check_types_in_range(config: ModelConfig | ZBLConfig | LinearConfig, path: str) -> None:
    used = [t for pair in config.pair_exclude_types for t in pair] + list(config.atom_exclude_types)
    if isinstance(config, ModelConfig):
        used += [t for pair in config.descriptor.exclude_types for t in pair]
    if any(t >= len(config.type_map) for t in used):
        raise ValueError(
            f"{path}: the excluded type {max(used)} is outside type_map, which has {len(config.type_map)} entries"
        )


def _check_type_values(fitting: FittingConfig, n_types: int, path: str) -> None:
    """Options with one entry per type."""
    if isinstance(fitting.scale, tuple) and len(fitting.scale) not in (1, n_types):
        raise ValueError(f"{path}.scale should be one number or {n_types}, found {len(fitting.scale)}")
    if len(fitting.atom_ener) not in (0, n_types):
        raise ValueError(f"{path}.atom_ener should have {n_types} entries or none, found {len(fitting.atom_ener)}")


def _check_radii(rcut: float, rcut_smth: float, path: str) -> None:
    if not 0 <= rcut_smth < rcut:
        raise ValueError(f"{path} needs 0 <= rcut_smth < rcut (Å), found rcut_smth={rcut_smth}, rcut={rcut}")


def _check_axis(axis_neuron: int, width: int, path: str) -> None:
    if axis_neuron > width:
        raise ValueError(f"{path}.axis_neuron {axis_neuron} exceeds the number of channels it selects from, {width}")
