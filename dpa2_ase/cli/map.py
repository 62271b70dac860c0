"""``dpa2 map``: what a model sees in data sets, in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .describing import PICTURES, calculator_of, check_files, data_sets, describe_data, layer_options
from .options import Common, command, common_options
from .records import check_folder, is_folder

if TYPE_CHECKING:
    from ..interfaces.ase import DPA2Calculator
    from ..maps import AtomMap, DataSets

KINDS = (".html", *PICTURES, ".csv", ".npz")
IN_FOLDER = ("map.html", "map.png", "map.svg", "map.csv", "map.npz")


@command(name="map")
@click.option(
    "-o",
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="FILE.html, .png, .svg, .pdf, .csv or .npz, also several times; or a folder for all of these, with map.json "
    "(where they come from) and report.html. Default: map.html.",
)
@click.option("--color", "colors", multiple=True, help="See above; also several times. Default: element.")
@click.option("--method", type=click.Choice(["tsne", "pca", "umap"]), default="tsne", show_default=True)
@click.option("--per", type=click.Choice(["atom", "structure"]), default="atom", show_default=True, help="A point for.")
@click.option("--points", default=5000, show_default=True, help="At most so many; rare elements keep theirs.")
@click.option("--only", metavar="ELEMENT", help="Atoms of this element alone.")
@click.option("--onto", type=click.Path(dir_okay=False, path_type=Path), help="Put the points on this map (.npz).")
@click.option("--perplexity", type=float, help="Neighbors that t-SNE keeps near; default: 30.")
@click.option("--seed", default=0, show_default=True, help="Of the layout and of the choice of points.")
@click.option(
    "--calibration",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of dpa2 calibrate for the color uncertainty; default: the one beside the model.",
)
@click.option("--title", help="Heading of the page.")
@layer_options
@common_options(output=False)
def map_(  # noqa: PLR0913  # one parameter per option
    common: Common,
    outs: tuple[Path, ...],
    colors: tuple[str, ...],
    method: str,
    per: str,
    points: int,
    only: str | None,
    onto: Path | None,
    perplexity: float | None,
    seed: int,
    calibration: Path | None,
    title: str | None,
    layer: str,
    types: bool,
    store: Path | None,
) -> None:
    """Map the atoms of STRUCTURES (files, DeePMD systems, folders; NAME=PATH names a data set) by their surroundings.

    Colors: element, group, data_set, energy (above the elements), force-error, distance:SYMBOL, structure, uncertainty
    and representation-distance (after dpa2 calibrate), or any entry of a structure's info or arrays (head).
    """
    from ..maps import make_map
    from ..maps.elements import numbers_of
    from ..maps.labels import FORCE_ERROR, UNCERTAINTIES

    data = data_sets(common.structures, common.index)
    check_files([out for out in outs if not is_folder(out)], KINDS, data.files)
    for out in filter(is_folder, outs):
        check_folder(out)
    colors = colors or (("element",) if per == "atom" else ("data_set",))
    number = None if only is None else int(numbers_of([only])[0])
    _check_packages([out.suffix for out in outs], method if onto is None else "pca")
    is_judged = bool({*UNCERTAINTIES} & {*colors})
    if calibration is not None and not is_judged:
        raise ValueError(f"--calibration goes with --color {' or '.join(UNCERTAINTIES)}; add one of them")
    any_head = FORCE_ERROR not in colors and not is_judged
    calc = calculator_of(common.model, any_head=any_head, uncertainty=is_judged and (calibration or True))
    files, store = _files(outs, store)
    environments = describe_data(data, calc, store, (layer, types), colors)
    atom_map = make_map(
        environments,
        method,  # type: ignore[arg-type]  # one of the choices
        per=per,  # type: ignore[arg-type]  # one of the choices
        points=points,
        only=number,
        onto=onto,
        perplexity=perplexity,
        seed=seed,
    )
    for color in colors:
        atom_map.label(color)  # a label that says nothing is known before anything is written
    click.echo(f"{len(environments)} atoms of {environments.n_structures} structures, {len(atom_map)} points")
    title = title or ", ".join(name for name, _ in data.parts)
    for path in files:
        for written in _write(path, atom_map, data, colors, title):
            click.echo(f"written: {written}")
    settings = {"method": method, "per": per, "points": points, "only": only, "onto": onto, "perplexity": perplexity}
    settings |= {"seed": seed, "layer": layer, "types": types, "colors": list(colors)}
    for folder in filter(is_folder, outs):
        _write_record(folder, atom_map, calc, title, settings)
        click.echo(f"written: {folder}")


def _check_packages(suffixes: Sequence[str], method: str) -> None:
    """Find out before the work what is missing; a folder has no suffix and wants everything."""
    from ..maps import html, projection
    from ..workflows import plots

    projection.require(method)
    if not suffixes or {"", ".html"} & {*suffixes}:
        html.viewer()
    if {"", *PICTURES} & {*suffixes}:
        plots.figure()


def _files(outs: Sequence[Path], store: Path | None) -> tuple[list[Path], Path | None]:
    """Files to write, and where representations are kept: inside a folder that was asked for."""
    files: list[Path] = []
    for out in outs or (Path("map.html"),):
        if not is_folder(out):
            files.append(out)
            continue
        out.mkdir(exist_ok=True)
        files += [out / name for name in IN_FOLDER]
        store = store or out / "descriptors"
    return files, store


def _write_record(folder: Path, atom_map: AtomMap, calc: DPA2Calculator, title: str, settings: dict[str, Any]) -> None:
    """What the map is of, and its pictures on one page."""
    from functools import partial

    import numpy as np

    from ..maps.pictures import draw_map
    from ..workflows.results import provenance_of
    from .records import Record, write_record

    environments, kind = atom_map.environments, "element" if atom_map.per == "atom" else "data_set"
    kinds, counts = (found.tolist() for found in np.unique(atom_map.label(kind), return_counts=True))
    facts = {
        "data_sets": title,
        "structures": environments.n_structures,
        "atoms": len(environments),
        "points": len(atom_map),
        "points_of": dict(zip(map(str, kinds), counts, strict=True)),
        "axes": list(atom_map.axes),
    }
    figures = [(color.replace("_", " "), partial(draw_map, atom_map, color)) for color in settings["colors"]]
    record = Record(
        f"Map: {title}",
        facts,
        [("Points", [kind.replace("_", " "), "points"], [*zip(map(str, kinds), counts, strict=True)])],
        figures,
        notes=["map.html in the same folder shows the structures beside the map."],
    )
    write_record(folder, "map", record, provenance_of(calc, **settings))


def _write(path: Path, atom_map: AtomMap, data: DataSets, colors: Sequence[str], title: str) -> list[Path]:
    from ..maps import html, pictures, tables
    from ..maps.sources import pick

    if path.suffix == ".csv":
        return [tables.write_csv(path, tables.columns(atom_map, colors))]
    if path.suffix == ".npz":
        points = {f"points:{name}": values for name, values in tables.columns(atom_map, colors).items()}
        return [atom_map.projection.save(path, points)]
    if path.suffix == ".html":
        return [html.write_html(path, atom_map, pick(data, atom_map.structures), by=colors[0], title=title)]
    if len(colors) == 1:
        return [pictures.save_map(atom_map, path, colors[0])]
    names = [path.with_name(f"{path.stem}-{color.replace(':', '-')}{path.suffix}") for color in colors]
    return [pictures.save_map(atom_map, name, color) for name, color in zip(names, colors, strict=True)]
