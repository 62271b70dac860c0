"""The command ``dpa2``: parse, call one function, print. Heavy imports wait until a command runs."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .convert import convert
from .display import number, print_table, progress
from .files import check_output, format_of, read_structures, write_structures
from .train import train

if TYPE_CHECKING:
    from ase import Atoms

    from ..interfaces.ase import DPA2Calculator
    from ..workflows.relax import Relaxation, State

BAD_INPUT = 2
NOT_CONVERGED = 3
INTERRUPTED = 130
SHOWN = {"energy", "free_energy", "forces", "stress"}  # what the table of singlepoint has columns for
_MODES = ("auto", "reference", "torch", "kernels")  # as `dpa2_ase.kernels.MODES`, which would import torch
CHUNK = 256  # structures evaluated between two updates of the progress bar


class _Commands(click.Group):
    """Turns expected failures and warnings into one line each on stderr, failures into a non-zero exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # an Å more than the terminal can show is no reason to stop
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise  # click's to handle: who read the output wants no more of it
            except (OSError, ValueError, NotImplementedError, MemoryError, ArithmeticError, ImportError) as error:
                click.echo(f"dpa2: {_one_line(error)}", err=True)
                ctx.exit(BAD_INPUT)
            except KeyboardInterrupt:
                click.echo("dpa2: interrupted; nothing half-written was left", err=True)
                ctx.exit(INTERRUPTED)


def _one_line(error: Exception | Warning | str) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line).replace(":; ", ": ") or type(error).__name__


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"dpa2: warning: {_one_line(message)}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dpa2-ase", prog_name="dpa2")
def main() -> None:
    """Run DPA-1 and DPA-2 deep-potential models."""


main.add_command(convert)
main.add_command(train)


def _model_options(command: Any) -> Any:
    for option in (
        click.option("--mode", type=click.Choice(_MODES), default="auto", help="How to compute; default: the fastest."),
        click.option("--dtype", type=click.Choice(["float64", "float32"]), help="Precision; default: the model's own."),
        click.option("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one."),
        click.option("--head", help="Head of a multi-task model."),
        click.option("-m", "--model", help="Model file or name of an official model; default: the bundled model."),
    ):
        command = option(command)
    return command


def _calculator(**choices: Any) -> DPA2Calculator:
    from ..interfaces.ase import DPA2Calculator

    return DPA2Calculator(**choices)


def _check_frames(frames: Sequence[tuple[str, Atoms]], calculator: DPA2Calculator) -> None:
    """Find out before the work whether the model can evaluate all structures."""
    for name, atoms in frames:
        try:
            calculator.evaluator.reader.check(atoms)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


# ---- info ------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--system", is_flag=True, help="Say what computes here and why, with MODEL for each of its blocks.")
def info(model: str | None, as_json: bool, system: bool) -> None:
    """Say what a MODEL file holds (default: the bundled model)."""
    import json

    from ..checkpoint import summary
    from ..interfaces.loading import find_model

    if system:
        from .system import model_facts, system_facts

        rows = system_facts() | (model_facts(find_model(model)) if model else {})
        if as_json:
            click.echo(json.dumps(rows, indent=1))
        else:
            print_table(["", ""], list(rows.items()), header=False)
        return
    facts = summary(find_model(model))
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    heads = facts.pop("heads")
    print_table(["", ""], [(key.replace("_", " "), str(value)) for key, value in facts.items()], header=False)
    names = ["head", "predicts", "descriptor", "cutoffs / Å", "precision", "parameters", "elements", "trained on"]
    print_table(names, [_head_row(name, head) for name, head in heads.items()])


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
    return " ".join(symbols) if len(symbols) <= 20 else f"{len(symbols)}: {' '.join(symbols)}"


# ---- singlepoint -----------------------------------------------------------------------------------------------------


