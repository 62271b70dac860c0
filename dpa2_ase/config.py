"""Model configurations: DeePMD-kit's JSON as frozen dataclasses, its keys as field names.

Every default stands here once. A key that changes numbers and is not implemented is refused with its full path;
keys that only matter in training are listed in ``TRAINING_KEYS`` and passed over.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

TypePairs = tuple[tuple[int, int], ...]
Precision = Literal["float64", "float32"]

PRECISIONS: dict[str, Precision] = {
    "default": "float64",
    "float64": "float64",
    "double": "float64",
    "float32": "float32",
    "single": "float32",
}

TRAINING_KEYS = frozenset(
    "trainable trainable_ln seed set_davg_zero update_residual update_residual_init rcond layer_name "
    "bias_method var_name tot_ener_zero mixed_types data_stat_nbatch data_stat_protect data_bias_nsample "
    "preset_out_bias srtab_add_bias finetune_head model_branch_alias info ntypes type_map dim_descrpt constant_matrix "
    "bridging_method bridging_r_inner bridging_r_outer comment _comment "
    "compress".split()
)


class UnsupportedModelError(ValueError):
    """The file asks for something this package does not implement; the message names it."""


@dataclass(frozen=True)
class SeAttenConfig:
    """One ``se_atten`` block, the body of DPA-1 and the ``repinit`` of DPA-2."""

    rcut: float
    rcut_smth: float
    nsel: int
    neuron: tuple[int, ...]
    axis_neuron: int
    tebd_dim: int
    tebd_input_mode: Literal["concat", "strip"]
    type_one_side: bool
    resnet_dt: bool
    activation_function: str
    smooth: bool
    exclude_types: TypePairs
    env_protection: float
    attn: int = 0
    attn_layer: int = 0
    attn_dotr: bool = True
    normalize: bool = True
    scaling_factor: float = 1.0
    temperature: float | None = None
    ln_eps: float = 1e-5
    lmax: int = 1


@dataclass(frozen=True)
class ThreeBodyConfig:
    """The ``repinit_three_body`` block of DPA-2."""

    rcut: float
    rcut_smth: float
    nsel: int
    neuron: tuple[int, ...]
    tebd_dim: int
    tebd_input_mode: Literal["concat", "strip"]
    resnet_dt: bool
    activation_function: str
    smooth: bool
    exclude_types: TypePairs
    env_protection: float


@dataclass(frozen=True)
class DPA1Config:
    """Descriptor ``dpa1`` (alias ``se_atten``); radii in Å. Source: https://doi.org/10.1038/s41524-024-01278-7."""

    rcut: float
    rcut_smth: float
    sel: int
    neuron: tuple[int, ...] = (25, 50, 100)
    axis_neuron: int = 16
    tebd_dim: int = 8
    tebd_input_mode: Literal["concat", "strip"] = "concat"
    type_one_side: bool = False
    resnet_dt: bool = False
    activation_function: str = "tanh"
    attn: int = 128
    attn_layer: int = 2
    attn_dotr: bool = True
    normalize: bool = True
    scaling_factor: float = 1.0
    temperature: float | None = None
    smooth_type_embedding: bool = True
    ln_eps: float | None = None
    lmax: int = 1
    exclude_types: TypePairs = ()
    env_protection: float = 0.0
    concat_output_tebd: bool = True
    use_econf_tebd: bool = False
    use_tebd_bias: bool = False
    precision: Precision = "float64"

    @property
    def nsel(self) -> int:
        """Length of the neighbor list the weights were trained with."""
        return self.sel

    @property
    def block(self) -> SeAttenConfig:
        """The configuration of the only block."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(SeAttenConfig) if hasattr(self, f.name)}
        shared |= {"nsel": self.sel, "smooth": self.smooth_type_embedding, "ln_eps": self.ln_eps or 1e-5}
        return SeAttenConfig(**shared)


@dataclass(frozen=True)
class RepinitConfig:
    """``descriptor.repinit`` of DPA-2."""

    rcut: float
    rcut_smth: float
    nsel: int
    neuron: tuple[int, ...] = (25, 50, 100)
    axis_neuron: int = 16
    tebd_dim: int = 8
    tebd_input_mode: Literal["concat", "strip"] = "concat"
    type_one_side: bool = False
    resnet_dt: bool = False
    activation_function: str = "tanh"
    use_three_body: bool = False
    three_body_neuron: tuple[int, ...] = (2, 4, 8)
    three_body_sel: int = 40
    three_body_rcut: float = 4.0
    three_body_rcut_smth: float = 0.5


@dataclass(frozen=True)
class RepformerConfig:
    """``descriptor.repformer`` of DPA-2."""

    rcut: float
    rcut_smth: float
    nsel: int
    nlayers: int = 3
    g1_dim: int = 128
    g2_dim: int = 16
    axis_neuron: int = 4
    direct_dist: bool = False
    update_g1_has_conv: bool = True
    update_g1_has_drrd: bool = True
    update_g1_has_grrg: bool = True
    update_g1_has_attn: bool = True
    update_g2_has_g1g1: bool = True
    update_g2_has_attn: bool = True
    update_h2: bool = False
    attn1_hidden: int = 64
    attn1_nhead: int = 4
    attn2_hidden: int = 16
    attn2_nhead: int = 4
    attn2_has_gate: bool = False
    activation_function: str = "tanh"
    update_style: Literal["res_avg", "res_incr", "res_residual"] = "res_avg"
    use_sqrt_nnei: bool = True
    g1_out_conv: bool = True
    g1_out_mlp: bool = True
    ln_eps: float | None = None


@dataclass(frozen=True)
class DPA2Config:
    """Descriptor ``dpa2``; radii in Å. Source: https://doi.org/10.1038/s41524-024-01493-2."""

    repinit: RepinitConfig
    repformer: RepformerConfig
    concat_output_tebd: bool = True
    precision: Precision = "float64"
    smooth: bool = True
    exclude_types: TypePairs = ()
    env_protection: float = 0.0
    add_tebd_to_repinit_out: bool = False
    use_econf_tebd: bool = False
    use_tebd_bias: bool = False

    @property
    def rcut(self) -> float:
        """Cutoff of the neighbor list, Å."""
        return self.repinit.rcut

    @property
    def nsel(self) -> int:
        """Length of the neighbor list the weights were trained with."""
        return self.repinit.nsel

    @property
    def tebd_dim(self) -> int:
        """Channels of the type embedding."""
        return self.repinit.tebd_dim

    @property
    def block(self) -> SeAttenConfig:
        """The ``repinit`` block: ``se_atten`` without attention layers."""
        part = self.repinit
        shared = {f.name: getattr(part, f.name) for f in dataclasses.fields(SeAttenConfig) if hasattr(part, f.name)}
        return SeAttenConfig(
            **shared, smooth=self.smooth, exclude_types=self.exclude_types, env_protection=self.env_protection
        )

    @property
    def three_body(self) -> ThreeBodyConfig | None:
        """The three-body block, or ``None`` for a model without one."""
        part = self.repinit
        if not part.use_three_body:
            return None
        return ThreeBodyConfig(
            rcut=part.three_body_rcut,
            rcut_smth=part.three_body_rcut_smth,
            nsel=part.three_body_sel,
            neuron=part.three_body_neuron,
            tebd_dim=part.tebd_dim,
            tebd_input_mode=part.tebd_input_mode,
            resnet_dt=part.resnet_dt,
            activation_function=part.activation_function,
            smooth=self.smooth,
            exclude_types=self.exclude_types,
            env_protection=self.env_protection,
        )


