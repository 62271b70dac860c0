"""Commands that do the same to every structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workflows.results import Result
from .display import Progress, progress
from .files import read_structures
from .models import check_frames, make_calculator
from .run import Run, at_work, conclude
from .uncertainty import calibration_facts

if TYPE_CHECKING:
    from ase import Atoms

    from .journal import JournaledCalculator
    from .options import Common, Model

BAD_INPUT, NOT_CONVERGED = 2, 3  # exit codes

Row = Mapping[str, Any]


@contextmanager
def begin(
    command: str,
    common: Common,
    settings: Mapping[str, Any],
    make: Callable[[Model], JournaledCalculator] = make_calculator,
    **options: Any,
) -> Iterator[Run]:
    """A run of `command` on the structures and with the model of `common`; prints its table at the end.

    `make` gives the calculator; `options` are those of `Run`.
    """
    frames = read_structures(common.structures, common.index)
    calculator = make(common.model)
    check_frames(frames, calculator)
    output = replace(common.output, out=common.output.out or default_folder(common.structures[0], command))
    decisive = {**settings, **calibration_facts(calculator)}
    with at_work(Run(command, frames, decisive, [calculator], output, **options)) as run:
        yield run
    conclude(run)


def default_folder(first: str, command: str) -> Path:
    """Where results go if nothing is said: beside where one is, named after the first structure."""
    return Path(f"{Path(first.partition('*')[0]).stem or 'structures'}-{command}")


def for_each(
    command: str,
    common: Common,
    settings: Mapping[str, Any],
    work: Callable[[Atoms], Result | Sequence[Result]],
    row: Callable[[Any], Row],
) -> None:
    """Do `work` on every structure and keep the results; one that fails does not keep others from being done.

    Parameters
    ----------
    work
        Gets a structure with its calculator; returns one or several results.
    row
        What the table says about the first of them.
    """
    with begin(command, common, settings) as run:
        for index, (name, atoms) in enumerate(run.frames):
            atoms.calc = run.calc
            with watched(f"{command} of {name}", run):
                try:
                    found = work(atoms)
                except ValueError as error:
                    if len(run.frames) == 1:
                        raise type(error)(f"{name}: {error}") from error
                    run.fail(index, error)
                    run.exit_code = BAD_INPUT
                    continue
            run.add(index, found, row(found if isinstance(found, Result) else found[0]))
        if run.failures and not run.rows:
            raise ValueError("; ".join(f"{name}: {text}" for name, text in run.failures))


@contextmanager
def watched(what: str, run: Run) -> Iterator[Progress]:
    """Show how much of what the model was asked is done."""
    with progress(what) as shown:

        def show(done: int, total: int) -> None:
            asked = sum(calculator.asked for calculator in run.calculators)
            note = f"({asked} structures evaluated)"
            if total > 1:
                shown.update(done, note, total)
            else:
                shown.update(note=note)

        for calculator in run.calculators:
            calculator.watch = show
        try:
            yield shown
        finally:
            for calculator in run.calculators:
                calculator.watch = None
