"""The report of a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import Run

MOST_FRAMES = 50  # structures of a run without results of their own that the report shows


def write_report(run: Run, path: Path) -> None:
    """Write everything a run gave to one HTML page; of many structures, the table and the first few in detail."""
    from ..report import Report
    from .run import DETAILED

    names = [name for name, _ in run.frames]
    several = f" and {len(names) - 1} more" if len(names) > 1 else ""
    report = Report(
        f"{run.command.capitalize()}: {names[0]}{several}",
        command=shlex.join(["dpa2", *run.arguments]),
        provenance=run.provenance() | {"settings": run.identity["settings"]},
        timings=run.timings,
    )
    report.add_table("Overview", run.columns, run.rows)
    for name, text in run.failures:
        report.add_text(text, f"Not done: {name}")
    for name, result in run.results[:DETAILED]:
        report.add_result(result, f"{name}: {result.name}" if len(run.results) > 1 else "")
    if not run.results:
        shown = run.frames[:MOST_FRAMES]
        report.add_structure("Structures", [atoms for _, atoms in shown], labels=[name for name, _ in shown])
    report.write(path)
