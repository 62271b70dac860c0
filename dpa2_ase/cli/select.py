"""``dpa2 select``: the structures of data sets that are worth a label, a look, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .describing import PICTURES, calculator_of, check_files, data_sets, describe_data, layer_options
from .options import Common, command, common_options

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from ..interfaces.ase import DPA2Calculator
    from ..maps import DataSets, Environments
    from ..maps.selection import Selection

WAYS = ("farthest", "density", "outliers", "duplicates", "like")
STRUCTURES = (".extxyz", ".xyz", ".traj", ".db", ".json")


@command()
@click.option("--by", type=click.Choice(WAYS), default="farthest", show_default=True, help="See above.")
@click.option("-n", "--count", default=10, show_default=True, help="How many structures.")
@click.option("--known", multiple=True, help="Data set that is labelled already (farthest, outliers); several times.")
@click.option("--query", help="FILE or FILE@INDEX with the atom to look for (like).")
@click.option("--atom", default=0, show_default=True, help="Number of that atom in its structure (like).")
@click.option("--any-element", is_flag=True, help="Atoms of all elements may be alike (like).")
@click.option("--threshold", default=0.0, help="Only structures with an atom so many times as unusual (outliers).")
@click.option("--tolerance", default=1e-3, show_default=True, help="Relative difference allowed (duplicates).")
@click.option("--invert", is_flag=True, help="Write the structures that were not selected.")
@click.option("--seed", default=0, show_default=True, help="Of the draw (density).")
@click.option(
    "-o",
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="FILE.extxyz (or what ASE writes), .csv or .png, also several times. Default: selected.extxyz.",
)
@layer_options
@common_options(output=False)
def select(  # noqa: PLR0913  # one parameter per option
    common: Common,
    by: str,
    count: int,
    known: tuple[str, ...],
    query: str | None,
    atom: int,
    any_element: bool,
    threshold: float,
    tolerance: float,
    invert: bool,
    seed: int,
    outs: tuple[Path, ...],
    layer: str,
    types: bool,
    store: Path | None,
) -> None:
    """Select among STRUCTURES by what the model sees in them, with scores and reasons.

    farthest: as few as possible that cover all. density: a fair sample of dense and sparse regions. outliers: those
    with unusual atoms, for themselves or beside --known. duplicates: those that repeat an earlier one, however rotated
    or renumbered. like: those with an atom as the one of --query.
    """
    from ..maps import selection as ways
    from ..maps.duplicates import find_duplicates

    outs = outs or (Path("selected.extxyz"),)
    if (by == "like") != (query is not None):
        raise ValueError("--by like and --query go together: the file with the atom to look for")
    if known and by not in ("farthest", "outliers"):
        raise ValueError(f"--known says nothing to --by {by}; it goes with farthest and outliers")
    data = data_sets(common.structures, common.index)
    base = data_sets(known) if known else None
    check_files(outs, (*STRUCTURES, ".csv", *PICTURES), [*data.files, *(base.files if base else [])])
    calc = calculator_of(common.model, any_head=True)
    described = describe_data(data, calc, store, (layer, types))
    reference = None if base is None else describe_data(base, calc, store and store / "known", (layer, types))
    if query is not None:
        vector, number = _query(query, atom, calc, (layer, types))
        selection = ways.find_like(described, vector, count, None if any_element else number)
    elif by == "outliers":
        selection = ways.select_outliers(described, count, reference, threshold)
    elif by == "duplicates":
        selection = find_duplicates(described, tolerance)
    elif by == "density":
        selection = ways.select_by_density(described, count, seed=seed)
    else:
        selection = ways.select_farthest(described, count, reference)
    _print(selection, described)
    for path in outs:
        _write(path, selection, described, data, invert=invert)
        click.echo(f"written: {path}")


def _query(path: str, atom: int, calc: DPA2Calculator, layer: tuple[str, bool]) -> tuple[np.ndarray, int]:
    """Representation and atomic number of the atom to look for."""
    from ..maps import DataSets, Layer
    from ..maps.describing import represent_structures

    structure = next(iter(DataSets([path])), None)
    size = 0 if structure is None else len(structure)
    if structure is None or not 0 <= atom < size:
        raise ValueError(f"{path} has no atom {atom}: its first structure has {size} atoms, numbered from 0")
    vectors = represent_structures([structure], calc, Layer(layer[0], layer[1]))  # type: ignore[arg-type]  # a choice
    return vectors[atom], int(structure.numbers[atom])


def _print(selection: Selection, described: Environments) -> None:
    from .display import print_table

    rows = [
        [str(rank), str(name), str(frame), f"{score:.4g}", reason]
        for rank, (name, frame, score, reason) in enumerate(
            zip(*_origins(selection, described), selection.scores, selection.reasons, strict=True), start=1
        )
    ]
    title = f"{selection.what}: {len(selection)} of {described.n_structures} structures"
    print_table(["", "data set", "frame", selection.score_name, "reason"], rows, title=title)


def _origins(selection: Selection, described: Environments) -> tuple[list[str], list[int]]:
    chosen, labels = selection.structures(described), described.structure_labels
    return labels["data_set"][chosen].tolist(), [int(frame) for frame in labels["frame"][chosen]]


def _write(path: Path, selection: Selection, described: Environments, data: DataSets, *, invert: bool) -> None:
    if path.suffix == ".csv":
        from ..maps.tables import write_csv

        write_csv(path, selection.table(described))
    elif path.suffix in PICTURES:
        from ..maps.pictures import save_selection

        save_selection(selection, described, path)
    else:
        from .files import write_structures

        write_structures(path, _structures(selection, described, data, invert=invert))


def _structures(selection: Selection, described: Environments, data: DataSets, *, invert: bool) -> Sequence[Atoms]:
    from ..maps.sources import pick

    chosen = selection.structures(described)
    if invert:
        left = sorted({*range(described.n_structures)} - {*chosen.tolist()})
        found = pick(data, left)
        return [found[number] for number in left]
    return selection.labelled(described, pick(data, chosen))