FittingType = Literal["ener", "dos", "property", "dipole", "polar"]


@dataclass(frozen=True)
class FittingConfig:
    """``fitting_net``: what is predicted per atom and by which net."""

    type: FittingType = "ener"
    neuron: tuple[int, ...] = (128, 128, 128)
    resnet_dt: bool = True
    activation_function: str = "tanh"
    precision: Precision = "float64"
    numb_fparam: int = 0
    numb_aparam: int = 0
    default_fparam: tuple[float, ...] | None = None
    dim_case_embd: int = 0
    use_aparam_as_mask: bool = False
    atom_ener: tuple[Any, ...] = ()
    numb_dos: int = 300
    property_name: str = "property"
    task_dim: int = 1
    intensive: bool = False
    distinguish_types: bool = True
    fit_diag: bool = True
    shift_diag: bool = True
    scale: float | tuple[float, ...] | None = None
    r_differentiable: bool = True
    c_differentiable: bool = True

    @property
    def subtracts_vacuum(self) -> bool:
        """Whether the net's value at a zero descriptor is taken off (any entry of ``atom_ener`` set)."""
        return any(entry is not None for entry in self.atom_ener)


@dataclass(frozen=True)
class ModelConfig:
    """A descriptor with a fitting net."""

    type_map: tuple[str, ...]
    descriptor: DPA1Config | DPA2Config
    fitting_net: FittingConfig = field(default_factory=FittingConfig)
    pair_exclude_types: TypePairs = ()
    atom_exclude_types: tuple[int, ...] = ()

    @property
    def rcut(self) -> float:
        """Cutoff, Å."""
        return self.descriptor.rcut

    @property
    def nsel(self) -> int:
        """Number of nearest neighbors kept."""
        return self.descriptor.nsel

    @property
    def kind(self) -> FittingType:
        """What the model predicts."""
        return self.fitting_net.type


