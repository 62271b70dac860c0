# %% [markdown]
# # What does pretraining save?
#
# A system the model has not seen, learned from 25, 50, 100 and 400 frames: from the pretrained model, and from random
# weights with the same configuration, the same frames and the same number of steps. Works with any model file and any
# frames; without arguments, with the bundled model and alloys labelled by ASE's EMT potential:
#
#     OMP_NUM_THREADS=1 python tutorials/training/04_finetuning_study.py [FRAMES] [--model M] [--head H] [--steps N]
#
# FRAMES is whatever ASE reads, or DeePMD systems. A fifth of them, 100 at most, is held out to judge by; all the others
# are the 400 (or what there is). An hour or two on one core; with FRAMES of your own, hours if their cells are large.

# %%
from __future__ import annotations

import argparse
import json

import numpy as np
from common import FAST, OUTPUT, alloys, errors, head_for, model_section, picture, pretrained

from dpa2_ase.training.data.checks import check_frames
from dpa2_ase.training.data.files import read_frames, write_frames
from dpa2_ase.training.data.frames import Frame
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import settings_of_table
from dpa2_ase.workflows import plots

parser = argparse.ArgumentParser()
parser.add_argument("frames", nargs="?")
parser.add_argument("--model", default=str(pretrained()))
parser.add_argument("--head")
parser.add_argument("--steps", type=int, default=10 if FAST else 400)
parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4] if FAST else [25, 50, 100, 400])
parser.add_argument("--device", default="cpu")
given = parser.parse_args()

# %% [markdown]
# ## Frames
#
# In a random but fixed order. The smaller sets are parts of the larger ones; frames with forces beyond 30 eV/Å, and
# broken ones, are left out.

# %%
frames = read_frames(given.frames) if given.frames else alloys(8 if FAST else 500, seed=5)
frames = check_frames(frames).without(frames, ("shape", "not-finite", "no-labels", "large-force", "large-pressure"))
order = np.random.default_rng(0).permutation(len(frames))
n_held_out = min(len(frames) // 5, 100)
held_out, known = ([frames[i] for i in part] for part in (order[:n_held_out], order[n_held_out:]))
elements = sorted({symbol for frame in frames for symbol in frame.symbols})
head = given.head or head_for(given.model, set(elements))
sizes = sorted({min(size, len(known)) for size in given.sizes})
print(f"{len(frames)} frames of {' '.join(elements)}, {n_held_out} held out; head {head} of {given.model}")
write_frames(OUTPUT / "held-out.lmdb", held_out)

# %% [markdown]
# ## Two ways to start
#
# Learning rates differ: what is pretrained is changed with care, what is random has far to go.


# %%
def learn(count: int, start: str) -> dict[str, float]:
    """Errors on the held-out frames after training on `count` frames, from the pretrained model or from scratch."""
    chosen: list[Frame] = known[:count]
    target = OUTPUT / f"{start}-{count}"
    write_frames(target.with_suffix(".lmdb"), chosen)
    rate = {"finetune": {"start": 1.0e-3, "parts": {"descriptor": 0.3}}, "scratch": {"start": 3.0e-3}}[start]
    settings = {
        "data": {"train": str(target.with_suffix(".lmdb")), "valid": str(OUTPUT / "held-out.lmdb"), "batch": "auto:32"},
        "elements": elements,
        "steps": given.steps,
        "learning_rate": {"stop": 1.0e-5, "decay_steps": 10, **rate},
        "loss": {"energy": [1.0, 1.0], "forces": [10.0, 1.0], "virial": [0.1, 0.1]},
        "optimizer": {"clip": 10.0, "ema": 0.97},
        "output": {"checkpoint": str(target.with_suffix(".pt")), "log": str(target.with_suffix(".csv"))}
        | {"validate_every": given.steps, "save_every": 10**9},
        "seed": 1,
    }
    if start == "finetune":
        trainer = make_trainer(
            settings_of_table(settings), start="finetune", model=given.model, head=head, device=given.device
        )
    else:
        settings["model"] = model_section(given.model, head, elements)
        trainer = make_trainer(settings_of_table(settings), device=given.device)
    trainer.run(quiet=True)
    found = errors(trainer)
    print(f"{count:4} frames, {start:8}: {found['energy']:8.2f} meV/atom {found['forces']:8.1f} meV/Å", flush=True)
    return found


results = {start: {count: learn(count, start) for count in sizes} for start in ("finetune", "scratch")}
report = {"model": given.model, "head": head, "elements": elements, "steps": given.steps, "rmse": results}
(OUTPUT / "finetuning-study.json").write_text(json.dumps(report, indent=1))

# %%
panels = plots.subplots(1, 2, (8.0, 3.4))
labels = {"finetune": ("fine-tuned", "blue"), "scratch": ("from scratch", "orange")}
for ax, quantity, unit in zip(panels, ("energy", "forces"), ("meV/atom", "meV/Å"), strict=True):
    for start, (label, color) in labels.items():
        values = [found[quantity] for found in results[start].values()]
        ax.loglog(sizes, values, "o-", label=label, color=plots.COLORS[color])
    ax.set(xlabel="frames", ylabel=f"RMSE of {quantity} ({unit})")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
panels[0].legend(frameon=False)
picture(panels[0], "finetuning-study")

# %% [markdown]
# ## Check
#
# With the first bundled model, of six elements, and 400 steps, fine-tuning ends at 13 meV/atom and 188 meV/Å with 25
# frames and at 12.5 and 172 with 50. With as few as 40 steps it is at 350 meV/Å, from scratch at 2000, whatever the
# number of frames: then it is the steps that are missing, not the data.

# %%
for start, found in results.items():
    for quantity in ("energy", "forces"):
        print(f"CHECK {start}_{quantity} = {' '.join(f'{row[quantity]:.2f}' for row in found.values())}")
