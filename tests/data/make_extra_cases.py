# SPDX-License-Identifier: MIT
"""Make the extra parity cases in ``extra/`` with DeePMD-kit.

Run in an environment with deepmd-kit 3.2.0 (PyTorch backend, CPU)::

    OMP_NUM_THREADS=1 python make_extra_cases.py [OUTDIR] [NAME ...]

OUTDIR defaults to ``extra`` beside this file; without names everything is made. Each case is a checkpoint ``NAME.pt``
with a tiny net, in which every parameter and buffer that a training would fill is noised, and ``NAME.npz`` with
DeePMD-kit's own numbers for a few small structures ``S``: ``S/coords`` (N, 3) A, ``S/cell`` (3, 3) A in rows (absent:
no periodicity), ``S/types`` (N,), ``S/fparam``, ``S/aparam`` where given, and ``S/energy`` eV, ``S/forces``,
``S/virial`` (= -stress * volume), ``S/atomic_energies``, ``S/atomic_virials``, ``S/descriptors`` (standard models), or
``S/global`` and ``S/atomic`` for dipole, polar, dos and property models. Multi-task files put ``HEAD/`` in front.
Containers (``NAME.SUFFIX`` among the names) are other files of the same weights; those whose numbers differ have their
own ``.npz``.
"""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
import zipfile
import zlib

import numpy as np
import torch
from deepmd.infer import DeepPot
from deepmd.infer.deep_dipole import DeepDipole
from deepmd.infer.deep_dos import DeepDOS
from deepmd.infer.deep_polar import DeepPolar
from deepmd.infer.deep_property import DeepProperty
from deepmd.pt.model.model import get_model
from deepmd.pt.train.wrapper import ModelWrapper
from deepmd.utils.argcheck import model_args

HERE = os.path.dirname(os.path.abspath(__file__))
EVALUATORS = {"ener": DeepPot, "dipole": DeepDipole, "polar": DeepPolar, "dos": DeepDOS, "property": DeepProperty}
TYPE_MAP = ["O", "H", "Cu"]
TABLE = "table.txt"  # pair table of the zbl and linear cases, three types
CASES = {}  # name -> (config, options of `make`)

# ---------------------------------------------------------------- configurations
FIT = {"neuron": [8, 8], "resnet_dt": True, "precision": "float64", "seed": 1}
REPINIT = {
    "tebd_dim": 4,
    "rcut": 4.0,
    "rcut_smth": 0.5,
    "nsel": 24,
    "neuron": [3, 6],
    "axis_neuron": 2,
    "use_three_body": False,
    "three_body_sel": 10,
    "three_body_rcut": 2.9,
    "three_body_rcut_smth": 1.5,
    "three_body_neuron": [2, 4],
}
REPFORMER = {
    "rcut": 3.2,
    "rcut_smth": 1.2,
    "nsel": 14,
    "nlayers": 2,
    "g1_dim": 8,
    "g2_dim": 5,
    "attn2_hidden": 4,
    "attn2_nhead": 2,
    "attn1_hidden": 4,
    "attn1_nhead": 2,
    "axis_neuron": 2,
    "update_h2": False,
    "update_g1_has_conv": True,
    "update_g1_has_grrg": True,
    "update_g1_has_drrd": True,
    "update_g1_has_attn": False,
    "update_g2_has_g1g1": False,
    "update_g2_has_attn": True,
    "update_style": "res_residual",
    "update_residual": 0.1,
    "attn2_has_gate": True,
    "use_sqrt_nnei": True,
    "g1_out_conv": True,
    "g1_out_mlp": True,
}
THREE = {"use_three_body": True}
DPA1 = {
    "type": "se_atten",
    "rcut": 4.0,
    "rcut_smth": 0.5,
    "sel": 24,
    "neuron": [3, 6],
    "axis_neuron": 2,
    "attn": 5,
    "attn_layer": 1,
    "attn_dotr": True,
    "attn_mask": False,
    "tebd_dim": 4,
    "precision": "float64",
    "seed": 1,
    "scaling_factor": 1.0,
    "normalize": True,
    "smooth_type_embedding": True,
}


