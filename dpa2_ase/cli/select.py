"""``dpa2 select``: the structures of data sets that are worth a label, a look, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .describing import PICTURES, calculator_of, check_files, data_sets, describe_data, layer_options
from .options import Common, command, common_options
from .records import check_folder, is_folder

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from ..interfaces.ase import DPA2Calculator
    from ..maps import DataSets, Environments
    from ..maps.selection import Selection

WAYS = ("farthest", "density", "outliers", "duplicates", "like")
STRUCTURES = (".extxyz", ".xyz", ".traj", ".db", ".json")
IN_FOLDER = ("selected.extxyz", "selection.csv", "selection.png", "selection.svg")


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
    help="FILE.extxyz (or what ASE writes), .csv or .png, also several times; or a folder for these, with select.json "
    "(where they come from) and report.html. Default: selected.extxyz.",
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
    from ..workflows.results import provenance_of

    outs = outs or (Path("selected.extxyz"),)
    if (by == "like") != (query is not None):
        raise ValueError("--by like and --query go together: the file with the atom to look for")
    if known and by not in ("farthest", "outliers"):
        raise ValueError(f"--known says nothing to --by {by}; it goes with farthest and outliers")
    data = data_sets(common.structures, common.index)
    base = data_sets(known) if known else None
    folders = [out for out in outs if is_folder(out)]
    inputs = [*data.files, *(base.files if base else [])]
    check_files([out for out in outs if out not in folders], (*STRUCTURES, ".csv", *PICTURES), inputs)
    for folder in folders:
        check_folder(folder)
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
    settings = {"by": by, "count": count, "known": known, "query": query, "atom": atom, "threshold": threshold}
    settings |= {"tolerance": tolerance, "invert": invert, "seed": seed, "layer": layer, "types": types}
    for out in outs:
        if out in folders:
            _write_folder(out, selection, described, data, provenance_of(calc, **settings))
        else:
            _write(out, selection, described, data, invert=invert)
        click.echo(f"written: {out}")


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

    print_table(*_table(selection, described), title=_title(selection, described))


def _title(selection: Selection, described: Environments) -> str:
    return f"{selection.what}: {len(selection)} of {described.n_structures} structures"


def _table(selection: Selection, described: Environments) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what was chosen, in order, and why."""
    rows = [
        [str(rank), str(name), str(frame), f"{score:.4g}", reason]
        for rank, (name, frame, score, reason) in enumerate(
            zip(*_origins(selection, described), selection.scores, selection.reasons, strict=True), start=1
        )
    ]
    return ["", "data set", "frame", selection.score_name, "reason"], rows


def _write_folder(
    folder: Path, selection: Selection, described: Environments, data: DataSets, provenance: dict[str, Any]
) -> None:
    """Structures, table, picture, and a page with all of them."""
    from functools import partial

    from ..maps.pictures import draw_selection
    from .records import Record, write_record

    folder.mkdir(exist_ok=True)
    for name in IN_FOLDER:
        _write(folder / name, selection, described, data, invert=provenance["settings"]["invert"])
    columns, rows = _table(selection, described)
    names = ["rank", "data_set", "frame", "score", "reason"]
    facts = {
        "what": selection.what,
        "score_name": selection.score_name,
        "structures": described.n_structures,
        "selected": [dict(zip(names, row, strict=True)) for row in rows],
    }
    record = Record(
        _title(selection, described),
        facts,
        [("Selected", columns, rows)],
        [("Selected among all", partial(draw_selection, selection, described))],
        frames=_named(selection, described, data),
    )
    write_record(folder, "select", record, provenance)


def _named(selection: Selection, described: Environments, data: DataSets) -> list[tuple[str, Atoms]]:
    """The first structures that were selected, by data set and frame."""
    from ..maps.sources import pick
    from .records import MOST_FRAMES

    chosen = [int(number) for number in dict.fromkeys(selection.structures(described))][:MOST_FRAMES]
    found, labels = pick(data, chosen), described.structure_labels
    return [(f"{labels['data_set'][number]}@{int(labels['frame'][number])}", found[number]) for number in chosen]


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