@main.command()
@click.argument("structures", nargs=-1, required=True)
@_model_options
@click.option("--properties", help="Comma-separated; default: energy,forces,stress, or all that the model predicts.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write structures with results.")
@click.option("--index", default=":", show_default=True, help="Frames to read, as in ASE.")
def singlepoint(  # noqa: PLR0913  # one parameter per option
    structures: tuple[str, ...],
    model: str | None,
    head: str | None,
    device: str | None,
    dtype: str | None,
    mode: str,
    properties: str | None,
    out: Path | None,
    index: str,
) -> None:
    """Evaluate STRUCTURES (any format ASE reads, several files and frames at once)."""
    frames = read_structures(structures, index)
    if out is not None:
        check_output(out, structures, len(frames), for_results=True)
    calculator = _calculator(model=model, head=head, device=device, dtype=dtype, mode=mode)
    wanted = _wanted(properties, calculator)
    if out is None and not SHOWN & {*wanted} and "energy" in calculator.implemented_properties:
        raise ValueError(f"{', '.join(wanted)} do not fit into a table; give -o to write them to a file")
    _check_frames(frames, calculator)
    results: list[dict[str, Any]] = []
    with progress("evaluating", len(frames)) as advance:
        for start in range(0, len(frames), CHUNK):
            part = [atoms for _, atoms in frames[start : start + CHUNK]]
            with _naming_file([name for name, _ in frames[start : start + CHUNK]]):
                results += calculator.evaluate(part, wanted)
            advance(len(part))
    _print_results([name for name, _ in frames], [atoms for _, atoms in frames], results, calculator)
    if out is not None:
        write_structures(out, [_labelled(a, r, calculator) for (_, a), r in zip(frames, results, strict=True)])
        click.echo(f"written: {out}")


@contextmanager
def _naming_file(names: Sequence[str]) -> Iterator[None]:
    """Name the file an error is about, not the number of the structure within a pass."""
    try:
        yield
    except ValueError as error:
        number = re.search(r"structure (\d+)", str(error))
        name = names[int(number[1])] if number else names[0]
        raise ValueError(f"{name}: {error}" if number is None else str(error).replace(number[0], name)) from error


def _wanted(properties: str | None, calculator: DPA2Calculator) -> list[str]:
    known = calculator.implemented_properties
    if properties is None:
        return ["energy", "forces", "stress"] if "energy" in known else known
    names = [name.strip() for name in properties.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"this model has no {unknown or 'such property'}; it has {known}")
    return names


def _print_results(
    names: Sequence[str], structures: Sequence[Atoms], results: Sequence[dict[str, Any]], calculator: DPA2Calculator
) -> None:
    import numpy as np
    from ase.units import GPa

    columns = ["energy / eV", "max force / eV/Å", "pressure / GPa"]
    shown = calculator.implemented_properties[0]
    if shown != "energy":  # the one quantity of the whole structure
        columns = [shown]
    rows = []
    for name, atoms, result in zip(names, structures, results, strict=True):
        if shown == "energy":
            forces, stress = result.get("forces"), result.get("stress")
            largest = None if forces is None else np.linalg.norm(forces, axis=1).max(initial=0.0)
            pressure = None if stress is None else -stress[:3].sum() / 3 / GPa
            values = [number(x) for x in (result.get("energy"), largest, pressure)]
        else:
            values = [" ".join(f"{x:.6g}" for x in np.ravel(result[shown])) if shown in result else "–"]
        rows.append([name, atoms.get_chemical_formula(), *values])
    print_table(["structure", "formula", *columns], rows)


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
    from .. import __version__
    from ..checkpoint import file_sha256

    path = calculator.source["model"]
    return {
        "model": Path(path).name,
        "model_sha256": file_sha256(path),
        "model_head": calculator.source["head"],
        "model_mode": calculator.engine.mode,
        "dpa2_ase_version": __version__,
    }


