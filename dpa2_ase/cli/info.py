"""``dpa2 info``: what a model file holds, and what computes here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .display import print_table
from .options import command


@command()
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
