"""The command ``dpa2``: parse, call one function, print. Heavy imports wait until a command runs."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import click

from .calibrate import calibrate
from .compare import compare
from .convert import convert
from .elastic import elastic
from .eos import eos
from .evaluate import evaluate
from .heads import heads
from .info import info
from .init import init
from .map import map_
from .md import md
from .model_devi import model_devi
from .neb import neb
from .phonons import phonons
from .plan import plan
from .relax import relax
from .select import select
from .singlepoint import singlepoint
from .train import train
from .vibrations import vibrations

BAD_INPUT = 2
INTERRUPTED = 130
EXPECTED = (OSError, ValueError, NotImplementedError, MemoryError, ArithmeticError, ImportError)


class _Commands(click.Group):
    """Turns expected failures and warnings into one line each on stderr, failures into a non-zero exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added, which is that of their use."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember what was typed, for reports."""
        ctx.meta["dpa2.arguments"] = list(args)
        return super().parse_args(ctx, args)

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
            except EXPECTED as error:
                click.echo(f"dpa2: {_one_line(error)}", err=True)
                ctx.exit(BAD_INPUT)
            except KeyboardInterrupt as error:
                click.echo(f"dpa2: {str(error) or 'interrupted; nothing half-written was left'}", err=True)
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


main.add_command(singlepoint)
main.add_command(relax)
main.add_command(md)
main.add_command(phonons)
main.add_command(neb)
main.add_command(eos)
main.add_command(elastic)
main.add_command(vibrations)
main.add_command(evaluate)
main.add_command(compare)
main.add_command(heads)
main.add_command(calibrate)
main.add_command(model_devi)
main.add_command(plan)
main.add_command(map_)
main.add_command(select)
main.add_command(info)
main.add_command(init)
main.add_command(convert)
main.add_command(train)
