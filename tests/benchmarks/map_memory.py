"""Peak memory and time of describing, mapping and selecting against the number of structures.

Run ``python tests/benchmarks/map_memory.py [NUMBERS…]``; every number has a process of its own. The structures are
rattled cubic cells of Cu, Ni and Si (4, 4 and 8 atoms), made one after the other, so that all memory is the package's.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from ase import Atoms
from ase.build import bulk

NUMBERS = (1000, 2000, 5000, 10000, 20000)
MIB = 1024.0


def structures(count: int) -> Iterator[Atoms]:
    """So many rattled cells."""
    for index in range(count):
        atoms = bulk(("Cu", "Ni", "Si")[index % 3], cubic=True)
        atoms.rattle(0.1, seed=index)
        yield atoms


def peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def measure(count: int) -> str:
    """One row of the table."""
    from dpa2_ase import DPA2Calculator
    from dpa2_ase.maps import describe, make_map
    from dpa2_ase.maps.selection import select_farthest

    calc = DPA2Calculator(head="metals-pbe")
    calc.get_potential_energy(bulk("Cu"))
    before, started = peak(), time.perf_counter()
    environments = describe(structures(count), calc)
    described, seconds = peak() - before, time.perf_counter() - started
    make_map(environments, "pca")
    select_farthest(environments, 100)
    return (
        f"{count:>10} {len(environments):>8} {described:>14.0f} {peak() - before:>17.0f} "
        f"{1e3 * seconds / len(environments):>8.2f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(measure(int(sys.argv[2])))
    else:
        print("structures    atoms  describe / MiB  map, select / MiB  ms/atom")
        for number in sys.argv[1:] or map(str, NUMBERS):
            subprocess.run([sys.executable, __file__, "--one", number], check=True)
