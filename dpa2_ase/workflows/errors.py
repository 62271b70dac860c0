"""Errors of a calculator against labelled structures: energies, forces and stresses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.units import GPa

from . import plots
from .batch import evaluate
from .files import write_csv
from .results import Result, provenance_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "MPa"}
SCALES = {"energy": 1000.0, "forces": 1000.0, "stress": 1000.0}  # from eV/atom, eV/Å, GPa
MANY = 20_000  # points of a parity plot; of more, evenly chosen ones are drawn
NO_GROUP = "without group"


@dataclass(frozen=True)
class Error:
    """How far predictions are from labels; units of `UNITS`."""

    count: int  # of numbers compared
    mae: float
    rmse: float
    worst: float  # largest absolute error


@dataclass(frozen=True, eq=False, kw_only=True)
class Errors(Result):
    """Labels and predictions; letters in shapes: F frames, C components of all forces, V of all stresses.

    Attributes
    ----------
    names
        Of the frames, (F).
    groups
        To which each belongs, (F).
    total
        Errors of ``energy``, ``forces`` and ``stress``, those that have labels.
    by_group
        The same for every group.
    by_element
        Errors of forces on the atoms of every element.
    labels, predictions
        ``energy`` (eV/atom, one per labelled frame), ``forces`` (C,) eV/Å, ``stress`` (V,) GPa.
    frame_errors
        Columns with a value per frame, NaN without label: ``energy`` (signed), ``forces`` and ``stress`` (RMSE), in
        units of `UNITS`.
    shift
        eV, added to the predictions of each element's atoms, by element; empty if none was fitted.
    """

    name: ClassVar[str] = "errors"

    names: tuple[str, ...]
    groups: tuple[str, ...]
    total: dict[str, Error]
    by_group: dict[str, dict[str, Error]]
    by_element: dict[str, Error]
    labels: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    frame_errors: dict[str, np.ndarray]
    shift: dict[str, float]

    def worst(self, count: int = 10) -> list[tuple[str, dict[str, float]]]:
        """Names and errors of the frames that are worst, by forces if they have labels and by energies otherwise."""
        ranked = next(name for name in ("forces", "energy", "stress") if name in self.total)
        size = np.nan_to_num(np.abs(self.frame_errors[ranked]), nan=-1.0)
        chosen = np.argsort(-size, kind="stable")[:count]
        columns = [name for name in UNITS if name in self.total]
        return [(self.names[i], {name: float(self.frame_errors[name][i]) for name in columns}) for i in chosen]

    def to_dict(self) -> dict[str, Any]:
        """Errors and worst frames; single labels and predictions are in the table."""
        data = super().to_dict()
        for name in ("labels", "predictions", "frame_errors", "names", "groups"):
            del data[name]
        data |= {"frames": len(self.names), "units": UNITS}
        return data | {"worst": [{"frame": name} | errors for name, errors in self.worst()]}

    def write(self, folder: str | Path) -> list[Path]:
        """Write what every result writes, and a table with the errors of every frame."""
        columns: dict[str, Sequence[Any]] = {"frame": self.names, "group": self.groups}
        for name in self.total:
            values = self.frame_errors[name].tolist()
            columns[f"{name}_{UNITS[name].replace('/', '_per_')}"] = ["" if math.isnan(v) else v for v in values]
        columns = {name: [_quoted(value) for value in values] for name, values in columns.items()}
        return [*super().write(folder), write_csv(Path(folder) / "errors.csv", columns)]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw predictions against labels of forces (or of energies) into `ax`; without one, of all quantities."""
        if ax is not None:
            return self._parity(ax, "forces" if "forces" in self.total else next(iter(self.total)))
        names = [name for name in UNITS if name in self.total]
        axes = plots.subplots(1, len(names), (3.4 * len(names), 3.4))
        for each, name in zip(axes, names, strict=True):
            self._parity(each, name)
        return axes[0]

    def _parity(self, ax: Axes, name: str) -> Axes:
        label, found = self.labels[name], self.predictions[name]
        chosen = np.unique(np.linspace(0, len(label) - 1, min(MANY, len(label))).astype(int))
        ends = [float(min(label.min(), found.min())), float(max(label.max(), found.max()))]
        ax.plot(ends, ends, color=plots.COLORS["gray"], lw=0.8)
        ax.plot(
            label[chosen],
            found[chosen],
            ".",
            color=plots.COLORS["blue"],
            markersize=3 if len(chosen) > 2000 else 6,
            alpha=0.6,
            mew=0,
        )
        unit = {"energy": "eV/atom", "forces": "eV/Å", "stress": "GPa"}[name]
        ax.set(xlabel=f"{name} of the labels ({unit})", ylabel=f"{name} of the model ({unit})")
        error = self.total[name]
        ax.set_title(f"MAE {error.mae:.3g}, RMSE {error.rmse:.3g} {UNITS[name]}")
        return ax