def dpa2(repinit=None, repformer=None, **top):
    return {
        "type": "dpa2",
        "repinit": {**REPINIT, **(repinit or {})},
        "repformer": {**REPFORMER, **(repformer or {})},
        "precision": "float64",
        "smooth": True,
        "seed": 1,
        **top,
    }


def dpa1(**top):
    return {**DPA1, **top}


def model(descriptor, fit=None, type_map=TYPE_MAP, **top):
    fit = {**FIT, **(fit or {})}
    if fit.get("type") in ("dipole", "polar", "dos", "property"):
        del fit["resnet_dt"]
    return {"type_map": list(type_map), "descriptor": descriptor, "fitting_net": fit, **top}


def add(name, config, **options):
    CASES[name] = (config, options)


# 1: short-range table, switched by the softmin distance
ZBL = {"use_srtab": TABLE, "smin_alpha": 0.1, "sw_rmin": 1.1, "sw_rmax": 1.6}
add("zbl-dpa2", model(dpa2(), **ZBL))
add("zbl-dpa1", model(dpa1(), **ZBL, pair_exclude_types=[[0, 2]]))


# 2: linear combinations; type maps and cutoffs of the parts differ
PAIRTAB = {"type": "pairtab", "tab_file": TABLE, "rcut": 3.0, "sel": 16, "type_map": TYPE_MAP}


def linear(weights, *parts):
    parts = parts or (model(dpa2()), model(dpa1(rcut=3.5, sel=20), type_map=["Cu", "O", "H"]), PAIRTAB)
    return {"type": "linear_ener", "type_map": TYPE_MAP, "weights": weights, "models": list(parts)}


add("linear-mean", linear("mean", model(dpa1(rcut=3.5, sel=20), type_map=["Cu", "O", "H"]), PAIRTAB))
add("linear-sum", linear("sum", model(dpa1()), model(dpa1(rcut=3.2, sel=24, attn_layer=0), type_map=["H", "Cu", "O"])))
add("linear-list", linear([0.3, -0.5, 1.7]))

# 8: repformer switches
add(
    "dpa2-directdist-nosmooth",
    model(
        dpa2(
            repformer={"direct_dist": True, "update_h2": True, "update_style": "res_avg", "g1_out_conv": False},
            smooth=False,
        )
    ),
)
add(
    "dpa2-h2-nosmooth-nogate",
    model(dpa2(repformer={"update_h2": True, "attn2_has_gate": False, "use_sqrt_nnei": False}, smooth=False)),
)
add(
    "dpa2-conv-in-nosmooth-nodrrd",
    model(dpa2(repformer={"update_g1_has_drrd": False, "g1_out_conv": False, "use_sqrt_nnei": False}, smooth=False)),
)
add(
    "dpa2-nonsqrt-smooth-nogrrg",
    model(dpa2(repformer={"use_sqrt_nnei": False, "update_g1_has_grrg": False, "nlayers": 3})),
)
add("dpa2-noconv", model(dpa2(repformer={"update_g1_has_conv": False, "g1_out_mlp": False, "update_style": "res_avg"})))
add(
    "dpa2-g1only",
    model(
        dpa2(
            repformer={
                "update_g1_has_conv": False,
                "update_g1_has_grrg": False,
                "update_g1_has_drrd": False,
                "g1_out_mlp": False,
                "update_g2_has_attn": False,
                "update_g1_has_attn": True,
            }
        )
    ),
)
add(
    "dpa2-g1g1-noattn",
    model(
        dpa2(
            repformer={
                "update_g2_has_attn": False,
                "update_g2_has_g1g1": True,
                "update_style": "res_incr",
                "g1_out_conv": False,
            }
        )
    ),
)
add(
    "dpa2-locattn-nosmooth",
    model(dpa2(repformer={"update_g1_has_attn": True, "update_g2_has_g1g1": True, "g1_out_mlp": False}, smooth=False)),
)
add("dpa2-onelayer", model(dpa2(repformer={"nlayers": 1, "update_g1_has_attn": True})))
add("dpa2-equalwidth", model(dpa2(repformer={"g1_dim": 12}, add_tebd_to_repinit_out=True, concat_output_tebd=False)))

