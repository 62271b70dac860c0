"""``dpa2 model-devi``: how much models disagree along a trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import Command, ManyOption

if TYPE_CHECKING:
    from ase import Atoms


@click.command(name="model-devi", cls=Command)
@click.option("-m", "--models", cls=ManyOption, required=True, help="Two model files or more, as many as follow.")
@click.option(
    "-s", "--system", "systems", cls=ManyOption, required=True,
    help="Files of any format ASE reads, DeePMD systems, or folders with systems, as many as follow.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("model_devi.out"), show_default=True
)
@click.option("-f", "--frequency", default=1, show_default=True, help="Steps between two frames; only numbers them.")
@click.option("--heads", cls=ManyOption, help="Head of each model, or one for all.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one.")
@click.option("--dtype", type=click.Choice(["float64", "float32"]), help="Precision; default: the models' own.")
def model_devi(  # noqa: PLR0913  # one parameter per option
    models: tuple[str, ...],
    systems: tuple[str, ...],
    output: Path,
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
    from .describing import check_files
    from .display import print_table
    from .files import expanded

    data = DataSets(expanded(systems))
    check_files([output] if output.suffix else [], [output.suffix], data.files)
    if len(heads) > 1 and len(heads) != len(models):
        raise ValueError(f"{len(heads)} heads for {len(models)} models; give one for all, or one for each")
    head = None if not heads else heads[0] if len(heads) == 1 else [*heads]
    calc = DPA2Calculator([*models], head=head, device=device, dtype=dtype)
    texts, rows = [], []
    for name, frames in _by_data_set(data):
        found = model_deviation(calc, frames, frequency=frequency)
        texts.append(found.text(name))
        largest, energy = found["max_devi_f"], found["devi_e"]
        rows.append([name, str(len(found.steps)), float(largest.mean()), float(largest.max()), float(energy.max())])
    output.write_text("".join(texts))
    columns = ["system", "frames", "mean of max_devi_f / eV/Å", "largest / eV/Å", "largest devi_e / eV/atom"]
    print_table(columns, rows)
    click.echo(f"written: {output}")


def _by_data_set(data: Iterable[Atoms]) -> Iterator[tuple[str, Iterator[Atoms]]]:
    """Frames of one data set after the other, read as they are needed."""
    from itertools import groupby

    from ..maps.sources import DATA_SET

    return groupby(data, key=lambda atoms: str(atoms.info[DATA_SET]))
