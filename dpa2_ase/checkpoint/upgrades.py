"""Small named steps that bring files of other versions and dialects into today's form, in this order.

Each takes the configuration section and the tensors of one head (without the prefix ``atomic_model.``), and returns
both, changed or not. What changed is reported by the step's name.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from typing import Any

from .raw import RawModel

logger = logging.getLogger("dpa2_ase")

Params = dict[str, Any]
Tensors = dict[str, Any]  # StoredTensor or Tensor: both have a shape
Upgrade = Callable[[Params, Tensors], tuple[Params, Tensors]]

_DIALECT = (
    (r"\.w$", ".matrix"),
    (r"\.b$", ".bias"),
    (r"\bembeddings\._module_networks\.", "filter_layers.networks."),
    (r"\bembeddings_strip\._module_networks\.", "filter_layers_strip.networks."),
    (r"\bfitting_net\.nets\._module_networks\.", "fitting_net.filter_layers.networks."),
    (r"type_embedding\.embedding_net\.", "type_embedding.embedding.embedding_net."),
    (r"\.original_model\.", "."),
)


def rename_exportable_dialect(params: Params, tensors: Tensors) -> tuple[Params, Tensors]:
    """The exportable backend calls weights ``w`` and ``b`` and keeps nets under other names."""
    if any(name.endswith(".matrix") for name in tensors) or not any(name.endswith(".w") for name in tensors):
        return params, tensors
    renamed = {}
    for name, tensor in tensors.items():
        if ".compiled_forward_lower." in name or "._task_" in name or "._networks." in name:
            continue
        for pattern, replacement in _DIALECT:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return params, renamed


_DERIVED = frozenset(
    "type_embd_data graph_lower_disabled min_nbor_dist _min_nbor_dist default_fparam_tensor type_mask scale "
    "constant_matrix rcuts nsels".split()
)


def drop_derived_tensors(params: Params, tensors: Tensors) -> tuple[Params, Tensors]:
    """Duplicates, masks and caches that follow from the rest."""
    kept = {}
    for name, tensor in tensors.items():
        if "._networks." in name:
            name = name.replace("._networks.", ".networks.")
            if name in tensors:
                continue
        of_table = name.endswith(".bias_atom_e") and name.replace("bias_atom_e", "tab_info") in tensors
        if 0 not in tensor.shape and name.rsplit(".", 1)[-1] not in _DERIVED and not of_table:
            kept[name] = tensor
    return params, kept


def use_type_embedding_bias_of_old_files(params: Params, tensors: Tensors) -> tuple[Params, Tensors]:
    """Before the key ``use_tebd_bias`` existed the type embedding had a bias: where one is stored, it was trained."""
    descriptor = params.get("descriptor")
    stored = "descriptor.type_embedding.embedding.embedding_net.layers.0.bias" in tensors
    if isinstance(descriptor, dict) and stored and "use_tebd_bias" not in descriptor:
        descriptor["use_tebd_bias"] = True
    return params, tensors


def repformer_options_before_2024(params: Params, tensors: Tensors) -> tuple[Params, Tensors]:
    """Files older than ``use_sqrt_nnei``, ``g1_out_conv`` and ``g1_out_mlp`` were trained without the three."""
    descriptor = params.get("descriptor")
    repformer = descriptor.get("repformer") if isinstance(descriptor, dict) else None
    new_options = ("use_sqrt_nnei", "g1_out_conv", "g1_out_mlp")
    if isinstance(repformer, dict) and not any(option in repformer for option in new_options):
        prefix = "descriptor.repformers.layers.0."
        has_self_mlp = f"{prefix}g1_self_mlp.matrix" in tensors
        conv = tensors.get(f"{prefix}proj_g1g2.matrix")
        conv_inside = conv is None or tuple(conv.shape) == (repformer.get("g1_dim", 128), repformer.get("g2_dim", 16))
        if not has_self_mlp and conv_inside:
            repformer.update(dict.fromkeys(new_options, False))
    return params, tensors


UPGRADES: tuple[Upgrade, ...] = (
    rename_exportable_dialect,
    drop_derived_tensors,
    use_type_embedding_bias_of_old_files,
    repformer_options_before_2024,
)
_SILENT = {drop_derived_tensors}  # true of nearly every file: nothing a user has to know


def upgrade(raw: RawModel) -> tuple[RawModel, tuple[str, ...]]:
    """Apply all steps; returns the head in today's form and the names of the steps that changed something."""
    params = copy.deepcopy(dict(raw.params))
    tensors = {name.removeprefix("atomic_model."): tensor for name, tensor in raw.tensors.items()}
    applied = []
    for step in UPGRADES:
        before = copy.deepcopy(params), list(tensors)
        params, tensors = step(params, tensors)
        if step not in _SILENT and before != (params, list(tensors)):
            applied.append(step.__name__)
            logger.info("model file: %s (%s)", step.__name__, (step.__doc__ or "").strip().splitlines()[0])
    return RawModel(params, tensors), tuple(applied)
