"""``dpa2 calibrate``: from labelled frames to the file that tells how far a model can be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Common, ManyOption, command, common_options

if TYPE_CHECKING:
    from ..uncertainty import Calibration

COLUMNS = ["", "validated", "actual / predicted", "miscalibration", "correlation"]


@command()
@click.option("--validation", cls=ManyOption, help="Labelled frames the model has not seen; default: every fifth.")
@click.option("--energy-key", help="Entry of info with the energy, where ASE does not take it for a result.")
@click.option("--forces-key", help="Array with the forces.")
@click.option("--shift", is_flag=True, help="Fit an energy per atom of each element first.")
@click.option("--references", default=256, show_default=True, help="Known environments to keep of each element.")
@click.option(
    "--to", "target", type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; default: MODEL.uncertainty.npz beside the model, where it is found by itself.",
)  # fmt: skip
@click.option("-o", "--out", "folder", type=click.Path(path_type=Path), help="Folder for calibration.json and report.")
@common_options(output=False)
def calibrate(  # noqa: PLR0913  # one parameter per option
    common: Common,
    validation: tuple[str, ...],
    shift: bool,
    references: int,
    target: Path | None,
    folder: Path | None,
    **keys: str | None,
) -> None:
    """Calibrate the uncertainties of a model on STRUCTURES that stand for what it was trained on, for --uncertainty.

    Give labelled frames it was not trained on as --validation; without, every fifth of STRUCTURES has to serve.
    """
    from ..uncertainty import calibrate as fit
    from .display import print_table
    from .evaluate import labelled_frames
    from .records import check_folder

    if folder is not None:
        check_folder(folder)
    if common.model.dispersion is not None:
        raise ValueError("a calibration is one of the model alone; leave --dispersion out")
    labels = {name.removesuffix("_key"): value for name, value in keys.items()} | {"stress": None, "virial": None}
    known = labelled_frames(common, labels)
    tested = labelled_frames(replace(common, structures=validation, index=":"), labels) if validation else None
    choice = common.model
    found = fit(
        choice.model,
        [atoms for _, atoms in known],
        None if tested is None else [atoms for _, atoms in tested],
        head=choice.head,
        shift=shift,
        references=references,
        target=target,
        device=choice.device,
        dtype=choice.dtype,
        mode=choice.mode,
    )
    print_table(COLUMNS, _rows(found))
    print_table(["", "warns above", "stops above"], _thresholds(found))
    click.echo(f"written: {found.path}")
    if folder is not None:
        _write(folder, common, found)
        click.echo(f"written: {folder}")


def _rows(found: Calibration) -> list[list[Any]]:
    return [
        [name, len(q.errors), q.scale, q.miscalibration, q.correlation]
        for name, q in (("energies, structures", found.energies), ("forces, components", found.forces))
        if q is not None
    ]


def _thresholds(found: Calibration) -> list[list[Any]]:
    return [[name.replace("_", " "), *values] for name, values in found.rigidity.thresholds.items()]


def _write(folder: Path, common: Common, found: Calibration) -> None:
    from ..workflows.results import provenance_of
    from .models import calculator_of_head
    from .records import Record, write_record

    choice, rigidity = common.model, found.rigidity
    calc = calculator_of_head(choice, choice.head)
    facts = {
        "calibration": str(found.path),
        "quality": {row[0]: dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in _rows(found)},
        "thresholds": {name: list(values) for name, values in rigidity.thresholds.items()},
        "facts": dict(rigidity.facts),
        "known_environments": {symbol: len(known) for symbol, known in rigidity.references.items()},
    }
    forces = found.forces
    figures = [("Energies per atom, eV", found.energies.plot)] + ([("Forces, eV/Å", forces.plot)] if forces else [])
    tables = [("Validation", COLUMNS, _rows(found)), ("Thresholds", ["", "warns", "stops"], _thresholds(found))]
    record = Record(f"Calibration: {found.path.name}", facts, tables=tables, figures=figures)
    write_record(folder, "calibration", record, provenance_of(calc))
