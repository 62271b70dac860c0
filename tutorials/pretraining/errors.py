"""Errors of a multi-task model on frames it has not seen: errors.py MODEL DATA [--json FILE]

One line per head and system as in pretraining.yaml: energy (meV/atom) and force (meV/Å) mean absolute errors over all
frames of |F| < 30 eV/Å and |P| < 200 GPa, stress errors (GPa) where there are labels, and the elements with the
largest force errors.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.io import read
from ase.units import GPa

from dpa2_ase import DPA2Calculator

MOST_FORCE, MOST_PRESSURE = 30.0, 200.0  # eV/Å, GPa
TARGETS = {  # meV/Å and meV/atom
    "materials-pbe": (350, 90),
    "metals-pbe": (60, 6),
    "refractory-pbe": (110, 6),
    "semiconductors-pbe": (90, 6),
    "water-pbe0": (45, 6),
    "molecules-wb97x": (60, 6),
    "mol_acac_pbe": (40, 6),
    "electrolyte-pbe": (90, 6),
    "perovskite-scan": (60, 6),
}


def labelled(path: Path) -> list[Atoms]:
    """Frames with forces that are not extreme."""
    return [atoms for atoms in read(path, ":") if "forces" in atoms.calc.results and not is_extreme(atoms)]


def is_extreme(atoms: Atoms) -> bool:
    """Whether a frame is beyond the limits of the training."""
    results = atoms.calc.results
    force = np.linalg.norm(results["forces"], axis=1).max(initial=0.0)
    pressure = abs(results["stress"][:3].mean()) / GPa if "stress" in results else 0.0
    return force > MOST_FORCE or pressure > MOST_PRESSURE


def errors(calculator: DPA2Calculator, frames: list[Atoms]) -> dict[str, Any]:
    """Mean absolute and root mean square errors, and those of forces by element."""
    found = calculator.evaluate(frames, ["energy", "forces", "stress"])
    energy, forces, stress, by_element = [], [], [], defaultdict(list)
    for atoms, result in zip(frames, found, strict=True):
        labels = atoms.calc.results
        energy.append((result["energy"] - labels["energy"]) / len(atoms))
        difference = result["forces"] - labels["forces"]
        forces.append(difference.ravel())
        for symbol, row in zip(atoms.symbols, difference, strict=True):
            by_element[symbol].append(np.abs(row).mean())
        if "stress" in labels and "stress" in result:
            stress.append(np.ravel(result["stress"] - labels["stress"]) / GPa)
    flat = np.concatenate(forces)
    return {
        "frames": len(frames),
        "energy_mae": 1e3 * float(np.abs(energy).mean()),
        "energy_rmse": 1e3 * float(np.sqrt(np.square(energy).mean())),
        "force_mae": 1e3 * float(np.abs(flat).mean()),
        "force_rmse": 1e3 * float(np.sqrt(np.square(flat).mean())),
        "stress_mae": float(np.abs(np.concatenate(stress)).mean()) if stress else None,
        "force_mae_by_element": {s: 1e3 * float(np.mean(rows)) for s, rows in sorted(by_element.items())},
    }


def main() -> None:
    """Print a table in Markdown; store everything with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--most", type=int, default=None, help="frames of each system, for a quick look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = yaml.safe_load(Path(__file__).with_name("pretraining.yaml").read_text())["heads"]
    table: dict[str, dict[str, Any]] = {}
    print("| head | system | frames | E MAE / meV/atom | F MAE / meV/Å | F RMSE | stress MAE / GPa | target F, E |")
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for head, entry in heads.items():
        calculator = DPA2Calculator(options.model, head=head)
        for path in entry["valid"]:
            system = Path(path).parent.name
            row = errors(calculator, labelled(options.data / path)[: options.most])
            table[f"{head}/{system}"] = row
            force, energy = TARGETS.get(system) or TARGETS.get(head, ("–", "–"))
            stress = "–" if row["stress_mae"] is None else f"{row['stress_mae']:.2f}"
            print(
                f"| {head} | {system} | {row['frames']} | {row['energy_mae']:.1f} | {row['force_mae']:.0f} | "
                f"{row['force_rmse']:.0f} | {stress} | {force}, {energy} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
