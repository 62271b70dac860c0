"""Tables on stdout; progress on stderr, as a bar on a terminal and as a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

WIDE = 100_000  # columns; off a terminal lines are as long as they need to be
EVERY = 10.0  # s between two lines of progress off a terminal; what is quicker is done in silence


def number(value: float | None) -> str:
    """A number as it stands in a table; nothing is a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.6g}" if abs(value) < 1 else f"{value:.4f}"


def cell(value: Any) -> str:
    """Whatever stands in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, float):
        return number(value)
    return str(value)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, header: bool = True, title: str | None = None
) -> None:
    """Print rows of text and numbers; off a terminal nothing is cut or folded."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=header, title=title and Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(entry)) for entry in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


class Progress:
    """Where a command is.

    Parameters
    ----------
    what
        Is being done.
    total
        Number of its parts; ``None`` if it is not known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done, self.note = what, total, 0, ""

    def update(self, done: int | None = None, note: str | None = None, total: int | None = None) -> None:
        """Say how many parts are done, and anything else that is of interest."""
        self.done = self.done if done is None else done
        self.note = self.note if note is None else note
        self.total = self.total if total is None else total
        self.show()

    def show(self) -> None:
        """Bring what is known before the user's eyes."""


class _Bar(Progress):
    def __init__(self, what: str, total: int | None, bar: Any) -> None:
        super().__init__(what, total)
        self._bar, self._task = bar, bar.add_task("", total=total)
        self.show()

    def show(self) -> None:
        from rich.markup import escape

        text = escape(f"{self.what}  {self.note}".strip())
        self._bar.update(self._task, completed=self.done, total=self.total, description=text)


class _Lines(Progress):
    def __init__(self, what: str, total: int | None) -> None:
        super().__init__(what, total)
        self._last = time.monotonic()

    def show(self) -> None:
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        count = f" {self.done}/{self.total}" if self.total else ""
        click.echo(f"{self.what}{count} {self.note}".rstrip(), err=True)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progress]:
    """Show progress on stderr as long as the context lasts."""
    if not sys.stderr.isatty():
        yield _Lines(what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = [BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(what, total, bar)
