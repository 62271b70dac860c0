"""`Committee`: several models as one calculator, whose disagreement says how far their mean can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from .ase import DPA2Calculator
from .plan import GIB
from .properties import NEEDS_GRADIENT, PROPERTIES

if TYPE_CHECKING:
    from ..model import Potential
    from .calculation import LastingList
    from .evaluator import Pending

ANY_NUMBER = 10**9  # of neighbors: every model cuts its own lists
OF_ENERGY = ("energy_std", "energies_std", "devi_e")
OF_FORCES = ("forces_std", "forces_deviation", "max_devi_f", "min_devi_f", "avg_devi_f")
OF_VIRIAL = ("max_devi_v", "min_devi_v", "avg_devi_v")


class Committee(DPA2Calculator):
    r"""Calculator of the mean of several energy models; ``DPA2Calculator([a, b, c])`` makes one.

    Beside the means, `results` have standard deviations over the M models (of the population, as DP-GEN has it):
    ``energy_std``, ``energies_std`` (N,), ``forces_std`` (N, 3); and DP-GEN's model deviations: ``forces_deviation``
    (N,) with ``max_devi_f``, ``min_devi_f``, ``avg_devi_f`` over atoms, ``max_devi_v``, ``min_devi_v``, ``avg_devi_v``
    (the last a root mean square) over components of the virial per atom, and ``devi_e``, the deviation of the energy
    per atom.

    .. math:: \epsilon_i = \sqrt{\langle |F_i - \langle F_i \rangle|^2 \rangle}

    Energies of models trained on different zeros differ by a constant per atom, which is in ``energy_std``.

    Parameters
    ----------
    models
        Files, names or loaded potentials, two at least; they may know different elements and have different cutoffs.
    head
        One for all, or a list with one (or ``None``) for each.
    options
        As for `DPA2Calculator`. All models share one neighbor list.

    References
    ----------
    DP-GEN, https://doi.org/10.1016/j.cpc.2020.107206
    """

    def __init__(
        self,
        model: Sequence[str | Path | Potential | None],
        *,
        head: str | Sequence[str | None] | None = None,
        **options: Any,
    ) -> None:
        models = [*model]
        if len(models) < 2:
            raise ValueError(f"a committee needs at least two models to disagree, found {len(models)}")
        chosen = [head] * len(models) if head is None or isinstance(head, str) else [*head]
        if len(chosen) != len(models):
            raise ValueError(f"{len(chosen)} heads for {len(models)} models; give one for all, or one for each")
        if options.get("uncertainty"):
            raise ValueError("a committee tells its own uncertainty; calibrate and ask a single model for the other")
        common = {name: value for name, value in options.items() if name not in ("atoms", "label", "directory")}
        from .calculation import LastingList

        self._ready = False
        self.members = [DPA2Calculator(m, head=h, **common) for m, h in zip(models, chosen, strict=True)]
        for member in self.members:
            if member.evaluator.kind != "ener":
                raise ValueError(f"{member.parameters['model']} predicts {member.evaluator.kind}; give energy models")
        first = max(self.members, key=lambda member: member.evaluator.reader.cutoff)
        self.evaluator, self._origin = first.evaluator, None  # the longest neighbor list serves all
        self.skin, self.batch_memory = first.skin, first.batch_memory
        own = [name for name in PROPERTIES["ener"] if name != "stresses"]
        self.implemented_properties = [*own, *OF_ENERGY, *OF_FORCES, *OF_VIRIAL]
        self._calculation = CommitteeCalculation(self.members, LastingList(self.evaluator, self.skin))
        self._heads = None
        parameters = {name: first.parameters[name] for name in ("device", "dtype", "mode", "skin", "batch_memory")}
        Calculator.__init__(
            self,
            atoms=options.get("atoms"),
            label=options.get("label"),
            directory=options.get("directory", "."),
            model=[member.parameters["model"] for member in self.members],
            head=[member.parameters["head"] for member in self.members],
            **parameters,
        )
        self._ready = True

    @property
    def source(self) -> dict[str, Any]:
        """What makes the numbers: that of every member."""
        return {"models": [member.source for member in self.members]}

    def evaluate(self, structures: Iterable[Atoms], properties: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Evaluate many structures together; see `DPA2Calculator.evaluate`."""
        if isinstance(structures, Atoms) or isinstance(properties, str):
            raise TypeError("evaluate takes a list of Atoms and a list of property names, also if it is only one")
        frames = list(structures)
        names = {*self.implemented_properties} if properties is None else {*properties}
        self._refuse_unknown(names)
        needed = {"energy", "free_energy", "energies"}
        if names & {*NEEDS_GRADIENT, *OF_FORCES, *OF_VIRIAL}:
            needed |= {"forces", "virial", "stress"}
        answers = []
        for member in self.members:
            with member.evaluator.computing():
                answers.append(member.evaluator.batch(frames, needed, memory=self.batch_memory * GIB, skin=self.skin))
        means = [_means(list(found)) for found in zip(*answers, strict=True)]
        return [{name: value for name, value in found.items() if name in names} for found in means]

    def _given(self, atoms: Atoms | None) -> Atoms:
        """Refuse what a committee has no mean of."""
        raise NotImplementedError("a committee gives energies, forces and stresses; ask one of calc.members for others")


