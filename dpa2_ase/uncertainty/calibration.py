"""`calibrate`: from labelled structures to a `Rigidity` beside the model file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from ..interfaces.ase import DPA2Calculator
from ..interfaces.context import autograd
from ..interfaces.rigidity import Rigidity, features_of, nearest, standard_model_of, write_rigidity
from ..maps.selection import farthest_points
from .quality import Quality, quality

CANDIDATES = 4000  # environments of an element among which references are chosen
USUAL = 0.99  # part of known environments that counts as usual
RIDGES = 10.0 ** np.arange(-12, 1)  # of the mean eigenvalue of the covariance
WARN, STOP = 1.5, 4.0  # times what is usual
MIN_VALIDATION = 5
FEWEST_HELD_OUT = 8  # environments of an element that say how far from known ones is usual
NEGLIGIBLE = 0.01  # of the median: spreads of forces that symmetry or distance makes vanish, not so errors of labels


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was found, where it is, and how well it tells the errors of the frames it was fitted to."""

    rigidity: Rigidity
    path: Path
    energies: Quality  # of validation structures, eV per atom
    forces: Quality | None  # of components of their forces, eV/Å


@dataclass(frozen=True, eq=False)
class _Frame:
    """One structure as the last layer sees it."""

    atoms: Atoms
    energy: float  # eV, of the model
    features: np.ndarray  # (N, D)
    node: np.ndarray  # (N, C)

    @property
    def symbols(self) -> np.ndarray:
        return np.array(self.atoms.get_chemical_symbols())


def calibrate(  # noqa: PLR0913  # each is a choice of the user's
    model: str | Path | None,
    frames: Iterable[Atoms],
    validation: Iterable[Atoms] | None = None,
    *,
    head: str | None = None,
    shift: bool = False,
    references: int = 256,
    target: str | Path | None = None,
    **options: Any,
) -> Calibration:
    """Calibrate the uncertainties of one head and store them beside the model file.

    Parameters
    ----------
    model, head, options
        As for `DPA2Calculator`; a file, so that the calibration knows what it belongs to.
    frames
        What the model was trained on, or a part that stands for it; their labels are not looked at.
    validation
        Structures with energies (and forces) as results of their calculator that the model was not trained on; by
        default every fifth of `frames`, which then should not be training data.
    shift
        Take an energy per atom of each element off the errors first: for labels with another zero of energy.
    references
        Known environments to keep of each element.
    target
        File to write; by default ``MODEL.uncertainty.npz``.

    Raises
    ------
    ValueError
        For too few frames, frames without energies, and models without a last layer.
    """
    calc = DPA2Calculator(model, head=head, **options)
    standard_model_of(calc.evaluator.reference)
    known, held_out = _split([*frames], None if validation is None else [*validation])
    seen = [_look(calc, atoms) for atoms in known]
    tested = [_look(calc, atoms) for atoms in held_out]
    errors = _energy_errors(tested, shift)  # eV per atom
    rigidity, spread = _last_layer(seen, tested, errors)
    rigidity = _with_references(rigidity, seen, tested, references)
    energies = quality(errors, rigidity.energy_scale * spread)
    forces = None
    if all("forces" in _labels(frame.atoms) for frame in tested):
        scale, forces = _forces(calc, rigidity, held_out)
        rigidity = replace(rigidity, forces_scale=scale)
    source = calc.source
    path = write_rigidity(source["model"], source["head"], rigidity, target)
    return Calibration(rigidity, path, energies, forces)


def _split(frames: list[Atoms], validation: list[Atoms] | None) -> tuple[list[Atoms], list[Atoms]]:
    if validation is None:
        validation = frames[::5]
        frames = [atoms for index, atoms in enumerate(frames) if index % 5]
    if len(validation) < MIN_VALIDATION or not frames:
        raise ValueError(
            f"{len(frames)} frames and {len(validation)} to validate are too few; "
            f"give at least one and {MIN_VALIDATION}, better hundreds"
        )
    for index, atoms in enumerate(validation):
        if "energy" not in _labels(atoms):
            raise ValueError(f"validation frame {index} has no energy as a result of its calculator")
    return frames, validation


def _labels(atoms: Atoms) -> Mapping[str, Any]:
    return getattr(atoms.calc, "results", {})


@autograd()
def _look(calc: DPA2Calculator, atoms: Atoms) -> _Frame:
    evaluator = calc.evaluator
    inputs = evaluator.reader.read([atoms], [evaluator.reader.neighbor_list(atoms, 0.0)])
    parameters = (inputs.fparam, inputs.aparam)
    with evaluator.computing(), torch.no_grad():
        model = standard_model_of(evaluator.potential)
        output = model.represent(inputs.graph)
        atomic = model.contributions(output, inputs.graph, *parameters)
        fitting = standard_model_of(evaluator.reference).fitting
        features = features_of(fitting, output.node, inputs.graph, *parameters)
    return _Frame(atoms, float(atomic.sum()), features.cpu().numpy(), output.node.double().cpu().numpy())


