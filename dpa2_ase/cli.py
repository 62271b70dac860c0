"""The command ``dpa2``: parse, call one function, print. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ase import Atoms

    from .interfaces.ase import DPA2Calculator
    from .workflows.relax import Relaxation, State

BAD_INPUT = 2
NOT_CONVERGED = 3
CHUNK = 256  # structures evaluated between two updates of the progress bar


class _Commands(click.Group):
    """Turns expected failures into one line on stderr and a non-zero exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (OSError, ValueError, NotImplementedError, MemoryError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"dpa2: {message}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("dpa2: interrupted; nothing half-written was left", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dpa2-ase", prog_name="dpa2")
def main() -> None:
    """Run DPA-1 and DPA-2 deep-potential models."""


def _model_options(command: Any) -> Any:
    for option in (
        click.option("--dtype", type=click.Choice(["float64", "float32"]), help="Precision; default: the model's own."),
        click.option("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one."),
        click.option("--head", help="Head of a multi-task model."),
        click.option("-m", "--model", help="Model file or name of an official model; default: the bundled model."),
    ):
        command = option(command)
    return command


# ---- info ------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def info(model: str | None, as_json: bool) -> None:
    """Say what a MODEL file holds (default: the bundled model)."""
    import json

    from .checkpoint import summary
    from .interfaces.loading import find_model

    facts = summary(find_model(model))
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    heads = facts.pop("heads")
    _table(["", ""], [(key.replace("_", " "), str(value)) for key, value in facts.items()], header=False)
    names = ["head", "predicts", "descriptor", "cutoffs / Å", "precision", "parameters", "elements", "trained on"]
    _table(names, [_head_row(name, head) for name, head in heads.items()])


def _head_row(name: str, head: dict[str, Any]) -> list[str]:
    if "unsupported" in head:
        return [name, head["kind"], head["unsupported"], "", "", "", _elements(head["elements"]), ""]
    aliases = f" ({', '.join(head['aliases'])})" if head["aliases"] else ""
    return [
        name + aliases,
        head["kind"],
        head["descriptor"],
        ", ".join(f"{key} {value:g}" for key, value in head["cutoffs"].items()),
        head["precision"],
        f"{head['parameters']:,}",
        _elements(head["elements"]),
        "not recorded" if head["observed"] is None else _elements(head["observed"]),
    ]


def _elements(symbols: Sequence[str]) -> str:
    return " ".join(symbols) if len(symbols) <= 20 else f"{len(symbols)}: {' '.join(symbols[:12])} …"


# ---- singlepoint -----------------------------------------------------------------------------------------------------


@main.command()
@click.argument("structures", nargs=-1, required=True)
@_model_options
@click.option("--properties", default="energy,forces,stress", show_default=True, help="Comma-separated.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write structures with results.")
@click.option("--index", default=":", show_default=True, help="Frames to read, as in ASE.")
def singlepoint(  # noqa: PLR0913  # one parameter per option
    structures: tuple[str, ...],
    model: str | None,
    head: str | None,
    device: str | None,
    dtype: str | None,
    properties: str,
    out: Path | None,
    index: str,
) -> None:
    """Evaluate STRUCTURES (any format ASE reads, several files and frames at once)."""
    frames = _read(structures, index)
    _check_output(out)
    calculator = _calculator(model, head, device, dtype)
    wanted = _wanted(properties, calculator)
    results: list[dict[str, Any]] = []
    with _progress("evaluating", len(frames)) as advance:
        for start in range(0, len(frames), CHUNK):
            part = [atoms for _, atoms in frames[start : start + CHUNK]]
            results += calculator.evaluate(part, wanted)
            advance(len(part))
    rows = [_result_row(name, atoms, r) for (name, atoms), r in zip(frames, results, strict=True)]
    _table(["structure", "formula", "energy / eV", "max force / eV/Å", "pressure / GPa"], rows)
    if out is not None:
        _write(out, [_labelled(a, r, calculator) for (_, a), r in zip(frames, results, strict=True)])


def _wanted(properties: str, calculator: DPA2Calculator) -> list[str]:
    names = [name.strip() for name in properties.split(",") if name.strip()]
    known = calculator.implemented_properties
    if "energy" not in known and properties == "energy,forces,stress":  # the default, for a model of something else
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"this model has no {unknown or 'such property'}; it has {known}")
    return names


def _result_row(name: str, atoms: Atoms, results: dict[str, Any]) -> list[str]:
    import numpy as np
    from ase.units import GPa

    forces, stress = results.get("forces"), results.get("stress")
    largest = np.linalg.norm(forces, axis=1).max() if forces is not None and len(atoms) else None
    pressure = None if stress is None else -stress[:3].sum() / 3 / GPa
    return [name, atoms.get_chemical_formula(), *(_number(x) for x in (results.get("energy"), largest, pressure))]


def _labelled(atoms: Atoms, results: dict[str, Any], calculator: DPA2Calculator) -> Atoms:
    """A copy of `atoms` that carries its results and where they come from."""
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    labelled = atoms.copy()
    labelled.info.update(_provenance(calculator))
    standard = {name: value for name, value in results.items() if name in all_properties}
    for name, value in results.items():
        if name not in standard:
            labelled.info[name] = value
    labelled.calc = SinglePointCalculator(labelled, **standard)
    return labelled


def _provenance(calculator: DPA2Calculator) -> dict[str, str]:
    from . import __version__
    from .checkpoint import file_sha256

    path = calculator.source["model"]
    return {
        "model": Path(path).name,
        "model_sha256": file_sha256(path),
        "model_head": calculator.source["head"],
        "dpa2_ase_version": __version__,
    }


