# %% [markdown]
# # Several levels of theory at once, from an input of DeePMD-kit
#
# One descriptor for all data, one fitting net per level of theory: this is what makes DPA-2 a model to start from.
# DeePMD-kit's own `input.json` says how, with `shared_dict`, `model_dict` and `model_prob`, and is taken as it is. Two
# heads that have nothing in common but atoms: water of PBE0 and alloys of ASE's EMT potential. A few minutes:
#
#     OMP_NUM_THREADS=1 python tutorials/training/03_multi_task.py

# %%
from __future__ import annotations

import csv
import json

from common import FAST, HERE, OUTPUT, alloys, picture

from dpa2_ase.checkpoint import heads, load_potential
from dpa2_ase.checkpoint.document_writing import convert_model
from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.run import train
from dpa2_ase.workflows import plots

# %% [markdown]
# ## The input
#
# Head by head: the parts of the model (names refer to `shared_dict`), the data, the loss, the probability to be drawn
# in a step. Keys that are not supported are refused by their path, never passed over.

# %%
write_frames(OUTPUT / "alloys", alloys(10 if FAST else 120, seed=3))
write_frames(OUTPUT / "alloys-valid", alloys(4 if FAST else 30, seed=4))
descriptor = {
    "type": "dpa2",
    "repinit": {"rcut": 5.0, "rcut_smth": 0.5, "nsel": 100, "neuron": [6, 12, 24], "axis_neuron": 4, "tebd_dim": 4}
    | {"use_three_body": True, "three_body_rcut": 3.5, "three_body_rcut_smth": 3.0, "three_body_sel": 40},
    "repformer": {"rcut": 3.5, "rcut_smth": 3.0, "nsel": 40, "nlayers": 2, "g1_dim": 24, "g2_dim": 12}
    | {"update_g1_has_attn": False, "update_g2_has_g1g1": False, "update_g2_has_attn": False}
    | {"update_style": "res_residual", "update_residual": 0.01, "attn2_has_gate": True},
    "precision": "float32",
}
head = {
    "type_map": "elements",
    "descriptor": "shared_dpa2",
    "fitting_net": {"neuron": [32, 32], "precision": "float32"},
}
loss = {"type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 100, "limit_pref_f": 1}


def systems(train_on: str, validate_on: str, frames: str | int) -> dict:
    """The data of one head."""
    return {
        "training_data": {"systems": [train_on], "batch_size": frames},
        "validation_data": {"systems": [validate_on], "batch_size": frames, "numb_btch": 2 if FAST else 8},
    }


steps = 12 if FAST else 900
content = {
    "model": {
        "shared_dict": {"elements": ["O", "H", "Cu", "Ni"], "shared_dpa2": descriptor},
        "model_dict": {"water": head, "alloys": head},
    },
    "learning_rate": {"type": "exp", "start_lr": 0.004, "stop_lr": 2e-5, "decay_steps": 10},
    "loss_dict": {"water": loss, "alloys": loss | {"start_pref_v": 0.02, "limit_pref_v": 0.1}},
    "training": {
        "model_prob": {"water": 0.5, "alloys": 0.5},
        "data_dict": {
            "water": systems(str(HERE / "water" / "train"), str(HERE / "water" / "valid"), 1),
            "alloys": systems("alloys", "alloys-valid", "auto:64"),
        },
        "numb_steps": steps,
        "gradient_max_norm": 10.0,
        "save_ckpt": str(OUTPUT / "several"),
        "disp_file": str(OUTPUT / "several.csv"),
        "disp_freq": max(steps // 12, 1),
        "save_freq": steps,
        "max_ckpt_keep": 0,
        "seed": 1,
    },
}
(OUTPUT / "input.json").write_text(json.dumps(content, indent=2))

# %% [markdown]
# ## Training
#
# In the shell: `dpa2 train input.json`; on several processes, each with a share of the batch,
# `torchrun --nproc-per-node 2 -m dpa2_ase.train input.json`.

# %%
trainer = train(OUTPUT / "input.json", quiet=True)
with (OUTPUT / "several.csv").open() as stream:
    rows = list(csv.DictReader(stream))
panels = plots.subplots(1, 2, (8.0, 3.2))
final = {}
for ax, quantity, unit in zip(panels, ("energy", "forces"), ("meV/atom", "meV/Å"), strict=True):
    for name, color in (("water", "blue"), ("alloys", "orange")):
        known = [row for row in rows if row[f"{name}/valid/{quantity}_rmse"]]
        curve = [1000 * float(row[f"{name}/valid/{quantity}_rmse"]) for row in known]
        ax.plot([int(row["step"]) for row in known], curve, "o-", label=name, color=plots.COLORS[color])
        final[name, quantity] = curve[0], curve[-1]
    ax.set(xlabel="step", ylabel=f"RMSE of {quantity} ({unit})", yscale="log" if quantity == "energy" else "linear")
panels[0].legend(frameon=False)
picture(panels[0], "several-heads")

# %% [markdown]
# ## One file, many heads
#
# The checkpoint is one of DeePMD-kit: `dp --pt freeze --head water`, `dp --pt train --finetune` and this package read
# it. What the heads share is stored once. One head as a document (`.dp` or `.yaml`, in the shell
# `dpa2 convert several.pt water.dp --head water`) goes through `dp convert-backend` to every engine of DeePMD-kit.

# %%
path = OUTPUT / "several.pt"
water, metal = (load_potential(path, name).state_dict() for name in ("water", "alloys"))
shared = [key for key, tensor in water.items() if "descriptor" in key and tensor.equal(metal[key])]
same = len(shared) == sum("descriptor" in key for key in water)
convert_model(path, OUTPUT / "water.dp", head="water")
for name, found in heads(path).items():
    print(f"{name}: trained on {', '.join(found.observed)}; one descriptor: {same}")

# %% [markdown]
# ## Check
#
# From the first report to the last, errors of forces fall from 794 to 507 meV/Å for water and from 714 to 401 for the
# alloys, those of energies to 3 and 58 meV/atom. Nine hundred steps, half for each, are few: one sees the direction.

# %%
for (name, quantity), (first, last) in final.items():
    print(f"CHECK {name}_{quantity} = {first:.2f} -> {last:.2f}")
print(f"CHECK heads = {len(heads(path))} {int(same)}")
print(f"CHECK document = {(OUTPUT / 'water.dp').stat().st_size} bytes")
