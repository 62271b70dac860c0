# %% [markdown]
# # Fine-tune the bundled model on your own 50 frames
#
# A pretrained model knows what atoms look like; fifty frames teach it another level of theory. Here that level is
# ASE's EMT potential for alloys of copper and nickel, because its labels cost nothing: put your own frames in its
# place. A few minutes on one core:
#
#     OMP_NUM_THREADS=1 python tutorials/training/02_finetune.py

# %%
from __future__ import annotations

import yaml
from common import FAST, OUTPUT, alloys, errors, head_for, model_section, picture, pretrained

from dpa2_ase.training.data.files import write_frames
from dpa2_ase.training.run import make_trainer, train
from dpa2_ase.training.settings import read_settings
from dpa2_ase.workflows import plots

# %% [markdown]
# ## Your frames
#
# Anything ASE reads, with energies and forces (and stresses, where there are such) as results of a calculator or under
# names of your own (`keys` in the settings). Fifty to learn from, others to judge by.

# %%
write_frames(OUTPUT / "mine.xyz", alloys(6 if FAST else 50, seed=1))
write_frames(OUTPUT / "others.xyz", alloys(4 if FAST else 40, seed=2))

# %% [markdown]
# ## The settings
#
# `--finetune MODEL --head NAME` takes configuration, weights and elements from the pretrained head; the settings say
# the rest. Low learning rates: much is known already. `freeze: [descriptor]` would train the fitting net alone, and
# `learning_rate.parts` gives parts of the model rates of their own: here the descriptor moves at a fifth of the pace.

# %%
steps = 12 if FAST else 300
settings = {
    "data": {"train": str(OUTPUT / "mine.xyz"), "valid": str(OUTPUT / "others.xyz"), "batch": "auto:32"},
    "elements": ["Cu", "Ni"],
    "steps": steps,
    "learning_rate": {"start": 1.0e-3, "stop": 1.0e-5, "decay_steps": 10, "parts": {"descriptor": 0.2}},
    "loss": {"energy": [1.0, 1.0], "forces": [10.0, 1.0], "virial": [0.1, 0.1]},
    "optimizer": {"clip": 10.0, "ema": 0.95},
    "output": {"checkpoint": str(OUTPUT / "mine.pt"), "log": str(OUTPUT / "mine.csv"), "validate_every": steps},
    "seed": 1,
}
(OUTPUT / "mine.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
model, head = pretrained(), head_for(pretrained(), {"Cu", "Ni"})
print(f"starting from {model.name}, head {head}")

# %% [markdown]
# ## Before
#
# Energies of two codes have different zeros. Fine-tuning begins with a fit of the energies of atoms to the new frames
# (`dpa2 train change-bias` does that alone); these are the errors with nothing learned but that.

# %%
before = errors(make_trainer(read_settings(OUTPUT / "mine.yaml"), start="finetune", model=model, head=head))

# %% [markdown]
# ## Fine-tuning, and the same from scratch
#
# In the shell: `dpa2 train mine.yaml --finetune MODEL --head HEAD`. The model from scratch has the same configuration,
# the same frames and the same number of steps, but has to learn everything from them, at full rates.

# %%
after = errors(train(OUTPUT / "mine.yaml", finetune=model, head=head, quiet=True))
alone = settings | {"model": model_section(model, head, ["Cu", "Ni"])}
alone |= {"learning_rate": settings["learning_rate"] | {"start": 3.0e-3, "parts": {}}}
alone |= {"output": settings["output"] | {"checkpoint": str(OUTPUT / "alone.pt"), "log": str(OUTPUT / "alone.csv")}}
(OUTPUT / "alone.yaml").write_text(yaml.safe_dump(alone, sort_keys=False))
scratch = errors(train(OUTPUT / "alone.yaml", quiet=True))
cases = {"pretrained": before, "fine-tuned": after, "from scratch": scratch}
for name, found in cases.items():
    print(f"{name:13} {found['energy']:8.1f} meV/atom {found['forces']:8.0f} meV/Å")

# %%
panels = plots.subplots(1, 2, (7.2, 3.0))
for ax, quantity, unit in zip(panels, ("energy", "forces"), ("meV/atom", "meV/Å"), strict=True):
    colors = [plots.COLORS[name] for name in ("gray", "blue", "orange")]
    bars = ax.bar(list(cases), [found[quantity] for found in cases.values()], color=colors)
    ax.bar_label(bars, fmt="%.3g")
    ax.set(title=f"RMSE of {quantity} ({unit})")
    ax.grid(axis="x", visible=False)
    ax.margins(y=0.12)
picture(panels[0], "finetuning")

# %% [markdown]
# ## Check
#
# With the first bundled model, of six elements: the errors of forces fall from 635 to 182 meV/Å and those of energies
# from 34 to 10 meV/atom. The same steps from scratch end at 792 meV/Å and 64 meV/atom, no better than the pretrained
# model was before it saw a single frame.

# %%
print(f"CHECK pretrained = {before['energy']:.2f} meV/atom, {before['forces']:.1f} meV/Å")
print(f"CHECK finetuned = {after['energy']:.2f} meV/atom, {after['forces']:.1f} meV/Å")
print(f"CHECK scratch = {scratch['energy']:.2f} meV/atom, {scratch['forces']:.1f} meV/Å")
