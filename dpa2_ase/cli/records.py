"""Folders of commands that are done in one go: numbers as JSON with where they come from, and one page to read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes

REPORT = "report.html"
MOST_FRAMES = 50  # structures that the page shows


@dataclass
class Record:
    """What goes into the folder of a command.

    Attributes
    ----------
    title
        Of the page.
    facts
        All that came out, for JSON.
    tables
        Heading, columns and rows of each.
    figures
        Heading of each, and what draws it.
    frames
        Names and structures worth a look.
    notes
        Text below the title.
    """

    title: str
    facts: Mapping[str, Any]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = ()
    figures: Sequence[tuple[str, Callable[[], Axes]]] = ()
    frames: Sequence[tuple[str, Atoms]] = ()
    notes: Sequence[str] = ()


def is_folder(out: Path) -> bool:
    """Whether a user means a folder, which has no suffix or is there already."""
    return not out.suffix or out.is_dir()


def check_folder(folder: Path) -> None:
    """Find out before the work whether a folder can be written to after it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the results with --out")
    if not folder.resolve().parent.is_dir():
        raise FileNotFoundError(f"no folder {folder.resolve().parent} to make {folder.name} in")


def write_record(folder: Path, name: str, record: Record, provenance: Mapping[str, Any]) -> None:
    """Write ``NAME.json`` and ``report.html``; `provenance` as `dpa2_ase.workflows.results.provenance_of` gives it."""
    from ..report import Report
    from ..workflows.files import write_json
    from ..workflows.results import plain

    command = shlex.join(["dpa2", *_arguments()])
    write_json(folder / f"{name}.json", plain({**record.facts, "command": command, "provenance": dict(provenance)}))
    report = Report(record.title, command=command, provenance=dict(provenance))
    for note in record.notes:
        report.add_text(note)
    for heading, columns, rows in record.tables:
        report.add_table(heading, columns, rows)
    for heading, draw in record.figures:
        report.add_figure(heading, draw)
    if record.frames:
        shown = record.frames[:MOST_FRAMES]
        report.add_structure("Structures", [atoms for _, atoms in shown], labels=[name for name, _ in shown])
    report.write(folder / REPORT)


def _arguments() -> list[str]:
    from .run import ARGUMENTS

    context = click.get_current_context(silent=True)
    return context.meta.get(ARGUMENTS, []) if context else []