class CommitteeCalculation:
    """Means and deviations for one structure, as far as they were asked for; see `Calculation`."""

    def __init__(self, members: Sequence[DPA2Calculator], neighbors: LastingList) -> None:
        self._members, self._neighbors = members, neighbors
        self._passes: list[Pending] = []

    def forget(self) -> None:
        """Another structure comes."""
        self._passes = []

    def results(self, atoms: Atoms, wanted: AbstractSet[str]) -> dict[str, Any]:
        """What is `wanted` and not known yet, and all that costs nothing beside it."""
        results: dict[str, Any] = {}
        passes, self._passes = self._passes, []  # which an error may leave half used up
        if not passes:
            passes = [self._forward(member, atoms) for member in self._members]
            parts = zip(self._members, passes, strict=True)
            results |= _means([m.evaluator.energies(p, [atoms])[0] for m, p in parts])
        if not wanted & {*NEEDS_GRADIENT, *OF_FORCES, *OF_VIRIAL}:
            self._passes = passes
            return results
        found = []
        for member, waiting in zip(self._members, passes, strict=True):
            with member.evaluator.computing():
                found.append(member.evaluator.gradients(waiting, [atoms])[0])
        return results | _means(found)

    def _forward(self, member: DPA2Calculator, atoms: Atoms) -> Pending:
        evaluator = member.evaluator
        inputs = evaluator.reader.read([atoms], self._neighbors.topology(atoms))
        graph = inputs.graph.within(evaluator.reader.cutoff, ANY_NUMBER)
        with evaluator.computing():
            return evaluator.forward(replace(inputs, graph=graph), with_gradient=True)

    def __getstate__(self) -> dict[str, Any]:
        """Autograd graphs do not travel."""
        return self.__dict__ | {"_passes": []}


def _means(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and deviations of what the members say of one structure."""
    names = [name for name in found[0] if name != "thresholds"]
    stacked = {name: np.array([one[name] for one in found]) for name in names}
    results: dict[str, Any] = {
        name: float(values.mean()) if values.ndim == 1 and name.endswith("energy") else values.mean(axis=0)
        for name, values in stacked.items()
    }
    if "energies" in stacked:
        n_atoms = max(stacked["energies"].shape[1], 1)
        spread = float(stacked["energy"].std())
        results |= {"energy_std": spread, "energies_std": stacked["energies"].std(axis=0), "devi_e": spread / n_atoms}
    if "forces" in stacked:
        results |= deviation_of_forces(stacked["forces"]) | deviation_of_virials(
            stacked["virial"], stacked["forces"].shape[1]
        )
    return results


def deviation_of_forces(forces: np.ndarray) -> dict[str, Any]:
    """DP-GEN's deviation of forces (M, N, 3), eV/Å: of every atom and its maximum, minimum and mean."""
    spread = forces.std(axis=0)
    of_atoms = np.sqrt((spread**2).sum(axis=-1))
    summary = [float(f(of_atoms)) if len(of_atoms) else 0.0 for f in (np.max, np.min, np.mean)]
    named = zip(("max_devi_f", "min_devi_f", "avg_devi_f"), summary, strict=True)
    return {"forces_std": spread, "forces_deviation": of_atoms} | dict(named)


def deviation_of_virials(virials: np.ndarray, n_atoms: int) -> dict[str, float]:
    """DP-GEN's deviation of virials (M, 3, 3), eV, per atom: largest, smallest and root mean square component."""
    spread = virials.std(axis=0) / max(n_atoms, 1)
    return {
        "max_devi_v": float(spread.max()),
        "min_devi_v": float(spread.min()),
        "avg_devi_v": float(np.sqrt((spread**2).mean())),
    }
