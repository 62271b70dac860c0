"""The report: sections in the order in which they were added, written as one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from ..workflows.files import write_text
from ..workflows.results import Result
from . import background, page
from .citations import used
from .figures import figure
from .markup import Html, element, escape, join
from .structures import Budget, viewer
from .summaries import Summary, View, summarize
from .tables import table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    heading: str
    name: str  # its identifier in the page
    content: Html


class Report:
    """Collects what a run gave and writes it as one HTML file that needs no network.

    Parameters
    ----------
    title
        Of the page.
    command
        What was typed to make the numbers, to be copied; optional.
    provenance
        Calculator, settings and versions, as `dpa2_ase.workflows.results.provenance_of` gives them, for what is not
        in the results added, which bring theirs. It may have ``models``, a list of dictionaries with ``model``,
        ``sha256``, ``head`` and more.
    timings
        What took how long: name → seconds.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from dpa2_ase.report import Report
    >>> from dpa2_ase.workflows.eos import eos
    >>> atoms = bulk("Cu")
    >>> atoms.calc = EMT()
    >>> report = Report("Copper")
    >>> report.add_result(eos(atoms), "Equation of state")
    >>> path = report.write("copper.html")
    """

    def __init__(
        self,
        title: str,
        *,
        command: str = "",
        provenance: Mapping[str, Any] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> None:
        self.title, self.command = title, command
        self.timings = dict(timings or {})
        self.sections: list[Section] = []
        self._runs = [background.Origin("", dict(provenance))] if provenance else []
        self._kinds: list[str] = []
        self._budget = Budget()
        self._count = 0

    def add_result(self, result: Result, heading: str = "") -> None:
        """Add a result of `dpa2_ase.workflows`: its numbers, pictures and structures."""
        summary = summarize(result)
        parts = self._of_summary(summary)
        self._runs.append(background.Origin(heading or summary.title, result.provenance))
        self._kinds.append(result.name)
        self._add(heading or summary.title, *parts)

    def add_table(self, heading: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, note: str = "") -> None:
        """Add a table that is sorted by a click and copied as CSV; units belong into the columns' names.

        Values are numbers, text, or a `dpa2_ase.report.Number` with its decimals and error. Of more than 400 rows,
        evenly chosen ones are shown, and said so.
        """
        self._add(heading, table(columns, rows), _note(note))

    def add_figure(self, heading: str, draw: Axes | Callable[[], Axes], *, note: str = "") -> None:
        """Add the figure of the axes given or returned by a function, such as the ``plot`` of a result."""
        self._add(heading, figure(draw, name=self._new_name("figure"), label=heading), _note(note))

    def add_structure(
        self, heading: str, structures: Atoms | Sequence[Atoms], *, labels: Sequence[str] = (), note: str = ""
    ) -> None:
        """Add a structure to be turned with the mouse, or several with a slider and a label for each.

        These are frames of a trajectory or any structures. Of very many, evenly chosen ones are shown, and said so.
        """
        frames = [structures] if isinstance(structures, Atoms) else list(structures)
        self._add(heading, self._viewer(View("", frames, labels)), _note(note))

    def add_text(self, text: str, heading: str = "") -> None:
        """Add paragraphs, separated by empty lines."""
        self._add(heading, *(element("p", part) for part in str(text).split("\n\n") if part.strip()))

    def add_timing(self, name: str, seconds: float) -> None:
        """Say how long something took."""
        self.timings[name] = float(seconds)

    def to_html(self) -> str:
        """The whole page."""
        sections = [*self.sections, *self._closing()]
        contents = [(section.heading, section.name, section.content) for section in sections]
        return page.document(self.title, background.facts(self._runs), self.command, contents)

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all; returns its path."""
        return write_text(path, self.to_html())

    def _add(self, heading: str, *parts: Html) -> None:
        self.sections.append(Section(str(heading), self._new_name("section"), join(parts)))

    def _new_name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def _viewer(self, view: View) -> Html:
        return viewer(view, name=self._new_name("structure"), budget=self._budget)

    def _of_summary(self, summary: Summary) -> list[Html]:
        pictures = [
            figure(draw, name=self._new_name("figure"), label=caption) for caption, draw in summary.pictures
        ] + [self._viewer(view) for view in summary.structures]
        tables = [
            element(
                "div",
                element("h3", part.heading) if part.heading else "",
                table(part.columns, part.rows),
            )
            for part in summary.tables
        ]
        return [
            *(element("p", text, class_="warning") for text in summary.warnings),
            page.cards(summary.headline) if summary.headline else Html(""),
            element("div", *pictures, class_="plots") if pictures else Html(""),
            element("div", *tables, class_="tables") if tables else Html(""),
            *map(_note, summary.notes),
        ]

    def _closing(self) -> list[Section]:
        run = background.run(self._runs, self.timings)
        cited = background.citations(used(self._kinds, [run.provenance for run in self._runs]))
        return [*([Section("What was run", "run", run)] if run else []), Section("Please cite", "cite", cited)]


def _note(text: str) -> Html:
    return element("p", escape(text), class_="note") if text else Html("")
