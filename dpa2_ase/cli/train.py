"""``dpa2 train``: fit a model, or write a settings file to begin with."""

from __future__ import annotations

import logging
from pathlib import Path

import click


@click.command()
@click.argument("settings", type=click.Path(path_type=Path))
@click.option("--init", is_flag=True, help="Write a commented SETTINGS file to fill in, and stop.")
@click.option("--restart", type=click.Path(), help="Continue the training stored in this checkpoint, bit for bit.")
@click.option("--init-model", type=click.Path(), help="Start from the weights of this checkpoint.")
@click.option("--finetune", type=click.Path(), help="Start from this pretrained model; biases are fitted to the data.")
@click.option("--head", help="Head of the pretrained model; RANDOM for a new fitting net on its descriptor.")
@click.option("--device", default="cpu", show_default=True, help="As torch knows it: cpu, cuda, cuda:1.")
@click.option("--quiet", is_flag=True, help="No messages; the log file has everything.")
def train(  # noqa: PLR0913  # one parameter per option
    settings: Path,
    init: bool,
    restart: str | None,
    init_model: str | None,
    finetune: str | None,
    head: str | None,
    device: str,
    quiet: bool,
) -> None:
    """Train a model as SETTINGS says: YAML, or input.json of DeePMD-kit."""
    if init:
        from ..training.settings import TEMPLATE

        if settings.exists():
            raise FileExistsError(f"{settings} exists; nothing is overwritten, choose another name")
        settings.write_text(TEMPLATE, encoding="utf-8")
        click.echo(f"written: {settings}")
        return
    from ..training.run import train as run

    if not quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
    trainer = run(
        settings, restart=restart, init_model=init_model, finetune=finetune, head=head, device=device, quiet=quiet
    )
    if trainer.processes.is_first:
        click.echo(f"written: {trainer.config.output.checkpoint}")