@dataclass(frozen=True)
class PairTableConfig:
    """A tabulated pair potential; its numbers are tensors of the checkpoint."""

    type_map: tuple[str, ...]
    rcut: float
    nsel: int
    kind: FittingType = "ener"


@dataclass(frozen=True)
class ZBLConfig:
    """A deep potential joined to a pair table at short range between ``sw_rmin`` and ``sw_rmax`` (Å)."""

    type_map: tuple[str, ...]
    models: tuple[ModelConfig, PairTableConfig]
    sw_rmin: float
    sw_rmax: float
    smin_alpha: float = 0.1
    pair_exclude_types: TypePairs = ()
    atom_exclude_types: tuple[int, ...] = ()
    kind: FittingType = "ener"

    @property
    def rcut(self) -> float:
        """Cutoff, Å."""
        return self.models[0].rcut

    @property
    def nsel(self) -> int:
        """Number of nearest neighbors kept."""
        return self.models[0].nsel


@dataclass(frozen=True)
class LinearConfig:
    """A weighted sum of energy models."""

    type_map: tuple[str, ...]
    models: tuple[AnyModelConfig, ...]
    weights: tuple[float, ...]
    pair_exclude_types: TypePairs = ()
    atom_exclude_types: tuple[int, ...] = ()
    kind: FittingType = "ener"

    @property
    def rcut(self) -> float:
        """Cutoff, Å: the longest of the parts."""
        return max(model.rcut for model in self.models)

    @property
    def nsel(self) -> int:
        """Number of nearest neighbors kept: the largest of the parts."""
        return max(model.nsel for model in self.models)


AnyModelConfig = ModelConfig | PairTableConfig | ZBLConfig | LinearConfig

# --------------------------------------------------------------------------------------------------------------------
# reading
# --------------------------------------------------------------------------------------------------------------------

_DPA1_ALIASES = {"smooth_type_embdding": "smooth_type_embedding", "n_axis_neuron": "axis_neuron"}
_DPA2_ALIASES = {"repformer_add_type_ebd_to_seq": "add_tebd_to_repinit_out"}
_BLOCK_ALIASES = {"n_axis_neuron": "axis_neuron"}
_FIT_ALIASES = {"n_neuron": "neuron", "embedding_net_resnet_dt": "resnet_dt", "dim_out": "", "embedding_width": ""}
_ALPHA_KEYS = ("repinit_", "repformer_")
_CHOICES = {
    "tebd_input_mode": ("concat", "strip"),
    "update_style": ("res_avg", "res_incr", "res_residual"),
}
_INTEGERS = frozenset(
    "sel nsel axis_neuron tebd_dim attn attn_layer lmax three_body_sel nlayers g1_dim g2_dim attn1_hidden attn1_nhead "
    "attn2_hidden attn2_nhead numb_fparam numb_aparam dim_case_embd numb_dos task_dim".split()
)
# no real model comes near; bounds what is built before shapes are compared with the tensors of the file
_TOO_LARGE = 1_000_000
_TOO_MANY_LAYERS = 1_000
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
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} should be a table of options, found {type(data).__name__}")
    if "model_dict" in data:
        raise ValueError(f"{path} is a multi-task configuration; choose one of its heads {sorted(data['model_dict'])}")
    if data.get("spin"):
        raise UnsupportedModelError(f"{path}.spin: DeepSpin models are not supported")
    _refuse_modifiers(data, path)
    kind = data.get("type", "standard")
    if data.get("use_srtab") or kind == "zbl":
        return _parse_zbl(data, path)
    if kind == "linear_ener":
        return _parse_linear(data, path)
    if kind == "pairtab":
        return _parse_pair_table(data, path)
    if kind not in ("standard", "ener", "dos", "property", "dipole", "polar"):
        raise UnsupportedModelError(f"{path}.type {kind!r} is not supported; supported: standard, linear_ener, pairtab")
    return _parse_standard(data, path)


