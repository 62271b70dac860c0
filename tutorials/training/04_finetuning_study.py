# %% [markdown]
# # What does pretraining save?
#
# Systems the bundled model has not seen, learned from few frames and from more: from the pretrained model, and from
# random weights with the same configuration, the same frames and the same number of steps:
#
#     OMP_NUM_THREADS=1 python tutorials/training/04_finetuning_study.py [FRAMES ...] [--model M] [--steps N]
#
# Takes about half an hour on one core. It can be stopped at any time: what is done is in `finetuning-study.csv` in the
# output folder, and not done again. FRAMES are files of your own (what ASE reads, or DeePMD systems).

# %%
from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import FAST, HERE, OUTPUT, alloys, errors, head_for, known_elements, model_section, picture, pretrained

from dpa2_ase.training.data.checks import check_frames
from dpa2_ase.training.data.files import read_frames, write_frames
from dpa2_ase.training.data.frames import Frame
from dpa2_ase.training.run import make_trainer
from dpa2_ase.training.settings import settings_of_table
from dpa2_ase.workflows import plots

parser = argparse.ArgumentParser()
parser.add_argument("frames", nargs="*")
parser.add_argument("--model", default=str(pretrained()))
parser.add_argument("--head", help="that fine-tuning starts from; by default the one that knows most of the elements")
parser.add_argument("--steps", type=int, default=10 if FAST else 400)
parser.add_argument("--seeds", type=int, default=1 if FAST else 3)
parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4] if FAST else [])
parser.add_argument("--device", default="cpu")
given = parser.parse_args()

# %% [markdown]
# ## Systems
#
# Five molecules with sulfur, labelled by GFN2-xTB, a level of theory that no head was trained on; and the crystal
# α-Li₃N under strain, labelled by PBE, for which there are only 99 frames: its sets are smaller. `unseen/README.md`
# says where they come from. The model has met their elements, but hardly ever together. Frames are in a random but
# fixed order; a fifth of them, 100 at most, is held out to judge by. A model without these elements gets alloys of
# copper and nickel instead, labelled by ASE's EMT potential.

# %%
SIZES = {"sulfur": (25, 50, 100, 400), "li3n": (10, 25, 50, 80)}


def systems() -> dict[str, list[Frame]]:
    """Frames by name: the files that were asked for, or those beside this script, or alloys."""
    files = [Path(file) for file in given.frames] or [HERE / "unseen" / f"{name}.extxyz.gz" for name in SIZES]
    if not given.frames and not {"C", "H", "O", "S", "Li", "N"} <= known_elements(given.model):
        return {"alloys": alloys(8 if FAST else 500, seed=5)}
    return {file.name.partition(".")[0]: read_frames(file) for file in files}


