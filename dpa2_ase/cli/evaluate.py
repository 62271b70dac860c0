"""``dpa2 evaluate``: a model against labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Common, command, common_options
from .uncertainty import ASKED, calibration_facts, collect, make_trusted_calculator, uncertainty_options

if TYPE_CHECKING:
    from ase import Atoms

    from ..uncertainty.results import Uncertainties
    from ..workflows.errors import Error, Errors
    from .run import Run


@command()
@click.option("--energy-key", help="Entry of info with the energy, where ASE does not take it for a result.")
@click.option("--forces-key", help="Array with the forces.")
@click.option("--stress-key", help="Entry of info with the stress, ASE's sign, eV/Å³.")
@click.option("--virial-key", help="Entry of info with the virial, eV.")
@click.option("--group-key", default="config_type", show_default=True, help="Entry of info that frames are grouped by.")
@click.option("--shift", is_flag=True, help="Fit an energy per atom of each element first.")
@click.option("--worst", default=10, show_default=True, help="Number of frames to list.")
@uncertainty_options()
@common_options()
def evaluate(  # noqa: PLR0913  # one parameter per option
    common: Common,
    group_key: str,
    shift: bool,
    worst: int,
    uncertainty: bool,
    calibration: Path | None,
    **keys: str | None,
) -> None:
    """Errors of a model against labelled frames: STRUCTURES of ASE's formats, DeePMD systems, HDF5 or LMDB."""
    from dataclasses import replace

    from ..workflows.errors import errors
    from .display import print_table
    from .each import default_folder, watched
    from .models import check_frames
    from .run import Run, at_work, conclude

    frames = labelled_frames(common, {name.removesuffix("_key"): value for name, value in keys.items()})
    calculator = make_trusted_calculator(common.model, uncertainty, calibration)
    check_frames(frames, calculator)
    output = replace(common.output, out=common.output.out or default_folder(common.structures[0], "evaluate"))
    groups = [str(atoms.info.get(group_key, "without group")) for _, atoms in frames]
    decisive = {"shift": shift, "groups": groups} | calibration_facts(calculator)
    with at_work(Run("evaluate", frames, decisive, [calculator], output, with_labels=True)) as run:
        names = [name for name, _ in frames]
        with watched("evaluating", run):
            found = errors([atoms for _, atoms in frames], run.calc, names=names, groups=groups, shift=shift)
        _fill(run, found)
        run.keep("errors", found, run.folder)
        trust = _trust(run, found) if uncertainty else None
        if trust is not None:
            run.keep("uncertainty", trust, run.folder)
    if worst > 0:
        print_table(*_worst_frames(found, worst), title="worst frames")
    if trust is not None and trust.quality is not None:
        print_table(["energies", ""], [*trust.quality.items()], title="errors against predicted uncertainties")
    conclude(run)


def _trust(run: Run, found: Errors) -> Uncertainties:
    """Uncertainties of all frames, and how actual errors of energies compare with them."""
    from dataclasses import replace

    import numpy as np

    from ..uncertainty.quality import quality

    trust = collect(run, run.calc.evaluate([atoms for _, atoms in run.frames], ASKED))
    if "energy" not in found.frame_errors:
        return trust
    sigmas = trust.energy / np.array([max(len(atoms), 1) for _, atoms in run.frames])
    errors = found.frame_errors["energy"] / 1000  # meV per atom to eV per atom
    known = np.isfinite(errors) & (sigmas > 0)
    return replace(trust, quality=quality(errors[known], sigmas[known]).numbers()) if known.any() else trust


def labelled_frames(common: Common, keys: dict[str, str | None]) -> list[tuple[str, Atoms]]:
    """Frames with their labels as results of a calculator; every reader of training data serves."""
    from ..training.data.files import HDF5_SUFFIXES, read_frames
    from ..training.data.frames import LabelKeys, atoms_of_frame, frame_of_atoms
    from .files import expanded, read_structures

    labels, found = LabelKeys(**keys), []
    for path in expanded(common.structures):
        file = Path(path.partition("#")[0])
        if file.is_dir() or file.suffix in HDF5_SUFFIXES:
            frames = [atoms_of_frame(frame) for frame in read_frames(path)]
            found += [(f"{file.name}@{number}", atoms) for number, atoms in enumerate(frames)]
            continue
        for name, atoms in read_structures([path], common.index):
            try:
                found.append((name, atoms_of_frame(frame_of_atoms(atoms, labels))))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    return found


def _fill(run: Run, found: Errors) -> None:
    """Rows of the table: everything, every group, every element."""
    from ..workflows.errors import UNITS

    rows: list[tuple[str, dict[str, Error]]] = [("all frames", found.total)]
    if len(found.by_group) > 1:
        rows += list(found.by_group.items())
    rows += [(f"forces on {symbol}", {"forces": error}) for symbol, error in found.by_element.items()]
    for name, errors in rows:
        row: dict[str, Any] = {}
        for quantity in found.total:
            error = errors.get(quantity)
            row[f"{quantity} MAE / {UNITS[quantity]}"] = error and error.mae
            row[f"{quantity} RMSE / {UNITS[quantity]}"] = error and error.rmse
        count = found.groups.count(name) if name in found.by_group else len(found.names) if name == "all frames" else ""
        run.add_row(name, str(count), row)
    run.columns[:2] = ["", "frames"]


def _worst_frames(found: Errors, count: int) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table of the worst frames."""
    from ..workflows.errors import UNITS

    rows = found.worst(count)
    columns = ["frame", "group", *(f"{name} / {UNITS[name]}" for name in found.total)]
    group = dict(zip(found.names, found.groups, strict=True))
    return columns, [[name, group[name], *errors.values()] for name, errors in rows]
