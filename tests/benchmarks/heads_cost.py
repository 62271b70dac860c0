"""Energies by ten heads against one: `evaluate_heads` should cost less than 1.3 times a single head.

Processor time of one thread, one head and all heads in turn. A fitting net of 3 x 240, DeePMD-kit's usual one, is 0.3
million operations per atom whatever the descriptor: the larger the descriptor, the less ten of them matter. What they
are counted as, and how fast that makes the heads, is printed beside the times.

    OMP_NUM_THREADS=1 python tests/benchmarks/heads_cost.py               # random weights, published sizes
    OMP_NUM_THREADS=1 python tests/benchmarks/heads_cost.py --model FILE  # all heads of a file, on water and copper
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from structures import structure as water

from dpa2_ase import DPA2Calculator, heads
from dpa2_ase.checkpoint.writing import HeadNotes, write_checkpoint
from dpa2_ase.training.heads import random_potential
from dpa2_ase.training.presets import preset

HEADS, REPEATS = 10, 15
SIZES = ("small", "medium", "large")
ELEMENTS = ("Cu", "Ni", "O", "H")


@dataclass(frozen=True)
class Cost:
    """Shortest times of one structure, s, and what the nets of a head are, floating-point operations per atom."""

    one: float
    every: float
    n_heads: int
    n_atoms: int
    operations: int

    @property
    def ratio(self) -> float:
        """All heads in units of one."""
        return self.every / self.one

    @property
    def gflops(self) -> float:
        """Speed of the further heads, all that belongs to them included."""
        return (self.n_heads - 1) * self.n_atoms * self.operations / (self.every - self.one) / 1e9


def write_model(path: Path, size: str, n_heads: int = HEADS) -> None:
    """Heads that share a descriptor, with random weights."""
    section = preset(size, ELEMENTS, "float64")
    potentials = {f"head{i}": random_potential(section, "model", seed=i) for i in range(n_heads)}
    for potential in potentials.values():
        potential.model.descriptor = potentials["head0"].model.descriptor
    notes = {name: HeadNotes(observed=ELEMENTS) for name in potentials}
    write_checkpoint(path, potentials, notes=notes)


def copper() -> Atoms:
    """108 atoms, shaken."""
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.05, seed=0)
    return atoms


def shortest(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Shortest processor time of each, s, in turn: what else runs on the machine counts for none or for all."""
    times = np.full((repeats, len(functions)), np.inf)
    for function in functions:
        function()
    for row in times:
        for index, function in enumerate(functions):
            start = time.process_time()
            function()
            row[index] = time.process_time() - start
    return times.min(axis=0).tolist()


def measure(path: Path, atoms: Atoms, dtype: str | None, repeats: int = REPEATS) -> tuple[Cost, str]:
    """Costs of the heads of a file, and what computed them."""
    names = [*heads(path)]
    calc = DPA2Calculator(path, head=names[0], dtype=dtype, device="cpu")
    found = calc.evaluate_heads(atoms)
    assert len(found.groups) == 1
    assert [*found.heads] == names
    (net,) = calc.evaluator.reference.fitting_nets
    operations = 2 * sum(parameter.numel() for parameter in net.parameters() if parameter.ndim == 2)
    one, every = shortest([lambda: calc.evaluate_heads(atoms, names[:1]), lambda: calc.evaluate_heads(atoms)], repeats)
    return Cost(one, every, len(names), len(atoms), operations), f"{calc.engine.mode}, {calc.evaluator.dtype}"


def line(title: str, atoms: Atoms, cost: Cost, how: str) -> str:
    """What was found, in words."""
    return (
        f"{title}, {how}, {atoms.get_chemical_formula()}: one head {1e3 * cost.one:.1f} ms, {cost.n_heads} heads "
        f"{1e3 * cost.every:.1f} ms, {cost.ratio:.2f} times; {cost.operations / 1e6:.2f} MFLOP per atom and head, "
        f"{cost.gflops:.0f} GFLOP/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="a file of several heads that share a descriptor")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    if arguments.model is not None:
        for dtype in ("float64", "float32"):
            for atoms in (water(21), water(192), copper()):
                cost, how = measure(arguments.model, atoms, dtype, arguments.repeats)
                print(line(arguments.model.stem, atoms, cost, how))
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = Path(folder) / f"{size}.pt"
            write_model(path, size)
            for dtype in ("float64", "float32"):
                cost, how = measure(path, copper(), dtype, arguments.repeats)
                print(line(f"DPA-2 {size}", copper(), cost, how))


if __name__ == "__main__":
    main()