# ---- relax -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("structures", nargs=-1, required=True)
@_model_options
@click.option("--cell", is_flag=True, help="Relax the lattice as well.")
@click.option("--fmax", default=0.01, show_default=True, help="Largest force at convergence, eV/Å.")
@click.option("--optimizer", default="fire", show_default=True, type=click.Choice(["fire", "bfgs", "lbfgs"]))
@click.option("--max-steps", default=500, show_default=True, help="Stop after so many steps.")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: FIRST-relaxed.extxyz here."
)
@click.option("--index", default=":", show_default=True, help="Frames to read, as in ASE.")
def relax(  # noqa: PLR0913  # one parameter per option
    structures: tuple[str, ...],
    model: str | None,
    head: str | None,
    device: str | None,
    dtype: str | None,
    cell: bool,
    fmax: float,
    optimizer: str,
    max_steps: int,
    out: Path | None,
    index: str,
) -> None:
    """Relax STRUCTURES (any format ASE reads); exit code 3 if one did not converge."""
    from .workflows.relax import relax as run

    frames = _read(structures, index)
    out = out or Path(f"{Path(structures[0]).stem}-relaxed.extxyz")
    _check_output(out)
    calculator = _calculator(model, head, device, dtype)
    runs: list[Relaxation] = []
    for name, atoms in frames:
        atoms.calc = calculator
        with _progress(f"relaxing {name}", max_steps) as advance:
            done = run(
                atoms,
                fmax=fmax,
                cell=cell,
                optimizer=optimizer,
                max_steps=max_steps,
                on_step=lambda step, force: advance(bool(step), f"step {step}, max force {force:.3g} eV/Å"),
            )
        runs.append(done)
        _print_relaxation(name, done)
    _write(out, [_labelled(r.atoms, _kept(r.atoms), calculator) for r in runs])
    click.echo(f"written: {out}")
    unfinished = [name for (name, _), r in zip(frames, runs, strict=True) if not r.converged]
    if unfinished:
        click.echo(f"dpa2: not converged in {max_steps} steps: {', '.join(unfinished)}; raise --max-steps", err=True)
        click.get_current_context().exit(NOT_CONVERGED)


def _kept(atoms: Atoms) -> dict[str, Any]:
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    return results | ({"stress": atoms.get_stress()} if atoms.pbc.any() else {})


def _print_relaxation(name: str, run: Relaxation) -> None:
    rows = [_state_row("initial", run.initial), _state_row("final", run.final)]
    status = "converged" if run.converged else "NOT converged"
    title = f"{name}: {run.atoms.get_chemical_formula()}, {status} after {run.steps} steps"
    columns = ["", "energy / eV", "max force / eV/Å", "pressure / GPa", "a, b, c / Å", "α, β, γ / °"]
    _table(columns, rows, title=title)


def _state_row(label: str, state: State) -> list[str]:
    lengths = ", ".join(f"{x:.4f}" for x in state.cell[:3])
    angles = ", ".join(f"{x:.2f}" for x in state.cell[3:])
    return [label, f"{state.energy:.6f}", f"{state.max_force:.4f}", _number(state.pressure), lengths, angles]


# ---- shared ----------------------------------------------------------------------------------------------------------


def _calculator(model: str | None, head: str | None, device: str | None, dtype: str | None) -> DPA2Calculator:
    from .interfaces.ase import DPA2Calculator

    return DPA2Calculator(model, head=head, device=device, dtype=dtype)


def _read(paths: Sequence[str], index: str) -> list[tuple[str, Atoms]]:
    """All frames of all files with a name for each; any failure of a reader becomes one ValueError."""
    from ase.io import read

    frames: list[tuple[str, Atoms]] = []
    for path in paths:
        if path != "-" and not Path(path.split("@")[0]).exists():
            raise FileNotFoundError(f"no structure file {path}")
        try:
            found = read(path, index=index) if "@" not in path else read(path)
        except Exception as error:  # ASE's readers fail in their own ways
            raise ValueError(f"{path} cannot be read as a structure ({type(error).__name__}: {error})") from error
        several = isinstance(found, list) and len(found) > 1
        for number, atoms in enumerate(found if isinstance(found, list) else [found]):
            frames.append((f"{Path(path).name}@{number}" if several else Path(path).name, atoms))
    if not frames:
        raise ValueError(f"no structures in {', '.join(paths)} at index {index!r}")
    return frames


def _check_output(out: Path | None) -> None:
    """Find out before the work whether the result can be written after it."""
    if out is None:
        return
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {out.absolute().parent} to write {out.name} to")
    try:
        writable = ioformats[filetype(str(out), read=False)].can_write
    except UnknownFileTypeError:
        writable = False
    if not writable:
        raise ValueError(f"ASE cannot write {out.name}; use a suffix it knows, such as .extxyz")


def _write(out: Path, frames: Sequence[Atoms]) -> None:
    """Write all frames or nothing: to a temporary file first, then renamed."""
    from ase.io import write
    from ase.io.formats import filetype

    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        write(temporary, list(frames), format=filetype(str(out), read=False))
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}" if abs(value) < 1 else f"{value:.4f}"


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True, title: str | None = None
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, show_header=header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    # off a terminal, lines as long as they need to be: nothing is cut
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr if that is a terminal; yields a function that advances it."""
    if not sys.stderr.isatty():
        yield lambda count, note="": None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count, note="": bar.update(task, advance=count, description=f"{what} {note}")


if __name__ == "__main__":
    main()
