"""What commands share that tell how far a model's numbers can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..uncertainty.results import Uncertainties
    from .journal import JournaledCalculator
    from .options import Model
    from .run import Run

ASKED = ("energy_uncertainty", "energies_uncertainty", "representation_distance")
_FLAG = click.option(
    "--uncertainty", is_flag=True, help="How far the numbers can be trusted, by a calibration (dpa2 calibrate)."
)


def uncertainty_options(option: Callable[..., Any] = _FLAG) -> Callable[[Any], Any]:
    """Give a command ``--uncertainty`` (or what stands for it) and ``--calibration``."""
    file = click.option(
        "--calibration",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File of dpa2 calibrate that goes with --uncertainty; default: the one beside the model.",
    )
    return lambda function: option(file(function))


def make_trusted_calculator(choice: Model, wanted: object, calibration: Path | None) -> JournaledCalculator:
    """The calculator a user asks for; where uncertainties are `wanted`, it tells them.

    Raises
    ------
    ValueError, FileNotFoundError
        Where there is no calibration to tell them by; the message says how to make one.
    """
    from .models import make_calculator

    if not wanted:
        if calibration is not None:
            raise ValueError("--calibration goes with --uncertainty; add it")
        return make_calculator(choice)
    if choice.dispersion is not None:
        raise ValueError("a calibration knows nothing of --dispersion; leave one of it and --uncertainty out")
    return make_calculator(choice, uncertainty=True if calibration is None else calibration)


def calibration_facts(calculator: JournaledCalculator) -> dict[str, Any]:
    """What of a calibration decides about results, for the settings of a run; nothing where there is none."""
    import hashlib

    rigidity = calculator.evaluator.rigidity
    if rigidity is None:
        return {}
    content = hashlib.sha256(rigidity.factor.tobytes())
    content.update(repr((rigidity.energy_scale, rigidity.forces_scale, sorted(rigidity.reach.items()))).encode())
    return {"calibration": content.hexdigest()}


def collect(run: Run, results: Sequence[dict[str, Any]]) -> Uncertainties:
    """Uncertainties among the results of all structures of a run."""
    from ..uncertainty.results import uncertainties
    from ..workflows.results import provenance_of

    (calculator,) = run.calculators
    rigidity = calculator.evaluator.rigidity
    assert rigidity is not None  # asked for with the calculator
    names, structures = zip(*run.frames, strict=True)
    provenance = provenance_of(calculator, calibration=dict(rigidity.facts))
    return uncertainties(names, structures, results, rigidity.thresholds, provenance)