# ---- plan ------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("structures", nargs=-1, required=True)
@_model_options
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), help="GiB to fit into; default: what is there.")
@click.option("--index", default=":", show_default=True, help="Frames to read, as in ASE.")
def plan(  # noqa: PLR0913  # one parameter per option
    structures: tuple[str, ...],
    model: str | None,
    head: str | None,
    device: str | None,
    dtype: str | None,
    mode: str,
    memory: float | None,
    index: str,
) -> None:
    """Predict how much memory energy and forces of STRUCTURES take, and how large a structure can be."""
    frames = read_structures(structures, index)
    calculator = _calculator(model=model, head=head, device=device, dtype=dtype, mode=mode)
    _check_frames(frames, calculator)
    for name, atoms in frames:
        click.echo(f"{name}: {calculator.plan(atoms, memory)}")


# ---- relax -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("structures", nargs=-1, required=True)
@_model_options
@click.option("--cell", is_flag=True, help="Relax the lattice as well.")
@click.option("--fmax", default=0.01, show_default=True, help="Largest force at convergence, eV/Å.")
@click.option("--optimizer", default="fire", show_default=True, type=click.Choice(["fire", "bfgs", "lbfgs"]))
@click.option("--max-steps", default=500, show_default=True, help="Stop after so many steps.")
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: FIRST-relaxed.extxyz in this folder."
)
@click.option("--index", default=":", show_default=True, help="Frames to read, as in ASE.")
def relax(  # noqa: PLR0913  # one parameter per option
    structures: tuple[str, ...],
    model: str | None,
    head: str | None,
    device: str | None,
    dtype: str | None,
    mode: str,
    cell: bool,
    fmax: float,
    optimizer: str,
    max_steps: int,
    out: Path | None,
    index: str,
) -> None:
    """Relax STRUCTURES (any format ASE reads); exit code 3 if one did not converge."""
    from ..workflows.relax import relax as run

    frames = read_structures(structures, index)
    out = out or _default_output(structures[0])
    check_output(out, structures, len(frames))
    calculator = _calculator(model=model, head=head, device=device, dtype=dtype, mode=mode)
    _check_frames(frames, calculator)
    runs: list[Relaxation] = []
    try:
        for name, atoms in frames:
            atoms.calc = calculator
            with progress(f"relaxing {name}", max_steps) as advance:
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
    finally:  # a failure or Ctrl-C later on takes nothing from those that are done
        if runs:
            write_structures(out, [_labelled(r.atoms, _raw_results(r.atoms), calculator) for r in runs])
            click.echo(f"written: {out}")
    unfinished = [name for (name, _), r in zip(frames, runs, strict=True) if not r.converged]
    if unfinished:
        click.echo(f"dpa2: not converged in {max_steps} steps: {', '.join(unfinished)}; raise --max-steps", err=True)
        click.get_current_context().exit(NOT_CONVERGED)


def _default_output(first: str) -> Path:
    out = Path(f"{Path(first).stem}-relaxed.extxyz")
    return out if format_of(out) == "extxyz" else Path("relaxed.extxyz")  # ASE reads *POSCAR*.extxyz as VASP's


def _raw_results(atoms: Atoms) -> dict[str, Any]:
    """What the model says, also on atoms that a constraint holds in place."""
    names = ["energy", "forces", *(["stress"] if atoms.pbc.any() else [])]
    return {name: atoms.calc.get_property(name, atoms) for name in names}


def _print_relaxation(name: str, run: Relaxation) -> None:
    rows = [_state_row("initial", run.initial), _state_row("final", run.final)]
    status = "converged" if run.converged else "NOT converged"
    title = f"{name}: {run.atoms.get_chemical_formula()}, {status} after {run.steps} steps"
    columns = ["", "energy / eV", "max force / eV/Å", "pressure / GPa", "a, b, c / Å", "α, β, γ / °"]
    print_table(columns, rows, title=title)


def _state_row(label: str, state: State) -> list[str]:
    has_cell = any(state.cell[:3])
    lengths = ", ".join(f"{x:.4f}" for x in state.cell[:3]) if has_cell else "–"
    angles = ", ".join(f"{x:.2f}" for x in state.cell[3:]) if has_cell else "–"
    return [label, f"{state.energy:.6f}", f"{state.max_force:.4f}", number(state.pressure), lengths, angles]
