"""``dpa2 compare``: models and heads side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Common, ManyOption, Model, command, common_options, dispersion_option

if TYPE_CHECKING:
    from ase import Atoms

    from ..workflows.comparison import Comparison
    from .journal import JournaledCalculator
    from .run import Run


@command()
@click.option(
    "--models", cls=ManyOption, help="Model files or official names, as many as follow; default: the bundled."
)
@click.option(
    "--heads", cls=ManyOption,
    help="Heads: of one model, or one for each model; default: all that predict energies and know the elements.",
)  # fmt: skip
@click.option("--relax", is_flag=True, help="Let each relax the structures, crystals with their cells.")
@click.option("--eos", is_flag=True, help="Equation of state of every crystal with each.")
@click.option("--fmax", default=0.01, show_default=True, help="Of relaxations, eV/Å.")
@dispersion_option
@common_options(model=False, out="Folder for results; default: the table alone.")
def compare(common: Common, models: tuple[str, ...], heads: tuple[str, ...], **settings: Any) -> None:
    """Energies, forces and volumes of STRUCTURES by several models or heads; STRUCTURES come before --models."""
    from ..workflows.comparison import compare as run_comparison
    from .each import watched
    from .files import read_structures
    from .models import check_frames, dressed, naming_file
    from .run import Run, at_work, conclude

    frames = read_structures(common.structures, common.index)
    calculators = _calculators([atoms for _, atoms in frames], models, heads, common.model)
    for calculator in calculators.values():
        check_frames(frames, calculator)
    with at_work(Run("compare", frames, settings, list(calculators.values()), common.output)) as run:
        names = [name for name, _ in frames]
        with watched("comparing", run) as shown, naming_file(names):
            found = run_comparison(
                [atoms for _, atoms in frames],
                {name: dressed(calculator) for name, calculator in calculators.items()},
                names=names,
                on_model=lambda name: shown.update(note=name),
                **settings,
            )
        _fill(run, found)
        run.keep("comparison", found, run.folder)
    if len(found.models) > 1:
        _print_forces(found)
    conclude(run)


def _calculators(
    structures: list[Atoms], models: tuple[str, ...], heads: tuple[str, ...], choice: Model
) -> dict[str, JournaledCalculator]:
    """Calculators by the names they shall have in tables: the file's, the head's where there are several."""
    from dataclasses import replace

    from .models import make_calculator

    files: list[str | None] = [*models] or [None]
    if heads and len(files) not in (1, len(heads)):
        raise ValueError(f"{len(heads)} heads and {len(files)} models; give heads of one model, or one for each model")
    if heads:
        pairs: list[tuple[str | None, str | None]] = [*zip(files * (len(heads) // len(files)), heads, strict=True)]
    else:
        elements = {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()}
        pairs = [(file, head) for file in files for head in _fitting_heads(file, elements)]
    found: dict[str, JournaledCalculator] = {}
    for file, head in pairs:
        calculator = make_calculator(replace(choice, model=file, head=head))
        if "energy" not in calculator.implemented_properties:
            raise ValueError(f"{file or 'the bundled model'} predicts no energies to compare")
        found[_name(calculator, found, several=len([f for f, _ in pairs if f == file]) > 1)] = calculator
    return found


def _fitting_heads(file: str | None, elements: set[str]) -> list[str | None]:
    """Heads of a file that predict energies and know the elements."""
    from ..checkpoint import summary
    from ..interfaces.loading import find_model

    heads = summary(find_model(file))["heads"]
    if len(heads) == 1:
        return [None]
    energies = {n: head for n, head in heads.items() if "unsupported" not in head and head["kind"] == "ener"}
    fitting = [name for name, head in energies.items() if elements <= {*(head["observed"] or head["elements"])}]
    fitting = fitting or [name for name, head in energies.items() if elements <= {*head["elements"]}]
    if not fitting:
        raise ValueError(f"no head of {file} predicts energies of {sorted(elements)}; it has {', '.join(heads)}")
    return list(fitting)


def _name(calculator: JournaledCalculator, taken: dict[str, Any], *, several: bool) -> str:
    path, head = Path(calculator.source["model"]), calculator.source["head"]
    name = head if several else path.stem
    for longer in (f"{path.stem}:{head}", f"{path.parent.name}/{path.stem}:{head}"):
        name = longer if name in taken else name
    number = 2
    while name in taken:
        name, number = f"{name}#{number}", number + 1
    return name


def _fill(run: Run, found: Comparison) -> None:
    """A row for every structure and model."""
    for index, (name, atoms) in enumerate(run.frames):
        for number, model in enumerate(found.models):
            row: dict[str, Any] = {"model": model, "E / eV/atom": found.energies[number, index]}
            row["ΔE / meV/atom"] = found.relative[number, index]
            row["P / GPa"] = found.pressures[number, index]
            if found.relaxed_volumes.size:
                row["relaxed V / Å³/atom"] = found.relaxed_volumes[number, index]
                row["relaxed ΔE / meV/atom"] = found.relaxed_relative[number, index]
            if found.eos_volumes.size:
                row["V₀ / Å³/atom"] = found.eos_volumes[number, index]
                row["B₀ / GPa"] = found.bulk_moduli[number, index]
            run.add_row(name, atoms.get_chemical_formula(), row)


def _print_forces(found: Comparison) -> None:
    from .display import print_table

    rows = [
        [first, second, float(found.force_differences[i, j]), float(found.largest_differences[i, j])]
        for i, first in enumerate(found.models)
        for j, second in enumerate(found.models)
        if i < j
    ]
    print_table(["of", "and", "RMS / meV/Å", "largest / meV/Å"], rows, title="differences of forces")
