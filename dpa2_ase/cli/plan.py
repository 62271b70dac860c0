"""``dpa2 plan``: memory before it is taken."""

from __future__ import annotations

import click

from .options import Common, command, common_options


@command()
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), help="GiB to fit into; default: what is there.")
@common_options(output=False)
def plan(common: Common, memory: float | None) -> None:
    """Predict how much memory energy and forces of STRUCTURES take, and how large a structure can be."""
    from .files import read_structures
    from .models import check_frames, make_calculator

    frames = read_structures(common.structures, common.index)
    calculator = make_calculator(common.model)
    check_frames(frames, calculator)
    for name, atoms in frames:
        click.echo(f"{name}: {calculator.plan(atoms, memory)}")
