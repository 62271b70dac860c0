r"""How far a model's energies can be trusted, from the rigidity of its last layer.

The energy is linear in the activations :math:`\phi_i` before the last layer of the fitting net, so its variance under
the data the model was fitted to is that of a linear model,

.. math:: \sigma_E^2 = \alpha^2\, \Phi^T (F^T F + \varsigma^2)^{-1} \Phi, \quad \Phi = \sum_i \phi_i,

with one row of F per structure, and :math:`\alpha, \varsigma` calibrated on structures whose error is known.

References
----------
LLPR: F. Bigi, S. Chong, M. Ceriotti, F. Grasselli, https://doi.org/10.1088/2632-2153/ad805f
Atoms: S. Chong, F. Grasselli, C. Ben Mahmoud, J. D. Morrow, V. L. Deringer, M. Ceriotti,
https://doi.org/10.1021/acs.jctc.3c00704
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import file_sha256
from ..graph import AtomicGraph
from ..model import Potential
from ..nn.atomic_models import StandardModel
from ..nn.fitting import Fitting

FORMAT = 1
MEMBERS = 16  # random last layers whose forces spread as the posterior's: their variance is right within a third
SEED = 2024
NAMES = ("energy_uncertainty", "energies_uncertainty", "representation_distance")
ON_REQUEST = "forces_uncertainty"


@dataclass(frozen=True, eq=False)
class Rigidity:
    """A calibrated last layer.

    Letters: D features, C channels of the representation, R references.
    """

    factor: np.ndarray  # (D, D); the inverse covariance is its transpose times itself
    energy_scale: float  # alpha, eV
    forces_scale: float  # the same of forces, eV/Å; not a number where no forces were known
    references: Mapping[str, np.ndarray]  # element -> representations (R, C) of known environments
    reach: Mapping[str, float]  # element -> distance to them that few known environments exceed
    thresholds: Mapping[str, tuple[float, float]]  # name of a result -> where its largest value warns, and stops
    facts: Mapping[str, float] = field(default_factory=dict)  # what the calibration says of itself

    @cached_property
    def members(self) -> np.ndarray:
        """Random last layers (D, `MEMBERS`), mean zero and covariance the inverse covariance; always the same."""
        draws = np.random.default_rng(SEED).standard_normal((len(self.factor), MEMBERS))
        return self.factor.T @ (draws / np.sqrt((draws**2).mean(axis=1, keepdims=True)))

    def spread(self, features: np.ndarray) -> np.ndarray:
        """Standard deviations (K,) of last layers at `features` (K, D), before calibration."""
        return np.linalg.norm(features @ self.factor.T, axis=1)

    def distances(self, symbols: np.ndarray, representations: np.ndarray) -> np.ndarray:
        """Distance (N,) to the nearest known environment of the same element, in units of its `reach`."""
        found = np.full(len(symbols), np.inf)
        for symbol in np.unique(symbols):
            known = self.references.get(str(symbol))
            if known is not None:
                rows = symbols == symbol
                found[rows] = nearest(representations[rows], known) / self.reach[str(symbol)]
        return found

    def results(self, symbols: np.ndarray, features: np.ndarray, representations: np.ndarray) -> dict[str, object]:
        """What a calculator tells of one structure, from its atoms' features (N, D) and representations (N, C)."""
        found: dict[str, object] = {
            "energy_uncertainty": self.energy_scale * float(self.spread(features.sum(axis=0, keepdims=True))[0]),
            "energies_uncertainty": self.energy_scale * self.spread(features),
            "representation_distance": self.distances(symbols, representations),
        }
        return found | {"thresholds": dict(self.thresholds)}


