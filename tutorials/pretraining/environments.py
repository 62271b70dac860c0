"""Make data/environments.extxyz.gz: environments.py DATA [FILE]

Labelled frames of most data sets of pretraining.yaml, few and small, but of every element: what the model has seen,
and what it has not. `atoms.info` says which data set a frame is from (`data_set`), which head learned from it (`head`),
and whether it was held out (`part`). Sets under licences that ask for more than a notice are left out.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from errors import is_extreme

FRAMES_OF_ELEMENT = 20  # of the universal set at least, as far as there are small ones
MOST_ATOMS = {"held out": 40, "training": 20}  # twice as many with sulfur in the company asked for
TETRELS = {"Si", "Ge", "Sn"}


def main() -> None:
    """Choose, shorten and write."""
    data, target = Path(sys.argv[1]), Path(__file__).parents[2] / "data" / "environments.extxyz.gz"
    frames = [*universal(data / "universal_pbe_mattersim_bench"), *particular(data)]
    write(sys.argv[2] if len(sys.argv) > 2 else target, frames, format="extxyz")
    print(f"{len(frames)} frames, {sum(map(len, frames))} atoms, {Counter(a.info['data_set'] for a in frames)}")


def universal(folder: Path) -> Iterator[Atoms]:
    """Held-out frames, and of the training frames enough of every element; sulfur in different company among them."""
    counts: Counter[str] = Counter()
    for part, file in (("held out", "valid.xyz"), ("training", "train.xyz")):
        frames = sound(read(folder / file, ":"))
        order = np.random.default_rng(0).permutation(len(frames))
        for atoms in (frames[i] for i in order if len(frames[i]) <= 2 * MOST_ATOMS[part]):
            elements, is_small = {*atoms.symbols}, len(atoms) <= MOST_ATOMS[part]
            is_wanted = min(counts[s] for s in elements) < FRAMES_OF_ELEMENT
            has_company = "S" in elements and ("P" in elements or bool(elements & TETRELS))
            if (is_small and (part == "held out" or is_wanted)) or has_company:
                counts.update(elements)
                yield noted(atoms, atoms.info["config_type"], "materials-pbe", part)


def particular(data: Path) -> Iterator[Atoms]:
    """A few held-out frames of every kind of the other sets."""
    for head, name, each in (
        ("metals-pbe", "metals_mlearn_pbe", 1),
        ("metals-pbe", "NiMoCu_snap_pbe", 1),
        ("refractory-pbe", "refractory_NbMoTaW_pbe", 1),
        ("semiconductors-pbe", "semiconductors_mlearn_pbe", 1),
        ("molecules-wb97x", "mol_3bpa_wb97x", 12),
        ("molecules-pbe", "mol_acac_pbe", 12),
        ("molecules-pbe", "mol_ethanol_methanol_pbe", 15),
        ("electrolyte-pbe", "electrolyte_ECEMC_pbe", 2),
    ):
        by_kind: dict[tuple[str, ...], list[Atoms]] = {}
        for atoms in sound(read(data / name / "valid.xyz", ":")):
            kind = ("molecule",) if "mol" in name or "ECEMC" in name else (*sorted({*atoms.symbols}), tag(atoms))
            by_kind.setdefault(kind, []).append(atoms)
        for frames in by_kind.values():
            step = max(len(frames) // each, 1)
            for atoms in islice(frames[::step], each):
                yield noted(atoms, name, head, "held out")


def sound(frames: Iterable[Atoms]) -> list[Atoms]:
    """Frames with forces, none of them extreme."""
    return [a for a in frames if len(a) > 2 and "forces" in a.calc.results and not is_extreme(a)]


def tag(atoms: Atoms) -> str:
    """What kind of frame it is, where that is known: a surface, a vacancy, ..."""
    kind = atoms.info.get("config_type", "")
    return kind if kind in ("AIMD-NVT", "Vacancy", "Surface", "Elastic") else str(atoms.info.get("tag", ""))


def noted(atoms: Atoms, data_set: str, head: str, part: str) -> Atoms:
    """The frame with fewer digits, and with where it comes from."""
    found = Atoms(atoms.numbers, atoms.positions.round(4), cell=atoms.cell.array.round(5), pbc=atoms.pbc)
    found.info |= {"data_set": data_set, "head": head, "part": part}
    digits = {"energy": 5, "forces": 4, "stress": 6}
    labels = {name: np.round(atoms.calc.results[name], n) for name, n in digits.items() if name in atoms.calc.results}
    found.calc = SinglePointCalculator(found, **labels)
    return found


if __name__ == "__main__":
    main()
