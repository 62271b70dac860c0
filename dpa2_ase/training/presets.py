"""Sizes of DPA-2 by name: the settings of DeePMD-kit's example inputs, and a tiny one to try things with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPINIT = {
    "tebd_dim": 8,
    "rcut": 6.0,
    "rcut_smth": 0.5,
    "nsel": 120,
    "neuron": [25, 50, 100],
    "axis_neuron": 12,
    "activation_function": "tanh",
    "three_body_sel": 48,
    "three_body_rcut": 4.0,
    "three_body_rcut_smth": 3.5,
    "use_three_body": True,
}
_REPFORMER = {
    "rcut": 4.0,
    "rcut_smth": 3.5,
    "nsel": 48,
    "nlayers": 3,
    "g1_dim": 128,
    "g2_dim": 32,
    "attn2_hidden": 32,
    "attn2_nhead": 4,
    "attn1_hidden": 128,
    "attn1_nhead": 4,
    "axis_neuron": 4,
    "update_h2": False,
    "update_g1_has_conv": True,
    "update_g1_has_grrg": True,
    "update_g1_has_drrd": True,
    "update_g1_has_attn": False,
    "update_g2_has_g1g1": False,
    "update_g2_has_attn": False,
    "update_style": "res_residual",
    "update_residual": 0.01,
    "update_residual_init": "norm",
    "attn2_has_gate": True,
    "use_sqrt_nnei": True,
    "g1_out_conv": True,
    "g1_out_mlp": True,
}
_TINY_REPINIT = {"neuron": [6, 12, 24], "axis_neuron": 4, "tebd_dim": 4, "rcut": 5.0, "three_body_rcut": 3.5}
_TINY_REPINIT |= {"three_body_rcut_smth": 3.0}
_TINY = {"rcut": 3.5, "rcut_smth": 3.0, "nlayers": 2, "g1_dim": 24, "g2_dim": 12, "attn2_hidden": 8, "attn2_nhead": 2}
PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "tiny": (_TINY_REPINIT, _TINY, [32, 32]),
    "small": ({}, {}, [240, 240, 240]),
    "medium": ({}, {"nlayers": 6, "update_g2_has_attn": True}, [240, 240, 240]),
    "large": ({}, {"nlayers": 12, "update_g2_has_attn": True}, [240, 240, 240]),
}


def preset(name: str, elements: Sequence[str], precision: str) -> dict[str, Any]:
    """The model section called `name` for some elements.

    Raises
    ------
    ValueError
        For a name that is none of ``PRESETS``.
    """
    if name not in PRESETS:
        raise ValueError(f"model {name!r} is not one of {', '.join(PRESETS)}; a model section can be given instead")
    repinit, repformer, neuron = PRESETS[name]
    descriptor = {"repinit": _REPINIT | repinit, "repformer": _REPFORMER | repformer, "precision": precision}
    return {
        "type_map": list(elements),
        "descriptor": {"type": "dpa2", **descriptor},
        "fitting_net": {"neuron": neuron, "resnet_dt": True, "precision": precision},
    }
