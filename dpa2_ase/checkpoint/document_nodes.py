"""Nodes of DeePMD-kit's backend-neutral documents, made from a potential; `documents` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..config import DPA1Config, DPA2Config, FittingConfig, ModelConfig, UnsupportedModelError
from ..model import Potential
from .writing import section_of, standard_model, tensors_of

Node = dict[str, Any]
_SHIFT = 20.0  # of attention logits
_MAPS = ("mapqk", "mapq", "mapkv", "mapv", "head_map")
_ATTENTION = "layer_num nnei embed_dim hidden_dim dotr do_mask scaling_factor normalize temperature".split()


def document_tree(potential: Potential) -> Node:
    """The node ``model`` of a document, its arrays as tensors on the CPU."""
    config = standard_model(potential).config
    if config.kind != "ener":
        raise UnsupportedModelError(f"a model of {config.kind} cannot be written as a document, only one of energies")
    write = _Writer(potential)
    return {
        "@class": "Model",
        "@version": 2,
        "type": "standard",
        "type_map": list(config.type_map),
        "pair_exclude_types": [list(pair) for pair in config.pair_exclude_types],
        "atom_exclude_types": list(config.atom_exclude_types),
        "rcond": None,
        "preset_out_bias": None,
        "@variables": {"out_bias": write["out_bias"], "out_std": write["out_std"]},
        "descriptor": write.dpa2() if isinstance(config.descriptor, DPA2Config) else write.dpa1(),
        "fitting": write.fitting(config.fitting_net),
    }


class _Writer:
    """Nodes of one model, from its tensors by the names of a training checkpoint."""

    def __init__(self, potential: Potential) -> None:
        self.config: ModelConfig = standard_model(potential).config
        found = {name.removeprefix("atomic_model."): tensor for name, tensor in tensors_of(potential)}
        self.tensors: dict[str, Tensor] = {name: tensor for name, tensor in found.items() if tensor.numel()}
        self.section: Node = section_of(potential)["descriptor"]
        self.n_types = len(self.config.type_map)
        self.precision = self.config.descriptor.precision

    def __getitem__(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    def layer(self, name: str, activation: str = "none", *, resnet: bool = False, precision: str = "") -> Node:
        """One dense layer."""
        bias, timestep = self[f"{name}.bias"], self[f"{name}.idt"]
        return {
            "@class": "Layer",
            "@version": 2,
            "bias": bias is not None,
            "use_timestep": timestep is not None,
            "activation_function": activation,
            "resnet": resnet,
            "precision": precision or self.precision,
            "trainable": True,
            "@variables": {"w": self[f"{name}.matrix"], "b": bias, "idt": timestep},
        }

    def norm(self, name: str, eps: float) -> Node:
        """A layer normalization."""
        variables = {"w": self[f"{name}.matrix"], "b": self[f"{name}.bias"]}
        common = {"@class": "LayerNorm", "@version": 1, "eps": eps, "trainable": True, "precision": self.precision}
        return common | {"@variables": variables}

    def embedding(self, name: str, neuron: Sequence[int], activation: str, timestep: bool) -> Node:
        """An embedding net."""
        layers = [self.layer(f"{name}.layers.{k}", activation, resnet=True) for k in range(len(neuron))]
        return {
            "@class": "EmbeddingNetwork",
            "@version": 2,
            "in_dim": self.tensors[f"{name}.layers.0.matrix"].shape[0],
            "neuron": list(neuron),
            "activation_function": activation,
            "resnet_dt": timestep,
            "bias": layers[0]["bias"],
            "precision": self.precision,
            "layers": layers,
        }

    def collection(self, network: Node) -> Node:
        """A collection of one net for all types."""
        kind = "fitting_network" if network["@class"] == "FittingNetwork" else "embedding_network"
        common = {"@class": "NetworkCollection", "@version": 1, "ndim": 0, "ntypes": self.n_types}
        return common | {"network_type": kind, "networks": [network]}

    def block(self, name: str, neuron: Sequence[int], activation: str, timestep: bool) -> Node:
        """Embedding nets and statistics of a descriptor block."""
        parts = {"embeddings": "filter_layers", "embeddings_strip": "filter_layers_strip"}
        nets = {
            key: self.collection(self.embedding(f"{name}.{part}.networks.0", neuron, activation, timestep))
            for key, part in parts.items()
            if f"{name}.{part}.networks.0.layers.0.matrix" in self.tensors
        }
        return nets | self.statistics(name)

    def statistics(self, name: str) -> Node:
        """Mean and standard deviation of the environment, per slot."""
        return {"@variables": {"davg": self[f"{name}.mean"], "dstd": self[f"{name}.stddev"]}}

    def type_embedding(self, width: int) -> Node:
        """The type embedding."""
        options = {key: self.section[key] for key in ("use_econf_tebd", "use_tebd_bias")}
        name = "descriptor.type_embedding.embedding.embedding_net"
        return {
            "@class": "TypeEmbedNet",
            "@version": 2,
            "ntypes": self.n_types,
            "neuron": [width],
            "resnet_dt": False,
            "precision": self.precision,
            "activation_function": "Linear",
            "trainable": True,
            "padding": True,
            **options,
            "type_map": list(self.config.type_map),
            "embedding": self.embedding(name, [width], "Linear", False),
        }

    # ---- descriptors -------------------------------------------------------------------------------------------------

    def dpa1(self) -> Node:
        """The descriptor DPA-1."""
        config = self.config.descriptor
        assert isinstance(config, DPA1Config)
        name = "descriptor.se_atten"
        block = self.block(name, config.neuron, config.activation_function, config.resnet_dt)
        node: Node = {**self.section, "@class": "Descriptor", "@version": 4 if config.lmax > 1 else 2}
        node |= {"sel": [config.sel], "ntypes": self.n_types, "type_map": list(self.config.type_map), "spin": None}
        node.pop("seed")
        if config.lmax > 1:
            block["@variables"]["degree_gain_raw"] = self[f"{name}.adam_degree_gain_raw"]
        else:
            node.pop("lmax")
        node |= block | {"env_mat": _environment(config.rcut, config.rcut_smth, config.env_protection)}
        return node | {
            "type_embedding": self.type_embedding(config.tebd_dim),
            "attention_layers": self.attention(config, f"{name}.dpa1_attention"),
        }

    def attention(self, config: DPA1Config, name: str) -> Node:
        """The attention layers of DPA-1."""
        shape = (config.attn_layer, config.sel, config.neuron[-1], config.attn)
        options = (config.attn_dotr, False, config.scaling_factor, config.normalize, config.temperature)
        common = dict(zip(_ATTENTION, (*shape, *options), strict=True))
        last = {"trainable_ln": True, "ln_eps": config.ln_eps, "precision": self.precision}
        of_layer = {key: value for key, value in common.items() if key != "layer_num"}
        inner = of_layer | {"num_heads": 1, "bias": True, "smooth": config.smooth_type_embedding}
        layers = []
        for number in range(config.attn_layer):
            where = f"{name}.attention_layers.{number}"
            projections = {key: self.layer(f"{where}.attention_layer.{key}") for key in ("in_proj", "out_proj")}
            layers.append(
                of_layer
                | last
                | {
                    "attention_layer": inner | {"precision": self.precision} | projections,
                    "attn_layer_norm": self.norm(f"{where}.attn_layer_norm", config.ln_eps),
                }
            )
        head = {"@class": "NeighborGatedAttention", "@version": 1}
        return head | common | last | {"attention_layers": layers}

    def dpa2(self) -> Node:
        """The descriptor DPA-2."""
        config = self.config.descriptor
        assert isinstance(config, DPA2Config)
        part, name = config.repinit, "descriptor"
        node: Node = {**self.section, "@class": "Descriptor", "@version": 3, "ntypes": self.n_types}
        node.pop("seed")
        node |= {"repinit_args": node.pop("repinit"), "repformer_args": node.pop("repformer")}
        transform = f"{name}.g1_shape_tranform"
        identity = {"@class": "Identity", "@version": 1}
        node |= {
            "type_map": list(self.config.type_map),
            "type_embedding": self.type_embedding(config.tebd_dim),
            "g1_shape_tranform": self.layer(transform) if f"{transform}.matrix" in self.tensors else identity,
            "repinit_variable": self.block(f"{name}.repinit", part.neuron, part.activation_function, part.resnet_dt)
            | {"env_mat": _environment(part.rcut, part.rcut_smth)},
            "repformers_variable": self.repformers(config),
        }
        if config.add_tebd_to_repinit_out:
            node["tebd_transform"] = self.layer(f"{name}.tebd_transform")
        three = config.three_body
        if three is not None:
            block = self.block(f"{name}.repinit_three_body", three.neuron, three.activation_function, three.resnet_dt)
            node["repinit_three_body_variable"] = block | {"env_mat": _environment(three.rcut, three.rcut_smth)}
        return node

    def repformers(self, config: DPA2Config) -> Node:
        """The message-passing block of DPA-2."""
        part, name = config.repformer, "descriptor.repformers"
        layers = [self.repformer(config, number) for number in range(part.nlayers)]
        return self.statistics(name) | {
            "g2_embd": self.layer(f"{name}.g2_embd"),
            "repformer_layers": layers,
            "env_mat": _environment(part.rcut, part.rcut_smth),
        }

    def repformer(self, config: DPA2Config, number: int) -> Node:
        """One layer; the last has no update of pairs."""
        part, name = config.repformer, f"descriptor.repformers.layers.{number}"
        has_pairs = number < part.nlayers - 1
        own = ("nlayers", "nsel", "update_residual", "update_residual_init", "set_davg_zero", "direct_dist")
        node = {key: value for key, value in self.section["repformer"].items() if key not in own}
        for key in ("update_g2_has_g1g1", "update_g2_has_attn", "update_h2"):
            node[key] = node[key] and has_pairs
        node |= {"@class": "RepformerLayer", "@version": 2, "sel": [part.nsel], "ntypes": self.n_types}
        node |= {"update_chnnl_2": has_pairs, "smooth": config.smooth, "precision": self.precision}
        for key in ("linear1", "linear2", "proj_g1g2", "proj_g1g1g2", "g1_self_mlp"):
            if f"{name}.{key}.matrix" in self.tensors:
                node[key] = self.layer(f"{name}.{key}")
        if f"{name}.attn2_lm.matrix" in self.tensors:
            node["attn2_lm"] = self.norm(f"{name}.attn2_lm", part.ln_eps)
        variables = {"@variables": self.residuals(name)} if part.update_style == "res_residual" else {}
        return node | self.attentions(config, name) | variables

    def attentions(self, config: DPA2Config, name: str) -> Node:
        """Attention over pairs and over nodes of one layer, where it has them."""
        part = config.repformer
        smooth = {"smooth": config.smooth, "attnw_shift": _SHIFT}
        pairs = {"@version": 1, "input_dim": part.g2_dim, "head_num": part.attn2_nhead, "precision": self.precision}
        nodes = pairs | {"input_dim": part.g1_dim, "head_num": part.attn1_nhead, "hidden_dim": part.attn1_hidden}
        heads: dict[str, Node] = {
            "attn2g_map": pairs | smooth | {"hidden_dim": part.attn2_hidden, "has_gate": part.attn2_has_gate},
            "attn2_mh_apply": pairs,
            "attn2_ev_apply": pairs,
            "loc_attn": nodes | smooth,
        }
        classes = ("Atten2Map", "Atten2MultiHeadApply", "Atten2EquiVarApply", "LocalAtten")
        found = {}
        for (key, options), kind in zip(heads.items(), classes, strict=True):
            maps = [sub for sub in _MAPS if f"{name}.{key}.{sub}.matrix" in self.tensors]
            if maps:
                found[key] = {"@class": kind} | options | {sub: self.layer(f"{name}.{key}.{sub}") for sub in maps}
        return found

    def residuals(self, name: str) -> Node:
        """Step sizes of the updates of one layer."""

        def listed(key: str) -> list[Tensor]:
            return [tensor for known, tensor in self.tensors.items() if known.startswith(f"{name}.{key}.")]

        return {key: listed(key) for key in ("g1_residual", "g2_residual", "h2_residual")}

    # ---- fitting net -------------------------------------------------------------------------------------------------

    def fitting(self, config: FittingConfig) -> Node:
        """The fitting net of energies."""
        name, depth = "fitting_net.filter_layers.networks.0.layers", len(config.neuron)
        hidden = [
            self.layer(f"{name}.{k}", config.activation_function, resnet=True, precision=config.precision)
            for k in range(depth)
        ]
        layers = [*hidden, self.layer(f"{name}.{depth}", precision=config.precision)]
        n_in, n_out = self.tensors[f"{name}.0.matrix"].shape[0], self.tensors[f"{name}.{depth}.matrix"].shape[1]
        of_net = {"neuron": list(config.neuron), "resnet_dt": config.resnet_dt, "precision": config.precision}
        of_net["activation_function"] = config.activation_function
        network = {"@class": "FittingNetwork", "@version": 1, "in_dim": n_in, "out_dim": n_out, "bias_out": True}
        sizes = {key: getattr(config, key) for key in ("numb_fparam", "numb_aparam", "dim_case_embd")}
        extra = config.numb_fparam + config.numb_aparam * (not config.use_aparam_as_mask) + config.dim_case_embd
        buffers = ("bias_atom_e", "case_embd", "fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")
        return {
            "@class": "Fitting",
            "@version": 4,
            "type": "ener",
            "var_name": "energy",
            "ntypes": self.n_types,
            "dim_descrpt": n_in - extra,
            "dim_out": n_out,
            **of_net,
            **sizes,
            "default_fparam": None if config.default_fparam is None else list(config.default_fparam),
            "mixed_types": True,
            "nets": self.collection(network | of_net | {"layers": layers}),
            "rcond": None,
            "exclude_types": list(self.config.atom_exclude_types),
            "@variables": {key: self[f"fitting_net.{key}"] for key in buffers},
            "type_map": list(self.config.type_map),
            "tot_ener_zero": False,
            "trainable": [True] * len(layers),
            "layer_name": None,
            "use_aparam_as_mask": config.use_aparam_as_mask,
            "spin": None,
            "atom_ener": list(config.atom_ener),
        }


def _environment(rcut: float, rcut_smth: float, protection: float = 0.0) -> Node:
    return {"rcut": rcut, "rcut_smth": rcut_smth, "protection": protection, "use_exp_switch": False}
