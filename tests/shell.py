"""The command ``dpa2`` as tests run it: in this process, in one of its own, or on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from click.testing import CliRunner, Result
from zoo import METALS

from dpa2_ase.cli import display, main

display.EVERY = float("inf")  # s; lines of progress would come and go with the load of the machine

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "dpa2_ase.cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
EVALUATING = "singlepoint relax md phonons neb eos elastic vibrations evaluate compare plan map select".split()
CHOICES = {"-m", "--model", "--models", "--calc", "--head", "--heads", "--help"}


def with_model(arguments: Sequence[object]) -> list[str]:
    """Arguments of a command, with the small model where they name none: the bundled one has many heads."""
    given = [str(argument) for argument in arguments]
    if not given or given[0] not in EVALUATING or CHOICES & {part.partition("=")[0] for part in given}:
        return given
    return [*given, "--models" if given[0] == "compare" else "--model", str(METALS)]


def dpa2(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, with_model(arguments))


def shell(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, away from any terminal."""
    command = [*COMMAND, *with_model(arguments)]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, text=True, capture_output=True, check=False, timeout=100, **options
    )


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.stderr or result.exception
    assert result.stderr == ""
    return result.stdout


def one_line(result: Result | subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The single line on stderr of a failure."""
    assert getattr(result, "exit_code", getattr(result, "returncode", None)) == code, result.stderr
    assert result.stderr.startswith("dpa2: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def copper(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def on_terminal(
    arguments: list[str], *, cwd: Path, stream: str, columns: int = 100, until: str = "", then: int | None = None
) -> tuple[str, int]:
    """What appears on a terminal of some width at `stream`, and the exit code; signal `then` is sent at `until`."""
    import fcntl
    import struct
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("COLUMNS", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        [*COMMAND, *with_model(arguments)],
        cwd=cwd,
        env=environment | {"TERM": "xterm", "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # background jobs start deaf
        **({"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {stream: end}),
    )
    os.close(end)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
            if then is not None and until.encode() in shown:
                process.send_signal(then)
                then = None
    except OSError:  # Linux reports the end of a terminal so
        pass
    os.close(terminal)
    return shown.decode(), process.wait(60)
