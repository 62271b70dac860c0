"""``dpa2 model-devi``: how much models disagree along a trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Command, ManyOption

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes

    from ..committee import ModelDeviation
    from ..interfaces.ase import DPA2Calculator

FILE = "model_devi.out"
TITLES = ["system", "frames", "mean of max_devi_f / eV/Å", "largest / eV/Å", "largest devi_e / eV/atom"]
MOST_NAMED = 12  # systems in a legend


@click.command(name="model-devi", cls=Command)
@click.option("-m", "--models", cls=ManyOption, required=True, help="Two model files or more, as many as follow.")
@click.option(
    "-s", "--system", "systems", cls=ManyOption, required=True,
    help="Files of any format ASE reads, DeePMD systems, or folders with systems, as many as follow.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
    help="FILE for the table; default: model_devi.out, here or in the folder of --out.",
)  # fmt: skip
@click.option(
    "--out", "folder", type=click.Path(path_type=Path),
    help="Folder for model_devi.out, model_devi.json (all columns, where they come from) and report.html.",
)  # fmt: skip
@click.option("-f", "--frequency", default=1, show_default=True, help="Steps between two frames; only numbers them.")
@click.option("--heads", cls=ManyOption, help="Head of each model, or one for all.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one.")
@click.option("--dtype", type=click.Choice(["float64", "float32"]), help="Precision; default: the models' own.")
def model_devi(  # noqa: PLR0913  # one parameter per option
    models: tuple[str, ...],
    systems: tuple[str, ...],
    output: Path | None,
    folder: Path | None,
    frequency: int,
    heads: tuple[str, ...],
    device: str | None,
    dtype: str | None,
) -> None:
    """Deviations of models as `dp model-devi` and DP-GEN have them: largest, smallest and mean of virials (eV per atom)
    and forces (eV/Å) of every frame, and of the energy per atom.
    """
    from ..committee import model_deviation
    from ..interfaces.ase import DPA2Calculator
    from ..maps.sources import DataSets
    from ..workflows.files import write_text
    from .describing import check_files
    from .display import print_table
    from .files import expanded
    from .records import check_folder

    data = DataSets(expanded(systems))
    if folder is not None:
        check_folder(folder)
    table = output or (folder or Path()) / FILE
    if folder is None or output is not None:
        check_files([table] if table.suffix else [], [table.suffix], data.files)
    if len(heads) > 1 and len(heads) != len(models):
        raise ValueError(f"{len(heads)} heads for {len(models)} models; give one for all, or one for each")
    head = None if not heads else heads[0] if len(heads) == 1 else [*heads]
    calc = DPA2Calculator([*models], head=head, device=device, dtype=dtype)
    texts, rows = [], []
    deviations: dict[str, ModelDeviation] = {}
    for name, frames in _by_data_set(data):
        found = model_deviation(calc, frames, frequency=frequency)
        texts.append(found.text(name))
        deviations[name] = found
        largest, energy = found["max_devi_f"], found["devi_e"]
        rows.append([name, str(len(found.steps)), float(largest.mean()), float(largest.max()), float(energy.max())])
    write_text(table, "".join(texts))
    print_table(TITLES, rows)
    click.echo(f"written: {table}")
    if folder is not None:
        _write(folder, calc, deviations, rows)
        click.echo(f"written: {folder}")


def _write(
    folder: Path, calc: DPA2Calculator, found: Mapping[str, ModelDeviation], rows: Sequence[Sequence[Any]]
) -> None:
    """All columns as JSON, and a page with the deviations of forces along every system."""
    from functools import partial

    from ..committee import COLUMNS
    from ..workflows.results import provenance_of
    from .records import Record, write_record

    systems = {
        name: {"step": deviation.steps.tolist()} | {column: deviation[column].tolist() for column in COLUMNS}
        for name, deviation in found.items()
    }
    record = Record(
        f"Model deviation: {next(iter(found))}" + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
        {"systems": systems, "units": {"virials, energies": "eV per atom", "forces": "eV/Å"}},
        [("Systems", TITLES, rows)],
        [("Deviation of forces", partial(_draw, found))],
    )
    write_record(folder, "model_devi", record, provenance_of(calc))


def _draw(found: Mapping[str, ModelDeviation]) -> Axes:
    """Largest deviation of forces of every frame."""
    from ..workflows import plots

    ax = plots.axes(None)
    for name, deviation in found.items():
        ax.plot(deviation.steps, deviation["max_devi_f"], marker=".", lw=0.8, label=name)
    if len(found) <= MOST_NAMED:
        ax.legend()
    ax.set(xlabel="step", ylabel="largest deviation of forces (eV/Å)")
    return ax


def _by_data_set(data: Iterable[Atoms]) -> Iterator[tuple[str, Iterator[Atoms]]]:
    """Frames of one data set after the other, read as they are needed."""
    from itertools import groupby

    from ..maps.sources import DATA_SET

    return groupby(data, key=lambda atoms: str(atoms.info[DATA_SET]))