# 9: strip, three-body, statistics
add(
    "dpa2-strip-oneside-dt",
    model(dpa2(repinit={**THREE, "tebd_input_mode": "strip", "type_one_side": True, "resnet_dt": True})),
)
add("dpa2-strip-nosmooth", model(dpa2(repinit={**THREE, "tebd_input_mode": "strip"}, smooth=False)))
add(
    "dpa2-strip-exclude-davg",
    model(dpa2(repinit={**THREE, "tebd_input_mode": "strip", "set_davg_zero": False}, exclude_types=[[0, 1], [2, 2]])),
    davg="radial",
)
add(
    "dpa2-exclude-davg",
    model(
        dpa2(repinit={**THREE, "set_davg_zero": False}, exclude_types=[[0, 2], [1, 1]], env_protection=0.01),
        pair_exclude_types=[[2, 2]],
        atom_exclude_types=[1],
    ),
    davg="radial",
)
add(
    "dpa2-fulldavg",
    model(dpa2(repinit={**THREE, "set_davg_zero": False}, repformer={"set_davg_zero": False})),
    davg="full",
)
add(
    "dpa2-fulldavg-strip",
    model(
        dpa2(
            repinit={**THREE, "tebd_input_mode": "strip", "set_davg_zero": False, "type_one_side": True},
            smooth=False,
            exclude_types=[[0, 0]],
        )
    ),
    davg="full",
)
add(
    "dpa2-truncated",
    model(dpa2(repinit={**THREE, "nsel": 12, "three_body_sel": 5}, repformer={"nsel": 7}), pair_exclude_types=[[0, 1]]),
    skip=["tiny"],
)

# 3: higher angular degrees
for lmax in (3, 4):
    add(f"dpa1-lmax{lmax}", model(dpa1(lmax=lmax)))
add(
    "dpa1-lmax3-exclude-davg",
    model(dpa1(lmax=3, attn_layer=0, set_davg_zero=False, exclude_types=[[0, 1]])),
    davg="radial",
)

# 4, 5, 6, 7: fittings
add("dpa1-atom-ener", model(dpa1(), fit={"atom_ener": [-0.7, None, 1.3], "numb_fparam": 1}), no_jit=True)
add("dpa2-atom-ener", model(dpa2(), fit={"atom_ener": [-0.7, 0.2, 1.3]}, atom_exclude_types=[0]), no_jit=True)
add(
    "dpa1-dipole-exclude",
    model(dpa1(), fit={"type": "dipole", "numb_fparam": 1}, atom_exclude_types=[1], pair_exclude_types=[[0, 0]]),
)
add(
    "dpa2-polar-diag-scale",
    model(dpa2(), fit={"type": "polar", "fit_diag": True, "scale": [1.4, 0.6, -0.8], "shift_diag": True}),
)
add(
    "dpa1-polar-diag-noshift",
    model(dpa1(), fit={"type": "polar", "fit_diag": True, "scale": [0.7, 1.9, 1.1], "shift_diag": False}),
)
add(
    "dpa1-polar-full-scale",
    model(dpa1(), fit={"type": "polar", "fit_diag": False, "scale": 1.6}, atom_exclude_types=[0]),
)
PROPERTY = {"type": "property", "property_name": "gap", "task_dim": 2}
add("dpa1-property-extensive-types", model(dpa1(), fit={**PROPERTY, "intensive": False, "distinguish_types": True}))
add("dpa1-property-extensive", model(dpa1(), fit={**PROPERTY, "intensive": False, "distinguish_types": False}))
add(
    "dpa1-property-intensive-exclude",
    model(dpa1(), fit={**PROPERTY, "intensive": True, "distinguish_types": True}, atom_exclude_types=[1]),
)
add("dpa1-dos", model(dpa1(), fit={"type": "dos", "numb_dos": 5}, type="standard", atom_exclude_types=[2]))
add("dpa2-default-fparam", model(dpa2(), fit={"numb_fparam": 2, "default_fparam": [0.4, -1.1]}), no_fparam=True)
add("dpa1-aparam-mask", model(dpa1(), fit={"numb_aparam": 1, "use_aparam_as_mask": True}))

