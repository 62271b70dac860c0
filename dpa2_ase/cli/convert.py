"""``dpa2 convert``: labelled frames from one format into another."""

from __future__ import annotations

import click


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path())
@click.option("--format", "format_", help="deepmd-npy, deepmd-mixed, deepmd-hdf5, deepmd-lmdb or a format of ASE.")
@click.option("--energy-key", help="Entry of info with the energy, where ASE does not take it for a result.")
@click.option("--forces-key", help="Array with the forces.")
@click.option("--stress-key", help="Entry of info with the stress, ASE's sign, eV/Å³.")
@click.option("--virial-key", help="Entry of info with the virial, eV.")
@click.option("--check", is_flag=True, help="Say what looks wrong with the frames.")
def convert(  # noqa: PLR0913  # one parameter per option
    source: str,
    target: str,
    format_: str | None,
    energy_key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    virial_key: str | None,
    check: bool,
) -> None:
    """Convert frames in SOURCE (DeePMD systems, HDF5, LMDB, or what ASE reads) to a new TARGET, nothing lost."""
    from ..training.data.checks import check_frames
    from ..training.data.files import convert as run
    from ..training.data.files import read_frames
    from ..training.data.frames import LabelKeys

    keys = LabelKeys(energy_key, forces_key, stress_key, virial_key)
    count = run(source, target, format=format_, keys=keys)
    click.echo(f"written: {target} ({count} frames)")
    if check:
        click.echo(check_frames(read_frames(target)).text())