def _refuse_modifiers(data: Mapping[str, Any], path: str) -> None:
    if data.get("modifier"):
        raise UnsupportedModelError(f"{path}.modifier: data modifiers are not supported")
    if str(data.get("bridging_method") or "None").lower() != "none":
        raise UnsupportedModelError(f"{path}.bridging_method {data['bridging_method']!r} is not supported")


def _parse_standard(data: Mapping[str, Any], path: str) -> ModelConfig:
    type_map = _type_map(data, path)
    for key in ("descriptor", "fitting_net"):
        if not isinstance(data.get(key), Mapping):
            raise ValueError(f"{path}.{key} is missing")
    config = ModelConfig(
        type_map=type_map,
        descriptor=_parse_descriptor(data["descriptor"], f"{path}.descriptor"),
        fitting_net=_parse_fitting(data["fitting_net"], f"{path}.fitting_net"),
        pair_exclude_types=_type_pairs(data.get("pair_exclude_types"), f"{path}.pair_exclude_types"),
        atom_exclude_types=tuple(data.get("atom_exclude_types") or ()),
    )
    _check_types_in_range(config, path)
    return config


def _parse_zbl(data: Mapping[str, Any], path: str) -> ZBLConfig:
    inner = {
        k: v for k, v in data.items() if k not in ("use_srtab", "type", "pair_exclude_types", "atom_exclude_types")
    }
    deep = _parse_standard(inner, path)
    table = PairTableConfig(deep.type_map, deep.rcut, deep.nsel)
    return ZBLConfig(
        type_map=deep.type_map,
        models=(deep, table),
        sw_rmin=float(data["sw_rmin"]),
        sw_rmax=float(data["sw_rmax"]),
        pair_exclude_types=_type_pairs(data.get("pair_exclude_types"), f"{path}.pair_exclude_types"),
        atom_exclude_types=tuple(data.get("atom_exclude_types") or ()),
    )


def _parse_pair_table(data: Mapping[str, Any], path: str) -> PairTableConfig:
    return PairTableConfig(_type_map(data, path), float(data["rcut"]), _sel(data["sel"], f"{path}.sel"))


def _parse_linear(data: Mapping[str, Any], path: str) -> LinearConfig:
    models = []
    for index, part in enumerate(data["models"]):
        inherited = {"type_map": data.get("type_map"), **part}
        models.append(parse_model(inherited, f"{path}.models[{index}]"))
    weights = data.get("weights", "mean")
    if weights == "mean":
        weights = [1.0 / len(models)] * len(models)
    elif weights == "sum":
        weights = [1.0] * len(models)
    if isinstance(weights, str) or len(weights) != len(models):
        raise ValueError(f"{path}.weights should be 'mean', 'sum' or {len(models)} numbers, found {weights!r}")
    return LinearConfig(
        type_map=_type_map(data, path),
        models=tuple(models),
        weights=tuple(float(w) for w in weights),
        pair_exclude_types=_type_pairs(data.get("pair_exclude_types"), f"{path}.pair_exclude_types"),
        atom_exclude_types=tuple(data.get("atom_exclude_types") or ()),
    )


