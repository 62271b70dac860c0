"""One program in one process, driven by JSON lines on standard input; started by ``compare.py``.

The python that runs it decides what can be loaded: DeePMD-kit's ASE calculator (``"program": "deepmd"``) or this
package's (``"program": "dpa2_ase"``). Every answer is one line with the values asked for, or with ``"error"``.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from structures import clusters, structure

STEP = 1e-3  # Å, how far atoms move between calls


def memory_mb(which: str) -> float:
    """Resident memory in MiB, ``VmRSS`` (now) or ``VmHWM`` (peak).

    The kernel's own peak is preferred to ``ru_maxrss``, which a process inherits from whoever started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(which))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Start the peak anew where the system can, so that loading a file does not count as evaluating it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Session:
    """A calculator, the structure it works on, and the clock."""

    def __init__(self) -> None:
        self.calc: Any = None  # either program's
        self.atoms = Atoms()
        self.device = "cpu"
        self.idle = 0.0

    def load(self, program: str, model: str | None, threads: int, device: str = "cpu", **options: Any) -> dict:
        """Make the calculator; the memory of this moment is the idle process."""
        self.device = device
        if program == "deepmd":
            import deepmd
            from deepmd.calculator import DP

            make: Any = DP
            versions = {"deepmd-kit": deepmd.__version__}
        else:
            import dpa2_ase

            make = partial(dpa2_ase.DPA2Calculator, device=device)
            versions = {"dpa2_ase": dpa2_ase.__version__}
        import torch

        torch.set_num_threads(threads)
        versions["torch"] = torch.__version__
        self.calc = make(model, **options)
        forget_peak()
        self.idle = self._memory("VmRSS")
        return {"idle_mb": self.idle, "versions": versions, "engine": str(getattr(self.calc, "engine", program))}

    def take(self, n_atoms: int) -> dict:
        """Choose the structure of the next calls."""
        self.atoms = structure(n_atoms)
        self.atoms.calc = self.calc
        return {}

    def numbers(self, path: str) -> dict:
        """Write energy and forces of the structure as it is to a file, for comparison among programs."""
        seconds = self._call()
        np.savez(path, energy=self.atoms.get_potential_energy(), forces=self.atoms.get_forces())
        return {"seconds": seconds}

    def block(self, calls: int, seed: int) -> dict:
        """Time calls with atoms moving in between; the same seed moves them alike in every program."""
        rng = np.random.default_rng(seed)
        seconds = []
        for _ in range(calls):
            self.atoms.positions += rng.normal(0, STEP, self.atoms.positions.shape)
            seconds.append(self._call())
        return {"seconds": seconds, "memory_mb": self._memory("VmHWM") - self.idle}

    def profile(self, calls: int, seed: int) -> dict:
        """Median times of a whole call, of the network within it, and of a search for neighbors (this package only)."""
        inside: list[float] = []
        with timed_network(self.calc, inside):
            whole, network = [], []
            for index in range(calls):
                inside.clear()
                whole += self.block(1, seed + index)["seconds"]
                network.append(sum(inside))
        searches = []
        for _ in range(3):
            start = time.perf_counter()
            self.calc.evaluator.reader.neighbor_list(self.atoms, self.calc.skin)
            searches.append(time.perf_counter() - start)
        medians = (statistics.median(values) for values in (whole, network, searches))
        return dict(zip(("whole", "network", "search"), medians, strict=True))

    def batch(self, count: int, together: bool) -> dict:
        """Time energies and forces of small clusters, in one `evaluate` or one by one."""
        atoms = clusters(count)
        start = time.perf_counter()
        if together:
            self.calc.evaluate(atoms, ["energy", "forces"])
        else:
            for one in atoms:
                one.calc = self.calc
                one.get_forces()
        return {"seconds": time.perf_counter() - start, "n_atoms": sum(map(len, atoms))}

    def first(self) -> dict:
        """Energy of a copper cell, for the time from nothing to the first number."""
        from ase.build import bulk

        atoms = bulk("Cu", cubic=True)
        atoms.calc = self.calc
        return {"energy": atoms.get_potential_energy()}

    def gemm(self, size: int, repeats: int, threads: int, device: str) -> dict:
        """Best rate of square matrix products, GFLOP/s by dtype."""
        import torch

        torch.set_num_threads(threads)

        rates = {}
        for dtype in (torch.float64, torch.float32):
            left, right = (torch.rand(size, size, dtype=dtype, device=device) for _ in range(2))
            best = min(self._product(left, right) for _ in range(repeats + 1))  # the first one warms up
            rates[str(dtype).removeprefix("torch.")] = 2e-9 * size**3 / best
        return rates

    def _product(self, left: Any, right: Any) -> float:
        start = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        return time.perf_counter() - start

    def _call(self) -> float:
        """Seconds of energy, forces and, with a cell, stress; forces first, as molecular dynamics asks for them."""
        start = time.perf_counter()
        self.atoms.get_forces()
        self.atoms.get_potential_energy()
        if self.atoms.pbc.any():
            self.atoms.get_stress()
        return time.perf_counter() - start

    def _memory(self, which: str) -> float:
        if not self.device.startswith("cuda"):
            return memory_mb(which)
        import torch

        used = torch.cuda.memory_allocated() if which == "VmRSS" else torch.cuda.max_memory_allocated()
        return used / 1024**2


@contextmanager
def timed_network(calc: Any, seconds: list[float]) -> Any:
    """Append to `seconds` the time of every outermost call into the model: its methods and the edge gradient."""
    from dpa2_ase import derivatives

    depth = 0

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1
                if not depth:
                    seconds.append(time.perf_counter() - start)

        return call

    potential = calc.evaluator.potential
    own = [cls for cls in type(potential).__mro__ if cls.__module__.startswith("dpa2_ase")]
    names = {n for cls in own for n, f in vars(cls).items() if callable(f) and not n.startswith("_")}
    plain = derivatives.edge_gradient
    derivatives.edge_gradient = timed(plain)
    for name in names:
        setattr(potential, name, timed(getattr(potential, name)))
    try:
        yield
    finally:
        derivatives.edge_gradient = plain
        for name in names:
            delattr(potential, name)


def main() -> None:
    """Answer commands until standard input ends; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session = Session()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(session, command.pop("do"))(**command)
        except Exception as error:  # whatever fails in a library is reported, and the other programs go on
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
