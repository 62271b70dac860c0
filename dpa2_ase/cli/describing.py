"""What ``dpa2 map`` and ``dpa2 select`` share: data sets on the way to representations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..interfaces.ase import DPA2Calculator
    from ..maps.sources import DataSets
    from ..maps.store import Environments
    from .options import Model

LAYERS = ("final", "initial", "repinit")  # as `dpa2_ase.maps.layers.LAYERS`
PICTURES = (".png", ".svg", ".pdf")


def layer_options(function: Any) -> Any:
    """Options about what represents an atom, and where that is kept."""
    for option in (
        click.option(
            "--store", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps representations."
        ),
        click.option("--types", is_flag=True, help="With the type embedding, which tells elements apart by itself."),
        click.option("--layer", type=click.Choice(LAYERS), default="final", show_default=True, help="Representation."),
    ):
        function = option(function)
    return function


def calculator_of(model: Model, *, any_head: bool, uncertainty: bool | Path = False) -> DPA2Calculator:
    """The calculator a user asks for; representations are those of any head, as far as heads were trained together.

    `uncertainty` is that of `DPA2Calculator`.
    """
    from ..checkpoint import heads
    from ..interfaces.loading import find_model
    from .models import calculator_of_head

    head, known = model.head, [*heads(find_model(model.model))]
    if head is None and any_head and len(known) > 1:
        head = known[0]
        click.echo(f"dpa2: representations of head {head}; heads that were trained together share them", err=True)
    return calculator_of_head(model, head, uncertainty=uncertainty)


def data_sets(paths: Sequence[str], index: str = ":") -> DataSets:
    """Data sets of the command line, with patterns replaced by the files they fit."""
    from ..maps.sources import DataSets
    from .files import expanded

    return DataSets(expanded(paths), index)


def describe_data(
    data: DataSets, calc: DPA2Calculator, store: Path | None, layer: tuple[str, bool], labels: Sequence[str] = ()
) -> Environments:
    """Representations of data sets with labels, and progress on the terminal; Ctrl-C leaves finished parts."""
    from ..maps import Layer, column, describe
    from ..maps.sources import DATA_SET, FRAME
    from .display import progress

    names = dict.fromkeys([DATA_SET, FRAME, *labels])
    columns = [found for found in (column(name, calc) for name in names) if found is not None]
    done = 0
    with progress("describing structures", None) as bar:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(done, f"{done} structures")

        try:
            return describe(
                data,
                calc,
                layer=Layer(layer[0], layer[1]),  # type: ignore[arg-type]  # one of the choices
                store=store,
                columns=columns,
                on_progress=advance,
            )
        except KeyboardInterrupt:
            kept = f"they are kept in {store}, and the same command goes on there" if store else "--store keeps them"
            raise KeyboardInterrupt(f"interrupted with {done} structures described; {kept}") from None


def check_files(outs: Sequence[Path], kinds: Sequence[str], inputs: Sequence[Path]) -> None:
    """Find out before the work whether results can be written after it."""
    for out in outs:
        if out.suffix not in kinds:
            raise ValueError(f"{out} should end with one of {', '.join(kinds)}")
        if not out.resolve().parent.is_dir():
            raise FileNotFoundError(f"no folder {out.resolve().parent} to write {out.name} to")
        if any(out.resolve() == path.resolve() for path in inputs):
            raise ValueError(f"{out} is also an input, which is never overwritten; choose another name to write to")