def nearest(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Distance (N,) of every row to the nearest of `known` (R, C)."""
    origin = known.mean(axis=0, dtype=np.float64)  # fewer digits are lost near the origin
    a, b = rows - origin, known - origin
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squared, 0.0).min(axis=1))


def standard_model_of(potential: Potential) -> StandardModel:
    """The model whose fitting net has the last layer that is looked at.

    Raises
    ------
    ValueError
        For models that are more than a descriptor with a fitting net of energies.
    """
    if not isinstance(potential.model, StandardModel) or potential.kind != "ener":
        raise ValueError("uncertainties are those of energy models of one descriptor and one fitting net")
    return potential.model


def features_of(
    fitting: Fitting, node: Tensor, graph: AtomicGraph, fparam: Tensor | None = None, aparam: Tensor | None = None
) -> Tensor:
    """Inputs of the last layer and its constant, (N, D), float64; differentiable by `node` (N, C)."""
    others = fitting.parameter_inputs(graph, fparam, aparam)
    node = node.to(fitting.bias_atom_e.dtype)
    hidden = fitting.net[:-1](torch.cat([node, *others], dim=1))
    constant = torch.ones(len(node), 1, dtype=torch.float64, device=node.device)
    if fitting.config.subtracts_vacuum:  # the constant of the layer goes with it
        hidden = hidden - fitting.net[:-1](torch.cat([torch.zeros_like(node), *others], dim=1))
        constant = torch.zeros_like(constant)
    return torch.cat([hidden.double(), constant], dim=1)


# ---- files ----------------------------------------------------------------------------------------------------------


def uncertainty_file(model: str | Path) -> Path:
    """Where the calibration of a model file is kept: beside it."""
    path = Path(model)
    return path.with_name(f"{path.name}.uncertainty.npz")


def write_rigidity(model: str | Path, head: str, rigidity: Rigidity, target: str | Path | None = None) -> Path:
    """Store the calibration of one head; those of other heads of the same file stay."""
    path = Path(target) if target is not None else uncertainty_file(model)
    digest = file_sha256(model)
    stored: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            if str(file["sha256"]) == digest:
                stored = {name: file[name] for name in file.files if not name.startswith(f"{head}/")}
    stored |= {"format": np.array(FORMAT), "sha256": np.array(digest)}
    stored |= {f"{head}/{name}": value for name, value in _arrays(rigidity).items()}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.resolve().parent)
    with os.fdopen(handle, "wb") as stream:
        np.savez_compressed(stream, **stored)  # type: ignore[arg-type]  # names are not those of its options
    os.replace(temporary, path)
    return path


def _arrays(rigidity: Rigidity) -> dict[str, np.ndarray]:
    found = {"factor": rigidity.factor, "scales": np.array([rigidity.energy_scale, rigidity.forces_scale])}
    for symbol, known in rigidity.references.items():
        found |= {f"references/{symbol}": known.astype(np.float32), f"reach/{symbol}": np.array(rigidity.reach[symbol])}
    found |= {f"thresholds/{name}": np.array(values) for name, values in rigidity.thresholds.items()}
    return found | {f"facts/{name}": np.array(value) for name, value in rigidity.facts.items()}


def read_rigidity(model: str | Path, head: str, source: str | Path | None = None) -> Rigidity:
    """The calibration of one head of a model file.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    ValueError
        For one of another file or without this head; the message says what to do.
    """
    path = Path(source) if source is not None else uncertainty_file(model)
    if not path.exists():
        raise FileNotFoundError(
            f"no calibration {path}; make it from labelled frames with dpa2 calibrate FRAMES --model {model} "
            f"--head {head}, or with dpa2_ase.uncertainty.calibrate(model, frames)"
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no calibration, or a damaged one; make it again") from error
    if "sha256" not in stored or int(stored.get("format", 0)) != FORMAT:
        raise ValueError(f"{path} is no calibration of format {FORMAT}; make it again")
    if str(stored["sha256"]) != file_sha256(model):
        raise ValueError(f"{path} was made for another model file than {model} (sha256 differs); calibrate this one")
    mine = {name.removeprefix(f"{head}/"): v for name, v in stored.items() if name.startswith(f"{head}/")}
    if "factor" not in mine:
        known = sorted({name.rpartition("/factor")[0] for name in stored if name.endswith("/factor")})
        raise ValueError(f"{path} holds no calibration of head {head!r}, only of {known}; calibrate this head too")
    return _rigidity(mine)


def _rigidity(mine: Mapping[str, np.ndarray]) -> Rigidity:
    def table(kind: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(f"{kind}/"): v for name, v in mine.items() if name.startswith(f"{kind}/")}

    energy_scale, forces_scale = (float(x) for x in mine["scales"])
    return Rigidity(
        factor=mine["factor"],
        energy_scale=energy_scale,
        forces_scale=forces_scale,
        references=table("references"),
        reach={symbol: float(value) for symbol, value in table("reach").items()},
        thresholds={name: (float(v[0]), float(v[1])) for name, v in table("thresholds").items()},
        facts={name: float(value) for name, value in table("facts").items()},
    )