def divided(frames: list[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Frames to learn from, and those held out; forces beyond 30 eV/Å, and what is broken, are left out."""
    sound = check_frames(frames).without(frames, ("shape", "not-finite", "no-labels", "large-force", "large-pressure"))
    order = np.random.default_rng(0).permutation(len(sound))
    count = min(len(sound) // 5, 4 if FAST else 100)
    return [sound[i] for i in order[count:]], [sound[i] for i in order[:count]]


# %% [markdown]
# ## Two ways to start
#
# Learning rates differ: what is pretrained is changed with care, what is random has far to go. A seed is another choice
# of frames, another order and, from scratch, other weights; smaller sets are parts of the larger ones.

# %%
RATES = {"finetune": {"start": 1.0e-3, "parts": {"descriptor": 0.3}}, "scratch": {"start": 3.0e-3}}


def learn(known: list[Frame], held_out: list[Frame], start: str, seed: int) -> dict[str, float]:
    """Errors on the held-out frames after training on `known`, from the pretrained model or from scratch."""
    elements = sorted({symbol for frame in known for symbol in frame.symbols})
    head = given.head or head_for(given.model, set(elements))
    chosen: dict[str, str] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder / "train.lmdb", known)
        write_frames(folder / "valid.lmdb", held_out)
        settings = {
            "data": {"train": str(folder / "train.lmdb"), "valid": str(folder / "valid.lmdb"), "batch": "auto:32"},
            "elements": elements,
            "steps": given.steps,
            "learning_rate": {"stop": 1.0e-5, "decay_steps": 10, **RATES[start]},
            "loss": {"energy": [1.0, 1.0], "forces": [10.0, 1.0], "virial": [0.1, 0.1]},
            "optimizer": {"clip": 10.0, "ema": 0.97},
            "output": {"checkpoint": str(folder / "model.pt"), "log": str(folder / "log.csv")}
            | {"validate_every": 10**9, "save_every": 10**9},
            "seed": seed + 1,
        }
        if start == "finetune":
            chosen = {"start": "finetune", "model": given.model, "head": head}
        else:
            settings["model"] = model_section(given.model, head, elements)
        trainer = make_trainer(settings_of_table(settings), device=given.device, **chosen)
        trainer.run(quiet=True)
        return errors(trainer)


# %% [markdown]
# ## What is done stays done
#
# A row is of one system, start, number of frames, seed and number of steps, and of a model: that is the file for
# fine-tuning, and the configuration alone from scratch.

# %%
TABLE = OUTPUT / "finetuning-study.csv"
KEYS, VALUES = ("system", "start", "frames", "seed", "steps", "model"), ("energy", "forces", "virial")


def origin(start: str) -> str:
    """What of the model matters for a row: hash of the file, or of the configuration."""
    content = Path(given.model).read_bytes()
    if start == "scratch":
        content = json.dumps(model_section(given.model, head_for(given.model, set()), ["H"]), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:8]


def done() -> dict[tuple[str, ...], dict[str, float]]:
    """Rows of the table: errors in meV/atom (energy, virial) and meV/Å (forces)."""
    with TABLE.open() as stream:
        rows = [*csv.DictReader(stream)]
    return {tuple(row[key] for key in KEYS): {v: float(row[v]) for v in VALUES if row[v]} for row in rows}


if not TABLE.exists():
    TABLE.write_text(",".join((*KEYS, *VALUES, "seconds")) + "\n")
origins = {start: origin(start) for start in RATES}
results: dict[str, dict[str, dict[int, list[dict[str, float]]]]] = {}
everything = {name: divided(frames) for name, frames in systems().items()}
for seed in range(given.seeds):
    for name, (known, held_out) in everything.items():
        sizes = sorted({min(size, len(known)) for size in given.sizes or SIZES.get(name, SIZES["sulfur"])})
        order = np.random.default_rng(seed).permutation(len(known))
        for count, start in ((count, start) for count in sizes for start in RATES):
            key = (name, start, str(count), str(seed), str(given.steps), origins[start])
            if key not in (rows := done()):
                began = time.process_time()
                found = learn([known[i] for i in order[:count]], held_out, start, seed)
                values = [f"{found[v]:.3f}" if v in found else "" for v in VALUES]
                with TABLE.open("a") as stream:
                    stream.write(",".join((*key, *values, f"{time.process_time() - began:.0f}")) + "\n")
                rows = done()
                print(*key, {v: round(x, 1) for v, x in rows[key].items()}, flush=True)
            of_system = results.setdefault(name, {start: defaultdict(list) for start in RATES})
            of_system[start][count].append(rows[key])

# %% [markdown]
# ## The picture
#
# Means over the seeds, and each of them as a dot. The strained crystal has next to no forces, so its stress is shown,
# as virial per atom.

# %%
LABELS = {"finetune": ("fine-tuned", "blue"), "scratch": ("from scratch", "orange")}
TITLES = {"sulfur": "molecules with sulfur, GFN2-xTB", "li3n": "strained α-Li₃N, PBE"}
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "virial": "meV/atom"}
panels = iter(plots.subplots(len(results), 2, (8.0, 3.2 * len(results))))
for name, of_system in results.items():
    second = "virial" if "virial" in next(iter(of_system["finetune"].values()))[0] else "forces"
    for quantity in ("energy", second):
        ax = next(panels)
        for start, (label, color) in LABELS.items():
            found = {count: [row[quantity] for row in rows] for count, rows in of_system[start].items()}
            ax.loglog([*found], [np.mean(v) for v in found.values()], "-", label=label, color=plots.COLORS[color])
            for count, values in found.items():
                ax.loglog([count] * len(values), values, "o", color=plots.COLORS[color], alpha=0.6)
        ax.set(xlabel="frames", ylabel=f"RMSE of {quantity} ({UNITS[quantity]})", title=TITLES.get(name, name))
        low, high = ax.get_ylim()
        steps = (1, 2, 5) if high > 8 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
        marks = [m * 10.0**n for n in range(-3, 6) for m in steps if low <= m * 10.0**n <= high]
        ax.set_yticks(marks, [f"{mark:g}" for mark in marks])
        ax.set_xticks([*found], [str(count) for count in found])
        ax.tick_params(which="minor", bottom=False, left=False, labelbottom=False, labelleft=False)
        ax.legend(frameon=False)
picture(ax, "finetuning-study")

# %% [markdown]
# ## Check
#
# How many times smaller errors are with pretraining, and how many frames from scratch are worth the fewest with it.
# With the bundled model and three seeds: forces of the molecules 2.2 to 2.9 times smaller, energies of Li₃N 5 to 25
# times, virials 4 to 9 times; no number of frames from scratch is as good as the fewest with pretraining. From scratch,
# errors hardly fall with more frames: 400 steps are too few to use them (`--steps`).


# %%
def mean(rows: list[dict[str, float]], quantity: str) -> float:
    """Over the seeds."""
    return float(np.mean([row[quantity] for row in rows]))


for name, of_system in results.items():
    for quantity in of_system["finetune"][min(of_system["finetune"])][0]:
        tuned, scratch = ([mean(rows, quantity) for rows in of_system[start].values()] for start in LABELS)
        gains = " ".join(f"{b / a:.2f}" for a, b in zip(tuned, scratch, strict=True))
        equal = next((n for n, error in zip(of_system["scratch"], scratch, strict=True) if error <= tuned[0]), None)
        needs = f"from {equal} on" if equal else "not at all"
        print(f"{name}, {quantity}: from scratch as good as fine-tuned on {min(of_system['finetune'])} frames: {needs}")
        for start, values in (("finetune", tuned), ("scratch", scratch)):
            print(f"CHECK {name}_{start}_{quantity} = {' '.join(f'{value:.2f}' for value in values)}")
        print(f"CHECK {name}_gain_{quantity} = {gains} times")
