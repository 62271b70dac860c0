"""A command at work in its folder: begun, interrupted, gone on with, complete."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..workflows.results import Result, plain
from .display import print_table
from .folder import JOURNAL, REPORT, RunFolder
from .identity import hash_of, identity_of
from .interrupts import Interrupted, terminated_as_interrupted
from .journal import Journal, JournaledCalculator
from .models import decisive, dressed, model_facts

if TYPE_CHECKING:
    from ase import Atoms

    from .options import Output

ARGUMENTS = "dpa2.arguments"  # where the command line is in click's context
FORMAT = 1  # of run.json
DETAILED = 12  # structures with files and pictures of their own; of more there are tables alone


class Run:
    """What one command does to its structures, and what came out.

    Parameters
    ----------
    command
        Its name.
    frames
        Names and structures.
    settings
        All that decides about the results, beside structures and models.
    calculators
        Of the models; all write into one journal. Where there is one, `calc` is it with all that belongs to it.
    output
        Where to. Without a folder nothing is kept.
    goal
        How far to go, for what can be extended after its end, such as the steps of a simulation.
    journal
        Whether answers of the models are kept until the run is complete.
    with_labels
        Whether energies, forces and stresses that came with the structures decide about the results.
    """

    def __init__(  # noqa: PLR0913  # all that makes a run
        self,
        command: str,
        frames: Sequence[tuple[str, Atoms]],
        settings: Mapping[str, Any],
        calculators: Sequence[JournaledCalculator],
        output: Output,
        *,
        goal: Mapping[str, Any] | None = None,
        journal: bool = True,
        with_labels: bool = False,
    ) -> None:
        self.command, self.frames, self.calculators, self.output = command, list(frames), calculators, output
        self.folder, self.goal = output.out, dict(goal or {})
        self._place = None if output.out is None else RunFolder(output.out)
        self.calc = dressed(calculators[0])
        self.models = [model_facts(calculator) for calculator in calculators]
        self.identity = identity_of(
            command, frames, settings, [decisive(model) for model in self.models], with_labels=with_labels
        )
        self.columns: list[str] = ["structure", "formula"]
        self.rows: list[list[Any]] = []
        self.failures: list[tuple[str, str]] = []
        self.exit_code = 0
        self.results: list[tuple[str, Result]] = []
        self._uses_journal, self._journal = journal, None  # type: bool, Journal | None
        self._state: dict[str, Any] = {}
        self.timings: dict[str, float] = {}  # s, in order
        context = click.get_current_context(silent=True)
        self.arguments: list[str] = context.meta.get(ARGUMENTS, []) if context else []
        self._began = time.perf_counter()

    # ---- results --------------------------------------------------------------------------------------------------

    def folder_of(self, index: int) -> Path | None:
        """Where the files of a structure go; the folder itself if there is one structure only."""
        if self.folder is None or len(self.frames) == 1:
            return self.folder
        name = "".join(letter if letter.isalnum() or letter in "@._+-" else "_" for letter in self.frames[index][0])
        return self.folder / f"{index:0{len(str(len(self.frames) - 1))}d}-{name}"

    def add(self, index: int, results: Result | Sequence[Result], row: Mapping[str, Any]) -> None:
        """Keep what came out for a structure: files of every result, and a row of the table."""
        name, atoms = self.frames[index]
        self.add_row(name, atoms.get_chemical_formula(), row)
        for result in [results] if isinstance(results, Result) else results:
            self.keep(name, result, self.folder_of(index) if len(self.frames) <= DETAILED else None)

    def keep(self, name: str, result: Result, folder: Path | None) -> None:
        """Keep a result and write its files to `folder`, if there is one."""
        self.results.append((name, result))
        if folder is not None:
            result.write(folder)

    def add_row(self, name: str, formula: str, row: Mapping[str, Any]) -> None:
        """Keep a row of the table, all of them with the same columns."""
        self.columns = ["structure", "formula", *row]
        self.rows.append([name, formula, *map(plain, row.values())])

    def fail(self, index: int, error: Exception) -> None:
        """Note that nothing came out for a structure."""
        self.failures.append((self.frames[index][0], str(error)))

    # ---- beginning and end ----------------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Take the folder; returns whether there is anything to do."""
        if self._place is None:
            return True
        stored = self._place.stored(self.identity, overwrite=self.output.overwrite)
        if stored is not None and self._is_complete(stored):
            return False
        self._place.begin(stored)
        before = stored or {}
        if before.get("seconds"):
            self.timings["before the interruption"] = before["seconds"]
        self._state = {
            "format": FORMAT,
            "command": self.command,
            "state": "running",
            "hash": hash_of(self.identity),
            "goal": self.goal,
            "arguments": self.arguments,
            "started": before.get("started", _now()),
            "seconds": before.get("seconds", 0.0),
            "identity": self.identity,
        }
        self._place.write_state(self._state)
        if self._uses_journal:
            self._journal = Journal(self._place.path / JOURNAL)
            for calculator in self.calculators:
                calculator.journal = self._journal
        return True

    def _is_complete(self, stored: Mapping[str, Any]) -> bool:
        """Whether there is nothing to do; raises ValueError for what takes --resume."""
        done, wanted = stored.get("goal", {}), self.goal
        if stored["state"] == "complete" and done == wanted:
            self.columns, self.rows = stored["table"]["columns"], stored["table"]["rows"]
            self.exit_code = stored["exit_code"]
            self.failures = [(found["structure"], found["error"]) for found in stored["failures"]]
            return True
        if stored["state"] == "complete" and any(done[name] > wanted[name] for name in wanted):
            parts = [f"{name} {done[name]}" for name in wanted]
            raise ValueError(f"{self.folder} holds this run to {', '.join(parts)}; ask for no less")
        if self.output.resume:
            return False
        if stored["state"] == "complete":
            parts = [f"{name} {done.get(name)} there, {wanted[name]} here" for name in wanted]
            raise ValueError(f"{self.folder} holds this run to its end ({', '.join(parts)}); go on with --resume")
        raise ValueError(f"{self.folder} holds this run, not finished; go on with --resume or choose another --out")

    def finish(self) -> None:
        """Say that the run is complete, once everything else is written."""
        if self._place is None:
            return
        self.timings["calculation"] = time.perf_counter() - self._began
        if self.output.report:
            from .html import write_report

            write_report(self, self._place.path / REPORT)
        self._end_journal(delete=True)
        self._save("complete")

    def _save(self, state: str) -> None:
        assert self._place is not None
        self._state |= {
            "state": state,
            "files": self._place.files(),
            "stopped": _now(),
            "seconds": self._state["seconds"] + time.perf_counter() - self._began,
            "exit_code": self.exit_code,
            "table": {"columns": self.columns, "rows": self.rows},
            "failures": [{"structure": name, "error": text} for name, text in self.failures],
            "timings": self.timings,
            "provenance": self.provenance(),
        }
        self._place.write_state(self._state)

    def provenance(self) -> dict[str, Any]:
        """Models, versions and machine, as plain data."""
        import platform

        import ase
        import numpy as np
        import torch

        from .. import __version__

        return {
            "models": self.models,
            "versions": {
                "dpa2-ase": __version__,
                "torch": torch.__version__,
                "ase": ase.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "evaluations": sum(calculator.asked for calculator in self.calculators),
        }

    def stop(self, error: BaseException) -> None:
        """Leave the folder after a failure or Ctrl-C: as it can be gone on with, or as it was."""
        if self._place is None:
            return
        if not self._state:
            self._place.clear()
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        has_answers = self._journal is not None and len(self._journal) > 0
        lasting = isinstance(error, OSError | MemoryError) and has_answers  # may go well the next time
        kept = interrupted or lasting or not self.is_new or bool(self.rows)
        self._end_journal(delete=not kept)
        if kept:
            self._save("interrupted" if interrupted else "failed")
        else:
            self._place.clear()

    def _end_journal(self, *, delete: bool) -> None:
        for calculator in self.calculators:
            calculator.journal = None
        if self._journal is not None:
            self._journal.close()
            if delete:
                self._journal.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._place is not None:
            self._place.release()

    @property
    def is_new(self) -> bool:
        """Whether the run begins here, rather than goes on."""
        return self._place is None or self._place.is_new


@contextmanager
def at_work(run: Run) -> Iterator[Run]:
    """Begin a run and end it, whatever happens within; if it is complete already, say so and leave the command."""
    try:
        if not run.enter():
            conclude(run, "complete already")
        with terminated_as_interrupted():
            yield run
            run.finish()
    except (click.exceptions.Exit, click.exceptions.Abort):
        raise
    except BaseException as error:
        run.stop(error)
        if isinstance(error, KeyboardInterrupt) and run.folder is not None:
            raise Interrupted(f"interrupted; go on with the same command and --resume (kept in {run.folder})") from None
        raise
    finally:
        run.release()


def conclude(run: Run, how: str = "written") -> None:
    """Print what came out, and end with the exit code of the run."""
    if run.rows:
        print_table(run.columns, run.rows)
    for name, text in run.failures:
        click.echo(f"dpa2: {name}: {' '.join(text.split())}", err=True)
    if run.folder is not None:
        click.echo(f"{how}: {run.folder}")
    if run.exit_code or how != "written":
        click.get_current_context().exit(run.exit_code)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
