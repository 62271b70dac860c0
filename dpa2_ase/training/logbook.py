"""Where the numbers of a training go: a CSV file, TensorBoard where asked for, and the terminal."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.writing import replacing

COLUMNS = ("step", "seconds", "learning_rate")


class Logbook:
    """Rows of numbers by name; all rows have the columns of the first.

    Parameters
    ----------
    path
        CSV file. A training that continues cuts it at the step it continues from.
    names
        Columns beside step, seconds and learning rate.
    step
        Where the training starts; rows beyond are of a run that was interrupted later.
    tensorboard
        Folder for TensorBoard, if wanted.
    """

    def __init__(self, path: Path, names: Sequence[str], step: int, tensorboard: str | None = None) -> None:
        self.path, self.columns = path, [*COLUMNS, *names]
        kept = _rows_up_to(path, step) if step else []
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text.getvalue())
        self._before = float(kept[-1]["seconds"]) if kept else 0.0
        self._start = time.perf_counter()
        self._board = _board(tensorboard) if tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row."""
        seconds = self._before + time.perf_counter() - self._start
        row: dict[str, Any] = {"step": step, "seconds": f"{seconds:.2f}"}
        row |= {name: repr(float(value)) for name, value in values.items()}
        with self.path.open("a", newline="") as stream:
            csv.DictWriter(stream, self.columns, restval="").writerow(row)
        if self._board is not None:
            for name, value in values.items():
                if math.isfinite(value):
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish what is buffered."""
        if self._board is not None:
            self._board.close()


def _rows_up_to(path: Path, step: int) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if None not in row.values()]  # whole ones: disks run full
    return [row for row in rows if row.get("step", "").isdigit() and int(row["step"]) <= step]


def _board(folder: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            "output.tensorboard needs the package tensorboard: pip install 'dpa2-ase[train]'"
        ) from error
    return SummaryWriter(folder)


class Display:
    """A progress bar with loss and errors on a terminal; lines of text at every log elsewhere."""

    def __init__(self, start: int, steps: int, *, quiet: bool) -> None:
        self.quiet, self._bar = quiet, None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=steps, completed=start)
            self._bar.start()

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Tell the newest numbers."""
        if self.quiet:
            return
        text = "  ".join(f"{name} {value:.3g}" for name, value in values.items() if not name.endswith("_mae"))
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            print(f"step {step}: {text}", flush=True)

    def say(self, text: str) -> None:
        """Tell something that stays on the screen."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)
        elif not self.quiet:
            print(text, flush=True)

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
