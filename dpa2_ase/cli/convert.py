"""``dpa2 convert``: labelled frames, or a model, from one format into another."""

from __future__ import annotations

from pathlib import Path

import click

_MODELS = (".pt", ".pth", ".dp", ".yaml", ".yml", ".pte", ".pt2")
_KINDS = (
    "shape not-finite no-labels duplicate net-force large-force large-pressure short-distance energy-outlier".split()
)


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path())
@click.option("--format", "format_", help="deepmd-npy, deepmd-mixed, deepmd-hdf5, deepmd-lmdb or a format of ASE.")
@click.option("--energy-key", help="Entry of info with the energy, where ASE does not take it for a result.")
@click.option("--forces-key", help="Array with the forces.")
@click.option("--stress-key", help="Entry of info with the stress, ASE's sign, eV/Å³.")
@click.option("--virial-key", help="Entry of info with the virial, eV.")
@click.option("--check", is_flag=True, help="Say what looks wrong with the frames.")
@click.option("--list", "list_", type=click.Path(), help="Write all remarks of the checks to this CSV file.")
@click.option("--without", multiple=True, type=click.Choice(_KINDS), help="Leave out frames with such a remark.")
@click.option("--max-force", default=30.0, show_default=True, help="From where on a force is large, eV/Å.")
@click.option("--max-pressure", default=100.0, show_default=True, help="From where on a pressure is large, GPa.")
@click.option("--head", help="Of a multi-task model that is converted to .dp or .yaml.")
def convert(  # noqa: PLR0913  # one parameter per option
    source: str,
    target: str,
    format_: str | None,
    energy_key: str | None,
    forces_key: str | None,
    stress_key: str | None,
    virial_key: str | None,
    check: bool,
    list_: str | None,
    without: tuple[str, ...],
    max_force: float,
    max_pressure: float,
    head: str | None,
) -> None:
    """Convert frames or a model in SOURCE to a new TARGET.

    Frames (DeePMD systems, HDF5, LMDB, or what ASE reads) go there and back without loss. Models (.pt, .pth, .dp,
    .yaml, .pte, .pt2) become a .pt checkpoint, with all heads, or a .dp or .yaml document, which ``dp
    convert-backend`` turns into every format of DeePMD-kit.
    """
    if Path(source).suffix in _MODELS and Path(source).is_file():
        from ..checkpoint.document_writing import convert_model

        convert_model(source, target, head)
        click.echo(f"written: {target}")
        return
    from ..training.data.checks import Limits, check_frames
    from ..training.data.files import convert as run
    from ..training.data.frames import Frame, LabelKeys

    def choose(frames: list[Frame]) -> list[Frame]:
        report = check_frames(frames, limits=Limits(force=max_force, pressure=max_pressure))
        if check:
            click.echo(report.text())
        if list_:
            Path(list_).write_text(report.csv(), encoding="utf-8")
            click.echo(f"written: {list_} ({len(report.findings)} remarks)")
        return report.without(frames, without)  # type: ignore[arg-type]  # click has checked the choices

    keys = LabelKeys(energy_key, forces_key, stress_key, virial_key)
    needs_checks = check or bool(list_) or bool(without)
    count = run(source, target, format=format_, keys=keys, choose=choose if needs_checks else None)
    click.echo(f"written: {target} ({count} frames)")
