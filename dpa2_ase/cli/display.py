"""Tables on stdout and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WIDE = 100_000  # columns; off a terminal lines are as long as they need to be


def number(value: float | None) -> str:
    """A number as it stands in a table; nothing is a dash."""
    return "–" if value is None else f"{value:.6g}" if abs(value) < 1 else f"{value:.4f}"


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True, title: str | None = None
) -> None:
    """Print rows of text; off a terminal nothing is cut or folded."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=header, title=title and Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(entry) for entry in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr if that is a terminal; yields a function that advances it."""
    if not sys.stderr.isatty():
        yield lambda count, note="": None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(what), total=total)
        yield lambda count, note="": bar.update(task, advance=count, description=escape(f"{what} {note}"))
