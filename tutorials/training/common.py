"""What the tutorials on training share: the small setting of the tests, alloys to learn, and pictures.

``DPA2_ASE_TUTORIAL_FAST=1`` makes everything tiny, ``DPA2_ASE_TUTORIAL_OUTPUT`` is the folder for files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from dpa2_ase.bundled import bundled_model
from dpa2_ase.checkpoint import heads, load_potential
from dpa2_ase.checkpoint.writing import section_of
from dpa2_ase.training.data.frames import Frame, frame_of_atoms
from dpa2_ase.training.metrics import QUANTITIES
from dpa2_ase.workflows import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dpa2_ase.training.trainer import Trainer

HERE = Path(__file__).parent
FAST = os.environ.get("DPA2_ASE_TUTORIAL_FAST") == "1"
OUTPUT = Path(os.environ.get("DPA2_ASE_TUTORIAL_OUTPUT", "."))


def alloys(count: int, seed: int) -> list[Frame]:
    """Crystals of eight atoms of copper and nickel, mixed, strained and rattled, labelled by ASE's EMT potential."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        share = rng.random()
        atoms = bulk("Cu", a=3.61 - 0.09 * share) * (2, 2, 2)
        atoms.symbols[rng.random(len(atoms)) < share] = "Ni"
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.12, rng=rng)
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.get_stress()
        frames.append(frame_of_atoms(atoms))
    return frames


def head_for(model: str | Path, elements: set[str]) -> str:
    """The head of a model file that has seen most of `elements`, and few others."""
    known = heads(model)
    seen = {name: set(head.observed or head.elements) for name, head in known.items()}
    return max(known, key=lambda name: (len(elements & seen[name]), -len(seen[name])))


def known_elements(model: str | Path) -> set[str]:
    """Elements that some head of a model file has seen."""
    return {symbol for head in heads(model).values() for symbol in head.observed or head.elements}


def model_section(model: str | Path, head: str, elements: list[str]) -> dict[str, Any]:
    """The configuration of a head as the model section of a training from scratch, for fewer elements."""
    section = section_of(load_potential(model, head))
    if "repformer" in section["descriptor"]:
        section["descriptor"]["repformer"] |= {"update_residual": 0.01, "update_residual_init": "norm"}
    return section | {"type_map": elements}


def errors(trainer: Trainer) -> dict[str, float]:
    """Root mean square errors on all validation frames: energies and virials in meV/atom, forces in meV/Å."""
    found = trainer.validate(trainer.heads.names[0], every_frame=True)
    values = {name: found.rmse(name) for name in QUANTITIES}
    return {name: 1000 * value for name, value in values.items() if value is not None}


def picture(axes: Axes, name: str) -> None:
    """Write the whole figure of `axes` as ``NAME.png`` and say where it is."""
    (path,) = plots.save(lambda: axes, OUTPUT / name, ("png",))
    print("picture:", path)


def pretrained() -> Path:
    """The bundled model."""
    return Path(bundled_model())