# 12: DPA-1 switches
add("dpa1-raw-scaled", model(dpa1(normalize=False, scaling_factor=0.5, resnet_dt=True, attn_dotr=False, attn_layer=2)))
add("dpa1-nosmooth-dotr", model(dpa1(smooth_type_embedding=False, attn_layer=2, resnet_dt=True, scaling_factor=2.0)))
add("dpa1-exclude-attn", model(dpa1(exclude_types=[[0, 1], [2, 2]], attn_layer=2), pair_exclude_types=[[1, 1]]))
add(
    "dpa1-exclude-attn-davg",
    model(dpa1(exclude_types=[[0, 2]], attn_layer=2, set_davg_zero=False, env_protection=0.02)),
    davg="full",
)
add("dpa1-float32", model(dpa1(precision="float32", attn_layer=2), fit={"precision": "float32"}))
add("dpa1-legacy-strip-key", model(dpa1(stripped_type_embedding=True, tebd_input_mode="concat", attn_layer=2)))
add("dpa1-noattn-oneside", model(dpa1(attn_layer=0, type_one_side=True)))
add("dpa1-nosmooth-davg", model(dpa1(smooth_type_embedding=False, set_davg_zero=False, attn_layer=2)), davg="radial")
add(
    "dpa1-strip-nosmooth-davg",
    model(dpa1(smooth_type_embedding=False, set_davg_zero=False, tebd_input_mode="strip")),
    davg="radial",
)
add("dpa1-noattn-strip", model(dpa1(attn_layer=0, tebd_input_mode="strip")))
add("se-atten-v2", model({k: v for k, v in dpa1(type="se_atten_v2").items() if k != "smooth_type_embedding"}))
add("dpa1-list-sel-truncated", model(dpa1(sel=[4, 5, 3], attn_layer=2)), skip=["tiny"])

# 11: type embedding with its resnet rule; electronic configuration
add("dpa2-tebd-nt-bias", model(dpa2(repinit={"tebd_dim": 3}, use_tebd_bias=True)))
add("dpa1-tebd-2nt-bias", model(dpa1(tebd_dim=6, use_tebd_bias=True)))
add("dpa1-econf", model(dpa1(use_econf_tebd=True, use_tebd_bias=True)))

# 10: activations
add(
    "dpa2-relu-relu6-softplus",
    model(
        dpa2(repinit={**THREE, "activation_function": "relu"}, repformer={"activation_function": "relu6"}),
        fit={"activation_function": "softplus"},
    ),
)
add(
    "dpa2-sigmoid-silut",
    model(
        dpa2(repinit={**THREE, "activation_function": "sigmoid"}, repformer={"activation_function": "silut:4.0"}),
        fit={"activation_function": "silut"},
    ),
)
add("dpa1-softplus-linear", model(dpa1(activation_function="softplus"), fit={"activation_function": "linear"}))
add("dpa1-none-relu6", model(dpa1(activation_function="none"), fit={"activation_function": "relu6"}))
add("dpa1-silut-sharp", model(dpa1(activation_function="custom_silu:0.5"), fit={"activation_function": "silut:0.3"}))

