"""What all tutorials share: the small setting of the tests, the folder for files, the bundled model.

``DPA2_ASE_TUTORIAL_FAST=1``
    Smaller cells and fewer steps: every tutorial takes seconds, and its numbers mean less.
``DPA2_ASE_TUTORIAL_OUTPUT``
    The folder that gets pictures and files, by default the current one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dpa2_ase import DPA2Calculator, heads
from dpa2_ase.bundled import bundled_model
from dpa2_ase.workflows import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAST = os.environ.get("DPA2_ASE_TUTORIAL_FAST") == "1"
OUTPUT = Path(os.environ.get("DPA2_ASE_TUTORIAL_OUTPUT", "."))


def bundled(*symbols: str) -> DPA2Calculator:
    """The bundled model in float64, which makes derivatives smoother; of several heads the one for these elements.

    That is the head trained on all of them and on the fewest others.
    """
    trained = {name: info.observed or info.elements for name, info in heads(bundled_model()).items()}
    fitting = [name for name, elements in trained.items() if {*symbols} <= {*elements}]
    if not fitting:
        raise ValueError(f"no head of the bundled model was trained on {symbols}; its heads: {trained}")
    head = min(fitting, key=lambda name: (len(trained[name]), name))
    return DPA2Calculator(head=head, dtype="float64")


def picture(axes: Axes, name: str) -> None:
    """Write the whole figure of `axes` as ``NAME.png`` and say where it is; 256 colors, rare ones too, are enough."""
    (path,) = plots.save(lambda: axes, OUTPUT / name, ("png",))
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print("picture:", path)
