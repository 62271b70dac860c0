"""One table between DeePMD-kit's parameter names and ours.

Pieces of names are exchanged in order; the table reads in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..nn.type_embedding import electronic_configuration
from .errors import CheckpointError

NAMES: tuple[tuple[str, str], ...] = (
    ("fitting_net.filter_layers.networks.0.layers.", "fitting.net."),
    ("fitting_net.", "fitting."),
    ("filter_layers.networks.0.layers.", "features.net."),
    ("filter_layers_strip.networks.0.layers.", "features.type_net."),
    ("type_embedding.embedding.embedding_net.layers.0.", "type_embedding.layer."),
    ("g1_shape_tranform.", "to_node."),
    ("tebd_transform.", "type_to_node."),
    ("repinit_three_body.", "three_body."),
    ("repformers.", "repformer."),
    ("g2_embd.", "edge_embedding."),
    (".linear1.", ".node_update."),
    (".linear2.", ".edge_update."),
    (".g1_self_mlp.", ".node_self."),
    (".proj_g1g2.", ".conv."),
    (".proj_g1g1g2.", ".edge_nodes."),
    (".attn2g_map.mapqk.", ".pair_attention.query_key."),
    (".attn2_mh_apply.mapv.", ".pair_attention.value."),
    (".attn2_mh_apply.head_map.", ".pair_attention.edge_output."),
    (".attn2_lm.", ".pair_attention.norm."),
    (".attn2_ev_apply.head_map.", ".pair_attention.direction_output."),
    (".loc_attn.mapq.", ".local_attention.query."),
    (".loc_attn.mapkv.", ".local_attention.key_value."),
    (".loc_attn.head_map.", ".local_attention.output."),
    (".g1_residual.", ".combine_node.scales."),
    (".g2_residual.", ".combine_edge.scales."),
    (".h2_residual.", ".combine_direction.scales."),
    ("dpa1_attention.attention_layers.", "attention."),
    (".attention_layer.in_proj.", ".query_key_value."),
    (".attention_layer.out_proj.", ".output."),
    (".attn_layer_norm.", ".norm."),
    ("adam_degree_gain_raw", "degree_gain"),
    (".stddev", ".environment.std"),
    (".mean", ".environment.mean"),
    (".matrix", ".weight"),
    (".idt", ".timestep"),
)


def our_name(name: str) -> str:
    """Our name of a parameter DeePMD-kit calls `name` (without ``atomic_model.``)."""
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name


def our_state(tensors: Mapping[str, Tensor], type_map: Sequence[str]) -> dict[str, Tensor]:
    """Rename tensors and bring the few that are stored in another shape into ours.

    Frozen files hold constants as well, which are no part of the state: the electronic configurations of the elements,
    which should be those known here, and what the biases of a density of states began as, which no formula reads.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".econf_tebd"):
            _check_configurations(tensor, type_map)
        if name.endswith((".econf_tebd", ".bias_dos")):
            continue
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name} holds {tensor.dtype}, floating-point numbers were expected")
        if name.endswith(("out_bias", "out_std")):
            tensor = _single(tensor, name)
        elif name.endswith((".mean", ".stddev")):
            tensor = _same_in_every_slot(tensor, name)
        ours = our_name(name)
        if ours in state:
            raise CheckpointError(f"{name} is stored twice, under two names")
        state[ours] = tensor
    _check_tables(state)
    return state


def _check_configurations(stored: Tensor, type_map: Sequence[str]) -> None:
    known = electronic_configuration(type_map)
    # 1e-6: rounding of float32
    if stored.shape != known.shape or not torch.allclose(stored.to(known), known, rtol=0, atol=1e-6):
        raise CheckpointError("the electronic configurations of its elements are not those known here")


def _check_tables(state: Mapping[str, Tensor]) -> None:
    """A compressed table stands beside the net it was made from, with six coefficients for each of its channels."""
    for name in [name for name in state if ".compress_" in name]:
        block = name[: name.index("compress_")]
        table, info = state.get(f"{block}compress_data.0"), state.get(f"{block}compress_info.0")
        layers = [key for key in state if key.startswith(f"{block}features.net.") and key.endswith(".weight")]
        if table is None or info is None or not layers or info.ndim != 1 or len(info) < 5:
            raise CheckpointError(f"the compressed table {name} is incomplete; freeze and compress the model anew")
        width = state[max(layers, key=lambda key: (len(key), key))].shape[-1]
        if table.ndim != 2 or table.shape[1] != 6 * width:
            raise CheckpointError(
                f"{block}compress_data.0 has shape {tuple(table.shape)}, (cells, {6 * width}) was expected"
            )


def _single(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[0] != 1:
        raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}; one output (1, types, size) was expected")
    return tensor[0]


def _same_in_every_slot(tensor: Tensor, name: str) -> Tensor:
    """Statistics are stored per slot of the neighbor list, all alike."""
    if tensor.ndim != 3 or tensor.shape[2] != 4 or not tensor.shape[1]:
        raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}; (types, nsel, 4) was expected")
    if not bool((tensor == tensor[:, :1]).all()):
        raise CheckpointError(f"{name} differs between slots of the neighbor list, which is not supported")
    return tensor[:, 0].clone()