# 15: to be refused by name; checkpoint only
HYBRID = {"type": "hybrid", "list": [dpa1(rcut=3.5, sel=20), dpa2()]}
SE_E2A = {
    "type": "se_e2_a",
    "rcut": 4.0,
    "rcut_smth": 0.5,
    "sel": [10, 10, 10],
    "neuron": [3, 6],
    "axis_neuron": 2,
    "precision": "float64",
    "seed": 1,
    "type_one_side": True,
}
add("refuse-hybrid-dpa1-dpa2", model(HYBRID), refuse=True)
add("refuse-hybrid-se-e2-a", model({"type": "hybrid", "list": [SE_E2A, dpa1()]}), refuse=True)
add("refuse-se-e2-a", model(SE_E2A), refuse=True)
add("refuse-spin-dpa1", model(dpa1(), spin={"use_spin": [False, False, True], "virtual_scale": [0.3]}), refuse=True)

# 16: heads with aliases and different type maps
HEADS = {
    "water-model": model(
        dpa1(),
        type_map=["H", "O"],
        fit={"numb_fparam": 1},
        model_branch_alias=["Water", "h2o"],
        info={"note": "a head"},
    ),
    "Cu_alloy": model(dpa2(), model_branch_alias=["Default"]),
}
add("multitask-alias", {"model_dict": HEADS})


# ---------------------------------------------------------------- structures and noise
def spread(x, cell, dmin):
    """Push atoms (and their images) apart until all are at least `dmin` apart."""
    images = np.zeros((1, 3)) if cell is None else np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T @ cell
    for _ in range(2000):
        d = x[:, None, None] - x[None, :, None] - images
        r = np.linalg.norm(d, axis=-1)
        r[r < 1e-9] = np.inf
        push = np.where((r < dmin)[..., None], d / r[..., None] * 0.05, 0).sum((1, 2))
        if not push.any():
            return x
        x = x + push
    raise RuntimeError("structure too dense")


def structures(ntypes):
    """name -> (coords, cell or None, types)"""
    rng = np.random.default_rng(20250)
    skew = np.array([[5.3, 0.2, -0.3], [1.0, 5.1, 0.4], [-0.6, 0.8, 5.6]])
    tiny = np.array([[3.4, 0.3, 0.1], [-0.9, 3.7, 0.5], [0.4, 0.7, 4.1]])
    types = np.array([0, 1, 1, 2, 0, 2, 1, 0, 1, 2]) % ntypes
    return {
        "skew": (spread(rng.random((10, 3)) @ skew, skew, 1.05), skew, types),
        "molecule": (spread(rng.normal(0, 1.2, (6, 3)), None, 0.95), None, types[[3, 0, 1, 2, 5, 4]]),
        "tiny": (spread(rng.random((3, 3)) @ tiny, tiny, 1.3) + 7.0, tiny, types[[2, 0, 3]]),
    }


def write_table(path):
    """Screened repulsion, one column per pair of types: longer than one of the cutoffs used, shorter than another."""
    r = np.linspace(0.1, 3.5, 35)
    columns = [r]
    for i in range(3):
        for j in range(i, 3):
            columns.append((3.0 + i + 2 * j) / r * np.exp(-r / (0.4 + 0.05 * i + 0.03 * j)) * (1 + 0.2 * np.cos(2 * r)))
    columns[1:] = [c - c[-1] for c in columns[1:]]
    np.savetxt(path, np.array(columns).T, fmt="%.12e")


