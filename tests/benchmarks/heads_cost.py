"""Energies by ten heads against one: `evaluate_heads` should cost less than 1.3 times a single head.

Processor time on one thread. A fitting net of 3 x 240 is 0.3 million operations per atom whatever the descriptor: the
larger the descriptor, the less ten of them matter.

    OMP_NUM_THREADS=1 python tests/benchmarks/heads_cost.py

The model is a DPA-2 of the published medium size with random weights and ten fitting nets of their own.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from ase.build import bulk

from dpa2_ase import DPA2Calculator
from dpa2_ase.checkpoint.writing import HeadNotes, write_checkpoint
from dpa2_ase.training.heads import random_potential
from dpa2_ase.training.presets import preset

HEADS, REPEATS = 10, 15


def write_model(path: Path, size: str) -> None:
    """Heads that share a descriptor."""
    section = preset(size, ["Cu", "Ni", "O", "H"], "float64")
    potentials = {f"head{i}": random_potential(section, "model", seed=i) for i in range(HEADS)}
    for potential in potentials.values():
        potential.model.descriptor = potentials["head0"].model.descriptor
    notes = {name: HeadNotes(observed=("Cu", "Ni", "O", "H")) for name in potentials}
    write_checkpoint(path, potentials, notes=notes)


def best(function) -> float:
    """Shortest processor time of some calls, s: what else runs on the machine does not count."""
    function()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.05, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        for size in ("small", "medium", "large"):
            path = Path(folder) / f"{size}.pt"
            write_model(path, size)
            for dtype in ("float64", "float32"):
                calc = DPA2Calculator(path, head="head0", dtype=dtype, device="cpu")
                one = best(lambda calc=calc: calc.evaluate_heads(atoms, ["head0"]))
                ten = best(lambda calc=calc: calc.evaluate_heads(atoms))
                alone = best(lambda calc=calc: calc.evaluate([atoms], ["energy"]))
                assert len(calc.evaluate_heads(atoms).groups) == 1
                print(
                    f"DPA-2 {size}, {dtype}, {calc.engine.mode}, {len(atoms)} atoms: "
                    f"evaluate {1e3 * alone:.1f} ms, evaluate_heads of one head {1e3 * one:.1f} ms, of {HEADS} "
                    f"{1e3 * ten:.1f} ms, {ten / one:.2f} times"
                )


if __name__ == "__main__":
    main()