def _energy_errors(frames: Sequence[_Frame], shift: bool) -> np.ndarray:
    """Errors per atom (S,), eV."""
    sizes = np.array([max(len(frame.atoms), 1) for frame in frames])
    errors = np.array([frame.energy - _labels(frame.atoms)["energy"] for frame in frames]) / sizes
    if shift:
        elements = sorted({symbol for frame in frames for symbol in frame.symbols.tolist()})
        shares = np.array([[np.mean(frame.symbols == symbol) for symbol in elements] for frame in frames])
        errors = errors - shares @ np.linalg.lstsq(shares, errors, rcond=None)[0]
    return errors


def _last_layer(seen: Sequence[_Frame], tested: Sequence[_Frame], errors: np.ndarray) -> tuple[Rigidity, np.ndarray]:
    """The likeliest ridge and scale, and the spread per atom of the tested frames before scaling (S,).

    Structures are fitted by their energy per atom, so the covariance is that of mean features.
    """
    rows = np.array([frame.features.mean(axis=0) for frame in seen])
    values, vectors = np.linalg.eigh(rows.T @ rows)
    values = values.clip(0.0)
    projected = np.array([frame.features.mean(axis=0) for frame in tested]) @ vectors  # per atom
    best: tuple[float, float, np.ndarray] | None = None
    for ridge in RIDGES * values.mean():
        variance = (projected**2 / (values + ridge)).sum(axis=1)
        surprise = float(np.log(variance).mean() + np.log((errors**2 / variance).mean() + 1e-300))
        if best is None or surprise < best[0]:
            best = (surprise, ridge, variance)
    assert best is not None  # there are ridges
    _, ridge, variance = best
    scale = float(np.sqrt((errors**2 / variance).mean()))
    facts = {"ridge": float(ridge), "frames": float(len(seen)), "validation": float(len(tested))}
    factor = (vectors / np.sqrt(values + ridge)).T
    return Rigidity(factor, scale, float("nan"), {}, {}, {}, facts), np.sqrt(variance)


def _with_references(rigidity: Rigidity, seen: Sequence[_Frame], tested: Sequence[_Frame], count: int) -> Rigidity:
    """Add known environments, how far from them is usual, and where results warn and stop."""
    known, usual = {}, {}
    rng = np.random.default_rng(0)
    for symbol in sorted({s for frame in seen for s in frame.symbols.tolist()}):
        rows = np.concatenate([frame.node[frame.symbols == symbol] for frame in seen])
        rows = rows[rng.permutation(len(rows))[:CANDIDATES]]
        known[symbol] = rows[farthest_points(rows, count)[0]].astype(np.float32)
        others = [frame.node[frame.symbols == symbol] for frame in tested]
        usual[symbol] = nearest(np.concatenate([rows[:0], *others]), known[symbol])
    everything = np.concatenate([*usual.values()])  # stands for elements of which next to nothing was held out
    if not len(everything):
        raise ValueError("the validation frames have no atom of an element of the known frames; give others")
    reach = {
        symbol: max(
            float(np.quantile(found if len(found) >= FEWEST_HELD_OUT else everything, USUAL)),
            1e-6 * float(np.linalg.norm(known[symbol], axis=1).max()),
        )
        for symbol, found in usual.items()
    }
    spreads = np.concatenate([rigidity.spread(frame.features) for frame in tested])
    usual_energy = rigidity.energy_scale * float(np.quantile(spreads, USUAL))
    thresholds = {
        "energies_uncertainty": (WARN * usual_energy, STOP * usual_energy),
        "representation_distance": (WARN, STOP),
    }
    return replace(rigidity, references=known, reach=reach, thresholds=thresholds)


def _forces(calc: DPA2Calculator, rigidity: Rigidity, frames: Sequence[Atoms]) -> tuple[float, Quality]:
    """Scale of the uncertainties of forces, and their quality."""
    calc.evaluator.rigidity = replace(rigidity, forces_scale=1.0)
    calc.implemented_properties = calc.evaluator.properties
    errors, spreads = [], []
    for atoms in frames:
        (found,) = calc.evaluate([atoms], ["forces", "forces_uncertainty"])
        errors.append((found["forces"] - _labels(atoms)["forces"]).ravel())
        spreads.append(found["forces_uncertainty"].ravel())
    error, spread = np.concatenate(errors), np.concatenate(spreads)
    usable = spread > NEGLIGIBLE * np.median(spread)
    scale = float(np.sqrt((error[usable] ** 2).sum() / (spread[usable] ** 2).sum()))  # not led by the smallest
    return scale, quality(error[usable], scale * spread[usable])
