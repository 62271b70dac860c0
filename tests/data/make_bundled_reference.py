"""Numbers of DeePMD-kit for the bundled model: run with a Python that has deepmd-kit, from the root of the repository.

Writes bundled-reference.npz: for every head a few structures with energy, forces, virial and atomic energies (eV, Å).
"""

from pathlib import Path

import numpy as np
from deepmd.infer import DeepPot

MODEL = Path("data/dpa2-multitask.pt")
HEADS = {
    "materials-pbe": ("Na", "Cl", "Fe", "O"), "metals-pbe": ("Ni", "Mo"), "refractory-pbe": ("Nb", "Mo", "Ta", "W"),
    "semiconductors-pbe": ("Si", "Ge"), "water-pbe0": ("O", "H", "H"), "molecules-wb97x": ("C", "H", "N", "O"),
    "molecules-pbe": ("C", "H", "O"), "electrolyte-pbe": ("C", "H", "O"),
    "perovskite-scan": ("C", "H", "N", "I", "Pb"), "diatomics-pbe": ("Au", "U"),
}  # fmt: skip
CELL = np.array([[7.1, 0.3, -0.2], [0.5, 6.8, 0.4], [-0.3, 0.2, 7.3]])  # Å


def positions(n_atoms, seed):
    """Points in the cell at least 1.3 Å from each other, images included."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < n_atoms:
        point = rng.random(3)
        apart = [(d - d.round()) @ CELL for d in (point - other for other in found)]
        if all(np.linalg.norm(vector) > 1.3 for vector in apart):
            found.append(point)
    return np.array(found) @ CELL


def main():
    numbers = {}
    for seed, (head, symbols) in enumerate(HEADS.items()):
        model = DeepPot(str(MODEL), head=head)
        numbers["type_map"] = np.array(model.get_type_map())
        names = [symbols[i % len(symbols)] for i in range(12)]
        types = np.array([model.get_type_map().index(name) for name in names])
        coords = positions(len(types), seed)
        for name, cell in (("periodic", CELL), ("free", None)):
            box = None if cell is None else cell.reshape(1, 9)
            energy, force, virial, atomic, _ = model.eval(coords.reshape(1, -1), box, types, atomic=True)
            row = {"coords": coords, "types": types, "energy": energy.reshape(()), "forces": force[0]}
            row |= {"virial": virial.reshape(3, 3), "atomic_energies": atomic.reshape(-1)}
            row |= {} if cell is None else {"cell": cell}
            numbers |= {f"{head}/{name}/{key}": value for key, value in row.items()}
    np.savez_compressed(Path(__file__).with_name("bundled-reference.npz"), **numbers)


if __name__ == "__main__":
    main()
