"""Errors of a multi-task model on frames it has not seen: errors.py MODEL DATA [--json FILE] [--card FILE]

One line per head and system as in pretraining.yaml: energy (meV/atom) and force (meV/Å) mean absolute errors over all
frames of |F| < 30 eV/Å and |P| < 200 GPa that are not in the training set too, and stress errors (GPa) where there are
labels; then force errors by element, the largest first, and both errors by kind of frame (`config_type`). Heads of
several systems have a line for all of them together. With --train the frames are those the model was trained on.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.io import read
from ase.units import GPa

from dpa2_ase import DPA2Calculator

HEADER = """| head | system | frames | E MAE / meV/atom | F MAE / meV/Å | F RMSE | stress MAE / GPa | aim F, E |
|---|---|---:|---:|---:|---:|---:|---|"""
BEGIN, END = "<!-- errors -->", "<!-- end of errors -->"
TOGETHER = "together"  # the name of all systems of a head
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
    energy, forces, stress = [], [], []
    by_element, by_kind = defaultdict(list), defaultdict(list)
    for atoms, result in zip(frames, found, strict=True):
        labels = atoms.calc.results
        energy.append((result["energy"] - labels["energy"]) / len(atoms))
        difference = result["forces"] - labels["forces"]
        forces.append(difference.ravel())
        for symbol, row in zip(atoms.symbols, difference, strict=True):
            by_element[symbol].append(np.abs(row).mean())
        by_kind[str(atoms.info.get("config_type", "all"))].append((abs(energy[-1]), np.abs(difference).ravel()))
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
        "by_kind": {kind: _mean_errors(rows) for kind, rows in sorted(by_kind.items())},
    }


def _mean_errors(rows: list[tuple[float, np.ndarray]]) -> dict[str, float]:
    """Mean absolute errors of some frames, given those of each."""
    energy, forces = zip(*rows, strict=True)
    return {
        "frames": len(rows),
        "energy_mae": 1e3 * float(np.mean(energy)),
        "force_mae": 1e3 * float(np.concatenate(forces).mean()),
    }


def unseen(frames: list[Atoms], seen: list[Atoms]) -> list[Atoms]:
    """Frames that no other set holds under another name: copper and nickel of two published sets overlap."""
    known = {_fingerprint(atoms) for atoms in seen}
    return [atoms for atoms in frames if _fingerprint(atoms) not in known]


def _fingerprint(atoms: Atoms) -> tuple[str, float, float]:
    """The same for the same structure in another order or setting, whatever its energy."""
    forces = np.linalg.norm(atoms.calc.results["forces"], axis=1).sum()
    return atoms.get_chemical_formula(), round(abs(np.linalg.det(atoms.cell)), 2), round(forces, 3)


def rows_of(model: str, data: Path, most: int | None, *, train: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Head, system and errors of every held-out set, or of the training set beside it."""
    heads = yaml.safe_load(Path(__file__).with_name("pretraining.yaml").read_text())["heads"]
    for head, entry in heads.items():
        calculator = DPA2Calculator(model, head=head)
        seen = [atoms for path in entry["train"] for atoms in read(data / path, ":") if "forces" in atoms.calc.results]
        together: list[Atoms] = []
        for path in entry["valid"]:
            frames = labelled((data / path).with_name("train.xyz")) if train else unseen(labelled(data / path), seen)
            frames = frames[:: math.ceil(len(frames) / most)] if most else frames
            together += frames
            yield head, Path(path).parent.name, errors(calculator, frames)
        if len(entry["valid"]) > 1:
            yield head, TOGETHER, errors(calculator, together)


def table_line(head: str, system: str, row: dict[str, Any]) -> str:
    """Markdown."""
    force, energy = TARGETS.get(system) or TARGETS.get(head, ("–", "–"))
    stress = "–" if row["stress_mae"] is None else f"{row['stress_mae']:.2f}"
    return (
        f"| {head} | {system} | {row['frames']} | {row['energy_mae']:.1f} | {row['force_mae']:.0f} | "
        f"{row['force_rmse']:.0f} | {stress} | {force}, {energy} |"
    )


def element_lines(table: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Force errors by element, the largest first."""
    for name, row in table.items():
        by_element = sorted(row["force_mae_by_element"].items(), key=lambda item: -item[1])
        yield f"- {name}: " + ", ".join(f"{symbol} {error:.0f}" for symbol, error in by_element)


def kind_lines(table: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Errors by kind of frame where there are several."""
    for name, row in table.items():
        kinds = [f"{k} {v['energy_mae']:.1f} / {v['force_mae']:.0f}" for k, v in row["by_kind"].items()]
        if len(kinds) > 1:
            yield f"- {name}: " + ", ".join(kinds)


def main() -> None:
    """Print tables in Markdown; store everything with --json, or put the tables into a model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--card", type=Path, help="a file whose text between the marks of tables is replaced")
    parser.add_argument("--most", type=int, default=None, help="frames of each system, for a quick look")
    parser.add_argument("--train", action="store_true", help="frames of the training sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, Any]] = {}
    lines = [HEADER]
    print(HEADER)
    for head, system, row in rows_of(options.model, options.data, options.most, train=options.train):
        if system != TOGETHER:
            table[f"{head}, {system}"] = row
        lines.append(table_line(head, system, row))
        print(lines[-1], flush=True)
    details = ["", "Force errors by element, meV/Å:", "", *element_lines(table)]
    details += ["", "Errors by kind of frame, E in meV/atom / F in meV/Å:", "", *kind_lines(table)]
    lines += details
    print("\n".join(details))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))
    if options.card:
        before, _, rest = options.card.read_text().partition(BEGIN)
        options.card.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
