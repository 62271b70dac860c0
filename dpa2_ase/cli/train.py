"""``dpa2 train``: fit a model; below it ``init``, which writes a settings file, and ``change-bias``."""

from __future__ import annotations

import logging
from pathlib import Path

import click


class _Train(click.Group):
    """A group whose first argument may also be what its command ``run`` takes: ``dpa2 train SETTINGS``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` in front of arguments that name no command."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Train, context_settings={"help_option_names": ["-h", "--help"]})
def train() -> None:
    """Fit a model: dpa2 train SETTINGS [OPTIONS].

    SETTINGS is YAML (``dpa2 train init`` writes one to begin with) or an input.json of DeePMD-kit. The options are
    those of ``dpa2 train run``.
    """


@train.command()
@click.argument("settings", type=click.Path(path_type=Path))
@click.option("--restart", type=click.Path(), help="Continue the training stored in this checkpoint, bit for bit.")
@click.option("--init-model", type=click.Path(), help="Start from the weights of this checkpoint.")
@click.option("--finetune", type=click.Path(), help="Start from this pretrained model; biases are fitted to the data.")
@click.option("--head", help="Head of the pretrained model; RANDOM for a new fitting net on its descriptor.")
@click.option("--device", default="cpu", show_default=True, help="As torch knows it: cpu, cuda, cuda:1.")
@click.option("--quiet", is_flag=True, help="No messages; the log file has everything.")
def run(  # noqa: PLR0913  # one parameter per option
    settings: Path,
    restart: str | None,
    init_model: str | None,
    finetune: str | None,
    head: str | None,
    device: str,
    quiet: bool,
) -> None:
    """Train a model as SETTINGS says; the word ``run`` may be left out."""
    from ..training.run import train as run_training

    if not quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
    trainer = run_training(
        settings, restart=restart, init_model=init_model, finetune=finetune, head=head, device=device, quiet=quiet
    )
    if trainer.processes.is_first:
        click.echo(f"written: {trainer.config.output.checkpoint}")


@train.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("train.yaml"))
def init(file: Path) -> None:
    """Write a commented settings FILE (default: train.yaml) to fill in."""
    from ..training.template import TEMPLATE

    if file.exists():
        raise FileExistsError(f"{file} exists; nothing is overwritten, choose another name")
    if not file.resolve().parent.is_dir():
        raise FileNotFoundError(f"no folder {file.resolve().parent} to write {file.name} to")
    file.write_text(TEMPLATE, encoding="utf-8")
    click.echo(f"written: {file}; run it with: dpa2 train {file}")


@train.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New .pt file, with all heads.")
@click.option("--head", help="Head of a multi-task model whose energies of atoms are fitted.")
def change_bias(model: Path, data: tuple[str, ...], output: Path, head: str | None) -> None:
    """Fit the energies of atoms in MODEL to the energies of DATA; the nets stay as they are.

    For data of another code or level of theory, whose energies have another zero: forces do not change.
    """
    from ..training.setup import change_bias as change

    if output.exists():
        raise FileExistsError(f"{output} exists; nothing is overwritten, choose another name")
    before, after = change(model, data, output, head)
    click.echo(f"RMSE of energies: {1000 * before:.4g} -> {1000 * after:.4g} meV/atom")
    click.echo(f"written: {output}")
