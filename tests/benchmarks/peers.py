"""The programs of a comparison as child processes, with limits of time and memory."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEER = Path(__file__).with_name("peer.py")
POLL = 0.1  # s between looks at the free memory


class PeerError(RuntimeError):
    """A program failed, took too long, or would have taken all memory."""


@dataclass(frozen=True)
class Program:
    """What to run: a python, what it loads, and a name for tables."""

    name: str
    python: str
    dtype: str
    load: dict[str, Any]  # arguments of `peer.Session.load`
    is_ours: bool


def free_gb() -> float:
    """Memory that can still be taken, in GiB; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024**2


@dataclass
class Peer:
    """One program in one process until it is closed or fails.

    Parameters
    ----------
    program
        What to run.
    threads
        Of every library.
    seconds
        Limit for one command.
    keep_free
        A command is stopped when less memory (GiB) than this is left on the machine.
    """

    program: Program
    threads: int
    seconds: float
    keep_free: float
    error: str | None = None

    def __post_init__(self) -> None:
        count = str(self.threads)
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS"), count
        )
        environment = os.environ | threads | {"DP_INTER_OP_PARALLELISM_THREADS": "1", "DP_INTERFACE_PREC": "high"}
        if self.program.load.get("device", "cpu") == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  # lives as long as the process
        self._process: Any = subprocess.Popen(
            [self.program.python, str(PEER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises
        ------
        PeerError
            When there is none; the process is gone then.
        """
        try:
            self._process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            self._process.stdin.flush()
            answer = json.loads(self._line())
        except (OSError, json.JSONDecodeError):
            raise self._failed(f"ended during {do!r}: {self._last_words()}") from None
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def _line(self) -> bytes:
        """One line of output, watching clock and memory."""
        deadline = time.monotonic() + self.seconds
        while not select.select([self._process.stdout], [], [], POLL)[0]:
            if time.monotonic() > deadline:
                raise self._failed(f"took longer than {self.seconds:.0f} s")
            if free_gb() < self.keep_free:
                raise self._failed(f"would have left less than {self.keep_free:g} GiB of memory free")
        return self._process.stdout.readline()

    def _failed(self, reason: str) -> PeerError:
        self.error = reason
        self.close()
        return PeerError(reason)

    def _last_words(self) -> str:
        self._log.seek(0)
        return " ".join(self._log.read()[-300:].split())

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with suppress(BrokenPipeError):  # a command that a dead process did not take
                stream.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