def randomise(net, seed, davg=""):
    g = torch.Generator().manual_seed(seed)

    def rand(shape, uniform=False):
        return (torch.rand if uniform else torch.randn)(shape, generator=g, dtype=torch.float64)

    with torch.no_grad():
        for k, p in list(net.named_parameters()) + list(net.named_buffers()):
            if not p.dtype.is_floating_point or p.numel() == 0:
                continue
            leaf = k.split(".")[-1]
            if leaf in ("stddev", "dstd"):  # the same for every slot, as a training leaves it
                p.copy_((0.25 + 0.15 * rand((p.shape[0], 1, 4), True)).to(p).expand(p.shape))
            elif leaf in ("mean", "davg"):
                p.zero_()
                if davg:
                    n = 4 if davg == "full" else 1
                    p[..., :n] = (0.06 * rand((p.shape[0], 1, n))).to(p)
            elif leaf in ("bias_atom_e", "out_bias"):
                p.copy_((2.0 * rand(p.shape)).to(p))
            elif leaf in ("out_std", "fparam_inv_std", "aparam_inv_std"):
                p.copy_((1.0 + 0.3 * rand(p.shape).abs()).to(p))
            elif leaf in ("fparam_avg", "aparam_avg"):
                p.copy_((0.3 * rand(p.shape)).to(p))
            elif leaf in ("min_nbor_dist", "_min_nbor_dist"):
                p.fill_(0.9)
            elif isinstance(p, torch.nn.Parameter):
                p.add_((0.15 * rand(p.shape)).to(p))


# ---------------------------------------------------------------- evaluation
def evaluate(path, kind, ntypes, *, dim_fparam=0, dim_aparam=0, skip=(), head=None, descriptors=True, **load):
    dp = EVALUATORS[kind](path, **({"head": head} if head else {}), **load)
    ref = {}
    for s, (x, cell, types) in structures(ntypes).items():
        if s in skip:
            continue
        extra = {}
        if dim_fparam:
            extra["fparam"] = np.linspace(0.4, -0.7, dim_fparam).reshape(1, -1)
        if dim_aparam:
            extra["aparam"] = np.linspace(-1, 1, len(x) * dim_aparam).reshape(1, len(x), dim_aparam)
        args = (x.reshape(1, -1), None if cell is None else cell.reshape(1, 9), types)
        if kind == "ener":
            e, f, v, ae, av = dp.eval(*args, atomic=True, **extra)[:5]
            out = {
                "energy": e[0, 0],
                "forces": f[0],
                "virial": v[0].reshape(3, 3),
                "atomic_energies": ae[0, :, 0],
                "atomic_virials": av[0].reshape(-1, 3, 3),
            }
            if descriptors:
                out["descriptors"] = dp.eval_descriptor(*args, **extra)[0]
        elif kind in ("dipole", "polar"):
            out = {k: dp.eval(*args, atomic=k == "atomic", **extra)[0] for k in ("global", "atomic")}
        else:
            r = dp.eval(*args, atomic=True, **extra)
            out = {"global": r[0][0], "atomic": r[1][0]}
        out.update({k: v[0] for k, v in extra.items()}, coords=x, types=types)
        if cell is not None:
            out["cell"] = cell
        ref.update({f"{s}/{k}": np.asarray(v) for k, v in out.items()})
    assert all(np.isfinite(v).all() for v in ref.values()), path
    return ref


def reference(path, config, options, head=None, **more):
    fit = config.get("fitting_net", {})
    plain = "fitting_net" in config and "use_srtab" not in config
    return evaluate(
        path,
        fit.get("type", "ener"),
        len(config["type_map"]),
        dim_fparam=0 if options.get("no_fparam") else fit.get("numb_fparam", 0),
        dim_aparam=fit.get("numb_aparam", 0),
        skip=options.get("skip", ()),
        head=head,
        **{"descriptors": plain, **({"no_jit": True} if options.get("no_jit") else {}), **more},
    )


