"""``dpa2 init``: a settings file to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from .config import template
from .options import Command


@click.command()
@click.argument("command")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.pass_context
def init(ctx: click.Context, command: str, file: Path | None) -> None:
    """Write a commented settings FILE for COMMAND (default: COMMAND.yml), to be run with --config."""
    group = ctx.parent.command if ctx.parent else None
    assert isinstance(group, click.Group)
    known = {name: found for name, found in group.commands.items() if isinstance(found, Command)}
    target = file or Path(f"{command}.yml")
    if command == "train":
        from ..training.template import TEMPLATE

        text = TEMPLATE
    elif command in known:
        text = template(known[command])
    else:
        raise ValueError(f"no settings file for {command!r}; there is one for {', '.join([*known, 'train'])}")
    if target.exists():
        raise FileExistsError(f"{target} exists; nothing is overwritten, choose another name")
    from ..workflows.files import write_text

    if not target.resolve().parent.is_dir():
        raise FileNotFoundError(f"no folder {target.resolve().parent} to write {target.name} to")
    click.echo(f"written: {write_text(target, text)}")
