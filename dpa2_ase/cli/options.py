"""Options that commands share, and how a command reads its options: from the command line, then from a file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from .config import read_config

MODES = ("auto", "reference", "torch", "kernels")  # as `dpa2_ase.kernels.MODES`, which would import torch
OPTIMIZERS = ("fire", "fire2", "bfgs", "lbfgs")  # those that walk in step with many structures
SOURCES = ("auto", "derivatives", "displacements")  # of force constants
RELAX_FIRST = ("full", "volume", "shape", "positions", "none")


class ManyOption(click.Option):
    """An option with as many values as follow it: ``--models a.pt b.pt``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "multiple": True})


class OptionalValue(click.Option):
    """A choice that also goes without its value: ``--cell`` for ``--cell full``.

    Parameters
    ----------
    without
        What stands for the option alone.
    """

    def __init__(self, *args: Any, without: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optional_value = without


class Structures(click.Argument):
    """Files on the command line; the settings file may name them instead."""

    def consume_value(self, ctx: click.Context, opts: Any) -> Any:
        """As the base class, but nothing is no value."""
        value, source = super().consume_value(ctx, opts)
        stored = (ctx.default_map or {}).get(str(self.name))
        if not value and stored:
            return stored, click.core.ParameterSource.DEFAULT_MAP
        return value, source


class Command(click.Command):
    """A command with ``--config``, and with options of many or of no values (see above)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not any(option.name == "config" for option in self.params):
            self.params.append(
                click.Option(
                    ["--config"],
                    type=click.Path(path_type=Path),
                    is_eager=True,
                    expose_value=False,
                    callback=_load_config,
                    help="YAML file of options (dpa2 init writes one); those given here go before it.",
                )
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spell out the options of many or of no values, which click does not know."""
        return super().parse_args(ctx, _spelled_out(self, list(args)))


def command(*args: Any, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """Like ``click.command``, of the class above."""
    return click.command(*args, cls=Command, **options)


def _load_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read_config(value, ctx.command)}


def _spelled_out(command: click.Command, args: list[str]) -> list[str]:
    known = {word: option for option in command.params for word in option.opts}
    result: list[str] = []
    while args:
        word = args.pop(0)
        option = known.get(word)
        result.append(word)
        if word == "--":
            return result + args
        if isinstance(option, ManyOption):
            while args and not args[0].startswith("-"):
                result.append(args.pop(0))
                if args and not args[0].startswith("-"):
                    result.append(word)
        elif isinstance(option, OptionalValue):
            assert isinstance(option.type, click.Choice)
            if not args or args[0] not in option.type.choices:
                result.append(option.optional_value)
        elif isinstance(option, click.Option) and not option.is_flag and args:
            result.append(args.pop(0))
    return result


# ---- what commands share --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Which model computes, and how."""

    model: str | None = None
    head: str | None = None
    device: str | None = None
    dtype: str | None = None
    mode: str = "auto"
    dispersion: str | None = None


@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    report: bool = True


@dataclass(frozen=True)
class Common:
    """What every command is told."""

    structures: tuple[str, ...]
    index: str
    model: Model
    output: Output


_STRUCTURES = (
    click.argument("structures", nargs=-1, cls=Structures),
    click.option("--index", default=":", show_default=True, help="Frames to read, as in ASE."),
)
_DEVICE = (
    click.option("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one."),
    click.option("--dtype", type=click.Choice(["float64", "float32"]), help="Precision; default: the model's own."),
    click.option("--mode", type=click.Choice(MODES), default="auto", help="How to compute; default: the fastest."),
)
dispersion_option = click.option("--dispersion", help="Add D3(BJ) with the parameters of this functional, such as PBE.")
_MODEL = (
    click.option("-m", "--model", help="Model file or name of an official model; default: the bundled model."),
    click.option("--head", help="Head of a multi-task model."),
    *_DEVICE,
    dispersion_option,
)
_OUTPUT = (
    click.option("--resume", is_flag=True, help="Go on with the run in the folder, if there is one."),
    click.option("--overwrite", is_flag=True, help="Begin anew where the folder holds another run."),
    click.option("--report/--no-report", default=True, help="Write report.html, one file that holds everything."),
)


def common_options(
    *, output: bool = True, model: bool = True, out: str = "Folder for results; default: FIRST-COMMAND in this folder."
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of structures, model and output, as one first argument of type `Common`.

    Without `model` there are only the device and how to compute, for commands that choose models in their own way;
    `out` is the help of that option.
    """
    folder = click.option("-o", "--out", type=click.Path(path_type=Path), help=out)
    chosen = (*_STRUCTURES, *(_MODEL if model else _DEVICE), *((folder, *_OUTPUT) if output else ()))

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def collected(**options: Any) -> Any:
            structures, index = options.pop("structures"), options.pop("index")
            parts = [
                cls(**{f.name: options.pop(f.name) for f in fields(cls) if f.name in options})
                for cls in (Model, Output)
            ]
            if not structures:
                raise click.UsageError("Missing argument 'STRUCTURES...'.")
            return function(Common(tuple(structures), index, *parts), **options)  # type: ignore[arg-type]  # parts are in its order

        for option in reversed(chosen):
            collected = option(collected)
        return collected

    return decorate