def save_checkpoint(data, path):
    """torch.save, but with the pickle (half of such a small file) compressed; tensors stay as they are."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            pickle = entry.filename.endswith("data.pkl")
            new.writestr(
                zipfile.ZipInfo(entry.filename), old.read(entry), zipfile.ZIP_DEFLATED if pickle else zipfile.ZIP_STORED
            )


def save(path, ref, **more):
    np.savez_compressed(path, **ref, **more)


def build(config, seed, davg=""):
    config = model_args().normalize_value(json.loads(json.dumps(config)), trim_pattern="_*")
    torch.manual_seed(seed)
    net = get_model(copy.deepcopy(config))
    randomise(net, seed, davg)
    return config, net


def make(name):
    config, options = CASES[name]
    seed = zlib.crc32(name.encode()) % 2**31
    if "model_dict" in config:
        heads = {h: build(c, seed + i) for i, (h, c) in enumerate(config["model_dict"].items())}
        params = {"model_dict": {h: c for h, (c, _) in heads.items()}}
        wrapper = ModelWrapper({h: net for h, (_, net) in heads.items()}, model_params=params)
    else:
        params, net = build(config, seed, options.get("davg", ""))
        wrapper = ModelWrapper(net, model_params=params)
    save_checkpoint({"model": wrapper.state_dict()}, f"{name}.pt")
    if options.get("refuse"):
        return
    if "model_dict" in config:
        ref = {}
        for head, c in config["model_dict"].items():
            ref.update({f"{head}/{k}": v for k, v in reference(f"{name}.pt", c, options, head).items()})
            ref[f"{head}/type_map"] = np.array(c["type_map"])
        save(f"{name}.npz", ref)
    else:
        save(f"{name}.npz", reference(f"{name}.pt", config, options), type_map=np.array(config["type_map"]))


# ---------------------------------------------------------------- other containers
def dp(*args):
    subprocess.run(
        [sys.executable, "-m", "deepmd", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


CONTAINERS = {}  # name of the file -> function


def strip_programs(source, target):
    """Copy a zip container without its compiled programs: large, and of no use here."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            folder = entry.filename.split("/")[1]
            if target.endswith(".pth"):
                wanted = folder != "code"
            else:
                wanted = "extra/" in entry.filename and entry.filename.endswith(".json")
            if wanted:
                new.writestr(
                    zipfile.ZipInfo(entry.filename),
                    old.read(entry),
                    zipfile.ZIP_STORED if folder == "data" else zipfile.ZIP_DEFLATED,
                )


def convert(source, suffix):
    def run(target):
        with tempfile.TemporaryDirectory() as tmp:
            if suffix == ".pth":
                dp("--pt", "freeze", "-c", f"{source}.pt", "-o", f"{tmp}/{target}")
            else:
                dp("convert-backend", f"{source}.pt", f"{tmp}/{target}")
            if suffix in (".pth", ".pte", ".pt2"):
                strip_programs(f"{tmp}/{target}", target)
            else:
                shutil.copy(f"{tmp}/{target}", target)

    CONTAINERS[source + suffix] = run


for case, suffixes in {
    "zbl-dpa1": (".dp", ".pth"),
    "linear-mean": (".dp", ".pth"),
    "dpa1-lmax3": (".pte",),
    "dpa2-default-fparam": (".pte",),
    "dpa1-econf": (".pth",),  # with a constant beside the parameters, as the next
    "dpa1-dos": (".pth",),
    "dpa2-strip-exclude-davg": (".pte", ".pt2"),
    "dpa2-polar-diag-scale": (".dp", ".pth"),
    "dpa1-property-extensive-types": (".dp",),
    "dpa1-dipole-exclude": (".dp",),
    "refuse-spin-dpa1": (".dp",),
}.items():
    for suffix in suffixes:
        convert(case, suffix)


def compressed(target):
    """Tables with a coarse stride, so that the file stays small and differs from the exact nets visibly."""
    source = "dpa1-noattn-strip"
    with tempfile.TemporaryDirectory() as tmp:
        dp("--pt", "freeze", "-c", f"{source}.pt", "-o", f"{tmp}/model.pth")
        dp("--pt", "compress", "-i", f"{tmp}/model.pth", "-o", f"{tmp}/compressed.pth", "-s", "0.2", "-c", tmp)
        config, options = CASES[source]
        save(
            target.replace(".pth", ".npz"),
            reference(f"{tmp}/compressed.pth", config, options, descriptors=False),
            type_map=np.array(config["type_map"]),
        )
        strip_programs(f"{tmp}/compressed.pth", target)


CONTAINERS["dpa1-compressed.pth"] = compressed