def errors(  # noqa: PLR0913  # the choices of a comparison
    structures: Sequence[Atoms],
    calc: Any,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    shift: bool = False,
    on_result: Callable[[int, int], None] | None = None,
) -> Errors:
    """Compare a calculator with the labels of structures, which are left as they were.

    Parameters
    ----------
    structures
        Labels are the stored results of their calculators: ``energy``, ``forces``, ``stress``, those that exist.
    calc
        An ASE calculator; evaluates all structures as one batch if it can.
    names, groups
        Of the structures; by default their numbers, and ``info["config_type"]`` or ``info["group"]``.
    shift
        Add an energy per atom of each element to the predictions, fitted to the labels: codes and functionals count
        energies from different zeros.
    on_result
        Called with the number of structures done and their total.

    Raises
    ------
    ValueError
        Without structures or without any label.
    """
    frames = list(structures)
    if not frames:
        raise ValueError("no structures to evaluate")
    wanted = [_labels(atoms) for atoms in frames]
    known = [name for name in UNITS if any(name in labels for labels in wanted)]
    if not known:
        raise ValueError("no structure has an energy, forces or a stress to compare with; name the keys they have")
    found = evaluate(frames, calc, [*known], optional=["stress"], on_result=on_result)
    zeros = _fit_shift(frames, wanted, found) if shift and "energy" in known else {}
    pairs = [_pair(atoms, known, w, f, zeros) for atoms, w, f in zip(frames, wanted, found, strict=True)]
    chosen_names = tuple(map(str, names if names is not None else range(len(frames))))
    chosen_groups = tuple(groups) if groups is not None else tuple(_group(atoms) for atoms in frames)
    kinds = list(dict.fromkeys(chosen_groups))
    return Errors(
        names=chosen_names,
        groups=chosen_groups,
        total=_errors(pairs, known),
        by_group={kind: _errors(_chosen(pairs, chosen_groups, kind), known) for kind in kinds},
        by_element=_by_element(frames, pairs),
        labels={name: np.concatenate([p[name][0] for p in pairs if name in p]) for name in known},
        predictions={name: np.concatenate([p[name][1] for p in pairs if name in p]) for name in known},
        frame_errors={name: np.array([_frame_error(p, name) for p in pairs]) for name in known},
        shift=zeros,
        provenance=provenance_of(calc, shift=shift),
    )  # fmt: skip


Pair = Mapping[str, tuple[np.ndarray, np.ndarray]]  # label and prediction, flat, by quantity


def _labels(atoms: Atoms) -> dict[str, np.ndarray]:
    results = getattr(atoms.calc, "results", {})
    found = {name: np.asarray(results[name], dtype=float) for name in UNITS if results.get(name) is not None}
    if "stress" in found and found["stress"].shape != (6,):
        full = found["stress"].reshape(3, 3)
        found["stress"] = full[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    return found


def _group(atoms: Atoms) -> str:
    return str(atoms.info.get("config_type", atoms.info.get("group", NO_GROUP)))


def _pair(
    atoms: Atoms, known: Sequence[str], wanted: Mapping[str, Any], found: Mapping[str, Any], zeros: Mapping[str, float]
) -> Pair:
    pair = {}
    for name in known:
        if name not in wanted or name not in found:
            continue
        if name == "energy":
            zero = sum(zeros.get(symbol, 0.0) for symbol in atoms.get_chemical_symbols())
            values = [np.array([float(e) / len(atoms)]) for e in (wanted[name], float(found[name]) + zero)]
        else:
            unit = GPa if name == "stress" else 1.0
            values = [np.ravel(v).astype(float) / unit for v in (wanted[name], found[name])]
        pair[name] = (values[0], values[1])
    return pair


def _chosen(pairs: Sequence[Pair], groups: Sequence[str], kind: str) -> list[Pair]:
    return [pair for pair, group in zip(pairs, groups, strict=True) if group == kind]


def _errors(pairs: Sequence[Pair], known: Sequence[str]) -> dict[str, Error]:
    result = {}
    for name in known:
        parts = [pair[name] for pair in pairs if name in pair]
        if parts:
            result[name] = _error(np.concatenate([found - label for label, found in parts]) * SCALES[name])
    return result


def _error(difference: np.ndarray) -> Error:
    size = np.abs(difference)
    return Error(size.size, float(size.mean()), float(np.sqrt((size**2).mean())), float(size.max()))


def _by_element(frames: Sequence[Atoms], pairs: Sequence[Pair]) -> dict[str, Error]:
    collected: dict[str, list[np.ndarray]] = {}
    for atoms, pair in zip(frames, pairs, strict=True):
        if "forces" not in pair:
            continue
        label, found = pair["forces"]
        difference = (found - label).reshape(-1, 3) * SCALES["forces"]
        symbols = np.array(atoms.get_chemical_symbols())
        for symbol in sorted({*symbols}):
            collected.setdefault(symbol, []).append(difference[symbols == symbol].ravel())
    return {symbol: _error(np.concatenate(parts)) for symbol, parts in sorted(collected.items())}


def _frame_error(pair: Pair, name: str) -> float:
    if name not in pair:
        return float("nan")
    difference = (pair[name][1] - pair[name][0]) * SCALES[name]
    return float(difference[0]) if name == "energy" else float(np.sqrt((difference**2).mean()))


def _fit_shift(
    frames: Sequence[Atoms], wanted: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Energy per atom of each element (eV) that brings predictions closest to labels; the smallest where many do."""
    rows = [
        (a, float(w["energy"]) - float(f["energy"]))
        for a, w, f in zip(frames, wanted, found, strict=True)
        if "energy" in w
    ]
    symbols = sorted({symbol for atoms, _ in rows for symbol in atoms.get_chemical_symbols()})
    counts = np.array(
        [[atoms.get_chemical_symbols().count(symbol) for symbol in symbols] for atoms, _ in rows], dtype=float
    )
    sizes = counts.sum(axis=1)
    fitted, *_ = np.linalg.lstsq(counts / sizes[:, None], np.array([rest for _, rest in rows]) / sizes, rcond=None)
    return dict(zip(symbols, map(float, fitted), strict=True))


def _quoted(value: Any) -> Any:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\n') else value