def _parse_descriptor(data: Mapping[str, Any], path: str) -> DPA1Config | DPA2Config:
    kind = data.get("type")
    if kind in ("dpa1", "se_atten", "se_atten_v2"):
        return _parse_dpa1(data, path, kind)
    if kind == "dpa2":
        return _parse_dpa2(data, path)
    raise UnsupportedModelError(
        f"{path}.type {kind!r} is not supported; this package reads DPA-1 (dpa1, se_atten) and DPA-2 (dpa2)"
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
    _check_radii(config.rcut, config.rcut_smth, path)
    return config


def _parse_dpa2(data: Mapping[str, Any], path: str) -> DPA2Config:
    alpha = [k for k in data if k.startswith(_ALPHA_KEYS) and k not in _DPA2_ALIASES]
    if alpha:
        raise UnsupportedModelError(
            f"{path}.{alpha[0]}: flat DPA-2 configurations of the 3.0 alpha releases are not supported; "
            "their tensors differ from every later version, so the model has to be trained anew"
        )
    options = {k: v for k, v in data.items() if k != "type"}
    for part in ("repinit", "repformer"):
        if not isinstance(options.get(part), Mapping):
            raise ValueError(f"{path}.{part} is missing")
    options["repinit"] = _fill(RepinitConfig, options["repinit"], f"{path}.repinit", _BLOCK_ALIASES)
    options["repformer"] = _fill(RepformerConfig, options["repformer"], f"{path}.repformer", _BLOCK_ALIASES)
    config = _fill(DPA2Config, options, path, _DPA2_ALIASES)
    _check_radii(config.repinit.rcut, config.repinit.rcut_smth, f"{path}.repinit")
    _check_radii(config.repformer.rcut, config.repformer.rcut_smth, f"{path}.repformer")
    if config.repinit.rcut < config.repformer.rcut or config.repinit.nsel < config.repformer.nsel:
        raise ValueError(f"{path}: repformer needs a shorter cutoff and a smaller nsel than repinit")
    return config


def _parse_fitting(data: Mapping[str, Any], path: str) -> FittingConfig:
    kind = data.get("type", "ener")
    if kind not in ("ener", "dos", "property", "dipole", "polar"):
        raise UnsupportedModelError(
            f"{path}.type {kind!r} is not supported; supported: ener, dos, property, dipole, polar"
        )
    if data.get("spin") is not None:
        raise UnsupportedModelError(f"{path}.spin is not supported")
    options = {k: v for k, v in data.items() if k not in ("spin", "exclude_types")}
    return _fill(FittingConfig, options, path, _FIT_ALIASES)


def _fill(cls: type[T], data: Mapping[str, Any], path: str, aliases: Mapping[str, str]) -> T:
    """Make `cls` from `data`; strict about names, types and sizes."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass here
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = aliases.get(key, key)
        if name in names:
            values[name] = _convert(name, value, f"{path}.{key}")
        elif name and name not in TRAINING_KEYS and not name.startswith("@"):
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; it is not implemented here"
            raise UnsupportedModelError(f"{path}.{key} is not a known key{hint}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]  # as above
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise ValueError(f"{path}.{missing[0]} is missing")
    return cls(**values)


def _convert(name: str, value: Any, path: str) -> Any:
    if name in ("sel", "nsel"):
        return _sel(value, path)
    if name == "precision":
        if value not in PRECISIONS:
            raise UnsupportedModelError(f"{path} {value!r} is not supported; supported: {sorted(PRECISIONS)}")
        return PRECISIONS[value]
    if name == "exclude_types":
        return _type_pairs(value, path)
    if name in _CHOICES and value not in _CHOICES[name]:
        raise UnsupportedModelError(f"{path} {value!r} is not supported; supported: {list(_CHOICES[name])}")
    if name in ("nlayers", "attn_layer"):
        return _integer(value, path, _TOO_MANY_LAYERS)
    if name in _INTEGERS:
        return _integer(value, path)
    if name in ("neuron", "three_body_neuron"):
        if not isinstance(value, list | tuple) or not 0 < len(value) <= _TOO_MANY_LAYERS:
            raise ValueError(f"{path} should be a list of layer widths, found {str(value)[:80]}")
        return tuple(_integer(v, path) for v in value)
    if name == "atom_ener":
        return tuple(value or ())
    if isinstance(value, list):
        return tuple(value)
    return value


def _integer(value: Any, path: str, most: int = _TOO_LARGE) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{path} should be an integer from 0 to {most}, found {value!r}")
    return value


def _sel(value: Any, path: str) -> int:
    if isinstance(value, str):
        raise ValueError(f"{path} is {value!r}: the file holds an input, not a trained model (sel is not resolved)")
    return _integer(sum(value) if isinstance(value, list | tuple) else value, path)


def _type_pairs(value: Any, path: str) -> TypePairs:
    pairs = tuple(tuple(int(t) for t in pair) for pair in value or ())
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{path} should be a list of pairs of type indices, found {value!r}")
    return pairs  # type: ignore[return-value]  # lengths were just checked


def _type_map(data: Mapping[str, Any], path: str) -> tuple[str, ...]:
    names = data.get("type_map")
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise ValueError(f"{path}.type_map should be a list of different element names, found {names!r}")
    return tuple(names)


def _check_types_in_range(config: ModelConfig, path: str) -> None:
    n_types = len(config.type_map)
    used = [t for pair in (*config.pair_exclude_types, *config.descriptor.exclude_types) for t in pair]
    used += config.atom_exclude_types
    if any(not 0 <= t < n_types for t in used):
        raise ValueError(f"{path}: an excluded type index is outside type_map {config.type_map}")


def _check_radii(rcut: float, rcut_smth: float, path: str) -> None:
    if not 0 <= rcut_smth < rcut < 1000:
        raise ValueError(f"{path} needs 0 <= rcut_smth < rcut (Å), found rcut_smth={rcut_smth}, rcut={rcut}")