def write_data(folder):
    """A few random frames, so that a training has something to chew on."""
    rng = np.random.default_rng(7)
    x, cell, types = structures(2)["skew"]
    os.makedirs(f"{folder}/set.000")
    np.savetxt(f"{folder}/type.raw", types, fmt="%d")
    with open(f"{folder}/type_map.raw", "w") as f:
        f.write("O\nH\n")
    frames = np.array([x + rng.normal(0, 0.05, x.shape) for _ in range(6)]).reshape(6, -1)
    for key, value in {
        "coord": frames,
        "box": np.tile(cell.reshape(1, 9), (6, 1)),
        "energy": rng.normal(-40, 1, 6),
        "force": rng.normal(0, 1, frames.shape),
    }.items():
        np.save(f"{folder}/set.000/{key}.npy", value)


def trained(backend, descriptor, files):
    """Train two steps; `files` maps what the training wrote to names here."""

    def run(target):
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as tmp:
            write_data(f"{tmp}/data")
            config = model(descriptor, type_map=["O", "H"])
            training = {
                "training_data": {"systems": ["data"], "batch_size": 2},
                "numb_steps": 2,
                "save_freq": 2,
                "disp_freq": 1,
                "seed": 3,
            }
            if any("ema" in f for f in files):
                training.update(enable_ema=True, ema_decay=0.5)
            with open(f"{tmp}/input.json", "w") as f:
                json.dump(
                    {
                        "model": config,
                        "training": training,
                        "loss": {
                            "type": "ener",
                            "start_pref_e": 1,
                            "limit_pref_e": 1,
                            "start_pref_f": 10,
                            "limit_pref_f": 1,
                        },
                        "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 0.001, "decay_steps": 1},
                    },
                    f,
                )
            try:
                os.chdir(tmp)
                dp(backend, "train", "input.json")
            finally:
                os.chdir(here)
            for source, name in files.items():
                checkpoint = torch.load(f"{tmp}/{source}", weights_only=True)
                if backend != "--pt":  # the optimizer's state is in trained-dpa1 already
                    del checkpoint["optimizer"]
                save_checkpoint(checkpoint, f"{name}.pt")
                judge = f"{name}.pt"
                if backend != "--pt":  # its own evaluation may skip the dead slots of the attention: take the dense one
                    judge = f"{tmp}/{name}.pth"
                    dp(backend, "freeze", "-c", f"{name}.pt", "-o", f"{tmp}/{name}.pte")
                    dp("convert-backend", f"{tmp}/{name}.pte", judge)
                save(
                    f"{name}.npz",
                    reference(judge, config, {}, descriptors=backend == "--pt"),
                    type_map=np.array(["O", "H"]),
                )

    CONTAINERS[next(iter(files.values())) + ".pt"] = run


trained("--pt", dpa1(), {"model.ckpt-2.pt": "trained-dpa1", "model_ema.ckpt-2.pt": "trained-dpa1-ema"})
trained("--pt-expt", dpa1(), {"model.ckpt-2.pt": "exportable-dpa1"})
trained("--pt-expt", dpa2(), {"model.ckpt-2.pt": "exportable-dpa2"})

if __name__ == "__main__":
    args = sys.argv[1:]
    out = args.pop(0) if args else os.path.join(HERE, "extra")
    os.makedirs(out, exist_ok=True)
    os.chdir(out)  # the configurations name the table relative to here
    if not os.path.exists(TABLE):
        write_table(TABLE)
    for name in [n for n in list(CASES) + list(CONTAINERS) if not args or n in args]:
        try:
            make(name) if name in CASES else CONTAINERS[name](name)
            print("ok", name, flush=True)
        except Exception as error:
            for f in (name, f"{name}.npz"):
                if os.path.exists(f):
                    os.remove(f)
            if isinstance(error, subprocess.CalledProcessError):
                print((error.stderr or b"").decode()[-1500:])
            traceback.print_exc()
            print("FAIL", name, type(error).__name__, str(error)[:300], flush=True)
