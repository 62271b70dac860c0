"""``dpa2 relax``: positions and cells at rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import Common, OptionalValue, command, common_options
from .values import Flags

if TYPE_CHECKING:
    from ase import Atoms

    from ..workflows.relax import Relaxation, State
    from .run import Run

ALL_OPTIMIZERS = ("fire", "fire2", "bfgs", "lbfgs", "bfgs-linesearch", "precon-lbfgs")
FILE, TRAJECTORY = "relaxed.extxyz", "relax.traj"
CHUNK = 256  # structures relaxed together


@command()
@click.option(
    "--cell", cls=OptionalValue, without="full", type=click.Choice(["full", "volume", "shape"]),
    help="Relax the lattice as well; alone it means full.",
)  # fmt: skip
@click.option("--opt-cell-fully", is_flag=True, help="The same as --cell full.")
@click.option("--opt-cell-lengths", is_flag=True, help="The same as --cell volume: the shape is kept.")
@click.option("--mask", type=Flags("xx yy zz yz xz xy".split()), help="Strains that may change, as in '1 1 0 0 0 1'.")
@click.option("--pressure", default=0.0, show_default=True, help="Of the surroundings, GPa.")
@click.option("--symmetry", "--fix-symmetry", is_flag=True, help="Keep the space group.")
@click.option("--fmax", default=0.01, show_default=True, help="Largest force at convergence, eV/Å.")
@click.option("--optimizer", default="fire", show_default=True, type=click.Choice(ALL_OPTIMIZERS))
@click.option("--max-steps", "--steps", default=500, show_default=True, help="Stop after so many steps.")
@click.option("--trajectory", "--write-traj", is_flag=True, help=f"Write every step to {TRAJECTORY} in the folder.")
@common_options(out="Folder for results, or a FILE such as out.extxyz for the structures alone; default: FIRST-relax.")
def relax(common: Common, opt_cell_fully: bool, opt_cell_lengths: bool, trajectory: bool, **settings: Any) -> None:
    """Relax STRUCTURES, many together; exit code 3 if one did not converge."""
    from dataclasses import replace

    from ..workflows.relax import Task
    from .each import NOT_CONVERGED, default_folder
    from .files import check_output, read_structures, structure_file
    from .models import check_frames, make_calculator
    from .run import Run, at_work

    cells = [kind for kind, on in (("full", opt_cell_fully), ("volume", opt_cell_lengths)) if on]
    if len({*cells, *([settings["cell"]] if settings["cell"] else [])}) > 1:
        raise ValueError("--cell, --opt-cell-fully and --opt-cell-lengths ask for different things; give one of them")
    settings["cell"] = settings["cell"] or (cells[0] if cells else False)
    task = Task(**settings)
    frames = read_structures(common.structures, common.index)
    file, output = structure_file(common.output)
    if file is not None:
        check_output(file, common.structures, len(frames))
        if trajectory:
            raise ValueError("--trajectory needs a folder; give one with --out")
    else:
        output = replace(output, out=output.out or default_folder(common.structures[0], "relax"))
    calculator = make_calculator(common.model)
    check_frames(frames, calculator)
    for name, atoms in frames:
        try:
            task.check(atoms)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    with at_work(Run("relax", frames, settings, [calculator], output)) as run:
        done: dict[int, Relaxation] = {}
        target = file or (run.folder and run.folder / FILE)
        try:
            _relax(run, settings, done, trajectory)
        except BaseException:
            if file is not None:  # no failure and no Ctrl-C takes anything from those that are done
                _write(run, done, target)
            raise
        _write(run, done, target)
        if run.failures and not done:
            raise ValueError("; ".join(f"{name}: {text}" for name, text in run.failures))
        unfinished = [frames[index][0] for index, found in sorted(done.items()) if not found.converged]
        run.exit_code = 2 if run.failures else NOT_CONVERGED if unfinished else 0
    _conclude(run, target, unfinished, settings["max_steps"])


def _relax(run: Run, settings: dict[str, Any], done: dict[int, Relaxation], trajectory: bool) -> None:
    """Relax all structures of a run, those of a chunk together."""
    from ..workflows.relax_many import TOGETHER, relax_many
    from .display import progress

    together = settings["optimizer"] in TOGETHER and len(run.frames) > 1 and not trajectory
    if not together:
        for index in range(len(run.frames)):
            _relax_one(run, index, settings, done, trajectory)
        return
    with progress("relaxing", len(run.frames)) as shown:
        for start in range(0, len(run.frames), CHUNK):
            chunk = run.frames[start : start + CHUNK]

            def keep(index: int, found: Relaxation, start: int = start) -> None:
                done[start + index] = found

            def show(step: int, forces: dict[int, float]) -> None:
                note = f"step {step}, {len(forces)} moving, max force {max(forces.values()):.3g} eV/Å"
                shown.update(len(done), note)

            try:
                relax_many([a for _, a in chunk], run.calc, on_step=show, on_done=keep, **settings)
            except ValueError:  # of one; the others need not suffer
                for index in range(start, start + len(chunk)):
                    if index not in done:
                        _relax_one(run, index, settings, done, trajectory)


def _relax_one(run: Run, index: int, settings: dict[str, Any], done: dict[int, Relaxation], trajectory: bool) -> None:
    from ..workflows.relax import relax as relax_structure
    from .display import progress

    name, atoms = run.frames[index]
    atoms.calc = run.calc
    folder = run.folder_of(index) if trajectory else None
    if folder is not None:
        folder.mkdir(exist_ok=True)
    with progress(f"relaxing {name}", settings["max_steps"]) as shown:
        try:
            done[index] = relax_structure(
                atoms,
                trajectory=folder and folder / TRAJECTORY,
                on_step=lambda step, force: shown.update(step, f"step {step}, max force {force:.3g} eV/Å"),
                **settings,
            )
        except ValueError as error:
            if len(run.frames) == 1:
                raise ValueError(f"{name}: {error}") from error
            run.fail(index, error)


def _write(run: Run, done: dict[int, Relaxation], target: Path | None) -> None:
    """Keep the relaxations that are done."""
    from .files import write_structures
    from .labels import labelled

    if target is not None and done:
        frames = [labelled(done[i].atoms, _raw_results(done[i].atoms), run.calculators[0]) for i in sorted(done)]
        write_structures(target, frames)
    for index, found in sorted(done.items()):
        run.add(index, found, _row(found))


def _raw_results(atoms: Atoms) -> dict[str, Any]:
    """What the model says, also on atoms that a constraint holds in place."""
    names = ["energy", "forces", *(["stress"] if atoms.pbc.any() else [])]
    return {name: atoms.calc.get_property(name, atoms) for name in names}


def _conclude(run: Run, target: Path | None, unfinished: list[str], max_steps: int) -> None:
    from .display import print_table
    from .run import DETAILED

    if len(run.results) <= DETAILED:
        for name, found in run.results:
            _print_relaxation(name, found)  # type: ignore[arg-type]  # relaxations all
    else:
        print_table(run.columns, run.rows)
    if target is not None and run.rows:
        click.echo(f"written: {run.folder or target}")
    for name, text in run.failures:
        click.echo(f"dpa2: {name}: {text}", err=True)
    if unfinished:
        click.echo(f"dpa2: not converged in {max_steps} steps: {', '.join(unfinished)}; raise --max-steps", err=True)
    if run.exit_code:
        click.get_current_context().exit(run.exit_code)


def _row(found: Relaxation) -> dict[str, Any]:
    initial, final = found.initial, found.final
    return {
        "converged": found.converged,
        "steps": found.steps,
        "energy / eV": final.energy,
        "lowered by / eV": initial.energy - final.energy,
        "max force / eV/Å": final.max_force,
        "pressure / GPa": final.pressure,
        "a, b, c / Å": _lattice(final)[0],
        "α, β, γ / °": _lattice(final)[1],
    }


def _print_relaxation(name: str, found: Relaxation) -> None:
    from .display import print_table

    status = "converged" if found.converged else "NOT converged"
    title = f"{name}: {found.atoms.get_chemical_formula()}, {status} after {found.steps} steps"
    columns = ["", "energy / eV", "max force / eV/Å", "pressure / GPa", "a, b, c / Å", "α, β, γ / °"]
    print_table(columns, [_state_row("initial", found.initial), _state_row("final", found.final)], title=title)


def _state_row(label: str, state: State) -> list[Any]:
    return [label, f"{state.energy:.6f}", f"{state.max_force:.4f}", state.pressure, *_lattice(state)]


def _lattice(state: State) -> tuple[str, str]:
    if not any(state.cell[:3]):
        return "–", "–"
    return ", ".join(f"{x:.4f}" for x in state.cell[:3]), ", ".join(f"{x:.2f}" for x in state.cell[3:])
