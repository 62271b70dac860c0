"""Model configurations: DeePMD-kit's JSON as frozen dataclasses, its keys as field names.

Every default stands here once; `dpa2_ase.parsing` fills these classes from a file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

TypePairs = tuple[tuple[int, int], ...]
Precision = Literal["float64", "float32"]


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
    ln_eps: float = 1e-5
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
        shared |= {"nsel": self.sel, "smooth": self.smooth_type_embedding}
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
    ln_eps: float = 1e-5


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
