"""Make data/environments.extxyz.gz: environments.py DATA [FILE]

Labelled frames of most data sets of pretraining.yaml, few and small, but of every element: what the model has seen,
and what it has not. `atoms.info` says which data set a frame is from (`data_set`), which head learned from it (`head`),
and whether it was held out (`part`). Sets under licences that ask for more than a notice are left out.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from errors import is_extreme

sys.path.append(str(Path(__file__).parents[1]))
from surroundings import QUESTIONS, surroundings  # a folder up

FRAMES_OF_ELEMENT = 20  # of the universal set at least, as far as there are small ones
MOST_ATOMS = {"held out": 40, "training": 20}
COMPOUNDS = 40  # for every kind of neighbors that the tutorial on maps asks about, one frame each
MOST_ATOMS_ASKED = {"S": 80}  # rare; of other elements as many as in other training frames


def main() -> None:
    """Choose, shorten and write."""
    data, target = Path(sys.argv[1]), Path(__file__).parents[2] / "data" / "environments.extxyz.gz"
    frames = [*universal(data / "universal_pbe_mattersim_bench"), *particular(data)]
    write(sys.argv[2] if len(sys.argv) > 2 else target, frames, format="extxyz")
    print(f"{len(frames)} frames, {sum(map(len, frames))} atoms, {Counter(a.info['data_set'] for a in frames)}")


def universal(folder: Path) -> Iterator[Atoms]:
    """Held-out frames, and of the training frames enough of every element and of every company asked about."""
    counts: Counter[str] = Counter()
    compounds: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for part, file in (("held out", "valid.xyz"), ("training", "train.xyz")):
        frames = sound(read(folder / file, ":"))
        order = np.random.default_rng(0).permutation(len(frames))
        for atoms in (frames[i] for i in order):
            elements, formula = {*atoms.symbols}, atoms.get_chemical_formula()
            is_wanted = part == "held out" or min(counts[s] for s in elements) < FRAMES_OF_ELEMENT
            asked = [kind for kind in companies(atoms) if formula not in compounds[kind]]
            if (is_wanted and len(atoms) <= MOST_ATOMS[part]) or any(len(compounds[k]) < COMPOUNDS for k in asked):
                counts.update(elements)
                for kind in asked:
                    compounds[kind].add(formula)
                yield noted(atoms, atoms.info["config_type"], "materials-pbe", part)


def companies(atoms: Atoms) -> list[tuple[str, int]]:
    """Elements that the tutorial asks about, and which of the two kinds of neighbors they have here."""
    most = dict.fromkeys(QUESTIONS, MOST_ATOMS["training"]) | MOST_ATOMS_ASKED
    asked = [s for s in QUESTIONS if s in atoms.symbols and len(atoms) <= most[s]]
    if not asked:
        return []
    near, symbols = surroundings([atoms]).near, np.array(atoms.get_chemical_symbols())
    return [(s, side) for s in asked for side in (0, 1) if {*near[symbols == s]} & QUESTIONS[s][side]]


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
